"""Completion is Hydra's: the shells ask it as their users would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

BASH = """
eval "$(spot -sc install=bash)"
COMP_LINE="$1"; COMP_POINT=${#1}; COMP_WORDS=($COMP_LINE)
case "$COMP_LINE" in *" ") COMP_WORDS+=("") ;; esac
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
hydra_bash_completion
printf '%s\\n' "${COMPREPLY[@]}"
"""
ZSH = """
autoload -U +X compinit && compinit -u; autoload -U +X bashcompinit && bashcompinit
eval "$(spot -sc install=zsh)"
print ${_comps[spot]:-$_bash_complete}
"""


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., list[str]]:
    """Runs a script of a shell in which `spot` is this installation's, and returns its lines."""
    folder = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(tmp_path)}

    def run(*command: str) -> list[str]:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=environment
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    return run


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("spot tr", ["train"]),
        ("spot run loss=d", ["loss=dft", "loss=dpo", "loss=dpop"]),
        ("spot loss=d", ["loss=dft", "loss=dpo", "loss=dpop"]),
        ("spot run --dry-run -m loss.d", ["loss.delta."]),
        (
            "spot run +paper=table",
            [f"+paper={t}" for t in ("table1", "table1_smollm2", "table2", "table3")],
        ),
        ("spot report ", []),
    ],
)
def test_bash_completes(ask: Callable[..., list[str]], line: str, offered: list[str]) -> None:
    assert ask("bash", "-c", BASH, "bash", line) == offered


@pytest.mark.slow  # these two shells cannot be had everywhere: skipped, also in CI
@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
def test_fish_completes(ask: Callable[..., list[str]]) -> None:
    line = "spot -sc install=fish | source; complete -C 'spot run loss=d'"
    assert ask("fish", "--no-config", "-c", line) == ["loss=dft", "loss=dpo", "loss=dpop"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_takes_the_script_of_bash(ask: Callable[..., list[str]]) -> None:
    assert "hydra_bash_completion" in " ".join(ask("zsh", "-f", "-c", ZSH))
