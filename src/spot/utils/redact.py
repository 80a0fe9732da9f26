"""What a report may say of the machine it was made on: no private directory, no server, no key.

Of a path the last component stays, unless it names somebody's home; of an address its scheme and the
last component of its path. Rather too much goes than too little: `~name/option`, Hydra's way to drop a
choice, reads like a home and is cut like one.
"""

from __future__ import annotations

import re
from typing import Any

HOMES = {"home", "users", "user"}  # folders whose children are people
START = r"(?<![^\s=,'\"\[({:|;<>])"  # of a word, or behind what separates values
INSIDE = r"[^\s,'\"\])}|;:<>]"  # of a path
PLACES = re.compile(
    rf"""
    (?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)
        (?P<address>[^\s/'",\[\](){{}}|]*(?:\[[^\]\s]*\])?[^\s/'",\[\](){{}}|]*)
        (?P<below>[^\s'",\])}}|]*)
    | {START}[\w.+-]+@[\w-]+(?:\.[\w-]+)*:(?P<copied>[^\s,'"\])}}|;]+)     # me@host:/srv/x
    | [\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{{2,}}\b                       # me@host.corp
    | {START}(?P<windows>(?:[A-Za-z]:\\|[A-Z]:/|\\\\[^\s\\]+\\){INSIDE}*)
    | {START}(?P<path>(?:~[\w.-]*|\.\.(?:/\.\.)*)?/{INSIDE}+)
    | \b\d{{1,3}}(?:\.\d{{1,3}}){{3}}(?P<port>:\d+)                        # 10.0.0.1:8000
    | \b[\w-]+(?:\.[\w-]+)+(?P<named_port>:\d{{2,5}})\b                    # host.corp:8000
    """,
    re.VERBOSE,
)
# A value that is a path as a whole, blanks and all: `/home/jane doe/x`, `data.path=/home/jane doe/x`.
WHOLE = re.compile(
    r"(?P<key>[\w.+/@-]*=)?(?:file://)?(?:(?:~[\w.-]*)?/|\.\./|[A-Za-z]:\\|\\\\)[^\n]*"
)
QUOTED = re.compile(r"'([^'\n]*)'|\"([^\"\n]*)\"")
SECRET_NAME = r"(?:^|(?<=[\s.+_'\"]))(?:(?:api|access|secret|private)_?key|password|passwd|secret|(?:api|auth|access|bearer|hf)_?token)"
SECRETS = re.compile(
    rf"(?i:(?P<name>{SECRET_NAME}[=:]\s*)(?!null\b)[^\s,'\"\]}})]+)"
    r"|\b(?:[srp]k-|hf_|gh[pousr]_|github_pat_|xox[a-z]-|AIza)[\w-]{8,}"
)
SECRET_KEY = re.compile(rf"(?i:[\w.]*{SECRET_NAME})$")


def scrubbed(value: Any) -> Any:
    """JSON values with `/home/me/data/x.jsonl` as `…/x.jsonl` and `http://host:80/v1` as `http://…/v1`.

    Scrubbing what is scrubbed changes nothing.
    """
    if isinstance(value, str):
        return _text(SECRETS.sub(lambda m: f"{m['name'] or ''}…", value))
    if isinstance(value, dict):
        return {scrubbed(key): _entry(key, of) for key, of in value.items()}
    if isinstance(value, (list, tuple)):
        return [scrubbed(of) for of in value]
    return value


def _entry(key: Any, value: Any) -> Any:
    hidden = isinstance(value, str) and value and SECRET_KEY.match(str(key))
    return "…" if hidden else scrubbed(value)


def _text(text: str) -> str:
    if whole := WHOLE.fullmatch(text):
        key = whole["key"] or ""
        return key + _path(text[len(key) :])
    return PLACES.sub(_place, QUOTED.sub(_quoted, text))


def _quoted(found: re.Match[str]) -> str:
    quote, text = found[0][0], found[0][1:-1]
    return quote + (_text(text) if WHOLE.fullmatch(text) else text) + quote


def _place(found: re.Match[str]) -> str:
    if found["scheme"]:
        below = found["below"].partition("?")[0]
        return f"{found['scheme']}{_path(below) if below.strip('/') else '…'}"
    for path in ("copied", "windows", "path"):
        if found[path]:
            return _path(found[path])
    return "…" + (found["port"] or found["named_port"] or "")


def _path(path: str) -> str:
    """`…/` and the last component; `…` alone where that is somebody's home."""
    parts = [part for part in re.split(r"[/\\]+", path) if part]
    if not parts:
        return path
    above = parts[-2].lower() if len(parts) > 1 else ""
    if above in HOMES or (len(parts) == 1 and path.startswith("~")):
        return "…"
    return "…/" + PLACES.sub(_place, parts[-1])
