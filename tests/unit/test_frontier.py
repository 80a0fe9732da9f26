"""Forgetting at equal gain: frontiers of made runs whose points and differences are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spot.report import frontier, frontier_figure
from spot.report.archive import opened, pack
from spot.report.claims import HOLDS, UNCLEAR, judge
from spot.report.load import EXPORTED_QUESTIONS, Study, load
from tests.support.runs import MadeRun, made_study

BASE = {"sums": 20, "word_problems": 30, "instructions": 90}  # percent of 100 questions
Place = tuple[float, float]  # gain in-domain, change of general ability


def right(place: Place) -> dict[str, float]:
    gain, general = place
    return {"sums": BASE["sums"] + gain, "instructions": BASE["instructions"] + general}


def exported(folder: Path, step: int, place: Place) -> None:
    """What `spot.pipeline.exports` writes: the first questions of each benchmark are right."""
    shares = BASE | right(place)
    lines = [f"{step},{n},q{i},{100.0 * (i < shares[n])}" for n in BASE for i in range(100)]
    text = "step,benchmark,question,percent\n" + "\n".join(lines) + "\n"
    (folder / EXPORTED_QUESTIONS).write_text(text)


def study(folder: Path, arms: dict[str, dict[float, tuple[Place, Place]]], seeds: int = 3) -> Study:
    """By loss and rate: where it was after the step that was exported, and where it ended."""
    runs, places = [], []
    for loss, rates in arms.items():
        for rate, (early, late) in rates.items():
            for seed in range(seeds):
                config = {"loss.learning_rate": rate}
                settings = {"base": BASE, "right": right(late), "study": "pareto"}
                runs.append(MadeRun(loss, seed=seed, config=config, **settings))
                places.append(early)
    made = made_study(folder, runs)
    for run, place in zip(made.runs, places, strict=True):
        exported(run.folder, 1, place)
    return Study(*load(folder / "sweep"))


ARMS = {
    "bco": {1e-4: ((10, 0), (20, -2)), 3e-4: ((25, -4), (40, -8))},
    "sft": {1e-4: ((5, -1), (10, -4)), 3e-4: ((20, -12), (30, -30))},
}
FULL, HALF = "bco_above_sft_plus_at_gain", "bco_above_sft_plus_at_half"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return study(tmp_path_factory.mktemp("pareto"), ARMS)


def of(study: Study, loss: str) -> list:
    return [run for run in study.runs if run.config["loss.name"] == loss]


def test_a_frontier_is_what_nothing_else_of_the_arm_beats(made: Study) -> None:
    found = {loss: frontier.points(made, of(made, loss)) for loss in ARMS}
    assert [len(points) for points in found.values()] == [5, 5], "two rates, two steps, the base"
    best = {loss: [(p.gain, p.general) for p in frontier.frontier(found[loss])] for loss in found}
    assert best["bco"] == [(10, 0), (20, -2), (40, -8)], "(10, 0) beats the base, a mix (25, -4)"
    assert best["sft"] == [(0, 0), (5, -1), (10, -4), (20, -12), (30, -30)]
    worse = frontier.frontier([*found["bco"], *found["sft"]])
    assert [(p.gain, p.general) for p in worse] == best["bco"]
    assert frontier.at(frontier.frontier(found["sft"]), 30.5) is None


def test_arms_are_judged_where_they_have_gained_as_much(made: Study) -> None:
    verdicts = {v.claim.id: v for v in judge(made)}
    half, full = verdicts[HALF], verdicts[FULL]
    # at +20: −2 beside −12; ten of 100 questions differ, so SE = 100 √(.1 · .9 / 99), t(99) = 1.984
    assert (half.outcome, half.family) == (HOLDS, "primary")
    assert half.estimate.value == pytest.approx(10)
    assert half.estimate.low == pytest.approx(10 - 1.984 * 100 * (0.09 / 99) ** 0.5, abs=0.01)
    assert (full.outcome, full.value) == (UNCLEAR, "–")
    assert full.interval == "the other gains +30.0 at most, not +40.0"
    turned = frontier.compare(made, of(made, "sft"), of(made, "bco"), 1.0)
    assert turned is not None
    assert turned[0].value == pytest.approx(-30 - -5), "BCO at +30, between +20 and +40"


def test_between_two_models_the_interval_is_that_of_resampling(made: Study) -> None:
    """At +24 both sides lie between two points: a bootstrap of all that is read off says as much."""
    found = frontier.compare(made, of(made, "bco"), of(made, "sft"), 0.6)
    assert found is not None
    assert found[0].value == pytest.approx(-3.2 - -19.2)
    points = [frontier.points(made, of(made, loss)) for loss in ("bco", "sft")]
    rng, values = np.random.default_rng(0), []
    for _ in range(1500):
        drawn = {domain: rng.integers(0, 100, 100) for domain in ("in_domain", "general")}
        sides = [
            frontier.frontier(
                [
                    frontier.Point(p.rate, p.step, {d: [t[:, drawn[d]] for t in p.tables[d]] for d in drawn})
                    for p in side
                ]
            )
            for side in points
        ]  # fmt: skip
        mixes = [frontier.at(side, 0.6 * sides[0][-1].gain) for side in sides]
        if None not in mixes:
            levels = [sum(w * p.general for w, p in mix.weights) for mix in mixes]
            values.append(levels[0] - levels[1])
    assert found[0].error == pytest.approx(np.std(values), rel=0.15)


def test_a_study_without_frontiers_says_nothing_of_them(tmp_path: Path, made: Study) -> None:
    runs = [MadeRun(loss, seed=s, right={"sums": 50}) for loss in ("bco", "sft") for s in range(2)]
    usual = made_study(tmp_path / "usual", runs)
    assert not {v.claim.id for v in judge(usual)} & {FULL, HALF}
    other = made_study(tmp_path / "other", [MadeRun("bco", config={"data.gamma": 0.2})]).runs
    assert frontier.points(made, [*of(made, "bco"), *other]) == [], "another γ is another arm"


def test_of_an_unfinished_sweep_the_seeds_that_both_have_are_compared(made: Study) -> None:
    runs = [run for run in made.runs if (run.config["loss.name"], run.seed) != ("sft", 2)]
    part = Study(runs, ["5"])
    (half,) = (v for v in judge(part) if v.claim.id == HALF)
    assert (half.estimate.value, half.estimate.seeds) == (pytest.approx(10), 2)
    gone = Study([run for run in runs if run.config["loss.name"] == "bco" or run.seed > 1], [])
    assert not {v.claim.id for v in judge(gone)} & {FULL, HALF}, "no seed of SFT+ is left"


def test_its_archive_has_the_same_verdicts_and_its_report_the_figure(
    tmp_path: Path, made: Study
) -> None:
    assert made.folder is None
    sweep = made.runs[0].folder.parent
    with opened(pack(sweep, tmp_path / "runs.tar.gz")) as folder:
        again = Study(*load(folder), folder)
        assert judge(again) == judge(made)
        figure = frontier_figure.draw(again)
    assert figure is not None
    (axes,) = figure.axes
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["SPoT-BCO", "SFT+"]
    assert list(axes.lines[2].get_xdata()) == [10, 20, 40]
    assert list(axes.lines[2].get_ydata()) == [0, 2, 8], "points lost"
