"""One attempt at a run in a process of its own, which a test may end as it likes."""

import ctypes
import resource
import signal
import sys
from pathlib import Path

import torch

from bkdsnn.config import RunSpec
from bkdsnn.core import errors, progress
from bkdsnn.runs import saver
from bkdsnn.training.execute import execute


def attempt(spec: str, results: Path, largest: int | None) -> None:
    """Train with a checkpoint at every step; no file may get larger than `largest` bytes, as if the disk were full."""
    _obey_permissions()
    torch.set_num_threads(1)
    progress.configure(results / f"{results.name}.log")
    saver.SAVE_SECONDS = saver.SAVE_SHARE = 0.0
    if largest:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    try:
        execute(RunSpec.model_validate_json(spec), results, results / "resources", torch.device("cpu"), None)
    except errors.Interrupted:
        sys.exit(errors.RESUMABLE)
    except errors.UserError as error:
        progress.log.error("error: %s", error)
        sys.exit(1)


def _obey_permissions():
    """Let files refuse root what they refuse their owner, as on everybody's machine: drop CAP_DAC_OVERRIDE."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "capset"):
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3; this process
        sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice, for 64 bits each
        libc.capget(header, sets)
        sets[0] &= ~(1 << 1)
        libc.capset(header, sets)
