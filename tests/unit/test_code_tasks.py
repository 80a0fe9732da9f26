"""Programming tasks: the questions of our own making, and what responses to them are worth."""

from __future__ import annotations

import ast
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from importlib import resources

import pytest

from spot.data import code_tasks
from spot.data.answers import Item
from spot.data.rows import CORRECT, TRUNCATED, UNPARSEABLE, WRONG, Question
from spot.grading import code
from spot.grading.family import Answer, RowError
from spot.grading.registry import Verifier
from spot.grading.sandbox import Limits, Program, run_all
from spot.utils.errors import UserError

LIMITS = Limits(seconds=2)
DOUBLE = code.read(
    {
        "id": "double",
        "prompt": "Double it.",
        "entry_point": "double",
        "tests": [{"args": [n], "expected": 2 * n} for n in (1, 0, -3)],
    },
    "row-1",
)


def block(program: str, label: str = "python") -> str:
    return f"So I write this.\n\n```{label}\n{program}\n```\n"


def graded(response: str, question: Question = DOUBLE, finish: str = "stop"):
    return code.grade([Answer(question, response, finish)], LIMITS)[0]


def one_of_each(seed: int = 0, domain: str = "benchmark") -> list[Question]:
    return code_tasks.questions(len(code_tasks.kinds()), seed, domain)


# ------------------------------------------------------------------------------ our own tasks


def test_there_are_many_tasks_of_many_kinds_and_no_set_shares_one() -> None:
    assert len(code_tasks.kinds()) >= 40
    train, benchmark = (
        {
            f"{kind.name} {code_tasks.reference(kind, values)}"
            for kind in code_tasks.kinds().values()
            for values in kind.combinations()
            if code_tasks.domain_of(kind, values) == domain
        }
        for domain in code_tasks.DOMAINS
    )
    assert len(train) >= 2000
    assert len(benchmark) >= 800
    assert not train & benchmark


def test_questions_follow_from_the_seed() -> None:
    first = code_tasks.questions(120, 3, "train")
    assert first == code_tasks.questions(120, 3, "train")
    assert first[:70] == code_tasks.questions(70, 3, "train")
    assert first != code_tasks.questions(120, 4, "train")
    assert len({q.id for q in first}) == len({q.text for q in first}) == 120
    assert len({q.meta["entry_point"] for q in first[:57]}) == 57  # kinds take turns


def test_one_task_is_the_same_question_with_any_seed() -> None:
    a, b = ({q.id: q for q in one_of_each(seed)} for seed in (1, 2))
    shared = a.keys() & b.keys()
    assert shared
    assert all(a[name] == b[name] for name in shared)


def test_more_tasks_than_there_are() -> None:
    with pytest.raises(UserError, match=r"99999 tasks are asked for: benchmark has \d+"):
        code_tasks.questions(99_999, 0, "benchmark")


def test_questions_are_rows_that_read_alike() -> None:
    for question in one_of_each():
        meta = json.loads(json.dumps(question.meta))
        row = {"id": question.id, "prompt": question.text, "reference": question.answer, **meta}
        read = code.read(row, "row-1")
        assert (read.id, read.text, read.answer) == (question.id, question.text, question.answer)
        assert read.meta == question.meta  # JSON values: nothing changes on the way through a file


def test_a_text_names_its_parameters_and_hides_the_tests() -> None:
    for kind in code_tasks.kinds().values():
        for values in itertools.islice(kind.combinations(), 2):
            question = code_tasks.question_of(kind, values)
            assert "<" not in question.text.replace("i < j", "").replace("start < end", "")
            assert all(str(v) in question.text for v in values.values())
            shown = question.text.partition("Example: ")[2]
            for test in question.meta["tests"]:
                assert f"({', '.join(map(repr, test['args']))})" not in shown


def test_tests_of_a_task_are_enough_and_their_answers_vary() -> None:
    for question in code_tasks.questions(300, 5, "benchmark"):
        tests = question.meta["tests"]
        answers = Counter(json.dumps(test["expected"]) for test in tests)
        assert len(tests) >= 10
        assert answers.most_common(1)[0][1] <= 0.75 * len(tests)
        assert len({json.dumps(test["args"]) for test in tests}) == len(tests)


def test_references_pass_and_nothing_constant_does() -> None:
    questions = one_of_each() + one_of_each(1, "train")
    grades = code.grade([Answer(q, block(q.answer)) for q in questions], LIMITS)
    assert [q.id for q, g in zip(questions, grades, strict=True) if not g.correct] == []
    assert all(g.details["passed"] == g.details["total"] for g in grades)
    assert code.trivial(questions)[0] == 0


@pytest.mark.parametrize("body", ["pass", "return 0"])
def test_empty_bodies_and_constants_fail_everywhere(body: str) -> None:
    questions = one_of_each(2)
    programs = [q.answer.partition("\n")[0] + f"\n    {body}" for q in questions]
    grades = code.grade(
        [Answer(q, block(p)) for q, p in zip(questions, programs, strict=True)], LIMITS
    )
    assert {g.verdict for g in grades} == {WRONG}


SWAPS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq}


