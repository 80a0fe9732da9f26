"""One command that starts many ranks: alone, again, in a sweep, and under torchrun."""

from __future__ import annotations

import shutil
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from spot.pipeline.policy import SHIPPED
from tests.distributed import commands
from tests.distributed.commands import train
from tests.support.processes import free_port

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.timeout(600)]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
TWO_NODES = ("hardware.nodes=2", "hardware.devices=1")


@pytest.fixture
def whole(tmp_path_factory: pytest.TempPathFactory, prerequisites: None) -> Path:
    """A folder with one whole run of `python train.py hardware=2xcpu`."""
    return commands.whole(tmp_path_factory.getbasetemp())


@pytest.fixture
def folder(whole: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where only training and what follows is left to do."""
    return commands.prepared(tmp_path_factory.getbasetemp(), tmp_path)


def test_two_ranks_train_and_a_second_command_reuses_it(whole: Path) -> None:
    (run,) = commands.runs(whole)
    assert run["status"] == "complete"
    assert run["overrides"] == train()[2:]
    product = commands.checkpoint(whole)
    assert (run["folder"] / run["products"]["checkpoint"]).resolve() == product
    assert (run["folder"] / "report.html").exists()
    screen = (whole / "screen.txt").read_text()
    assert "rank1" not in screen
    assert screen.count("train: checkpoint") == 2  # begun and done, told by one process
    assert not (product / "resume").exists()
    metrics = (product / "metrics.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in metrics] == [
        "step",
        *map(str, range(commands.STEPS + 1)),
    ]

    before = commands.weights(product)
    began = time.monotonic()
    lines = commands.finish(whole, train())
    assert time.monotonic() - began < 60  # 6 s on an idle machine
    assert sum("reused" in line for line in lines) == len(run["stages"])
    assert commands.distance(commands.weights(commands.checkpoint(whole)), before) == 0


def test_two_nodes_train_as_one_does(whole: Path, folder: Path) -> None:
    """Two groups of processes at different addresses; the port beside torchrun's is somebody else's."""
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1] - 1
        two_nodes(folder, port)
        (run,) = commands.runs(folder)
        assert len(list(folder.glob("outputs/runs/*/*"))) == 1  # node 1 has none of its own
        found = commands.weights(commands.checkpoint(folder))
        expected = commands.weights(commands.checkpoint(whole))
        assert commands.distance(found, expected) < 1e-6
        assert not next(s for s in run["stages"] if s["stage"] == "train")["reused"]

        two_nodes(folder, port)  # again: nothing to do, and neither waits for the other
        assert all(stage["reused"] for stage in commands.runs(folder)[-1]["stages"])


def two_nodes(folder: Path, port: int) -> None:
    """`torchrun … train.py` on both nodes of a cluster with a shared folder, to the good end."""
    with ExitStack() as both:
        started = []
        for node in (0, 1):
            where = f"--node-rank {node} --local-addr 127.0.0.{node + 1} --master-addr 127.0.0.1"
            several = f"--nnodes 2 --nproc-per-node 1 {where} --master-port {port}".split()
            command = [*TORCHRUN, *several, *train(*TWO_NODES)[1:]]
            more = {"GLOO_SOCKET_IFNAME": "lo"}
            started.append(both.enter_context(commands.start(folder, command, more, f"node{node}")))
        for each in started:
            assert each.ends() == 0, each.text()[-5000:]
        assert not any(each.left(5) for each in started)
        assert started[1].text() == ""  # what there is to tell, node 0 tells


def test_a_node_without_the_weights_ends_the_run_before_anything_is_sampled(
    tmp_path: Path, prerequisites: None
) -> None:
    """Each node sees its own `model` behind the same path, and the second has none."""
    port = free_port()
    with ExitStack() as both:
        started = []
        for node in (0, 1):
            place = tmp_path / f"node{node}"
            place.mkdir()
            where = f"--node-rank {node} --master-addr 127.0.0.1 --master-port {port}".split()
            own = ["model.path=/proc/self/cwd/model", f"output={tmp_path / 'outputs'}"]
            command = [*TORCHRUN, "--nnodes", "2", "--nproc-per-node", "1", *where]
            command += train(*TWO_NODES, *own)[1:]
            if node == 0:
                shutil.copytree(SHIPPED, place / "model")
            started.append(both.enter_context(commands.start(place, command)))
        assert [each.ends() != 0 for each in started] == [True, True]
    said = "has no model as the first one has it (/proc/self/cwd/model is not a folder"
    for each in started:
        assert any(line.startswith("spot: Node 1 (") and said in line for line in each.lines())
    assert not list(tmp_path.glob("outputs/products/respond/*"))


def test_torchrun_ends_who_waits_when_the_run_fails(folder: Path) -> None:
    """The process beside the failing one would wait for a job that nobody announces."""
    mistake = commands.spoil(folder)
    command = [*TORCHRUN, "--standalone", "--nproc-per-node", "2", *train()[1:]]
    began = time.monotonic()
    with commands.start(folder, command) as started:
        assert started.ends() != 0
        assert time.monotonic() - began < 60
        assert not started.left(5)
    told = [line for line in started.lines() if "spot: " in line]
    assert told  # by the first, and by those that waited for it
    assert all(mistake in line for line in told)


def test_a_sweep_of_two_rank_jobs_at_once_trains_as_single_runs_do(
    whole: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lines = commands.finish(folder, train("-m", "hydra.launcher.n_jobs=2", "loss=bco,sft"))
    assert any("report: " in line for line in lines)
    by_loss = {run["config"]["loss"]["name"]: run for run in commands.runs(folder)}
    trained = {
        loss: commands.weights((run["folder"] / run["products"]["checkpoint"]).resolve())
        for loss, run in by_loss.items()
    }
    assert commands.distance(trained["bco"], commands.weights(commands.checkpoint(whole))) == 0

    alone = commands.prepared(tmp_path_factory.getbasetemp(), tmp_path_factory.mktemp("alone"))
    shutil.rmtree(alone / "outputs" / "reference")
    commands.finish(alone, train("loss=sft"))
    assert commands.distance(trained["sft"], commands.weights(commands.checkpoint(alone))) == 0
    assert commands.distance(trained["sft"], trained["bco"]) > 0
