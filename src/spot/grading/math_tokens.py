r"""The tokens of a final answer, after what has no meaning (`\left`, `$`, spacing) is gone."""

from __future__ import annotations

import re
from typing import NamedTuple


class UnreadableError(ValueError):
    """This is no mathematics that can be read to its end."""


class Token(NamedTuple):
    kind: str
    text: str


# kind and text of a token, and how it is written: commands without their backslash, words, characters
_WRITTEN = """
relation =: = ==; relation <: < lt; relation >: > gt; relation ≤: ≤ <= le leq leqslant leqq; relation ≥: ≥ >= ge geq geqslant
relation ≠: ≠ != ne neq; relation ∈: ∈ in; relation ∉: notin; relation ≡: ≡ equiv; relation mod: pmod bmod mod
relation ≈: ≈ approx simeq; relation ∼: sim; relation ≅: cong; relation |: mid colon; relation ∤: nmid; relation →: to rightarrow
relation ↦: mapsto; relation ⇒: implies Rightarrow; relation ⇔: iff Leftrightarrow; relation ⊂: subset; relation ⊆: subseteq
relation ⊥: perp; relation ∥: parallel; relation ∝: propto; relation ∧: land wedge; relation ∨: lor vee
join ∪: ∪ cup bigcup; join ∩: ∩ cap; join ∖: setminus backslash; * *: cdot times ast × · ∙ ⋅; / /: div ÷; ± +: pm ±; ± -: mp
symbol π: pi π; symbol ∞: infty inf infinity oo ∞; symbol …: ldots cdots dots dotsc …; symbol ∅: emptyset varnothing ∅; symbol ∂: partial
symbol i: imath; symbol phi: varphi; symbol epsilon: varepsilon; symbol theta: θ; symbol alpha: α; symbol beta: β; symbol lambda: λ
frac frac: frac dfrac tfrac cfrac; sqrt sqrt: sqrt √; binom binom: binom dbinom tbinom; ° °: degree º; ^ ^: **; ‖ ‖: | lVert rVert Vert
⌊ ⌊: lfloor; ⌋ ⌋: rfloor; ⌈ ⌈: lceil; ⌉ ⌉: rceil; | |: lvert rvert vert; ( (: langle; ) ): rangle; [ [: lbrack; ] ]: rbrack
\\{ {: lbrace {; \\} }: rbrace }; % %: %; , ,: and ，; or or: or
function arcsin: asin; function arccos: acos; function arctan: atan; function tan: tg; function cot: ctg
"""
FUNCTIONS = frozenset(
    "sin cos tan cot sec csc sinh cosh tanh arcsin arccos arctan arccot arcsec arccsc ln log lg exp".split()
)
_TOKENS = {name: Token("function", name) for name in FUNCTIONS} | {
    name: Token(*token.split())
    for line in _WRITTEN.strip().splitlines()
    for token, _, names in (entry.rpartition(": ") for entry in line.split("; "))
    for name in names.split()
}
_GREEK = frozenset(
    """alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon
    phi chi psi omega""".split()
)
_SPOKEN = frozenset("sqrt pi inf infty infinity oo and or asin acos atan".split()) | FUNCTIONS
_WORDS = frozenset("yes no odd all none".split())
_SHORT = frozenset(  # nouns and units of two or three letters
    "of the per sq cu cm mm km nm ft in kg mg lb lbs oz ml mi yd hr hrs min sec ms am pm mph deg rad mol hz ev".split()
)
_MATRICES = ("pmatrix", "bmatrix", "Bmatrix", "smallmatrix", "array")
_ACCENTS = frozenset(
    """vec bar hat dot ddot tilde overline underline widehat widetilde overrightarrow overleftrightarrow
    mathbb""".split()
)
_UNICODE = {
    "−": "-", "–": "-", "—": "-", "²": "^2", "³": "^3", "½": r"\frac12 ", "¼": r"\frac14 ", "¾": r"\frac34 ",
    "′": "'", "’": "'", "€": "", "£": "", "¥": "", "¢": r"\text{cents}",
}  # fmt: skip

