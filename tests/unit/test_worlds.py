"""Worlds: what a number moves, and studies that ran in several."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy import stats

from spot.cli.arguments import spread_worlds
from spot.config import compose, from_plain, plain
from spot.evaluation.statistics import trimmed
from spot.report import build, rewards, tables
from spot.report.claims import judge
from spot.report.load import Study
from tests.support.runs import MadeRun, made_study

GAINS = (10, 20, 30)  # in-domain, of three worlds
HALF = 4.302653 * 10 / 3**0.5  # of their mean: S = 10, t with 2 degrees of freedom
CHANGES = [0.05] * 12 + [0.3] * 10 + [0.9] * 5  # change ratios of held-out pairs, γ = 0.6


def runs(world: int, seeds: int = 2) -> list[MadeRun]:
    """BCO in a world whose seeds are moved as the pipeline records it."""
    gained = {"sums": 40 + GAINS[world]}
    moved = {
        "world": world,
        "data.seed": world,
        "benchmarks.seed": 1000 + world,
        "oracle.seed": world,
    }
    watched = [(ratio, 1 + world, 3 + world + place % 2) for place, ratio in enumerate(CHANGES)]
    return [
        MadeRun(seed=s, right=gained, config=moved, watched=watched, study="table2")
        for s in range(seeds)
    ]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return made_study(tmp_path, [run for world in range(3) for run in runs(world)])


def test_a_world_moves_four_seeds_once() -> None:
    world = compose.compose(["world=2", "data.seed=5"])
    seeds = world.data.seed, world.benchmarks.seed, world.oracle.seed, world.model.pretrain.seed
    assert seeds == (7, 1002, 2, 2)
    assert from_plain(plain(world)) == world  # what was written down is not moved again
    assert plain(compose.compose(["world=0"])) == plain(compose.compose())


def test_so_many_worlds_are_a_sweep() -> None:
    words = spread_worlds("run", ["-m", "+paper=table2", "worlds=3", "seed=0"])
    assert words == ["-m", "+paper=table2", "world=0,1,2", "seed=0"]
    assert spread_worlds("plan", ["worlds=3"]) == ["plan.worlds=3"]
    jobs = compose.expand(words[1:], sweep=True).jobs
    assert {config.world for _, config in jobs} == {0, 1, 2}
    assert len(jobs) == 18


def test_the_interval_is_over_worlds(study: Study) -> None:
    """All seeds of a world agree and its questions differ little: the worlds' spread is all there is."""
    assert list(study.arms) == ["spot_bco"]
    assert study.covers == "questions, seeds and 3 worlds"
    (gain,) = (v for v in judge(study) if v.claim.id == "bco_gains")
    e = gain.estimate
    assert (e.value, e.seeds, e.worlds, e.questions) == (20, 2, 3, 300)
    assert (e.low, e.high) == pytest.approx((20 - HALF, 20 + HALF))
    assert gain.p == pytest.approx(2 * stats.t.sf(20 / (10 / 3**0.5), 2))
    base, bco = tables.score_table(study)
    assert (base.cells[0].accuracy.value, bco.cells[0].accuracy.value) == (40, 60)
    assert bco.runs == "3 worlds × 2 seeds"
    rows = tables.score_rows(study)
    assert len([row for row in rows if row["arm"] == "base"]) == 3 * 3
    assert {row["world"] for row in rows} == {0, 1, 2}


def test_rewards_are_of_pairs_within_gamma_over_pairs_seeds_and_worlds(study: Study) -> None:
    """y⁺ of world w gains 3 + w and one more at every other pair: 3.5 + w in the mean, 4.5 over worlds."""
    whole, small, middle = rewards.strata(study)
    assert [(one.name, one.pairs) for one in (whole, small, middle)] == [
        ("up to 0.6", 66), ("up to 0.1", 36), ("0.2 to 0.4", 30),
    ]  # fmt: skip
    chosen = whole.numbers["chosen"]
    assert (chosen.value, chosen.worlds) == (4.5, 3)
    assert (chosen.low, chosen.high) == pytest.approx(
        (4.5 - 4.302653 / 3**0.5, 4.5 + 4.302653 / 3**0.5)
    )
    assert whole.numbers["kl_per_token"].value == pytest.approx(0.1)
    ends = [3.0, 4.0] * 11
    assert whole.numbers["chosen_trimmed"].value == pytest.approx(1 + trimmed(ends).mean())
    late = {v.claim.measure: v.estimate for v in judge(study)}.get("late_chosen")
    assert late is None or late.value == pytest.approx(2.5)


def test_an_archive_of_worlds_reports_the_same(
    study: Study, tmp_path: Path, no_figures: None
) -> None:
    from spot.report.archive import pack

    assert study.folder is None
    sweep = tmp_path / "sweep"
    packed = pack(sweep, tmp_path / "runs.tar.gz")
    build(sweep, tmp_path / "one")
    build(packed, tmp_path / "two")
    for name in ("report.md", "scores.csv", "verdicts.csv", "rewards.csv"):
        assert (tmp_path / "one" / name).read_text() == (tmp_path / "two" / name).read_text()
    text = (tmp_path / "one" / "report.md").read_text()
    assert "over questions, seeds and 3 worlds" in text
    assert "95% intervals over pairs, seeds and 3 worlds" in text
    assert "Not judged" not in text


def test_what_one_world_and_one_seed_cannot_judge_is_said(tmp_path: Path) -> None:
    study = made_study(tmp_path, runs(0, seeds=1))
    assert study.covers == "questions, one seed and one world"
    assert "other data" in study.unjudged
    assert "order of batches" in study.unjudged
