"""Final answers out of responses, and their comparison with the truth."""

import time

import pytest

from spot.data.answers import Item, extract, last_boxed
from spot.grading.math import equal
from spot.grading.registry import Verifier


@pytest.fixture(scope="module")
def verifier():
    with Verifier() as shared:
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
        (r"\boxed{3} and \boxed{}", "3"),
        (r"\boxed{3}. \boxed{\text{ }}", "3"),
        (r"\boxed{3}, in the form \boxed{\ldots}", "3"),
        (r"\boxed{3} or \boxed{\emptyset}", r"\emptyset"),
        (r"\boxed{ }", None),
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
        ("A: 3 apples\nB: 4 apples\nso the last number is 7", "7"),
        ("Q: 5?\nA: 18", "18"),
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
    (r"1/2\sqrt{3}", r"\frac{\sqrt{3}}{2}"),
    ("2^10", "1024"),
    (r"\sqrt13", r"\sqrt{13}"),
    (r"3\frac{\sqrt{4}}{2}", "3"),
    (r"(\sqrt2+\sqrt3)^2-5-2\sqrt6", "0"),
    (r"0.1\overline{6}", r"\frac16"),
    (r"\sqrt[3]{-8}", "-2"),
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


@pytest.mark.parametrize(("a", "b"), EQUAL)
def test_equal_answers(a, b):
    assert equal(a, b) is True
    assert equal(b, a) is True


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_different_answers_stay_different(a, b):
    assert equal(a, b) is False
    assert equal(b, a) is False


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


def test_hostile_answers_neither_hang_nor_kill(verifier):
    nested = "(" * 300 + "1" + ")" * 300
    items = [
        Item(r"\boxed{10^{10^{10}}}", "5"),
        Item(rf"\boxed{{{nested}}}", "2"),
        Item(r"\boxed{" + r"\frac{1}{2}+" * 90_000 + "1}", "2"),  # a megabyte of LaTeX
        Item(r"\boxed{" * 100_000, "2"),
        Item("\\boxed{1\x00+x}", "2"),
        Item("\\boxed{\ud800}", "2"),
        Item(r"\boxed{2\sqrt{2}}", r"\sqrt{8}"),
    ]
    start = time.process_time()
    verdicts = [name for name, _ in verifier.verdicts(items)]
    assert time.process_time() - start < 5
    assert verdicts == ["unparseable", "wrong", "wrong", "unparseable", "wrong", "wrong", "correct"]


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
    assert equal(answer, "5") is not True
    assert time.process_time() - start < 1


