"""What W&B is given: read back from the files it keeps offline, without a server."""

import csv
import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from spot.config import compose, plain
from spot.data import artifacts
from spot.data.rows import Pair, Score
from spot.pipeline import heartbeat, tracking, workspace
from spot.training.checkpoint_callback import COLUMNS
from spot.utils.errors import UserError
from tests.unit.wandb_files import Saved, saved_runs

SECRET = "sk-do-not-tell-anybody-0123456789abcdef"
ROWS = [
    {"step": 0, "held_out/kl": 0.0, "probe/instructions": 96.875},
    {"step": 1, "loss": 0.69314718, "rewards/chosen": 0.0, "learning_rate": 1e-6},
    {"step": 2, "loss": 0.5, "rewards/chosen": 0.25, "held_out/kl": 0.0123456789},
    {"step": 3, "loss": 0.4, "rewards/chosen": 0.5, "probe/instructions": 93.75},
]
PAIRS = [
    Pair(
        f"q{i}#0", f"q{i}", "sums", "rectified", "2 + 2 * 3 = ?", "8",
        "first 2 * 3 = 6 then 2 + 6 = 8", "first 2 * 3 = 6 then 4", (80 - i) / 100, 8, 12, 9,
    ) for i in range(70)
]  # fmt: skip
ANSWERS = {"sums": ("in_domain", 8), "instructions": ("general", 10)}  # right answers of 10


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", SECRET)
    monkeypatch.setenv("NETRC", str(tmp_path / "no.netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)


def config(*overrides: str) -> dict:
    return plain(compose.compose(["logger=wandb", "study=table2", *overrides]))


def write_rows(table: Path, rows: list[dict]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, [*COLUMNS, "probe/instructions"])
    writer.writeheader()
    writer.writerows(rows)
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text(text.getvalue())


def scores(right: int) -> list[Score]:
    """One more right answer than the base's of every ten, the same questions first."""
    return [
        Score(
            f"{name}/q{q}#0", name, domain, f"q{q}", 0, q < base + right,
            "correct" if q < base + right else "unparseable", "1", "text", "stop", 20 + q, 0,
        )
        for name, (domain, base) in ANSWERS.items() for q in range(10)
    ]  # fmt: skip


def rows_product(root: Path, name: str, row_type: type, rows: list) -> Path:
    settings = {"of": name, "benchmarks": {task: {"trials": 1} for task in ANSWERS}}
    target = artifacts.product(root, "select" if row_type is Pair else "evaluate", settings)
    details = {"trivial": {"sums": 10.0}}
    artifacts.compute_rows(target, row_type, lambda d, c: rows, details=lambda r: details)
    return target.folder


def finished_run(folder: Path, values: dict) -> None:
    """A run's folder and its products, as far as they are published."""
    root = folder.parent / "products"
    products = {
        "pairs": rows_product(root, "pairs", Pair, PAIRS),
        "base_scores": rows_product(root, "base", Score, scores(0)),
        "scores": rows_product(root, "trained", Score, scores(1)),
        "checkpoint": root / "train" / "x",
    }
    write_rows(products["checkpoint"] / "metrics.csv", ROWS)
    artifacts.finish(artifacts.Product(products["checkpoint"], "train", "x", {}, {}), {}, 1.0)
    record = {
        "status": "complete", "seconds": 12.5, "config": values, "arm": values["arm"],
        "seed": values["seed"], "study": values["study"], "overrides": [], "stages": [],
    }  # fmt: skip
    record["products"] = {name: os.path.relpath(path, folder) for name, path in products.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(record))


def train(
    folder: Path,
    values: dict,
    training: Path,
    rows: list[dict],
    error: BaseException | None = None,
) -> None:
    """Log as the trainer does, the row of each step on disk first; then fail with `error`, if any."""
    with tracking.loggers(["wandb"], folder, values, training) as loggers:
        for row in rows:
            with_before = [r for r in ROWS if r["step"] <= row["step"]]
            write_rows(training / "metrics.csv", with_before)
            metrics = {name: value for name, value in row.items() if name != "step"}
            loggers[0].log_metrics(metrics, step=row["step"])
        if error is not None:
            raise error


def logged(saved: Saved) -> list[dict]:
    """What was logged of every step, without W&B's own and the tables."""
    names = {*COLUMNS, "probe/instructions"}
    return [
        {"step": row["trainer/global_step"], **{k: v for k, v in row.items() if k in names}}
        for _, row in sorted(saved.history.items())
        if names & row.keys()
    ]


def children() -> set[psutil.Process]:
    """What this process has started, here or in another test."""
    return set(psutil.Process().children(recursive=True))


def test_a_finished_run_is_published_whole(tmp_path, monkeypatch, capfd):
    """… also where a RANK was left in the shell, and without a warning."""
    monkeypatch.setattr(rank_zero_only, "rank", 3)
    before = children()
    folder = tmp_path / "sweeps" / "table2" / "3"
    folder.mkdir(parents=True)
    (folder.parent / "multirun.yaml").touch()
    finished_run(folder, values := config("seed=4"))
    tracking.publish(folder)
    (saved,) = saved_runs(folder / "logs")
    assert logged(saved) == ROWS  # the training was reused: its curves are there nevertheless
    assert {name: saved.config[name] for name in values} == values
    assert saved.config["versions"] == artifacts.versions()
    run = saved.run
    assert (run.run_group, run.job_type, run.project) == ("table2", "train", "spot")
    assert list(run.tags) == ["spot_bco", "table2", "seed 4"]
    assert run.display_name == "spot_bco-4 #3"
    assert saved.exit_code == 0
    assert children() <= before
    assert "WARNING" not in capfd.readouterr().err


def test_an_earlier_round_is_in_the_same_run(tmp_path):
    folder, values = tmp_path / "run", config("rounds=2")
    finished_run(folder, values)
    training = artifacts.product(tmp_path / "products", "train", {"round": 1})
    artifacts.compute_files(training, lambda out: write_rows(out / "metrics.csv", ROWS))
    first = training.folder
    record = json.loads((folder / "run.json").read_text())
    record["products"]["round1/checkpoint"] = os.path.relpath(first, folder)
    (folder / "run.json").write_text(json.dumps(record))
    with tracking.loggers(["wandb"], folder / "round1", values, first) as loggers:
        assert loggers == []
    train(folder, values, tmp_path / "products" / "train" / "x", ROWS)
    tracking.publish(folder)
    (saved,) = [one for logs in folder.rglob("logs") for one in saved_runs(logs)]
    assert [saved.history[step]["loss"] for step in (1, 2, 3)] == [0.69314718, 0.5, 0.4]
    earlier = [row for row in saved.history.values() if "round1/step" in row]
    assert [
        {name.removeprefix("round1/"): v for name, v in row.items() if name.startswith("round1/")}
        for row in earlier
    ] == ROWS
    assert (saved.exit_code, saved.summary["status"]) == (0, "complete")
    with tracking.opened(tmp_path / "again", values) as logger:
        for _ in range(2):  # as where an online run is continued
            logger.replay_round("round1", first / "metrics.csv")
    (saved,) = saved_runs(tmp_path / "again" / "logs")
    assert len(saved.steps("round1/step")) == len(ROWS)


def test_tables_and_summary_hold_the_scores_and_the_edits(tmp_path):
    finished_run(tmp_path / "run", config())
    tracking.publish(tmp_path / "run")
    (saved,) = saved_runs(tmp_path / "run" / "logs")
    base, _, sums, instructions = saved.table("scores")
    assert (base["arm"], base["benchmark"], base["accuracy"]) == ("base", "sums", 80.0)
    assert (sums["arm"], sums["benchmark"], sums["accuracy"]) == ("spot_bco", "sums", 90.0)
    assert sums["difference"] == pytest.approx(10.0)
    # nine differences of 0 and one of 100 points: t(9) = 2.2622 standard errors of 10 around 10
    assert sums["difference_low"] == pytest.approx(10 - 22.622, abs=0.01)
    assert sums["difference_high"] == pytest.approx(10 + 22.622, abs=0.01)
    assert (sums["trivial"], sums["unparseable"], sums["questions"]) == (10.0, 10.0, 10)
    assert (instructions["accuracy"], instructions["difference"]) == (100.0, 0.0)
    summary = saved.summary
    assert (summary["score/sums"], summary["gain/sums"]) == (90.0, 10.0)
    assert (summary["score/average"], summary["gain/average"]) == (95.0, 5.0)
    assert (summary["status"], summary["seconds"]) == ("complete", 12.5)
    pairs = saved.table("pairs")
    assert len(pairs) == 50
    assert pairs[0]["edit"] == "first 2 * 3 = 6 then [-4-] {+2 + 6 = 8+}"
    assert [row["change_ratio"] for row in pairs] == sorted(row["change_ratio"] for row in pairs)
    assert (pairs[0]["change_ratio"], pairs[-1]["change_ratio"]) == (0.11, 0.8)
    ratios = [row["change_ratio"] for row in saved.table("change_ratios")]
    assert sorted(ratios) == sorted(pair.change_ratio for pair in PAIRS)


def test_pairs_without_a_rejected_side_have_no_edit():
    pair = Pair("a#0", "a", "sums", "self", "?", "1", "it is 1", None, None, None, 3, None)
    row = dict(zip(tracking.PAIR_COLUMNS, tracking.pair_row(pair), strict=True))
    assert (row["edit"], row["rejected"], row["chosen"]) == (None, None, "it is 1")
    assert tracking.spread([pair], 5) == [pair]


def test_training_that_goes_on_continues_its_run_from_another_folder(tmp_path):
    others = children()
    training, values = tmp_path / "products" / "train" / "x", config()
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "first", values, training, ROWS[:3], KeyboardInterrupt())
    (before,) = saved_runs(tmp_path / "first" / "logs")
    assert (logged(before), before.exit_code) == (ROWS[:3], 130)
    assert before.summary["status"] == "training"
    assert children() <= others

    train(tmp_path / "second", values, training, ROWS[2:])  # its last checkpoint was after step 1
    (after,) = saved_runs(tmp_path / "second" / "logs")
    assert after.run.run_id == before.run.run_id
    assert (logged(after), after.exit_code) == (ROWS, 0)
    assert after.summary["status"] == "trained"


def test_a_repeated_job_leaves_one_whole_folder(tmp_path):
    folder, values = tmp_path / "run", config()
    training = tmp_path / "products" / "train" / "x"
    with pytest.raises(ValueError, match="no luck"):
        train(folder, values, training, ROWS[:2], ValueError("no luck"))
    (failed,) = saved_runs(folder / "logs")
    assert failed.exit_code == 1
    time.sleep(1)  # W&B's folders are named by the second
    train(folder, values, training, ROWS[1:])
    time.sleep(1)
    finished_run(folder, values)
    tracking.publish(folder)
    (saved,) = saved_runs(folder / "logs")
    assert saved.run.run_id == failed.run.run_id
    assert (logged(saved), saved.summary["status"]) == (ROWS, "complete")
    assert len(saved.table("scores")) == 4


def test_an_id_belongs_to_a_folder_and_a_configuration(tmp_path):
    values = config()

    def kept(folder: str, values: dict = values) -> str:
        with tracking.opened(tmp_path / folder, values) as logger:
            return logger.experiment.id

    first = kept("a")
    assert kept("a") == first
    assert kept("b") != first
    assert kept("a", config("seed=1")) != first


def test_a_training_with_no_step_left_is_logged_whole_and_once(tmp_path):
    table = tmp_path / "training" / "metrics.csv"
    write_rows(table, ROWS)
    with tracking.loggers(["wandb"], tmp_path / "run", config(), table.parent) as (logger,):
        logger.replay(table, before=3)
    (saved,) = saved_runs(tmp_path / "run" / "logs")
    assert logged(saved) == ROWS


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("a mistake"), 2),
        (PermissionError(errno.EACCES, "Permission denied", "outputs"), 2),
        (RuntimeError("a failure"), 1),
        (KeyboardInterrupt(), 130),
        (SystemExit(143), 143),
        (SystemExit("words"), 1),
        (SystemExit(), 0),
    ],
)
def test_the_exit_code_is_the_command_s(error, code):
    assert heartbeat.exit_code(error) == code


