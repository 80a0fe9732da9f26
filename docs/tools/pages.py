"""The documentation as pages: `python docs/tools/pages.py [folder]`, by default site/.

docs/, pages made from code and files of the repository that are pages, too, are put into one folder, which
Zensical builds. A page that is in no navigation, a link to nowhere, a missing image and an include that was not made are errors.
"""

from __future__ import annotations

import html
import math
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import losses  # beside this file, as reference and supported are
import reference
import supported
import yaml

from spot.cli import arguments

ROOT = Path(__file__).resolve().parents[2]
DOCS, STUDIES = ROOT / "docs", ROOT / "experiments" / "laptop"
FROM_ELSEWHERE = {  # files of the repository that are pages, too
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "performance/README.md": "measurements.md",
    "experiments/laptop/README.md": "laptop/index.md",
}
LEFT_OVER = re.compile(r"-\s?-?\s?8\s?<\s?-.*|<!-- (?:commands|studies) -->")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def main() -> None:
    target = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "site").resolve()
    with tempfile.TemporaryDirectory() as folder:
        together(Path(folder))
        command = [sys.executable, "-m", "zensical", "build", "--strict", "-f", "zensical.toml"]
        if subprocess.run(command, cwd=folder).returncode:
            sys.exit(1)
        if found := faults(Path(folder, "site")):
            sys.exit("\n".join(found))
        # pages that are opened from disk ask for it, and cannot search: that script would come from a network
        Path(folder, "site", "search.js").touch()
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(Path(folder, "site"), target)


def together(folder: Path) -> None:
    """Everything that is built. Raises ValueError for a page that is not in the navigation."""
    settings = (DOCS / "zensical.toml").read_text("utf-8")
    (folder / "zensical.toml").write_text(settings, encoding="utf-8")
    shutil.copytree(DOCS / "examples", folder / "examples")
    shutil.copytree(DOCS / "assets", folder / "docs" / "assets")
    shutil.copytree(DOCS / "images", folder / "docs" / "images")
    for figure in STUDIES.glob("*/figures/*.png"):
        place = folder / "docs" / "laptop" / figure.relative_to(STUDIES)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(figure, place)
    shutil.copy(katex(), folder / "docs" / "assets")
    for uri, text in pages().items():
        if f'"{uri}"' not in settings:
            raise ValueError(f"{uri} is not in the navigation of docs/zensical.toml.")
        place = folder / "docs" / uri
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """Every page by its place: those of docs/, from elsewhere and out of the code."""
    by_hand = {path.relative_to(DOCS).as_posix(): path for path in DOCS.rglob("*.md")}
    sources = {
        f"docs/{uri}": uri for uri in by_hand if uri.split("/")[0] not in ("examples", "tools")
    }
    found = reference.pages() | {"supported.md": supported.page(), "losses.md": losses.page()}
    for source, uri in (sources | published()).items():
        text = relinked((ROOT / source).read_text("utf-8"), source, uri)
        made = {"<!-- commands -->": commands, "<!-- studies -->": studies}
        for mark, make in made.items():
            text = text.replace(mark, make()) if mark in text else text
        found[uri] = text
    return found


def faults(site: Path) -> list[str]:
    """What Zensical does not see: an include or a mark of ours that was left as it is, a missing image."""
    found = []
    for path in sorted(site.rglob("*.html")):
        name, text = path.relative_to(site), path.read_text("utf-8")
        if left := LEFT_OVER.search(html.unescape(re.sub(r"<[^>!]*>", "", text))):
            found.append(f"{name} shows {left[0]!r}: an include that was not made.")
        images = re.findall(r'<img [^>]*src="([^":#]+)[#"]', text)
        missing = [image for image in images if not (path.parent / image).is_file()]
        found += [f"{name} shows {image}, which is not there." for image in missing]
    return found


def published() -> dict[str, str]:
    """Which page of the site each file of the repository is, besides those in docs/."""
    reports = sorted(STUDIES.glob("*/report.md"))
    return FROM_ELSEWHERE | {
        path.relative_to(ROOT).as_posix(): f"laptop/{path.parent.name}/report.md"
        for path in reports
    }


def katex() -> Path:
    """The script that a package carries, so that none is committed and none is fetched."""
    spec = find_spec("sphinxcontrib.katex")
    assert spec is not None, "pip install sphinxcontrib-katex"
    assert spec.origin is not None
    return Path(spec.origin).with_name("katex.min.js")


def commands() -> str:
    """A table of all commands and of the exit codes, then a section for each command."""
    lines: list[str] = []
    for title, group in arguments.GROUPS.items():
        lines += ["", f"{title}:", "", "| command | |", "|---|---|"]
        lines += [
            f"| [`spot {name}`](#spot-{name}) | {reference.cell(one.summary)} |"
            for name, one in group.items()
        ]
    lines += ["", "## Exit codes", "", "| code | |", "|---:|---|"]
    lines += [f"| {code} | {reference.cell(says)} |" for code, says in arguments.EXIT_CODES.items()]
    for title, group in arguments.GROUPS.items():
        lines += ["", f"## {title}"]
        for name, one in group.items():
            lines += [
                "",
                f"### spot {name} {{ #spot-{name} }}",
                "",
                f"    spot {name} {one.usage}",
                "",
            ]
            lines += [html.escape(one.says, quote=False)]
            lines += ["", *(f"    {example}" for example in one.examples)]
    return "\n".join(lines)


def studies() -> str:
    """The table of all studies: what each asks, what it varies and how many jobs that is."""
    lines = ["| study | | varies | jobs | on 2 cores |", "|---|---|---|---:|---:|"]
    for file in sorted((ROOT / "experiments/paper").glob("*.yaml")):
        text = file.read_text("utf-8")
        params = yaml.safe_load(text)["hydra"]["sweeper"]["params"]
        counts = [len(str(values).split(",")) for values in params.values()]
        comment = re.findall(r"^# (?!@)(.*)", text.split("python train.py")[0], re.M)
        says = " ".join(line for line in comment if line.strip())
        varies = ", ".join(f"`{key.lstrip('+')}`" for key in params)
        took = re.search(r"[Ss]ome (\d+ minutes)", text)
        row = [f"`+paper={file.stem}`", says, varies, math.prod(counts), took[1] if took else ""]
        lines.append(f"| {' | '.join(map(str, row))} |")
    return "\n".join(lines)


def relinked(text: str, source: str, uri: str) -> str:
    """Links of a file of the repository, as they must be on its page of the site.

    A link to a file that is no page becomes its text: the reader has the repository.
    """

    def fixed(match: re.Match[str]) -> str:
        image, words, target, anchor = match[1], match[2], match[3], match[4] or ""
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        page = published().get(path) or published().get(f"{path}/README.md")
        if page is None and path.startswith("docs/"):
            page = path.removeprefix("docs/")
        if page is None and path.startswith("experiments/laptop/") and path.endswith(".png"):
            page = path.removeprefix("experiments/")
        if page is None:
            return words if re.fullmatch(r"`.*`", words) or image else f"`{path}`"
        here = posixpath.relpath(page, posixpath.dirname(uri) or ".")
        return f"{image}[{words}]({here}{anchor})"

    return LINK.sub(fixed, text)


if __name__ == "__main__":
    main()
