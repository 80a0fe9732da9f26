r"""The tokens of a final answer, after what has no meaning (`\left`, `$`, spacing) is gone."""

from __future__ import annotations

import re
from typing import NamedTuple


class UnreadableError(ValueError):
    """This is no mathematics that can be read to its end."""


class Token(NamedTuple):
    kind: str
    text: str


FUNCTIONS = frozenset(
    """sin cos tan cot sec csc sinh cosh tanh arcsin arccos arctan arccot arcsec arccsc ln log lg exp""".split()
)
_PLAIN_FUNCTIONS = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"} | {
    n: n for n in FUNCTIONS
}
_GREEK = frozenset(
    """alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon
    phi chi psi omega""".split()
)
_PLAIN_WORDS = frozenset("yes no odd all none".split())
RELATIONS = {
    "=": "=", "<": "<", ">": ">", ":": "|", "≤": "≤", "≥": "≥", "<=": "≤", ">=": "≥", "!=": "≠", "==": "=",
    "le": "≤", "leq": "≤", "leqslant": "≤", "leqq": "≤", "ge": "≥", "geq": "≥", "geqslant": "≥",
    "geqq": "≥", "lt": "<", "gt": ">", "ne": "≠", "neq": "≠", "in": "∈", "notin": "∉", "ni": "∋",
    "equiv": "≡", "pmod": "mod", "bmod": "mod", "mod": "mod", "approx": "≈", "sim": "∼", "simeq": "≈", "cong": "≅",
    "mid": "|", "to": "→", "rightarrow": "→", "mapsto": "↦", "implies": "⇒", "Rightarrow": "⇒",
    "iff": "⇔", "Leftrightarrow": "⇔", "subset": "⊂", "subseteq": "⊆", "perp": "⊥", "parallel": "∥",
    "colon": "|", "propto": "∝", "ll": "≪", "gg": "≫", "≠": "≠", "∈": "∈", "≈": "≈", "nmid": "∤",
    "land": "∧", "wedge": "∧", "lor": "∨", "vee": "∨",
}  # fmt: skip
_JOINS = {
    "cup": "∪",
    "cap": "∩",
    "setminus": "∖",
    "backslash": "∖",
    "∪": "∪",
    "∩": "∩",
    "bigcup": "∪",
}
_COMMANDS = {
    "cdot": ("*", "*"), "times": ("*", "*"), "ast": ("*", "*"), "div": ("/", "/"), "pm": ("±", "+"),
    "mp": ("±", "-"), "pi": ("symbol", "π"), "infty": ("symbol", "∞"), "frac": ("frac", ""),
    "sqrt": ("sqrt", ""), "binom": ("binom", ""), "lfloor": ("⌊", ""), "rfloor": ("⌋", ""), "lceil": ("⌈", ""),
    "rceil": ("⌉", ""), "lvert": ("|", ""), "rvert": ("|", ""), "vert": ("|", ""), "lVert": ("‖", ""),
    "rVert": ("‖", ""), "Vert": ("‖", ""), "langle": ("(", ""), "rangle": (")", ""), "partial": ("symbol", "∂"),
    "lbrace": ("\\{", ""), "rbrace": ("\\}", ""), "lbrack": ("[", ""), "rbrack": ("]", ""),
    "ldots": ("symbol", "…"), "cdots": ("symbol", "…"), "dots": ("symbol", "…"), "dotsc": ("symbol", "…"),
    "emptyset": ("symbol", "∅"), "varnothing": ("symbol", "∅"), "imath": ("symbol", "i"), "lgroup": ("(", ""),
    "varphi": ("symbol", "phi"), "varepsilon": ("symbol", "epsilon"), "degree": ("°", ""),
}  # fmt: skip
_MATRICES = dict.fromkeys(("pmatrix", "bmatrix", "Bmatrix", "smallmatrix", "array"), "matrix")
_ACCENTS = frozenset(
    "vec bar hat dot ddot tilde overline underline widehat widetilde overrightarrow overleftrightarrow overset mathbb stackrel".split()
)
_UNICODE = {
    "−": "-", "–": "-", "—": "-", "×": "*", "·": "*", "∙": "*", "⋅": "*", "÷": "/", "π": r"\pi ", "√": r"\sqrt ",
    "∞": r"\infty ", "²": "^2", "³": "^3", "½": r"\frac12 ", "¼": r"\frac14 ", "¾": r"\frac34 ", "±": r"\pm ",
    "′": "'", "’": "'", "…": r"\ldots ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "λ": r"\lambda ",
    "€": "", "£": "", "¥": "", "，": ", ", "º": "°",
}  # fmt: skip

