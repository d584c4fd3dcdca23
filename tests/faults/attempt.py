"""One attempt at a run in a process of its own, which a test may end as it likes."""

import resource
import signal
import sys
from pathlib import Path

import torch

from bkdsnn import errors, progress, slices
from bkdsnn.execute import execute
from bkdsnn.spec import RunSpec


def attempt(spec: str, results: Path, largest: int | None) -> None:
    """Train with a checkpoint at every step; no file may get larger than `largest` bytes, as if the disk were full."""
    torch.set_num_threads(1)
    progress.configure(results / f"{results.name}.log")
    slices.SAVE_SECONDS = slices.SAVE_SHARE = 0.0
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
