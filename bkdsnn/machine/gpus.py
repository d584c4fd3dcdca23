"""Locks on the GPUs of this machine, so that each is used by one process, or by at most `gpu_share` of them.

A process holds a lock on each of its GPUs; the lock ends with the process, even if that is killed.
"""

from __future__ import annotations

import itertools
import os
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from bkdsnn.config.settings import gpu_share
from bkdsnn.core import files
from bkdsnn.core.progress import log

POLL_SECONDS = 1.0  # average time between two checks for a free GPU
HELD = "BKDSNN_GPU_HELD"  # variable with the names of the GPUs that the parent process has locked for this one
_HELD: dict[str, IO[str]] = {}  # locks by the name of their GPU, open for as long as this process lives


def claim(wanted: Sequence[str], count: int, folder: Path) -> list[str]:
    """Lock `count` of the `wanted` GPUs until this process ends, waiting until enough are free; return their names.

    GPUs that this process already holds, or that its parent process holds for it, are used first. The remaining ones
    are locked all at once or not at all, so that two processes never wait for each other. `gpu_share` is the number of
    processes that may share a GPU. Raises `UserError` if the `folder` of the locks cannot be written.
    """
    own = [name for name in wanted if name in held()][:count]
    missing, others, announced = count - len(own), [name for name in wanted if name not in own], False
    while len(locked := _locked(others, missing, folder)) < missing:
        for stream in locked.values():
            stream.close()
        if not announced:
            log.info("waiting for %d of %d GPUs: other processes use them (locks: %s)", missing, len(others), folder)
            announced = True
        time.sleep(POLL_SECONDS * random.uniform(0.5, 1.5))
    _HELD.update(locked)
    return [*own, *locked]


def held() -> list[str]:
    """Return the names of this process's GPUs: those that it locked, and those that its parent locked for it."""
    return [*_HELD, *filter(None, os.environ.get(HELD, "").split(","))]


def held_files() -> list[int]:
    """Return the file descriptors of this process's locks; a child process that inherits one also holds that GPU."""
    return [stream.fileno() for stream in _HELD.values()]


def lock_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of this user's locks; each SLURM job has its own, because it numbers its devices from 0."""
    return Path(tempfile.gettempdir()) / f"bkdsnn-gpus-{os.getuid()}" / environment.get("SLURM_JOB_ID", "local")


def visible(present: int, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the machine-wide names of the `present` GPUs that this process sees."""
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    return [str(index) for index in range(present)] if chosen is None else chosen.split(",")[:present]


def _locked(wanted: Sequence[str], count: int, folder: Path) -> dict[str, IO[str]]:
    """Lock up to `count` GPUs; shared GPUs with the fewest processes come first."""
    locked: dict[str, IO[str]] = {}
    for place, name in itertools.product(range(gpu_share()), wanted):
        path = folder / f"{name.strip()}{f'-{place}' if place else ''}.lock"
        if len(locked) < count and name not in locked and (stream := files.lock(path)):
            locked[name] = stream
    return locked
