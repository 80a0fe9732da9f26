"""Products on disk: names, append, resume, damage, ownership."""

import multiprocessing
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from spot.data import artifacts
from spot.data.rows import Question, from_json, to_json
from spot.utils.errors import UserError


def question(number: int) -> Question:
    return Question(id=f"q{number:03d}", task="sums", text="1 + 1?\u2028é\r\n", answer="2")


def questions(numbers):
    return lambda done, counts: (question(n) for n in numbers if f"q{n:03d}" not in done)


def test_a_row_survives_the_disk():
    row = question(7)
    assert "\n" not in to_json(row)
    assert from_json(Question, to_json(row)) == row


@pytest.mark.parametrize("line", ["", "[]", "{", '{"id": "a"}', '{"id": "a", "extra": 1}'])
def test_a_row_of_another_shape_is_refused(line):
    with pytest.raises(ValueError, match=r"Expecting|not a Question|unknown fields"):
        from_json(Question, line)


def test_the_name_depends_on_settings_and_inputs_and_not_on_their_order(tmp_path):
    one = artifacts.product(
        tmp_path, "select", {"gamma": 0.6, "arm": "rectified"}, {"a": "x", "b": "y"}
    )
    same = artifacts.product(
        tmp_path, "select", {"arm": "rectified", "gamma": 0.6}, {"b": "y", "a": "x"}
    )
    assert one.folder == same.folder
    others = [
        artifacts.product(
            tmp_path, "select", {"gamma": 0.7, "arm": "rectified"}, {"a": "x", "b": "y"}
        ),
        artifacts.product(
            tmp_path, "select", {"gamma": 0.6, "arm": "rectified"}, {"a": "z", "b": "y"}
        ),
        artifacts.product(
            tmp_path, "train", {"gamma": 0.6, "arm": "rectified"}, {"a": "x", "b": "y"}
        ),
    ]
    assert len({p.folder for p in [one, *others]}) == 4


def test_rows_are_sorted_counted_and_reused(tmp_path):
    target = artifacts.product(tmp_path, "elicit", {})
    artifacts.compute_rows(target, Question, questions([3, 1, 2]))
    assert [row.id for row in artifacts.read_rows(target.folder, Question)] == [
        "q001",
        "q002",
        "q003",
    ]
    assert target.counts == {"sums": 3}

    def never(done, counts):
        raise AssertionError("a complete product was computed again")

    artifacts.compute_rows(target, Question, never)


def test_what_a_stage_drops_is_counted_beside_its_rows(tmp_path):
    def produce(done, counts: Counter):
        counts["over_long"] += 2
        yield question(1)

    target = artifacts.product(tmp_path, "select", {})
    artifacts.compute_rows(target, Question, produce, details=lambda rows: {"note": 1})
    assert target.counts == {"over_long": 2, "sums": 1}
    assert artifacts.read_manifest(target.folder)["details"] == {"note": 1}


def interrupted(target: artifacts.Product, numbers, torn: bytes) -> None:
    """Leave `target` as a process does that is killed in the middle of a line."""

    class Killed(BaseException):
        pass

    def produce(done, counts):
        yield from (question(n) for n in numbers)
        raise Killed

    with pytest.raises(Killed):
        artifacts.compute_rows(target, Question, produce)
    with (target.folder / artifacts.PARTIAL).open("ab") as file:
        file.write(torn)


@pytest.mark.parametrize("torn", [b"", b'{"id": "q00', to_json(question(2)).encode()])
def test_a_resumed_product_equals_an_uninterrupted_one(tmp_path, torn):
    whole = artifacts.product(tmp_path, "elicit", {"run": 1})
    artifacts.compute_rows(whole, Question, questions(range(5)))
    parts = artifacts.product(tmp_path, "elicit", {"run": 2})
    interrupted(parts, [4, 0], torn)

    asked = []

    def rest(done, counts):
        asked.append(done)
        yield from questions(range(5))(done, counts)

    artifacts.compute_rows(parts, Question, rest)
    assert asked == [frozenset({"q004", "q000"})]
    rows = [(p.folder / artifacts.ROWS).read_bytes() for p in (whole, parts)]
    assert rows[0] == rows[1]
    assert whole.digest == parts.digest
    assert not (parts.folder / artifacts.PARTIAL).exists()


def test_damage_inside_a_partial_product_is_an_error_not_a_silent_loss(tmp_path):
    target = artifacts.product(tmp_path, "elicit", {})
    interrupted(target, [1, 2], b"")
    partial = target.folder / artifacts.PARTIAL
    partial.write_bytes(b"garbage\n" + partial.read_bytes())
    with pytest.raises(UserError, match="damaged in line 1"):
        artifacts.compute_rows(target, Question, questions(range(3)))


def test_a_row_made_twice_is_refused(tmp_path):
    target = artifacts.product(tmp_path, "elicit", {})
    with pytest.raises(ValueError, match="q001 twice"):
        artifacts.compute_rows(target, Question, lambda d, c: iter([question(1), question(1)]))


def test_a_changed_byte_is_noticed(tmp_path):
    target = artifacts.product(tmp_path, "elicit", {})
    artifacts.compute_rows(target, Question, questions([1]))
    rows = target.folder / artifacts.ROWS
    rows.write_text(rows.read_text().replace('"2"', '"3"'))
    with pytest.raises(UserError, match=r"rows\.jsonl does not match its manifest.*Delete"):
        artifacts.read_rows(target.folder, Question)


def test_an_incomplete_product_cannot_be_read(tmp_path):
    target = artifacts.product(tmp_path, "elicit", {})
    with pytest.raises(UserError, match="not complete"):
        artifacts.read_rows(target.folder, Question)


def test_files_outside_the_content_do_not_change_the_digest(tmp_path):
    def make(log: str):
        def write(folder: Path) -> None:
            (folder / "model").mkdir()
            (folder / "model" / "weights").write_text("w")
            (folder / "metrics.csv").write_text(log)

        return write

    one, two = (artifacts.product(tmp_path, "train", {"seed": s}) for s in (0, 1))
    artifacts.compute_files(one, make("1 s"), content="model/*")
    artifacts.compute_files(two, make("2 s"), content="model/*")
    assert one.digest == two.digest
    assert (
        artifacts.read_manifest(one.folder)["files"] != artifacts.read_manifest(two.folder)["files"]
    )


def _slow_maker(root: Path, started, log: Path) -> None:
    def produce(done, counts):
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        started.set()
        for n in range(10):
            time.sleep(0.05)
            if f"q{n:03d}" not in done:
                yield question(n)

    artifacts.compute_rows(artifacts.product(root, "elicit", {}), Question, produce)


def test_two_processes_make_one_product_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    log = tmp_path / "log"
    workers = [context.Process(target=_slow_maker, args=(tmp_path, started, log)) for _ in "ab"]
    workers[0].start()
    assert started.wait(30)
    workers[1].start()
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    assert log.read_text().split() == [str(workers[0].pid)]


def test_the_lock_of_a_killed_process_does_not_bind(tmp_path):
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    worker = context.Process(target=_slow_maker, args=(tmp_path, started, tmp_path / "log"))
    worker.start()
    assert started.wait(30)
    time.sleep(0.2)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join(30)
    target = artifacts.product(tmp_path, "elicit", {})
    assert not target.complete
    artifacts.compute_rows(target, Question, questions(range(10)))
    assert [row.id for row in artifacts.read_rows(target.folder, Question)] == [
        f"q{n:03d}" for n in range(10)
    ]
