"""Final answers out of responses, and their comparison with the truth."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from spot.data.answers import Item, extract, last_boxed
from spot.grading import math_pool
from spot.grading.math import quick_equal
from spot.grading.registry import Verifier


@pytest.fixture(scope="module")
def verifier():
    with Verifier(workers=2) as shared:
        yield shared


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed{18}.", "18"),
        (r"\boxed{1} and then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\left\{1, 2\right\}}", r"\left\{1, 2\right\}"),
        (r"\boxed{ \} } tail", r" \} "),
        (r"\boxed{1} but \boxed{2", "1"),  # the last one never closes
        (r"{ \boxed{5}", "5"),
        (r"} } \boxed{5}", "5"),
        (r"\boxed {7}", "7"),
        (r"\\boxed{7}", "7"),  # escaped once more, as in JSON
        (r"\boxed{\boxed{3}}", "3"),
        (r"\boxed{a\\}", r"a\\"),
        (r"\boxed 5", None),
        (r"boxed{5}", None),
        (r"\boxed{", None),
        ("", None),
    ],
)
def test_last_boxed(text, content):
    assert last_boxed(text) == content


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("She has 3 left.\n#### 18", "18"),
        ("#### 1,234", "1,234"),
        ("#### $-5 (rounded from 7.2)", "-5"),
        ("A: 7 of 10", "7"),
        ("12 - 5 = 7, so $7.50.", "7.50"),
        ("it is -$3", "-3"),
        ("costs 1,200, in total", "1,200"),
        ("16-3=13", "13"),
        ("range 3-5", "5"),  # a dash between numbers is no sign
        ("about 2/3 of them", "2/3"),
        ("so 40%.", "40%"),
        ("nothing here", None),
        ("5 apples\n#### none", None),
    ],
)
def test_extract_last(text, answer):
    assert extract(text, "last") == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('{"reasoning": "2+2", "answer": "4"}', "4"),
        ('{"reasoning": "2+2", "answer": 4}', "4"),
        ('{\n "reasoning": "line one\nline two $\\frac{1}{2}$", "answer": "\\frac{1}{2}"\n}', r"\frac{1}{2}"),
        ('{"answer": "\\\\frac{1}{2}"}', r"\frac{1}{2}"),
        ('{"answer": "caf\\u00e9 \\"x\\""}', 'café "x"'),
        ('{"answer": "\\ud83d\\ude00"}', "\U0001f600"),  # a pair of surrogates
        ('{"answer": "\\ud83d and \\ude00"}', "\ufffd and \ufffd"),  # half of one, twice
        ('{"answer": \ud800}', "\ufffd"),
        ('{"answer": "1"} again {"answer": "2"}', "2"),
        ('{"reasoning": "an \\"answer\\": 9 in a string", "answer": -3/8\n}', "-3/8"),
        ('{"answer": null}', None),
        ('{"answer": ""}', None),
        ('{"answer": "cut off', None),
        ('{"reasoning": "never finished', None),
    ],
)  # fmt: skip
def test_extract_json(text, answer):
    assert extract(text, "json") == answer


@pytest.mark.parametrize("answer_format", ["boxed", "json"])
def test_an_answer_can_be_written(answer_format):
    text = '\\boxed{5\ud800} {"answer": "5\\udfff"}'
    assert (extract(text, answer_format) or "").encode() == "5\ufffd".encode()


def test_an_unknown_answer_format_is_refused():
    with pytest.raises(KeyError, match="xml"):
        extract("5", "xml")


EQUAL = [
    ("18", "18.00"),
    ("2,125", "2125"),
    (r"2{,}125", "2125"),
    (r"\$18", "18"),
    ("$18$", "18."),
    ("18 dollars", "18"),
    (r"5\text{ cm}", "5"),
    (r"90^\circ", "90"),
    (r"90^{\circ}", "90"),
    ("1/2", "0.5"),
    (r"\frac{1}{2}", ".5"),
    (r"\dfrac{3}{6}", r"\frac12"),
    (r"-\frac{1}{2}", r"\frac{-1}{2}"),
    ("1 1/2", "3/2"),
    (r"1\frac{1}{2}", "1.5"),
    (r"10\%", "0.1"),
    ("10%", "10"),
    ("10", "10 percent"),
    ("5 million", "5000000"),
    ("1e3", "1000"),
    ("0." + "3" * 300, "0." + "3" * 300 + "00"),
    ("−5", "-5"),
    (r"\text{Evelyn}", "evelyn"),
    (r"\boxed{7}", "7"),
    # scientific notation
    (r"4.5 \times 10^{33}", "4.5e33"),
    (r"7.25 \cdot 10^{-11}", "7.25e-11"),
    ("3 x 10^8", "3e8"),
    ("10^{-5}", "1e-5"),
    # units, where the truth has none or the same
    (r"4.5 \times 10^{33} \text{ erg/s}", "4.5e33"),
    (r"1.6 \mathrm{~cm}", "1.6"),
    (r"12 \mathrm{~J} / \mathrm{mol}", "12"),
    (r"12\ \text{J mol}^{-1}", "12"),
    (r"864 \mbox{ inches}^2", "864"),
    (r"70\sqrt{2} \text{ cm}", r"70\sqrt{2}"),
    (r"\frac{7}{3}\text{ degrees}", r"\frac73"),
    # other ways to write it
    (r"11,\! 111,\! 100", "11111100"),
    (r"1\,080", "1080"),
    ("-1./3", r"-\frac{1}{3}"),
    (r"y^{\prime}+r y=0", "y' + ry = 0"),
    ("np.arcsin(1/3)", r"\arcsin(1/3)"),
    (r"x \in [-2,7]", "[-2, 7]"),
    ("t(0,4]", r"\left(0, 4\right]"),
    # constants by their digits
    (r"2\sqrt{2}", r"\sqrt{8}"),
    (r"\frac{1}{\sqrt{3}}", r"\frac{\sqrt{3}}{3}"),
    (r"\frac{1+\sqrt5}{2}", r"\frac{1}{2}+\frac{\sqrt{5}}{2}"),
    (r"8\pi", r"\pi \cdot 8"),
    (r"2^{10}", "1024"),
    (r"\sqrt[3]{8}", "2"),
    (r"(1+\sqrt{2})^2", r"3+2\sqrt{2}"),
    (r"5/2", r"\dfrac{5}{2}"),
    # lists, element by element
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)"),
    (r"\{1, \sqrt{4}\}", r"\{2, 1\}"),
    ("3, 5, 7", "7,5,3"),
    ("(1,2), (3,4)", "(3,4),(1,2)"),
]

DIFFERENT = [
    ("18", "-18"),
    ("18", "18.01"),
    ("123456789", "123456788"),
    ("1/3", "0.33"),
    ("10%", "0.01"),
    ("10%", "20%"),
    ("5 million", "5"),
    ("seat", "east"),
    ("1,2", "12"),
    ("", "18"),
    ("8e-11", "7.25e-11"),  # both are 0 in six decimals
    ("0", "7.25e-11"),
    (r"8 \times 10^{-11} \text{ smoots}", "7.25e-11"),
    (r"4.5 \times 10^{32}", "4.5e33"),
    (r"\frac{37}{4} m", r"\frac{35}{4} m"),
    (r"2\sqrt{3}", r"3\sqrt{2}"),
    (r"\pi", "3.14"),
    (r"2^{1009}", r"2^{1010}"),
    ("(1,2)", "(2,1)"),
    ("(1,2]", "[1,2)"),
    (r"\{1,2\}", r"\{1,3\}"),
    ("1,2,2", "1,2,3"),
    ("an ellipse", "an eclipse"),
]

UNDECIDED = [  # without algebra: what is meant is open, or takes more than digits
    (r"1/2\sqrt{3}", r"\frac{\sqrt{3}}{2}"),
    ("2^10", "1024"),
    (r"\sqrt13", r"\sqrt{13}"),
    (r"3\frac{\sqrt{4}}{2}", "3"),
    (r"(\sqrt2+\sqrt3)^2-5-2\sqrt6", "0"),
    ("10^{10^{10}}", "10^{10^{11}}"),
    (r"\sqrt{-1}", "1"),
    (r"\frac{1}{0}", "1"),
    ("1.414214", r"\sqrt{2}"),
    ("(" * 39 + "1" + ")" * 39, "2^3^2"),
    ("x+1", "1+x"),
]


@pytest.mark.parametrize(("a", "b"), EQUAL)
def test_equal_numbers_need_no_algebra(a, b):
    assert quick_equal(a, b) is True
    assert quick_equal(b, a) is True


@pytest.mark.parametrize(("a", "b"), UNDECIDED)
def test_what_takes_algebra_is_left_to_it(a, b):
    assert quick_equal(a, b) is None


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_different_answers_stay_different(a, b, verifier):
    assert not verifier.equal(a, b)
    assert not verifier.equal(b, a)


def test_algebra(verifier):
    pairs = {
        (r"2\sqrt{2}", r"\sqrt{8}"): True,
        ("(x+1)^2", "x^2+2x+1"): True,
        ("5", "x=5"): True,
        (r"\{2,1\}", r"\{1,2\}"): True,
        ("0.333333", r"\frac{1}{3}"): True,
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}"): True,
        ("[0,1)", "[0,1]"): False,
        ("2", r"\pm 2"): False,
        ("5x", "5"): False,
        ("5 or 6", "5"): False,
        (r"-2 \le x \le 7", r"x \in [-2,7]"): True,
        ("1.414214", r"\sqrt{2}"): True,
        ("n^2-n-1", r"m_{\max }=n^{2}-n-1"): True,
        (r"\frac{37}{4} \text{m}", r"\frac{37}{4} m"): True,
    }
    assert verifier.equals(list(pairs)) == list(pairs.values())


def test_no_process_is_started_when_arithmetic_is_enough():
    with Verifier() as verifier:
        assert verifier.verdict(r"\boxed{18}", "18") == ("correct", "18")
        assert not verifier.equal("17", "18")
        assert verifier.pool.started == 0


def test_verdicts(verifier):
    items = [
        Item(r"\boxed{4}", "4"),
        Item(r"\boxed{5}", "4"),
        Item(r"\boxed{4} and on and on", "4", "length"),  # cut off: neither right nor wrong
        Item("4", "4"),  # no box: a stray number is no answer
        Item("#### 1,000", "1000", "stop", "last"),
        Item(r"\boxed{2\sqrt{2}}", r"\sqrt{8}"),
        Item("", "4", "prompt_too_long"),
    ]
    assert verifier.verdicts(items) == [
        ("correct", "4"),
        ("wrong", "5"),
        ("truncated", "4"),
        ("unparseable", None),
        ("correct", "1,000"),
        ("correct", r"2\sqrt{2}"),
        ("unparseable", None),
    ]


def test_hostile_answers_neither_hang_nor_kill():
    nested = "(" * 300 + "1" + ")" * 300
    with Verifier(workers=2, seconds=2.0) as verifier:
        verifier.equal("a", "b+c")  # starts a worker before the clock does
        items = [
            Item(r"\boxed{10^{10^{10}}}", "5"),
            Item(rf"\boxed{{{nested}}}", "2"),
            Item(r"\boxed{" + r"\frac{1}{2}+" * 90_000 + "1}", "2"),  # a megabyte of LaTeX
            Item(r"\boxed{" * 100_000, "2"),
            Item("\\boxed{1\x00+x}", "2"),
            Item("\\boxed{\ud800}", "2"),
            Item(r"\boxed{2\sqrt{2}}", r"\sqrt{8}"),
        ]
        start = time.monotonic()
        verdicts = [name for name, _ in verifier.verdicts(items)]
        assert time.monotonic() - start < 60
    assert verdicts[0] == "unparseable"  # nobody could tell in time
    assert verdicts[1] in ("unparseable", "wrong")
    assert verdicts[2:] == ["wrong", "unparseable", "wrong", "wrong", "correct"]


@pytest.mark.parametrize(
    "text",
    [
        "\\" * 1_000_000,
        r"\boxed{" * 150_000,
        r"\boxed" + " " * 1_000_000,
        "\n" * 1_000_000,
        " " * 1_000_000 + "A",
        "1," * 500_000,
        "1/" * 500_000,
        '"answer": "' * 100_000,
        '"answer": "' + "\\" * 999_999,
        "{" * 1_000_000,
    ],
    ids=lambda text: repr(text[:9]),
)
@pytest.mark.parametrize("answer_format", ["boxed", "last", "json"])
def test_extraction_takes_linear_time(text, answer_format):
    start = time.process_time()
    extract(text, answer_format)
    assert time.process_time() - start < 3


@pytest.mark.parametrize(
    "answer",
    [
        "5 " + "a" * 1_900 + "!",
        "1" * 1_990 + "!",
        "1 " * 900,
        "5" + " a" * 900 + "!",
        "-" * 1_900,
        "5" + "*" * 1_900 + "!",
        "5" + r"\text{ m }" * 190 + "!",
        "(" * 950 + "1,2" + ")" * 950,
        "((1,2)," * 250 + "3" + ")" * 250,
        "1," * 950 + "1",
        r"\sqrt{" * 300 + "2" + "}" * 300,
        r"\frac" * 350,
    ],
)
def test_comparison_takes_little_time_whatever_is_compared(answer):
    start = time.process_time()
    assert quick_equal(answer, "5") is not True
    assert time.process_time() - start < 1


def test_the_worker_does_not_import_torch():
    source = "import sys; from spot.grading import math_pool; math_pool.prepare(); print('torch' in sys.modules)"
    path = str(Path(math_pool.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", source],
        capture_output=True, text=True, check=True, env={"PYTHONPATH": path},
    )  # fmt: skip
    assert done.stdout.strip().splitlines()[-1] == "False"
