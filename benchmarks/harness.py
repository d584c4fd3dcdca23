"""What the benchmarks share: sides that are measured in turn, a table to read, a JSON file to keep."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import statistics
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tabulate import tabulate

from bkdsnn.core import files
from bkdsnn.runs.provenance import commit

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "spikingjelly", "snakemake")
Found = TypeVar("Found")


def parser(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark; `rounds` is the default number of measurements a side."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=rounds, help=f"measurements of each side (default: {rounds})")
    made.add_argument("--out", type=Path, help="JSON file (default: benchmarks/results/<name>-<device>.json)")
    return made


def in_turn(sides: dict[str, Callable[[], Found]], rounds: int) -> dict[str, list[Found]]:
    """Call every side once a round, another one first each time; return what each call returned."""
    found: dict[str, list[Found]] = {name: [] for name in sides}
    names = list(sides)
    for index in range(rounds):
        first = index % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(sides[name]())
    return found


def clocked(run: Callable[[], object]) -> Callable[[], float]:
    """Return a function that runs once and returns the seconds it took."""

    def measure() -> float:
        began = time.perf_counter()
        run()
        return time.perf_counter() - began

    return measure


def attempt(row: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what was measured, or how that failed, after the error was printed."""
    try:
        return row()
    except Exception as error:
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error}"[:300]}


def spread(seconds: list[float]) -> dict[str, float]:
    """Return median, least and greatest of some seconds."""
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}


def ratio(above: list[float], below: list[float]) -> float:
    """Return the median quotient of what was measured in the same round."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def machine() -> dict[str, Any]:
    """Say where this is measured, and how busy that place is before it begins (load average of one minute)."""
    cpus = [line.split(":")[1].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")]
    return {
        "cpu": cpus[0] if cpus else platform.machine(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def finish(name: str, device: str, out: Path | None, rows: list[dict[str, Any]], **about: Any) -> None:
    """Write the rows and what is known about the measurement."""
    path = out or ROOT / "benchmarks" / "results" / f"{name}-{device}.json"
    files.write_json(path, {"benchmark": name, "device": device, "commit": commit(), **about, "rows": rows})


def show(rows: list[dict[str, Any]]) -> None:
    """Print rows as a table, numbers to three digits."""
    print(tabulate(rows, headers="keys", floatfmt=".3g"), flush=True)


def _version(package: str) -> str | None:
    """Return the version of a package; None for one that this machine lacks, as one with a GPU may lack Snakemake."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []
