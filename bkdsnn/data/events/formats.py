"""The native file format of each published set of event recordings, and the checks that every recording must pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bkdsnn.config import Events
from bkdsnn.data.events import aedat2, aedat3, bin5, dat2, npy
from bkdsnn.data.events.recording import Recording, damaged


class Format(NamedTuple):
    """Reader and writer of the file format of a set."""

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
    """Read one recording of the set `events.layout`: N > 0 events in ascending order of time.

    Raises UserError (D-110), which names the file, if it has no events, is not ordered in time, has addresses outside
    `events.sensor`, or is rejected by the reader of its format.
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