_GONE = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?)(?![a-zA-Z])\.?|\\(?:displaystyle|textstyle|limits|nolimits|hline|rm|bf)(?![a-zA-Z])"
    r"|\\!|(?<!\\)\$|\\\$"
)
_FONTS = re.compile(
    r"\\(?:mathbf|mathit|boldsymbol|bm|mathcal|mathsf|mathfrak|mathscr)(?![a-zA-Z])"
)
_GROUPS = re.compile(r"(?<![\d.])(\d{1,3})((?:(?:\{,\}|,?\s*\\[,;: !]|~)\s*\d{3})+)(?!\d)")
_DEGREES = re.compile(
    r"\^\s*(?:\{\s*\\(?:circ|degree)\s*\}|\\circ(?![a-zA-Z]))|\\degree(?![a-zA-Z])"
)
_CELSIUS = re.compile(r"°\s*(?:\\(?:text|mathrm)\s*\{\s*)?([CF])(?![a-zA-Z])\s*\}?")
_MODULUS = re.compile(
    r"\(\s*\\?(?:b?mod|text\s*\{\s*mod\s*\}|mathrm\s*\{\s*mod\s*\})\s*(\w+|\{\w+\})\s*\)"
)
_TIMES_TEN = re.compile(r"(?<=\d)\s*x\s*(?=10\s*\^)")
_DOLLARS = re.compile(r"(-?)\\\$\s*(-?[\d,.]*\d)")
_CHOOSE = re.compile(r"\{([^{}]*)\\choose(?![a-zA-Z])([^{}]*)\}")
_UNIT = re.compile(r"(?P<word>[^\W\d_]+)|\^\s*\{?(?P<power>-?\d)\}?|(?P<sign>[/*])|[\s.]+")
_SPACING = re.compile(r"(?<!\\)\\[,;: ]|~|\\(?:q?quad|enspace|thinspace|space)(?![a-zA-Z])")
_TEXT = r"\\(?:text(?:bf|it|rm|sf|normal|tt)?|mathrm|mbox|hbox|operatorname\*?)\s*\{(?P<text>(?:[^{}]|\{[^{}]*\})*)\}"
_TOKEN = re.compile(
    rf"""(?P<space>\s+)
    |{_TEXT}
    |\\begin\s*\{{(?P<begin>[a-zA-Z]+)\*?\}}(?:\s*\{{[lcr|@]*\}})?|\\end\s*\{{(?P<end>[a-zA-Z]+)\*?\}}
    |(?P<newline>\\\\)
    |\\(?P<command>[a-zA-Z]+|[{{}}|%])
    |(?P<based>\d[\d.,]*)\s*_\s*(?:\{{\s*(?P<base1>\w+)\s*\}}|(?P<base2>\w))
    |(?P<repeating>\d*\.\d*)\\overline\s*\{{\s*(?P<period>\d+)\s*\}}
    |(?P<grouped>(?<![\d,.])\d{{1,3}}(?:,\d{{3}})+(?!\d)(?!,\d)(?:\.\d+)?)
    |(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{{1,3}}(?![\d.]))?)
    |(?P<relation><=|>=|!=|==|[=<>≤≥≠∈≈:])
    |(?P<word>[A-Za-z]+)
    |(?P<foreign>[^\W\d_a-zA-Z]+)
    |(?P<other>\*\*|.)""",
    re.VERBOSE | re.DOTALL,
)


