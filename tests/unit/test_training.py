"""Whole training runs of a tiny model, checked against plain transformers on separate sequences."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from spot.config import LOSSES, HardwareConfig, SpanWeights, WeightsConfig
from spot.config.loss import DeltaConfig
from spot.training.activation_checkpointing import Recomputation
from spot.training.diagnostics import KL_SIDES, SIDES
from spot.training.loop import RunOptions, TrainResult, tokenise, train
from spot.training.model_check import start_bound
from spot.training.packing import Pack, plan_steps
from spot.training.schedule import rate_factor
from spot.utils import files
from spot.utils.cells import as_csv
from tests.unit.runs import STEPS, TIMINGS, distance, loss, room_for, rows, weights


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
        result = train(tiny_policy, out, pairs, held_out, loss(name), 0, options)
        done[name] = (out, result)
    return done


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def response_logps(model: Any, prompt: tuple[int, ...], response: tuple[int, ...]) -> torch.Tensor:
    logits = model(torch.tensor([[*prompt, *response]])).logits[0]
    rows = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return rows[torch.arange(len(response)), torch.tensor(response)]


# --- the first step, from scratch --------------------------------------------------------------


def first_loss(name: str, model: Any, batch: list[Any]) -> torch.Tensor:
    """The global mean of the method's loss at the start, where every reward is 0."""
    chosen = [response_logps(model, p.prompt, p.chosen) for p in batch]
    logps = torch.cat(chosen)
    ratio = (logps - logps.detach()).exp()
    k3 = 1 / ratio - 1 + ratio.log()
    p = logps.detach().exp()
    of_tokens = {
        "sft": -logps, "dft": -p * logps, "psft": -ratio, "asft": -p * logps + 0.05 * k3, "kl_sft": -logps + 0.05 * k3
    }  # fmt: skip
    if name in of_tokens:
        return of_tokens[name].mean()
    rejected = [response_logps(model, p.prompt, p.rejected) for p in batch]
    positive, negative = (
        torch.stack([0.1 * (r - r.detach()).sum() for r in side]) for side in (chosen, rejected)
    )
    mean_chosen, mean_rejected = (
        torch.stack([0.1 * (r if name == "simpo" else r - r.detach()).mean() for r in side])
        for side in (chosen, rejected)
    )
    sigma, logistic = torch.sigmoid, lambda x: torch.log1p(torch.exp(-x))
    of_pairs = {
        "rwsft": logistic(positive),
        "dpo": logistic(positive - negative),
        "dpop": logistic(positive - negative),  # the penalty has no slope at 0
        "ipo": ((mean_chosen - mean_rejected) / 0.1 - 5) ** 2,
        "simpo": logistic(mean_chosen - mean_rejected - 1),
        "bce": logistic(positive) + logistic(-negative),
        "bco": logistic(positive) + logistic(-negative),
        "kto": sigma(-positive) + sigma(negative),
        "apo_zero": sigma(-positive) + sigma(negative),
        "apo_down": sigma(positive) + sigma(negative - positive),
        "nca": logistic(positive) + (logistic(-positive) + logistic(-negative)) / 2,
    }
    return of_pairs[name].mean()


