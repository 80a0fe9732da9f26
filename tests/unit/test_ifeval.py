"""IFEval: every instruction by hand, loose and strict, hostile responses, and the same verdict always."""

import importlib.util
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from spot.data.rows import CORRECT, TRUNCATED, UNPARSEABLE, WRONG
from spot.grading import ifeval, sentences
from spot.grading.family import Answer, RowError
from spot.grading.ifeval import ARGUMENTS, CHECKER, LANGUAGES, family, grade, pose, read
from spot.utils.errors import UserError
from tests.evaluation.agreement import CASES, ENGLISH, FRENCH, GERMAN, JAPANESE, responses, row


def question(*names, text="Go on."):
    cases = {case.instruction: case for case in CASES}
    return read(row(7, text, [cases[name] for name in names]), "row-1")


def one(question, response, finish_reason="stop"):
    (result,) = grade([Answer(question, response, finish_reason)])
    return result


# ---------------------------------------------------------------- rows


def test_a_row_of_the_hub_becomes_a_question():
    everything = {name: None for names in ARGUMENTS.values() for name in names}
    hub = {
        "key": 1005,
        "prompt": "Write ten words. No commas.",
        "instruction_id_list": ["length_constraints:number_words", "punctuation:no_comma"],
        "kwargs": [{**everything, "num_words": 10, "relation": "at least"}, everything],
    }
    asked = read(hub, "row-000001")
    assert (asked.id, asked.task, asked.text) == ("1005", "ifeval", hub["prompt"])
    assert asked.meta["kwargs"] == [{"num_words": 10, "relation": "at least"}, {}]
    assert pose(asked, 3, "{question}") == asked
    assert read({**hub, "key": None}, "row-000001").id == "row-000001"


@pytest.mark.parametrize("kwargs", [None, [], [None], [{}]])
def test_instructions_without_arguments_need_no_kwargs(kwargs):
    asked = {"prompt": "p", "instruction_id_list": ["punctuation:no_comma"], "kwargs": kwargs}
    assert read(asked, "a").meta["kwargs"] == [{}]


