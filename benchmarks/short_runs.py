"""CPU and wall seconds of a few short trainings in the workflow, with the fork server and with a process for each.

    python benchmarks/short_runs.py

Snakemake makes the same runs of one column of a table in an empty folder, on all cores: once as it does by default,
once with an empty BKDSNN_FORK_SERVER. The seconds are of everything that this starts, from Snakemake to the server. The
weights of both sides are asserted equal.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness

from bkdsnn.config import RunSpec, catalogue, paper
from bkdsnn.core import files
from bkdsnn.machine.fork_server import WORKFLOW

TABLE, COLUMN = "table2c", "resnet18-imagenet"
METHODS = ("ann", "sew-resnet", "bkdsnn", "kdsnn", "lasnn", "tet-sew")
REAPER = Path(__file__).with_name("reaper.py")


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write."""
    parser = harness.parser(__doc__, rounds=3)
    parser.add_argument("--scale", default="demo", choices=catalogue.scale_names(), help="scale of the runs")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS, help="runs to make")
    options = parser.parse_args(arguments)
    machine = harness.machine()
    plan = paper.plan(TABLE, options.scale, seeds=[0])
    specs = [plan.cell(method, COLUMN).runs[0] for method in options.methods]
    sides = {name: functools.partial(seconds, specs, options.scale, name) for name in ("alone", "served")}
    found = harness.in_turn(sides, options.rounds)
    weights = {one["weights"] for every in found.values() for one in every}
    assert len(weights) == 1, "the sides left different weights"
    rows = [
        {"seconds": kind, "side": side, **harness.spread([one[kind] for one in found[side]])}
        for kind in ("cpu", "wall")
        for side in sides
    ]
    ratios = {
        kind: harness.ratio(*([one[kind] for one in found[side]] for side in ("alone", "served")))
        for kind in ("cpu", "wall")
    }
    harness.show(rows)
    print(f"{len(specs)} runs; alone / served: CPU {ratios['cpu']:.2f}, wall {ratios['wall']:.2f}")
    about = {"machine": machine, "runs": [spec.name for spec in specs], "ratios": ratios}
    harness.finish("short_runs", "cpu", options.out, rows, **about)


def seconds(specs: list[RunSpec], scale: str, side: str) -> dict[str, float | str]:
    """Make the runs in an empty folder; return CPU and wall seconds, and the digests of all weights."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [Path("results") / scale / "runs" / spec.name for spec in specs]
        began = time.perf_counter()
        cpu = make([str(run / "metrics.json") for run in runs], folder, scale, side)
        wall = time.perf_counter() - began
        weights = " ".join(files.sha256(Path(folder) / run / "weights.safetensors") for run in runs)
    return {"cpu": cpu, "wall": wall, "weights": weights}


def make(targets: list[str], folder: str, scale: str, side: str) -> float:
    """Let Snakemake make some files in a folder; return its CPU seconds and those of all that it started."""
    workflow = [sys.executable, "-m", "snakemake", "--cores", "all", "--directory", folder, *targets]
    line = [sys.executable, str(REAPER), *workflow, "--config", f"scale={scale}", "device=cpu"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BKDSNN_")}
    environment = kept | ({WORKFLOW: ""} if side == "alone" else {})
    done = subprocess.run(line, cwd=harness.ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return float(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
