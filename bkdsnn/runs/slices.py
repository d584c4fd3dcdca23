"""Time slices of a long training: when an attempt stops, to be continued by the next."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from types import FrameType

CHECK_SECONDS = 1.0  # between two checks for a STOP file
MARGIN = 60.0  # seconds kept free at the end of a slice for saving, a tenth of the slice at most


class Slice:
    """The time that one attempt may train: it ends after `minutes`, on SIGTERM or Ctrl-C, or when a file STOP appears.

    The file is looked for in the run's `folder`. Signals are caught only inside the `with` block.
    """

    def __init__(self, minutes: float | None, folder: Path) -> None:
        self.stop_file = folder / "STOP"
        self.checked = self.began = time.monotonic()
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
        """Whether the time slice has ended, so that training should save and stop."""
        now = time.monotonic()
        if now - self.checked >= CHECK_SECONDS:
            self.checked = now
            self.stopped = self.stopped or self.stop_file.exists()
        return self.stopped or now >= self.deadline

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        self.stopped = True
