"""Slices of a long training: when to save, and when to stop and be continued."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

from bkdsnn.runs import checkpoint
from bkdsnn.runs.run_folder import RunFolder

SAVE_SECONDS = 60.0  # least time between two checkpoints ...
SAVE_SHARE = 50.0  # ... and least multiple of what the last one cost: saving takes at most 2 % of the time
LOOK_SECONDS = 1.0  # between two looks for a STOP file
MARGIN = 60.0  # seconds kept free at the end of a slice for saving, a tenth of the slice at most


class Slice:
    """Ends on a deadline, on SIGTERM or Ctrl-C, or when a file named STOP appears in the run's folder.

    Signals are caught inside the `with` block only.
    """

    def __init__(self, minutes: float | None, folder: Path) -> None:
        self.stop_file = folder / "STOP"
        self.looked = self.began = time.monotonic()
        seconds = float("inf") if minutes is None else 60.0 * minutes
        self.deadline = self.began + seconds - min(MARGIN, seconds / 10)
        self.stopped = False

    def __enter__(self) -> Slice:
        self.handlers = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    @property
    def over(self) -> bool:
        """Whether training should save and leave."""
        now = time.monotonic()
        if now - self.looked >= LOOK_SECONDS:
            self.looked = now
            self.stopped = self.stopped or self.stop_file.exists()
        return self.stopped or now >= self.deadline

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        self.stopped = True


class Saver:
    """Writes checkpoints, often enough to lose little and seldom enough to cost little.

    `state` is what `checkpoint.save` takes. Of the processes that train a run together one `writes`.
    """

    def __init__(self, folder: RunFolder, state: tuple[Any, Any, Any], writes: bool) -> None:
        self.folder, self.state, self.writes = folder, state, writes
        self.last, self.cost = time.monotonic(), 0.0

    @property
    def due(self) -> bool:
        """Whether the next checkpoint is due."""
        return time.monotonic() - self.last >= max(SAVE_SECONDS, SAVE_SHARE * self.cost)

    def save(self, at: checkpoint.Position) -> None:
        """Write a checkpoint now."""
        began = time.monotonic()
        if self.writes:
            checkpoint.save(self.folder.checkpoint, self.folder.spec.digest, at, *self.state)
            self.folder.saved(at.epoch, at.step)
        self.last = time.monotonic()
        self.cost = self.last - began
