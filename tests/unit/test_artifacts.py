"""Products on disk: names, append, resume, damage, ownership."""

import dataclasses
import multiprocessing
import os
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from spot.data import artifacts
from spot.data.rows import Question, from_json, to_json
from spot.utils import digests
from spot.utils.digests import hash_file
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

    one, two = (
        artifacts.product(tmp_path, "train", {"seed": s}, content="model/*") for s in (0, 1)
    )
    artifacts.compute_files(one, make("1 s"))
    artifacts.compute_files(two, make("2 s"))
    assert one.digest == two.digest
    assert (
        artifacts.read_manifest(one.folder)["files"] != artifacts.read_manifest(two.folder)["files"]
    )


def trained(root: Path, seed: int = 0) -> artifacts.Product:
    """A product with weights, made some time ago."""
    target = artifacts.product(root, "train", {"seed": seed}, content="model/*")

    def make(folder: Path) -> None:
        for name in ("model", "exports/step_00000002"):
            (folder / name).mkdir(parents=True)
            (folder / name / "model.safetensors").write_bytes(
                bytes(range(256)) * 64 + bytes([seed])
            )
            (folder / name / "config.json").write_text('{"layers": 2}')
            (folder / name / "chat_template.jinja").write_text("{{ messages }}")
        (folder / "metrics.csv").write_text("step,loss\n0,1\n")

    artifacts.compute_files(target, make)
    for path in target.folder.rglob("*"):
        os.utime(path, ns=(10**18, 10**18))
    return target


def flip(path: Path, at: int = 1000) -> None:
    """One bit, size and time of writing as before."""
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def swap(one: Path, two: Path) -> None:
    aside = one.with_name("aside")
    for source, target in ((one, aside), (two, one), (aside, two)):
        source.rename(target)


DAMAGE = {
    "one bit": lambda model, other: flip(model / "model.safetensors"),
    "half is zero": lambda model, other: (model / "model.safetensors").write_bytes(
        (model / "model.safetensors").read_bytes()[:8192] + bytes(8193)
    ),
    "cut": lambda model, other: os.truncate(model / "model.safetensors", 99),
    "of another model": lambda model, other: shutil.copy(other / "model.safetensors", model),
    "another template": lambda model, other: (model / "chat_template.jinja").write_text("{{ x }}"),
    "one file more": lambda model, other: (model / "tokenizer_config.json").write_text("{}"),
    "one file less": lambda model, other: (model / "config.json").unlink(),
    "a folder": lambda model, other: ((model / "config.json").unlink(), (model / "config.json").mkdir()),
    "swapped models": lambda model, other: swap(model, other),
    "swapped products": lambda model, other: swap(model.parent, other.parent),
}  # fmt: skip


@pytest.mark.parametrize("looked_at_before", [False, True])
@pytest.mark.parametrize("damage", DAMAGE)
def test_weights_are_used_again_only_as_they_were_made(tmp_path, damage, looked_at_before):
    one, other = trained(tmp_path, 0), trained(tmp_path, 1)
    if looked_at_before:
        time.sleep(0.12)
        one.check()
        assert (one.folder / digests.RECORD).exists()
    DAMAGE[damage](one.folder / "model", other.folder / "model")
    with pytest.raises(UserError, match=rf"{one.folder}.*(\. Delete|: move it back)") as caught:
        one.check()
    assert "\n" not in str(caught.value)


def test_what_says_nothing_of_the_weights_may_change(tmp_path):
    target = trained(tmp_path)
    (target.folder / "model" / "README.md").write_text("a card")
    (target.folder / "model" / ".DS_Store").write_text("")
    (target.folder / "metrics.csv").unlink()
    shutil.rmtree(target.folder / "exports")
    target.check()