_GONE = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?)(?![a-zA-Z])\.?|\\!|\\?\$|\\(?:text)?color\{\w+\}"
    r"|\\(?:displaystyle|textstyle|limits|nolimits|hline|rm|bf|[lL]arge|math(?:bf|it|cal|sf|frak|scr)|boldsymbol|bm)"
    r"(?![a-zA-Z])"
)
_GROUPS = re.compile(r"(?<![\d.])(\d{1,3})((?:(?:\{,\}|,?\s*\\[,;: !]|~)\s*\d{3})+)(?!\d)")
_DEGREES = re.compile(
    r"\^\s*(?:\{\s*\\(?:circ|degree)\s*\}|\\circ(?![a-zA-Z]))|\\degree(?![a-zA-Z])"
)
_TEMPERATURE = r"°\s*(?:\\(?:text|mathrm)\s*\{\s*)?"
_MODULUS = re.compile(
    r"\(\s*\\?(?:b?mod|text\s*\{\s*mod\s*\}|mathrm\s*\{\s*mod\s*\})\s*(\w+|\{\w+\})\s*\)"
)
_TIMES_TEN = re.compile(r"(?<=\d)\s*x\s*(?=10\s*\^)")
_DOLLARS = re.compile(r"(-?)\\\$\s*(-?[\d,.]*\d)(?=\s*(?:$|\\(?:text|mbox)))")
_BETWEEN = re.compile(r"\{([^{}]*)\\(choose|over)(?![a-zA-Z])([^{}]*)\}")
_BASE = re.compile(r"(?:\\text\s*)?[({]\s*(\d\w*)\s*[)}](?=\s*_)")
_NUMBERS = (  # that bases are named by
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
).split()
_NAMED = rf"\d{{1,2}}|{'|'.join(_NUMBERS)}"
_OPEN_TEXT = r"\\(?:text|mathrm|mbox) ?\{ ?"
_NAMED_BASES = (  # 1101_{\text{two}}; 13 (base 8), 13_{\text{base }8}, at the end
    re.compile(
        rf"(?<=[\dA-F]) ?_ ?(?:\{{ ?{_OPEN_TEXT}({_NAMED}) ?\}} ?\}}|\{{ ?({_NAMED}) ?\}}|{_OPEN_TEXT}({_NAMED}) ?\}})"
    ),
    re.compile(
        rf"(?<=\w) ?_? ?[{{(]? ?(?:{_OPEN_TEXT})?[ (]{{0,2}}(?:in )?base[ }}-]{{0,2}}(?:{_OPEN_TEXT})?({_NAMED})[ )}}]{{0,4}}$"
    ),
)
_FOR_ALL = re.compile(  # behind an answer
    r"(?<=\S)[,\s]*(?:\\text\{\s*for (?:all|any|every)\s*\}|\\forall)\s*[a-z]\s*(?:\\in\s*\\mathbb\s*\{?[A-Z]\}?\s*)?$"
)
_UNIT = re.compile(r"(?P<word>[^\W\d_]+)|\^\s*\{?(?P<power>-?\d)\}?|(?P<sign>[/*])|[\s.]+")
_SPACING = re.compile(r"(?<!\\)\\[,;: ]|~|\\(?:q?quad|enspace|thinspace|space)(?![a-zA-Z])")
_SUFFIX = re.compile(r"\s*(?:(_)\s*|'|\^\s*\{?\s*\\prime\s*\}?)")
_ARGUMENT = re.compile(r"\s*(?:\\[a-zA-Z]+\s*\{[^{}]*\}|\\[a-zA-Z]+|[^{\s])")
_TEXT = r"\\(?:text(?:bf|it|rm|sf|normal|tt)?|mathrm|mbox|hbox|operatorname\*?)\s*\{(?P<text>(?:[^{}]|\{[^{}]*\})*)\}"
_TOKEN = re.compile(
    rf"""(?P<space>\s+|(?<=[A-Za-z])\.(?=\s|$))
    |{_TEXT}
    |\\begin\s*\{{(?P<begin>[a-zA-Z]+)\*?\}}(?:\s*\{{[lcr|@]*\}})?|\\end\s*\{{(?P<end>[a-zA-Z]+)\*?\}}
    |(?P<newline>\\\\)
    |\\(?P<command>[a-zA-Z]+|[{{}}|%])
    |(?P<based>\d[\d.,]*)\s*_\s*(?:\{{\s*(?P<base1>\w+)\s*\}}|(?P<base2>\w))
    |(?P<repeating>\d*\.\d*)\\overline\s*\{{\s*(?P<period>\d+)\s*\}}
    |(?P<grouped>(?<![\d,.])\d{{1,3}}(?:,\d{{3}})+(?!\d)(?!,\d)(?:\.\d+)?)
    |(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{{1,3}}(?![\d.]))?)
    |(?P<word>[A-Za-z]+)
    |(?P<sign><=|>=|!=|==|\*\*|[:;≤≥≠∈≈≡∪∩×·∙⋅÷±π√∞…∅θαβλº，]|[-+*/^!%°|()\[\]{{}}&,=<>_])
    |(?P<foreign>[^\W\d_a-zA-Z]+)""",
    re.VERBOSE | re.DOTALL,
)


