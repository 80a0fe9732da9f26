"""`spot completion bash|zsh|fish`: a script that completes commands, options, keys and values.

The script is generated from the schema and from conf/, so that a <Tab> starts no Python. Make it again
after adding an option. Keys are completed level by level: `loss.d<Tab>` → `loss.delta.`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import combinations
from typing import Any, get_args, get_type_hints

from spot.cli import manual
from spot.config import ARMS, LOSSES, BenchmarkConfig, Config, Tuned, compose
from spot.config.groups import DATA_ARMS
from spot.pipeline.run_status import STATES
from spot.utils.errors import UserError

SHELLS = ("bash", "zsh", "fish")
FLAGS = {
    "config": ("--diff", "--json", "-m"),
    "run": ("-m", "--multirun", "--dry-run"),
    "completion": SHELLS,
    "connect4": ("generate", "out=", "count=", "seed="),
    "grade": ("benchmark=", "responses=", "out="),
    "help": tuple(manual.COMMANDS),
    "runs": ("output=", "status="),
    "show": ("newest",),
    "dashboard": ("port=", "once="),
    "pairs": ("out=",),
    "report": ("--dry-run", "out=", "archive="),
    "workspace": ("entity=", "project=", "out="),
}
PATHS = {"show": "d", "compare": "d", "dashboard": "d", "report": "f", "pairs": "f"}  # as compgen's
VALUES = {"status": STATES}  # of arguments that are no keys


def command(arguments: Sequence[str]) -> None:
    """Print the script for a shell. Raises UserError for any other."""
    if len(arguments) != 1 or arguments[0] not in SHELLS:
        raise UserError(f"name your shell: spot completion {'|'.join(SHELLS)}.")
    print(script(arguments[0]))


def script(shell: str) -> str:
    """The completion script for bash, zsh or fish."""
    ends = {"bash": BASH, "zsh": ZSH, "fish": FISH}
    data = _fish_data() if shell == "fish" else _posix_data()
    return f"# spot completion {shell}: made by `spot completion {shell}`.\n{data}\n{ends[shell]}"


def words() -> dict[str, list[str]]:
    """Every key and group with the values it may have; none where any value may stand."""
    groups = compose.groups()
    found = {f"{group}=": options for group, options in groups.items() if group != "benchmark"}
    found["benchmark="] = groups["benchmark"]
    found["generator@evaluator="] = [*groups["generator"], "null"]
    keys = dict(_keys(Config, "", groups["benchmark"]))
    keys["data.matched="] = [  # where one arm alone would be no list
        f"[{','.join(arms)}]"
        for count in range(2, len(DATA_ARMS) + 1)
        for arms in combinations(DATA_ARMS, count)
    ]
    return found | {key: values for key, values in keys.items() if key not in found}


def _keys(kind: type, prefix: str, benchmarks: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """The keys of a dataclass and of those inside it."""
    hints = get_type_hints(kind)
    for entry in fields(kind):
        hint, key = hints[entry.name], f"{prefix}{entry.name}"
        inner = next(
            (o for o in (hint, *get_args(hint)) if isinstance(o, type) and is_dataclass(o)), None
        )
        if inner is BenchmarkConfig or inner is Tuned:  # mappings by name
            names = benchmarks if inner is BenchmarkConfig else dict.fromkeys([*ARMS, *LOSSES])
            for name in names:
                yield from _keys(inner, f"{key}.{name}.", benchmarks)
        elif inner is not None:
            yield from _keys(inner, f"{key}.", benchmarks)
        else:
            yield f"{key}=", _values(kind, entry.name, hint)


def _values(kind: type, name: str, hint: Any) -> list[str]:
    """What a key may be: the schema is asked by giving it a value that no key can have."""
    if hint is bool:
        return ["true", "false"]
    if str not in (hint, *get_args(hint)):
        return []
    usual = {f.name: "x" for f in fields(kind) if f.name == "name"}
    try:
        kind(**usual | {name: "\0"})
    except (UserError, TypeError) as error:
        if match := re.search(r"=\0 is unknown: choose one of (.*)\.$", str(error)):
            return match[1].split(", ")
    return []


def _posix_data() -> str:
    """The words as functions of bash and zsh: a word a line."""
    found = words()
    cases = "\n".join(
        f"    {_quoted(key)}) echo {_quoted(chr(10).join(values))} ;;"
        for key, values in _valued(found)
    )
    flags = "\n".join(
        f"    {name}) echo {_quoted(chr(10).join(_flags(name)))} ;;" for name in _commands()
    )
    paths = "\n".join(f"    {name}) echo {kind} ;;" for name, kind in PATHS.items())
    configured = "|".join(_configured())
    return "\n".join(
        [
            f"_spot_commands={_quoted(chr(10).join(manual.COMMANDS))}",
            f"_spot_keys={_quoted(chr(10).join(found))}",
            f'_spot_values() {{\n  case "$1" in\n{cases}\n  esac\n}}',
            f'_spot_flags() {{\n  case "$1" in\n{flags}\n  esac\n}}',
            f'_spot_paths() {{\n  case "$1" in\n{paths}\n  esac\n}}',
            f'_spot_configured() {{\n  case "$1" in\n    {configured}) return 0 ;;\n  esac\n  return 1\n}}',
        ]
    )


def _fish_data() -> str:
    found = words()

    def case(key: str, values: Sequence[str]) -> str:
        return f"    case {_quoted(key)}\n      string split ' ' -- {_quoted(' '.join(values))}"

    values = "\n".join(case(key, values) for key, values in _valued(found))
    flags = "\n".join(case(name, _flags(name)) for name in _commands())
    return "\n".join(
        [
            f"set -g _spot_commands {' '.join(manual.COMMANDS)}",
            f"set -g _spot_keys {' '.join(map(_quoted, found))}",
            f"set -g _spot_configured {' '.join(_configured())}",
            f"set -g _spot_paths {' '.join(PATHS)}",
            f"function _spot_values\n  switch $argv[1]\n{values}\n  end\nend",
            f"function _spot_flags\n  switch $argv[1]\n{flags}\n  end\nend",
        ]
    )


def _valued(found: Mapping[str, Sequence[str]]) -> list[tuple[str, Sequence[str]]]:
    """What stands before an =, with the values it may have, where they are known."""
    keys = {key.removesuffix("="): values for key, values in found.items() if values}
    return list((keys | VALUES).items())


def _commands() -> list[str]:
    return [*manual.COMMANDS, "help"]


def _configured() -> list[str]:
    return [name for name, told in manual.COMMANDS.items() if told.configured]


def _flags(name: str) -> list[str]:
    if name == "help":
        return list(FLAGS[name])
    staged = ("--dry-run",) if manual.COMMANDS[name].staged else ()
    return list(dict.fromkeys([*FLAGS.get(name, ()), *staged, "--help"]))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# What follows $1 up to the next dot, for every word that begins with it; and the values of a list
# after the last comma, as sweeps are written.
POSIX_CORE = r"""
_spot_candidates() {  # command, what is typed of the word → a candidate a line
  local command="$1" typed="$2" key list
  case "$typed" in
    *=*)
      key="${typed%%=*}"; list="${typed#*=}"; list="${list%"${list##*,}"}"
      _spot_values "$key" | while IFS= read -r word; do
        case "$key=$list$word" in
          "$typed"*) echo "$key=$list$word" ;;
          *) case "$key=$word" in "$typed"*) echo "$key=$word" ;; esac ;;  # a list in brackets
        esac
      done ;;
    *)
      _spot_flags "$command" | while IFS= read -r word; do
        case "$typed:$word" in
          :-*) [ -n "$(_spot_paths "$command")" ] && continue ;;  # on an empty word: folders
        esac
        case "$word" in "$typed"*) echo "$word" ;; esac
      done
      if _spot_configured "$command"; then
        echo "$_spot_keys" | while IFS= read -r word; do
          case "$word" in
            "$typed"*)
              rest="${word#"$typed"}"
              case "$rest" in *.*) echo "$typed${rest%%.*}." ;; *) echo "$word" ;; esac ;;
          esac
        done | uniq
      fi ;;
  esac
}
"""

BASH = (
    POSIX_CORE
    + r"""