def test_weights_are_read_once_and_once_more_after_a_copy(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(digests, "hash_file", lambda p: read.append(p.name) or hash_file(p))
    target = trained(tmp_path / "here")
    time.sleep(0.12)
    for number, place in enumerate(("here", "here", "there", "there")):
        if number == 2:
            shutil.copytree(tmp_path / "here", tmp_path / "there")
            time.sleep(0.12)
        read.clear()
        dataclasses.replace(target, folder=tmp_path / place / "train" / target.key).check()
        assert len(read) == (0 if number % 2 else 3)


def test_weights_of_others_are_read_once_for_all_runs(tmp_path, monkeypatch):
    """The digest stays what it was; a file that was written again, with its size and age, is read again."""
    folder, records = tmp_path / "model", tmp_path / "digests"
    folder.mkdir()
    for name in ("config.json", "model-1.safetensors", "model-2.safetensors", "README.md"):
        (folder / name).write_text(name)
    expected = artifacts.model_digest(folder)
    read = []
    monkeypatch.setattr(digests, "hash_file", lambda p: read.append(p.name) or hash_file(p))

    def digest():
        artifacts.model_digest.cache_clear()  # as another process
        read.clear()
        return artifacts.model_digest(folder, records)

    time.sleep(0.12)
    assert digest() == expected
    assert len(read) == 3
    assert digest() == expected
    assert read == []
    changed = folder / "model-2.safetensors"
    before = changed.stat()
    changed.write_text("Model-2.safetensors")
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert digest() != expected
    assert read == ["model-2.safetensors"]


def test_a_record_that_cannot_be_kept_or_read_refuses_nothing(tmp_path):
    target = trained(tmp_path)
    (target.folder / digests.RECORD).write_text("[1")
    target.check()
    (target.folder / digests.RECORD).unlink()
    (target.folder / digests.RECORD).mkdir()
    target.check()


def test_weights_named_by_their_folder_are_checked_too(tmp_path):
    folder = trained(tmp_path).folder
    for part in ("model", "exports/step_00000002"):
        artifacts.check_part(folder / part)
        flip(folder / part / "model.safetensors")
        with pytest.raises(UserError, match="does not match its manifest"):
            artifacts.check_part(folder / part)


def test_weights_beside_somebody_elses_manifest_are_none_of_ours(tmp_path):
    (tmp_path / "train" / "mine" / "model").mkdir(parents=True)
    (tmp_path / "train" / "mine" / "manifest.json").write_text("{}")
    artifacts.check_part(tmp_path / "train" / "mine" / "model")


@pytest.mark.parametrize(
    "text", ["{}", "[]", "", "null", '{"stage": "elicit"', b"\xff\xfe", '{"stage": 1}']
)
def test_a_damaged_manifest_is_one_line(tmp_path, text):
    target = artifacts.product(tmp_path, "elicit", {})
    artifacts.compute_rows(target, Question, questions([1]))
    path = target.folder / artifacts.MANIFEST
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    for use in (target.check, lambda: target.digest, lambda: target.counts):
        with pytest.raises(UserError, match=r"manifest\.json is damaged\. Delete"):
            use()


def test_a_manifest_names_its_own_product_and_its_own_digest(tmp_path):
    target = artifacts.product(tmp_path, "elicit", {})
    artifacts.compute_rows(target, Question, questions([1]))
    path = target.folder / artifacts.MANIFEST
    good = path.read_text()
    path.write_text(good.replace(target.digest, "0" * 64))
    with pytest.raises(UserError, match="is damaged"):
        target.check()
    path.write_text(good.replace(target.key, "0" * 16))
    with pytest.raises(UserError, match="holds another product, elicit/0000000000000000"):
        target.check()


@pytest.mark.parametrize("name", [artifacts.ROWS, artifacts.MANIFEST])
def test_a_folder_in_the_place_of_a_file_is_one_line(tmp_path, name):
    target = artifacts.product(tmp_path, "elicit", {})
    artifacts.compute_rows(target, Question, questions([1]))
    (target.folder / name).unlink()
    (target.folder / name).mkdir()
    for use in (target.check, lambda: artifacts.read_rows(target.folder, Question)):
        with pytest.raises(UserError, match="Delete"):
            use()


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
