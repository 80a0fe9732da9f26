"""Starting, watching and ending servers, with a stand-in for `vllm serve` (`vllm_stand_in.py`)."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import psutil
import pytest

from spot.config import GeneratorConfig
from spot.config.compose import compose
from spot.data.chat import user
from spot.generation import Request, Sampling, build
from spot.generation import vllm as module
from spot.generation.folder import check_folder
from spot.generation.vllm import Servers, load
from spot.generation.vllm_process import ServerProcess, deal
from spot.pipeline import clients, way
from spot.pipeline.policy import Policy
from spot.pipeline.run import Run
from spot.utils.errors import UserError
from tests.support.processes import wait_for

STAND_IN = Path(__file__).with_name("vllm_stand_in.py")
STUDENT = Path(__file__).parents[2] / "src/spot/training/assets/tiny"
Make = Callable[..., Servers]
vllm = partial(GeneratorConfig, "vllm")


@pytest.fixture
def executable(tmp_path: Path) -> str:
    file = tmp_path / "bin" / "vllm"
    file.parent.mkdir()
    file.write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(STAND_IN))} "$@"\n'
    )
    file.chmod(0o755)
    return str(file)


@pytest.fixture
def make(tmp_path: Path, executable: str, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def make(act: str = "well", marks: Path | None = None, **settings: Any) -> Servers:
        arguments = ["--act", act, *(["--marks", str(marks)] if marks else [])]
        chosen = vllm(**{"executable": executable, "arguments": arguments} | settings)
        return Servers(STUDENT, "student", 200, chosen, tmp_path / "logs")

    return make


def get(url: str, path: str) -> dict[str, Any]:
    with urllib.request.urlopen(url.removesuffix("/v1") + path, timeout=5) as reply:
        return dict(json.load(reply))


def state(servers: Servers, number: int = 0) -> dict[str, Any]:
    return get(servers.base_urls[number], "/state")


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # perhaps since a moment
        return False


def test_servers_run_between_start_and_close(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("VLLM_PORT", "29500")
    with make(servers=2, dtype="float32") as servers:
        states = [state(servers, number) for number in range(2)]
    argv = states[0]["argv"]
    assert argv[1:3] == ["serve", str(STUDENT)]
    assert argv[argv.index("--max-model-len") + 1] == "200"
    assert argv[argv.index("--dtype") + 1] == "float32"
    assert len(set(servers.base_urls)) == 2
    assert states[0]["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert states[0]["VLLM_NO_USAGE_STATS"] == "1"
    assert not {"RANK", "VLLM_PORT"} & states[0].keys()
    assert not any(lives(s[who]) for s in states for who in ("pid", "engine"))
    assert "listening" in (servers.logs / "server-1.log").read_text()


def test_each_server_has_gpus_of_its_own(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    with make(tensor_parallel=2) as servers:
        seen = [state(servers, number)["CUDA_VISIBLE_DEVICES"] for number in range(2)]
    assert seen == ["4,5", "6,7"]


def test_one_server_has_several_copies(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    with make(tensor_parallel=2, data_parallel=2, batch_invariant=True) as servers:
        assert len(servers.base_urls) == 1
        seen = state(servers)
    assert seen["CUDA_VISIBLE_DEVICES"] == "4,5,6,7"
    assert seen["VLLM_BATCH_INVARIANT"] == "1"
    argv = seen["argv"]
    assert argv[argv.index("--data-parallel-size") + 1] == "2"


def test_only_what_changes_a_response_changes_the_attempts() -> None:
    """Copies behind one server do not; another way to compute does."""
    keys = [
        build.settings(vllm(**more), False, build.InProcess())
        for more in ({}, {"data_parallel": 8}, {"batch_invariant": True})
    ]
    assert keys[0] == keys[1] != keys[2]


def test_gpus_are_dealt_or_refused() -> None:
    assert deal(vllm(), []) == [None]
    assert deal(vllm(tensor_parallel=2), ["0", "1", "2"]) == [["0", "1"]]
    assert deal(vllm(servers=1), ["0", "1"]) == [["0"]]
    assert deal(vllm(gpus=[3, 1]), ["0", "1", "2", "3"]) == [["3"], ["1"]]
    with pytest.raises(UserError, match=r"generator.gpus names 9: this machine has 0, 1"):
        deal(vllm(gpus=[9]), ["0", "1"])
    with pytest.raises(UserError, match="this machine has none"):
        deal(vllm(gpus=[0]), [])
    with pytest.raises(UserError, match=r"generator.gpus=0,0 names a GPU twice"):
        deal(vllm(gpus=[0, 0]), ["0", "1"])
    with pytest.raises(UserError, match="need 4 GPUs and there are 2"):
        deal(vllm(tensor_parallel=4), ["0", "1"])
    with pytest.raises(
        UserError, match=r"of evaluator.tensor_parallel=4 .* lower evaluator.servers"
    ):
        deal(vllm(tensor_parallel=4), ["0", "1"], "evaluator")
    message = (
        r"tensor_parallel=2 × generator.data_parallel=2 need 4 GPUs .* or generator.data_parallel\."
    )
    with pytest.raises(UserError, match=message):
        deal(vllm(tensor_parallel=2, data_parallel=2), ["0", "1"])
    with pytest.raises(UserError, match=r"generator.batch_invariant=true needs an NVIDIA GPU"):
        deal(vllm(batch_invariant=True), [])


def test_no_such_executable(make: Make) -> None:
    with pytest.raises(UserError, match=r"generator.executable=/no/vllm is not a program here"):
        make(executable="/no/vllm").start()


@pytest.mark.parametrize(
    ("executable", "said"),
    [("true", "ended with exit code 0"), ("false", "ended with exit code 1")],
)
def test_an_executable_that_serves_nothing(make: Make, executable: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make(executable=executable).start()


def test_a_failed_start_tells_the_first_error_and_the_last_lines(make: Make) -> None:
    servers = make("fail")
    with pytest.raises(UserError) as raised:
        servers.start()
    first, *last = str(raised.value).splitlines()
    assert "ended with exit code 1 before it was ready, as before" in first  # it stays so
    assert f"{servers.logs}/server-0.log" in first
    assert first.endswith("The first error: ValueError: the model is made of cheese")
    assert len(last) == 15
    assert last[-1] == "RuntimeError: Engine core initialization failed."


def test_a_server_that_is_never_healthy(make: Make) -> None:
    with pytest.raises(UserError, match=r"not healthy after 2 s \(generator.start_seconds\)"):
        make("never", start_seconds=2).start()


def test_ports_that_are_lost_at_the_start(make: Make, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    with make("clash", marks, servers=2) as servers:
        ports = {int(url.rpartition(":")[2].partition("/")[0]) for url in servers.base_urls}
        logs = [(servers.logs / f"server-{number}.log").read_text() for number in range(2)]
        assert [state(servers, number)["pid"] for number in range(2)]
    lost = {int(port) for log in logs for port in re.findall(r"'127.0.0.1', (\d+)", log)}
    assert len(lost) == 2
    assert len(ports) == 2
    assert not ports & lost


def test_another_server_at_its_port_is_not_taken_for_it(make: Make, tmp_path: Path) -> None:
    with make() as servers:
        own = servers._watched[0].process
        other = ServerProcess([], own.port, make().served, tmp_path / "log", {})
        assert own.healthy()
        assert not other.healthy()


def test_other_users_of_the_machine_cannot_ask(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each start has a key of its own, which no command line shows, whatever the environment holds."""
    monkeypatch.setenv("VLLM_API_KEY", "the user's, of another server")
    request = Request("q", 0, user("1 + 1"), Sampling(0, 1, 0, 10), seed=0)
    with make() as servers:
        found = state(servers)
        assert found["VLLM_API_KEY"] == servers.key.value
        assert servers.key.value not in repr((found["argv"], servers.key))
        with pytest.raises(HTTPError, match="401"):
            get(servers.base_urls[0], "/v1/models")
        generator = module.VllmGenerator(servers, check_folder(STUDENT))
        [answer] = generator.generate([request])
    assert answer.text == "It is \\boxed{7}."
    assert servers.key.value != make().key.value


