"""Scores in a terminal: what one model reached, and how two differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spot.data import artifacts, run_record
from spot.data.rows import Score
from spot.evaluation import saved_responses
from spot.evaluation.saved_responses import SavedResponse
from spot.evaluation.statistics import (
    Estimate,
    bootstrap,
    by_benchmark,
    crossed,
    holm,
    macro,
    mean_interval,
    means_by_question,
    paired,
    question_means,
    summarise,
)
from spot.grading.family import Grade
from spot.utils import terminal
from spot.utils.errors import UserError


@dataclass(frozen=True)
class Scores:
    """The scores of one model, as `spot evaluate` or a run left them."""

    name: str
    rows: Mapping[str, list[Score]]  # by benchmark, in the order they were asked for
    manifest: Mapping[str, Any]

    @cached_property
    def means(self) -> dict[str, dict[str, float]]:
        """Mean of every question, by benchmark, in percent."""
        return {name: question_means(rows) for name, rows in self.rows.items()}

    def asked(self, benchmark: str) -> int:
        """How many trials of each question were asked for."""
        return int(self.manifest["settings"]["benchmarks"][benchmark]["trials"])


def read(folder: Path, product: str = "scores", name: str | None = None) -> Scores:
    """The scores in a product's folder, or in that of a run or an evaluation. Raises UserError."""
    where = folder
    if record := run_record.read(folder):
        if record["status"] != run_record.COMPLETE:
            raise UserError(
                f"{folder} is not complete: run its command again, {record['command']}."
            )
        if product not in record["products"]:
            raise UserError(f"{folder} measured one model only: name two folders to compare.")
        where = folder / record["products"][product]
    if not (where / artifacts.MANIFEST).exists():
        raise UserError(
            f"{folder} holds no scores: give the folder of a run, or the one that spot evaluate prints."
        )
    manifest = artifacts.read_manifest(where)
    if manifest["stage"] != "evaluate":
        raise UserError(f"{folder} holds no scores but what the stage {manifest['stage']} made.")
    rows = by_benchmark(artifacts.read_rows(where, Score))
    tasks = list(manifest["settings"]["benchmarks"])
    return Scores(name or str(folder), {t: rows[t] for t in tasks if t in rows}, manifest)


def show(scores: Scores, console: Console | None = None) -> None:
    """One line a benchmark: accuracy, its interval, and how the answers came about."""
    details = scores.manifest["details"]
    numbers = ("accuracy %", "95% interval", "questions × trials", "trivial %", "unparseable %",
               "truncated %", "mean tokens")  # fmt: skip
    table = terminal.table("benchmark", *numbers, right=numbers)
    for name, rows in scores.rows.items():
        summary = summarise(rows)
        trivial = details.get("trivial", {}).get(name)
        table.add_row(
            name,
            f"{summary.accuracy.value:.1f}",
            _interval(summary.accuracy),
            f"{summary.accuracy.questions} × {_trials(summary.fewest_trials, summary.trials)}",
            "–" if trivial is None else f"{trivial:.1f}",
            f"{summary.unparseable:.1f}",
            f"{summary.truncated:.1f}",
            f"{summary.mean_tokens:.0f}",
        )
    if len(scores.rows) > 1:
        mean = macro([list(means.values()) for means in scores.means.values()])
        table.add_row("average", f"{mean.value:.1f}", _interval(mean))
    console = console or terminal.console()
    spare = ("trivial %", "mean tokens", "truncated %", "questions × trials")
    console.print(terminal.fit(table, console.width, spare, ("benchmark",)))
    for name, rows in scores.rows.items():
        if shares := saved_responses.flag_shares([row.details for row in rows]):
            console.print(f"{name}: {_listed(shares)}")
        if parts := details.get("trivial_parts", {}).get(name):
            console.print(f"{name}, the best answer without reading: {_listed(parts)}")
    for note in notes(scores):
        console.print(note, style="yellow")


