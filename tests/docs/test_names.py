"""What the documentation names is there; fast enough for every change."""

from __future__ import annotations

import pkgutil
import re
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def test_every_name_of_the_code_exists() -> None:
    """A dotted name in the documentation is something that can be imported."""
    texts = [path.read_text("utf-8") for path in ROOT.glob("docs/**/*.md")]
    names = {name for text in texts for name in re.findall(r"`(spot(?:\.\w+)+)(?:\(\))?`", text)}
    assert len(names) > 20
    for name in sorted(names - {"spot.log"}):
        assert pkgutil.resolve_name(name) is not None, name


def test_what_is_read_without_the_site_leads_to_files_that_are_there() -> None:
    """The site's own build checks the links of its pages; some of those exist only there."""
    folders = "*.md", "performance/*.md", "experiments/**/*.md"
    links = [
        (page, target)
        for folder in folders
        for page in ROOT.glob(folder)
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8"))
        if not re.match(r"[a-z]+:", target)
    ]
    assert len(links) > 20
    assert [(page.name, to) for page, to in links if not (page.parent / to).exists()] == []


def test_the_patches_of_the_worked_examples_apply() -> None:
    patches = sorted(ROOT.glob("docs/examples/*/*.patch"))
    assert patches
    done = subprocess.run(
        ["git", "apply", "--check", *map(str, patches)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert f'version = "{citation["version"]}"' in project
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert "2603.01683" in citation["preferred-citation"]["url"]
