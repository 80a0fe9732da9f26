"""Who runs and who joins, out of what torchrun, srun or nobody says of a process."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from pytorch_lightning.plugins.environments import LightningEnvironment
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from spot.config import HardwareConfig
from spot.config.compose import compose
from spot.data import artifacts
from spot.pipeline import heartbeat, policy
from spot.pipeline.distributed import launch, nodes, rank
from spot.utils import files
from spot.utils.errors import Terminated, UserError
from tests.support.processes import free_port

ALONE: dict[str, str] = {"HOME": "/home/me", "RANK": "3", "WORLD_SIZE": "8"}  # left in some shell
# a batch script's or salloc's own shell: srun has not been called
BATCH = {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "16", "SLURM_PROCID": "0", "SLURM_NODEID": "0"}
STEP_OF_ONE = BATCH | {
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_LOCALID": "0",
}


def torchrun(node: int, local: int, nodes: int, per_node: int) -> dict[str, str]:
    """What torchrun sets for one of its processes."""
    values = {
        "RANK": node * per_node + local,
        "LOCAL_RANK": local,
        "GROUP_RANK": node,
        "GROUP_WORLD_SIZE": nodes,
        "WORLD_SIZE": nodes * per_node,
        "LOCAL_WORLD_SIZE": per_node,
        "MASTER_ADDR": "node7",
        "MASTER_PORT": 29500,
        "TORCHELASTIC_RUN_ID": "none",
        "TORCHELASTIC_USE_AGENT_STORE": True,
    }
    return {name: str(value) for name, value in values.items()}


def srun(node: int, local: int, nodes: int, per_node: int) -> dict[str, str]:
    """What srun sets for one of its tasks."""
    values = {
        "SLURM_JOB_ID": 4021,
        "SLURM_STEP_ID": 0,
        "SLURM_JOB_NODELIST": "gpu[07-08,11]",
        "SLURM_STEP_NUM_TASKS": nodes * per_node,
        "SLURM_STEP_NUM_NODES": nodes,
        "SLURM_PROCID": node * per_node + local,
        "SLURM_NODEID": node,
        "SLURM_LOCALID": local,
    }
    return {name: str(value) for name, value in values.items()}


STARTERS = {"torchrun": torchrun, "srun": srun}


def check(nodes_: int, devices: int, environment: dict[str, str]) -> nodes.Started | None:
    strategy = "deepspeed" if nodes_ * devices > 1 else "single"
    hardware = HardwareConfig(nodes=nodes_, devices=devices, strategy=strategy)
    found = nodes.started(environment)
    nodes.check(hardware, found)
    return found


@pytest.mark.parametrize("environment", [ALONE, BATCH, STEP_OF_ONE])
def test_a_process_that_is_alone_is_all_there_is(environment: dict[str, str]) -> None:
    assert check(1, 3, environment) is None


@pytest.mark.parametrize("by", STARTERS)
@pytest.mark.parametrize("per_node", [1, 4])
def test_one_process_runs_one_of_each_other_node_joins_and_the_rest_idle(
    by: str, per_node: int
) -> None:
    """Whether a process was started for each node or for each device."""
    kinds = []
    for node in range(2):
        for local in range(per_node):
            found = check(2, 4, STARTERS[by](node, local, 2, per_node))
            assert found is not None
            assert found.by == by
            kinds.append((found.index == 0, found.idle))
    rest = [(False, True)] * (per_node - 1)
    assert kinds == [(True, False), *rest, (False, False), *rest]


def test_torchruns_store_is_used() -> None:
    environment = torchrun(0, 0, 2, 1)
    found = nodes.started(environment)
    assert found is not None
    assert nodes.store_address(found, environment) == ("node7", 29500)


def test_sruns_tasks_have_their_store_on_the_first_node_at_a_port_of_their_step() -> None:
    def address(**more: str) -> tuple[str, int]:
        environment = srun(1, 0, 2, 1) | more
        found = nodes.started(environment)
        assert found is not None
        return nodes.store_address(found, environment)

    host, port = address()
    assert host == "gpu07"
    assert address(SLURM_STEP_NODELIST="gpu[09-10]")[0] == "gpu09"  # the step's, not the job's
    assert port == address(SLURM_PROCID="0", SLURM_NODEID="0")[1]
    others = {address(SLURM_JOB_ID=str(4021 + n))[1] for n in range(1, 100)}
    others |= {address(SLURM_STEP_ID=str(n))[1] for n in range(1, 10)}
    assert len(others) == 108
    assert port not in others
    assert all(1024 < each < 32768 for each in others)
    assert address(MASTER_ADDR="10.0.0.5", MASTER_PORT="4444") == ("10.0.0.5", 4444)


@pytest.mark.parametrize(
    ("environment", "wanted", "devices"),
    [
        (torchrun(0, 0, 1, 4), 1, 2),  # too many
        (srun(0, 0, 1, 2), 1, 4),  # too few
        (srun(0, 2, 1, 4), 2, 2),  # as many as there are ranks, but all on one node
        (torchrun(0, 1, 1, 2), 2, 8),  # as many as there are nodes, but both on one
        (srun(2, 0, 4, 1), 2, 2),  # as many as there are ranks, but spread over too many nodes
        (torchrun(0, 1, 1, 2), 1, 1),  # a configuration of one process
    ],
)
def test_what_was_started_and_does_not_fit_is_refused(
    environment: dict[str, str], wanted: int, devices: int
) -> None:
    with pytest.raises(UserError) as refused:
        check(wanted, devices, environment)
    message = str(refused.value)
    assert "\n" not in message
    assert f"hardware.nodes × hardware.devices = {wanted} × {devices}" in message
    assert message.endswith("start one for each node, or one for each device.")


@pytest.mark.parametrize("environment", [ALONE, BATCH])
def test_several_nodes_need_a_process_on_each(environment: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"torchrun --nnodes 2, or through SLURM"):
        check(2, 8, environment)


def sessions() -> list[nodes.Session]:
    """Both nodes' ends of one real store."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    found = []
    for node in range(2):
        environment = srun(node, 0, 2, 1) | address
        process = nodes.started(environment)
        assert process is not None
        found.append(nodes.Session(process, environment))
    return found