def test_without_a_key_it_stays_offline_and_says_so(tmp_path, capfd):
    finished_run(tmp_path / "run", config("logger.wandb_mode=online"))
    tracking.publish(tmp_path / "run")
    (saved,) = saved_runs(tmp_path / "run" / "logs")
    assert saved.folder.name.startswith("offline-run-")
    said = capfd.readouterr().err
    assert said.count("WANDB_API_KEY is not set") == 1
    assert "wandb sync" in said


def test_where_wandb_cannot_be_reached_it_goes_on_offline_without_a_key_in_any_file(
    tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef" * 2 + "01234567")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(tracking, "INIT_SECONDS", 2.0)
    values = config("logger.wandb_mode=online", "oracle.key_name=GEMINI_API_KEY")
    finished_run(tmp_path / "run", values)
    tracking.publish(tmp_path / "run")
    (saved,) = saved_runs(tmp_path / "run" / "logs")
    assert saved.folder.name.startswith("offline-run-")
    assert saved.config["oracle"]["key_name"] == "GEMINI_API_KEY"
    assert logged(saved) == ROWS
    assert "stays offline" in capfd.readouterr().err
    for secret in (os.environ["WANDB_API_KEY"], SECRET):
        assert no_file_has(tmp_path / "run", secret)


def no_file_has(folder: Path, text: str) -> bool:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    return not any(text.encode() in path.read_bytes() for path in files)


def test_a_run_without_wandb_has_none(tmp_path):
    finished_run(tmp_path / "run", config("logger=local"))
    tracking.publish(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "logs").iterdir()] == ["tensorboard"]