@pytest.mark.parametrize("name", list(LOSSES))
def test_the_first_step_from_scratch(
    name: str, runs: Any, tiny_policy: Path, tiny_tokenizer: Any, pairs: list[Any]
) -> None:
    """Loss and gradient norm of the global batch equal those of plain separate sequences."""
    tokens = tokenise(tiny_tokenizer, pairs, False)
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
    assert result.max_start_reward < 1e-6  # also without a reference: of held-out pairs
    assert list(table[0]) == list(rows(runs["bco"][0])[0])
    always = {
        "loss", "logps/chosen", "gradient_norm", "learning_rate", "tokens_per_second",
        "held_out/rewards/chosen", "held_out/rewards/rejected", "held_out/rewards/margins",
        "held_out/rewards/accuracies", "held_out/kl", "held_out/entropy",
        *(f"held_out/rewards/{part}" for part in SIDES), *(f"held_out/kl/{part}" for part in KL_SIDES),
        "gradients/shared", "gradients/chosen_edited", "gradients/chosen_after",
    }  # fmt: skip
    chosen = {
        "rewards/chosen", "tether/chosen", "gradients_apart/shared",
        "rewards/shared", "rewards/chosen_edited", "rewards/chosen_after",
    }  # fmt: skip
    both = chosen | {
        "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/rejected",
        "tether/rejected", "rewards/rejected_edited", "rewards/rejected_after",
        "gradients/rejected_edited", "gradients/rejected_after",
        *(f"kl/{part}" for part in KL_SIDES),
    }  # fmt: skip
    without = {"gradients_apart/shared", "tether/chosen"}  # of rewards and of terms of pairs
    own = {
        "sft": set(), "dft": set(), "rwsft": chosen, "bco": both | {"delta"}, "kto": both | {"delta"},
        **dict.fromkeys(("psft", "asft", "kl_sft"), chosen - without),
        "simpo": {name for name in both if "tether" in name or "gradients/" in name} | {"logps/rejected"},
    }.get(name, both)  # fmt: skip
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
        for pair in tokenise(tiny_tokenizer, held_out, False):
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
    with (out / "held_out" / f"step_{STEPS:08d}.csv").open() as file:
        each = list(csv.DictReader(file))  # of every pair, in nats
    assert [row["pair"] for row in each] == [pair.id for pair in held_out]
    assert [0.1 * float(row["chosen"]) for row in each] == pytest.approx(chosen, abs=1e-5)
    assert [0.1 * float(row["rejected"]) for row in each] == pytest.approx(rejected, abs=1e-5)
    assert sum(float(row["kl"]) for row in each) == pytest.approx(sum(kl), rel=1e-3)
    assert sum(int(row["tokens"]) for row in each) == len(kl)
    assert len(list((out / "held_out").iterdir())) == 2  # and in the middle


def test_a_table_of_pairs_holds_any_name() -> None:
    """Ids are what rows of others say: with commas, quotes and line breaks."""
    names = ['b=10,"x"\n#0', "q"]
    text = as_csv(
        [{"pair": name, "chosen": 0.25, "tokens": 3} for name in names],
        ["pair", "chosen", "tokens"],
    )
    read = list(csv.DictReader(io.StringIO(text, newline="")))
    assert read == [{"pair": name, "chosen": "0.25", "tokens": "3"} for name in names]


@pytest.mark.parametrize("name", ["bco", "dpo"])
def test_parts_add_up_and_the_shared_prefix_is_left_alone(name: str, runs: Any) -> None:
    """Shared + edited + after is the reward; on the shared prefix the two gradients cancel."""
    for row in rows(runs[name][0])[1:]:
        value = {k: float(v) for k, v in row.items() if v}
        for prefix in ("", "held_out/"):
            for side in ("chosen", "rejected"):
                parts = ("shared", f"{side}_edited", f"{side}_after")
                total = sum(value[f"{prefix}rewards/{part}"] for part in parts)
                assert total == pytest.approx(value[f"{prefix}rewards/{side}"], abs=1e-5)
        if name == "dpo" or row["step"] == "1":  # both sides have the same coefficient
            assert value["gradients/shared"] == pytest.approx(0, abs=1e-7)
        if row["step"] == "1":  # β λ⁺ + β λ⁻, each λ ½
            assert value["gradients_apart/shared"] == pytest.approx(0.1)
        assert 0 <= value["gradients/shared"] < value["gradients_apart/shared"] + 1e-9
        assert value["gradients/chosen_edited"] == pytest.approx(
            0.1 * value["tether/chosen"], rel=0.2
        )
    assert abs(float(rows(runs[name][0])[-1]["held_out/kl/shared"])) > 1e-9