def test_nodes_wait_for_each_other_or_learn_what_failed_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch's rendezvous would wait on for a node that has failed already."""
    monkeypatch.setattr(nodes, "POLL", 0.01)
    first, second = sessions()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(first.meet, "ready")
        assert second.meet("ready") is None
        assert waiting.result(20) is None

    first, second = sessions()
    full = [errno.ENOSPC, "No space left on device", "/data/x"]
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(first.meet, "ready")
        second.fail({"message": "rank 1 failed", "os": full})
        failure = waiting.result(20)
    assert failure is not None
    error = launch._as_exception(failure)
    assert isinstance(error, OSError)
    assert (error.errno, error.filename) == (errno.ENOSPC, "/data/x")

    monkeypatch.setattr(nodes, "HELLO", 0.05)
    first, _ = sessions()
    with pytest.raises(UserError, match="Node 1 did not come"):
        first.meet("ready")


def test_nodes_have_the_weights_or_the_first_one_says_which_has_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also with a fetch that takes longer than a node has to come."""
    monkeypatch.setattr(nodes, "POLL", 0.01)
    monkeypatch.setattr(nodes, "HELLO", 0.3)
    model = tmp_path / "model"
    shutil.copytree(policy.SHIPPED, model)
    config = replace(compose([]).model, path=str(model))
    root = tmp_path / "outputs" / "products"
    root.mkdir(parents=True)
    described = policy.described(config, policy.prepare(config, root), root)

    def follow(second: nodes.Session, seconds: float = 0.0) -> Path:
        weights = second.awaited("weights")
        assert weights is not None
        with second.reporting(), second.agreeing():
            time.sleep(seconds)
            return policy.present(weights, "Node 1 (host)")

    def agreed(seconds: float = 0.0) -> Path:
        first, second = sessions()
        with ThreadPoolExecutor() as pool:
            following = pool.submit(follow, second, seconds)
            first.agree(described)
            return following.result(20)

    assert agreed() == agreed(0.6) == model
    with (model / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    artifacts.model_digest.cache_clear()  # as on another node
    with pytest.raises(UserError, match=rf"^Node 1 \(host\) has other weights in {model} than"):
        agreed()
    (model / "model.safetensors").unlink()
    with pytest.raises(UserError, match=rf"^Node 1 \(host\) has no model as .*{model}.*same path"):
        agreed()
    first, _ = sessions()
    with pytest.raises(UserError, match="Node 1 did not come"):
        first.agree({})


def test_a_signal_that_nohup_ignores_ends_no_training() -> None:
    before = {
        number: signal.signal(number, signal.default_int_handler) for number in launch.SIGNALS
    }
    try:  # a background job of a shell ignores some already
        assert launch._heeded() == list(launch.SIGNALS)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        assert launch._heeded() == [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_what_torchruns_agent_logs_is_not_shown(capfd: pytest.CaptureFixture[str]) -> None:
    """Without a handler, Python itself would print its warnings."""
    agent = logging.Logger("agent")
    launch._silence(agent)
    agent.warning("Sending process 7 closing signal SIGTERM")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("failed", "message"),
    [
        ({1: -9, 0: 143}, "rank 1 was ended by SIGKILL; the same command goes on from here."),
        ({1: 1, 0: -9}, "rank 1 ended with exit code 1 and reported nothing."),
    ],
)
def test_the_rank_that_failed_first_is_named_and_not_one_that_was_ended_for_it(
    tmp_path: Path, failed: dict[int, int], message: str
) -> None:
    """… whether it was killed or, on a full disk, could leave no report."""
    failures = {n: ProcessFailure(n, 7, code, str(tmp_path / "no")) for n, code in failed.items()}
    for later, failure in enumerate(failures.values()):
        failure.timestamp += 5 * later  # the agent kills what has not ended by itself
    assert str(launch._first(failures, None)) == message


def test_a_signal_to_every_process_ends_the_run_and_does_not_fail_it(tmp_path: Path) -> None:
    """SLURM sends SIGTERM to the ranks, too, and to the nodes that follow, in any order."""
    failures = {n: ProcessFailure(n, 7, 143, str(tmp_path / "no")) for n in (1, 0)}
    ends = [launch._first(failures, None)]
    first, second = sessions()
    with pytest.raises(SystemExit), second.reporting():
        raise SystemExit(143)
    failure = first.failure()
    assert failure is not None
    ends.append(launch._as_exception(failure))
    assert [(type(end), heartbeat.exit_code(end)) for end in ends] == [(Terminated, 143)] * 2


def test_no_gpu_trains_in_the_process_that_evaluates() -> None:
    """vLLM takes 92% of the card afterwards; fp32 masters of 8B are 30.5 GiB of it."""
    two = {"devices": 2, "strategy": "deepspeed"}
    assert not HardwareConfig().apart
    assert HardwareConfig(accelerator="gpu").apart
    assert HardwareConfig(**two).apart
    assert HardwareConfig(accelerator="gpu", **two).apart


def test_a_rank_goes_by_its_own_node_and_not_by_a_shells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clusters export NODE_RANK; a run on one of their machines is all there is."""
    seen = []
    (tmp_path / "job.json").write_text("{}")
    monkeypatch.setattr(rank.sys, "argv", ["rank", str(tmp_path / "job.json")])
    monkeypatch.setattr(rank.signal, "signal", lambda *_: None)
    monkeypatch.setattr(rank, "_die_with_parent", lambda: None)
    monkeypatch.setattr(rank.TrainingJob, "from_json", lambda text: None)
    monkeypatch.setattr(
        rank, "carry_out", lambda job, _: seen.append(LightningEnvironment().node_rank())
    )
    for name, value in {"RANK": "1", "GROUP_RANK": "0", "NODE_RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    rank.main()
    assert seen == [0]


def test_a_rank_on_a_full_disk_leaves_no_part_of_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """torchrun's agent fails on one that it cannot read."""

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "sync", full)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    rank._report(0, ValueError("unlucky"))
    assert not list(tmp_path.iterdir())
    assert "ValueError: unlucky" in capfd.readouterr().err


def test_a_lock_on_a_build_is_named_where_ranks_would_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A build that was killed leaves one, and torch waits for it without a word."""
    from torch.utils import cpp_extension

    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    launch.say_builds()
    assert capsys.readouterr().err == ""
    lock = Path(cpp_extension._get_build_directory("cpu_adam", verbose=False)) / "lock"
    lock.touch()
    launch.say_builds()
    assert f"if none is running, delete {lock}" in capsys.readouterr().err
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR")
    monkeypatch.setattr(cpp_extension, "get_default_build_root", lambda: str(tmp_path))
    lock = Path(cpp_extension._get_build_directory("shm_comm", verbose=False)) / "lock"
    lock.touch()
    launch.say_builds()
    assert f"delete {lock}" in capsys.readouterr().err