def normalised(text: str) -> str:
    """An answer without dollar signs, sizes and spacing commands, in one way of writing."""
    text = "".join(_UNICODE.get(c, c if c.isprintable() else " ") for c in text)
    text = re.sub(r"(?i)(?<![a-z])([ap])\.\s?m(?![a-z])\.?", r"\1m", text)
    text = re.sub(r"\.{3,}", r"\\ldots ", text)
    text = _GROUPS.sub(lambda m: m[1] + re.sub(r"\D", "", m[2]), text).replace("{,}", ",")
    if price := _DOLLARS.fullmatch(text.strip(" .$")):
        text = f"{price[1]}{price[2]}\\text{{dollars}}"
    text = _TIMES_TEN.sub("*", _GONE.sub(" ", text))
    text = (
        _FONTS.sub("", text)
        .replace(r"\dfrac", r"\frac")
        .replace(r"\tfrac", r"\frac")
        .replace(r"\cfrac", r"\frac")
    )
    text = text.replace(r"\dbinom", r"\binom").replace(r"\tbinom", r"\binom")
    text = re.sub(r"(?<![a-z])np\.(?=[a-z])", "", text)
    text = _CELSIUS.sub(
        lambda m: r"\text{celsius}" if m[1] == "C" else r"\text{fahrenheit}",
        _DEGREES.sub("°", text),
    )
    text = _CHOOSE.sub(r"\\binom{\1}{\2}", text)
    text = _MODULUS.sub(r"\\pmod{\1}", text)
    text = _SPACING.sub(" ", text)
    return " ".join(text.split()).rstrip(" .,")


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
                match = re.compile(r"(?P<number>\d+)").match(text, place)
                assert match is not None
                self.add("number", match[0])
                place = match.end()
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
            self.add("rows", _MATRICES.get(found["begin"], found["begin"]))
        elif found["end"]:
            self.add("end", "")
        elif found["newline"]:
            self.add("newline", "")
        elif found["command"]:
            return self.command(found["command"], text, match.end())
        elif found["based"]:
            self.add("symbol", f"{found['based']}_{found['base1'] or found['base2']}")
        elif found["repeating"]:
            self.add("number", _repeating(found["repeating"], found["period"]))
        elif found["grouped"]:
            self.add("number", found["grouped"].replace(",", ""))
        elif found["number"]:
            self.add("number", found["number"].rstrip("."))
        elif found["relation"]:
            self.add("relation", RELATIONS[found["relation"]])
        elif found["word"]:
            return self.word(found["word"], text, match.end(), after_space)
        elif found["foreign"]:
            self.add("text", found["foreign"])
        else:
            self.other(match[0])
        return match.end()

    def other(self, sign: str) -> None:
        if sign in _JOINS:
            self.add("join", _JOINS[sign])
        elif sign in ",;":
            self.add(",", sign)
        elif sign == "**":
            self.add("^", "^")
        elif sign in "+-*/^!%°|()[]{}&_":
            self.add(sign, sign)
        else:
            raise UnreadableError

    def command(self, name: str, text: str, end: int) -> int:
        if name in ("{", "}"):
            self.add("\\" + name, name)
        elif name == "|":
            self.add("‖", "")
        elif name == "%":
            self.add("%", "%")
        elif name in _COMMANDS:
            self.add(*_COMMANDS[name])
        elif name in FUNCTIONS:
            self.add("function", name)
        elif name in RELATIONS:
            self.add("relation", RELATIONS[name])
        elif name in _JOINS:
            self.add("join", _JOINS[name])
        else:
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
        while True:
            match = re.compile(r"\s*(?:'|\^\s*\{?\s*\\prime\s*\}?)").match(text, end)
            if match:
                tail, end = tail + "'", match.end()
                continue
            match = re.compile(r"\s*_\s*").match(text, end)
            if not match:
                return end, tail
            start, end = match.end(), _behind_argument(text, match.end())
            tail += "_" + _flat(text[start:end])

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
        if lower in ("and", "or") and len(run) > 1:
            self.add("or" if lower == "or" else ",", run)
        elif run in _PLAIN_FUNCTIONS:
            self.add("function", _PLAIN_FUNCTIONS[run])
        elif run == "sqrt":
            self.add("sqrt", "")
        elif run == "pi":
            self.add("symbol", "π")
        elif run in ("inf", "infty", "infinity", "oo"):
            self.add("symbol", "∞")
        elif run in _GREEK:
            end, tail = self.suffix(text, end)
            self.add("symbol", run + tail)
        elif len(run) > 3 or lower in _PLAIN_WORDS or self.noun(run, after_space):
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
        return run.lower() in SHORT_WORDS or (after_space and len(run) == 3 and not run.isupper())


SHORT_WORDS = frozenset(
    "of the per cm mm km nm ft in kg mg lb lbs oz ml mi yd hr hrs min sec ms am pm mph deg rad mol hz ev".split()
)


def _behind_argument(text: str, start: int) -> int:
    """Where the argument that starts here ends: a group, a command, a character."""
    match = re.compile(r"\s*(?:\\[a-zA-Z]+\s*\{[^{}]*\}|\\[a-zA-Z]+|[^{\s])").match(text, start)
    if match:
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
