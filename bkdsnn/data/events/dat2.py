"""Prophesee DAT 2 (N-CARS; Sironi et al., CVPR 2018): lines that begin with '%', event type and size, then the events.

Events are little-endian: uint32 microseconds, then uint32 with bits 0-13 x, bits 14-27 y, bit 28 polarity (1 is ON).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bkdsnn.core import files
from bkdsnn.data.events.recording import Recording, after_lines, check_fits, content, damaged, records

MARK = b"%"
KIND = bytes([0, 8])  # a change of brightness, eight bytes
HEADER = b"% Data file containing Event2d events.\n% Version 2\n"


def read(path: Path) -> Recording:
    """Read all events; UserError if the file cannot be read, is not DAT 2 with such events, or is truncated."""
    data = content(path)
    if not data.startswith(MARK):
        raise damaged(path, f"begins with {data[:16]!r}, DAT begins with lines marked {MARK!r}")
    start = after_lines(data, MARK)
    kind = data[start : start + len(KIND)]
    if kind != KIND:
        raise damaged(path, f"found type and size of an event {list(kind)}, expected {list(KIND)}")
    words = records(path, data, start + len(KIND), "<u4", 2)
    event = words[:, 1]
    return Recording.of(words[:, 0], event & 0x3FFF, event >> 14 & 0x3FFF, event >> 28 & 1)


def write(path: Path, recording: Recording) -> None:
    """Write atomically; UserError if an event is outside 2^14 x 2^14 pixels or 2^32 microseconds."""
    check_fits(path, recording, t=2**32, x=2**14, y=2**14)
    t, x, y, p = (column.astype(np.uint32) for column in recording)
    words = np.stack([t, p << 28 | y << 14 | x], 1).astype("<u4")
    with files.replacing(path) as temporary:
        temporary.write_bytes(HEADER + KIND + words.tobytes())
