"""Logging of a run's progress: one line per epoch, and lines in between if epochs are long."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from bkdsnn.core import files

EVERY = 30.0  # seconds between two lines within an epoch

log = logging.getLogger("bkdsnn")


def configure(log_file: Path | None) -> None:
    """Log to standard error, and to `log_file` with times if one is given; `UserError` if that cannot be written."""
    log.setLevel(logging.INFO)
    logging.raiseExceptions = False  # on a full disk the command itself reports what it could not write
    console = logging.StreamHandler(sys.stderr)
    console.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(console)
    if log_file is not None:
        try:
            log_file.parent.mkdir(parents=True, exist_ok=True)
            handler = logging.FileHandler(log_file)
        except OSError as error:
            raise files.unwritable(log_file, error) from error
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)


class Progress:
    """Reports epochs and steps of one run with the estimated time left."""

    def __init__(self, run: str, epochs: int, steps: int, done: float) -> None:
        self.run, self.epochs, self.steps = run, epochs, steps
        self.began, self.done_before = time.monotonic(), done
        self.last = self.began

    def step(self, epoch: int, step: int) -> None:
        """Report a step if the last line is at least `EVERY` seconds old."""
        if time.monotonic() - self.last >= EVERY:
            left = self._left(epoch + step / self.steps)
            self._log(f"epoch {epoch + 1}/{self.epochs}, step {step}/{self.steps}, {left}")

    def epoch(self, epoch: int, losses: Mapping[str, float], top1: float) -> None:
        """Report a finished epoch, counted from 1, with its mean losses and its top-1 in per cent."""
        shown = ", ".join(f"{name} {value:.3f}" for name, value in losses.items())
        self._log(f"epoch {epoch}/{self.epochs}, {shown}, top-1 {top1:.2f} %, {self._left(epoch)}")

    def _left(self, done: float) -> str:
        if done >= self.epochs:
            return "done"
        if done <= self.done_before:
            return "time left unknown"  # resumed after the last step, only the evaluation was missing
        seconds = (time.monotonic() - self.began) / (done - self.done_before) * (self.epochs - done)
        return f"{duration(seconds)} left"

    def _log(self, text: str) -> None:
        self.last = time.monotonic()
        log.info("%s: %s", self.run, text)


def duration(seconds: float) -> str:
    """Write a duration with its two largest units, such as `3 h 20 min` or `12 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [f"{n} {unit}" for n, unit in ((days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")) if n]
    return " ".join(parts[:2]) or "0 s"