@pytest.mark.slow
def test_a_killed_run_leaves_no_process_of_wandb(tmp_path):
    script = (
        "import json, sys, time; from pathlib import Path; from spot.pipeline import tracking\n"
        "values, folder = json.loads(sys.argv[1]), Path(sys.argv[2])\n"
        "with tracking.opened(folder, values): print('opened', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", script, json.dumps(config()), str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "opened\n"
    core = [c for c in psutil.Process(process.pid).children(True) if "wandb" in c.name()]
    assert core
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(core, timeout=30)
    assert alive == []


# ---- the workspace -----------------------------------------------------------------------------


def panels(out: Path) -> list[dict]:
    sections = json.loads(out.read_text())["section"]["panelBankConfig"]["sections"]
    return [panel for section in sections for panel in section["panels"]]


def test_panels_show_what_is_logged(tmp_path, capsys):
    out = tmp_path / "views" / "spot.json"
    workspace.command(["entity=me", f"out={out}"])
    assert str(out) in capsys.readouterr().out
    lines = [p["config"] for p in panels(out) if p["viewType"] == "Run History Line Plot"]
    shown = [metric for line in lines for metric in line["metrics"]]
    to_base = (c.replace("held_out/", "held_out_to_base/") for c in COLUMNS)
    assert set(shown) <= {*COLUMNS, *to_base}
    figures = {"loss", "held_out/rewards/chosen", "held_out/rewards/rejected"}  # 3 and 4
    assert {*figures, "delta", "tether/chosen", "tether/rejected", "held_out/kl"} <= set(shown)
    assert [line["metricRegex"] for line in lines if not line["metrics"]] == ["probe/.*"]
    (histogram,) = [p["config"] for p in panels(out) if p["viewType"] == "Vega2"]
    assert histogram["panelDefId"] == "wandb/histogram/v0"
    assert histogram["fieldSettings"] == {"value": "change_ratio"}
    assert "change_ratios" in json.dumps(histogram["userQuery"])


def test_without_a_key_the_workspace_becomes_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    workspace.command(["entity=me", "project=p"])
    assert "WANDB_API_KEY" in capsys.readouterr().out
    assert len(panels(tmp_path / "workspace.json")) == 24


@pytest.mark.parametrize("arguments", [[], ["project=p"], ["entity"], ["entity=me", "colour=red"]])
def test_a_mistake_in_the_workspace_s_arguments(arguments):
    with pytest.raises(UserError, match="spot workspace entity="):
        workspace.command(arguments)
