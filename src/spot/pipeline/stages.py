"""Each stage with what determines its product, and what each room gets of the configuration.

A stage's settings and its inputs' digests name its product, so they hold everything that can change
the result and nothing else: that is what lets a sweep over losses elicit and rectify only once.
Heavy modules are imported where a product is really made, so that reusing one costs nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from spot.config import ASKED, Config
from spot.data import artifacts, pair_tokens
from spot.data.advice import nothing_wrong, ungraded
from spot.data.rows import WRONG, Attempt, Pair, Rectification, Score
from spot.evaluation import benchmarks as measuring
from spot.generation import build
from spot.generation.types import PROMPT_TOO_LONG
from spot.grading import sandbox, versions
from spot.grading.registry import Verifier
from spot.oracle import build as oracles
from spot.pipeline import clients, elicitation, parts, rectification
from spot.pipeline import questions as sourcing
from spot.pipeline import responses as sampled
from spot.pipeline.distributed import launch
from spot.pipeline.distributed.training_job import TrainingJob, carry_out
from spot.pipeline.policy import Policy, check_layout
from spot.pipeline.run import Run
from spot.pipeline.selection import Rules, nothing_left
from spot.pipeline.selection import select as select_pairs
from spot.utils.errors import UserError

# ---- elicit ------------------------------------------------------------------------------------


def attempts(run: Run) -> artifacts.Product:
    """The policy's graded attempts."""
    return grade(run, respond(run))


