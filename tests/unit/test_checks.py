"""What a later stage will need is looked for before the first one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from spot.config.compose import compose, expand
from spot.pipeline import checks, resources
from spot.training.shapes import KNOWN
from spot.utils import machine
from spot.utils.errors import UserError

PARAMETERS = KNOWN["Qwen/Qwen3-8B"].parameters
EIGHT = ["model=qwen3_8b", "hardware=8xh800", "data.pairs=4000"]


@pytest.fixture(autouse=True)
def _eight_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "gpu_count", lambda: 8)


def refusal(*overrides: str) -> str:
    """What `spot train` says of a configuration; empty where it begins."""
    try:
        checks.check([compose(list(overrides), "train")], "train")
    except UserError as error:
        return str(error)
    return ""


def give(monkeypatch: pytest.MonkeyPatch, free: float) -> None:
    """Let every disk have so many bytes free."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))


@pytest.mark.parametrize("choice", ["optimizer=adamw8bit", "logprobs=liger", "attention=flash"])
def test_a_package_that_is_not_installed(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources.importlib.util, "find_spec", lambda name: None)
    said = refusal(f"hardware.{choice}")
    assert f"hardware.{choice} needs " in said
    assert "pip install" in said


def test_a_login_that_could_not_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    online = ["logger=wandb", "logger.wandb_mode=online"]
    assert "WANDB_API_KEY" in refusal(*online)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert not refusal(*online)
    assert not refusal("logger=wandb")


def test_the_hosts_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Offloaded: masters and moments of 12 bytes a parameter, and twice its fp32 gradient."""
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "LIMITS", (limit,))
    limit.write_text("max\n")
    whole = machine.memory()
    limit.write_text(f"{int(whole / 2)}\n")
    assert machine.memory() == int(whole / 2)
    give(monkeypatch, 1e15)
    monkeypatch.setattr(resources, "memory", lambda: 20.0 * PARAMETERS)
    offloaded = [*EIGHT, f"output={tmp_path}/out", "hardware.offload_optimizer=true"]
    assert "hardware.offload_optimizer=true takes" in refusal(*offloaded)
    assert not refusal(*offloaded[:-1])
    assert "while every rank loads" not in capfd.readouterr().err
    monkeypatch.setattr(resources, "memory", lambda: 15.0 * PARAMETERS)  # eight times 2 are 16
    assert not refusal(*offloaded[:-1])
    assert "while every rank loads the model" in capfd.readouterr().err
    monkeypatch.setattr(resources, "memory", lambda: 30.0 * PARAMETERS)
    assert not refusal(*offloaded)


def test_the_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two checkpoints of 14 bytes a parameter at one time, and the model's 2."""
    run = [*EIGHT, f"output={tmp_path}/not/there"]
    give(monkeypatch, 30.0 * PARAMETERS)  # and what text and reference scores take
    said = refusal(*run)
    assert f"output={tmp_path}/not/there has 228.8 GiB free" in said
    assert "resumable checkpoints: 213.6" in said
    assert not refusal(*run, "save.optimizer=false")
    give(monkeypatch, 32.0 * PARAMETERS)
    assert not refusal(*run)
    assert "not there" not in str(list(tmp_path.iterdir()))


def test_the_disk_of_a_sweep_keeps_every_jobs_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sweep = expand([*EIGHT, "seed=0,1,2,3", f"output={tmp_path}"], sweep=True)
    jobs = [job for _, job in sweep.jobs]
    give(monkeypatch, 35.0 * PARAMETERS)  # one job takes 30 and some, four take 36
    resources.disk(jobs[:1], None)
    with pytest.raises(UserError, match="GiB free"):
        resources.disk(jobs, None)
    give(monkeypatch, 38.0 * PARAMETERS)
    resources.disk(jobs, None)


def test_questions_that_the_hub_does_not_give(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], needs: Callable[[object, str], None]
) -> None:
    """Tests have no network and, as a rule, no cache of the hub."""
    from huggingface_hub import constants

    needs(not list(Path(constants.HF_HUB_CACHE).glob("datasets--*")), "an empty cache of the hub")
    paper = compose(["benchmarks=paper", f"output={tmp_path}"])
    missing = r"HF_HUB_OFFLINE=1, and it is not in the cache.* set benchmarks\.tasks\.aime24\.path="
    with pytest.raises(UserError, match=missing):
        checks.check([paper], None)
    assert "reading the questions of aime24, aime25, amc23" in capfd.readouterr().err
    checks.check([paper], "train")
    assert not list(tmp_path.iterdir())


def test_what_an_interrupted_training_has_written_is_not_counted_again(
    monkeypatch: pytest.MonkeyPatch, laptop: Path
) -> None:
    from tests.support.laptop import SMALL

    done = compose([*SMALL, f"output={laptop}/outputs"])
    give(monkeypatch, 0.0)
    resources.disk([done], None)  # nothing is left to write
    with pytest.raises(UserError, match=r"0\.0 GiB free"):
        resources.disk([compose([*SMALL, "seed=7", f"output={laptop}/outputs"])], None)
