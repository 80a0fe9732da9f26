"""Probes and loggers around a run, and what it says about pairs it cannot train on."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from spot.config import HardwareConfig, ProbeConfig, compose, plain
from spot.pipeline import tracking
from spot.training.loop import RunOptions, train
from spot.training.model_check import start_bound, start_histogram
from spot.utils.errors import UserError
from tests.unit.runs import loss, rows, without_timings
from tests.unit.wandb_files import saved_runs


def test_the_ability_probe_sees_the_model_as_it_is(
    tiny_policy: Path, pairs: list[Any], tmp_path: Path
) -> None:
    seen = []

    def probe(model: Any) -> dict[str, float]:
        seen.append((model.training, torch.is_grad_enabled(), model.config._attn_implementation))
        return {"words": len(seen)}

    options = RunOptions(ability_probe=probe, probe=ProbeConfig(ability_every=3))
    train(tiny_policy, tmp_path, pairs, [], loss("sft"), 0, options)
    assert seen == [(False, False, "sdpa")] * 3
    assert [row["probe/words"] for row in rows(tmp_path)] == ["1", "", "", "2", "", "3"]


def test_tensorboard_gets_every_step(tiny_policy: Path, pairs: list[Any], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = plain(compose.compose(["loss=rwsft", "seed=2"]))
    with tracking.loggers(["csv", "tensorboard"], tmp_path, config, tmp_path) as loggers:
        options = RunOptions(loggers=loggers)
        train(tiny_policy, tmp_path, pairs, [], loss("rwsft"), 0, options)
    wanted = [(int(r["step"]), float(r["rewards/chosen"])) for r in rows(tmp_path)[1:]]

    def logged() -> list[tuple[int, float]]:
        place = tmp_path / "logs" / "tensorboard" / "rwsft-2"
        events = EventAccumulator(str(place)).Reload()
        return [(e.step, e.value) for e in events.Scalars("rewards/chosen")]

    assert logged() == [(step, pytest.approx(value, rel=1e-6)) for step, value in wanted]
    step, value = wanted[-1]
    with tracking.loggers(["tensorboard"], tmp_path, config, tmp_path) as (board,):
        board.log_metrics({"rewards/chosen": value}, step)  # killed before, and made again
        board.finalize("success")
    assert logged() == [(step, pytest.approx(value, rel=1e-6)) for step, value in wanted]


@pytest.mark.slow
def test_wandb_gets_every_step(tiny_policy: Path, pairs: list[Any], tmp_path: Path) -> None:
    config = plain(compose.compose(["logger=wandb"]))
    with tracking.loggers(["wandb"], tmp_path, config, tmp_path) as loggers:
        options = RunOptions(loggers=loggers)
        train(tiny_policy, tmp_path, pairs, [], loss("sft"), 0, options)
    (saved,) = saved_runs(tmp_path / "logs")
    for row in rows(tmp_path):
        measured = {n: pytest.approx(float(v)) for n, v in row.items() if v and n != "step"}
        logged = saved.history.get(int(row["step"]), {})  # nothing is measured at step 0 here
        assert {name: logged.get(name) for name in measured} == measured


def test_unknown_logger(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="'mlflow': use csv, tensorboard or wandb"),
        tracking.loggers(["mlflow"], tmp_path, {}, tmp_path),
    ):
        pass


def test_pairs_without_rejected(tiny_policy: Path, build_pairs: Any, tmp_path: Path) -> None:
    own = build_pairs(6, seed=2, with_rejected=False)
    for name in ("sft", "rwsft"):
        train(tiny_policy, tmp_path / name, own, own, loss(name), 0, RunOptions())
        last = rows(tmp_path / name)[-1]
        assert last["held_out/rewards/chosen"]
        assert not last["held_out/rewards/rejected"]
        assert not last["held_out/kl"]
    with pytest.raises(UserError, match="loss=bco needs rejected responses"):
        train(tiny_policy, tmp_path, own, [], loss("bco"), 0, RunOptions())


def test_bad_input_is_one_line(tiny_policy: Path, pairs: list[Any], tmp_path: Path) -> None:
    def run(some: list[Any], options: RunOptions) -> None:
        train(tiny_policy, tmp_path, some, [], loss("bco"), 0, options)

    with pytest.raises(UserError, match="no pairs"):
        run([], RunOptions())
    with pytest.raises(UserError, match="same id"):
        run([pairs[0], pairs[0]], RunOptions())
    with pytest.raises(UserError, match=r"No pair fits a pack of 20 tokens"):
        run(pairs, RunOptions(hardware=HardwareConfig(tokens_per_pack=20)))
    with pytest.raises(
        UserError, match=r"accelerator=gpu needs a CUDA device .* sees 0: choose hardware=cpu"
    ):
        run(pairs, RunOptions(hardware=HardwareConfig(accelerator="gpu")))
    with pytest.raises(UserError, match=r"attention=varlen does not run here"):
        run(pairs, RunOptions(hardware=HardwareConfig(attention="varlen")))


@pytest.mark.parametrize("name", ["bco", "sft"])
def test_pairs_longer_than_a_pack_are_dropped_and_counted(
    name: str, tiny_policy: Path, pairs: list[Any], tmp_path: Path, capsys: Any
) -> None:
    options = RunOptions(hardware=HardwareConfig(tokens_per_pack=36))
    result = train(tiny_policy, tmp_path / "a", pairs, pairs[:6], loss(name), 0, options)
    assert 0 < len(result.over_long) < 20
    assert f"{len(result.over_long)} of 20 pairs, longer than a pack" in capsys.readouterr().err
    assert set(result.held_out_over_long) <= set(result.over_long)
    assert result.steps == -(-2 * (20 - len(result.over_long)) // 8)
    # the same as if they had never been there
    rest = [pair for pair in pairs if pair.id not in result.over_long]
    watched = [pair for pair in pairs[:6] if pair.id not in result.over_long]
    again = train(tiny_policy, tmp_path / "b", rest, watched, loss(name), 0, options)
    assert without_timings(tmp_path / "a") == without_timings(tmp_path / "b")
    assert again.over_long == []


def test_a_run_that_blows_up_names_the_step_and_its_pairs(
    tiny_policy: Path, pairs: list[Any], tmp_path: Path
) -> None:
    wild = loss("sft", batch_pairs=8, schedule="constant")
    wild.learning_rate = 1e38  # which the configuration refuses
    with pytest.raises(UserError, match=r"log-probs of step 2 are not finite \(pairs pair-0-\d+, "):
        train(tiny_policy, tmp_path, pairs, [], wild, 0, RunOptions())


@pytest.mark.parametrize("watched", [0, 4])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_that_blows_up_in_its_last_step_leaves_no_model(
    watched: int, precision: str, tiny_policy: Path, pairs: list[Any], tmp_path: Path
) -> None:
    once = loss("sft", epochs=1, batch_pairs=20)
    once.learning_rate = 1e38  # which the configuration refuses
    options = RunOptions(hardware=HardwareConfig(precision=precision))
    wanted = r"log-probs of held-out pairs are not finite \(pairs pair-" if watched else (
        r"weights that are not finite \(model"
    )  # fmt: skip
    with pytest.raises(UserError, match=wanted):
        train(tiny_policy, tmp_path, pairs, pairs[:watched], once, 0, options)
    assert not (tmp_path / "model").exists()


def test_log_probs_that_are_not_finite_name_their_pair(
    tiny_policy: Path, tiny_tokenizer: Any, pairs: list[Any], tmp_path: Path
) -> None:
    """A broken embedding of a token that one pair has."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_policy)
    token = tiny_tokenizer.convert_tokens_to_ids("+")
    with torch.no_grad():
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
        model.config.tie_word_embeddings = False
        model.model.embed_tokens.weight[token] = float("nan")
    model.save_pretrained(tmp_path / "broken")
    tiny_tokenizer.save_pretrained(tmp_path / "broken")
    plain = [replace(p, chosen=p.chosen.replace("+", "-"), rejected=p.rejected.replace("+", "-"),
                     question=p.question.replace("+", "-")) for p in pairs]  # fmt: skip
    plain[11] = replace(plain[11], question="1+1")
    for name, where in (("bco", "of the reference"), ("sft", r"of step \d")):
        with pytest.raises(
            UserError, match=rf"log-probs {where} are not finite \(pairs pair-0-11\)"
        ):
            train(
                tmp_path / "broken",
                tmp_path,
                plain,
                [],
                loss(name),
                0,
                RunOptions(),
            )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_that_are_not_finite_name_their_pair(
    precision: str,
    tiny_policy: Path,
    pairs: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A loss whose value is finite and whose slope is not, for one pair."""
    from spot.training.module import PairModule

    right = PairModule._pack_loss

    def steep(self: Any, pack: Any, logps: torch.Tensor, *others: Any) -> Any:
        loss, metrics = right(self, pack, logps, *others)
        one = torch.tensor([i == "pair-0-7" for i in pack.ids])
        zero = torch.where(one, loss - loss.detach(), torch.ones_like(loss))
        return loss + zero.sqrt() - zero.sqrt().detach(), metrics

    monkeypatch.setattr(PairModule, "_pack_loss", steep)
    options = RunOptions(hardware=HardwareConfig(precision=precision))
    with pytest.raises(UserError, match=r"gradients of step \d are not finite \(pairs pair-0-7\):"):
        train(tiny_policy, tmp_path, pairs, [], loss("bco"), 0, options)


def test_a_reference_of_another_model_is_noticed(
    tiny_policy: Path, pairs: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spot.training import reference

    right = reference.score

    def wrong(*arguments: Any) -> torch.Tensor:
        return right(*arguments) + 0.05

    monkeypatch.setattr(reference, "score", wrong)
    with pytest.raises(
        UserError, match=r"must be 0 .* delete the reference folder.*again\.$"
    ) as told:
        train(tiny_policy, tmp_path, pairs, [], loss("bco"), 0, RunOptions())
    # β |y| 0.05 a response; the bound is β 1e-4 times the root of the longest's tokens
    assert "of 16: 0 up to a tenth of it, 0 up to it, 0 up to ten times it, 16 beyond" in str(
        told.value
    )


def test_rewards_at_the_start_are_told_in_four_bins_around_their_bound() -> None:
    rewards = torch.tensor([0.0, -0.04, 0.05, 0.06, -0.5, 0.51, -5.0, 5.01, math.inf])
    told = "3 up to a tenth of it, 2 up to it, 2 up to ten times it, 2 beyond"
    assert start_histogram(rewards, 0.5) == told
    # 1,800 tokens of bf16 at β 0.1, rounding as measured: 0.13 √1800 β
    assert start_bound(torch.bfloat16, 0.1, 1800) / 7 > 0.1 * 0.13 * 1800**0.5


def test_a_deterministic_training_takes_torchs_deterministic_algorithms(
    tiny_policy: Path, pairs: list[Any], tmp_path: Path
) -> None:
    """… and gives the same product a name of its own, where the default leaves every name as it was."""
    seen = []

    def probe(model: Any) -> dict[str, float]:
        seen.append(torch.are_deterministic_algorithms_enabled())
        return {"zero": 0.0}

    for deterministic in (True, False):
        options = RunOptions(
            HardwareConfig(deterministic=deterministic),
            probe=ProbeConfig(ability_every=1),
            ability_probe=probe,
        )
        train(tiny_policy, tmp_path / str(deterministic), pairs, [], loss("sft"), 0, options)
    steps = len(seen) // 2
    assert seen == [True] * steps + [False] * steps
    assert "deterministic" not in HardwareConfig().decisive()
    assert HardwareConfig(deterministic=True).decisive()["deterministic"] is True
    gpu = {"accelerator": "gpu", "precision": "bf16"}
    assert HardwareConfig(**gpu).fuses
    assert not HardwareConfig(**gpu, deterministic=True).fuses
    for kernel in ({"attention": "flash"}, {"logprobs": "liger"}, {"fused": "liger"}):
        with pytest.raises(UserError, match=r"hardware\.deterministic=true .* hardware\.attention"):
            HardwareConfig(**gpu, deterministic=True, **kernel)
