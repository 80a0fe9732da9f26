"""Whatever a model's program tries, nothing outside its process changes and no secret comes out."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from spot.grading.sandbox import TIME, Call, Limits, Program, run

pytestmark = pytest.mark.usefixtures("contained")

BRIEF = Limits(seconds=1, memory_mib=256)
CANARY = "still here"


def evaluated(*expressions: str) -> list[Call | None]:
    """What expressions come to inside, each by itself."""
    source = (
        "import os, sys, socket, ctypes, signal, threading, subprocess, shutil, fcntl, resource\n"
    )
    source += "def f(text):\n    return repr(eval(text))"
    return list(run(Program(source, "f", [[e] for e in expressions]), BRIEF).calls)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that any process of ours could write."""
    file = tmp_path / "canary"
    file.write_text(CANARY)
    return file


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path) -> Iterator[None]:
    before = set(psutil.Process().children(recursive=True))  # other tests' helpers
    yield
    assert set(psutil.Process().children(recursive=True)) <= before
    assert [p.name for p in tmp_path.iterdir()] in ([], ["canary"])


# ------------------------------------------------------------------------------ files and secrets


def test_nothing_can_be_changed_on_disk(canary: Path) -> None:
    tries = [
        "open({p}, 'w')",
        "open({p}, 'a').write('x')",
        "open({p}, 'r+')",
        "open({d} + '/new', 'x')",
        "os.remove({p})",
        "os.rename({p}, {d} + '/moved')",
        "os.truncate({p}, 0)",
        "os.chmod({p}, 0)",
        "os.utime({p}, (0, 0))",
        "os.link({p}, {d} + '/hard')",
        "os.symlink({p}, {d} + '/soft')",
        "os.mkdir({d} + '/folder')",
        "os.mkfifo({d} + '/pipe')",
        "shutil.rmtree({d})",
        "open('/tmp/spot-was-here', 'w')",
        "open('spot-was-here', 'w')",
        "os.memfd_create('m')",
        "open('/dev/shm/spot-was-here', 'w')",
    ]
    calls = evaluated(*(t.format(p=repr(str(canary)), d=repr(str(canary.parent))) for t in tries))
    assert [t for t, c in zip(tries, calls, strict=True) if c is None or c.error is None] == []
    assert canary.read_text() == CANARY


def test_raw_system_calls_change_nothing_either(canary: Path) -> None:
    path = repr(str(canary).encode())
    calls = evaluated(
        f"ctypes.CDLL(None).unlink({path})",
        f"ctypes.CDLL(None).open({path}, os.O_RDWR)",
        f"ctypes.CDLL(None).open({path}, os.O_TRUNC)",
        f"ctypes.CDLL(None).syscall(437, -100, {path}, ctypes.create_string_buffer(24), 24)",
        "ctypes.CDLL(None).syscall(425, 8, ctypes.create_string_buffer(120))",  # io_uring
        "ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, None)",
        "ctypes.CDLL(None).unshare(0x10000000)",
        "ctypes.CDLL(None).ptrace(0, 0, 0, 0)",
        "ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)",
    )
    assert calls == [Call("-1")] * len(calls)
    assert canary.read_text() == CANARY


def test_a_file_of_ten_gigabytes_is_not_written() -> None:
    source = """
    import tempfile
    def f():
        with tempfile.TemporaryFile() as file:
            for _ in range(10_000):
                file.write(b"x" * (1 << 20))
    """
    outcome = run(Program(textwrap.dedent(source), "f", [[]]), BRIEF)
    assert outcome.calls[0] is not None
    assert outcome.calls[0].error in ("FileNotFoundError", "PermissionError")


def test_no_secret_can_be_read(canary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "top-secret")
    canary.write_text("top-secret")
    (environment, *files) = evaluated(
        "sorted(os.environ)",
        f"open({str(canary)!r}).read()",
        f"os.listdir({str(canary.parent)!r})",
        "open('/proc/self/environ').read()",
        f"open('/proc/{os.getpid()}/environ').read()",
        f"open('/proc/{os.getpid()}/mem', 'rb').read(1)",
        "os.listdir('/proc')",
        f"os.listdir({str(Path.home())!r})",
        "os.listdir('/')",
        "open('/etc/passwd').read()",
        "open('/etc/hostname').read()",
    )
    assert environment is not None
    assert "KEY" not in environment.value
    assert "HOME" not in environment.value
    assert {c.error for c in files if c} == {"PermissionError"}
    assert len([c for c in files if c]) == len(files)


# ------------------------------------------------------------------------------ others' processes


