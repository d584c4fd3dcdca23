"""What was run, on what, with what: enough to judge a result whose folder was copied elsewhere."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import bkdsnn
from bkdsnn.runs.ledger import Attempt

PACKAGES = ("torch", "spikingjelly", "numpy", "safetensors")


def provenance(
    attempts: list[Attempt], device: str, neurons: list[str], data_digest: str, history: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return code version, environment, device, data digest, attempts, training time in seconds and peak memory in MiB.

    `neurons` names what ran them (`models.neurons.implementations`): gradients of each round in their own way.
    """
    return {
        "bkdsnn": bkdsnn.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "device": device,
        "neurons": neurons,
        "data_digest": data_digest,
        "attempts": [one.model_dump(include={"started", "host", "device", "origin"}) for one in attempts],
        "seconds": sum(record["seconds"] for record in history),
        "peak_memory_mb": max((record["peak_memory_mb"] for record in history), default=None),
    }


def commit() -> str | None:
    """The commit of the source, with `+` if it was changed since; None outside a checkout."""
    folder = Path(bkdsnn.__file__).parent
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
