"""Shell completion, asked as the shells ask it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from spot.cli import completion, manual
from spot.utils.errors import UserError

BASH = str(shutil.which("bash"))
ASK = """
source "$1"
COMP_LINE="$2"; COMP_POINT=${#2}
spaced="${COMP_LINE//=/ = }"; COMP_WORDS=(${spaced//@/ @ })
case "$COMP_LINE" in *[[:space:]=]) COMP_WORDS+=("") ;; esac
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_spot
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script for bash."""
    path = tmp_path_factory.mktemp("completion") / "spot.bash"
    path.write_text(completion.script("bash"), encoding="utf-8")
    return path


def complete(script: Path, line: str, folder: Path | None = None) -> list[str]:
    """What bash offers for the end of a line."""
    command = [BASH, "-c", ASK, "bash", str(script), line]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=30, check=True, cwd=folder
    )
    assert not done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("spot e", ["elicit", "evaluate"]),
        ("spot run loss", ["loss=", "loss."]),
        ("spot run loss=d", ["dft", "dpo"]),
        ("spot loss=bc", ["bce", "bco"]),
        ("spot run loss.d", ["loss.delta."]),
        ("spot run loss.delta.mode=", ["ema", "cumulative", "zero"]),
        ("spot run -m arm=dpo,spot", ["dpo,spot_bce", "dpo,spot_bco"]),
        ("spot run logger.wandb=", ["true", "false"]),
        ("spot run +paper=table", ["table1", "table2", "table3"]),
        ("spot run generator@evaluator=v", ["vllm"]),
        ("spot evaluate benchmark=math", ["math500"]),
        ("spot config --", ["--diff", "--json", "--help"]),
        ("spot completion z", ["zsh"]),
        ("spot compare lo", []),
        ("spot help tr", ["train"]),
        ("spot help run", ["run", "runs"]),
        ("spot runs status=f", ["failed", "finished"]),
        ("spot run data.matched=[d", ["[direct,self]"]),
    ],
)
def test_bash_completes(script: Path, line: str, offered: list[str], tmp_path: Path) -> None:
    assert complete(script, line) == offered


def test_files_are_completed_where_a_value_is_free(script: Path, tmp_path: Path) -> None:
    (tmp_path / "questions.jsonl").touch()
    assert complete(script, f"spot run data.path={tmp_path}/q") == [f"{tmp_path}/questions.jsonl"]
    assert complete(script, f"spot report {tmp_path}/q") == [f"{tmp_path}/questions.jsonl"]


BOTH = ["notes.txt", "seed=0"]


def test_folders_are_offered_before_a_letter_is_typed(script: Path, tmp_path: Path) -> None:
    (tmp_path / "seed=0").mkdir()
    (tmp_path / "notes.txt").touch()
    assert complete(script, "spot show ", tmp_path) == ["newest", "seed=0"]
    assert complete(script, "spot compare ", tmp_path) == ["seed=0"]
    assert complete(script, "spot report ", tmp_path)[2:] in (BOTH, BOTH[::-1])
    assert complete(script, "spot compare -") == ["--help"]
    assert complete(script, f"spot compare {tmp_path}/seed=") == ["0"], "what follows the break"


def test_every_command_and_key_is_known(script: Path) -> None:
    assert complete(script, "spot ") == list(manual.COMMANDS)
    found = completion.words()
    for key in ("data.gamma=", "loss.learning_rate=", "evaluator.kind=", "model.pretrain.steps="):
        assert key in found
    assert found["data.arm="] == ["rectified", "direct", "self"]
    assert found["reference="] == ["cached", "copy", "engine"]
    assert "schema" not in found["loss="]


def test_a_tab_starts_no_program(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python would take a second."""
    offered = complete(script, "spot run loss=d")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert complete(script, "spot run loss=d") == offered


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_each_shell_reads_its_script(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    path = tmp_path / shell
    path.write_text(completion.script(shell), encoding="utf-8")
    done = subprocess.run([shell, "-n", str(path)], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def test_fish_completes(tmp_path: Path) -> None:
    if shutil.which("fish") is None:
        pytest.skip("needs fish")
    path = tmp_path / "spot.fish"
    path.write_text(completion.script("fish"), encoding="utf-8")
    command = ["fish", "--no-config", "-c", f"source {path}; complete -C 'spot run loss=d'"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["loss=dft", "loss=dpo"]


def test_another_shell_is_refused() -> None:
    with pytest.raises(UserError, match="name your shell"):
        completion.command(["tcsh"])