def slips(program: str) -> Iterator[str]:
    """The program with one thing a little wrong: a number off by one, < for <=, + for -, min for max."""
    for place, how in itertools.product(range(len(list(ast.walk(ast.parse(program))))), (1, -1)):
        tree = ast.parse(program)
        node = list(ast.walk(tree))[place]
        if isinstance(node, ast.Constant) and type(node.value) is int:
            node.value += how
        elif how < 0:
            continue
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
            node.ops[0] = SWAPS[type(node.ops[0])]()
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
            node.op = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        elif isinstance(node, ast.Name) and node.id in ("min", "max"):
            node.id = {"min": "max", "max": "min"}[node.id]
        else:
            continue
        yield ast.unparse(tree)


@pytest.mark.slow
def test_small_slips_are_found() -> None:
    cases = [(q, slip) for q in one_of_each() for slip in slips(q.answer)]
    grades = code.grade([Answer(q, block(s)) for q, s in cases], Limits(seconds=1))
    found = [not g.correct for g in grades]
    per_kind: dict[str, list[bool]] = {}
    for (question, _), wrong in zip(cases, found, strict=True):
        per_kind.setdefault(question.meta["entry_point"], []).append(wrong)
    assert len(cases) > 400
    assert sum(found) / len(found) > 0.93  # the rest are mostly other ways to write the same
    assert [name for name, some in per_kind.items() if sum(some) < len(some) / 2] == []


def test_references_do_not_change_their_arguments() -> None:
    """A function that did would make the next reader of the same list wonder."""
    questions = one_of_each()
    wrapped = [
        f"{q.answer}\ndef checked(*arguments):\n    import copy\n    before = copy.deepcopy(arguments)\n"
        f"    {q.meta['entry_point']}(*arguments)\n    return before == arguments"
        for q in questions
    ]
    programs = [
        Program(source, "checked", [test["args"] for test in q.meta["tests"]])
        for source, q in zip(wrapped, questions, strict=True)
    ]
    for outcome in run_all(programs):
        assert all(call is not None and call.value is True for call in outcome.calls)


# ------------------------------------------------------------------------------ own files


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": "  "}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"entry_point": "not a name"}, "entry_point"),
        ({"tests": []}, "tests"),
        ({"tests": [{"args": [1], "expected": 1}, {"args": 1, "expected": 1}]}, "test 2"),
        ({"tests": [{"args": [1]}]}, "expected"),
        ({"reference": 3}, "reference"),
    ],
)
def test_a_row_that_is_no_task_is_named(change: dict[str, object], message: str) -> None:
    row = {"prompt": "p", "entry_point": "f", "tests": [{"args": [], "expected": None}]}
    assert code.read(row, "row-7").id == "row-7"
    with pytest.raises(RowError, match=message):
        code.read(row | change, "row-7")


def test_a_posed_task_stands_in_the_template() -> None:
    file = resources.files("spot.data") / "prompts" / "benchmarks" / "code.md"
    posed = code.pose(DOUBLE, 5, file.read_text("utf-8"))
    assert "Double it." in posed.text
    assert "```python" in posed.text
    assert "{question}" not in posed.text
    assert posed.meta == DOUBLE.meta


def test_the_best_constant() -> None:
    def task(*expected: object) -> Question:
        tests = [{"args": [i], "expected": e} for i, e in enumerate(expected)]
        return Question("q", "code", "t", "", {"entry_point": "f", "tests": tests})

    tasks = [task(True, True), task(1, 1), task([9], [9]), task([9]), task(0, 1)]
    assert code.trivial(tasks) == (0.4, "return [9]")
    assert code.trivial(tasks[:1]) == (1.0, "return True")


# ------------------------------------------------------------------------------ in the loop


def test_a_truth_carries_all_that_grading_takes() -> None:
    (question,) = code_tasks.questions(1, 0, "train")
    truth = code.truth_of(question)
    with Verifier() as verifier:
        verdict, program = verifier.verdict(block(question.answer), truth, "stop", "code")
        cut, _ = verifier.verdict(block(question.answer), truth, "length", "code")
    assert (verdict, (program or "").strip()) == (CORRECT, question.answer.strip())
    assert cut == TRUNCATED
    items = [Item("no", truth), Item(block("def f(): 1"), code.truth_of(DOUBLE)), Item(GOOD, truth)]
    assert [v for v, _ in code.verdicts(items)] == [UNPARSEABLE, WRONG, UNPARSEABLE]
    assert code.verdicts([Item(GOOD, code.truth_of(DOUBLE))]) == [(CORRECT, GOOD)]


# ------------------------------------------------------------------------------ responses

GOOD = "def double(n):\n    return 2 * n"