# truth; the same; others
ANSWERS = [
    (r"\hbar \omega(v+1/2)-\frac{E_0^2e^2}{2m\omega^2}",
     [r"\hbar\omega\left(v+\frac{1}{2}\right)-\frac{e^2E_0^2}{2m\omega^2}"],
     ["2", r"\hbar \omega(v+1/2)", r"\hbar \omega(v+1/2)-\frac{E_0^2e^2}{2m\omega^3}"]),
    ("1<x<2",
     ["(1,2)", "2>x>1", r"x\in(1,2)", r"\{x\mid 1<x<2\}"],
     ["1<x<3", "2", r"1\le x<2", "1<y<2", "1"]),
    (r"n \equiv 5 \pmod 6",
     [r"n\equiv 5\pmod{6}", r"n \equiv -1 \pmod{6}", r"n \equiv 5 (\text{mod } 6)", r"n\equiv 5 \bmod 6"],
     ["5", "6", r"n \equiv 1 \pmod 6", r"n \equiv 5 \pmod 7", "n=5"]),
    (r"1,3,5,\ldots",
     [r"1, 3, 5, \dots", "1,3,5,..."],
     [r"1,3,7,\ldots", "1,3,5", "1", r"3,1,5,\ldots"]),
    (r"\{x \mid x>2\}",
     [r"\{x : x > 2\}", r"(2,\infty)", "x>2", r"\{x | x>2\}", r"\{y \mid y>2\}", r"\{x\in\mathbb{R}\mid x>2\}"],
     [r"\{x \mid x\ge 2\}", "2", r"\{x\mid x<2\}", r"[2,\infty)", r"\{x\mid x>3\}"]),
    (r"\begin{cases} 3x & x>0 \\ 2 & x \le 0\end{cases}",
     [r"\begin{cases} 3x, & x>0 \\ 2, & x \leq 0\end{cases}", r"\begin{cases} 3x & \text{if } x>0 \\ 2 & \text{if } x \le 0\end{cases}", r"\begin{cases} 2 & x \le 0\\3x & x>0 \end{cases}"],
     ["2", r"\begin{cases} 3x & x>0 \\ 3 & x \le 0\end{cases}", r"\begin{cases} 3x & x\ge0 \\ 2 & x \le 0\end{cases}"]),
    ("123456789012345678901234567890",
     ["123456789012345678901234567890", "123,456,789,012,345,678,901,234,567,890"],
     ["123456789012345678901234567891", "123456789012345678901234567889"]),
    ("2432902008176640000",
     ["20!"],
     ["19!", "2432902008176640001"]),
    ("20!",
     ["2432902008176640000", r"20\cdot19!"],
     ["21!", "20"]),
    (r"\frac{1}{2^{98}}",
     ["2^{-98}", r"\frac{2}{2^{99}}"],
     [r"\frac{1}{2^{99}}", "0"]),
    ("x",
     ["x"],
     ["X", "2x"]),
    ("X",
     ["X"],
     ["x"]),
    ("I=5",
     ["5", "I=5"],
     ["6", "I=6"]),
    ("5",
     ["I=5", "E=5", "S=5", "I_{max}=5", r"I_{\max}=5", "e=5", "i=5", r"\pi=5", "N = 5", "5=I", "O=5", "Q=5", "C=5", "x=5", r"\text{Area}=5", "Area = 5", r"\text{The area} = 5"],
     ["I=6", "E=6"]),
    (r"E=\frac{1}{2}mv^2",
     [r"\frac{1}{2}mv^2", r"\frac{mv^2}{2}"],
     ["mv^2"]),
    ("25_8",
     ["25_{8}"],
     ["25", "21", "25_9", "26_8"]),
    ("25",
     ["25"],
     ["25_8"]),
    (r"3 \text{ pm}",
     [r"3\text{ pm}", r"3 \text{ p.m.}", r"3 \text{ PM}", "3 pm"],
     [r"3 \text{ am}", r"3\text{ a.m.}", r"4 \text{ pm}"]),
    (r"30^\circ",
     ["30", r"30\text{ degrees}", r"\frac{\pi}{6}\text{ radians}"],
     [r"30\text{ radians}", r"30 \text{ rad}", r"\frac{\pi}{6}"]),
    (r"\frac{\pi}{6}\text{ radians}",
     [r"\frac{\pi}{6}", r"30^\circ"],
     [r"\frac{\pi}{6}^\circ", "30"]),
    (r"\frac34",
     [r"\frac34\text{ of the cake}", "0.75", r"\frac{3}{4} \text{ of a cake}", r"75\%"],
     [r"\frac14\text{ of the cake}"]),
    ("12",
     ["12 books", r"\$12", "12 dollars per hour", r"12\text{ dollars per hour}", r"12\,\mathrm{cm}^2", r"12\ \mathrm{cm}^{2}", r"12~\text{cm}", r"12\text{ m/s}", r"12 \text{ m}/\text{s}^2", r"12\ \frac{\text{m}}{\text{s}}", r"12 \text{ students}", r"\text{12 students}", "12 men", "12 km/h", "12 cm^2", r"12\text{ ways}.", "12 minutes", r"12 \text{ square units}", r"12 \text{ units}^2", "12个", "12 元", r"x=12\text{ books}", r"12 \text{ (books)}"],
     ["12x", "12 or 13", r"12\text{ million}", "12 dozen", r"12\text{ or }13", "-12 books", "12!", r"12\%  of 50", r"12 \text{ pm}", r"12\text{ of 20}", "12+x", "12_5", r"\frac{12}{5}\text{ books}", "12^2", "12 books and 3 pens"]),
    (r"12\text{ cm}",
     ["12", "12 cm", r"12 \text{ centimeters}"],
     [r"12\text{ mm}", r"12\text{ cm}^2", "13 cm"]),
    (r"5.4 \text{ cents}",
     ["5.4", r"5.4\text{ cents}"],
     [r"5.4\text{ dollars}", "5.5"]),
    (r"(3\text{ cm}, 4\text{ cm})",
     ["(3,4)"],
     ["(4,3)"]),
    ("2x+3y=6",
     ["4x+6y=12", "6=3y+2x", r"y=2-\frac23x"],
     ["2x+3y=7", "2x-3y=6", "6"]),
    ("x>2",
     ["2<x", "x > 2", r"(2,\infty)"],
     ["x<2", r"x\geq 2", "2", "x>3"]),
    (r"x\ge -1",
     [r"[-1,\infty)", r"-1\le x"],
     [r"x\le -1", r"(-1,\infty)"]),
    (r"x<1 \text{ or } x>3",
     [r"(-\infty,1)\cup(3,\infty)", r"x>3\text{ or }x<1"],
     [r"(-\infty,1]\cup(3,\infty)", "1<x<3"]),
    (r"\pi(R^2-r^2)",
     [r"\pi R^2-\pi r^2", r"\pi (R-r)(R+r)"],
     ["0", r"\pi(r^2-R^2)", "R^2-r^2"]),
    (r"\frac{x+1}{x-1}",
     [r"1+\frac{2}{x-1}"],
     [r"\frac{x-1}{x+1}"]),
    (r"\sin^2 x",
     [r"1-\cos^2 x", r"(\sin x)^2", r"\frac{1-\cos 2x}{2}"],
     [r"\sin x^2", r"\cos^2x"]),
    (r"\ln|x|+C",
     [r"\ln |x| + C"],
     [r"\ln x + C", r"\ln|x|+c", r"\ln|x|"]),
    ("|x|",
     [r"\sqrt{x^2}", r"\lvert x\rvert"],
     ["x", "-x"]),
    (r"\lfloor n/2\rfloor",
     [r"\left\lfloor\frac{n}{2}\right\rfloor", r"\lceil \frac{n-1}{2}\rceil"],
     [r"\lceil n/2\rceil", r"\frac{n}{2}"]),
    (r"\lfloor x\rfloor",
     [],
     ["x", r"\lceil x\rceil"]),
    ("(-1)^n",
     ["(-1)^{n+2}"],
     ["(-1)^{n+1}", "1", "-1"]),
    (r"\sum_{k=1}^{n} k",
     [r"\sum_{k=1}^n k"],
     [r"\sum_{k=0}^{n} k", r"\sum_{k=1}^{m} k", "n"]),
    (r"\int_0^1 x\,dx",
     [r"\int_{0}^{1} x dx"],
     [r"\int_0^2 x\,dx", "1"]),
    (r"\vec{a}+2\vec{b}",
     [r"2\vec b+\vec a"],
     [r"\vec{a}+2\vec{c}", "a+2b"]),
    (r"\mathbf{i}+2\mathbf{j}",
     [r"2\mathbf{j}+\mathbf{i}"],
     [r"\mathbf{i}-2\mathbf{j}"]),
    (r"\langle 1,2,3\rangle",
     ["(1,2,3)"],
     [r"\langle 1,2,4\rangle"]),
    (r"\text{Yes}",
     ["Yes", "yes", r"\text{yes}"],
     ["No", r"\text{no}"]),
    (r"\text{no solution}",
     ["no solution", "No Solution", r"\text{No solution}"],
     ["0", r"\text{one solution}"]),
    (r"\emptyset",
     [r"\varnothing", r"\{\}"],
     ["0"]),
    (r"\mathbb{R}\setminus\{1\}",
     [r"\mathbb{R} \setminus \{1\}", r"\mathbb{R}\backslash\{1\}"],
     [r"\mathbb{R}\setminus\{2\}", r"\mathbb{R}"]),
    ("2:3",
     ["2:3", "2 : 3"],
     ["3:2", "2", "2/3"]),
    (r"0.\overline{3}",
     [r"\frac13"],
     ["0.3"]),
    (r"1.5\times10^{-3}",
     ["0.0015", "1.5e-3", r"1.5\cdot 10^{-3}"],
     ["1.5e-4", "0.0016"]),
    (r"\frac{1}{3}",
     ["1/3", r"\frac{2}{6}"],
     ["0.33", "0.3333"]),
    ("0.3333333",
     [r"\frac13"],
     ["0.3333334", "0.33"]),
    ("3+4i",
     ["4i+3", r"3+4\mathrm{i}"],
     ["3-4i", "3+4j", "7"]),
    (r"e^{i\pi}",
     ["-1"],
     ["1"]),
    (r"\log_2 8",
     ["3"],
     ["8"]),
    (r"\binom{5}{2}",
     ["10", r"{5 \choose 2}"],
     ["5"]),
    (r"\sqrt{x^2+1}",
     ["(x^2+1)^{1/2}"],
     ["x+1"]),
    (r"-\frac{\sqrt2}{2}",
     [r"-\frac{1}{\sqrt2}"],
     [r"\frac{\sqrt2}{2}"]),
    ("x^{2}y",
     ["yx^2"],
     ["xy^2", "X^2y"]),
    ("C_1e^{x}+C_2e^{-x}",
     ["C_{2}e^{-x}+C_{1}e^{x}"],
     ["C_1e^{x}-C_2e^{-x}", "C_1e^{x}"]),
    ("(x-1)(x+2)",
     ["x^2+x-2"],
     ["x^2-x-2"]),
    ("3x+2",
     ["2+3x", "y=3x+2", "f(x)=3x+2", "f(x) = 2+3x"],
     ["3x-2", "3X+2"]),
    ("f(x)=3x+2",
     ["3x+2", "y=3x+2", "f(t)=3t+2"],
     ["3x-2", "f(x)=3x", "f(t)=3x+2"]),
    ("A",
     ["A", r"\text{A}", "(A)", r"\text{(A)}"],
     ["B", "a", r"\text{(B)}"]),
    (r"10\%",
     ["10%", "0.1", r"10\text{ percent}", "10"],
     ["1", "0.01"]),
    (r"\$18.90",
     ["18.90", "18.9", r"18.90 \text{ dollars}"],
     ["18.91", r"18.9\text{ cents}"]),
    ("7.5",
     ["7.5", r"\frac{15}{2}", "7 1/2"],
     ["7.51", "75"]),
    (r"\left(\frac{1}{2},\frac{3}{4}\right)",
     ["(0.5,0.75)"],
     ["(0.5,0.74)", "(0.75,0.5)"]),
    (r"\begin{bmatrix}1&2\\3&4\end{bmatrix}",
     [r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\left[\begin{array}{cc}1&2\\3&4\end{array}\right]"],
     [r"\begin{pmatrix}1&2\\3&5\end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}", "1"]),
    (r"x=1,\ y=2",
     ["(1,2)", "x=1, y=2", "y=2,x=1"],
     ["x=2,y=1"]),
    ("(x,y)=(1,2)",
     ["(1,2)"],
     ["(2,1)"]),
    (r"\frac{dy}{dx}=2x",
     [r"\frac{dy}{dx} = 2x", "2x", "y'=2x"],
     [r"\frac{dy}{dx}=3x", r"\frac{dx}{dy}=2x"]),
    (r"\frac{dM}{dt}",
     [r"\frac{d M}{d t}"],
     [r"\frac{M}{t}", r"\frac{dN}{dt}"]),
    ("f'(x)=2x",
     ["2x"],
     ["3x", "f(x)=2x"]),
    (r"\alpha",
     [r"\alpha"],
     [r"\beta", "a"]),
    ("y=x",
     ["x"],
     ["z"]),
    (r"a\mid b",
     [r"a \mid b"],
     [r"b\mid a", r"a\nmid b"]),
    ("P(A|B)=0.5",
     ["0.5", r"P(A\mid B)=0.5"],
     ["0.6"]),
    (r"8\frac{1}{3}",
     [r"\frac{25}{3}"],
     [r"\frac83"]),
    ("2^{1009}",
     ["2^{1009}", r"2\cdot2^{1008}"],
     ["2^{1010}", "2^{1009}+1"]),
    ("10^{-20}",
     ["1e-20", r"\frac{1}{10^{20}}"],
     ["0", "10^{-21}"]),
    (r"\sqrt[3]{2}",
     ["2^{1/3}"],
     [r"\sqrt2", "1.259921"]),
    (r"\tan 15^\circ",
     [r"2-\sqrt3", r"\tan\frac{\pi}{12}"],
     [r"2+\sqrt3"]),
    (r"\arcsin\frac{1}{3}",
     [r"\sin^{-1}\frac13", r"\sin^{-1}(1/3)"],
     [r"\arccos\frac13"]),
    (r"5 \text{ apples and } 3 \text{ pears}",
     [r"5 \text{ apples and } 3 \text{ pears}"],
     ["5", r"5 \text{ apples and } 4 \text{ pears}"]),
    (r"n\text{ is even}",
     [r"n\text{ is even}"],
     [r"n\text{ is odd}", "n"]),
    (r"\text{even}",
     ["even"],
     ["odd"]),
    ("0",
     ["0", r"\frac{0}{5}", "-0", "0.0"],
     ["1", "10^{-30}"]),
    (r"-\infty",
     [r"-\infty"],
     [r"\infty", r"+\infty"]),
    (r"[1,2)\cup(3,4]",
     [r"(3,4]\cup[1,2)"],
     [r"[1,2)\cup(3,4)", "[1,2)"]),
    (r"4.5\text{ million}",
     ["4500000", "4,500,000", r"4.5\times 10^6"],
     ["4.5"]),
    (r"x \ne 3",
     [r"x\neq 3"],
     ["3", "x=3"]),
    (r"\frac{1}{2}+\frac{1}{3}",
     ["5/6"],
     ["1/6"]),
    ("3^{2^{3}}",
     ["6561"],
     ["729"]),
    (r"\sqrt{2}+\sqrt{3}",
     [r"\sqrt{5+2\sqrt6}"],
     [r"\sqrt5"]),
    ("6,7",
     ["7,6", "6 and 7", r"6\text{ and }7", "{6,7}", r"\{6,7\}", "6, 7."],
     ["6", "67", "6,8"]),
    ("3.5",
     [r"\frac72"],
     [r"3 \text{ and a half}"]),
    ("3",
     [],
     [r"3 \text{ and a half}", r"3 \text{ or more}", r"3\text{ thirds}", r"3\text{ if n is odd}", r"3\text{ minus one}"]),
    (r"\mathbb{R}",
     [r"(-\infty,\infty)", r"\text{all real numbers}", r"(-\infty,+\infty)"],
     [r"(0,\infty)", "R"]),
    ("12",
     [r"\text{The area is } 12 \text{ cm}^2", r"\text{Answer: }12", r"\text{Answer} = 12", r"\text{12}", r"\int_0^1 f(x)\,dx=12", r"\sum_{k=1}^{3} k^2 = 12", "AB=12", r"\angle ABC = 12^\circ", "|AB| = 12", "P(X=2)=12", r"\gcd(a,b)=12", r"\lim_{x\to0}\frac{\sin x}{x}=12", "S_{ABC}=12", "a_{10}=12", r"\overline{AB}=12", r"12 = 3\cdot 4", r"\frac{24}{2}=12", "12.0", "12", r"\lvert z\rvert=12", r"m\angle A=12", "f(2)=12"],
     ["2x+1=12", "x+1=12", "12=13", "x=12=13", "x>12", r"x\ne12", r"\approx 13"]),
    ("0.3333333333",
     ["0.333333", r"\frac13"],
     ["0.3333333334", "0.33333", "0.333334"]),
    ("3.14",
     ["3.14"],
     ["3.14159", "3.1", r"\pi"]),
    ("10^{30}",
     ["1e30", "1000000000000000000000000000000"],
     ["10^{30}+1", "1e31"]),
    (r"k \geqslant 2",
     [r"k\ge 2", "k>=2", r"[2,\infty)"],
     ["k>2", r"k\ge3", "2", r"m\ge2"]),
    (r"x=\frac{\pi}{4}+k\pi,\ k\in\mathbb{Z}",
     [r"x=\frac{\pi}{4}+k\pi, k \in \mathbb{Z}"],
     [r"x=\frac{\pi}{3}+k\pi,\ k\in\mathbb{Z}", "x"]),
    (r"f(x)=\begin{cases} x & x<1\\ 1 & x\ge1\end{cases}",
     [r"\begin{cases} x, & x<1\\ 1, & x\ge1\end{cases}"],
     [r"\begin{cases} x & x<1\\ 2 & x\ge1\end{cases}", "1"]),
    (r"2\hat{i}+3\hat{j}",
     [r"3\hat{j}+2\hat{i}", r"2\hat i+3\hat j"],
     [r"2\hat{i}-3\hat{j}", "2i+3j"]),
    (r"x \in \{1,2\}",
     [r"\{1,2\}", "1,2", r"x=1 \text{ or } x=2"],
     ["1", r"\{1,3\}"]),
    (r"\neg p \lor q",
     [r"\neg p \vee q"],
     [r"p\lor q", r"\neg p\land q"]),
    (r"\$1,250.50",
     ["1250.5", "1,250.50", r"\$1250.50"],
     ["1250.05"]),
    ("5:30",
     ["5:30"],
     ["5:31", "6:30"]),
    (r"5:30 \text{ pm}",
     [r"5:30\text{ pm}", "5:30 p.m."],
     [r"5:30\text{ am}", r"5:31\text{ pm}"]),
    (r"7.3\times 10^{-4}\ \mathrm{mol/L}",
     ["7.3e-4", "0.00073"],
     ["7.3e-5"]),
    (r"2.5\ \mathrm{m/s^2}",
     ["2.5", r"2.5\text{ m/s}^2"],
     ["2.6", r"2.5\ \mathrm{m/s}"]),
    (r"\frac{n!}{k!(n-k)!}",
     [r"\binom{n}{k}", r"{n\choose k}"],
     [r"\frac{n!}{k!}", r"\binom{n}{k+1}"]),
    ("a_n=2^n-1",
     ["2^n-1", "a_{n}=2^{n}-1"],
     ["2^n+1", "a_n=2^n"]),
    (r"\text{Tuesday}",
     ["Tuesday", "tuesday"],
     ["Thursday"]),
    (r"y=\pm\sqrt{x}",
     [r"\pm\sqrt{x}", r"y=\sqrt x, y=-\sqrt x"],
     [r"\sqrt x", r"y=\pm x"]),
    (r"\pm\frac{1}{2}",
     [r"\frac12,-\frac12", r"\{-0.5,0.5\}", r"x=\pm 0.5", r"\frac{\pm1}{2}"],
     ["0.5"]),
    (r"\frac{-1\pm\sqrt{5}}{2}",
     [r"\frac{-1+\sqrt5}{2},\frac{-1-\sqrt5}{2}"],
     [r"\frac{-1+\sqrt5}{2}", r"\frac{1\pm\sqrt5}{2}"]),
    ("1,234",
     ["1234", "1{,}234"],
     ["1,235"]),
    ("(1,234)",
     ["(1, 234)"],
     ["1234", "(1234)"]),
    (r"\sqrt{-4}",
     ["2i"],
     ["2", "-2"]),
    ("(a+b)^2",
     ["a^2+2ab+b^2"],
     ["a^2+b^2", "(A+b)^2"]),
    ("e^{x}",
     [r"\exp(x)", r"\exp x", r"\mathrm{e}^x"],
     ["e^{-x}", "ex"]),
    (r"\tan^{-1}(2)",
     [r"\arctan 2"],
     [r"\cot 2", r"\frac{1}{\tan 2}"]),
    ("-2.5",
     ["-5/2", r"-2\frac12"],
     ["2.5", "-1.5"]),
    (r"\frac{2}{3}\text{ hours}",
     [r"\frac23"],
     ["40"]),
    ("100",
     ["100", r"100\text{ cm}^3", "100 km/hr", "100 mL", r"100\%", r"1\text{ hundred}"],
     ["1"]),
    (r"(0,1)\cup(1,\infty)",
     [r"x\in(0,1)\cup(1,\infty)", r"0<x<1\text{ or }x>1"],
     [r"(0,\infty)", r"(0,1]\cup(1,\infty)"]),
]  # fmt: skip


@pytest.mark.parametrize(("truth", "same", "others"), ANSWERS, ids=[a[0] for a in ANSWERS])
def test_answers_are_compared_whole(truth, same, others):
    assert [answer for answer in (truth, *same) if equal(answer, truth) is not True] == []
    assert [answer for answer in others if equal(answer, truth) is not False] == []


NOUNS = (
    "book books person people apple apples student child children men women cats sheep egg eggs coin coins dollars cents "
    "pie pens box boxes days hour minutes inches feet cm km gallons slices pieces marbles ways rows units degrees"
).split()


@pytest.mark.parametrize("noun", NOUNS)
def test_a_noun_behind_a_number_is_no_part_of_it(noun):
    ways = [
        r"12\text{ %s}", r"12 %s", r"12\ \mathrm{%s}", r"\text{12 %s}", r"12\text{ of the %s}", r"12 \mbox{ red %s}",
        r"x = 12\text{ %s}", r"\frac{24}{2}\text{ %s}", r"$12$ %s", r"12\textbf{ %s per day}.",
    ]  # fmt: skip
    assert [way % noun for way in ways if equal(way % noun, "12") is not True] == []
    assert [way % noun for way in ways if equal(way % noun, "13") is not False] == []
