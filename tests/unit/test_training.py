"""Whole training runs of a tiny model, checked against plain transformers on separate sequences."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from spot import tracking
from spot.errors import UserError
from spot.training import saving
from spot.training.loop import Method, Optimisation, RunOptions, TrainResult, tokenise, train
from spot.training.losses import LOSSES
from spot.training.packing import PackingSettings, plan_steps

OPTIMISATION = Optimisation(learning_rate=3e-3, epochs=2, batch_pairs=8)  # 20 pairs: 5 steps
STEPS = 5
TIMINGS = {"tokens_per_second"}


@pytest.fixture(scope="module")
def pairs(build_pairs: Any) -> list[Any]:
    return build_pairs(20)


@pytest.fixture(scope="module")
def held_out(build_pairs: Any) -> list[Any]:
    return build_pairs(6, seed=1)


@pytest.fixture(scope="module")
def runs(
    tiny_policy: Path, pairs: list[Any], held_out: list[Any], tmp_path_factory: Any
) -> dict[str, tuple[Path, TrainResult]]:
    """One run of every method over the same pairs, sharing the reference."""
    folder = tmp_path_factory.mktemp("runs")
    options = RunOptions(reference_folder=folder / "reference")
    done = {}
    for name in LOSSES:
        out = folder / name
        result = train(tiny_policy, out, pairs, held_out, Method(name), OPTIMISATION, 0, options)
        done[name] = (out, result)
    return done


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "model.safetensors")


def response_logps(model: Any, prompt: tuple[int, ...], response: tuple[int, ...]) -> torch.Tensor:
    logits = model(torch.tensor([[*prompt, *response]])).logits[0]
    rows = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return rows[torch.arange(len(response)), torch.tensor(response)]


# --- the first step, from scratch --------------------------------------------------------------


def first_loss(name: str, model: Any, batch: list[Any]) -> torch.Tensor:
    """The global mean of the method's loss at the start, where every reward is 0."""
    chosen = [response_logps(model, p.prompt, p.chosen) for p in batch]
    if name in ("sft", "dft"):
        logps = torch.cat(chosen)
        return -(logps.detach().exp() * logps if name == "dft" else logps).mean()
    positive = torch.stack([0.1 * (c - c.detach()).sum() for c in chosen])
    if name == "rwsft":
        return torch.log1p(torch.exp(-positive)).mean()
    rejected = [response_logps(model, p.prompt, p.rejected) for p in batch]
    negative = torch.stack([0.1 * (c - c.detach()).sum() for c in rejected])
    if name == "dpo":
        return torch.log1p(torch.exp(negative - positive)).mean()
    return (torch.log1p(torch.exp(-positive)) + torch.log1p(torch.exp(negative))).mean()


@pytest.mark.parametrize("name", list(LOSSES))
def test_the_first_step_from_scratch(
    name: str, runs: Any, tiny_policy: Path, tiny_tokenizer: Any, pairs: list[Any]
) -> None:
    """Loss and gradient norm of the global batch equal those of plain separate sequences."""
    tokens = tokenise(tiny_tokenizer, pairs, True, False)
    batch = [tokens[i] for i in plan_steps(20, 8, 2, 0)[0]]
    model = load(tiny_policy)
    loss = first_loss(name, model, batch)
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    first = rows(runs[name][0])[1]
    assert float(first["loss"]) == pytest.approx(loss.item(), abs=1e-5)
    assert float(first["gradient_norm"]) == pytest.approx(norm.item(), rel=2e-5)
    wanted = {"dpo": math.log(2), "rwsft": math.log(2), "bce": 2 * math.log(2)}
    wanted["bco"] = wanted["bce"]
    if name in wanted:
        assert float(first["loss"]) == pytest.approx(wanted[name], abs=1e-6)
        assert float(first["tether/chosen"]) == pytest.approx(0.5, abs=1e-6)
    chosen = sum(response_logps(model, p.prompt, p.chosen).sum().item() for p in batch) / 8
    assert float(first["logps/chosen"]) == pytest.approx(chosen, rel=1e-5)


