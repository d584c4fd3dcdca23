"""A SLURM of one node, of its own, in a folder of a test: keys, sockets, ports and state are no other's."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
COMMANDS = ("sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo", "sacct", "sacctmgr")
ACCOUNTING = ("mariadbd", "mariadb-install-db", "slurmdbd")
# No cgroups: what a machine without systemd can do. A requeued job is startable at once.
CONFIGURATION = """\
ClusterName=bkdsnn
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
GresTypes=gpu
{storage}
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
MinJobAge=3600
KillWait=20
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:1
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
NO_STORAGE = "AccountingStorageType=accounting_storage/none"
STORAGE = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={folder}/munge.socket"""
DATABASE = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={storage}
StorageUser=root
"""


def missing(*more: str) -> str:
    """Why there can be no SLURM here, or none with `more` programs; empty if there can."""
    absent = [program for program in (*DAEMONS, *COMMANDS, *more) if not shutil.which(program)]
    if absent:
        return f"not installed: {', '.join(absent)} (Debian: slurm-wlm, munge, slurmdbd, mariadb-server)"
    return "" if os.geteuid() == 0 else "a SLURM of one's own needs root"


class Cluster:
    """The commands of a user, for this SLURM."""

    def __init__(self, folder: Path) -> None:
        self.environment = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}

    def __call__(self, *command: str) -> str:
        """Return what a command prints."""
        environment = os.environ | self.environment
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    def job(self, comment: str) -> str | None:
        """Id of the job in the queue whose comment has these words."""
        rows = (line.split(" ", 1) for line in self("squeue", "--noheader", "--format=%i %k").splitlines())
        return next((job for job, said in rows if comment in said), None)


@contextlib.contextmanager
def cluster(folder: Path, accounting: bool = False) -> Iterator[Cluster]:
    """Start a SLURM in `folder`, whose path must be short, and end it; `accounting`: with a database of its jobs."""
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)  # munge distrusts folders that others may write
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
    port = _port()
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(
            folder=folder,
            storage=STORAGE.format(folder=folder, port=port) if accounting else NO_STORAGE,
            host=socket.gethostname().split(".")[0],
            controller=_port(),
            node=_port(),
            cpus=os.cpu_count(),
            memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 * 3 // 4,
        )
    )
    _know(folder)
    own = {name: str(folder / f"munge.{name}") for name in ("socket", "pid", "log", "seed")}
    munge = (f"--{name if name == 'socket' else f'{name}-file'}={path}" for name, path in own.items())
    started, conf = Cluster(folder), str(folder / "slurm.conf")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_daemon(folder, "munged", "--foreground", "--force", f"--key-file={key}", *munge))
        if accounting:
            stack.enter_context(_accounting(folder, port))
        stack.enter_context(_daemon(folder, "slurmctld", "-D", "-f", conf))
        stack.enter_context(_daemon(folder, "slurmd", "-D", "-f", conf))
        _wait_until_idle(started)
        yield started


@contextlib.contextmanager
def _accounting(folder: Path, port: int) -> Iterator[None]:
    """Start a database, open to this machine, and SLURM's daemon before it; its configuration lies beside SLURM's."""
    data, storage = f"--datadir={folder}/database", _port()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(["mariadb-install-db", "--no-defaults", "--user=root", data], check=True, **quiet)
    own = ("--user=root", "--bind-address=127.0.0.1", f"--port={storage}", "--skip-grant-tables")
    files = (f"--socket={folder}/database.socket", f"--pid-file={folder}/database.pid")
    conf = folder / "slurmdbd.conf"
    conf.write_text(DATABASE.format(folder=folder, port=port, storage=storage))
    conf.chmod(0o600)
    with _daemon(folder, "mariadbd", "--no-defaults", data, *own, *files):
        _wait_until_open(storage)
        with _daemon(folder, "slurmdbd", "-D", SLURM_CONF=str(folder / "slurm.conf")):
            _wait_until_open(port)
            yield


def _wait_until_open(port: int) -> None:
    for _ in range(60):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.5)
    raise TimeoutError(f"nothing listens on port {port} after half a minute")


def _know(folder: Path) -> None:
    """Make commands that know their SLURM: Snakemake keeps every SLURM_* variable from its jobs."""
    for command in COMMANDS:
        path = folder / "bin" / command
        path.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which(command)} "$@"\n')
        path.chmod(0o755)


def _wait_until_idle(started: Cluster) -> None:
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        with contextlib.suppress(subprocess.CalledProcessError):
            if started("sinfo", "--noheader", "--format=%T") == "idle":
                return
        time.sleep(1)
    raise TimeoutError("the node is not idle after a minute")


@contextlib.contextmanager
def _daemon(folder: Path, *command: str, **variables: str) -> Iterator[None]:
    with (folder / f"{command[0]}.out").open("w") as stream:
        process = subprocess.Popen(command, env=os.environ | variables, stdout=stream, stderr=stream)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
