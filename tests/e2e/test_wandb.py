"""A sweep that logs to W&B, killed while its first job trains and typed again; its files read back."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from spot.pipeline import workspace
from spot.training.reference import TO_BASE
from tests.support.laptop import SMALL, copy
from tests.support.processes import wait_for
from tests.unit.wandb_files import Saved, saved_runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # two sweeps, one after another

ROOT = Path(__file__).parents[2]
SECRET = "sk-do-not-tell-anybody-0123456789abcdef"
SWEEP = ["-m", "seed=0,1", "study=little", "logger=wandb", "logger.tensorboard=false"]
SWEEP += [*SMALL, "loss.epochs=4"]
ENVIRONMENT = {**os.environ, "GEMINI_API_KEY": SECRET}


def start(folder: Path) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "train.py"), *SWEEP]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )


def processes_in(folder: Path) -> Iterator[psutil.Process]:
    """Processes of W&B that were started below `folder`."""
    for process in psutil.process_iter(["name", "cwd"]):
        if "wandb" in (process.info["name"] or "") and str(folder) in (process.info["cwd"] or ""):
            yield process


@pytest.fixture(scope="module")
def swept(laptop, tmp_path_factory) -> tuple[Path, str]:
    """The sweep's folder, and the id that its first job had before it was killed."""
    folder = copy(laptop, tmp_path_factory.mktemp("swept"), without=("train",))
    first = start(folder)
    train = folder / "outputs" / "products" / "train"
    wait_for(lambda: any(train.glob("*/resume/step_0000000[2-9]/state.ckpt")))
    assert list(processes_in(folder))  # what must be gone afterwards was there
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    (sweep,) = (folder / "outputs" / "sweeps").iterdir()
    kept = json.loads((sweep / "0" / "logs" / "wandb.json").read_text())["id"]
    wait_for(lambda: not list(processes_in(folder)))
    again = start(folder)
    said, _ = again.communicate()
    assert again.returncode == 0, said[-3000:]
    assert "Training goes on after step" in said
    return sweep, kept


def jobs(sweep: Path) -> list[tuple[Path, Saved]]:
    """Each job's training product and its W&B run: one folder, whoever wrote it."""
    result = []
    for number in ("0", "1"):
        record = json.loads((sweep / number / "run.json").read_text())
        (saved,) = saved_runs(sweep / number / "logs")
        result.append((sweep / number / record["products"]["checkpoint"], saved))
    return result


def test_every_job_is_one_run_and_a_killed_one_goes_on(swept):
    sweep, kept = swept
    (_, first), (_, second) = jobs(sweep)
    assert first.run.run_id == kept
    assert second.run.run_id != kept
    for saved, seed in ((first, "seed 0"), (second, "seed 1")):
        assert saved.run.run_group == sweep.name
        assert list(saved.run.tags) == ["spot_bco", "little", seed]
        assert (saved.exit_code, saved.summary["status"]) == (0, "complete")
    assert not list(processes_in(sweep.parents[2]))


def test_every_column_of_metrics_is_there_at_every_step(swept):
    for product, saved in jobs(swept[0]):
        with (product / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [int(row["step"]) for row in rows] == list(range(13))
        for name in rows[0].keys() - {"step"}:
            measured = {int(row["step"]): float(row[name]) for row in rows if row[name]}
            assert saved.steps(name) == list(measured), name
            assert [saved.history[step][name] for step in measured] == list(measured.values())


def test_configuration_scores_and_pairs_are_the_run_s(swept):
    sweep, _ = swept
    record = json.loads((sweep / "0" / "run.json").read_text())
    (_, saved), _ = jobs(sweep)
    assert {name: saved.config[name] for name in record["config"]} == record["config"]
    tables = {row["benchmark"]: row for row in saved.table("scores")}
    manifest = json.loads(
        (sweep / "0" / record["products"]["scores"] / "manifest.json").read_text()
    )
    right = sum(
        row["accuracy"] * row["questions"] / 100
        for name, row in tables.items()
        if name != "average"
    )
    assert right == pytest.approx(manifest["counts"]["correct"])
    with (sweep / "0" / record["products"]["pairs"] / "rows.jsonl").open() as file:
        pairs = {row["id"]: row for row in map(json.loads, file)}
    assert {row["id"] for row in saved.table("pairs")} == set(pairs)
    for row in saved.table("pairs"):
        assert {k: v for k, v in row.items() if k != "edit"}.items() <= pairs[row["id"]].items()
        kept = re.sub(r"\[-.*?-\] ?", "", row["edit"])
        assert re.sub(r"\{\+(.*?)\+\}", r"\1", kept).split() == row["chosen"].split()


def test_no_key_and_no_environment_is_in_the_files(swept):
    files = [path for path in swept[0].rglob("*") if path.is_file()]
    assert not any(SECRET.encode() in path.read_bytes() for path in files)


def test_the_workspace_s_panels_show_columns_of_metrics(swept, tmp_path):
    (product, saved), _ = jobs(swept[0])
    header = (product / "metrics.csv").read_text().splitlines()[0].split(",")
    workspace.command(["entity=me", f"out={tmp_path / 'view.json'}"])
    sections = json.loads((tmp_path / "view.json").read_text())["section"]["panelBankConfig"][
        "sections"
    ]
    shown = [panel["config"] for section in sections for panel in section["panels"]]
    curves = [metric for of in shown if "xAxis" in of for metric in of["metrics"]]
    later = {curve for curve in curves if curve.startswith(TO_BASE)}  # of rounds after the first
    assert later
    assert {*curves} - later <= set(header)
    (pattern,) = [of["metricRegex"] for of in shown if "metricRegex" in of]
    assert [name for name in header if re.fullmatch(pattern, name)] == ["probe/instructions"]
    bars = [metric for of in shown if "xAxis" not in of for metric in of.get("metrics", [])]
    assert set(bars) <= set(saved.summary)
    (histogram,) = [of for of in shown if "fieldSettings" in of]
    assert set(histogram["fieldSettings"].values()) <= set(saved.table("change_ratios")[0])
