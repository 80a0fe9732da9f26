"""`spot push` by the hub's own client to a hub on loopback, and what it published read back by `data=pairs`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants, parse_eval_result_entries

from spot.data import artifacts
from spot.data.rows import Pair, Rectification
from spot.report import push
from spot.report.load import FinishedRun, load
from spot.utils.digests import hash_file
from tests.e2e.test_own_data import product, refused, write
from tests.support.command_line import spot
from tests.support.hub import TOKEN, Hub
from tests.support.laptop import copy, last_run, products
from tests.support.runs import MadeRun, made_study

MODEL, PAIRS = "models/me/laptop", "datasets/me/laptop-pairs"
KEY = "sk-live-0123456789abcdef"


@pytest.fixture
def hub(monkeypatch):
    served = Hub()
    end = served.start()
    monkeypatch.setattr(constants, "ENDPOINT", served.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    yield served
    end()


def pushed(laptop: Path, *more: str, run: Path | None = None, **environment: str):
    """`spot push <run> repo=me/laptop …`"""
    told = {**os.environ, "HF_TOKEN": TOKEN, **environment}
    return spot(
        laptop, "push", str(run or last_run(laptop)[0]), "repo=me/laptop", *more, environment=told
    )


def test_a_dry_run_lists_what_goes_where_and_sends_nothing(laptop, hub):
    done = pushed(laptop, "--dry-run", "pairs=us/pairs", HF_TOKEN="")
    assert done.returncode == 0, done.stderr
    weights = products(laptop)["checkpoint"] / "model" / "model.safetensors"
    assert f"{weights.stat().st_size / 1e6:.1f} MB  model.safetensors" in done.stdout
    assert "model me/laptop (private)" in done.stdout
    assert "dataset us/pairs (private)" in done.stdout
    assert "data/train-00000-of-00001.parquet" in done.stdout
    assert "dataset" not in pushed(laptop, "--dry-run", "pairs=none").stdout
    assert not hub.requests


@pytest.mark.slow
def test_an_interrupted_push_goes_on_where_it_was(laptop, hub):
    """Large files first, then a commit: what is there already is not sent again, whatever failed."""
    made = products(laptop)
    folder = made["checkpoint"] / "model"
    weights = f"/lfs/{hash_file(folder / 'model.safetensors')}"
    hub.refuses = lambda method, path: 403 if path == weights else None
    line = refused(pushed(laptop))
    assert "me/laptop was not sent whole" in line
    assert "run the same command again, which sends only what is missing" in line
    hub.refuses = lambda method, path: 500 if path == f"/api/{MODEL}/commit/main" else None
    line = refused(pushed(laptop))
    assert "answered 500 for me/laptop (Oops): run the same command again" in line
    large = hub.written(lfs=True)
    assert sorted(map(large.count, set(large))) == [1, 2]  # the weights twice: once refused
    assert not hub.repositories[MODEL].files

    hub.refuses = lambda method, path: None
    hub.repositories[MODEL].files["adapter_config.json"] = b"{}"  # of an earlier push
    hub.requests.clear()
    done = pushed(laptop)
    assert done.returncode == 0, done.stderr
    assert len(hub.written(lfs=True)) == 1  # the pairs; the model's files were there
    files = hub.repositories[MODEL].files
    assert files.keys() == {file.name for file in folder.iterdir()}
    assert all(files[name] == (folder / name).read_bytes() for name in files.keys() - {"README.md"})
    assert b"datasets:\n- me/laptop-pairs\n" in files["README.md"]
    assert hub.repositories[PAIRS].files.keys() == {"README.md", push.PAIRS}
    assert all(repo.private for repo in hub.repositories.values())
    assert f"datasets/me/laptop-pairs at {hub.repositories[PAIRS].commit}" in done.stdout

    hub.requests.clear()
    assert pushed(laptop).returncode == 0
    assert not hub.written(lfs=True)
    assert not any("/commit/" in path for path in hub.written())
    assert pushed(laptop, "public=true").returncode == 0
    assert not any(repo.private for repo in hub.repositories.values())
    hub.requests.clear()
    assert "me/laptop is public already: add public=true" in refused(pushed(laptop))
    assert not any("/commit/" in path or "/lfs/" in path for path in hub.written())


@pytest.mark.parametrize(
    ("status", "at", "says"),
    [
        (401, "/api/repos/create", "answered 401 for me/laptop (Invalid credentials"),
        (403, "/api/repos/create", "(You do not have write access): set HF_TOKEN to a token that"),
        (409, f"/api/{MODEL}/commit/main", "another upload is going on there: try later"),
        (0, "/api/repos/create", "me/laptop was not sent whole"),
    ],
)
def test_what_the_hub_refuses_is_one_line(laptop, hub, status, at, says):
    hub.refuses = lambda method, path: status if path == at else None
    line = refused(pushed(laptop))
    assert says in line
    assert TOKEN not in line


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["newest"], "repo is missing"),
        (["repo=me/x"], "name one run"),
        (["newest", "repo=x"], "repo=x is none of the hub: write repo=<owner>/<name>"),
        (["newest", "repo=a/b/c"], "repo=a/b/c is none of the hub"),
        (["newest", "repo=a/b", "pairs=no"], "pairs=no is none of the hub"),
        ([".", "repo=a/b"], "holds no finished run"),
        (["newest", "repo=a/b"], "set HF_TOKEN to a token that may write"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_sent(laptop, hub, words, says, tmp_path):
    told = {**os.environ, "HF_HOME": str(tmp_path)}
    told.pop("HF_TOKEN", None)
    assert says in refused(spot(laptop, "push", *words, environment=told))
    assert not hub.requests


def test_no_key_and_no_path_of_this_machine_goes_up(laptop, tmp_path, hub):
    """Everything that is sent, heads and contents, is searched."""
    copy(laptop, tmp_path)
    run, record = last_run(tmp_path)
    record["config"]["oracle"] |= {"base_url": "http://node7.corp:8000/v1", "model": "/home/jane/m"}
    record["config"]["model"]["name"] = "/home/jane/models/mine"
    (run / "run.json").write_text(json.dumps(record))
    done = pushed(tmp_path, run=run, OPENAI_API_KEY=KEY, GEMINI_API_KEY=KEY)
    assert done.returncode == 0, done.stderr
    sent = b"".join(path.encode() + body for _, path, body in hub.requests)
    sent += b"".join(
        content for repo in hub.repositories.values() for content in repo.files.values()
    )
    for private in (KEY, TOKEN, "/home/", "jane", "node7", str(tmp_path), str(laptop)):
        assert private.encode() not in sent


# ---- what a model's repository holds -----------------------------------------------------------


def adapted(folder: Path, path: str | None) -> FinishedRun:
    """A run that trained adapters on a base of the hub, or of a folder here, and was measured on some benchmarks."""
    empty = ("hub", "path", "subset", "revision", "questions")
    benchmark: dict[str, Any] = dict.fromkeys(empty)
    task = {f"benchmarks.tasks.sums.{key}": value for key, value in benchmark.items()}
    task |= {"benchmarks.tasks.sums.hub": "Owner/sums", "benchmarks.tasks.sums.subset": "easy"}
    task |= {f"benchmarks.tasks.{name}.{key}": value for name in ("word_problems", "instructions") for key, value in benchmark.items()}  # fmt: skip
    task |= {
        "benchmarks.tasks.word_problems.hub": "Owner/words",
        "benchmarks.tasks.word_problems.questions": 100,  # a part of it
        "benchmarks.tasks.sums.revision": "b" * 40,
        "benchmarks.folder": None,
        "model": {"path": path, "name": "mine"},
    }
    study = made_study(folder, [MadeRun(right={"sums": 70}, trials=2, config=task)])
    (run,) = study.runs
    model = run.product("checkpoint") / "model"
    (model / "adapter").mkdir(parents=True)
    base = {"base_model_name_or_path": "/home/jane/weights/mine", "r": 2}
    (model / "adapter" / "adapter_config.json").write_text(json.dumps(base))
    for name in ("model.safetensors", "adapter/adapter_model.safetensors", "tokenizer.json"):
        (model / name).write_text(name)
    (model / "config.json").write_text('{"_name_or_path": "/home/jane/weights/mine", "a": 1}')
    (model / "README.md").write_text("---\nlibrary_name: transformers\n---\n\n# mine\n")
    return run


def laid_out(run: FinishedRun, folder: Path, merged: bool = False) -> dict[str, str]:
    (upload,) = push.lay_out(run, "me/x", None, merged, folder)
    found = (file for file in upload.folder.rglob("*") if file.is_file())
    return {file.relative_to(upload.folder).as_posix(): file.read_text() for file in found}


def test_of_lora_the_adapter_goes_up_where_its_base_is_on_the_hub(tmp_path):
    files = laid_out(adapted(tmp_path, "Owner/base"), tmp_path / "adapter")
    assert files.keys() == {"README.md", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json", ".eval_results/sums.yaml"}  # fmt: skip
    settings = json.loads(files["adapter_config.json"])
    assert settings == {"base_model_name_or_path": "Owner/base", "r": 2}
    assert "library_name: peft" in files["README.md"]
    run = load(tmp_path / "sweep")[0][0]
    files = laid_out(run, tmp_path / "merged", merged=True)
    assert files["model.safetensors"] == "model.safetensors"
    assert json.loads(files["config.json"]) == {"_name_or_path": "Owner/base", "a": 1}
    assert "adapter/adapter_model.safetensors" in files


def test_of_lora_on_other_weights_all_goes_up(tmp_path):
    files = laid_out(adapted(tmp_path, "/home/jane/weights/mine"), tmp_path / "out")
    assert {"model.safetensors", "adapter/adapter_config.json"} <= files.keys()
    assert not any("jane" in content for content in files.values())


def test_scores_are_in_the_hubs_layout_where_the_benchmark_is_the_hubs(tmp_path):
    """Not of a part of a benchmark, nor of one that the hub does not have."""
    run = adapted(tmp_path, None)
    files = laid_out(run, tmp_path / "out")
    assert [name for name in files if name.startswith(".eval_results/")] == [".eval_results/sums.yaml"]  # fmt: skip
    (entry,) = parse_eval_result_entries(yaml.safe_load(files[".eval_results/sums.yaml"]))
    assert (entry.dataset_id, entry.task_id, entry.dataset_revision) == ("Owner/sums", "easy", "b" * 40)  # fmt: skip
    assert entry.value == 70.0  # 70 of 100 questions, each twice
    assert entry.date == "2026-01-01"
    assert entry.notes.startswith("2 trials of 100 questions, 95% interval over questions 6")


# ---- pairs come back ---------------------------------------------------------------------------

OWN = ["data.decontaminate=false", "model=tiny", "benchmarks=quick", "data.held_out=4"]


def texts(rows: list[Pair]) -> set[tuple]:
    return {(row.question, row.answer, row.rejected, row.chosen) for row in rows}


@pytest.mark.slow
def test_what_was_published_comes_back_as_the_same_pairs(laptop, hub, tmp_path):
    assert pushed(laptop).returncode == 0
    told = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path)}
    told |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    at = f"data.revision={hub.repositories[PAIRS].commit}"
    words = ["select", "data=pairs", "data.hub=me/laptop-pairs", at, *OWN]
    done = subprocess.run(
        [sys.executable, "-m", "spot.cli.main", *words],
        cwd=tmp_path, env=told, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    ours = artifacts.read_rows(products(laptop)["pairs"], Pair)
    assert texts(product(tmp_path, "select", Pair)) == texts(ours)


@pytest.mark.slow
def test_pairs_of_others_are_filtered_and_counted_as_our_own(laptop, tmp_path):
    """Columns of other names, texts or chats, and rows that are no pairs."""
    ours = artifacts.read_rows(products(laptop)["pairs"], Pair)

    def said(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    rows: list[dict[str, Any]] = [
        {"x": pair.question, "good": pair.chosen, "bad": str(pair.rejected), "score": 1}
        for pair in ours
    ]
    for row in rows[1:3]:  # as TRL has them, and as whole chats
        row |= {"good": said(row["good"]), "bad": said(row["bad"]), "x": [{"role": "user", "content": row["x"]}]}  # fmt: skip
    rows[2] |= {"good": rows[2]["x"] + rows[2]["good"], "bad": rows[2]["x"] + rows[2]["bad"]}
    rows.append({**rows[0], "good": ours[0].chosen + " "})  # of the same question: another pair
    first = rows[3]
    spoilt = [
        {**first, "x": "identical?", "bad": first["good"]},
        {**first, "x": "empty?", "bad": ""},
        {**first, "x": "missing?", "bad": None},
        {**first, "x": "missing?", "good": None},
        {**first, "x": None},
        {**first, "x": "a chat without a question", "bad": [], "good": said(first["good"])},
    ]
    path = write(tmp_path / "theirs.jsonl", rows + spoilt)
    fields = "data.fields={question: x, answer: good, response: bad, solution: good}"
    done = spot(tmp_path, "select", "data=pairs", f"data.path={path}", fields, *OWN)
    assert done.returncode == 0, done.stderr[-3000:]
    found = product(tmp_path, "select", Pair)
    expected = {(p.question, p.rejected, p.chosen) for p in ours}
    expected.add((ours[0].question, ours[0].rejected, ours[0].chosen + " "))
    assert {(p.question, p.rejected, p.chosen) for p in found} == expected
    (elicited,) = (tmp_path / "outputs" / "products" / "elicit").glob("*/manifest.json")
    assert artifacts.read_manifest(elicited.parent)["counts"] == {
        "wrong": len(rows), "correct": 1, "unparseable": 1, "no_response": 2, "no_question": 1, "no_answer": 1,
    }  # fmt: skip
    assert len(product(tmp_path, "rectify", Rectification)) == len(rows)