def test_weights_of_edits_move_edited_tokens_further(
    runs: Any, tiny_policy: Path, pairs: list[Any], held_out: list[Any], tmp_path: Path
) -> None:
    method = loss(
        "bco", weights=WeightsConfig(chosen=SpanWeights(edit=4), rejected=SpanWeights(edit=4))
    )
    train(tiny_policy, tmp_path, pairs, held_out, method, 0, RunOptions())
    plain, weighted = rows(runs["bco"][0])[1], rows(tmp_path)[1]
    for side in ("chosen", "rejected"):
        name = f"gradients/{side}_edited"
        assert float(weighted[name]) == pytest.approx(4 * float(plain[name]), rel=1e-4)
        name = f"gradients/{side}_after"
        assert float(weighted[name]) == pytest.approx(float(plain[name]), rel=1e-4)
    assert float(weighted["gradients/shared"]) == pytest.approx(0, abs=1e-7)
    assert distance(weights(tmp_path), weights(runs["bco"][0])) > 1e-4


def test_weights_of_spans_in_a_token_loss(
    runs: Any, tiny_policy: Path, tiny_tokenizer: Any, pairs: list[Any], tmp_path: Path
) -> None:
    """Tokens of y⁺ count by their span in the sum; the mean is still over all tokens."""
    spans = SpanWeights(prefix=0.5, edit=3, after=0)
    method = loss("sft", weights=WeightsConfig(chosen=spans))
    train(tiny_policy, tmp_path, pairs, [], method, 0, RunOptions())
    tokens = tokenise(tiny_tokenizer, pairs, False)
    total, count, model = 0.0, 0, load(tiny_policy)
    for i in plan_steps(20, 8, 2, 0)[0]:
        logps = response_logps(model, tokens[i].prompt, tokens[i].chosen).detach()
        weight = torch.tensor([0.5, 3, 0])[torch.from_numpy(tokens[i].parts[0]).long()]
        total, count = total - (weight * logps).sum().item(), count + len(logps)
    assert float(rows(tmp_path)[1]["loss"]) == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("reduction", ["token", "sequence"])
def test_sft_beside_a_loss_of_pairs(
    reduction: str, runs: Any, tiny_policy: Path, pairs: list[Any], tmp_path: Path
) -> None:
    """At the start it is that of DPO and so many times that of SFT."""
    together = loss("dpo", sft_weight=0.5, sft_reduction=reduction)
    train(tiny_policy, tmp_path / "both", pairs, [], together, 0, RunOptions())
    alone = loss("sft", sft_reduction=reduction, epochs=1)
    train(tiny_policy, tmp_path / "sft", pairs, [], alone, 0, RunOptions())
    sft = float(rows(tmp_path / "sft")[1]["loss"])
    assert float(rows(tmp_path / "both")[1]["loss"]) == pytest.approx(
        math.log(2) + sft / 2, rel=1e-5
    )
    assert distance(weights(tmp_path / "both"), weights(runs["dpo"][0])) > 1e-4


# --- the same in bf16, with fp32 masters --------------------------------------------------------


BF16 = RunOptions(hardware=HardwareConfig(precision="bf16"))


def test_bf16_follows_fp32(
    runs: Any, tiny_policy: Path, pairs: list[Any], held_out: list[Any], tmp_path: Path
) -> None:
    """Rewards start at rounding, and the curves are those of fp32 within what bf16 allows."""
    result = train(tiny_policy, tmp_path, pairs, held_out, loss("bco"), 0, BF16)
    assert result.max_start_reward < start_bound(torch.bfloat16, 0.1, tokens=30)
    got, wanted = rows(tmp_path), rows(runs["bco"][0])
    assert float(got[1]["loss"]) == pytest.approx(2 * math.log(2), abs=5e-3)
    assert float(got[1]["gradient_norm"]) == pytest.approx(
        float(wanted[1]["gradient_norm"]), rel=0.03
    )
    for column in ("held_out/rewards/margins", "held_out/rewards/chosen"):
        assert float(got[-1][column]) == pytest.approx(float(wanted[-1][column]), rel=0.2)
    assert {t.dtype for t in weights(tmp_path).values()} == {torch.bfloat16}
    assert distance(weights(tmp_path), weights(runs["bco"][0])) < 0.02