# --- what is logged ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(LOSSES))
def test_one_row_per_step_and_what_each_method_has(name: str, runs: Any) -> None:
    out, result = runs[name]
    table = rows(out)
    assert [int(row["step"]) for row in table] == list(range(STEPS + 1))
    assert result.steps == STEPS
    assert result.resumed_at == 0
    assert result.max_start_reward < 1e-6
    assert list(table[0]) == list(rows(runs["bco"][0])[0])
    always = {
        "loss", "logps/chosen", "gradient_norm", "learning_rate", "tokens_per_second",
        "held_out/rewards/chosen", "held_out/rewards/rejected", "held_out/rewards/margins",
        "held_out/rewards/accuracies", "held_out/kl",
    }  # fmt: skip
    chosen = {"rewards/chosen", "tether/chosen"}
    both = chosen | {
        "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/rejected",
        "tether/rejected",
    }  # fmt: skip
    own = {"sft": set(), "dft": set(), "rwsft": chosen, "bco": both | {"delta"}}.get(name, both)
    for row in table[1:]:
        assert {column for column, value in row.items() if value} == always | own | {"step"}
        assert all(math.isfinite(float(value)) for value in row.values() if value)
        assert float(row["held_out/kl"]) >= 0


def test_held_out_rewards_start_alike_for_every_arm(runs: Any) -> None:
    starts = [rows(out)[0] for out, _ in runs.values()]
    assert all(start == starts[0] for start in starts)
    assert float(starts[0]["held_out/rewards/chosen"]) == pytest.approx(0, abs=1e-6)
    assert float(starts[0]["held_out/rewards/rejected"]) == pytest.approx(0, abs=1e-6)
    assert float(starts[0]["held_out/kl"]) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", ["sft", "bco"])
def test_held_out_metrics_of_the_last_step_from_scratch(
    name: str, runs: Any, tiny_policy: Path, tiny_tokenizer: Any, held_out: list[Any]
) -> None:
    out, result = runs[name]
    policy, start = load(out / "model"), load(tiny_policy)
    chosen, rejected, kl = [], [], []
    with torch.no_grad():
        for pair in tokenise(tiny_tokenizer, held_out, True, False):
            for response, rewards in ((pair.chosen, chosen), (pair.rejected, rejected)):
                assert response is not None
                d = response_logps(policy, pair.prompt, response) - response_logps(
                    start, pair.prompt, response
                )
                rewards.append(0.1 * d.sum().item())
            kl += (d.double().exp() - 1 - d.double()).tolist()  # of y⁻, the last
    last = {k: float(v) for k, v in rows(out)[-1].items() if v}
    assert last == result.final
    mean = sum(chosen) / len(chosen)
    assert abs(mean) > 1e-3  # training moved something
    assert last["held_out/rewards/chosen"] == pytest.approx(mean, abs=1e-5)
    assert last["held_out/rewards/rejected"] == pytest.approx(sum(rejected) / 6, abs=1e-5)
    assert last["held_out/rewards/margins"] == pytest.approx(
        (sum(chosen) - sum(rejected)) / 6, abs=1e-5
    )
    wins = sum(a > b for a, b in zip(chosen, rejected, strict=True))
    assert last["held_out/rewards/accuracies"] == pytest.approx(wins / 6)
    assert last["held_out/kl"] == pytest.approx(sum(kl) / len(kl), rel=1e-3)


def test_delta_follows_the_logged_rewards(runs: Any) -> None:
    """Full batches only: each δ comes from the steps before it (EMA, 0.9)."""
    delta = 0.0
    for row in rows(runs["bco"][0])[1:]:
        assert float(row["delta"]) == pytest.approx(delta, abs=1e-7)
        half = (float(row["rewards/chosen"]) + float(row["rewards/rejected"])) / 2
        delta = 0.9 * delta + 0.1 * half
    assert abs(delta) > 1e-5


def test_learning_rate_follows_the_schedule(runs: Any) -> None:
    got = [float(row["learning_rate"]) for row in rows(runs["sft"][0])[1:]]
    # one step of warm-up (5% of 5, rounded up), then a cosine over the other four
    wanted = [1.0, *(0.5 * (1 + math.cos(math.pi * k / 4)) for k in range(4))]
    assert got == pytest.approx([3e-3 * factor for factor in wanted])


def test_schedules_by_hand() -> None:
    def factors(schedule: str) -> list[float]:
        o = Optimisation(1.0, schedule=schedule, warmup=0.2)
        return [o.factor(step, 10) for step in range(10)]

    assert factors("constant") == pytest.approx([0.5, 1] + [1] * 8)
    assert factors("linear") == pytest.approx([0.5, 1] + [1 - k / 8 for k in range(8)])
    assert factors("cosine")[6] == pytest.approx(0.5)
    assert Optimisation(1.0, warmup=0).factor(0, 1) == 1.0