def normalised(text: str) -> str:
    """An answer without dollar signs, sizes and spacing commands, in one way of writing."""
    text = "".join(_UNICODE.get(c, c if c.isprintable() else " ") for c in text)
    text = re.sub(r"(?i)(?<![a-z])([ap])\.\s?m(?![a-z])\.?", r"\1m", text)
    text = re.sub(r"\.{3,}", r"\\ldots ", text)
    text = _GROUPS.sub(lambda m: m[1] + re.sub(r"\D", "", m[2]), text).replace("{,}", ",")
    text = _DOLLARS.sub(r"\1\2\\text{dollars}", text.rstrip(" .$"))
    text = _TIMES_TEN.sub("*", _GONE.sub(" ", text))
    text = re.sub(r"(?<![a-z])np\.(?=[a-z])", "", text)
    text = _DEGREES.sub("°", text)
    for letter, scale in (("C", "celsius"), ("F", "fahrenheit")):
        text = re.sub(_TEMPERATURE + letter + r"(?![a-zA-Z])\s*\}?", rf"\\text{{{scale}}}", text)
    text = _BETWEEN.sub(
        lambda m: rf"\{'binom' if m[2] == 'choose' else 'frac'}{{{m[1]}}}{{{m[3]}}}", text
    )
    text = _FOR_ALL.sub("", _BASE.sub(r"\1", text))
    text = _MODULUS.sub(r"\\pmod{\1}", text)
    text = " ".join(_SPACING.sub(" ", text).split())
    for pattern in _NAMED_BASES:
        text = pattern.sub(_base, text)
    return text.strip("* ").rstrip(" .,")


def _base(match: re.Match[str]) -> str:
    """`_{8}` of a base that was named."""
    name = next(filter(None, match.groups()))
    return f"_{{{name if name.isdecimal() else _NUMBERS.index(name) + 2}}}"


def is_word(name: str) -> bool:
    """Whether a symbol's name is a word, and no letter with its accents and subscripts."""
    return len(name) > 2 and name.isalpha() and name not in _GREEK


def tokens(text: str, *, grouped: bool, nouns: bool) -> list[Token]:
    """The tokens of a normalised answer. Raises UnreadableError at what is none."""
    return _Lexer(grouped, nouns).all(text)