WORDS, NTH = "length_constraints:number_words", "length_constraints:nth_paragraph_first_word"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prompt": None}, "prompt: not a text"),
        ({"prompt": " "}, "prompt: not a text"),
        ({"instruction_id_list": None}, "instruction_id_list: not a list"),
        ({"instruction_id_list": []}, "instruction_id_list: not a list"),
        ({"instruction_id_list": ["keywords:rhyme"]}, "instruction_id_list: .*'keywords:rhyme'"),
        ({"instruction_id_list": [[]]}, "instruction_id_list: the checker knows no"),
        ({"kwargs": "{}"}, "kwargs: not a list of 1"),
        ({"kwargs": [{}, {}]}, "kwargs: not a list of 1"),
        ({"kwargs": [3]}, r"kwargs\[0\]: not an object"),
        ({"kwargs": None}, r"kwargs\[0\]: .*number_words needs num_words, relation"),
        ({"kwargs": [{"num_words": 9}]}, "needs relation"),
        ({"kwargs": [{"num_words": 0, "relation": "at least"}]}, "num_words=0 is not a whole"),
        ({"kwargs": [{"num_words": "9", "relation": "at least"}]}, "num_words='9' is not a whole"),
        ({"kwargs": [{"num_words": 9, "relation": "most"}]}, "relation='most' is neither"),
        ({"kwargs": [{"num_words": 9, "relation": "at least", "n": 1}]}, "takes no n"),
        ({"instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": []}]}, "not a list of texts"),
        ({"instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": ["a(b"]}]}, "no regular expression"),
        ({"instruction_id_list": ["startend:end_checker"], "kwargs": [{"end_phrase": " "}]}, "blank"),
        ({"instruction_id_list": ["language:response_language"], "kwargs": [{"language": "tlh"}]}, "'tlh' is none of"),
        ({"instruction_id_list": [NTH], "kwargs": [{"first_word": "a", "nth_paragraph": 3, "num_paragraphs": 2}]}, "nth_paragraph is above"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_checked_names_its_field(change, says):
    good = {"prompt": "p", "instruction_id_list": [WORDS], "kwargs": [CASES[21].arguments]}
    assert read(good, "a").meta["instruction_id_list"] == [WORDS]
    with pytest.raises(RowError, match=says):
        read({**good, **change}, "a")


def test_our_table_of_instructions_is_the_checker_s():
    with sentences.model():
        from lm_eval.tasks.ifeval import instructions_registry, instructions_util

    assert {case.instruction for case in CASES} == set(ARGUMENTS)
    assert set(instructions_registry.INSTRUCTION_DICT) == set(ARGUMENTS)
    assert set(instructions_util.LANGUAGE_CODES) == LANGUAGES
    for case in CASES:
        assert set(case.arguments) == set(ARGUMENTS[case.instruction])
        instruction = instructions_registry.INSTRUCTION_DICT[case.instruction](case.instruction)
        instruction.build_description(**case.arguments)
        assert set(instruction.get_instruction_args_keys()) == set(case.arguments)


# ---------------------------------------------------------------- verdicts


@pytest.mark.parametrize("case", CASES, ids=[case.instruction for case in CASES])
def test_every_instruction_strictly_and_loosely(case):
    asked = question(case.instruction)
    expected = (
        [(True, True)] * len(case.follows)
        + [(False, False)] * len(case.breaks)
        + [(False, True)] * len(case.forgiven)
    )
    grades = grade([Answer(asked, response) for response in responses(case)])
    for response, result, (strict, loose) in zip(responses(case), grades, expected, strict=True):
        assert result.details["instruction_strict"] == [strict], response
        assert result.details["instruction_loose"] == [loose], response
        assert (result.details["prompt_strict"], result.details["prompt_loose"]) == (strict, loose)
        assert result.correct is strict
        assert result.verdict == (CORRECT if strict else WRONG)
        assert result.reason == ("" if strict else case.instruction)


def test_a_prompt_counts_only_with_all_its_instructions():
    asked = question("punctuation:no_comma", "startend:quotation", "keywords:existence")
    right = one(asked, '"The harbour keeper slept."')
    assert (right.correct, right.verdict, right.extracted, right.reason) == (
        True, CORRECT, None, "",
    )  # fmt: skip
    wrong = one(asked, "Sure, here:\n*The keeper slept.*")
    assert wrong.reason == "punctuation:no_comma, startend:quotation, keywords:existence"
    assert wrong.details["instruction_strict"] == [False, False, False]
    assert wrong.details["instruction_loose"] == [True, False, False]
    assert (wrong.details["prompt_strict"], wrong.details["prompt_loose"]) == (False, False)


def test_a_response_cut_at_the_limit_is_truncated_whatever_it_follows():
    result = one(question("punctuation:no_comma"), "Tall and green.", "length")
    assert (result.correct, result.verdict) == (False, TRUNCATED)
    assert result.reason == "cut at the token limit"
    assert result.details["prompt_strict"] is True
    assert result.details["instruction_loose"] == [True]


@pytest.mark.parametrize("empty", ["", " \n\t\n", "\n" * 50])
def test_an_empty_response_follows_nothing(empty):
    result = one(question(*ARGUMENTS), empty)
    assert result.verdict == WRONG
    assert result.details["instruction_strict"] == [False] * 25
    assert result.details["instruction_loose"] == [False] * 25


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", ENGLISH), ("de", GERMAN), ("fr", FRENCH), ("ja", JAPANESE),
        ("ru", "Старый смотритель маяка медленно спустился к гавани и посмотрел на море."),
        ("hi", "बूढ़ा प्रकाशस्तंभ रक्षक धीरे-धीरे बंदरगाह की ओर चला और समुद्र को देखा।"),
        ("ar", "مشى حارس المنارة العجوز ببطء إلى الميناء ونظر إلى البحر."),
        ("ko", "늙은 등대지기는 천천히 항구로 걸어가 바다를 바라보았다."),
        ("vi", "Người gác hải đăng già chậm rãi bước xuống bến cảng và ngắm nhìn biển."),
        ("sw", "Mlinzi mzee wa mnara alitembea polepole hadi bandarini na kutazama bahari."),
    ],
)  # fmt: skip
def test_languages(language, text):
    def follows(wanted):
        names = ["language:response_language"]
        asked = {"prompt": "p", "instruction_id_list": names, "kwargs": [{"language": wanted}]}
        return one(read(asked, "a"), text).correct

    assert follows(language)
    assert not follows("it")


def test_the_best_answer_given_without_reading():
    answers = [question("detectable_format:constrained_response")] * 2
    quoted = [question("startend:quotation", "change_case:english_lowercase")]
    assert family().trivial(answers + quoted) == (2 / 3, "one of the three constrained answers")
    assert family().trivial(answers + quoted * 3) == (3 / 5, "a quoted sentence")
    assert family().trivial([question("combination:repeat_prompt")])[0] == 0


# ---------------------------------------------------------------- hostile responses


@pytest.mark.parametrize(
    "response", ["a\0b, c\0", "\0" * 1000, "\ud800 lone, surrogate", "\x1b[2J,\r"]
)
def test_odd_characters(response):
    result = one(question("punctuation:no_comma", *ARGUMENTS), response)
    assert result.verdict == WRONG
    assert result.details["instruction_strict"][0] is ("," not in response)


@pytest.mark.slow
def test_a_megabyte():
    text = (
        "The quick Fox jumps over the DOG. It was there at 3.5 p.m. and *bold* - [x]\n" * 14000
    )[:1_000_000]
    result = one(question(*ARGUMENTS), text)
    follows = dict(zip(ARGUMENTS, result.details["instruction_strict"], strict=True))
    assert follows["detectable_content:number_placeholders"]
    assert follows["detectable_format:number_highlighted_sections"]
    assert follows["length_constraints:number_sentences"]
    assert follows["change_case:capital_word_frequency"]
    assert follows["punctuation:no_comma"]
    assert not follows["length_constraints:number_words"]


