"""Seconds of a dry run of the whole paper at each scale, beside a dry run of an empty workflow.

    python benchmarks/dag.py

Fresh processes in turn, in an empty working folder, so that every job of the paper is still to be done.
"""

from __future__ import annotations

import functools
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import harness

from bkdsnn.config import catalogue

TARGET = 3.0  # seconds
EMPTY = "rule all:\n"


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write."""
    parser = harness.parser(__doc__, rounds=7)
    names = catalogue.scale_names()
    parser.add_argument("--scales", nargs="+", default=names, choices=names, help="scales (default: all)")
    options = parser.parse_args(arguments)
    machine = harness.machine()
    with tempfile.TemporaryDirectory() as folder:
        commands = {"empty": dry_run(empty(Path(folder)), folder)}
        for scale in options.scales:
            commands[scale] = dry_run(harness.ROOT / "Snakefile", folder, "--config", f"scale={scale}")
        jobs = {name: count(run(command)) for name, command in commands.items()}  # and warms the file cache
        sides = {name: harness.clocked(functools.partial(run, command)) for name, command in commands.items()}
        seconds = harness.in_turn(sides, options.rounds)
    rows = [
        {"workflow": name, "jobs": jobs[name], **harness.spread(took), "ratio": harness.ratio(took, seconds["empty"])}
        for name, took in seconds.items()
    ]
    harness.show(rows)
    print(f"target: less than {TARGET} s")
    harness.finish("dag", "cpu", options.out, rows, machine=machine, target_seconds=TARGET)


def empty(folder: Path) -> Path:
    """Write a workflow that has nothing to do, and return its path."""
    path = folder / "Snakefile"
    path.write_text(EMPTY)
    return path


def dry_run(snakefile: Path, folder: str, *options: str) -> list[str]:
    """Return the command that plans the target `all` of a workflow in `folder`."""
    where = ["--snakefile", str(snakefile), "--directory", folder]
    return [sys.executable, "-m", "snakemake", "--dry-run", "all", *where, *options]


def run(command: list[str]) -> str:
    """Run a command from the root of the checkout, where the default profile is, and return what it printed."""
    done = subprocess.run(command, cwd=harness.ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout + done.stderr


def count(printed: str) -> int:
    """Return the number of jobs that a dry run announced."""
    return int(re.findall(r"^total\s+(\d+)$", printed, re.MULTILINE)[-1])


if __name__ == "__main__":
    main()