def test_updates_too_small_for_bf16_add_up(
    tiny_policy: Path, pairs: list[Any], tmp_path: Path
) -> None:
    """At a rate of 1e-5 no update of a weight above 0.05 reaches bf16's resolution by itself."""
    slow = loss(
        "sft", learning_rate=1e-5, epochs=40, batch_pairs=8, schedule="constant", weight_decay=0.0
    )
    train(tiny_policy, tmp_path, pairs, [], slow, 0, BF16)
    start, end = load_file(tiny_policy / "model.safetensors"), weights(tmp_path)
    name = "model.layers.0.mlp.up_proj.weight"
    before, after = start[name].bfloat16().float(), end[name].float()
    far = before.abs() > 0.05  # resolution 2**-12 and more: 20 updates of 1e-5 make one
    moved = (before != after) & far
    assert 0.05 < moved.sum() / far.sum() < 1
    assert (before - after)[far].abs().max() > 1e-4


def test_checkpointed_layers_change_nothing(
    runs: Any, tiny_policy: Path, pairs: list[Any], held_out: list[Any], tmp_path: Path
) -> None:
    options = RunOptions(hardware=HardwareConfig(checkpoint_layers="1"))
    result = train(tiny_policy, tmp_path, pairs, held_out, loss("bco"), 0, options)
    assert result.checkpointed_layers == 1
    assert runs["bco"][1].checkpointed_layers == 0
    wanted = weights(runs["bco"][0])
    assert all(torch.equal(v, wanted[k]) for k, v in weights(tmp_path).items())


