"""What the time of a run goes to, stage by stage, each with what it was computed from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from spot.config import PAID, Config, GeneratorConfig
from spot.evaluation import benchmarks
from spot.pipeline import clients
from spot.pipeline.plan.account import GIB, Plan
from spot.pipeline.plan.disk import SPEED, exported_bytes
from spot.pipeline.plan.work import answers, attempts
from spot.training.memory_model import capacity, width
from spot.training.probing import steps_between
from spot.training.shapes import Shape

DISK = f"{SPEED / 1e9:g} GB/s (assumed)"
AT_ONCE = 16  # requests to an Oracle where oracle.concurrency is null
UNKNOWN = "set plan.tokens_per_second, which `spot elicit data.questions=100` measures"


@dataclass(frozen=True)
class Spent:
    """One line; minutes are None where they are unknown, and `source` then says what would tell."""

    what: str
    minutes: float | None
    source: str


def spent(plan: Plan) -> list[Spent]:
    """Every stage of the run that takes time, of all rounds, in the order of the run."""
    after = [*_measured(plan, "after"), *_exported(plan)]
    return [*_before(plan), *_training(plan), *_written(plan), *after]


def total(rows: Sequence[Spent]) -> tuple[float, list[str]]:
    """Minutes of what is known, and the names of what is not."""
    known = sum(row.minutes for row in rows if row.minutes is not None)
    return known, [row.what for row in rows if row.minutes is None]


def _before(plan: Plan) -> Iterator[Spent]:
    """Until the pairs are there: servers, samples, corrections, and the first model's scores."""
    config, samples = plan.config, plan.config.data.fields.response is None
    if config.generator.kind == "vllm" or (config.evaluator and config.evaluator.kind == "vllm"):
        starts = config.rounds + (1 if config.benchmarks.tasks else 0)
        yield _start("vLLM's starts", plan, starts, f"{starts} policies that answer")
    if samples:
        asked = attempts(config)
        count = asked and config.rounds * asked
        yield _sampling("sampling", plan, config.generator, count, "attempts")
    yield from _oracle(plan)
    yield from _measured(plan, "before")


def _start(what: str, plan: Plan, times: int, note: str) -> Spent:
    """Processes and their libraries, and the weights from the disk."""
    seconds, size = plan.config.plan.start_seconds, width(plan.config.hardware)
    each = seconds + size * plan.shape.parameters / SPEED
    source = f"{note}: {seconds:g} s (plan.start_seconds, assumed), weights read at {DISK}"
    return Spent(what, times * each / 60, source)


def _measured(plan: Plan, when: str) -> Iterator[Spent]:
    """One model on all benchmarks."""
    config = plan.config
    if config.benchmarks.tasks:
        used, count = clients.evaluator(config), answers(config)
        yield _sampling(f"evaluation, {when}", plan, used, count, "answers")


def _exported(plan: Plan) -> Iterator[Spent]:
    """Ability over steps, of the weights that the last round kept before its end."""
    config = plan.config
    if config.probe.afterwards:
        count = (plan.work.steps - 1) // config.save.exports * answers(config, config.probe.domain)
        used = clients.evaluator(config)
        yield _sampling("evaluation of exports", plan, used, count, "answers")


def _sampling(
    what: str, plan: Plan, generator: GeneratorConfig, count: int | None, kind: str
) -> Spent:
    """So many responses as long as the plan assumes; prompts and the last stragglers are left out."""
    longest = min(plan.config.model.context_length, generator.max_new_tokens)
    length = min(plan.config.plan.response_tokens, longest)
    if count is None:
        return Spent(what, None, "the data are not here: set data.path or data.questions")
    rate, source = tokens_per_second(generator, plan.config, plan.shape)
    given = f"{count:,} {kind} of {length:,} tokens"
    if rate is None:
        return Spent(what, None, f"{given}: {source}")
    return Spent(what, count * length / rate / 60, f"{given} at {rate:,.0f} tokens/s: {source}")


