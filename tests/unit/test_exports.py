"""Evaluating what training exported: the run's own benchmarks on every step, once, from any folder."""

import csv
import json
import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from spot import report
from spot.config.compose import compose
from spot.data import artifacts
from spot.data.rows import Attempt, Pair, Score
from spot.evaluation.statistics import by_benchmark, summarise
from spot.pipeline import checks, clients, exports, policy, stages
from spot.pipeline.policy import SHIPPED, Policy
from spot.pipeline.run import Run
from spot.utils.errors import UserError
from spot.utils.progress import say_once
from tests.support.command_line import spot
from tests.support.laptop import SMALL, copy
from tests.support.runs import make_run

SETTINGS = ["benchmarks=quick", "generator.max_new_tokens=96", "generator.batch=64"]
LAST = 6
PAIR = Pair("a#0", "a", "sums", "rectified", "q", "3", "x y", "x z", 1 / 3, 2, 3, 3)


def weights(folder: Path, noise: float) -> Path:
    """The package's student, with noise on its weights."""
    shutil.copytree(SHIPPED, folder, ignore=shutil.ignore_patterns("manifest.json"))
    tensors = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    moved = {k: v + noise * torch.randn(v.shape, generator=generator) for k, v in tensors.items()}
    save_file(moved, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def finished_run(folder: Path, steps: dict[int, float], *overrides: str) -> Path:
    """A run as `spot run` leaves it, its training replaced: weights at `steps` with so much noise."""
    this = Run(compose([*SETTINGS, "output=outputs", *overrides]), folder)
    this.round = 1
    attempt = Attempt("a#0", "a", 0, "t", "q", "1", "r", "stop", 1, "1", "correct", "m", 0)
    attempts = artifacts.product(this.root, "elicit", {})
    artifacts.compute_rows(attempts, Attempt, lambda done, counts: [attempt])
    this.stage("attempts", attempts, lambda: None)
    this.round = this.config.rounds
    pairs = artifacts.product(this.root, "select", {})
    artifacts.compute_rows(pairs, Pair, lambda done, counts: [PAIR])
    this.stage("pairs", pairs, lambda: None)
    checkpoint = artifacts.product(this.root, "train", {}, content="model/*")

    def train(out: Path) -> dict:
        weights(out / "model", 0.04)
        for step, noise in steps.items():
            weights(out / "exports" / f"step_{step:08d}", noise)
        return {"steps": LAST}

    artifacts.compute_files(checkpoint, train)
    this.stage("checkpoint", checkpoint, lambda: None)
    trained = Policy("spot_bco", checkpoint.folder / "model", checkpoint.digest)
    stages.evaluate(this, "base_scores", stages.policy(this, attempts), attempts)
    stages.evaluate(this, "scores", trained, attempts)
    this.write_card = lambda: None  # of a training that there was not
    this.complete()
    return folder


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder in which a run with exports at steps 2, 4 and the last has finished."""
    folder = tmp_path_factory.mktemp("workplace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        finished_run(folder / "outputs" / "runs" / "1", {4: 0.02, 2: 0.0, LAST: 0.0})
    return folder


@pytest.fixture
def run(workplace, tmp_path, monkeypatch) -> Path:
    """The run's folder, seen from another one."""
    monkeypatch.chdir(tmp_path)
    return workplace / "outputs" / "runs" / "1"


def table(path: Path) -> dict[int, dict[str, dict[str, str]]]:
    rows: dict[int, dict] = defaultdict(dict)
    with path.open() as file:
        for row in csv.DictReader(file):
            rows[int(row.pop("step"))][row.pop("benchmark")] = row
    return dict(rows)


def evaluations(workplace: Path) -> dict[str, int]:
    found = (workplace / "outputs" / "products" / "evaluate").glob("*/rows.jsonl")
    return {path.parent.name: path.stat().st_mtime_ns for path in found}


def test_every_export_is_scored_between_the_base_and_the_trained(run, workplace, tmp_path):
    before = evaluations(workplace)
    steps = table(exports.evaluate(run))
    assert list(steps) == [0, 2, 4, LAST]
    assert steps[2] == steps[0]  # the base's weights, asked the same with the same random numbers
    assert steps[4] != steps[0]  # noise makes mistakes
    record = json.loads((run / "run.json").read_text())
    for step, name in ((0, "base_scores"), (LAST, "scores")):
        for benchmark, rows in by_benchmark(
            artifacts.read_rows(run / record["products"][name], Score)
        ).items():
            accuracy, row = summarise(rows).accuracy, steps[step][benchmark]
            assert float(row["accuracy"]) == pytest.approx(accuracy.value, abs=0.01)
            assert [float(row["low"]), float(row["high"])] == pytest.approx(
                [accuracy.low, accuracy.high], abs=0.01
            )
            assert (row["questions"], row["trials"]) == ("20", "1")
    assert {b: row["domain"] for b, row in steps[4].items()} == {
        "sums": "in_domain",
        "word_problems": "ood",
        "instructions": "general",
    }
    by_question = (run / "exports_by_question.csv").read_text().splitlines()[1:]
    found = [line.rsplit(",", 3) for line in by_question]
    of = [float(percent) for step, name, _, percent in found if (step, name) == ("4", "sums")]
    assert len(of) == 20
    assert sum(of) / 20 == pytest.approx(float(steps[4]["sums"]["accuracy"]), abs=0.01)
    assert {step for step, *_ in found} == {"2", "4"}, "base and trained model have products"
    # The last step has its scores: two evaluations are new, and a second time none is.
    assert len(evaluations(workplace)) == len(before) + 2
    after, written = evaluations(workplace), (run / "exports.csv").read_bytes()
    exports.evaluate(run)
    assert evaluations(workplace) == after
    assert (run / "exports.csv").read_bytes() == written
    assert not list(tmp_path.iterdir())  # nothing was made where we stood


def test_one_command_draws_general_ability_over_steps(laptop, tmp_path):
    folder = copy(laptop, tmp_path, without=("train",))
    done = spot(folder, "run", *SMALL, "save.exports=1", "probe.ability=exports")
    assert done.returncode == 0, done.stderr
    report_folder = Path(done.stdout.split("report: ")[1].strip()).parent
    steps = table(folder / report_folder / "exports.csv")
    assert list(steps) == [0, 1, 2, 3]
    assert {name for rows in steps.values() for name in rows} == {"instructions"}
    assert (folder / report_folder / "figures" / "ability_over_steps.svg").exists()
    products = json.loads((folder / report_folder / "run.json").read_text())["products"]
    measured = (folder / report_folder / products["checkpoint"] / "metrics.csv").read_text()
    assert "probe/" not in measured, "and nobody was asked in training"


def test_what_would_measure_nothing_is_said(tmp_path, capfd):
    say_once.cache_clear()
    checks.ability(compose(["benchmarks=paper"]))
    said = capfd.readouterr().err
    assert "probe.ability_every=25 asks nothing: ifeval cannot be asked while" in said
    assert "probe.ability=exports save.exports=<steps>" in said
    for quiet in (["benchmarks=laptop"], ["benchmarks=paper", "probe.ability_every=0"]):
        checks.ability(compose(quiet))
    assert not capfd.readouterr().err
    with pytest.raises(UserError, match=r"set save\.exports=<steps>"):
        compose(["probe.ability=exports"])
    with pytest.raises(UserError, match=r"benchmarks=data has none"):
        compose(["probe.ability=exports", "save.exports=5", "benchmarks=data"])


def test_how_often_it_is_looked_names_a_training_as_before():
    """The laptop's trainings keep their names: a number is in them, where null means one."""
    before = {"pairs": 16, "every": 1, "questions": 64, "ability_every": 25}
    for settings in ([], ["probe.every=1"]):
        found = clients.probe_settings(compose(settings))
        assert {name: found[name] for name in before} == before
        assert set(found) == {*before, "benchmarks", "generation", "benchmarks_seed"}
    kept = ["probe.ability=exports", "save.exports=5"]
    assert clients.probe_settings(compose(kept)) == before | {"ability_every": 0}
    kept[0] = "probe.ability=all"
    assert clients.probe_settings(compose(kept)) == before | {"ability_every": 0}
    assert compose([*kept, "benchmarks=data"]).probe.ability == "all", "no general ones needed"
    assert clients.probe_settings(compose(["hardware=1xgpu"]))["every"] is None


def test_of_several_rounds_the_last_one_is_measured_without_the_base(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = finished_run(tmp_path / "run", {2: 0.0}, "rounds=2")
    products = json.loads((folder / "run.json").read_text())["products"]
    assert "round1/attempts" in products
    assert "attempts" not in products
    assert list(table(exports.evaluate(folder))) == [2, LAST]


@pytest.mark.parametrize("part", ["exports/step_00000002", "model"])
def test_damaged_weights_are_not_measured(run, workplace, part):
    (product,) = (workplace / "outputs" / "products" / "train").iterdir()
    file = product / part / "model.safetensors"
    kept = file.read_bytes()
    file.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    try:
        with pytest.raises(UserError, match=r"safetensors does not match its manifest.*Delete"):
            policy.prepare(replace(compose(SETTINGS).model, path=str(file.parent)), workplace)
        if part != "model":
            with pytest.raises(UserError, match=r"safetensors does not match its manifest"):
                exports.evaluate(run)
    finally:
        file.write_bytes(kept)


def test_a_run_without_exports_names_the_option(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = finished_run(tmp_path / "run", {})
    with pytest.raises(UserError, match=r"exported no weights: train with save\.exports=<steps>"):
        exports.evaluate(folder)


def test_the_trained_model_of_any_finished_run_is_measured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = finished_run(tmp_path / "outputs" / "runs" / "day" / "one", {})
    before = evaluations(tmp_path)
    done = spot(tmp_path, "evaluate", "newest")
    assert done.returncode == 0, done.stderr
    assert "A: base   B: trained" in done.stdout
    assert "instructions" in done.stdout
    assert evaluations(tmp_path) == before, "its scores are reused"
    record = json.loads((folder / "run.json").read_text())
    for name in ("scores", "base_scores"):  # as `spot train` leaves it
        product = folder / record["products"].pop(name)
        shutil.rmtree(product) if name == "scores" else None
    (folder / "run.json").write_text(json.dumps(record | {"until": "train"}))
    assert "spot evaluate" in spot(tmp_path, "evaluate", "1", "--dry-run").stdout
    refused = spot(tmp_path, "evaluate", "1", "benchmarks=quick")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "takes nothing else" in refused.stderr
    done = spot(tmp_path, "evaluate", "1")
    assert done.returncode == 0, done.stderr
    assert "accuracy %" in done.stdout
    assert evaluations(tmp_path).keys() == before.keys(), "measured as the run would have"
    (folder / "run.json").write_text(json.dumps(record | {"status": "failed"}))
    assert "has no finished training" in spot(tmp_path, "evaluate", str(folder)).stderr


def test_a_folder_without_a_run_is_a_clear_mistake(tmp_path):
    with pytest.raises(UserError, match=r"holds no finished run: give a run's folder"):
        exports.evaluate(tmp_path)


def test_a_record_of_another_version_is_a_clear_mistake(run, tmp_path):
    other = run.parent / "2"
    record = json.loads((run / "run.json").read_text())
    record["config"]["hardware"]["flux"] = 1
    other.mkdir()
    (other / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"is of another version of spot .*flux.*: run its command"):
        exports.evaluate(other)


def curve(arm: str, seed: int) -> str:
    lines = ["step,benchmark,domain,accuracy,low,high,questions,trials"]
    for step in (0, 25, 50):
        for name, domain in (("sums", "in_domain"), ("instructions", "general")):
            value = 50 + step / 5 * (-1 if arm == "sft_plus" else 1) + seed
            lines.append(f"{step},{name},{domain},{value},{value - 6},{value + 6},40,2")
    return "\n".join(lines) + "\n"


def test_the_report_draws_ability_over_steps_where_it_was_measured(tmp_path):
    sweep = tmp_path / "outputs" / "sweep"
    for number, (arm, seed) in enumerate(
        [("sft_plus", 0), ("sft_plus", 1), ("spot_bco", 0), ("spot_bco", 1)]
    ):
        make_run(sweep, number, arm, seed, (0.75, 0.5, 0.9))
    report.build(sweep)
    assert "Ability over steps" not in (sweep / "report.md").read_text()
    for number, (arm, seed) in enumerate([("sft_plus", 0), ("sft_plus", 1), ("spot_bco", 0)]):
        (sweep / str(number) / "exports.csv").write_text(curve(arm, seed))
    page = report.build(sweep).read_text()
    assert "figures/ability_over_steps.png" in (sweep / "report.md").read_text()
    assert (sweep / "figures" / "ability_over_steps.png").stat().st_size > 10_000
    assert "The benchmarks on weights saved during training" in page
