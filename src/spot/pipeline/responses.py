"""Responses apart from their verdicts: what was sampled once is graded again, and not sampled again.

Products of before the two were apart hold both: their rows are taken as responses.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from spot.data import artifacts
from spot.data.chat import transcript
from spot.data.rows import Attempt, Response, Score
from spot.evaluation.benchmarks import without_grading
from spot.generation import Generator, build, respond
from spot.generation.types import PROMPT_TOO_LONG
from spot.pipeline import elicitation, questions
from spot.utils.errors import UserError
from spot.utils.progress import say

if TYPE_CHECKING:
    from spot.pipeline.run import Run

GRADING = ("answer_format", "grader", "graders", "held_out", "split_seed", "corrected")
Graded = Attempt | Score


def to_ask(run: Run, seed: int) -> tuple[elicitation.Asked, dict[str, int]]:
    """What the policy is asked, and how many rows were dropped by reason; read once for both stages."""
    config = run.config
    if run.asked is None or run.asked[0] != seed:
        found, dropped = questions.questions(config)
        sampling = build.sampling(config.generator)
        run.asked = seed, elicitation.requests(found, config.data.samples, sampling, seed), dropped
    return run.asked[1], run.asked[2]


def complete(
    target: artifacts.Product,
    asked: Mapping[str, tuple[Any, ...]],
    known: Sequence[Response],
    start: Callable[[], Generator],
    tally: elicitation.Tally,
) -> None:
    """Make `target` of the responses that are known and, from a generator, those to all other requests."""
    ids = {row.id for row in known}
    requests = [request for key, (*_, request) in asked.items() if key not in ids]

    def produce(done: frozenset[str], counts: Counter[str]) -> Iterator[Response]:
        yield from (row for row in known if row.id not in done)
        if all(request.key in done for request in requests):
            return
        with closing(start()) as generator:
            generator.ready()
            yield from tally.watch(respond(generator, requests, done))

    def details(rows: Sequence[Response]) -> dict[str, Any]:
        return {"kept": len(known)} if known else tally.details(rows)

    artifacts.compute_rows(target, Response, produce, len(asked), details, tally.note)
    if tally.summary:  # another process may have made it meanwhile
        say(f"{target.stage}: {tally.summary}")


def prompts(asked: Mapping[str, tuple[Any, ...]]) -> dict[str, str]:
    """What is asked, by the request's key."""
    return {key: transcript(request.messages) for key, (*_, request) in asked.items()}


def kept(
    target: artifacts.Product, stage: str, row_type: type[Any], prompts: Mapping[str, str]
) -> list[Response]:
    """Responses to these prompts (by id) that an earlier product of `stage` holds with its verdicts."""
    old = _earlier(target, stage, lambda inputs: "responses" not in inputs)
    if old is None:
        return []
    rows = [
        _response(row, prompts)
        for row in artifacts.read_rows(old.folder, row_type)
        if row.id in prompts
    ]
    return [row for row in rows if row.prompt == prompts[row.id]]


def read(responses: artifacts.Product, prompts: Mapping[str, str]) -> list[Response]:
    """The responses to these prompts. Raises UserError where they were given to others."""
    rows = artifacts.read_rows(responses.folder, Response)
    if any(prompts.get(row.id) != row.prompt for row in rows):
        raise UserError(
            f"{responses.folder} answers other questions than are asked now: delete it and run the "
            "command again."
        )
    return rows


def grade(
    target: artifacts.Product,
    row_type: type[Any],
    produce: artifacts.Produce,
    details: Callable[[Any], Mapping[str, Any]] = lambda rows: {},
) -> None:
    """Make `target` of graded rows, and say what changed where they were graded otherwise before."""
    artifacts.compute_rows(
        target, row_type, produce, None, lambda rows: {**details(rows), **_compared(target, rows)}
    )


def _compared(target: artifacts.Product, rows: Sequence[Graded]) -> dict[str, Any]:
    """What became of the verdicts on the same responses; says it, too. Empty where there were none."""
    old = _earlier(target, target.stage, lambda inputs: True)
    if old is None or not rows:
        return {}
    row_type: type[Any] = type(rows[0])
    before = {row.id: row for row in artifacts.read_rows(old.folder, row_type)}
    pairs = [(before[row.id], row) for row in rows if row.id in before]
    same = [(a.verdict, b.verdict) for a, b in pairs if a.response == b.response]
    moved = Counter(f"{a} → {b}" for a, b in same if a != b)
    listed = "".join(f", {count:,} {what}" for what, count in moved.most_common())
    changed = f"{moved.total():,} verdicts changed{listed}" if moved else "no verdict changed"
    say(f"{target.stage}: regraded {len(same):,} responses: {changed}")
    found = {"responses": len(same), "verdicts": dict(moved), "before": verdict_digests(old)}
    return {"regraded": found}


def verdict_digests(product: artifacts.Product) -> list[str]:
    """The digest of these verdicts, and those of earlier ones on the same responses, the latest first."""
    regraded = product.manifest["details"].get("regraded", {})
    return [product.digest, *regraded.get("before", [])]


def _earlier(
    target: artifacts.Product, stage: str, fits: Callable[[Mapping[str, str]], bool]
) -> artifacts.Product | None:
    """The newest other product of `stage` from the same responses of the same model."""
    found = []
    for path in (target.folder.parents[1] / stage).glob(f"*/{artifacts.MANIFEST}"):
        try:
            manifest = artifacts.read_manifest(path.parent)
        except UserError:
            continue  # damaged, and not this command's
        same = _asked(manifest) == _asked({"settings": target.settings, "inputs": target.inputs})
        if same and path.parent != target.folder and fits(manifest["inputs"]):
            found.append(path)
    newest = max(found, key=lambda path: path.stat().st_mtime_ns, default=None)
    return None if newest is None else artifacts.finished(newest.parent)


def _asked(manifest: Mapping[str, Any]) -> Any:
    """What decides responses, of a product's settings and inputs."""
    settings = {k: v for k, v in manifest["settings"].items() if k not in GRADING}
    if "benchmarks" in settings:
        settings["benchmarks"] = without_grading(settings["benchmarks"])
    return json.loads(json.dumps([settings, manifest["inputs"].get("policy")]))


def _response(row: Graded, prompts: Mapping[str, str]) -> Response:
    """A graded row without its verdict. Scores kept no prompt."""
    told = (
        re.findall(r"\d+", getattr(row, "reason", ""))
        if row.finish_reason == PROMPT_TOO_LONG
        else []
    )
    return Response(
        id=row.id,
        prompt=row.question if isinstance(row, Attempt) else prompts[row.id],
        response=row.response,
        finish_reason=row.finish_reason,
        prompt_tokens=int(told[0]) if told else 0,
        tokens=row.tokens,
        model=row.model if isinstance(row, Attempt) else "",
        seed=row.seed,
    )