def test_no_process_or_thread_can_be_started() -> None:
    calls = evaluated(
        "os.fork()",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.execv('/bin/true', ['true'])",
        "subprocess.run(['/bin/true'])",
        "threading.Thread(target=print).start()",
        "ctypes.CDLL(None).system(b'true')",
    )
    assert [c.error for c in calls[:3] if c] == ["PermissionError"] * 3
    assert [c.error for c in calls[3:5] if c] == ["PermissionError", "RuntimeError"]
    assert calls[5] is not None
    assert calls[5].value != "0"


def test_a_fork_bomb_stays_one_process() -> None:
    source = """
    import os
    def f():
        while True:
            try:
                os.fork()
            except OSError:
                pass
    """
    assert run(Program(textwrap.dedent(source), "f", [[]]), BRIEF).ended == TIME


def test_no_other_process_can_be_signalled() -> None:
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        calls = evaluated(
            "os.kill(os.getppid(), 9)",
            f"os.kill({bystander.pid}, 9)",
            "os.killpg(0, 9)",
            "os.kill(-1, 9)",
            f"signal.pidfd_send_signal(os.pidfd_open({bystander.pid}), 9)",
            f"fcntl.fcntl(3, fcntl.F_SETOWN, {bystander.pid})",  # the kernel would send it for us
            "fcntl.fcntl(3, 10, 9)",
            f"resource.prlimit({bystander.pid}, resource.RLIMIT_CPU, (0, 0))",
            "os.setsid()",
            "os.nice(-5)",
        )
        assert [c.error for c in calls if c] == ["PermissionError"] * len(calls)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_no_server_can_be_reached(tmp_path: Path) -> None:
    unix = f"\0spot-{os.getpid()}"  # abstract: needs no file
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as local:
        local.bind(unix)
        local.listen()
        port = tcp.getsockname()[1]
        calls = evaluated(
            f"socket.create_connection(('127.0.0.1', {port}), 1).send(b'x')",
            f"socket.socket(socket.AF_UNIX).connect({unix!r})",
            "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
            "socket.socketpair()",
            "ctypes.CDLL(None).socket(2, 1, 0)",
            "socket.getaddrinfo('localhost', 80)",
        )
        assert [c.error for c in calls[:4] if c] == ["PermissionError"] * 4
        assert calls[4] == Call("-1")
        for server in (tcp, local):
            server.settimeout(0.1)
            with pytest.raises(TimeoutError):
                server.accept()


def test_it_dies_with_us() -> None:
    ours = (
        "from spot.grading.sandbox import *; run(Program('while True: pass', 'f', []), Limits(60))"
    )
    parent = psutil.Popen([sys.executable, "-c", ours])
    try:
        until = time.monotonic() + 60
        while not (inside := parent.children()) and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.5)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    gone, alive = psutil.wait_procs(inside, timeout=10)
    assert (len(gone), alive) == (1, [])


# ------------------------------------------------------------------------------ each wall by itself


def _inside(lock: str, expressions: list[str]) -> list[str]:
    """What expressions come to in a process that has one of the locks only."""
    code = f"""
import ctypes, json, os, socket, sys
sys.path.insert(0, {str(Path(__file__).parents[2] / "src")!r})
from spot.grading import sandbox_inside
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)
assert sandbox_inside.{lock}(libc)
found = []
for expression in {expressions!r}:
    try:
        found.append(repr(eval(expression)))
    except OSError as error:
        found.append(type(error).__name__)
os.write(1, json.dumps(found).encode())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return json.loads(done.stdout)


def test_landlock_alone_protects_files(canary: Path) -> None:
    path, refused = str(canary), "PermissionError"
    found = _inside(
        "_landlock", [f"open({path!r}).read()", f"open({path!r}, 'w')", f"os.remove({path!r})"]
    )
    assert found == [refused] * 3
    assert canary.read_text() == CANARY


def test_seccomp_alone_protects_all_but_reading(canary: Path) -> None:
    path, refused = str(canary), "PermissionError"
    found = _inside(
        "_seccomp",
        [
            f"open({path!r}).read()",
            f"open({path!r}, 'w')",
            f"os.remove({path!r})",
            "os.fork()",
            "os.kill(os.getppid(), 9)",
            "socket.socket()",
        ],
    )
    assert found == [repr(CANARY), *[refused] * 5]
    assert canary.read_text() == CANARY


def test_a_machine_that_cannot_contain_programs_runs_none() -> None:
    ours = """
import ctypes, sys
from spot.utils.errors import UserError
from spot.grading.sandbox import Program, run

ctypes.CDLL(None).personality(8)  # a 32-bit machine, for which there is no filter
program = Program("def f(): return 5", "f", [[]])
try:
    run(program)
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", ours], capture_output=True, text=True, check=True)
    assert "lacks seccomp" in done.stdout
    assert "Linux 5.13" in done.stdout