def test_arguments_that_are_set_already() -> None:
    for argument in ("--port", "--served_model_name=x"):
        with pytest.raises(
            UserError, match=f"generator.arguments: {argument} is said to the server"
        ):
            vllm(arguments=[argument])


def test_a_port_that_is_taken(make: Make) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"generator.port={port}: port {port} cannot be used"):
            make(port=port).start()


def test_a_port_of_the_users_choice(make: Make) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with make(port=port) as servers:
        assert servers.base_urls == [f"http://127.0.0.1:{port}/v1"]


def test_a_server_that_dies_soon_after_every_start_stops_the_run(make: Make) -> None:
    with make() as servers:

        def crash() -> bool:
            servers.check()
            with suppress(OSError):
                get(servers.base_urls[0], "/crash")
            return False

        with pytest.raises(UserError, match=r"as 3 times before.*EngineDeadError: EngineCore"):
            wait_for(crash)


@pytest.mark.parametrize("how", ["/crash", "/kill"])
def test_a_lost_server_comes_back_where_it_was(make: Make, how: str) -> None:
    with make(servers=2) as servers:
        before, other = state(servers), state(servers, 1)
        with suppress(OSError):
            get(servers.base_urls[0], how)
        wait_for(lambda: not lives(before["engine"]))  # what holds the memory goes first

        def back() -> bool:
            servers.check()
            try:
                return bool(state(servers)["pid"] != before["pid"])
            except OSError:
                return False

        wait_for(back)
        assert state(servers, 1)["pid"] == other["pid"]


