"""What mkdocs does beside reading `docs/`: generated pages, pages from elsewhere, KaTeX, links."""

from __future__ import annotations

import html
import math
import posixpath
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import losses  # beside this file, as reference and supported are
import reference
import supported
import yaml
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from spot.cli import arguments

ROOT = Path(__file__).resolve().parents[2]
FROM_ELSEWHERE = {  # files of the repository that are pages, too
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "performance/README.md": "measurements.md",
    "experiments/laptop/README.md": "laptop/index.md",
}
LEFT_OVER = re.compile(r"-\s?-?\s?8\s?<\s?-.*|<!-- (?:commands|studies) -->")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def published() -> dict[str, str]:
    """Which page of the site each file of the repository is, besides those in docs/."""
    reports = sorted(ROOT.glob("experiments/laptop/*/report.md"))
    return FROM_ELSEWHERE | {
        path.relative_to(ROOT).as_posix(): f"laptop/{path.parent.name}/report.md"
        for path in reports
    }


def on_config(config: Any) -> Any:
    """Put every report of a laptop study into the navigation, and every group of the configuration."""
    sections = {name: pages for section in config.nav for name, pages in section.items()}
    for uri in sorted(set(published().values()) - set(FROM_ELSEWHERE.values())):
        name = re.sub(r"([a-z])(\d)", r"\1 \2", uri.split("/")[1]).replace("_", " ").capitalize()
        sections["Results"].append({f"{name}, laptop": uri})
    sections["Configuration"] += [
        uri for uri in sorted(reference.pages()) if uri not in sections["Configuration"]
    ]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add what is not written by hand in docs/."""
    written = reference.pages() | {"supported.md": supported.page(), "losses.md": losses.page()}
    for uri, text in written.items():
        files.append(File.generated(config, uri, content=text))
    for source, uri in published().items():
        text = (ROOT / source).read_text("utf-8")
        files.append(File.generated(config, uri, content=relinked(text, source, uri)))
    for figure in sorted(ROOT.glob("experiments/laptop/*/figures/*.png")):
        uri = f"laptop/{figure.relative_to(ROOT / 'experiments/laptop').as_posix()}"
        files.append(File.generated(config, uri, abs_src_path=str(figure)))
    uri = "assets/katex.min.js"
    files.append(File.generated(config, uri, abs_src_path=str(katex())))
    return files


def katex() -> Path:
    """The script that a package carries, so that none is committed and none is fetched."""
    spec = find_spec("sphinxcontrib.katex")
    assert spec is not None, "pip install sphinxcontrib-katex"
    assert spec.origin is not None
    return Path(spec.origin).with_name("katex.min.js")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill in commands and studies; fix links that leave docs/."""
    source = f"docs/{page.file.src_uri}"
    if page.file.generated_by is None:
        markdown = relinked(markdown, source, page.file.src_uri)
    return markdown.replace("<!-- commands -->", commands()).replace("<!-- studies -->", studies())


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """Refuse a page that shows an include, or a mark of ours, in place of what belongs there."""
    if left := LEFT_OVER.search(html.unescape(re.sub(r"<[^>!]*>", "", content))):
        raise PluginError(f"{page.file.src_uri} shows {left[0]!r}: an include that was not made.")
    return content


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
