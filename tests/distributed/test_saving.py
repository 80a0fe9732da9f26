"""Two ranks that are killed and started again, and what they export."""

from __future__ import annotations

import hashlib
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed import cases
from tests.distributed.worlds import TWO, case, make_world, run_on_two
from tests.unit.runs import weights, without_timings

pytestmark = pytest.mark.distributed
WAYS: dict[str, dict[str, Any]] = {  # ZeRO stage, precision
    "zero2": {"zero_stage": 2},
    "zero3": {"zero_stage": 3, "precision": "bf16"},
}
POLICIES = {"zero2": "untied", "zero3": "wide"}


def long_cases(world: Path, kind: str) -> list[dict[str, Any]]:
    """Some thirty steps each, with a state every fifth and weights every eleventh."""
    return [
        case(
            world,
            f"{name}-{kind}",
            "bco",
            POLICIES[name],
            hardware=TWO | way,
            epochs=13,
            budget=100,
            save={"every": 5, "exports": 11},
            probe_every=10,
        )
        for name, way in WAYS.items()
    ]


def kill_within(processes: Any, out: Path, row: int) -> None:
    """SIGKILL both ranks once the table has so many rows."""
    table, deadline = out / "metrics.csv", time.monotonic() + 200
    while not (table.exists() and table.read_bytes().count(b"\n") > row):
        assert time.monotonic() < deadline, "the run did not get so far"
        assert all(process.poll() is None for process in processes.values())
        time.sleep(0.005)
    for process in processes.values():
        process.send_signal(signal.SIGKILL)
    assert [process.wait(30) for process in processes.values()] == [-signal.SIGKILL] * 2


@pytest.fixture(scope="module")
def world(tmp_path_factory: Any, prerequisites: None) -> Path:
    """The same trainings twice: never stopped, and killed in the middle of each."""
    world = make_world(tmp_path_factory.mktemp("saving"))
    run_on_two(world, "whole", long_cases(world, "whole"))
    seed = random.randrange(10**6)  # told, so that a failure can be had again
    some, rng = long_cases(world, "killed"), random.Random(seed)
    for number, stopped in enumerate(some):
        row = rng.randint(11, 28)  # when the state of step 10 begins, that of step 5 is whole
        print(f"seed {seed}: killing {Path(stopped['out']).name} after step {row}")
        kill_within(cases.start(some, world / f"killed{number}.json"), Path(stopped["out"]), row)
        states = [p.name for p in (Path(stopped["out"]) / "resume").glob("step_*")]
        assert "step_00000005" <= max(states) < "step_00000030", "killed in the middle"
    run_on_two(world, "killed", some)
    return world / "runs"


@pytest.mark.parametrize("name", WAYS)
def test_killed_ranks_end_as_if_they_had_not_been(world: Path, name: str) -> None:
    whole, killed = world / f"{name}-whole", world / f"{name}-killed"
    wanted, got = weights(whole), weights(killed)
    assert wanted.keys() == got.keys()
    assert all(torch.equal(wanted[k], got[k]) for k in wanted)
    assert without_timings(killed) == without_timings(whole)
    steps = len(without_timings(whole)) - 1
    before_the_last = (steps - 1) // 5 * 5
    assert [p.name for p in (killed / "resume").iterdir()] == [f"step_{before_the_last:08d}"]


@pytest.mark.parametrize("name", WAYS)
def test_weights_are_exported_on_the_way(world: Path, name: str) -> None:
    """Loadable everywhere, without the optimiser, in the precision of the run."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = world / f"{name}-killed"
    found = sorted(path.name for path in (out / "exports").iterdir())
    assert found == ["step_00000011", "step_00000022"]
    dtype = torch.bfloat16 if WAYS[name].get("precision") == "bf16" else torch.float32
    for folder in (out / "exports" / found[0], out / "model"):
        saved = load_file(folder / "model.safetensors")
        assert {tensor.dtype for tensor in saved.values()} == {dtype}
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert model.dtype == dtype
        state = model.state_dict()
        assert saved.keys() == state.keys()
        assert all(torch.equal(saved[name], state[name]) for name in saved)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer.chat_template
        assert (folder / "generation_config.json").exists()
    first, last = (
        load_file(out / p / "model.safetensors") for p in (f"exports/{found[0]}", "model")
    )
    assert any(not torch.equal(first[name], last[name]) for name in first)


def test_a_live_reference_is_in_no_checkpoint(tmp_path: Path, prerequisites: None) -> None:
    """States are as large with a frozen copy or an engine beside the policy as without."""
    world = make_world(tmp_path)
    some = [
        case(
            world,
            f"{stage}-{reference}",
            "bco",
            hardware=TWO | {"zero_stage": stage},
            reference=reference,
            epochs=1,
            save={"every": 1},
            probe_every=100,
        )
        for stage in (2, 3)
        for reference in ("cached", "copy", "engine")
    ]
    run_on_two(world, "references", some)
    for stage in (2, 3):
        sizes = []
        for reference in ("cached", "copy", "engine"):
            states = (world / "runs" / f"{stage}-{reference}" / "resume").rglob("*.pt")
            sizes.append(sorted(path.stat().st_size for path in states))
        assert len(sizes[0]) >= 3  # the model's and two optimisers'
        assert all(
            abs(a - b) < 200 for other in sizes for a, b in zip(sizes[0], other, strict=True)
        )


def test_a_disk_without_room_leaves_the_last_state(tmp_path: Path, prerequisites: None) -> None:
    """The next state cannot be written: the run ends, the one before is whole and is used."""
    world = make_world(tmp_path)
    some = [
        case(
            world,
            name,
            "bco",
            hardware=TWO,
            epochs=6,
            save={"every": 3},
            probe_every=100,
        )
        for name in ("whole", "cut")
    ]
    run_on_two(world, "whole", some[:1])
    kill_within(cases.start(some[1:], world / "cut.json"), world / "runs" / "cut", 7)
    resume = world / "runs" / "cut" / "resume"
    before = hashes(resume)
    assert {name for name in before if name < "step_00000009"}

    limited = cases.start(some[1:], world / "cut.json", largest_file=50_000)
    with pytest.raises(AssertionError, match=r"could not be written .* free some space"):
        cases.finish(limited)
    assert hashes(resume) == before
    run_on_two(world, "cut", some[1:])
    wanted, got = weights(world / "runs" / "whole"), weights(world / "runs" / "cut")
    assert all(torch.equal(wanted[k], got[k]) for k in wanted)


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "verified.json"  # when files were last found right
    }
