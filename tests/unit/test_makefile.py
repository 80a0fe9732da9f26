"""`make` leaves the environment of another checkout alone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def checkout(folder: Path, code: Path | None) -> Path:
    """A checkout with an environment whose Python notes what it is asked; code: whose `spot` it has."""
    (folder / "src" / "spot").mkdir(parents=True)
    (folder / "src" / "spot" / "__init__.py").touch()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    answer = "exit 1" if code is None else f"echo {code}/src/spot/__init__.py"
    python.write_text(
        f'#!/bin/sh\necho "$*" >> {folder}/asked\ncase "$*" in -I*) {answer};; esac\n'
    )
    python.chmod(0o755)
    return folder


def install(folder: Path) -> tuple[subprocess.CompletedProcess[str], bool]:
    """`make test`, and whether something was installed or run."""
    done = subprocess.run(["make", "test"], cwd=folder, capture_output=True, text=True, timeout=60)
    asked = folder / "asked"
    return done, asked.exists() and "-m p" in asked.read_text()


@pytest.mark.parametrize("case", ["a link", "a link to one without spot", "its spot is elsewhere"])
def test_the_environment_of_another_checkout_is_refused(
    case: str, tmp_path: Path, needs: Any
) -> None:
    needs(shutil.which("make"), "make")
    other, mine = tmp_path / "other", tmp_path / "mine"
    checkout(other, None if "without" in case else other)
    checkout(mine, other)
    if "link" in case:
        shutil.rmtree(mine / ".venv")
        (mine / ".venv").symlink_to("../other/.venv")
        (other / ".venv" / ".installed-test").touch()  # newer than what it is made from
    done, worked = install(mine)
    assert (done.returncode, worked) == (2, False), done.stdout + done.stderr
    said = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(said) == 1
    assert f".venv belongs to {other}: rm .venv if it is a link, or make install VENV=" in said[0]
    assert "-m p" not in ((other / "asked").read_text() if (other / "asked").exists() else "")


@pytest.mark.parametrize("case", ["new", "installed", "moved", "a link to a disk"])
def test_an_environment_of_its_own_is_used(case: str, tmp_path: Path, needs: Any) -> None:
    needs(shutil.which("make"), "make")
    code = {"new": None, "moved": tmp_path / "gone"}.get(case, tmp_path / "mine")
    mine = checkout(tmp_path / "mine", code)
    if case == "a link to a disk":
        (mine / ".venv").rename(tmp_path / "environment")
        (mine / ".venv").symlink_to(tmp_path / "environment")
    done, worked = install(mine)
    assert (done.returncode, worked) == (0, True), done.stdout + done.stderr