def _listed(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {share:.1f}%" for key, share in shares.items())


def notes(scores: Scores) -> list[str]:
    """What a reader must know before believing a score, one sentence each."""
    details = scores.manifest["details"]
    found = []
    for name, rows in scores.rows.items():
        summary, asked = summarise(rows), scores.asked(name)
        questions, accuracy = summary.accuracy.questions, summary.accuracy
        if summary.fewest_trials < asked:
            trials = _trials(summary.fewest_trials, summary.trials)
            found.append(
                f"{name}: asked for {terminal.count(asked, 'trial')} of each question, observed {trials}."
            )
        wanted = scores.manifest["settings"]["benchmarks"][name].get("questions")
        if wanted is not None and questions < wanted:
            found.append(
                f"{name}: asked for {terminal.count(wanted, 'question')}, found {questions:,}."
            )
        trivial = details.get("trivial", {}).get(name)
        if trivial is not None and accuracy.low <= trivial:
            answer = details.get("trivial_answers", {}).get(name, "")
            found.append(
                f"{name}: not above {answer!r} as the answer to everything ({trivial:.1f}%)."
            )
        warnings = {str(row.details["warning"]) for row in rows if row.details.get("warning")}
        found += [f"{name}: {warning}" for warning in sorted(warnings)]
    return found


def compare(a: Scores, b: Scores, console: Console | None = None) -> None:
    """What `b` scores more than `a`, paired by question; only questions that both were asked count."""
    console = console or terminal.console()
    shared = {
        name: sorted(a.means[name].keys() & b.means[name].keys())
        for name in a.rows
        if name in b.rows
    }
    for name in [name for name in shared if _source(a, name) != _source(b, name)]:
        del shared[name]
        console.print(f"{name}: left out, its questions come from other places.", style="yellow")
    tables = {name: paired([b.means[name]], [a.means[name]]) for name, ids in shared.items() if ids}
    if not tables:
        raise UserError(f"{a.name} and {b.name} share no question: measure the same benchmarks.")
    console.print(f"A: {a.name}   B: {b.name}")
    spare = ("bootstrap", "questions", "p", "p, corrected", "95% interval")
    differences = _differences(a, b, shared, tables)
    console.print(terminal.fit(differences, console.width, spare, ("benchmark",)))
    console.print(
        f"Bold: the interval excludes 0. p is corrected for {terminal.count(len(tables), 'comparison')} (Holm).",
        style="dim",
    )
    graders = [scores.manifest["settings"].get("graders", {}) for scores in (a, b)]
    for name in a.rows:
        if len({grader.get(name) for grader in graders}) > 1:
            what = (
                "graded by different versions: type both commands again, nothing is sampled anew."
            )
            console.print(f"{name}: {what}", style="yellow")
        if left := len(a.means[name].keys() ^ b.means.get(name, {}).keys()):
            console.print(
                f"{name}: {terminal.count(left, 'question')} asked to one side only.",
                style="yellow",
            )
    settings = [scores.manifest["settings"]["generation"] for scores in (a, b)]
    for key in dict.fromkeys([*settings[0], *settings[1]]):
        one, other = (generation.get(key) for generation in settings)
        if one != other:
            console.print(f"{key} was {one} for A and {other} for B.", style="yellow")


def _differences(
    a: Scores, b: Scores, shared: Mapping[str, list[str]], tables: Mapping[str, NDArray[np.float64]]
) -> Table:
    """One line a benchmark, from the differences of its questions; of several, also their mean."""
    differences = [crossed([table]) for table in tables.values()]
    numbers = ("A %", "B %", "B − A", "95% interval", "bootstrap", "p", "p, corrected", "questions")
    table = terminal.table("benchmark", *numbers, right=numbers)
    sides = []
    for (name, values), difference, corrected in zip(
        tables.items(), differences, holm([d.p for d in differences]), strict=True
    ):
        one, other = (np.mean([s.means[name][q] for q in shared[name]]) for s in (a, b))
        sides.append((one, other))
        low, high = bootstrap(list(values[0]))
        table.add_row(
            name, f"{one:.1f}", f"{other:.1f}", _signed(difference), _interval(difference),
            f"[{low:.1f}, {high:.1f}]", f"{difference.p:.3f}", f"{corrected:.3f}",
            str(difference.questions),
        )  # fmt: skip
    if len(tables) > 1:
        mean = crossed(list(tables.values()))
        both = (f"{np.mean(side):.1f}" for side in zip(*sides, strict=True))
        table.add_row("average", *both, _signed(mean), _interval(mean), "", f"{mean.p:.3f}")
    return table


def _source(scores: Scores, name: str) -> list[Any]:
    """Where the questions of a benchmark came from: the same id means the same question only there."""
    settings = scores.manifest["settings"]
    task = settings["benchmarks"][name]
    source = [task.get(key) for key in ("family", "hub", "subset", "split", "revision", "path")]
    made = not any(source[1:])
    return [*source, settings["seed"] if made else None]


def _interval(estimate: Estimate) -> str:
    return f"[{estimate.low:.1f}, {estimate.high:.1f}]"


def _signed(estimate: Estimate) -> Text:
    return Text(f"{estimate.value:+.1f}", "bold" if estimate.excludes_zero else "")


def _trials(fewest: int, most: int) -> str:
    return str(most) if fewest == most else f"{fewest}–{most}"


def show_shares(
    benchmark: str, graded: Sequence[tuple[SavedResponse, Grade]], trivial: tuple[float, str]
) -> None:
    """What became of saved responses: accuracy with its interval, and every finding's share.

    trivial: percent that the best answer given without reading scores on these questions, and it.
    """
    answers = [(response.answer.question.id, grade.correct) for response, grade in graded]
    means = list(means_by_question(answers).values())
    accuracy = mean_interval(means, bounds=(0.0, 100.0))
    console = terminal.console()
    trials = Counter(question_id for question_id, _ in answers).values()
    console.print(
        f"{benchmark}: {accuracy.value:.1f}% correct {_interval(accuracy)}, {terminal.count(len(means), 'question')} × "
        f"{_trials(min(trials), max(trials))}"
    )
    for name, share in saved_responses.shares(graded).items():
        console.print(f"  {name.replace('_', ' '):<24}{share:6.1f}%")
    console.print(f"  {'trivial answer':<24}{trivial[0]:6.1f}%  ({trivial[1]})")
    reasons = Counter(grade.reason for _, grade in graded if grade.reason)
    for reason, count in reasons.most_common(5):
        console.print(f"  {count:>6} × {reason}", style="dim")
