"""The size and order of the code: `make house` prints them and fails where a limit is not kept.

A goal is where the code should go; a limit is kept by every change.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import grimp
import networkx

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "src"
MOST_LINES = 23_000  # of Python in src: a goal
MOST_TEST_LINES = 0.8  # of those in src: a goal
MOST_ENTRIES = 12  # of src/spot
LONGEST_FILE = 400
LONGEST_FUNCTION = 80
MEDIAN_FUNCTION = 8
MOST_PARAMETERS = 8

Function = ast.FunctionDef | ast.AsyncFunctionDef


def main() -> None:
    files = python_files(SOURCES)
    lines = {file: count_lines(file) for file in files}
    tests = sum(count_lines(file) for file in python_files(ROOT / "tests"))
    functions = [(file, function) for file in files for function in functions_of(file)]
    lengths = {named(*found): length(found[1]) for found in functions}
    parameters = {named(*found): parameters_of(found[1]) for found in functions}
    entries = [path.name for path in (SOURCES / "spot").iterdir() if path.name != "__pycache__"]
    total = sum(lines.values())
    longest_file = max(lines, key=lambda file: lines[file])
    longest, most = (max(of, key=lambda name: of[name]) for of in (lengths, parameters))
    goals = [
        ("lines of Python in src", total, MOST_LINES, ""),
        ("lines of tests", tests, int(MOST_TEST_LINES * total), ""),
    ]
    limits = [
        ("entries in src/spot", len(entries), MOST_ENTRIES, ""),
        ("import circles", len(circles := import_circles()), 0, " ".join(circles[:1])),
        ("longest file", lines[longest_file], LONGEST_FILE, short(longest_file)),
        ("longest function", lengths[longest], LONGEST_FUNCTION, longest),
        ("median function", round(median(lengths.values())), MEDIAN_FUNCTION, ""),
        ("most parameters", parameters[most], MOST_PARAMETERS, most),
    ]
    for kind, rows in (("goal", goals), ("limit", limits)):
        for name, value, most_allowed, where in rows:
            over = "over the" if value > most_allowed else "within the"
            print(f"{name:<24}{value:>8,}  {over} {kind} of {most_allowed:,}  {where}".rstrip())
    sys.exit(any(value > limit for _, value, limit, _ in limits))


def python_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def count_lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def functions_of(file: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, Function):
            yield node


def length(function: Function) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def parameters_of(function: Function) -> int:
    """How many a caller can give: `self` is none."""
    given = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return sum(argument.arg not in ("self", "cls") for argument in given)


def named(file: Path, function: Function) -> str:
    return f"{short(file)}:{function.name}"


def short(file: Path) -> str:
    return str(file.relative_to(SOURCES))


def import_circles() -> list[str]:
    """Modules that import each other, also by imports inside functions; one text a circle."""
    graph = grimp.build_graph("spot", cache_dir=None)
    imports = networkx.DiGraph()
    for module in graph.modules:
        imports.add_edges_from(
            (module, other) for other in graph.find_modules_directly_imported_by(module)
        )
    found = networkx.strongly_connected_components(imports)
    return [" ↔ ".join(sorted(circle)) for circle in found if len(circle) > 1]


if __name__ == "__main__":
    main()