_spot() {
  local line="${COMP_LINE:0:COMP_POINT}" typed command word breaks cut paths
  typed="${line##*[[:space:]]}"
  command="${COMP_WORDS[1]}"
  COMPREPLY=()
  local IFS=$'\n'
  if [ "$COMP_CWORD" -eq 1 ] && [[ "$typed" != *[=+]* ]]; then
    COMPREPLY=($(compgen -W "$_spot_commands" -- "$typed"))
    return
  fi
  COMPREPLY=($(_spot_candidates "$command" "$typed"))
  paths="$(_spot_paths "$command")"
  case "${typed%%=*}" in -*) ;; "$typed"|*/*)  # a folder's own name may hold an =
    if [ -n "$paths" ]; then
      COMPREPLY+=($(compgen "-$paths" -- "$typed"))
      compopt -o filenames 2>/dev/null
    fi ;;
  esac
  if [ "${#COMPREPLY[@]}" -eq 0 ]; then
    case "$typed" in *=*) typed="${typed#*=}" ;; esac
    COMPREPLY=($(compgen -f -- "$typed"))
    compopt -o filenames 2>/dev/null
    return
  fi
  if [ "${#COMPREPLY[@]}" -eq 1 ]; then
    case "${COMPREPLY[0]}" in *=|*.) compopt -o nospace 2>/dev/null ;; esac
  fi
  # readline replaces what follows the last break (= and @ by default), not the whole word
  breaks="${COMP_WORDBREAKS//[^=@:]/}"
  if [ -n "$breaks" ]; then
    cut="${typed%"${typed##*[$breaks]}"}"
    COMPREPLY=("${COMPREPLY[@]#"$cut"}")
  fi
}
complete -F _spot spot
"""
)

ZSH = (
    POSIX_CORE
    + r"""
_spot() {
  local typed="$PREFIX" command="${words[2]}"
  local -a found
  if (( CURRENT == 2 )) && [[ "$typed" != *[=+]* ]]; then
    found=(${(f)_spot_commands})
    compadd -- $found
    return
  fi
  found=(${(f)"$(_spot_candidates "$command" "$typed")"})
  if (( ${#found} == 0 )); then
    [[ "$typed" == *=* ]] && compset -P '*='
    _files
    return
  fi
  compadd -S '' -- ${(M)found:#*[.=]}
  compadd -- ${found:#*[.=]}
  [[ "$typed" == -* ]] && return
  case "$(_spot_paths "$command")" in
    d) _files -/ ;;
    f) _files ;;
  esac
}
compdef _spot spot
"""
)

FISH = r"""
function _spot_complete
  set -l before (commandline -opc)
  set -l typed (commandline -ct)
  if test (count $before) -eq 1; and not string match -q '*=*' -- $typed
    printf '%s\n' $_spot_commands
    return
  end
  set -l command $before[2]
  if string match -q '*=*' -- $typed
    set -l parts (string split -m1 = -- $typed)
    set -l list (string match -r '^.*,' -- $parts[2])
    for word in (_spot_values $parts[1])
      echo "$parts[1]=$list$word"
    end
    return
  end
  _spot_flags $command
  if contains -- $command $_spot_configured
    set -l depth (count (string split . -- $typed))
    for word in $_spot_keys
      set -l parts (string split . -- $word)
      if test (count $parts) -gt $depth
        echo (string join . -- $parts[1..$depth]).
      else
        echo $word
      end
    end | uniq
  end
end
function _spot_free  # whether only a file can be meant
  set -l typed (commandline -ct)
  set -l before (commandline -opc)
  if test (count $before) -gt 1; and contains -- $before[2] $_spot_paths
    not string match -q -- '-*' $typed
    return
  end
  not _spot_complete | string match -q -- "$typed*"
end
complete -c spot -f -a '(_spot_complete)'
complete -c spot -n _spot_free -F
"""
