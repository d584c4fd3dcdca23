"""GPUs of this machine, each for one process, or for `gpu_share` of them: it holds a lock until it ends, however."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from bkdsnn.config.settings import gpu_share
from bkdsnn.core import files
from bkdsnn.core.progress import log

POLL_SECONDS = 1.0  # on average, between two looks for a free GPU
HELD = "BKDSNN_GPU_HELD"  # names the GPUs that the starting process holds for this one
_HELD: dict[str, IO[str]] = {}  # locks by the name of their GPU, open for as long as this process lives


def claim(wanted: Sequence[str], count: int, folder: Path) -> list[str]:
    """Return `count` of the `wanted` GPUs that are free, waiting for them if need be; they stay this process's own.

    Those that are its own already, or are held for it by the process that started it, come first. All others are taken
    or none, so that two processes never wait for each other. `gpu_share` says how many processes a GPU is for. Raises
    `UserError` if `folder`, where the locks lie, cannot be written.
    """
    own = [name for name in wanted if name in held()][:count]
    missing, others, told = count - len(own), [name for name in wanted if name not in own], False
    while len(locked := _locked(others, missing, folder)) < missing:
        for stream in locked.values():
            stream.close()
        if not told:
            log.info("waiting for %d free of %d GPUs: others compute on them (%s)", missing, len(others), folder)
            told = True
        time.sleep(POLL_SECONDS * random.uniform(0.5, 1.5))
    _HELD.update(locked)
    return [*own, *locked]


def held() -> list[str]:
    """Return the GPUs of this process: those that it claimed, and those that are held for it."""
    return [*_HELD, *filter(None, os.environ.get(HELD, "").split(","))]


def held_files() -> list[int]:
    """Return the descriptors of the locks that this process holds; who inherits one holds the GPU, too."""
    return [stream.fileno() for stream in _HELD.values()]


def run(line: Sequence[str]) -> None:
    """Run a command that computes on the GPUs of this process; a failure raises `CalledProcessError`."""
    environment = os.environ | {HELD: ",".join(held())}
    subprocess.run(line, check=True, env=environment, pass_fds=held_files())


def lock_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return where the locks of this user lie; a SLURM job has its own, for its devices are numbered anew."""
    return Path(tempfile.gettempdir()) / f"bkdsnn-gpus-{os.getuid()}" / environment.get("SLURM_JOB_ID", "local")


def visible(present: int, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return what the `present` GPUs that this process sees are called by everyone on the machine."""
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    return [str(index) for index in range(present)] if chosen is None else chosen.split(",")[:present]


def _locked(wanted: Sequence[str], count: int, folder: Path) -> dict[str, IO[str]]:
    """Lock up to `count` GPUs; of those that processes share the emptiest first."""
    locked: dict[str, IO[str]] = {}
    for place, name in itertools.product(range(gpu_share()), wanted):
        path = folder / f"{name.strip()}{f'-{place}' if place else ''}.lock"
        if len(locked) < count and name not in locked and (stream := files.lock(path)):
            locked[name] = stream
    return locked
