"""A SLURM cluster of one machine for the tests: munge, one controller, one node, no accounting, one private folder.

    python tests/slurm/cluster.py install        (Debian and its relatives; does nothing where SLURM is there)
    python tests/slurm/cluster.py start FOLDER
    export SLURM_CONF=FOLDER/slurm.conf
    sinfo
    python tests/slurm/cluster.py stop FOLDER

The daemons of the machine itself, should it have any, are not touched: sockets, ports, key, state and logs are the
folder's own. It needs root, because the node's daemon starts jobs in the name of whoever submits them.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("slurm-wlm", "munge")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
# Debian keeps daemons where an ordinary user's PATH does not look.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
NODE = "node1"

# The node says it has 8 CPUs and 64 GB whatever the machine has: jobs of these tests mostly wait for each other.
# `cred_expire` is also how long a requeued job rests before it starts again: 5 s at least, two minutes by default.
# A job in `urgent` takes the node from jobs in `main`, which are warned 60 s ahead with the signal they asked for.
SETTINGS = """\
ClusterName=ntt-tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_min_interval=0,sched_interval=1,bf_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=1
MinJobAge=3600
NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=65536 State=UNKNOWN
PartitionName=main Nodes={node} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes={node} MaxTime=INFINITE State=UP PriorityTier=9 PreemptMode=OFF
"""


class ClusterError(Exception):
    """The cluster cannot be started here; the message says why."""


@dataclass(frozen=True)
class Cluster:
    """The cluster that lives in `folder`."""

    folder: Path

    @property
    def conf(self) -> Path:
        """The file to point `SLURM_CONF` at."""
        return self.folder / "slurm.conf"

    @property
    def env(self) -> dict[str, str]:
        """The environment in which SLURM's commands reach this cluster and no other."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_"))}
        return {**inherited, "PATH": SEARCH_PATH, "SLURM_CONF": str(self.conf)}

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command on the cluster and return what it says."""
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60, check=False)
        if check and done.returncode:
            raise ClusterError(f"{' '.join(command)} failed with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def start(self, *, timeout_s: float = 30.0) -> None:
        """Start the daemons and wait until the node takes jobs. Where they fail, nothing is left running."""
        if obstacle := why_not():
            raise ClusterError(obstacle)
        for name in ("munge", "state", "spool"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        ports = dict(zip(("controller_port", "node_port"), _free_ports(2), strict=True))
        self.conf.write_text(SETTINGS.format(host=socket.gethostname(), node=NODE, folder=self.folder, **ports))
        try:
            self._start_munge()
            self._start_daemons()
            self._wait_for_node(timeout_s)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all jobs and daemons. A cluster that does not run is left as it is."""
        if self._pid("slurmctld.pid"):
            self.run("scancel", "--user", str(os.getuid()), "--signal=KILL", "--full", check=False)
            self.run("scancel", "--user", str(os.getuid()), check=False)
            _wait(lambda: not self.run("squeue", "--noheader", check=False).strip(), 15.0)
        for name in ("slurmd.pid", "slurmctld.pid", "munge/pid"):
            self._end(name)

    def _start_munge(self) -> None:
        home = self.folder / "munge"
        (home / "key").touch(mode=0o600)
        (home / "key").write_bytes(os.urandom(128))
        files = [f"--{name}-file={home / name}" for name in ("key", "pid", "log", "seed")]
        # Root and a folder of its own are not what it expects.
        self.run("munged", "--force", f"--socket={home / 'socket'}", *files)

    def _start_daemons(self) -> None:
        # Started from elsewhere, so that they do not keep the caller's folder, output or terminal.
        for command in (["slurmctld", "-c", "-f", str(self.conf)], ["slurmd", "-c", "-N", NODE, "-f", str(self.conf)]):
            messages = self.folder / f"{command[0]}.start"
            with messages.open("wb") as stream:
                quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": stream}
                done = subprocess.run(command, env=self.env, cwd=self.folder, timeout=60, check=False, **quiet)
            if done.returncode:
                reason = messages.read_text().strip() or "see its log"
                raise ClusterError(f"{command[0]} does not start: {reason} ({self.folder})")

    def _wait_for_node(self, timeout_s: float) -> None:
        def ready() -> bool:
            return self.run("sinfo", "--noheader", "--format=%T", check=False).split() == ["idle"]

        if not _wait(ready, timeout_s):
            logs = "".join(_tail(self.folder / f"{name}.log") for name in ("slurmctld", "slurmd"))
            raise ClusterError(f"The node did not come up within {timeout_s:.0f} s.\n{logs}")

    def _pid(self, name: str) -> int | None:
        """Return the process id a daemon has noted, if that process still is this folder's daemon."""
        path = self.folder / name
        try:
            pid = int(path.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        except (OSError, ValueError):
            return None
        return pid if str(self.folder) in command else None

    def _end(self, name: str) -> None:
        pid = self._pid(name)
        if pid is None:
            return
        os.kill(pid, signal.SIGTERM)
        if not _wait(lambda: self._pid(name) is None, 10.0):
            os.kill(pid, signal.SIGKILL)
            _wait(lambda: self._pid(name) is None, 5.0)


def why_not() -> str | None:
    """Return why no cluster can be started on this machine, or None."""
    if not sys.platform.startswith("linux"):
        return "SLURM runs on Linux"
    if os.geteuid() != 0:
        return "a SLURM node must be started by root"
    absent = [name for name in PROGRAMS if shutil.which(name, path=SEARCH_PATH) is None]
    if absent:
        return f"{', '.join(absent)} not installed (apt-get install {' '.join(PACKAGES)})"
    return None


def install() -> None:
    """Install SLURM and munge with apt-get where they are missing; leave their services switched off."""
    if why_not() is None:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ClusterError(f"Cannot install {' and '.join(PACKAGES)}: this needs root and apt-get.")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    fetch = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *PACKAGES]
    for command in (["apt-get", "update", "--quiet"], fetch):
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ClusterError(f"{' '.join(command)} failed: {done.stderr.strip()}")


def _free_ports(count: int) -> list[int]:
    """Return ports nobody listens on; held together, so that they differ."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _wait(holds, timeout_s: float) -> bool:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.1)
    return bool(holds())


def _tail(path: Path) -> str:
    return f"--- {path.name}\n" + "\n".join(path.read_text().splitlines()[-15:]) + "\n" if path.exists() else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Start or stop a cluster."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("install", help="install SLURM and munge, where they are missing")
    for action in ("start", "stop"):
        actions.add_parser(action).add_argument("folder", type=Path, help="private folder of the cluster")
    args = parser.parse_args(arguments)
    try:
        if args.action == "install":
            install()
        elif args.action == "stop":
            Cluster(args.folder.absolute()).stop()
        else:
            Cluster(args.folder.absolute()).start()
            sys.stdout.write(f"export SLURM_CONF={Cluster(args.folder.absolute()).conf}\n")
    except ClusterError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
