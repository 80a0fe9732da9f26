"""Training questions that a benchmark asks: near copies are found, and templates are not."""

import random

import pytest

from spot.data import laptop_world
from spot.data.contamination import contaminated, tokens
from spot.data.rows import Question

WALK = (
    "Every day Ola walks $9$ kilometers and rests for $t$ minutes. At a speed of $s$ km/h the walk "
    "takes her $4$ hours, rest included; at $s+2$ km/h it takes $2\\frac{2}{5}$ hours. Find the "
    "number of minutes for $s+\\frac12$, if $1{,}000 \\leq x^{12}$."
)
SHORT = "Find $x$ if $2x + 3 = 11$."


def found(text, *benchmarks):
    names = {str(at): benchmark for at, benchmark in enumerate(benchmarks)}
    return contaminated([Question("q", "t", text, "")], names).get("q")


def test_one_way_of_writing():
    assert (
        tokens("$\\dfrac12$ of 1,000.")
        == tokens("\\frac{1}{2}\n OF  1000")
        == "frac 1 2 of 1000".split()
    )
    assert tokens("x-1") != tokens("x+1")
    assert tokens("2(x+1)") != tokens("2x+1")
    assert tokens("2.5") != tokens("25")
    assert tokens("1.") == tokens("1")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.upper(),
        lambda text: text.replace(" ", "\n  "),
        lambda text: text.replace("$", ""),
        lambda text: text.replace("$", " \\( ").replace("\\(", ""),
        lambda text: text.replace(".", "").replace(",", "").replace(";", "").replace("{}", ","),
        lambda text: text.replace("\\frac12", "\\dfrac{1}{2}").replace("x^{12}", "x^{ 12 }"),
        lambda text: text.replace("1{,}000", "1000").replace("\\leq", "\\le"),
        lambda text: text.replace("the walk", "\\text{the}\\, walk"),
        lambda text: "Solve this, please. " + text + " Give $m+n$, where $\\frac{m}{n}$ is that.",
        lambda text: text + "\n[asy]\ndraw((0,0)--(3,4));\n[/asy]",
        lambda text: text.replace("rests", "stops"),
    ],
    ids="case space dollars parentheses punctuation fractions numbers style around figure word".split(),
)
def test_near_copies_are_found(change):
    assert found(change(WALK), SHORT, WALK) == "1"
    assert found(WALK, SHORT, change(WALK)) == "1"


@pytest.mark.parametrize("length", [14, 22, 23, 37, 38, 60])
def test_no_changed_word_hides_a_question(length):
    words = [f"w{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(length)]
    for at in range(length):
        changed = " ".join([*words[:at], "other", *words[at + 1 :]])
        assert found(changed, " ".join(words)) == "0"
        assert found(" ".join(words), changed + " and this is how it goes on" * 9) == "0"


def test_short_questions_of_the_same_wording_are_not_one():
    one = "What is the greatest common divisor of the two legs of the triangle?"
    two = "What is the sum of all digits of the largest prime below one hundred?"
    assert found(one, two) is None
    assert found("Compute " + one, one + " Explain.") == "0"


def test_short_texts_must_be_equal():
    assert found("find x if 2x+3=11", WALK, SHORT) == "1"
    assert found("Find $x$ if $2x + 3 = 12$.", SHORT) is None
    assert found("Find $x$ if $2x - 3 = 11$.", SHORT) is None
    assert found(SHORT + " Then double it.", SHORT) is None
    assert found("", SHORT, "") is None


def test_a_shared_phrase_is_no_evidence():
    phrase = "can be written as $\\frac mn$ where $m$ and $n$ are relatively prime positive integers. Find $m+n$."
    one = "A fair coin is tossed until heads appears twice in a row. The expected number of tosses, given that the first shows tails, "
    two = "Circle $\\omega$ touches all three sides of a right triangle with legs along the axes. The ratio of their areas, taken to the smaller one, "
    assert found(one + phrase, two + phrase) is None


def test_the_same_words_with_other_numbers_are_another_question():
    assert found(WALK.replace("$9$", "$12$"), WALK) is None
    assert found(WALK.replace("$2\\frac{2}{5}$", "$2\\frac{2}{7}$"), WALK) is None


@pytest.mark.parametrize("task", ["sums", "benchmark/word_problems", "benchmark/instructions"])
def test_no_alarm_among_templates_of_the_laptop_world(task):
    """Sets share no chain, so nothing that one asks is asked by another."""
    tasks = ("benchmark/sums", "benchmark/word_problems", "benchmark/instructions")
    others = [q for name in tasks if name != task for q in laptop_world.questions(150, 1, name)]
    asked = laptop_world.questions(1500, 0, task)
    assert contaminated(asked, {q.id: q.text for q in others}) == {}
    assert contaminated(asked[:100], {q.id: q.text for q in asked[100:]}) == {}


def test_the_closest_is_named():
    half = WALK.partition("; at")[0]
    assert found(WALK, half, WALK) == "1"


@pytest.mark.slow
def test_many_questions_are_not_compared_each_with_each():
    """Some seconds; 51 million comparisons would run into the time limit of a test."""
    words = [f"w{n}".replace("0", "o") for n in range(5000)]
    rng = random.Random(0)
    texts = [" ".join(rng.choices(words, k=60)) for _ in range(17_000)]
    questions = [Question(str(at), "t", text, "") for at, text in enumerate(texts)]
    benchmarks = {f"b{at}": texts[at * 5] for at in range(3000)}
    assert contaminated(questions, benchmarks) == {str(5 * at): f"b{at}" for at in range(3000)}