def tokens_per_second(
    generator: GeneratorConfig, config: Config, shape: Shape
) -> tuple[float | None, str]:
    """Of everything that generates together, by a roofline; and what it was computed from.

    A step gives one token to each request in flight. It reads the weights once and each request's keys
    and values, or computes as many FLOPs, whichever takes longer. Keys and values fill what the weights leave.
    """
    plan, hardware = config.plan, config.hardware
    if plan.tokens_per_second is not None:
        return plan.tokens_per_second, "plan.tokens_per_second"
    if hardware.accelerator == "cpu" or generator.kind == "transformers":
        return None, UNKNOWN
    share = generator.tensor_parallel if generator.kind == "vllm" else 1
    gpus = len(generator.gpus or []) or hardware.devices
    copies = (generator.servers or 0) * generator.data_parallel or max(1, gpus // share)
    servers = len(generator.base_urls) or copies
    weights, each = 2.0 * shape.parameters, 4.0 * shape.layers * shape.keys
    each *= plan.prompt_tokens + plan.response_tokens / 2  # of a request half way
    requests = float(generator.concurrency)
    if (memory := capacity(hardware)) is not None:
        requests = min(requests, max(1.0, (share * memory - weights) / each))
    read = weights + requests * each
    seconds = read / (share * plan.bandwidth * 1e12)
    if hardware.tflops is not None:
        flops = requests * (shape.cost.token + shape.cost.scored)
        seconds = max(seconds, flops / (share * hardware.tflops * 1e12 * plan.utilisation))
    source = f"{servers} × {requests:.0f} requests, {read / 1e9:.0f} GB a step at {plan.bandwidth:g} TB/s (plan.bandwidth, assumed)"
    return servers * requests / seconds, source


def _oracle(plan: Plan) -> Iterator[Spent]:
    """Requests to a paid Oracle, so many at a time; what the policy itself corrects is sampled."""
    config, count = plan.config, plan.calls.count
    oracle, seconds = config.oracle, config.plan.oracle_seconds
    if oracle.kind == "self":
        yield _sampling("Oracle", plan, config.generator, count, "corrections")
    if oracle.kind not in PAID:
        return
    if oracle.batch or count is None:
        within = "batch jobs (oracle.batch) may take a day"
        yield Spent("Oracle", None, within if oracle.batch else plan.calls.note)
        return
    at_once, most = oracle.concurrency or AT_ONCE, oracle.requests_per_minute
    minutes = count * seconds / at_once / 60
    source = f"{count:,} calls of {seconds:g} s (plan.oracle_seconds, assumed), {at_once} at a time"
    if oracle.concurrency is None:
        source += " (assumed: the run finds out)"
    if most and count / most > minutes:
        minutes, source = count / most, f"{count:,} calls, oracle.requests_per_minute={most:g}"
    yield Spent("Oracle", minutes, f"{source}; without second tries")


def _training(plan: Plan) -> Iterator[Spent]:
    """From its start to its last step, without what is written."""
    config, work, flops = plan.config, plan.work, plan.flops
    rounds, ranks = config.rounds, config.hardware.ranks
    yield _start("training's start", plan, rounds, f"{rounds} × {ranks} processes")
    if flops["reference"]:
        note = "once" if config.reference == "cached" else f"in each of {work.epochs} epochs"
        if rounds > 1 and config.reference_round == "first":
            note += ", by the base, which later rounds load beside the policy"
        yield _computed("reference", plan, flops["reference"], f"{note}, ")
    passes = flops["training"] + flops["computed again"]
    training = _computed("steps", plan, passes, f"{rounds * work.steps:,} steps, ")
    yield training
    if ranks > 1 and training.minutes is not None:
        waiting = (plan.balance.slowest - 1) * training.minutes
        note = f"{plan.balance.slowest:.2f} × the mean of {ranks} ranks: {plan.balance.source}"
        yield Spent("waiting for the slowest", waiting, note)
    pairs = config.probe.pairs
    look = pairs * (work.reference.forward or work.trained.forward) / work.pairs
    batch = config.loss.batch_pairs * work.trained.forward / work.pairs
    every = steps_between(config.probe, config.hardware.accelerator, look, batch, work.steps)
    probes = rounds * (1 + -(-work.steps // every))
    busy = min(1.0, pairs / ranks)
    held_out = config.data.held_out
    note = f"{probes:,} of {pairs} held-out pairs (probe.every={every}) and 2 of all {held_out}, "
    every_pair = 2 * held_out  # in the middle and at the end
    yield _computed("probes", plan, rounds * every_pair * look / pairs + probes * look / busy, note)
    asked = len(benchmarks.general(config.benchmarks.tasks, config.probe))
    if asked and not config.hardware.in_parts:
        count = rounds * (1 + work.steps // config.probe.ability_every)
        note = f"{count} times {asked * config.probe.questions} answers (probe.ability_every)"
        yield Spent("ability probe", None, f"{note}, generated in the training's own process")


def _computed(what: str, plan: Plan, flops: float, note: str) -> Spent:
    """So many FLOPs at the share of the peak that is assumed."""
    hardware, used = plan.config.hardware, plan.config.plan.utilisation
    if plan.rate is None:
        return Spent(what, None, f"{note}{flops:.3g} FLOPs: set hardware.tflops")
    peak = f"{hardware.ranks} × {hardware.tflops:g} TFLOP/s"
    source = (
        f"{note}{flops:.3g} FLOPs if {used:.0%} (plan.utilisation, assumed) of {peak} is reached"
    )
    return Spent(what, flops / plan.rate / 60, source)


def _written(plan: Plan) -> Iterator[Spent]:
    """What training writes while everybody waits; resumable checkpoints are written beside the steps."""
    config, rounds = plan.config, plan.config.rounds
    if config.save.exports:
        count = rounds * (plan.work.steps // config.save.exports)
        yield _file("exports", count, exported_bytes(config, plan.shape), " (save.exports)")
    yield _file("trained model", rounds, exported_bytes(config, plan.shape), "")


def _file(what: str, count: int, size: float, key: str) -> Spent:
    source = f"{count} of {size / GIB:,.3g} GiB{key} at {DISK}"
    return Spent(what, count * size / SPEED / 60, source)
