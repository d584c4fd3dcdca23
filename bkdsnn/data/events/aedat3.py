"""AEDAT 3.1 (DVS128 Gesture): header lines, then packets with events of one type each; and the csv of labelled clips.

All numbers are little-endian. A packet: 28 bytes (type, source, event size, offset of the time, overflow of the time,
capacity, number, number valid), then `capacity` events, of which `number` are filled. A polarity event: uint32 with bit
0 valid, bit 1 polarity, bits 2-16 y, bits 17-31 x; then the lower 31 bits of the time, of which the packet's overflow
gives the higher ones. The valid bit is ignored, as in spikingjelly.datasets, the basis of published results.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bkdsnn.core import files
from bkdsnn.data.events.recording import Recording, check_fits, content, damaged

VERSION, END = b"#!AER-DAT3.1\r\n", b"#!END-HEADER\r\n"
START = b"#Start-Time: 1970-01-01 00:00:00 (TZ+0000)\r\n"  # required; fixed, so that equal events make equal files
HEADER = VERSION + b"#Format: RAW\r\n#Source 1: DVS128\r\n" + START + END
PACKET = struct.Struct("<2H6I")
POLARITY, SIZE = 1, 8  # type and bytes of an event
FILLED = 4096  # events in a packet that is written
COLUMNS = "class,startTime_usec,endTime_usec"


class Clip(NamedTuple):
    """One gesture of a recording: label from 1, as in the csv; start <= t < end in microseconds."""

    label: int
    start: int
    end: int


def read(path: Path) -> Recording:
    """Read all polarity events; other types are skipped.

    Raises UserError if the file cannot be read, is not AEDAT 3.1, or has a truncated or inconsistent packet.
    """
    packets = [(0, np.empty((0, 2), "<u4")), *_packets(path, content(path))]  # one at least, to concatenate
    words = np.concatenate([events for _, events in packets])
    t = np.repeat([count << 31 for count, _ in packets], [len(events) for _, events in packets])
    t += words[:, 1]
    event = words[:, 0]
    return Recording.of(t, event >> 17, event >> 2 & 0x7FFF, event >> 1 & 1)


def write(path: Path, recording: Recording) -> None:
    """Write atomically; UserError if an event is outside 2^15 x 2^15 pixels or 2^31 microseconds."""
    check_fits(path, recording, t=2**31, x=2**15, y=2**15)
    t, x, y, p = (column.astype(np.uint32) for column in recording)
    words = np.stack([x << 17 | y << 2 | p << 1 | 1, t], 1).astype("<u4")
    with files.replacing(path) as temporary, temporary.open("wb") as stream:
        stream.write(HEADER)
        for first in range(0, len(words), FILLED):
            events = words[first : first + FILLED]
            stream.write(PACKET.pack(POLARITY, 1, SIZE, 4, 0, *[len(events)] * 3) + events.tobytes())


def read_labels(path: Path) -> list[Clip]:
    """Read the clips that the csv of a recording lists, in its order; they may overlap, and do in the published set.

    Raises UserError if the file is not such a csv, is empty, or has an invalid clip, whose line it names.
    """
    first, *lines = content(path).decode(errors="replace").splitlines() or [""]
    if first != COLUMNS:
        raise damaged(path, f"begins with '{first[:80]}', expected the columns '{COLUMNS}'")
    clips = [_clip(path, number, line) for number, line in enumerate(lines, 2) if line.strip()]
    if not clips:
        raise damaged(path, "lists no clips")
    return clips


def write_labels(path: Path, clips: Sequence[Clip]) -> None:
    """Write the csv of a recording atomically."""
    files.write_text(path, "\n".join([COLUMNS, *(",".join(map(str, clip)) for clip in clips)]) + "\n")


def _packets(path: Path, data: bytes) -> Iterator[tuple[int, np.ndarray]]:
    """Yield overflow and events, uint32 (N, 2), of every polarity packet."""
    at = _header_end(path, data)
    while at < len(data):
        kind, size, overflow, capacity, number = _packet(path, data, at)
        if kind == POLARITY:
            yield overflow, np.frombuffer(data, "<u4", 2 * number, at + PACKET.size).reshape(-1, 2)
        at += PACKET.size + capacity * size


def _header_end(path: Path, data: bytes) -> int:
    if not data.startswith(VERSION):
        raise damaged(path, f"begins with {data[: len(VERSION)]!r}, AEDAT 3.1 begins with {VERSION!r}")
    if (end := data.find(END)) < 0:
        raise damaged(path, f"truncated: the header has no line {END!r}")
    return end + len(END)


def _packet(path: Path, data: bytes, at: int) -> tuple[int, int, int, int, int]:
    """Return type, event size, overflow, capacity and number of events of the packet at byte `at`."""
    if len(data) - at < PACKET.size:
        raise damaged(path, f"truncated: the packet at byte {at:,} has no full header")
    kind, _, size, _, overflow, capacity, number, _ = PACKET.unpack_from(data, at)
    if number > capacity or (kind == POLARITY and size != SIZE):
        found = f"{number:,} events of {size:,} bytes in room for {capacity:,}"
        raise damaged(path, f"the packet at byte {at:,} contradicts itself: {found}")
    if capacity * size > len(data) - at - PACKET.size:
        raise damaged(path, f"truncated: the packet at byte {at:,} needs {capacity * size:,} bytes of events")
    return kind, size, overflow, capacity, number


def _clip(path: Path, number: int, line: str) -> Clip:
    try:
        clip = Clip(*map(int, line.split(",")))
    except (TypeError, ValueError) as error:
        raise damaged(path, f"line {number} is '{line[:80]}', expected three whole numbers: {COLUMNS}") from error
    if clip.label < 1 or not 0 <= clip.start < clip.end:
        raise damaged(path, f"line {number} is '{line[:80]}', expected a label from 1 and a start before the end")
    return clip
