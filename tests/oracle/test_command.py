"""`spot rectify` with a paid Oracle: killed, capped, drifted, and never a key in anything it leaves."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.oracle import world
from tests.oracle.server import Plan, Server
from tests.support.command_line import spot
from tests.support.processes import killed

pytestmark = pytest.mark.oracle
KEY = "sk-planted-9f3b7c2d1e"
SPOT = [sys.executable, "-m", "spot.cli.main"]
ATTEMPTS = 90


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with a model's recorded, wrong answers."""
    rows = [
        {
            "id": f"q{i}",
            "question": world.question(i),
            "answer": str(world.truth(i)),
            "response": world.wrong_response(i),
        }
        for i in range(ATTEMPTS)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def command(server: Server, *more: str) -> list[str]:
    data = ["data=jsonl", "data.path=rows.jsonl", "data.fields.response=response"]
    data += ["data.fields.id=id", "data.held_out=10", "model=tiny"]
    oracle = ["oracle=openai", "oracle.model=gpt-4.1", f"oracle.base_url={server.url}"]
    pace = ["oracle.concurrency=8", "oracle.max_cost=5"]
    return [*SPOT, "rectify", *data, *oracle, *pace, *more]


def environment() -> dict[str, str]:
    return {**os.environ, "OPENAI_API_KEY": KEY, "OMP_NUM_THREADS": "1"}


def run(folder: Path, arguments: list[str]) -> tuple[int, str]:
    done = spot(folder, *arguments[len(SPOT) :], environment=environment())
    return done.returncode, done.stdout + done.stderr


def products(folder: Path) -> list[dict[str, Any]]:
    """The finished rectify products: manifest, with the rows."""
    found = []
    for manifest in sorted(folder.glob("outputs/products/rectify/*/manifest.json")):
        rows = (manifest.parent / "rows.jsonl").read_text().splitlines()
        found.append(json.loads(manifest.read_text()) | {"rows": [json.loads(r) for r in rows]})
    return found


def recorded(folder: Path) -> float:
    """What the rows say that they cost, USD."""
    return sum(row["detail"]["cost"] for product in products(folder) for row in product["rows"])


def bill(server: Server) -> float:
    """What the server charges for what it did, at the table's price of gpt-4.1."""
    from spot.oracle.pricing import price_of
    from spot.oracle.types import Usage

    billed = server.settled()["billed"]["single"]
    used = Usage(billed["input"], billed["cached"], billed["output"], billed["thoughts"])
    return price_of("gpt-4.1").cost(used)


def test_every_attempt_has_a_row_that_says_what_happened(server: Server, folder: Path) -> None:
    server.plan(Plan(faults={"429_after": 0.05, "500": 0.05, "meta": 0.1, "wrong": 0.2}, key=KEY))
    before = bill(server)
    code, told = run(folder, command(server))
    assert code == 0, told
    assert "requests to gpt-4.1: about" in told
    rows = [row for product in products(folder) for row in product["rows"]]
    assert len({row["id"] for row in rows}) == len(rows) == ATTEMPTS
    assert {row["oracle"] for row in rows} == {"openai:gpt-4.1"}
    for row in rows:
        assert row["detail"]["tries"], "every try is kept"
        if row["outcome"] == "ok":
            number = int(row["question_id"].removeprefix("q"))
            assert row["extracted"] == str(world.truth(number))
            assert "===" not in row["chosen"]
            assert 0 < row["detail"]["change_ratio"] < 0.2
    assert any(len(row["detail"]["tries"]) == 2 for row in rows), "a wrong one is asked again"
    assert recorded(folder) == pytest.approx(bill(server) - before)

    code, again = run(folder, command(server))
    assert code == 0
    assert again.count("reused") == 3
    assert recorded(folder) == pytest.approx(bill(server) - before), "nothing was asked again"
    leaks = [p for p in folder.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]
    assert leaks == []
    assert KEY not in told + again


def test_a_server_that_lies_about_its_usage_stays_within_the_cap(
    server: Server, folder: Path
) -> None:
    lie = {"usage.prompt_tokens": -(10**7), "usage.completion_tokens": -(10**7)}
    server.plan(Plan(faults={"lie": 1.0}, changes={"lie": lie}, key=KEY))
    before = bill(server)
    code, told = run(folder, command(server, "oracle.max_cost=2"))
    assert code == 2, told
    assert "Traceback" not in told
    assert told.count("is counted as possible") == 1
    assert "oracle.max_cost=2 USD is reached: 0.00 USD are spent, 1." in told
    assert 0 < bill(server) - before <= 2

    [journal] = folder.glob("outputs/oracle/*.jsonl")
    lines = journal.read_text().splitlines(keepends=True)
    answered = next(n for n, line in enumerate(lines) if '"answered"' in line)
    lines[answered] = lines[answered].replace('"model_version": "gpt-4.1"', '"model_version": [5]')
    journal.write_text("".join(lines))
    server.plan(Plan(key=KEY))
    code, told = run(folder, command(server, "oracle.max_cost=5"))
    assert code == 0, told
    assert f"line {answered + 1} of {journal.relative_to(folder)} cannot be read" in told
    assert {row["outcome"] for product in products(folder) for row in product["rows"]} == {"ok"}


def test_other_judgement_of_the_same_replies_costs_nothing(server: Server, folder: Path) -> None:
    """More tries, or another bound on changes, makes other rows of what was answered already."""
    server.plan(Plan(key=KEY))
    assert run(folder, command(server))[0] == 0
    before = bill(server)
    code, told = run(folder, command(server, "oracle.reask=3", "oracle.largest_change=0.9"))
    assert code == 0, told
    assert len(products(folder)) == 4
    assert bill(server) == before


def test_a_killed_run_loses_and_pays_nothing_twice(server: Server, folder: Path) -> None:
    server.plan(Plan(latency=0.3, key=KEY))
    before = bill(server)
    partial = "outputs/products/rectify/*/rows.partial.jsonl"

    def sixteen_rows() -> bool:
        return any(p.read_bytes().count(b"\n") > 15 for p in folder.glob(partial))

    assert killed(command(server), folder, sixteen_rows, environment())
    code, told = run(folder, command(server))
    assert code == 0, told
    rows = [row for product in products(folder) for row in product["rows"]]
    assert len({row["id"] for row in rows}) == len(rows) == ATTEMPTS
    spend = max(
        (product["details"]["spend"] for product in products(folder)),
        key=lambda spend: float(spend["recorded"]),
    )
    billed = bill(server) - before
    assert recorded(folder) == pytest.approx(spend["recorded"])
    assert spend["recorded"] <= billed + 1e-9
    assert billed <= spend["recorded"] + spend["possible"] + 1e-9
    assert spend["lost"] <= 8, "no more than were in flight"


def test_the_cap_stops_cleanly_and_a_raised_one_goes_on(server: Server, folder: Path) -> None:
    server.plan(Plan(key=KEY))
    small = ["oracle.max_tokens=300", "oracle.concurrency=2", "oracle.max_cost=0.03"]
    before = bill(server)
    code, told = run(folder, command(server, *small))
    assert code == 2
    assert "Traceback" not in told
    assert "oracle.max_cost=0.03 USD is reached" in told.splitlines()[-1]
    assert bill(server) - before <= 0.03
    code, told = run(folder, command(server, *small[:2], "oracle.max_cost=3"))
    assert code == 0, told
    assert recorded(folder) == pytest.approx(bill(server) - before)


class Terminal(io.StringIO):
    """A person at it, who types this; and what was there when they were asked."""

    def __init__(self, typed: str, folder: Path) -> None:
        super().__init__(typed)
        self.folder, self.there = folder, [True]

    def isatty(self) -> bool:
        return True

    def readline(self, *size: Any) -> str:
        self.there = list(self.folder.glob("outputs"))
        return super().readline(*size)


def test_without_a_limit_a_terminal_is_asked_before_the_first_stage(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.plan(Plan(key=KEY))
    before = bill(server)
    small = ["oracle.max_tokens=300", "oracle.max_cost=null"]
    code, told = run(folder, command(server, *small))
    assert (code, told.count("\n")) == (2, 1), told
    assert "oracle.max_cost is missing: oracle=openai is expected to cost 0." in told
    assert "(about 27 attempts to correct; 34 requests, at most " in told
    assert not (folder / "outputs").exists()

    monkeypatch.setattr(sys, "stdin", terminal := Terminal("0.03\n", folder))
    code, told = run(folder, command(server, *small))
    assert code == 2
    assert "oracle.max_cost=0.03 USD is reached" in told.splitlines()[-1]
    assert (terminal.there, bill(server) - before <= 0.03) == ([], True)
    (record,) = folder.glob("outputs/runs/*/*/run.json")
    assert "oracle.max_cost=0.03" in json.loads(record.read_text())["overrides"]

    monkeypatch.setattr(sys, "stdin", Terminal("much\n", folder))
    code, told = run(folder, command(server, *small))
    assert (code, "'much' is not a number" in told) == (2, True)
    monkeypatch.setattr(sys, "stdin", Terminal("\n", folder))  # what is offered
    code, told = run(folder, command(server, *small))
    assert (code, "in USD? [5.00]" in told) == (0, True), told
    monkeypatch.setattr(sys, "stdin", terminal := Terminal("", folder))
    code, told = run(folder, command(server, *small))
    assert (code, terminal.there) == (0, [True]), "all is there, and nobody is asked"


def test_another_model_stops_the_run_until_it_is_allowed(server: Server, folder: Path) -> None:
    server.plan(Plan(version="gpt-9", key=KEY))
    code, told = run(folder, command(server))
    assert code == 2
    assert "gpt-4.1 was asked for and gpt-9 answered" in told.splitlines()[-1]
    code, told = run(folder, command(server, "oracle.allow_version_drift=true"))
    assert code == 0, told
    rows = [row for product in products(folder) for row in product["rows"]]
    assert {each["model_version"] for row in rows for each in row["detail"]["tries"]} == {"gpt-9"}


def test_enough_pairs_are_enough(server: Server, folder: Path) -> None:
    server.plan(Plan(key=KEY))
    code, told = run(folder, command(server, "oracle.target_pairs=12"))
    assert code == 0, told
    assert sorted(product["counts"]["ok"] for product in products(folder)) == [10, 12]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["oracle.model=null"], "oracle.model is missing"),
        (["oracle.key_name=sk-123"], "oracle.key_name must name an environment variable"),
        (["oracle.key_name=NO_SUCH_KEY"], "set NO_SUCH_KEY in the environment"),
        (["oracle.model=unheard-of"], "oracle.model=unheard-of has no price"),
        (["oracle.prompt=rows.jsonl"], "lacks {answer} and {question} and {response}"),
        (["oracle.batch=true"], "oracle.batch=true needs oracle=gemini"),
    ],
)
def test_a_mistake_is_one_line(
    server: Server, folder: Path, more: list[str], expected: str
) -> None:
    code, told = run(folder, command(server, *more))
    assert code == 2, told
    (last,) = told.splitlines()  # at once: nothing was elicited before
    assert last.startswith("spot: ")
    assert expected in last
    assert "sk-123" not in last


def test_gemini_in_batches(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.plan(Plan(batch_seconds=0.2, batch_ends=["EXPIRED"]))
    arguments = command(server, "oracle.batch_size=40", "oracle.batch_poll=0.2")
    gemini = ["oracle=gemini", f"oracle.base_url={server.root}", "oracle.batch=true"]
    kept = [
        a for a in arguments if not a.startswith(("oracle=", "oracle.base_url", "oracle.model"))
    ]
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    code, told = run(folder, [*kept, *gemini])
    assert code == 0, told
    rows = [row for product in products(folder) for row in product["rows"]]
    assert len({row["id"] for row in rows}) == ATTEMPTS
    assert {row["outcome"] for row in rows} == {"ok"}


def test_a_sheet_that_a_person_filled_in(folder: Path) -> None:
    """What `spot correct` writes and a spreadsheet saves is an Oracle."""
    from spot.oracle import human_sheet
    from spot.oracle.types import Task

    data = ["data=jsonl", "data.path=rows.jsonl", "data.fields.response=response"]
    data += ["data.fields.id=id", "data.held_out=10", "model=tiny"]
    code, told = run(folder, [*SPOT, "elicit", *data])
    assert code == 0, told
    (file,) = folder.glob("outputs/products/elicit/*/rows.jsonl")
    attempts = [json.loads(line) for line in file.read_text().splitlines()]
    tasks = [Task(a["id"], a["question"], a["answer"], a["response"]) for a in attempts]
    by_question = {world.question(i): world.corrected(i) for i in range(ATTEMPTS)}
    corrections = {task.id: by_question[task.question] for task in tasks[:60]}
    human_sheet.write(folder / "sheet.csv", tasks, corrections)
    code, told = run(folder, [*SPOT, "rectify", *data, "oracle=human", "oracle.path=sheet.csv"])
    assert code == 0, told
    parts = {
        product["settings"]["part"]: [row["outcome"] for row in product["rows"]]
        for product in products(folder)
    }
    assert (parts["train"].count("ok"), parts["train"].count("not_corrected")) == (50, 30)
    assert parts["held_out"] == ["ok"] * 10, "what is held out is corrected"
    few = dict([*corrections.items()][:5])
    human_sheet.write(folder / "sheet.csv", tasks, few)
    code, told = run(folder, [*SPOT, "rectify", *data, "oracle=human", "oracle.path=sheet.csv"])
    assert code == 2
    assert "data.held_out=10 takes all 5 corrections: lower it, data.held_out=1" in told


def test_a_whole_run_leaves_no_key(server: Server, folder: Path) -> None:
    """Products, manifests, logs, W&B's files, the model card and the report."""
    server.plan(Plan(faults={"429_after": 0.05, "500": 0.05}, key=KEY))
    arguments = ["run" if a == "rectify" else a for a in command(server)]
    more = ["logger=wandb", "benchmarks=quick", "probe.ability_every=0", "loss.epochs=1"]
    code, told = run(folder, [*arguments, *more])
    assert code == 0, told
    assert KEY not in told
    files = [path for path in folder.rglob("*") if path.is_file()]
    kinds = {path.name for path in files} | {path.suffix for path in files}
    assert kinds >= {"run.json", "manifest.json", "report.html", "README.md", ".wandb", ".jsonl"}
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
