"""Fair comparisons: arms, or values of γ, that each train on as many pairs as the poorest has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from spot.config.compose import compose
from spot.data import artifacts
from spot.data.rows import Attempt, Pair
from spot.pipeline import stages
from spot.pipeline.policy import SHIPPED, Policy
from spot.pipeline.run import Run
from spot.utils.errors import UserError

POLICY = Policy("tiny", SHIPPED, "weights")
RIGHT = r"1 + 2 = 3. 3 + 3 = 6. 6 + 4 = 10. Therefore, the final answer is: $\boxed{10}$."
WRONG = r"1 + 2 = 3. 3 + 3 = 6. 6 + 4 = 20. Therefore, the final answer is: $\boxed{20}$."
COUNT = 40


def attempts(run: Run, right: int) -> artifacts.Product:
    """Attempts at as many questions, of which the first `right` were answered rightly."""
    rows = [
        Attempt(
            id=f"q{i:02}#0",
            question_id=f"q{i:02}",
            trial=0,
            task="sums",
            question=f"What is 1 + 2 + 3 + 4? {i}",
            answer="10",
            response=RIGHT if i < right else WRONG,
            finish_reason="stop",
            tokens=30,
            extracted="10" if i < right else "20",
            verdict="correct" if i < right else "wrong",
            model="tiny",
            seed=0,
        )
        for i in range(COUNT)
    ]
    target = artifacts.product(run.root, "elicit", {"right": right})
    artifacts.compute_rows(target, Attempt, lambda done, counts: rows)
    return target


def pairs(folder: Path, right: int, *overrides: str) -> list[Pair]:
    """The pairs that a run with these choices trains on."""
    run = Run(compose(["data.held_out=2", f"output={folder}", *overrides]), folder)
    selected = stages.select(run, POLICY, attempts(run, right))
    return artifacts.read_rows(selected.folder, Pair)


def counts(folder: Path, right: int, *overrides: str) -> list[int]:
    arms = ("rectified", "direct", "self")
    return [len(pairs(folder, right, f"data.arm={arm}", loss(arm), *overrides)) for arm in arms]


def loss(arm: str) -> str:
    return "loss=sft" if arm == "self" else "loss=bco"


def test_the_poorest_arm_decides_for_all(tmp_path: Path) -> None:
    matched = "data.matched=[rectified,direct,self]"
    rectified, direct, own = counts(tmp_path, 9)
    assert own == 9
    assert direct == COUNT - 9 - 2, "those held out are nobody's"
    assert own < rectified < direct, "γ takes some"
    assert counts(tmp_path, 9, matched) == [9, 9, 9]

    rectified, direct, own = counts(tmp_path, 30)
    assert rectified < own
    assert counts(tmp_path, 30, matched) == [rectified] * 3
    assert counts(tmp_path, 30, matched, "data.pairs=3") == [3, 3, 3]


def test_every_gamma_takes_as_many_pairs_as_the_smallest_leaves(tmp_path: Path) -> None:
    def of(gamma: float, *overrides: str) -> Sequence[Pair]:
        return pairs(tmp_path, 0, "data.pairs=null", f"data.gamma={gamma}", *overrides)

    fewest = of(0.2)
    assert 0 < len(fewest) < len(of(0.6)) < len(of(1.0))
    for gamma in (0.2, 0.6, 1.0):
        taken = of(gamma, "data.matched_gamma=0.2")
        assert len(taken) == len(fewest)
        assert all(pair.change_ratio is not None and pair.change_ratio <= gamma for pair in taken)
    assert of(0.2, "data.matched_gamma=0.2") == fewest
    assert any(p.change_ratio > 0.6 for p in of(1.0, "data.matched_gamma=0.2"))  # type: ignore[operator]
    assert len(of(1.0, "data.matched_gamma=0.2", "data.pairs=2")) == 2


def test_the_screen_says_who_decided(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs(tmp_path, 1, "data.matched=[rectified,self]")
    assert "matched: 1 pair, decided by self\n" in capsys.readouterr().err
    pairs(tmp_path, 9, "data.matched=[rectified,self]", "data.pairs=3")
    assert "matched:" not in capsys.readouterr().err, "data.pairs decided"


def test_a_pool_that_is_empty_names_its_own_key(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^data\.matched_gamma=0.*raise data\.matched_gamma\.$"):
        pairs(tmp_path, 0, "data.matched_gamma=0.01")


@pytest.mark.parametrize("key", ["matched", "matched_gamma"])
def test_what_is_matched_is_in_the_record(tmp_path: Path, key: str) -> None:
    value = {"matched": "[rectified,direct]", "matched_gamma": "0.2"}[key]
    config = compose(["data.held_out=2", f"output={tmp_path}", f"data.{key}={value}"])
    run = Run(config, tmp_path)
    stages.select(run, POLICY, attempts(run, 5))
    run.complete()
    record = (tmp_path / "run.json").read_text()
    names = ["rectified_pairs", "direct_pairs"] if key == "matched" else ["matched_pairs"]
    assert all(f'"{name}"' in record for name in [*names, "pairs"])