def test_a_server_that_does_not_come_back_stops_the_run(make: Make, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    with make("once", marks) as servers:
        with suppress(OSError):
            get(servers.base_urls[0], "/crash")
        with pytest.raises(
            UserError, match=r"as 3 times before.*The first error: OSError: the disk"
        ):
            wait_for(servers.check)
    assert len(list(marks.iterdir())) == 1 + 3


@pytest.mark.slow
def test_a_silent_server_is_started_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENT_SECONDS", 1.0)
    monkeypatch.setattr(module, "PROBE_EVERY", 0.2)
    monkeypatch.setattr("spot.generation.vllm_process.PROBE_SECONDS", 0.5)
    with make() as servers:
        pid = state(servers)["pid"]
        os.kill(pid, signal.SIGSTOP)

        def back() -> bool:
            try:
                return bool(state(servers)["pid"] != pid)
            except OSError:
                return False

        wait_for(back)
        servers.check()


def test_servers_outlive_the_thread_that_asked_for_them(make: Make) -> None:
    servers = make()
    thread = threading.Thread(target=servers.start)
    thread.start()
    thread.join()
    try:
        time.sleep(1)
        assert lives(state(servers)["pid"])
    finally:
        servers.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, None])
def test_nothing_outlives_its_owner(
    tmp_path: Path, executable: str, number: signal.Signals | None
) -> None:
    program = textwrap.dedent(f"""
        import signal, sys
        from pathlib import Path
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored under nohup
        from spot.config import GeneratorConfig
        from spot.generation.vllm import Servers
        config = GeneratorConfig("vllm", executable={executable!r})
        servers = Servers(Path({str(STUDENT)!r}), "student", 200, config, Path({str(tmp_path)!r}))
        servers.start()
        print(servers.base_urls[0], flush=True)
        sys.stdin.readline()
        raise ValueError("an error")
    """)
    owner = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert owner.stdin is not None
    assert owner.stdout is not None
    found = get(owner.stdout.readline().strip(), "/state")
    if number is None:
        owner.stdin.write("\n")
        owner.stdin.flush()
    else:
        owner.send_signal(number)
    owner.wait(10)
    wait_for(lambda: not lives(found["pid"]) and not lives(found["engine"]))


def test_what_is_finished_starts_nothing(make: Make, tmp_path: Path) -> None:
    config = vllm(executable="/no/vllm")
    generator = load(STUDENT, config, context_length=200, logs=tmp_path / "logs", name="student")
    request = Request("q", 0, user("1 + 1"), Sampling(0, 1, 0, 10), seed=0)
    assert list(generator.generate([request], done={"q#0"})) == []
    generator.close()
    with pytest.raises(UserError, match="is not a program here"):
        list(generator.generate([request]))


def test_messages_name_the_group_that_the_user_gave(tmp_path: Path) -> None:
    config = compose(["generator@evaluator=vllm", "evaluator.executable=/no/vllm"])
    assert config.evaluator is not None
    made = clients.generator(config, config.evaluator, Policy("student", STUDENT, ""))
    request = Request("q", 0, user("1 + 1"), Sampling(0, 1, 0, 10), seed=0)
    with pytest.raises(UserError, match=r"^evaluator\.executable=/no/vllm is not a program here"):
        list(made.generate([request]))


def test_a_folder_that_cannot_be_served(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        load(tmp_path / "no", vllm(), context_length=200, logs=tmp_path)


@pytest.fixture
def marked(tmp_path: Path, executable: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


def whole_way(executable: str, marks: Path, *overrides: str) -> None:
    settings = ["generator=vllm", f"generator.executable={executable}", "data.questions=120"]
    settings += [f"generator.arguments=[--marks,{marks}]", "data.held_out=4", "data.pairs=4"]
    settings += [
        "data.gamma=1",
        "benchmarks=quick",
        "probe.ability_every=0",
        f"output={marks.parent}",
    ]
    way.way(Run(compose([*settings, *overrides]), marks.parent / "run"), None)


def by_time(files: Iterable[Path]) -> list[Path]:
    return sorted(files, key=lambda file: file.stat().st_mtime_ns)


@pytest.mark.slow
def test_servers_stay_for_the_base_and_are_gone_before_training(
    executable: str, marked: Path
) -> None:
    whole_way(executable, marked)
    [lock] = marked.parent.glob("products/train/*/lock")
    happened = [file.name.partition("-")[0] for file in by_time([*marked.iterdir(), lock])]
    assert happened == ["start", "end", "lock", "start", "end"]


def test_servers_stay_for_the_policy_as_its_own_oracle(executable: str, marked: Path) -> None:
    with pytest.raises(UserError, match="no pair is left"):  # it says 7 again
        whole_way(executable, marked, "oracle=self")
    assert [file.name.partition("-")[0] for file in by_time(marked.iterdir())] == ["start", "end"]