def respond(run: Run) -> artifacts.Product | None:
    """The policy's responses, sampled from it; None where, in the first round, the data has its own.

    Every round asks the same questions, with other random numbers: a file has no others, and one
    round with as many pairs then differs in nothing but whose errors they are.
    """
    config, data = run.config, run.config.data
    if run.start is None and data.fields.response is not None:
        return None
    policy = run.start or run.weights(None)
    settings: dict[str, Any] = {
        "questions": sourcing.settings(config),
        "samples": data.samples,
        "seed": data.seed if run.start is None else data.seed + run.round - 1,
        "generation": clients.generation(config, config.generator),
    }
    target = artifacts.product(run.root, "respond", settings, {"policy": policy.digest})

    def make() -> None:
        if data.answer_format == "code":
            sandbox.ready()
        if run.trains:
            check_layout(config.model, policy)
        asked, _ = sampled.to_ask(run, settings["seed"])
        if run.holds_out:
            sourcing.check_held_out(data, len(asked) // data.samples)
        known = sampled.kept(target, "elicit", Attempt, sampled.prompts(asked))
        start = partial(run.generators.start, config, config.generator, policy)
        with Verifier() as verifier:
            tally = elicitation.Tally(
                elicitation.verdict_of(asked, verifier.verdicts, data.answer_format),
                partial(ungraded, data=data),
            )
            sampled.complete(target, asked, known, start, tally)

    return run.stage("responses", target, make)


def grade(run: Run, responses: artifacts.Product | None) -> artifacts.Product:
    """The verdicts on the responses; or the attempts that came with the data, graded here."""
    if responses is None:
        return _import(run)
    data = run.config.data
    settings = {**responses.settings, "answer_format": data.answer_format}
    settings |= {"grader": versions.of_format(data.answer_format)}
    inputs = {**responses.inputs, "responses": responses.digest}
    target = artifacts.product(run.root, "elicit", settings, inputs)

    def make() -> None:
        asked, dropped = sampled.to_ask(run, settings["seed"])
        run.asked = None  # not kept while it trains
        rows = sampled.read(responses, sampled.prompts(asked))

        def produce(done: frozenset[str], counts: Counter[str]) -> Iterator[Attempt]:
            counts.update(dropped)
            counts.update(r.finish_reason for r in rows if r.finish_reason == PROMPT_TOO_LONG)
            some = [row for row in rows if row.id not in done]
            with Verifier() as verifier:
                yield from elicitation.grade(asked, some, verifier.verdicts, data.answer_format)

        sampled.grade(target, Attempt, produce, elicitation.details)
        elicitation.say_ungraded(target.counts, data)

    return run.stage("attempts", target, make)


def policy(run: Run, attempts: artifacts.Product | None) -> Policy:
    """What the round of these attempts starts with; a student of the data reads those not held out."""
    if run.start is not None and attempts is not run.first:
        return run.start
    return run.weights(attempts if run.config.data.fields.response is not None else None)


def needs_attempts(config: Config) -> bool:
    """Whether a model can only be measured after elicitation: by its own questions, or as a student of them."""
    learns = config.model.path is None and config.data.fields.response is not None
    return learns or measuring.asks_held_out(config.benchmarks.tasks)


def pretrain(run: Run) -> Path:
    """The student of `model.pretrain`, made even where the package ships the same one."""
    read = _import(run) if run.config.data.fields.response is not None else None
    return run.student(read).folder / "model"


def _import(run: Run) -> artifacts.Product:
    """Attempts that a model made elsewhere, graded here."""
    config, data = run.config, run.config.data
    settings = {
        "import": sourcing.settings(config),
        "answer_format": data.answer_format,
        "grader": versions.of_format(data.answer_format),
    }
    target = artifacts.product(run.root, "elicit", settings)

    def produce(done: frozenset[str], counts: Counter[str]) -> Iterator[Attempt]:
        with Verifier() as verifier:
            rows, dropped = sourcing.attempts(config, verifier)
        counts.update(dropped)
        yield from (row for row in rows if row.id not in done)

    def make() -> None:
        sampled.grade(target, Attempt, produce)
        elicitation.say_ungraded(target.counts, data)

    return run.stage("attempts", target, make)


# ---- rectify -----------------------------------------------------------------------------------


def rectify(run: Run, attempts: artifacts.Product, *, part: str, mode: str) -> artifacts.Product:
    """The Oracle's word on the wrong attempts of one part: `train`, or the few that are held out.

    Held-out attempts are always corrected, never answered directly: every arm is watched on the same
    pairs.
    """
    config, data = run.config, run.config.data
    inputs = {"attempts": attempts.digest} | _first(run, attempts)
    asked = config.oracle.kind in ASKED
    student = policy(run, attempts) if asked else None
    if student is not None and oracles.depends_on_policy(config.oracle):
        inputs["policy"] = student.digest
    target_pairs = config.oracle.target_pairs if part == "train" else None
    generation = clients.generation(config, config.generator)
    settings = {
        "part": part,
        "held_out": data.held_out,
        "split_seed": data.seed,
        "mode": mode,
        "oracle": oracles.settings(config.oracle, data, mode, target_pairs, generation),
        "answer_format": data.answer_format,
    } | parts.settings(config)
    target = artifacts.product(run.root, "rectify", settings, inputs)

    def make() -> None:
        if not attempts.counts.get(WRONG):
            raise UserError(nothing_wrong(attempts.counts, data))
        if run.trains:
            check_layout(config.model, student or policy(run, attempts))
        wrong = parts.wrong(config, attempts, part, run.first)
        outcomes: Counter[str] = Counter()
        with Verifier() as verifier:
            digests = sampled.verdict_digests(attempts)
            asking = config, run.generators.start, verifier, student
            oracle = clients.oracle(*asking, mode=mode, target=target_pairs, attempts=digests)

            def produce(done: frozenset[str], counts: Counter[str]) -> Iterator[Rectification]:
                rows = artifacts.unfinished_rows(target, Rectification)
                return rectification.rectify(wrong, oracle, mode=mode, done=rows, outcomes=outcomes)

            artifacts.compute_rows(
                target,
                Rectification,
                produce,
                total=len(wrong),
                details=lambda _: oracle.details(),
                note=lambda: rectification.note(oracle, outcomes),
            )

    name = "rectifications" if part == "train" else "held_out_rectifications"
    if part == "train" and mode != data.arm:  # of an arm that this one is matched with
        name = f"{mode}_rectifications"
    return run.stage(name, target, make)


def _first(run: Run, attempts: artifacts.Product) -> dict[str, str]:
    """What decides whose questions are held out, where it is not these attempts themselves."""
    if run.first is None or attempts is run.first:
        return {}
    return {"first": run.first.digest}


def material(run: Run, attempts: artifacts.Product, arm: str) -> artifacts.Product:
    """What the pairs of a data arm are made of: the Oracle's words, or in the self arm the attempts."""
    return attempts if arm == "self" else rectify(run, attempts, part="train", mode=arm)


# ---- select ------------------------------------------------------------------------------------


def select(run: Run, policy: Policy, attempts: artifacts.Product) -> artifacts.Product:
    """The pairs to train on, `data.pairs` at most.

    With `data.matched` no arm gets more than the poorest of those named there has, and with
    `data.matched_gamma` no γ more than that one leaves.
    """
    data = run.config.data

    def of(arm: str, gamma: float, name: str, pairs: int | None = None) -> artifacts.Product:
        """So many pairs of a data arm, or all it has."""
        limit = gamma if arm == "rectified" else None
        settings = {"arm": arm, "gamma": limit, "pairs": pairs}
        return _select(run, policy, material(run, attempts, arm), name, settings)

    pools = {arm: of(arm, data.gamma, f"{arm}_pairs") for arm in data.matched}
    if data.matched_gamma is not None:
        pool = of("rectified", data.matched_gamma, "matched_pairs")
        pools[f"γ = {data.matched_gamma:g}"] = pool
    return of(data.arm, data.gamma, "pairs", run.fewest(pools, data.pairs))


def select_held_out(run: Run, policy: Policy, corrections: artifacts.Product) -> artifacts.Product:
    """The pairs every arm is watched on: all verified corrections of the part held out, any γ."""
    settings = {"arm": "rectified", "gamma": None, "pairs": None}
    return _select(run, policy, corrections, "held_out", settings)


def _select(
    run: Run, policy: Policy, material: artifacts.Product, name: str, settings: dict[str, Any]
) -> artifacts.Product:
    config = run.config
    settings |= {
        "seed": config.data.seed,
        "context_length": config.model.context_length,
        "thinking": config.model.thinking,
        "answer_format": config.data.answer_format,
        "grader": versions.of_format(config.data.answer_format),
    }
    inputs = {"material": material.digest, "policy": policy.digest}
    if settings["arm"] == "self":
        settings |= {"held_out": config.data.held_out} | parts.settings(config)
        inputs |= _first(run, material)
    target = artifacts.product(run.root, "select", settings, inputs, artifacts.ROWS)
    rules = Rules(**{key: settings[key] for key in Rules.__dataclass_fields__})
    dropped: dict[str, list[str]] = {}

    def produce(done: frozenset[str], counts: Counter[str]) -> Iterator[Pair]:
        from transformers import AutoTokenizer

        rows: list[Rectification] | list[Attempt]
        if rules.arm == "self":
            rows = parts.split(config, material, run.first)[0]
        else:
            rows = artifacts.read_rows(material.folder, Rectification)
        with Verifier() as verifier:
            tokenizer = AutoTokenizer.from_pretrained(policy.folder)
            selection = select_pairs(rows, tokenizer, rules, verifier)
        if not selection.pairs:
            key = "data.matched_gamma" if name == "matched_pairs" else "data.gamma"
            raise UserError(nothing_left(selection, rules, key, held_out=name == "held_out"))
        dropped.update(selection.dropped)
        counts.update(selection.counts)
        pair_tokens.write(target.folder, selection.tokens)
        yield from (pair for pair in selection.pairs if pair.id not in done)

    def make() -> None:
        artifacts.compute_rows(target, Pair, produce, details=lambda _: {"dropped": dropped})

    return run.stage(name, target, make)


# ---- train -------------------------------------------------------------------------------------


def train(
    run: Run, base: Policy, policy: Policy, pairs: artifacts.Product, held_out: artifacts.Product
) -> Policy:
    """The trained policy. Reference log-probs are shared by all losses and seeds of a sweep.

    base: the first round's start, which later rounds are measured against and may be tethered to.
    """
    config, first = run.config, base.digest == policy.digest
    inputs = {"policy": policy.digest, "pairs": pairs.digest, "held_out": held_out.digest}
    if config.reference_round == "first" and not first:
        inputs["base"] = base.digest
    settings = clients.training_settings(config)
    target = artifacts.product(run.root, "train", settings, inputs, "model/*")

    folders = policy.folder, pairs.folder, held_out.folder, target.folder
    reference, start = run.root.parent / "reference", (base.folder, base.digest)
    more = () if first else start
    job = TrainingJob(config, policy.digest, run.logs, *folders, reference, *more).absolute()
    carry = launch.run if config.hardware.apart else carry_out

    def make() -> None:
        run.generators.close()  # training needs their GPUs
        artifacts.compute_files(target, lambda _: carry(job))

    made = run.stage("checkpoint", target, make)
    if not (target.folder / "model" / "README.md").exists():
        run.write_card()  # once more with scores, when the run is complete
    return Policy(config.arm or config.loss.name, target.folder / "model", made.digest)


# ---- evaluate ----------------------------------------------------------------------------------


def evaluate(
    run: Run, name: str, policy: Policy, attempts: artifacts.Product | None = None
) -> artifacts.Product:
    """Scores of one model on every benchmark; the same questions and random numbers for each model.

    attempts: where a benchmark asks the run's own held-out questions.
    """
    config, inputs = run.config, {"policy": policy.digest}
    own = attempts if measuring.asks_held_out(config.benchmarks.tasks) else None
    held_out = parts.wrong(config, own, "held_out") if own is not None and own.complete else []
    answered = name.replace("scores", "benchmark_responses")
    responses = _respond_to_benchmarks(run, answered, policy, own, held_out)
    if own is not None:
        inputs["attempts"] = own.digest
    settings = clients.score_settings(config) | {"graders": clients.graders(config)}
    inputs["responses"] = responses.digest
    target = artifacts.product(run.root, "evaluate", settings, inputs)

    def make() -> None:
        from spot.evaluation import runner

        with Verifier() as verifier:
            benchmarks = measuring.benchmarks(config.benchmarks, config.data, held_out, verifier)
            asked = runner.requests(
                benchmarks, build.sampling(clients.evaluator(config)), config.benchmarks.seed
            )
            rows = sampled.read(responses, sampled.prompts(asked))

            def produce(done: frozenset[str], counts: Counter[str]) -> Iterator[Score]:
                return runner.grade(asked, [row for row in rows if row.id not in done])

            sampled.grade(target, Score, produce, lambda _: measuring.details(benchmarks))

    return run.stage(name, target, make)


def _respond_to_benchmarks(
    run: Run,
    name: str,
    policy: Policy,
    attempts: artifacts.Product | None,
    held_out: Sequence[Attempt],
) -> artifacts.Product:
    """What a model answers to all benchmarks. attempts: where one asks the run's held-out questions."""
    config, inputs = run.config, {"policy": policy.digest}
    if attempts is not None:
        known = attempts.complete
        inputs["questions"] = measuring.held_out_digest(held_out) if known else attempts.digest
    target = artifacts.product(run.root, "respond", clients.asked_settings(config), inputs)

    def make() -> None:
        from spot.evaluation import runner

        evaluator = clients.evaluator(config)
        benchmarks = measuring.benchmarks(config.benchmarks, config.data, held_out)
        asked = runner.requests(benchmarks, build.sampling(evaluator), config.benchmarks.seed)
        known = sampled.kept(target, "evaluate", Score, sampled.prompts(asked))
        start = partial(run.generators.start, config, evaluator, policy)
        sampled.complete(target, asked, known, start, elicitation.Tally())

    return run.stage(name, target, make)