def test_each_pack_computes_as_few_layers_again_as_it_needs(
    runs: Any, tiny_policy: Path, pairs: list[Any], held_out: list[Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """With room for packs of about 90 tokens, in a run whose packs have 78 to 101."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_policy)
    room = room_for(90, tiny_policy, tokenise(tokenizer, pairs, False), HardwareConfig())
    seen: list[tuple[int, int]] = []  # tokens of every pack, and layers that it computes again
    whole = Recomputation.of

    def of(recomputed: Recomputation, pack: Pack) -> int:
        seen.append((pack.tokens, whole(recomputed, pack)))
        return seen[-1][1]

    monkeypatch.setattr(Recomputation, "of", of)
    hardware = HardwareConfig(checkpoint_layers="auto", memory_gib=room, tokens_per_pack=120)
    options = RunOptions(hardware=hardware)
    result = train(tiny_policy, tmp_path, pairs, held_out, loss("bco"), 0, options)
    assert result.checkpointed_layers > 0
    assert {again for tokens, again in seen if tokens < 85} == {0}
    assert min(again for tokens, again in seen if tokens > 95) > 0
    assert distance(weights(tmp_path), weights(runs["bco"][0])) < 1e-5


def test_delta_follows_the_logged_rewards(runs: Any) -> None:
    """Full batches only: each δ comes from the steps before it (EMA, 0.9)."""
    delta = 0.0
    for row in rows(runs["bco"][0])[1:]:
        assert float(row["delta"]) == pytest.approx(delta, abs=1e-7)
        half = (float(row["rewards/chosen"]) + float(row["rewards/rejected"])) / 2
        delta = 0.9 * delta + 0.1 * half
    assert abs(delta) > 1e-5


def test_delta_of_micro_batches_has_the_step_s_own_rewards(
    runs: Any, tiny_policy: Path, pairs: list[Any], held_out: list[Any], tmp_path: Path
) -> None:
    """One micro-batch a step: δ is the mean of all rewards so far, this step's among them."""
    whole = DeltaConfig("cumulative", micro_batch=8)
    train(tiny_policy, tmp_path, pairs, held_out, loss("bco", delta=whole), 0, RunOptions())
    halves: list[float] = []
    for row in rows(tmp_path)[1:]:
        halves.append((float(row["rewards/chosen"]) + float(row["rewards/rejected"])) / 2)
        assert float(row["delta"]) == pytest.approx(sum(halves) / len(halves), abs=1e-6)
    assert abs(halves[1]) > 1e-4
    second = rows(tmp_path)[2]
    assert float(second["loss"]) != float(rows(runs["bco"][0])[2]["loss"]), "which has δ = 0 there"


def test_learning_rate_follows_the_schedule(runs: Any) -> None:
    got = [float(row["learning_rate"]) for row in rows(runs["sft"][0])[1:]]
    # one step of warm-up (5% of 5, rounded up), then a cosine over the other four
    wanted = [1.0, *(0.5 * (1 + math.cos(math.pi * k / 4)) for k in range(4))]
    assert got == pytest.approx([3e-3 * factor for factor in wanted])


def test_schedules_by_hand() -> None:
    def factors(schedule: str) -> list[float]:
        chosen = loss("sft", schedule=schedule, warmup=0.2)
        return [rate_factor(chosen, step, 10) for step in range(10)]

    assert factors("constant") == pytest.approx([0.5, 1] + [1] * 8)
    assert factors("linear") == pytest.approx([0.5, 1] + [1 - k / 8 for k in range(8)])
    assert factors("cosine")[6] == pytest.approx(0.5)
    assert rate_factor(loss("sft", warmup=0), 0, 1) == 1.0


# --- the same optimisation, whatever the packing -------------------------------------------------


# Before the first update all rewards are rounding noise, and so is which of two is larger.
ROUNDED = {"rewards/accuracies", "held_out/rewards/accuracies"}


@pytest.mark.parametrize("name", ["sft", "dpo", "bco"])
@pytest.mark.parametrize(("tokens", "shared"), [(60, True), (500, False)])
def test_packing_changes_nothing(
    name: str,
    tokens: int,
    shared: bool,
    runs: Any,
    tiny_policy: Path,
    pairs: list[Any],
    held_out: list[Any],
    tmp_path: Path,
) -> None:
    train(
        tiny_policy, tmp_path, pairs, held_out, loss(name), 0,
        RunOptions(HardwareConfig(tokens_per_pack=tokens), share_prefix=shared),
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
            tiny_policy, tmp_path / str(seed), pairs, held_out, loss("dpo"), seed,
            RunOptions(),
        )  # fmt: skip
    same, other = weights(tmp_path / "0"), weights(tmp_path / "1")
    assert all(torch.equal(same[k], v) for k, v in weights(runs["dpo"][0]).items())
    assert distance(other, same) > 1e-4
    assert rows(tmp_path / "0")[0] == rows(tmp_path / "1")[0]


def test_sequence_sums_of_equation_2(
    runs: Any, tiny_policy: Path, pairs: list[Any], tmp_path: Path
) -> None:
    method = loss("sft", sft_reduction="sequence")
    train(tiny_policy, tmp_path, pairs, [], method, 0, RunOptions())
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
    assert sorted(path.name for path in out.iterdir()) == ["held_out", "metrics.csv", "model"]
    assert distance(weights(out), start) > 1e-3


def test_the_reference_is_shared_by_all_methods(runs: Any) -> None:
    folder = runs["bco"][0].parent / "reference"
    assert len(list(folder.glob("*.safetensors"))) == 2  # training pairs and held-out pairs


def test_a_failed_write_leaves_the_old_one(tmp_path: Path) -> None:
    def fail(aside: Path) -> None:
        (aside / "part").write_text("half")
        raise OSError("No space left on device")

    files.write_folder_aside(tmp_path / "kept", lambda aside: (aside / "a").write_text("whole"))
    with pytest.raises(OSError, match="No space"):
        files.write_folder_aside(tmp_path / "kept", fail)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["a"]
    assert [path.name for path in tmp_path.iterdir() if path.name[0] != "."] == ["kept"]