# --- the same optimisation, whatever the packing -------------------------------------------------


# Before the first update all rewards are rounding noise, and so is which of two is larger.
ROUNDED = {"rewards/accuracies", "held_out/rewards/accuracies"}


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(((a[k] - b[k]).norm() / b[k].norm()).item() for k in b)


@pytest.mark.parametrize("name", ["sft", "dpo", "bco"])
@pytest.mark.parametrize("packing", [PackingSettings(60), PackingSettings(500, False)])
def test_packing_changes_nothing(
    name: str,
    packing: PackingSettings,
    runs: Any,
    tiny_policy: Path,
    pairs: list[Any],
    held_out: list[Any],
    tmp_path: Path,
) -> None:
    train(
        tiny_policy, tmp_path, pairs, held_out, Method(name), OPTIMISATION, 0,
        RunOptions(packing=packing),
    )  # fmt: skip
    whole = rows(runs[name][0])
    for got, wanted in zip(rows(tmp_path), whole, strict=True):
        for column in wanted.keys() - TIMINGS - {"held_out/kl"} - ROUNDED:
            assert float(got[column] or 0) == pytest.approx(
                float(wanted[column] or 0), rel=1e-3, abs=1e-4
            ), column
    assert distance(weights(tmp_path), weights(runs[name][0])) < 1e-3


def test_the_seed_moves_the_order_and_nothing_else(
    runs: Any, tiny_policy: Path, pairs: list[Any], held_out: list[Any], tmp_path: Path
) -> None:
    for seed in (0, 1):
        train(
            tiny_policy, tmp_path / str(seed), pairs, held_out, Method("dpo"), OPTIMISATION, seed,
            RunOptions(),
        )  # fmt: skip
    same, other = weights(tmp_path / "0"), weights(tmp_path / "1")
    assert all(torch.equal(same[k], v) for k, v in weights(runs["dpo"][0]).items())
    assert distance(other, same) > 1e-4
    assert rows(tmp_path / "0")[0] == rows(tmp_path / "1")[0]


def test_sequence_sums_of_equation_2(
    runs: Any, tiny_policy: Path, pairs: list[Any], tmp_path: Path
) -> None:
    method = Method("sft", sft_reduction="sequence")
    train(tiny_policy, tmp_path, pairs, [], method, OPTIMISATION, 0, RunOptions())
    first = rows(tmp_path)[1]
    assert float(first["loss"]) == pytest.approx(-float(first["logps/chosen"]), rel=1e-6)
    assert first["logps/chosen"] == rows(runs["sft"][0])[1]["logps/chosen"]


# --- what is left on disk --------------------------------------------------------------------


