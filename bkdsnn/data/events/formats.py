"""The native file of each published set of events, and what must hold for every file of a set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bkdsnn.config import Events
from bkdsnn.data.events import aedat2, aedat3, bin5, dat2, npy
from bkdsnn.data.events.recording import Recording, damaged


class Format(NamedTuple):
    """How the recordings of a set are stored."""

    read: Callable[[Path], Recording]
    write: Callable[[Path, Recording], None]


FORMATS = {
    "cifar10-dvs": Format(aedat2.read, aedat2.write),
    "dvs128-gesture": Format(aedat3.read, aedat3.write),
    "n-caltech101": Format(bin5.read, bin5.write),
    "n-mnist": Format(bin5.read, bin5.write),
    "n-cars": Format(dat2.read, dat2.write),
    "dvs-lip": Format(npy.read, npy.write),
}


def read(path: Path, events: Events) -> Recording:
    """Read one recording of the set `events.layout`, N > 0 events that ascend in t.

    Raises UserError (D-110) that names the file if it is empty, unordered in time, reaches beyond `events.sensor`, or
    as the reader of its format does.
    """
    recording = FORMATS[events.layout].read(path)
    if not len(recording.t):
        raise damaged(path, "holds no events")
    if (back := recording.t[1:] < recording.t[:-1]).any():
        raise damaged(path, f"goes back in time at event {back.argmax() + 2:,}")
    height, width = events.sensor
    if problem := recording.excess(t=2**63, x=width, y=height):
        raise damaged(path, f"{problem} on a sensor of {height} x {width} pixels")
    return recording


def write(path: Path, recording: Recording, layout: str) -> None:
    """Write one recording as a file of the set `layout`, atomically; UserError if the format cannot hold an event."""
    FORMATS[layout].write(path, recording)
