"""GPUs of this machine, each for one process: whoever computes on one holds its lock until it ends, however it ends."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from bkdsnn.core import files
from bkdsnn.core.progress import log

POLL_SECONDS = 1.0  # on average, between two looks for a free GPU
HELD = "BKDSNN_GPU_HELD"  # names the GPU that the starting process holds for this one
_HELD: list[IO[str]] = []  # open for as long as this process lives


def claim(wanted: Sequence[str], count: int, folder: Path) -> list[str]:
    """Return `count` of the `wanted` GPUs that are free, waiting for them if need be; they stay this process's own.

    All are taken or none, so that two processes never wait for each other. Raises `UserError` if `folder`, where the
    locks lie, cannot be written.
    """
    if os.environ.get(HELD) in wanted:
        return [os.environ[HELD]]
    told = False
    while len(held := _locked(wanted, count, folder)) < count:
        for stream in held.values():
            stream.close()
        if not told:
            log.info("waiting for %d free of %d GPUs: others compute on them (%s)", count, len(wanted), folder)
            told = True
        time.sleep(POLL_SECONDS * random.uniform(0.5, 1.5))
    _HELD.extend(held.values())
    return list(held)


def held_files() -> list[int]:
    """Return the descriptors of the locks that this process holds; who inherits one holds the GPU, too."""
    return [stream.fileno() for stream in _HELD]


def lock_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return where the locks of this user lie; a SLURM job has its own, for its devices are numbered anew."""
    return Path(tempfile.gettempdir()) / f"bkdsnn-gpus-{os.getuid()}" / environment.get("SLURM_JOB_ID", "local")


def visible(present: int, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return what the `present` GPUs that this process sees are called by everyone on the machine."""
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    return [str(index) for index in range(present)] if chosen is None else chosen.split(",")[:present]


def _locked(wanted: Sequence[str], count: int, folder: Path) -> dict[str, IO[str]]:
    held: dict[str, IO[str]] = {}
    for name in wanted:
        if len(held) < count and (stream := files.lock(folder / f"{name.strip()}.lock")):
            held[name] = stream
    return held