class _Lexer:
    def __init__(self, grouped: bool, nouns: bool) -> None:
        self.grouped, self.nouns = grouped, nouns
        self.found: list[Token] = []
        self.brackets = 0

    def all(self, text: str) -> list[Token]:
        place, after_space = 0, False
        while place < len(text):
            match = _TOKEN.match(text, place)
            if match is None:
                raise UnreadableError
            if match["grouped"] and (not self.grouped or self.brackets):
                first = match[0].partition(",")[0]
                self.add("number", first)
                place += len(first)
            elif match["space"]:
                place, after_space = match.end(), True
                continue
            else:
                place = self.take(match, text, after_space)
            after_space = False
        return self.found

    def add(self, kind: str, text: str) -> None:
        self.brackets += (kind in ("(", "[", "\\{")) - (kind in (")", "]", "\\}"))
        self.found.append(Token(kind, text))

    def take(self, match: re.Match[str], text: str, after_space: bool) -> int:
        """Add what was matched; returns where the next token starts."""
        found = match.groupdict()
        if found["text"] is not None:
            self.text(found["text"])
        elif found["begin"]:
            self.add("rows", "matrix" if found["begin"] in _MATRICES else found["begin"])
        elif found["end"]:
            self.add("end", "")
        elif found["newline"]:
            self.add("newline", "")
        elif found["command"]:
            return self.command(found["command"], text, match.end())
        elif found["based"] and found["base1"] == "10":
            self.add("number", found["based"])
        elif found["based"]:
            self.add("symbol", f"{found['based']}_{found['base1'] or found['base2']}")
        elif found["repeating"]:
            self.add("number", _repeating(found["repeating"], found["period"]))
        elif found["grouped"]:
            self.add("number", found["grouped"].replace(",", ""))
        elif found["number"]:
            self.add("number", found["number"].rstrip("."))
        elif found["word"]:
            return self.word(found["word"], text, match.end(), after_space)
        elif found["foreign"]:
            self.add("text", found["foreign"])
        else:
            sign = {":": "mid", ";": "and"}.get(match[0], match[0])
            self.add(*(_TOKENS[sign] if sign in _TOKENS and sign not in "{}|" else (sign, sign)))
        return match.end()

    def command(self, name: str, text: str, end: int) -> int:
        if name in _TOKENS and name not in ("and", "or"):
            self.add(*_TOKENS[name])
            return end
        start = end
        if name in _ACCENTS:
            end = _behind_argument(text, end)
        inside = _flat(text[start:end])
        end, tail = self.suffix(text, end)
        self.add("symbol", name + (f"({inside})" if inside else "") + tail)
        return end

    def suffix(self, text: str, end: int) -> tuple[int, str]:
        """Subscripts and primes behind a symbol, which are part of its name."""
        tail = ""
        while match := _SUFFIX.match(text, end):
            end = match.end()
            if match[1]:
                end = _behind_argument(text, end)
                tail += "_" + _flat(text[match.end() : end])
            else:
                tail += "'"
        return end, tail

    def text(self, content: str) -> None:
        """The inside of a text command: words, or what might stand outside as well."""
        words = " ".join(content.split()).strip()
        bare = words.strip(" .,")
        if not bare:
            if "," in words:
                self.add(",", ",")
            return
        if re.fullmatch(r"(?i),?\s*(?:and|or)", bare):
            self.add("or" if bare.casefold().endswith("or") else ",", bare)
        elif bare in FUNCTIONS:
            self.add("function", bare)
        elif self.unit(bare):
            return
        elif re.search(r"[^\W\d_]{2}.*(?: is| are| equals|[:=])$", words):
            self.add("text", bare.casefold())
            self.add("relation", "=")  # The area is
        elif (
            any(c.isdigit() for c in bare)
            or (not re.search(r"[^\W\d_]{2}", bare) and len(bare) > 1)
            or bare in ("e", "i", "d")
        ):
            self.found += _Lexer(self.grouped, self.nouns).all(bare)
        else:
            self.add("text", bare if len(bare) == 1 else bare.casefold())

    def unit(self, content: str) -> bool:
        """Read words with exponents and divisions, like `m/s^2`; False if this is something else."""
        matches = list(_UNIT.finditer(content))
        if "".join(m[0] for m in matches) != content or not re.search(r"[/^]", content):
            return False
        if any(len(m["word"]) == 1 and m["word"] in "xyz" for m in matches if m["word"]):
            return False
        for match in matches:
            if match["word"]:
                self.add(
                    "text", match["word"] if len(match["word"]) == 1 else match["word"].casefold()
                )
            elif match["power"]:
                self.found += [Token("^", "^"), Token("{", "{")]
                self.found += [Token("-", "-")] * match["power"].startswith("-")
                self.found += [Token("number", match["power"].lstrip("-")), Token("}", "}")]
            elif match["sign"]:
                self.add(match["sign"], match["sign"])
        return True

    def word(self, run: str, text: str, end: int, after_space: bool) -> int:
        """A run of letters: a function, a word, or a product of symbols."""
        lower = run.casefold()
        if run in _SPOKEN or lower in ("and", "or"):
            self.add(*_TOKENS[run if run in _TOKENS else lower])
        elif run in _GREEK:
            end, tail = self.suffix(text, end)
            self.add("symbol", run + tail)
        elif len(run) > 3 or lower in _WORDS or self.noun(run, after_space):
            self.add("text", lower if run[1:].islower() else run)
        else:
            for letter in run[:-1]:
                self.add("symbol", letter)
            end, tail = self.suffix(text, end)
            self.add("symbol", run[-1] + tail)
        return end

    def noun(self, run: str, after_space: bool) -> bool:
        """Whether two or three letters, or the one of an article, are words and no variables."""
        before = self.found[-1].kind if self.found else ""
        if before == "text" and after_space:
            return len(run) > 1 or run == "a"
        if before == "/" and [token.kind for token in self.found[-2:-1]] == ["text"]:
            return True  # km/h
        if len(run) == 1 or not self.nouns or before not in ("number", "}", ")", "%", "°"):
            return False
        return run.lower() in _SHORT or (after_space and len(run) == 3 and not run.isupper())


def _behind_argument(text: str, start: int) -> int:
    """Where the argument that starts here ends: a group, a command, a character."""
    if match := _ARGUMENT.match(text, start):
        return match.end()
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "{") - (text[place] == "}")
        if depth == 0 and text[place] == "}":
            return place + 1
    raise UnreadableError


def _flat(text: str) -> str:
    """The text of a subscript or an accent's argument, without what only shapes it."""
    text = re.sub(r"\\(?:text|mathrm|mbox|operatorname)(?![a-zA-Z])", "", text)
    return re.sub(r"[\s{}\\]", "", text)


def _repeating(start: str, period: str) -> str:
    """0.1\\overline{6} as a fraction in digits."""
    whole, digits = start.split(".")
    scale, nines = 10 ** len(digits), 10 ** len(period) - 1
    return f"{int((whole or '0') + digits) * nines + int(period)}/{scale * nines}"