def test_a_response_that_keeps_a_check_busy_is_given_up(monkeypatch):
    monkeypatch.setattr(ifeval.CHECKER, "seconds", 2.0)
    asked = question("detectable_content:postscript", "punctuation:no_comma")
    result = one(asked, "x" + "\n" * 200_000 + "x")
    assert (result.correct, result.verdict) == (False, UNPARSEABLE)
    assert result.reason == "gave up: it took longer than 2 s"
    assert result.details["instruction_strict"] == [False, False]
    monkeypatch.undo()
    assert one(asked, "Bye.\n\nP.S. Hello").correct  # others are checked as before


def test_a_response_that_breaks_a_check_is_given_up():
    result = one(question("detectable_format:json_format"), "[" * 200_000)
    assert (result.correct, result.verdict) == (False, UNPARSEABLE)
    assert result.reason.startswith("gave up: RecursionError")


def test_without_the_checker_the_user_is_told_what_to_install(monkeypatch):
    CHECKER.close()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -c constraints.txt -e \."):
        one(question("punctuation:no_comma"), "Tall.")


# ---------------------------------------------------------------- the same verdict, always


def unsteady():
    """Answers whose verdicts hang on chance: a letter that is drawn, texts of no clear language."""
    drawn = {"let_relation": "at least", "letter": "#", "let_frequency": 1}
    names = ["keywords:letter_frequency", "language:response_language"]
    asked = {"prompt": "p", "instruction_id_list": names, "kwargs": [drawn, {"language": "es"}]}
    texts = ("ok no ale", "taxi hotel radio", "la la la", "abcdefghijklm", "no problem amigo", "si")
    return [Answer(read(asked, "a"), text) for text in texts]


def verdicts(answers):
    return [result.details["instruction_strict"] for result in grade(answers)]


def test_what_is_followed_strictly_is_followed_loosely():
    for result in grade(unsteady()):
        pairs = zip(
            result.details["instruction_strict"], result.details["instruction_loose"], strict=True
        )
        assert all(loose or not strict for strict, loose in pairs)


def test_order_repetition_and_threads_do_not_matter():
    answers = unsteady()
    expected = verdicts(answers)
    assert verdicts(answers[::-1]) == expected[::-1]
    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(lambda answer: verdicts([answer])[0], answers * 2))
    assert said == expected * 2


def test_processes_do_not_matter_and_nothing_leaks():
    code = (
        "import json, random, sys; from tests.unit.test_ifeval import unsteady, verdicts\n"
        "before = random.getstate(); print(json.dumps(verdicts(unsteady())))\n"
        "assert random.getstate() == before\n"
        "print(json.dumps(sorted({'lm_eval', 'langdetect', 'nltk', 'torch'} & sys.modules.keys())))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    said, modules = map(json.loads, done.stdout.splitlines())
    assert said == verdicts(unsteady())
    assert modules == []


# ---------------------------------------------------------------- the model of sentences


def punkt(folder, abbreviations="dr\n", missing=()):
    """A model that knows one abbreviation."""
    english = folder / "tokenizers" / "punkt_tab" / "english"
    english.mkdir(parents=True)
    for name in ("abbrev_types.txt", "collocations.tab", "ortho_context.tab", "sent_starters.txt"):
        if name not in missing:
            (english / name).write_text(abbreviations if name == "abbrev_types.txt" else "")
    return str(folder)


@pytest.fixture
def with_model(monkeypatch):
    """Grade with the model of a folder; afterwards as before."""

    def use(folder):
        monkeypatch.setenv("NLTK_DATA", folder)
        CHECKER.close()

    yield use
    CHECKER.close()


def test_sentences_are_split_by_the_model_of_nltk_data(with_model, tmp_path):
    with_model(punkt(tmp_path))
    asked = question("length_constraints:number_sentences")
    result = one(asked, "Dr. Miller slept. He snored.")  # two sentences: three are asked for
    assert (result.correct, result.details["sentences"]) == (False, "trained")
    assert "warning" not in result.details


def test_without_a_model_the_score_says_so(with_model, tmp_path):
    with_model(punkt(tmp_path, missing=["collocations.tab"]))  # damaged: as good as none
    asked = question("length_constraints:number_sentences")
    result = one(asked, "Dr. Miller slept. He snored.")
    assert (result.correct, result.details["sentences"]) == (True, "untrained")
    assert result.details["warning"] == sentences.WARNING
    assert "NLTK_DATA" in sentences.WARNING
    other = one(question("punctuation:no_comma"), "Dr. Miller slept.")
    assert "sentences" not in other.details
    assert "warning" not in other.details


def test_nothing_of_a_made_model_stays(monkeypatch, tmp_path):
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with sentences.model() as kind:
        (made, _) = nltk.data.path
        assert kind == "untrained"
        assert nltk.sent_tokenize("One. Two. Is it? Yes!") == ["One.", "Two.", "Is it?", "Yes!"]
    assert nltk.data.path == [str(tmp_path)]
    assert not os.path.exists(made)
