"""Seconds from the start of a process to its first training step at demo scale, beside a bare `import torch`.

    python benchmarks/startup.py

Fresh processes in turn, all on one core, files in the cache. What is timed is the command that the workflow runs,
`python -m bkdsnn train`, with a slice that is over at once: the trainer then makes one step and saves. The clock stops
when the checkpoint lies on the disk, so writing it is included; for torch it stops at a file written after the import.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import harness

from bkdsnn import data
from bkdsnn.config import RunSpec, catalogue, paper
from bkdsnn.core.errors import RESUMABLE
from bkdsnn.machine import devices
from bkdsnn.runs.run_folder import RunFolder
from bkdsnn.training.execute import execute

TARGET = 3.0  # seconds to the first step on an idle core
TABLE, COLUMN, METHOD = "table2c", "resnet18-imagenet", "bkdsnn"
LOOK = 0.002  # seconds between two looks for the file that ends a measurement
SHOWN = 8  # packages listed
IMPORTED = re.compile(r"^import time: +(?P<own>\d+) \| +\d+ \| +(?P<module>[\w.]+)$", re.MULTILINE)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write."""
    parser = harness.parser(__doc__, rounds=9)
    parser.add_argument("--scale", default="demo", choices=catalogue.scale_names(), help="scale of the run")
    options = parser.parse_args(arguments)
    machine = harness.machine()
    spec = paper.plan(TABLE, options.scale, seeds=[0]).cell(METHOD, COLUMN).runs[0]
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        prepare(spec, results / options.scale)
        importers = imports(command(spec, results, options.scale, "-X", "importtime"))  # also fills the file cache
        sides = {
            "import torch": lambda: bare_torch(results / "imported"),
            "first step": lambda: first_step(spec, results, options.scale),
        }
        seconds = harness.in_turn(sides, options.rounds)
    rows = [{"side": side, **harness.spread(values)} for side, values in seconds.items()]
    over = harness.ratio(seconds["first step"], seconds["import torch"])
    harness.show(rows)
    print(f"ratio {over:.2f}, target {TARGET} s; imports by package, ms: {importers}")
    about = {"machine": machine, "run": spec.name, "ratio": over, "target_seconds": TARGET, "imports_ms": importers}
    harness.finish("startup", "cpu", options.out, rows, **about)


def prepare(spec: RunSpec, results: Path) -> None:
    """Make what the run needs: its data and its finished teacher."""
    data.prepare(spec.dataset, None, results / "data" / f"{spec.dataset.name}.json")
    for parent in spec.lineage()[:-1]:
        execute(parent, results, results / "resources", devices.choose("cpu", 1), None)


def command(spec: RunSpec, results: Path, scale: str, *flags: str) -> list[str]:
    """Return the workflow's command for that run, in a slice of one step; `flags` are for the interpreter."""
    slice_of_one = ["--device", "cpu", "--minutes", "1e-9", "--results", str(results)]
    return [sys.executable, *flags, "-m", "bkdsnn", "train", spec.name, "--scale", scale, *slice_of_one]


def first_step(spec: RunSpec, results: Path, scale: str) -> float:
    """Return the seconds until the first checkpoint of a run that begins anew."""
    folder = RunFolder(results / scale / "runs", spec)
    shutil.rmtree(folder.path, ignore_errors=True)
    return seconds_until(folder.checkpoint, command(spec, results, scale), RESUMABLE)


def bare_torch(written: Path) -> float:
    """Return the seconds until torch is imported."""
    written.unlink(missing_ok=True)
    return seconds_until(written, [sys.executable, "-c", f"import torch; open({str(written)!r}, 'w').close()"], 0)


def seconds_until(path: Path, arguments: list[str], expected: int) -> float:
    """Start a process on one core and return the seconds until `path` exists; it must exit with `expected`."""
    began = time.perf_counter()
    with subprocess.Popen(arguments, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
        while not path.exists() and process.poll() is None:
            time.sleep(LOOK)
        seconds = time.perf_counter() - began
        _, message = process.communicate()
    if process.returncode != expected:
        raise SystemExit(f"{' '.join(arguments)} exited with {process.returncode}, expected {expected}:\n{message}")
    return seconds


def imports(arguments: list[str]) -> dict[str, float]:
    """Return the packages that took longest to import, in ms; what torch loads after its own import stands apart."""
    bare = modules([sys.executable, "-X", "importtime", "-c", "import torch"], 0)
    took: Counter[str] = Counter()
    for module, microseconds in modules(arguments, RESUMABLE).items():
        package = module.split(".")[0]
        took[package if package != "torch" or module in bare else "torch beyond import torch"] += microseconds
    return {package: round(microseconds / 1000, 1) for package, microseconds in took.most_common(SHOWN)}


def modules(arguments: list[str], expected: int) -> dict[str, int]:
    """Run a process that reports its imports; return microseconds by module, without what that imports itself."""
    done = subprocess.run(arguments, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode != expected:
        raise SystemExit(done.stderr)
    return {match["module"]: int(match["own"]) for match in IMPORTED.finditer(done.stderr)}


def environment() -> dict[str, str]:
    """Return the environment of a process that computes on one thread."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


if __name__ == "__main__":
    main()
