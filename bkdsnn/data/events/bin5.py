"""Events of five bytes without a header (N-MNIST, N-Caltech101; Orchard et al., Front. Neurosci. 9:437, 2015).

Byte 0 x, byte 1 y, bit 7 of byte 2 polarity (1 is ON), then 23 bits of time, most significant first. A record with
y = 240 is not an event but a mark: 8,192 microseconds must be added to all later times.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bkdsnn.core import files
from bkdsnn.data.events.recording import Recording, check_fits, content, records

MARK = 240  # in place of y
STEP = 8192  # microseconds


def read(path: Path) -> Recording:
    """Read all events; UserError if the file cannot be read or is truncated."""
    events = records(path, content(path), 0, "u1", 5)
    high, middle, low = (events[:, column].astype(np.int64) for column in (2, 3, 4))
    t = (high & 127) << 16 | middle << 8 | low
    y = events[:, 1]
    if (marked := y == MARK).any():
        t += STEP * np.cumsum(marked)
        t, events = t[~marked], events[~marked]
    return Recording.of(t, events[:, 0], events[:, 1], events[:, 2] >> 7)


def write(path: Path, recording: Recording) -> None:
    """Write atomically and without marks; UserError if an event is outside 240 x 256 pixels or 2^23 microseconds."""
    check_fits(path, recording, t=2**23, x=256, y=MARK)
    t, x, y, p = recording
    events = np.stack([x, y, t >> 16 | p.astype(np.int64) << 7, t >> 8 & 255, t & 255], 1)
    with files.replacing(path) as temporary:
        temporary.write_bytes(events.astype(np.uint8).tobytes())
