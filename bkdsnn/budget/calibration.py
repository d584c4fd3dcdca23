"""`results/calibration/<device>.json`: how long training and evaluation steps take on a device. Free of torch."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from bkdsnn.config import Strict
from bkdsnn.core import files
from bkdsnn.core.errors import parsed

Positive = Annotated[float, Field(gt=0)]
Spread = Annotated[float, Field(ge=0, description="standard deviation of the logarithms of the measured times")]


class Times(Strict):
    """Times of one kind of work. Seconds are medians after warm-up.

    `step_seconds` is None if nothing is trained. `checkpoint_bytes` covers student, criterion and optimiser.
    """

    step_seconds: Positive | None
    step_spread: Spread
    image_seconds: Positive = Field(description="of one test image")
    image_spread: Spread
    parameters: int = Field(gt=0)
    weights_bytes: int = Field(gt=0)
    checkpoint_bytes: int = Field(ge=0)


class Calibration(Strict):
    """All times that were measured on one device, by kind of work."""

    device: str
    date: str
    versions: dict[str, str]
    startup_seconds: Positive = Field(description="of the process of one run, until it has spec, device and optimiser")
    times: dict[str, Times]

    @classmethod
    def read(cls, path: Path) -> Calibration:
        """Read one file; a damaged one raises `UserError`."""
        again = "; delete it and run `python -m bkdsnn calibrate` again"
        return parsed(cls, path.read_bytes(), str(path), again)

    def write(self, results: Path) -> Path:
        """Write the file of this device in `results`, keeping its entries for other kinds of work; return its path."""
        path = folder(results) / f"{re.sub('[^a-z0-9]+', '-', self.device.lower()).strip('-')}.json"
        earlier = Calibration.read(path).times if path.exists() else {}
        merged = self.model_copy(update={"times": {**earlier, **self.times}})
        files.write_text(path, merged.model_dump_json(indent=1) + "\n")
        return path


def folder(results: Path) -> Path:
    """Return the folder of calibrations; `results` is the folder above the scales."""
    return results / "calibration"


def spread(seconds: Sequence[float]) -> float:
    """Return the standard deviation of the logarithms of measured times; 0 for a single one."""
    return statistics.stdev(map(math.log, seconds)) if len(seconds) > 1 else 0.0


def is_cpu(device: str) -> bool:
    """Whether a device's description, as returned by `devices.describe`, is that of a CPU."""
    return " CPU, " in device
