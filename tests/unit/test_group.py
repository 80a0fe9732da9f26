"""Which ranks a process starts, out of what torchrun, srun or nobody says of it."""

from __future__ import annotations

import socket

import pytest

from spot.pipeline.distributed import group
from spot.utils.errors import UserError

ALONE: dict[str, str] = {"HOME": "/home/me", "RANK": "3", "WORLD_SIZE": "8"}  # left in some shell
# a batch script's or salloc's own shell: srun has not been called
BATCH = {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "16", "SLURM_PROCID": "0", "SLURM_NODEID": "0"}
STEP_OF_ONE = BATCH | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_LOCALID": "0"}


def torchrun(node: int, local: int, nodes: int, per_node: int) -> dict[str, str]:
    """What torchrun sets for one of its processes."""
    values = {
        "RANK": node * per_node + local,
        "LOCAL_RANK": local,
        "GROUP_RANK": node,
        "WORLD_SIZE": nodes * per_node,
        "LOCAL_WORLD_SIZE": per_node,
        "MASTER_ADDR": "node7",
        "MASTER_PORT": 29500,
        "TORCHELASTIC_RUN_ID": "none",
        "TORCHELASTIC_USE_AGENT_STORE": True,
    }
    return {name: str(value) for name, value in values.items()}


def srun(node: int, local: int, nodes: int, per_node: int, index: int | None = None) -> dict:
    """What srun sets for one of its tasks; `index` where tasks are not counted node by node."""
    values = {
        "SLURM_JOB_ID": 4021,
        "SLURM_STEP_ID": 0,
        "SLURM_JOB_NODELIST": "gpu[07-08,11]",
        "SLURM_STEP_NUM_TASKS": nodes * per_node,
        "SLURM_PROCID": node * per_node + local if index is None else index,
        "SLURM_NODEID": node,
        "SLURM_LOCALID": local,
    }
    return {name: str(value) for name, value in values.items()}


def form(nodes: int, devices: int, environment: dict[str, str]) -> dict[int, dict[str, str]]:
    """The ranks of one process, with its own idea of where to meet."""
    found = group.started(environment)
    return group.form(nodes, devices, group.meeting_point(found, environment), found)


def first(environment: dict[str, str]) -> bool:
    found = group.started(environment)
    return found is None or found.index == 0


STARTERS = {"torchrun": torchrun, "srun": srun}


@pytest.mark.parametrize("environment", [ALONE, BATCH, STEP_OF_ONE])
def test_a_process_that_is_alone_starts_all_ranks_of_its_machine(environment: dict) -> None:
    assert group.started(environment) is None
    assert first(environment)
    formed = form(1, 3, environment)
    assert list(formed) == [0, 1, 2]
    for rank, own in formed.items():
        assert own["RANK"] == own["LOCAL_RANK"] == str(rank)
        assert own["NODE_RANK"] == own["GROUP_RANK"] == "0"
        assert own["WORLD_SIZE"] == own["LOCAL_WORLD_SIZE"] == "3"
        assert own["MASTER_ADDR"] == "127.0.0.1"
    (port,) = {int(own["MASTER_PORT"]) for own in formed.values()}
    with socket.socket() as free:
        free.bind(("127.0.0.1", port))


@pytest.mark.parametrize("by", STARTERS)
def test_a_process_for_each_rank_starts_that_one(by: str) -> None:
    """Every rank once, whoever starts them."""
    ranks = {}
    for node in range(2):
        for local in range(4):
            environment = STARTERS[by](node, local, 2, 4)
            assert first(environment) is (node + local == 0)
            ((rank, own),) = form(2, 4, environment).items()
            assert (own["RANK"], own["WORLD_SIZE"]) == (str(rank), "8")
            assert (own["LOCAL_RANK"], own["LOCAL_WORLD_SIZE"]) == (str(local), "4")
            assert own["NODE_RANK"] == own["GROUP_RANK"] == str(node)
            ranks[rank] = node, local
    assert sorted(ranks) == list(range(8))
    assert ranks[0] == (0, 0)


@pytest.mark.parametrize("by", STARTERS)
def test_a_process_for_each_node_starts_all_ranks_of_it(by: str) -> None:
    one = form(2, 4, STARTERS[by](0, 0, 2, 1))
    second = form(2, 4, STARTERS[by](1, 0, 2, 1))
    assert list(one) == [0, 1, 2, 3]
    assert list(second) == [4, 5, 6, 7]
    assert [own["LOCAL_RANK"] for own in second.values()] == list("0123")
    assert {own["NODE_RANK"] for own in second.values()} == {"1"}
    assert {own["LOCAL_WORLD_SIZE"] for own in second.values()} == {"4"}
    assert first(STARTERS[by](0, 0, 2, 1))
    assert not first(STARTERS[by](1, 0, 2, 1))


def test_tasks_that_are_dealt_out_in_turns_have_the_ranks_of_their_nodes() -> None:
    """srun --distribution=cyclic: the second task is the first of the second node."""
    ((rank, own),) = form(2, 2, srun(1, 0, 2, 2, index=1)).items()
    assert (rank, own["LOCAL_RANK"], own["NODE_RANK"]) == (2, "0", "1")


def test_torchruns_ranks_meet_where_torchrun_does() -> None:
    """Its address and store are in the environment already, whatever else listens nearby."""
    ((_, own),) = form(2, 1, torchrun(0, 0, 2, 1)).items()
    assert not {name for name in own if name.startswith(("MASTER_", "TORCHELASTIC_"))}


def test_without_torchruns_store_the_ranks_meet_at_a_free_port_of_the_first() -> None:
    bare = torchrun(0, 0, 2, 1) | {"TORCHELASTIC_USE_AGENT_STORE": "False"}
    for environment in (bare, srun(0, 0, 2, 1)):
        ((_, own),) = form(2, 1, environment).items()
        assert own["MASTER_ADDR"] in ("node7", "gpu07")
        assert own["TORCHELASTIC_USE_AGENT_STORE"] == "False"
        with socket.socket() as free:
            free.bind(("", int(own["MASTER_PORT"])))


def test_sruns_tasks_have_their_store_on_the_first_node_at_a_port_of_their_step() -> None:
    def address(**more: str) -> tuple[str, int]:
        environment = srun(1, 0, 2, 1) | more
        found = group.started(environment)
        assert found is not None
        host, port, theirs = group.store_address(found, environment)
        assert not theirs
        return host, port

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
    ("environment", "nodes", "devices"),
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
    environment: dict[str, str], nodes: int, devices: int
) -> None:
    with pytest.raises(UserError) as refused:
        form(nodes, devices, environment)
    told = str(refused.value)
    assert "\n" not in told
    assert f"hardware.nodes × hardware.devices = {nodes} × {devices}" in told
    assert told.endswith("start one for each device, or one for each node.")


@pytest.mark.parametrize("environment", [ALONE, BATCH])
def test_several_nodes_need_a_process_on_each(environment: dict[str, str]) -> None:
    with pytest.raises(
        UserError, match=r"torchrun --nnodes 2 --nproc-per-node 8, or through SLURM"
    ):
        form(2, 8, environment)
