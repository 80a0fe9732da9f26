"""A later round beside the first policy: what is logged against whom, and what the loss is tethered to."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from spot.config.compose import compose
from spot.data.artifacts import model_digest
from spot.pipeline.distributed.training_job import TrainingJob
from spot.training import reference
from spot.training.loop import Base, RunOptions, tokenise, train
from spot.training.packing import plan_steps
from tests.unit.runs import loss, rows, without_timings

BETA = 0.1


@pytest.fixture(scope="module")
def rounds(
    tiny_policy: Path, pairs: list[Any], held_out: list[Any], tmp_path_factory: Any
) -> tuple[Path, dict[str, Path]]:
    """One round, and a second one on top of it with either reference. Folders by the choice."""
    folder = tmp_path_factory.mktemp("rounds")
    options = RunOptions(reference_folder=folder / "reference")
    train(tiny_policy, folder / "one", pairs, held_out, loss("bco"), 0, options)
    first = Base(tiny_policy, model_digest(tiny_policy))
    choices = {"previous": first, "first": Base(first.folder, first.weights, tethers=True)}
    for name, base in choices.items():
        later = RunOptions(reference_folder=folder / "reference", base=base)
        train(folder / "one" / "model", folder / name, pairs, held_out, loss("bco"), 1, later)
    return folder / "one", {name: folder / name for name in choices}


@cache
def loaded(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)


def logps(folder: Path, prompt: Any, response: Any) -> np.ndarray:
    """log-probs of a response's tokens by transformers alone, fp64."""
    ids = torch.tensor([[*prompt, *response]])
    with torch.no_grad():
        table = loaded(folder)(ids).logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
    return table[torch.arange(len(response)), torch.tensor(response)].numpy()


def distances(policy: Path, other: Path, pairs: list[Any]) -> dict[str, float]:
    """Mean r⁺ and r⁻, and the mean over all tokens of y⁻ of exp(d) − 1 − d."""
    kl, sums = [], {"chosen": 0.0, "rejected": 0.0}
    for pair in pairs:
        for side in sums:
            response = getattr(pair, side)
            d = logps(policy, pair.prompt, response) - logps(other, pair.prompt, response)
            sums[side] += BETA * d.sum() / len(pairs)
            kl += list(np.exp(d) - 1 - d) if side == "rejected" else []
    return {f"rewards/{k}": v for k, v in sums.items()} | {"kl": float(np.mean(kl))}


def test_distances_to_the_round_s_start_and_to_the_base_are_told_apart(
    rounds: Any, tiny_policy: Path, tiny_tokenizer: Any, held_out: list[Any]
) -> None:
    one, later = rounds
    tokens = tokenise(tiny_tokenizer, held_out, False)
    for choice, folder in later.items():
        table, model = rows(folder), folder / "model"
        tethered_to = one / "model" if choice == "previous" else tiny_policy
        wanted = {"held_out": tethered_to, "held_out_to_base": tiny_policy}
        for prefix, other in wanted.items():
            for name, value in distances(model, other, tokens).items():
                logged = float(table[-1][f"{prefix}/{name}"])
                assert logged == pytest.approx(value, rel=1e-3, abs=1e-5), (choice, prefix, name)
        starts = {k: float(v) for k, v in table[0].items() if k.startswith("held_out_to_base/")}
        ends = rows(one)[-1]
        for name, value in starts.items():  # where the first round ended
            ended = float(ends[name.replace("_to_base", "")])
            assert value == pytest.approx(ended, abs=1e-5), name
        assert starts["held_out_to_base/kl"] > 1e-4
    assert "held_out_to_base/kl" not in rows(one)[0]


def test_the_loss_of_the_first_step_is_that_of_its_reference(
    rounds: Any, tiny_policy: Path, tiny_tokenizer: Any, pairs: list[Any]
) -> None:
    """δ is 0 at the first step and, where rewards do not begin at 0, the first batch's mean at the second."""
    one, later = rounds
    tokens = tokenise(tiny_tokenizer, pairs, False)
    batch = [tokens[i] for i in plan_steps(20, 8, 2, 1)[0]]
    for choice, folder in later.items():
        other = one / "model" if choice == "previous" else tiny_policy
        rewards = np.array(
            [
                [
                    BETA * (logps(one / "model", p.prompt, r) - logps(other, p.prompt, r)).sum()
                    for r in (p.chosen, p.rejected)
                ]
                for p in batch
            ]
        )
        value = (np.log1p(np.exp(-rewards[:, 0])) + np.log1p(np.exp(rewards[:, 1]))).mean()
        first, second = rows(folder)[1:3]
        assert float(first["loss"]) == pytest.approx(value, rel=1e-4), choice
        assert float(first["rewards/chosen"]) == pytest.approx(rewards[:, 0].mean(), abs=1e-5)
        assert float(first["delta"]) == 0
        weight = 1.0 if choice == "first" else 0.1  # of the first batch's mean, which is 0 there
        assert float(second["delta"]) == pytest.approx(weight * rewards.mean(), abs=1e-6), choice
    assert abs(rewards.mean()) > 1e-3


def test_scores_of_the_base_that_a_round_before_has_made_are_not_computed_again(
    rounds: Any, tiny_policy: Path, held_out: list[Any], pairs: list[Any], monkeypatch: Any
) -> None:
    """With the first round as reference, the pairs of the first round are in its cache, too."""
    one, later = rounds
    base = Base(tiny_policy, model_digest(tiny_policy), tethers=True)
    monkeypatch.setattr(reference, "_frozen", lambda *_, **__: pytest.fail("loaded the base"))
    monkeypatch.setattr(reference, "score", lambda *_, **__: pytest.fail("scored again"))
    options = RunOptions(reference_folder=one.parent / "reference", base=base)
    out = one.parent / "again"
    train(one / "model", out, pairs, held_out, loss("bco"), 1, options)
    assert without_timings(out) == without_timings(later["first"])


def test_a_live_reference_is_the_first_policy_too(
    rounds: Any, tiny_policy: Path, held_out: list[Any], pairs: list[Any], tmp_path: Path
) -> None:
    one, later = rounds
    base = Base(tiny_policy, model_digest(tiny_policy), tethers=True)
    train(
        *(one / "model", tmp_path, pairs, held_out, loss("bco"), 1),
        RunOptions(reference="copy", base=base),
    )
    for column in ("loss", "delta", "held_out/kl", "held_out_to_base/kl"):
        live, cached = (float(rows(o)[-1][column]) for o in (tmp_path, later["first"]))
        assert live == pytest.approx(cached, rel=1e-3, abs=1e-6), column


def test_other_processes_are_told_of_the_base() -> None:
    folders = [
        Path(f"/{name}") for name in ("run", "policy", "pairs", "held_out", "out", "reference")
    ]
    config = compose(["rounds=2", "reference_round=first"])
    for base in ((), (Path("/base"), "digest")):
        job = TrainingJob(config, "policy's", *folders, *base)
        assert TrainingJob.from_json(job.to_json()) == job
