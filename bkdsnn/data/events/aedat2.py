"""AEDAT 2.0 of a DVS128 (CIFAR10-DVS): lines that begin with '#', then big-endian uint32 address and uint32 time.

Bits of an address: 0 polarity (1 is OFF), 1-7 column, 8-14 row, both counted from the lower right because the camera
was rotated; 15 marks an edge on the camera's input pin. Orientation and polarity are those of
spikingjelly.datasets.cifar10_dvs, with which published results were obtained; like there, marked events are kept.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bkdsnn.core import files
from bkdsnn.data.events.recording import Recording, after_lines, check_fits, content, damaged, records

VERSION = b"#!AER-DAT2.0"
HEADER = VERSION + b"\r\n# DVS128: int32 address, int32 time in microseconds\r\n"
LAST = 127  # row and column


def read(path: Path) -> Recording:
    """Read all events.

    Raises UserError if the file cannot be read, is not AEDAT 2.0, is truncated, or comes from another camera, which
    shows in larger addresses.
    """
    data = content(path)
    if not data.startswith(VERSION):
        raise damaged(path, f"begins with {data[: len(VERSION)]!r}, AEDAT 2.0 begins with {VERSION!r}")
    words = records(path, data, after_lines(data, b"#"), ">u4", 2)
    address = words[:, 0].astype(np.uint32)
    if len(address) and (highest := address.max()) >> 16:
        raise damaged(path, f"found the address {highest:#010x}, those of a DVS128 have 16 bits")
    return Recording.of(words[:, 1], LAST - (address >> 8 & 127), LAST - (address >> 1 & 127), ~address & 1)


def write(path: Path, recording: Recording) -> None:
    """Write atomically; UserError if an event is outside 128 x 128 pixels or 2^32 microseconds."""
    check_fits(path, recording, t=2**32, x=LAST + 1, y=LAST + 1)
    t, x, y, p = recording
    words = np.empty((len(t), 2), ">u4")
    words[:, 0] = (LAST - x) << 8 | (LAST - y) << 1 | (1 - p)
    words[:, 1] = t
    with files.replacing(path) as temporary:
        temporary.write_bytes(HEADER + words.tobytes())
