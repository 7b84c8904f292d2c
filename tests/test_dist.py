"""Several processes give one result; a lost process stops those that wait for it."""

import os
import signal
import socket
import subprocess
import sys
from typing import Any

import pytest
from conftest import PROJECT_DIR, cases

from ntt.base.distributed import ProcessGroup, barrier, broadcast_from_main, gather, join_process_group, share
from ntt.errors import DistributedError

ALONE = ProcessGroup()


def test_without_environment_one_process_deals_everything_to_itself(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join_process_group(timeout_s=5) as group:
        assert group == ALONE
        assert group.is_main
    assert share("abc", ALONE) == [(0, "a"), (1, "b"), (2, "c")]
    assert gather([(1, "b"), (0, "a")], 2, ALONE) == ["a", "b"]
    assert broadcast_from_main(5, ALONE) == 5
    barrier(ALONE)
    with pytest.raises(DistributedError, match="1 of 3 results are missing, the first at position 1"):
        gather([(0, "a"), (2, "c")], 3, ALONE)


@cases("size")(1, 2, 3, 7)
@cases("count")(0, 1, 2, 5)
def test_every_item_is_dealt_out_once(size, count):
    dealt = [pair for rank in range(size) for pair in share(range(count), ProcessGroup(rank=rank, size=size))]
    assert sorted(dealt) == [(item, item) for item in range(count)]


def meeting(rank: int, size: int) -> dict[str, str]:
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1"}


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


PROGRAM = """
import os, signal
from ntt.base.distributed import barrier, broadcast_from_main, gather, join_process_group, share
from ntt.errors import DistributedError
with join_process_group(timeout_s=600) as joined, join_process_group(timeout_s=1) as group:
    assert group == joined
    squares = gather([(index, item * item) for index, item in share(list(range(5)), group)], 5, group)
    barrier(group)
    nothing = gather([], 0, group)
    print(group.rank, squares, nothing, broadcast_from_main(f"said by {group.rank}", group), flush=True)
    if group.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        gather([(0, "x")], 3, group)
    except DistributedError as error:
        print(error, flush=True)
        os._exit(3)
"""


def test_processes_agree_and_a_killed_one_stops_those_that_wait_for_it():
    env = {**os.environ, "MASTER_PORT": free_port(), "PYTHONPATH": str(PROJECT_DIR), "OMP_NUM_THREADS": "1"}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", PROGRAM]
    processes = [subprocess.Popen(command, env=env | meeting(rank, 3), **pipes) for rank in range(3)]
    for rank, process in enumerate(processes):
        out, err = process.communicate(timeout=240)  # far less than the timeout of the group
        agreed, *rest = out.splitlines()
        assert agreed == f"{rank} [0, 1, 4, 9, 16] [] said by 0", err
        assert process.returncode == (-signal.SIGKILL if rank == 1 else 3), err
        assert ["Another process of this run has stopped" in line for line in rest] == [True] * (rank != 1), (out, err)


def test_processes_that_do_not_meet_are_a_clear_error(monkeypatch):
    for key, value in {**meeting(1, 2), "MASTER_PORT": free_port()}.items():
        monkeypatch.setenv(key, value)
    with (
        pytest.raises(DistributedError, match="Process 1 of 2 could not join the others"),
        join_process_group(timeout_s=2),
    ):
        pass


def test_processes_join_again_and_again(tmp_path):
    """Under torchrun one store serves all groups of a multirun: the address of an earlier group must not be used."""
    (tmp_path / "join.py").write_text("""
import os, time
from ntt.base.distributed import gather, join_process_group
for number in range(3):
    time.sleep(number * int(os.environ["RANK"]))
    with join_process_group(timeout_s=60) as group:
        assert gather([(group.rank, number)], 2, group) == [number, number]
""")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "join.py"]
    env = {**os.environ, "PYTHONPATH": str(PROJECT_DIR)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