def test_the_checkpoint_loads_in_transformers(runs: Any, tiny_policy: Path) -> None:
    from transformers import AutoTokenizer

    out, _ = runs["bco"]
    start = load_file(tiny_policy / "model.safetensors")
    model, tokenizer = load(out / "model"), AutoTokenizer.from_pretrained(out / "model")
    assert model.config._attn_implementation == "sdpa"
    chat = [{"role": "user", "content": "1+1"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == "<user>1+1<assistant>"
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    assert model.generate(**ids, max_new_tokens=3, do_sample=False).shape[1] <= 8
    assert (out / "model" / "generation_config.json").exists()
    assert sorted(path.name for path in out.iterdir()) == ["metrics.csv", "model"]
    assert distance(weights(out), start) > 1e-3


def test_the_reference_is_shared_by_all_methods(runs: Any) -> None:
    folder = runs["bco"][0].parent / "reference"
    assert len(list(folder.glob("*.safetensors"))) == 2  # training pairs and held-out pairs


def test_a_failed_write_leaves_the_old_one(tmp_path: Path) -> None:
    def fail(aside: Path) -> None:
        (aside / "part").write_text("half")
        raise OSError("No space left on device")

    saving.write_folder_aside(tmp_path / "kept", lambda aside: (aside / "a").write_text("whole"))
    with pytest.raises(OSError, match="No space"):
        saving.write_folder_aside(tmp_path / "kept", fail)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["a"]
    assert [path.name for path in tmp_path.iterdir() if path.name[0] != "."] == ["kept"]


# --- resuming --------------------------------------------------------------------------------


class StoppedError(Exception):
    """The run ends here."""


def stop_at(step: int) -> Any:
    """An ability probe that ends the run when it is called for the `step`-th time after the start."""
    calls = iter(range(1000))

    def probe(model: Any) -> dict[str, float]:
        if next(calls) == step:
            raise StoppedError
        return {"zero": 0.0}

    return probe


def without_timings(out: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k not in TIMINGS} for row in rows(out)]


@pytest.mark.parametrize("name", ["bco", "sft"])
@pytest.mark.parametrize(("save_every", "stop", "resumes_at"), [(2, 5, 4), (1, 3, 2), (3, 4, 3)])
def test_a_stopped_run_ends_as_if_it_had_not_been(
    name: str,
    save_every: int,
    stop: int,
    resumes_at: int,
    tiny_policy: Path,
    pairs: list[Any],
    held_out: list[Any],
    tmp_path: Path,
) -> None:
    def run(out: str, probe: Any) -> TrainResult:
        options = RunOptions(save_every=save_every, ability_probe=probe, ability_every=1)
        return train(
            tiny_policy, tmp_path / out, pairs, held_out, Method(name), OPTIMISATION, 3, options
        )

    run("whole", stop_at(-1))
    with pytest.raises(StoppedError):
        run("stopped", stop_at(stop))
    kept = [path.name for path in (tmp_path / "stopped" / "resume").iterdir()]
    assert kept == [f"step_{resumes_at:08d}"]
    assert run("stopped", stop_at(-1)).resumed_at == resumes_at
    wanted, got = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert wanted.keys() == got.keys()
    assert all(torch.equal(wanted[k], got[k]) for k in wanted)
    assert without_timings(tmp_path / "stopped") == without_timings(tmp_path / "whole")


def test_state_of_another_run_is_refused(
    tiny_policy: Path, pairs: list[Any], held_out: list[Any], tmp_path: Path
) -> None:
    options = RunOptions(save_every=1, ability_probe=stop_at(3), ability_every=1)
    with pytest.raises(StoppedError):
        train(tiny_policy, tmp_path, pairs, held_out, Method("bco"), OPTIMISATION, 0, options)
    with pytest.raises(UserError, match="belongs to another run"):
        train(tiny_policy, tmp_path, pairs, held_out, Method("bce"), OPTIMISATION, 0, RunOptions())


RUNS = """
import json, sys
from pathlib import Path
from spot.records import Pair
from spot.training.loop import Method, Optimisation, RunOptions, train

policy, data, *outs = map(Path, sys.argv[1:])
pairs = [Pair(**row) for row in json.loads(data.read_text())]
for out in outs:
    optimisation = Optimisation(3e-3, epochs=20, batch_pairs=4)
    train(policy, out, pairs, pairs[:4], Method("bco"), optimisation, 0, RunOptions(save_every=7))
"""


@pytest.mark.slow
def test_a_killed_process_resumes_bit_for_bit(
    tiny_policy: Path, pairs: list[Any], tmp_path: Path
) -> None:
    """SIGKILL somewhere in the middle, then the same command: 100 steps, each once."""
    data = tmp_path / "pairs.json"
    data.write_text(json.dumps([dataclasses.asdict(pair) for pair in pairs]))
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    def start(*outs: Path) -> subprocess.Popen[bytes]:
        arguments = [sys.executable, "-c", RUNS, *map(str, (tiny_policy, data, *outs))]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(arguments, env=environment, stderr=subprocess.DEVNULL)

    process = start(whole, killed)
    table, deadline = killed / "metrics.csv", time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if table.exists() and table.read_bytes().count(b"\n") > 40:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    assert list((killed / "resume").glob("step_*/state.ckpt"))
    assert start(killed).wait(200) == 0
    wanted, got = weights(whole), weights(killed)
    assert all(torch.equal(wanted[k], got[k]) for k in wanted)
    assert without_timings(killed) == without_timings(whole)
    assert len(rows(killed)) == 101


# --- probes, loggers, bad input ------------------------------------------------------------------


def test_the_ability_probe_sees_the_model_as_it_is(
    tiny_policy: Path, pairs: list[Any], tmp_path: Path
) -> None:
    seen = []

    def probe(model: Any) -> dict[str, float]:
        seen.append((model.training, torch.is_grad_enabled(), model.config._attn_implementation))
        return {"words": len(seen)}

    options = RunOptions(ability_probe=probe, ability_every=3)
    train(tiny_policy, tmp_path, pairs, [], Method("sft"), OPTIMISATION, 0, options)
    assert seen == [(False, False, "sdpa")] * 3
    assert [row["probe/words"] for row in rows(tmp_path)] == ["1", "", "", "2", "", "3"]


def test_tensorboard_gets_every_step(tiny_policy: Path, pairs: list[Any], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loggers = tracking.loggers(["csv", "tensorboard"], tmp_path / "logs", "run", {})
    options = RunOptions(loggers=loggers)
    train(tiny_policy, tmp_path, pairs, [], Method("rwsft"), OPTIMISATION, 0, options)
    events = EventAccumulator(str(tmp_path / "logs" / "tensorboard")).Reload()
    logged = [(e.step, e.value) for e in events.Scalars("rewards/chosen")]
    wanted = [(int(r["step"]), float(r["rewards/chosen"])) for r in rows(tmp_path)[1:]]
    assert logged == [(step, pytest.approx(value, rel=1e-6)) for step, value in wanted]


@pytest.mark.slow
def test_wandb_offline(
    tiny_policy: Path, pairs: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    try:
        loggers = tracking.loggers(["wandb"], tmp_path / "logs", "run", {"a": 1}, mode="online")
        options = RunOptions(loggers=loggers)
        train(tiny_policy, tmp_path, pairs, [], Method("sft"), OPTIMISATION, 0, options)
    finally:
        tracking.finish()
    assert list((tmp_path / "logs" / "wandb").glob("offline-run-*/run-*.wandb"))


def test_unknown_logger(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'mlflow': use csv, tensorboard or wandb"):
        tracking.loggers(["mlflow"], tmp_path, "run", {})


def test_pairs_without_rejected(tiny_policy: Path, build_pairs: Any, tmp_path: Path) -> None:
    own = build_pairs(6, seed=2, with_rejected=False)
    for name in ("sft", "rwsft"):
        train(tiny_policy, tmp_path / name, own, own, Method(name), OPTIMISATION, 0, RunOptions())
        last = rows(tmp_path / name)[-1]
        assert last["held_out/rewards/chosen"]
        assert not last["held_out/rewards/rejected"]
        assert not last["held_out/kl"]
    with pytest.raises(UserError, match="loss=bco needs rejected responses"):
        train(tiny_policy, tmp_path, own, [], Method("bco"), OPTIMISATION, 0, RunOptions())


def test_bad_input_is_one_line(tiny_policy: Path, pairs: list[Any], tmp_path: Path) -> None:
    def run(some: list[Any], options: RunOptions) -> None:
        train(tiny_policy, tmp_path, some, [], Method("bco"), OPTIMISATION, 0, options)

    with pytest.raises(UserError, match="no pairs"):
        run([], RunOptions())
    with pytest.raises(UserError, match="same id"):
        run([pairs[0], pairs[0]], RunOptions())
    with pytest.raises(UserError, match=r"Pair pair-0-\d+ takes \d+ tokens and a pack holds 20"):
        run(pairs, RunOptions(packing=PackingSettings(20)))


def test_a_run_that_blows_up_names_the_step_and_its_pairs(
    tiny_policy: Path, pairs: list[Any], tmp_path: Path
) -> None:
    wild = Optimisation(learning_rate=1e38, batch_pairs=8, schedule="constant")
    with pytest.raises(UserError, match=r"step 2 is not finite \(pairs pair-0-\d+, "):
        train(tiny_policy, tmp_path, pairs, [], Method("sft"), wild, 0, RunOptions())


def test_a_reference_of_another_model_is_noticed(
    tiny_policy: Path, pairs: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spot.training import reference

    right = reference.score

    def wrong(*arguments: Any) -> dict[str, torch.Tensor]:
        return {key: value + 0.05 for key, value in right(*arguments).items()}

    monkeypatch.setattr(reference, "score", wrong)
    with pytest.raises(UserError, match=r"must be 0 .* delete the reference folder"):
        train(tiny_policy, tmp_path, pairs, [], Method("bco"), OPTIMISATION, 0, RunOptions())
