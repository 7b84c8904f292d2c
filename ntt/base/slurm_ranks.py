"""Ranks of a SLURM job step, in the words torch.distributed understands."""

import subprocess
from collections.abc import MutableMapping

from ntt.errors import DistributedError

# Below the ports that systems give away on their own.
_FIRST_PORT, _PORTS, _PORTS_A_JOB = 20_000, 12_000, 50
_TIMES = "NTT_SLURM_WORLDS"


def adopt_slurm_ranks(environment: MutableMapping[str, str]) -> None:
    """Set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT where srun started several processes.

    Nothing is changed where somebody else has set them, as torchrun does, or where srun started a single process.
    Processes that meet several times, one run after the other, call this the same number of times and get another
    port each time: one that is early for the second meeting must not find the door of the first.

    Args:
        environment: usually `os.environ`.

    Raises:
        DistributedError: if the first node's name cannot be found out.
    """
    size = environment.get("SLURM_STEP_NUM_TASKS", "1")
    is_ours = _TIMES in environment or "WORLD_SIZE" not in environment
    # A batch script has a SLURM_PROCID too, but only srun's processes belong to a step with tasks.
    if not is_ours or size == "1" or "SLURM_PROCID" not in environment:
        return
    times = int(environment.get(_TIMES, "0"))
    environment[_TIMES] = str(times + 1)
    environment["RANK"] = environment["SLURM_PROCID"]
    environment["LOCAL_RANK"] = environment.get("SLURM_LOCALID", "0")
    environment["MASTER_ADDR"] = _first_host(environment)
    environment["MASTER_PORT"] = str(_port(int(environment["SLURM_JOB_ID"]), times))
    environment["WORLD_SIZE"] = size


def _port(job: int, times: int) -> int:
    """Return a port that neighbouring jobs, which may share a node, do not have."""
    return _FIRST_PORT + (job * _PORTS_A_JOB + times % _PORTS_A_JOB) % _PORTS


def _first_host(environment: MutableMapping[str, str]) -> str:
    """Return the address of the node that process 0 runs on."""
    if environment.get("SLURM_STEP_NUM_NODES", "1") == "1":
        return "127.0.0.1"
    nodes = environment.get("SLURM_STEP_NODELIST", "")
    command = ["scontrol", "show", "hostnames", nodes]
    try:
        done = subprocess.run(command, env=dict(environment), capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        raise DistributedError(
            f"The first of the nodes {nodes!r} cannot be found out ({error}). Set RANK, LOCAL_RANK, WORLD_SIZE, "
            "MASTER_ADDR and MASTER_PORT in the job's setup, or use one node."
        ) from error
