"""What a person names to be written is written where the name leads, or refused before the work."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from spot.utils import files
from spot.utils.errors import UserError
from tests.support.command_line import spot

BOARDS = ("connect4", "generate", "count=3")


def test_a_link_is_written_through_however_many_and_stays_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target = tmp_path / "there" / "real.jsonl"
    target.write_text("old")
    target.chmod(0o640)
    (tmp_path / "there" / "second").symlink_to("real.jsonl")
    (tmp_path / "first").symlink_to("there/second")
    (tmp_path / "new").symlink_to("there/not-yet")
    for name in ("first", "new"):
        assert spot(tmp_path, *BOARDS, f"out={name}").returncode == 0
    assert (tmp_path / "first").is_symlink()
    assert (tmp_path / "there" / "second").is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640, "the mode stays"
    assert target.read_bytes() == (tmp_path / "there" / "not-yet").read_bytes() != b"old"
    assert sorted(p.name for p in (tmp_path / "there").iterdir()) == ["not-yet", "real.jsonl", "second"]  # fmt: skip


def test_a_pipe_and_a_device_are_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    done = spot(tmp_path, *BOARDS, f"out={pipe}")
    reader.join(10)
    assert (done.returncode, read[0].count("\n")) == (0, 3)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert done.stderr == f"boards: {pipe} (3)\n"
    (tmp_path / "null").symlink_to("/dev/null")
    assert spot(tmp_path, *BOARDS, "out=null").returncode == 0
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("to", ["a pipe", "a file"])
@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_stdout_is_what_the_command_writes_to(to: str, name: str, tmp_path: Path) -> None:
    code = (
        f"from pathlib import Path; from spot.utils import files; print('before'); path = Path({name!r});"
        "files.check_output(path, 'out'); files.write_aside(path, 'rows\\n'); print('after');"
        "print('note', file=files.notes(path))"
    )
    log = tmp_path / "log"
    with log.open("wb") as file:
        out = subprocess.PIPE if to == "a pipe" else file
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=out, stderr=subprocess.PIPE, check=True
        )
    assert (done.stdout or log.read_bytes()) == b"before\nrows\nafter\n"
    assert done.stderr == b"note\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*BOARDS, "out=afile/x.jsonl"), "out=afile/x.jsonl cannot be written (Not a directory)"),
        ((*BOARDS, "out=afile/x/y/z"), "out=afile/x/y/z cannot be written (Not a directory)"),
        ((*BOARDS, "out=/proc/x.jsonl"), "out=/proc/x.jsonl cannot be written"),
        ((*BOARDS, "out=/sys/kernel/x"), "out=/sys/kernel/x cannot be written"),
        ((*BOARDS, "out=afolder"), "out=afolder cannot be written (it is a folder)"),
        ((*BOARDS, "out=loop"), "out=loop cannot be written (Too many levels of symbolic links)"),
        ((*BOARDS, "out=loop/x"), "out=loop/x cannot be written (its folder is a link to nothing)"),
        ((*BOARDS, "out=astray/x"), "out=astray/x cannot be written (its folder is a link to nothing)"),
        (("elicit", "output=astray"), "output=astray cannot be written"),
        ((*BOARDS, f"out={'x' * 300}"), "cannot be written (File name too long)"),
        ((*BOARDS, "out=/dev/fd/77"), "out=/dev/fd/77 cannot be written"),
        (("workspace", "entity=me", "out=afile/w.json"), "out=afile/w.json cannot be written"),
        (("pairs", "pairs.jsonl", "out=afile/p.html"), "out=afile/p.html cannot be written"),
        (("correct", "oracle.path=afile/c.csv"), "oracle.path=afile/c.csv cannot be written"),
        (("correct", "oracle.path=pipe.csv"), "oracle.path=pipe.csv cannot be written (it is not a file)"),
        (("elicit", "output=afile/out"), "output=afile/out cannot be written (Not a directory)"),
        (("elicit", "output=afile"), "output=afile cannot be written (Not a directory)"),
        (("elicit", "output=/proc/out"), "output=/proc/out cannot be written"),
        (
            ("grade", "benchmark=sums", "responses=afile", "out=afile/x"),
            "out=afile/x cannot be written (Not a directory)",
        ),
        (("grade", "benchmark=sums", "responses=afile", "out=same"), "out=same holds the responses"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else "",
)  # fmt: skip
def test_an_impossible_place_is_refused_before_the_work(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    (tmp_path / "afile").write_text("mine")
    (tmp_path / "pairs.jsonl").write_text("{}")
    (tmp_path / "afolder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "astray").symlink_to("nowhere/at/all")
    (tmp_path / "same").symlink_to("afile")
    os.mkfifo(tmp_path / "pipe.csv")
    before = sorted(tmp_path.iterdir())
    done = spot(tmp_path, *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert said in done.stderr
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "afile").read_text() == "mine"


def test_what_may_not_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root the system would let everything pass: what it would say to others is said here."""
    file = tmp_path / "x.jsonl"
    file.write_text("mine")
    monkeypatch.setattr(os, "access", lambda path, mode: path != file)
    with pytest.raises(
        UserError, match="cannot be written \\(it is read-only\\): give another, out=<file>"
    ):
        files.check_output(file, "out")
    files.check_output(tmp_path / "y.jsonl", "out")
    files.check_output(tmp_path / "not" / "yet", "out", "folder")
    assert list(tmp_path.iterdir()) == [file], "a check leaves nothing"


def test_a_descriptor_that_is_only_read_is_refused() -> None:
    read, write = os.pipe()
    files.check_output(Path(f"/dev/fd/{write}"), "out")
    with pytest.raises(UserError, match="it is only read"):
        files.check_output(Path(f"/dev/fd/{read}"), "out")
    os.close(read), os.close(write)


def test_a_link_to_a_file_in_a_folder_to_be_made(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("not/yet.jsonl")
    files.check_output(link, "out")
    files.write_aside(link, "text")
    assert link.is_symlink()
    assert (tmp_path / "not" / "yet.jsonl").read_text() == "text"


def test_a_name_as_long_as_the_system_allows(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 125 + ".json")  # 255 bytes
    files.check_output(path, "out")
    files.write_aside(path, "text")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["text"]
