"""Million events a second that the readers of native event files return, from files that lie in memory.

    python benchmarks/readers.py

One file for each format, written with random events; every format is read once before it is timed, and what it returned
must be what was written. Then the formats are read in turn, by one thread. Reading is what conversion calls: the whole
file, then the checks of order and sensor.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import harness
import numpy as np

from bkdsnn import config
from bkdsnn.data.events import formats
from bkdsnn.data.events.published_sets import SUFFIX
from bkdsnn.data.events.recording import Recording

TARGET = 20.0  # million events a second
SIDE = 34  # pixels: the smallest sensor of all, that of N-MNIST
LAYOUTS = {  # one of each format
    "AEDAT 2": "cifar10-dvs",
    "AEDAT 3.1": "dvs128-gesture",
    "5-byte bin": "n-mnist",
    "DAT 2": "n-cars",
    "npy": "dvs-lip",
}


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write."""
    parser = harness.parser(__doc__, rounds=9)
    parser.add_argument("--events", type=int, default=8_000_000, help="events in a file (default: 8,000,000)")
    options = parser.parse_args(arguments)
    machine = harness.machine()
    written = events(options.events)
    with tempfile.TemporaryDirectory() as folder:
        sides = {name: harness.clocked(reader(Path(folder), layout, written)) for name, layout in LAYOUTS.items()}
        seconds = harness.in_turn(sides, options.rounds)
    rows = [{"format": name, **speed(options.events, took)} for name, took in seconds.items()]
    harness.show(rows)
    print(f"million events/s; target: {TARGET:.0f}")
    harness.finish("readers", "cpu", options.out, rows, machine=machine, events=options.events, target=TARGET)


def events(count: int) -> Recording:
    """Return random events, evenly spread over the 8 s that the shortest times can count."""
    draw = np.random.default_rng(0).integers
    return Recording.of(np.sort(draw(2**23, size=count)), *draw(SIDE, size=(2, count)), draw(2, size=count))


def reader(folder: Path, layout: str, written: Recording) -> Callable[[], Recording]:
    """Write a file, and return a function that reads it and has done so once."""
    path = folder / f"{layout}{SUFFIX[layout]}"
    formats.write(path, written, layout)
    about = config.Events.model_validate({"layout": layout, "sensor": (SIDE, SIDE)})
    assert all(map(np.array_equal, formats.read(path, about), written))
    return lambda: formats.read(path, about)


def speed(count: int, seconds: list[float]) -> dict[str, float]:
    """Return median, least and greatest of million events a second."""
    return harness.spread([count / taken / 1e6 for taken in seconds])


if __name__ == "__main__":
    main()
