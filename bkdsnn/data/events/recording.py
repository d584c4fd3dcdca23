"""The representation of an event recording in memory, and functions shared by the readers and writers of formats."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from bkdsnn.core.errors import UserError


class Recording(NamedTuple):
    """Events in the order of the file: t int64 (N,) microseconds, x and y uint16 (N,) pixels from the upper left.

    p uint8 (N,): 1 ON (brighter), 0 OFF (darker).
    """

    t: np.ndarray
    x: np.ndarray
    y: np.ndarray
    p: np.ndarray

    @classmethod
    def of(cls, t: np.ndarray, x: np.ndarray, y: np.ndarray, p: np.ndarray) -> Recording:
        """Build a recording from columns (N,) of any integer type; only other types are copied. Values must fit."""
        kinds = (np.int64, np.uint16, np.uint16, np.uint8)
        return cls(*(column.astype(kind, copy=False) for column, kind in zip((t, x, y, p), kinds)))

    def between(self, start: int, end: int) -> Recording:
        """Return the events with start <= t < end (microseconds), as views; t must ascend."""
        first, last = np.searchsorted(self.t, (start, end))
        return Recording(*(column[first:last] for column in self))

    def excess(self, *, t: int, x: int, y: int) -> str:
        """Name the first column that leaves 0 <= column < bound (for p: 0 or 1) and what was found; "" if all fit."""
        for name, bound in (("t", t), ("x", x), ("y", y), ("p", 2)):
            values = getattr(self, name)
            low, high = (values.min(), values.max()) if len(values) else (0, 0)
            if low < 0 or high >= bound:
                return f"found {name} from {low} to {high}, expected 0 to {bound - 1}"
        return ""


def damaged(path: Path, problem: str) -> UserError:
    """Build the error for an event file whose content does not agree with its format or dataset."""
    return UserError(f"{path}: {problem}; restore the file (embedded data: delete its folder and rerun)")


def unreadable(path: Path, error: OSError) -> UserError:
    """Build the error for a file that the operating system fails to read."""
    return UserError(f"cannot read {path}: {error.strerror or error}; restore it or fix the permissions")


def content(path: Path) -> bytes:
    """Return all bytes of a file; UserError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


def after_lines(data: bytes, mark: bytes) -> int:
    """Return the position after the leading lines that begin with `mark`; an unterminated line ends with the data."""
    start = 0
    while data.startswith(mark, start):
        start = data.find(b"\n", start) + 1 or len(data)
    return start


def records(path: Path, data: bytes, start: int, number: str, width: int) -> np.ndarray:
    """Return the bytes from `start` on as numbers of NumPy's type `number`, (N, width); UserError if truncated."""
    kind = np.dtype((number, width))
    if (size := len(data) - start) % kind.itemsize:
        raise damaged(path, f"truncated: {size:,} bytes of events are no multiple of {kind.itemsize}")
    return np.frombuffer(data, kind, offset=start)


def check_fits(path: Path, recording: Recording, *, t: int, x: int, y: int) -> None:
    """Raise UserError if an event violates 0 <= column < bound, the range that the format of `path` can store."""
    if problem := recording.excess(t=t, x=x, y=y):
        raise UserError(f"cannot write {path}: {problem}, all that the format can hold; correct the recording")
