"""What there is to compute: pairs, their tokens in a pack, forward FLOPs, steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from spot.config import LOSSES, BenchmarkConfig, Config
from spot.config.benchmarks import SIZES
from spot.data import hub
from spot.data.jsonl import Problem
from spot.training.bin_packing import Lengths
from spot.training.memory_model import Rows
from spot.training.shapes import Shape

ERROR_RATE = 0.3  # share of attempts that are wrong, before any was seen
RECIPE_PAIRS = 4000  # the paper's


@dataclass(frozen=True)
class Work:
    """The pairs of a round. All sums are over one epoch; a later round is assumed to be as large."""

    pairs: int
    origin: str  # where the number of pairs comes from
    lengths: str  # where their lengths come from
    longest: int  # tokens of the longest pair in a pack, with both responses
    trained: Rows  # what a step forwards
    reference: Rows  # what the reference scores; empty for losses without rewards
    apart: float  # tokens trained on as sequences of their own
    steps: int
    epochs: int
    rounds: int  # trainings, one after the other
    ahead: int = 0  # forward passes over a step before the one that it learns from

    def tokens_of_step(self, batch_pairs: int, ranks: int) -> float:
        """Of each rank that has pairs, on average."""
        pairs = min(batch_pairs, self.pairs)
        return self.trained.tokens / self.pairs * pairs / min(ranks, batch_pairs)

    def flops(self, shape: Shape, checkpointed: int, reference: str) -> dict[str, float]:
        """FLOPs of the run, all rounds together, by purpose.

        A backward pass costs two forward passes, a checkpointed layer one more, and so do the logits,
        which are computed tile by tile and thrown away. Frozen weights have no gradient: one. Adapters
        themselves are not counted.
        """
        backward = 2 if shape.lora.rank is None else 1
        share = checkpointed / shape.layers
        again = share * self.trained.body + self.trained.head
        passes = 1 if reference == "cached" else self.epochs
        one = {
            "training": (self.ahead + 1 + backward) * self.epochs * self.trained.forward,
            "computed again": self.epochs * again,
            "reference": passes * self.reference.forward,
        }
        return {purpose: self.rounds * value for purpose, value in one.items()}


def work_of(config: Config, shape: Shape, lengths: Sequence[Lengths] | None = None) -> Work:
    """The run's pairs: measured `lengths`, or what `plan` and `data` assume."""
    loss, data = config.loss, config.data
    if lengths:
        drawn, count, origin, known = lengths, len(lengths), "counted", "measured"
    else:
        one, known = _assumed(config)
        count, origin = _pairs(config)
        drawn = [one]
    factor, shared = count / len(drawn), data.share_prefix
    needs = LOSSES[loss.name]
    forwards = needs.rejected
    # a cached reference scores y⁻ for every loss, a live one only what the loss asks for
    scores = forwards or config.reference == "cached"
    return Work(
        pairs=count,
        origin=origin,
        lengths=known,
        longest=max(pair.tokens(True, shared) for pair in drawn),
        trained=Rows.of(drawn, shape, forwards, shared).times(factor),
        reference=Rows.of(drawn, shape, scores, shared).times(factor)
        if needs.reference
        else Rows(),
        apart=Rows.of(drawn, shape, forwards, shared=False).times(factor).tokens,
        steps=math.ceil(count * loss.epochs / loss.batch_pairs),
        epochs=loss.epochs,
        rounds=config.rounds,
        ahead=int(needs.delta and loss.delta.micro_batch is not None),
    )


def attempts(config: Config) -> int | None:
    """How many attempts the data give a round; None where only a file that is not here knows."""
    data = config.data
    questions = data.questions
    if data.path and (place := Path(data.path).expanduser()).exists():
        there = _usable(data.path, data.subset, data.split, _state(place))
        questions = there if questions is None else min(there, questions)
    return questions and questions * (1 if data.fields.response else data.samples)


@lru_cache
def _usable(path: str, subset: str | None, split: str, _: tuple[tuple[str, int, int], ...]) -> int:
    """Rows of local data that can be read, counted once as long as its files are as they were."""
    rows = hub.load_rows(subset=subset, split=split, path=path).rows
    return sum(not isinstance(row, Problem) for _, row in rows)


def _state(place: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size in bytes and time of the last write, in ns, of a file or of all below a folder."""
    files = (path for path in (place, *place.rglob("*")) if path.is_file())
    stats = ((str(path.absolute()), path.stat()) for path in sorted(files))
    return tuple((name, status.st_size, status.st_mtime_ns) for name, status in stats)


def questions_of(task: BenchmarkConfig) -> int:
    """How many a benchmark asks; 500 of an unknown data set."""
    return task.questions or SIZES.get(task.name, 500)


def answers(config: Config, domain: str | None = None) -> int:
    """What one model answers in all benchmarks, or in a domain's."""
    tasks = config.benchmarks.tasks.values()
    return sum(questions_of(t) * t.trials for t in tasks if domain in (None, t.domain))


def _pairs(config: Config) -> tuple[int, str]:
    """How many pairs are trained on, and where the number comes from."""
    wanted, attempted = config.data.pairs, attempts(config)
    if attempted is None:
        return (wanted or RECIPE_PAIRS), "data.pairs" if wanted else "assumed: the paper's number"
    own = config.data.arm == "self"
    share, kind = (1 - ERROR_RATE, "correct") if own else (ERROR_RATE, "wrong")
    held_out = config.data.held_out
    most = round(share * max(0.0, attempted - held_out / ERROR_RATE))
    given = f"{attempted:,} attempts, {share:.0%} of them {kind} (assumed), less data.held_out={held_out}"
    if most < 1:
        return 1, f"none: {given}: lower it or ask more questions"
    if wanted is None:
        return most, f"at most: {given}"
    return (
        wanted,
        "data.pairs"
        if wanted <= most
        else f"data.pairs, but {given} give {most:,}: raise data.samples",
    )


def _assumed(config: Config) -> tuple[Lengths, str]:
    """One pair as `plan` describes it, shortened to what the model's context holds."""
    plan, limit = config.plan, config.model.context_length
    scale = min(1.0, limit / (plan.prompt_tokens + plan.response_tokens))
    prompt = max(1, int(scale * plan.prompt_tokens))
    response = max(2, int(scale * plan.response_tokens))
    note = f"assumed: prompt {prompt}, response {response}, {plan.shared:.0%} shared"
    if scale < 1:
        note += f" (cut to model.context_length={limit})"
    if config.data.arm == "self":
        return Lengths(prompt, response), note
    prefix = min(int(plan.shared * response), response - 1)
    return Lengths(prompt, response, response, prefix), note