@pytest.mark.parametrize(
    "response",
    [
        block(GOOD),
        block(GOOD, "py"),
        block(GOOD, "Python3"),
        block(GOOD, ""),
        block(GOOD).replace("```", "~~~"),
        block(GOOD).replace("```", "````"),
        block(GOOD).replace("\n", "\r\n"),
        GOOD,
        "double = lambda n: 2 * n",
        f"```python\n{GOOD}",  # never closed
        block(GOOD) + "It prints:\n" + block("4", "text"),
        block(GOOD, "py3") + "It prints:\n" + block("4", "text"),
        block(GOOD) + "It was:\n" + block("def double(n): return n", "text"),
        block("def double(n): return 0") + "No, better:\n" + block(GOOD),
        block(GOOD) + "For example:\n" + block("print(double(2))"),
        "- step\n" + "\n".join(f"  {line}" for line in block(GOOD).split("\n")),
        block("from __future__ import annotations\nimport math\n\n\n" + GOOD),
        "The mark ```x``` is no block.\n" + block(GOOD),
    ],
)
def test_where_the_program_is_found(response: str) -> None:
    grade = graded(response)
    assert (grade.correct, grade.verdict, grade.reason) == (True, CORRECT, "")
    assert grade.details == {"passed": 3, "total": 3}
    assert "double" in (grade.extracted or "")


@pytest.mark.parametrize(
    ("response", "verdict", "reason", "passed"),
    [
        (
            block("def double(n):\n    return n + n if n >= 0 else 0"),
            WRONG,
            "wrong answer on test 3",
            2,
        ),
        (block("def double(n):\n    return n + 1"), WRONG, "wrong answer on test 2", 1),
        (block("def double(n):\n    return n / 0"), WRONG, "error: ZeroDivisionError", 0),
        (block("def double(n):\n    return twice(n)"), WRONG, "error: NameError", 0),
        (block("def triple(n):\n    return 3 * n"), WRONG, "error: NameError", 0),
        (block("def double(n)\n    return 2 * n"), WRONG, "error: SyntaxError", 0),
        (block("def double(n):\nreturn 2 * n"), WRONG, "error: IndentationError", 0),
        (block("def double(n):\n    while n < 0: pass\n    return 2 * n"), WRONG, "time limit", 2),
        (block("def double(n):\n    return 2 * n, 'x' * 10**10"), WRONG, "memory limit", 0),
        (block("def double(n):\n    return 'x' * 10**7"), WRONG, "output limit", 0),
        (block("import os\ndef double(n):\n    os._exit(0)"), WRONG, "crashed", 0),
        (block("def double(n):\n    return str(2 * n)"), WRONG, "wrong answer on test 1", 0),
        (block("def double(n):\n    return {2 * n}"), WRONG, "error: TypeError", 0),
        ("I cannot do this.", UNPARSEABLE, "no code", 0),
        ("", UNPARSEABLE, "no code", 0),
        ("double it with 2 * n", UNPARSEABLE, "no code", 0),
        (f"Here it is:\n{GOOD}", UNPARSEABLE, "no code", 0),
        (block(""), WRONG, "error: NameError", 0),
    ],
)
def test_what_is_wrong_is_said(response: str, verdict: str, reason: str, passed: int) -> None:
    grade = graded(response)
    assert (grade.correct, grade.verdict, grade.reason) == (False, verdict, reason)
    assert grade.details == {"passed": passed, "total": 3}


def test_a_cut_response_is_truncated_whatever_it_holds() -> None:
    grade = graded(block(GOOD), finish="length")
    assert (grade.verdict, grade.reason) == (TRUNCATED, "cut at the token limit")


def test_many_responses_keep_their_order() -> None:
    responses = [block(GOOD), "nothing", block("def double(n): return 7"), block(GOOD)] * 3
    verdicts = [g.verdict for g in code.grade([Answer(DOUBLE, r) for r in responses], LIMITS)]
    assert verdicts == [CORRECT, UNPARSEABLE, WRONG, CORRECT] * 3


@pytest.mark.parametrize(
    "attack",
    [
        # whatever the harness holds: is the truth among it?
        """
import gc, sys
def double(n):
    frame, seen = sys._getframe(), []
    while frame:
        seen.append({**frame.f_globals, **frame.f_locals})
        frame = frame.f_back
    for thing in [*gc.get_objects(), *seen]:
        if isinstance(thing, dict) and "expected" in thing:
            return thing["expected"]
""",
        # every comparison and serialisation says yes
        """
import builtins, json, sys
class Yes(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __repr__(self): return "6"
builtins.all = builtins.any = lambda *a: True
json.loads = json.load = lambda *a, **k: {"expected": 0}
def double(n): return Yes(7)
""",
        # replies for all tests at once, then leave as if all were well
        """
import os

pytestmark = pytest.mark.usefixtures("contained")
def double(n):
    for index in range(3):
        os.write(3, f'[{index}, "passed", null]\\n["loaded", null]\\n[]\\n'.encode())
    os._exit(0)
""",
        "import sys\nsys.modules['__main__'].work = None\nsys.exit(0)\ndef double(n): pass",
    ],
)
def test_tampering_gains_nothing(attack: str) -> None:
    grade = graded(block(attack))
    assert (grade.correct, grade.verdict) == (False, WRONG)


@pytest.mark.parametrize("text", ["`" * 1_000_000, "```\n" * 100_000, " " * 1_000_000 + "```"])
def test_hostile_texts_take_no_time(text: str) -> None:
    assert graded(text).correct is False
