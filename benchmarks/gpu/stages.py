"""Everything that a GPU is wanted for, in one call of limited time: right, fast, true. `first.sh` starts this.

right   the tests marked `gpu`
fast    benchmarks/neurons.py, throughput.py and probe.py
true    the R-20 CIFAR-10 column of tables 2a and A3, several trainings side by side, the most telling first
resume  as `true`: trainings go on from their checkpoints

A stage that fails, or takes longer than it may, is reported and the next one begins. What there is to bring home is in
the folder --out, at every moment: report.txt to read first, results-<n>.tar.gz with the runs (`python -m bkdsnn import`
takes them; put back into the kit, trainings go on elsewhere), measured.tar.gz with logs and benchmarks.
Exit code: 0 if all went well, whether or not there was time for every training; 1 if anything failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bkdsnn.config import RunSpec, catalogue, paper
from bkdsnn.core import files
from bkdsnn.core.errors import RESUMABLE

PYTHON, OK = shlex.quote(sys.executable), "ok"
BKDSNN = f"{PYTHON} -m bkdsnn"
COLUMN, TABLES = "resnet20-cifar10", ("table2a", "tableA3")
COPY = "cifar10-jpeg75"  # what stands in for CIFAR-10
ROWS = ("ann", "sew-resnet", "bkdsnn", "kdsnn", "ld", "bkd", "lasnn", "tet", "spiking-resnet")
CASES = {"cuda": ("R20-32px", "R18-224px", "Spikingformer-4-384"), "cpu": ("demo-R20",)}
# Seconds that each may take, times --patience; `steps` of one network.
SECONDS = {"machine": 60, "data": 120, "right": 130, "neurons": 45, "steps": 60, "probe": 50, "save": 10, "table": 8}
END = 30  # seconds kept free at the end for saving, tables and packing
LEAST = 5  # seconds; with fewer no stage begins
REFRESH = 45  # seconds between two updates of what is in --out
ARCHIVES, BYTES = 5, 11 << 20  # of results: how many at most, and how large before they are compressed


class Stage(NamedTuple):
    """A shell line; `read` makes lines for the report of what it prints."""

    name: str
    line: str
    read: Callable[[list[str]], list[str]]

    @property
    def seconds(self) -> float:
        """The budget of its kind."""
        return SECONDS[self.name.partition("-")[0]]


class Stages:
    """What all stages share: options, deadline, report, what failed, and the folders to bring home."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.began = options, float(os.environ.get("KIT_BEGAN", time.time()))
        self.deadline, self.packed = self.began + options.limit, time.time()
        self.report, self.failed = dict[str, list[str]](), list[str]()
        self.measured, self.folders = options.work / "measured", list[Path]()
        shutil.rmtree(self.measured, ignore_errors=True)
        self.measured.mkdir(parents=True)
        options.out.mkdir(parents=True, exist_ok=True)
        signal.signal(signal.SIGTERM, self.stop)

    def stop(self, *_: object) -> None:
        """End soon: what runs is ended, trainings save, the rest is not begun."""
        self.deadline = min(self.deadline, time.time() + END)

    @property
    def left(self) -> float:
        """Seconds until the end begins."""
        return self.deadline - END - time.time()

    def log(self, name: str) -> Path:
        """Where the output of that name goes."""
        return self.measured / f"{name}.txt"

    def tell(self, name: str, lines: Iterable[str], failed: bool = False) -> None:
        """Set what the report says of a stage, and write it."""
        self.report[name] = list(lines)
        self.failed += [name] if failed and name not in self.failed else []
        spent = f"{time.time() - self.began:.0f} of {self.options.limit:.0f} s"
        text = [f"{spent}; failed: {', '.join(self.failed) or 'nothing'}"]
        for title, said in self.report.items():
            text += ["", f"== {title}", *said]
        files.write_text(self.options.out / "report.txt", "\n".join(text) + "\n")
        print(f"[{spent}] {name}: {self.report[name][0]}", flush=True)

    def start(self, stage: Stage) -> Callable[[], None]:
        """Start a stage; the function that is returned waits for it and reports."""
        limit = time.time() + min(stage.seconds * self.options.patience, self.left)
        if limit - time.time() < LEAST:
            return lambda: self.tell(stage.name, ["NOT RUN: no time left"], failed=True)
        process = begin(shlex.join(["bash", "-c", stage.line]), self.log(stage.name))

        def finish() -> None:
            while process.poll() is None and time.time() < limit and self.left > 0:
                time.sleep(0.1)
                self.pulse()
            state = ended(process)
            output = self.log(stage.name).read_text(errors="replace").splitlines()
            self.tell(stage.name, [state, *stage.read(output), *(error(output) if state != OK else [])], state != OK)
            self.pack()

        return finish

    def run(self, *stages: Stage) -> None:
        """Run stages one after the other."""
        for stage in stages:
            self.start(stage)()

    def pulse(self) -> bool:
        """Pack if that is due; return whether it was."""
        if due := time.time() - self.packed > REFRESH:
            self.pack()
        return due

    def pack(self) -> None:
        """Bring logs, benchmarks and the folders of runs, in their order, to --out."""
        self.packed = time.time()
        archive(self.options.out / "measured.tar.gz", [self.measured])
        groups = list(grouped(filter(Path.is_dir, self.folders)))
        for number in range(1, ARCHIVES + 1):
            target = self.options.out / f"results-{number}.tar.gz"
            archive(target, groups[number - 1]) if number <= len(groups) else target.unlink(missing_ok=True)
        if lost := [folder.name for group in groups[ARCHIVES:] for folder in group]:
            self.tell("packing", [f"LEFT OUT, for {ARCHIVES} archives are full: {', '.join(lost)}"], failed=True)


def begin(line: str, log: Path) -> subprocess.Popen[bytes]:
    """Start a command as leader of a group of processes; what it prints is added to the log."""
    with log.open("a") as stream:
        return subprocess.Popen(shlex.split(line), stdout=stream, stderr=stream, start_new_session=True)


def ended(process: subprocess.Popen[bytes]) -> str:
    """End all processes of a group; say how the first of them did."""
    code = process.poll()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return "CUT OFF: it took too long" if code is None else f"FAILED with exit code {code}" if code else OK


def grouped(folders: Iterable[Path]) -> Iterator[list[Path]]:
    """Yield consecutive folders that fit into one archive."""
    group, size = list[Path](), 0
    for folder in folders:
        own = sum(path.stat().st_size for path in kept(folder))
        if group and size + own > BYTES:
            yield group
            group, size = [], 0
        group.append(folder)
        size += own
    if group:
        yield group


def kept(folder: Path) -> list[Path]:
    """The files of a folder that travel: not locks, temporary files, and the checkpoint before the last."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return [path for path in found if path.name not in ("lock", "previous.safetensors")]


def archive(target: Path, folders: Sequence[Path]) -> None:
    """Pack folders under their names as they are given, the old archive in place until the new one is whole."""
    with files.replacing(target) as temporary, tarfile.open(temporary, "w:gz", compresslevel=1) as tar:
        for folder in folders:
            for path in kept(folder):
                with contextlib.suppress(FileNotFoundError):  # a training replaces its files
                    tar.add(path, path.relative_to(folder.parent) if folder.is_absolute() else path)


def error(output: list[str]) -> list[str]:
    """The first lines of an error, or the last of the output where none is found."""
    said = re.compile(r"E  |(\S+: )?error: |(\w+\.)*\w+(Error|Exception|Interrupt|NotFound)\b|Segmentation")
    first = next((index for index, line in enumerate(output) if said.match(line)), len(output) - 8)
    return ["first lines of the error:", *(f"    {line[:300]}" for line in output[max(first, 0) :][:8])]


def tests(output: list[str]) -> list[str]:
    """Numbers of tests by outcome, also if they were cut off, and the names of those that failed."""
    each = (re.search(r" (PASSED|FAILED|SKIPPED|ERROR)\b", line) for line in output if "::" in line)
    found = Counter(one[1] for one in each if one)
    failed = [f"    {line[:300]}" for line in output if line.startswith(("FAILED ", "ERROR "))]
    shown = ", ".join(f"{count} {word.lower()}" for word, count in found.items()) or "none ended"
    return [shown if found["PASSED"] else f"no test passed: {shown}", *failed[:20]]


def printed(output: list[str]) -> list[str]:
    """The end of what a benchmark prints."""
    return [f"    {line[:300]}" for line in output[-40:] if "Warning" not in line]


def machine(options: argparse.Namespace) -> Stage:
    """What this machine is, and which commit this is; fails at once if the device is absent."""
    code = f"""import platform, torch, triton, pydantic
from bkdsnn.machine import devices
from bkdsnn.runs.provenance import commit
device = devices.describe(devices.choose({options.device!r}, 1))
versions = ", ".join(f"{{one.__name__}} {{one.__version__}}" for one in (torch, triton, pydantic))
print(f"{{device}}; Python {{platform.python_version()}}, {{versions}}; commit {{commit()}}")"""
    return Stage("machine", f"{PYTHON} -c {shlex.quote(code)}", lambda output: output[-1:])


def right(options: argparse.Namespace) -> Stage:
    """The tests marked `gpu`. Warnings are no errors here: another version of a package must not fail every test."""
    marked = [str(path) for path in sorted(Path("tests/unit").glob("test_*.py")) if "mark.gpu" in path.read_text()]
    line = f"{PYTHON} -m pytest -m gpu -vv -W default -rfE --durations 5 -p no:cacheprovider -n {options.processes} "
    return Stage("right", line + shlex.join(options.tests or marked), tests)


def fast(options: argparse.Namespace, measured: Path) -> list[Stage]:
    """The benchmarks; those of steps one by one, so that a network that fails costs no other one."""

    def line(name: str, script: str, more: str) -> str:
        out = shlex.quote(str(measured / f"{name}.json"))
        return f"{PYTHON} benchmarks/{script}.py --device {options.device} --rounds {options.rounds} --out {out} {more}"

    def steps(case: str) -> Stage:
        """Where spikingjelly's fused side fails, the others are measured without it, and the stage has failed."""
        whole = line(f"steps-{case}", "throughput", f"--threads {options.threads} --steps 2 --cases {case}")
        return Stage(f"steps-{case}", f"{whole} || ({whole} --without-fused; false)", printed)

    layers = line("neurons", "neurons", f"--batch {options.batch}")
    probe = line("probe", "probe", f"--scale {options.scale}")
    cases = map(steps, options.cases or CASES[options.device])
    return [Stage("neurons", layers, printed), *cases, Stage("probe", probe, printed)]


def data(options: argparse.Namespace, names: Iterable[str]) -> Stage:
    """The datasets of the column, converted from what the kit carries; what is there is left as it is."""
    target, commands = options.work / "data" / COPY, ["true"]
    if options.images and not target.exists():
        commands.append(f"{BKDSNN} convert {shlex.quote(str(options.images))} {shlex.quote(str(target))}")
    manifests = [Path("results", options.scale, "data", f"{name}.json") for name in names]
    missing = (path.stem for path in manifests if not path.is_file())
    commands += [f"{BKDSNN} data {name} --scale {options.scale}" for name in missing]

    def read(output: list[str]) -> list[str]:
        found = [json.loads(path.read_text()) for path in manifests if path.is_file()]
        return [f"{one['label']}: {one['train']} and {one['test']} images, digest {one['digest']}" for one in found]

    return Stage("data", " && ".join(commands), read)


def planned(options: argparse.Namespace) -> dict[str, RunSpec]:
    """The column's runs by name, row by row with all seeds, what a run builds on before it."""
    found: dict[str, RunSpec] = {}
    expansion = paper.Expansion(options.scale, copies=options.copies)
    plans = [expansion.plan(catalogue.load_table(table), options.seeds) for table in TABLES]
    cells = [cell for plan in plans for cell in plan.cells if cell.column.key == COLUMN]
    for row in options.rows:
        cell = next(cell for cell in cells if cell.row.key == row)
        found |= {one.name: one for spec in cell.runs for one in spec.lineage()}
    return found


class Column:
    """The trainings: as many at a time as there are slots, each `python -m bkdsnn train`."""

    def __init__(self, stages: Stages, runs: dict[str, RunSpec]) -> None:
        self.stages, self.options, self.runs = stages, stages.options, runs
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.fastest = 0.0
        self.failed: dict[str, list[str]] = {}
        results = Path("results", self.options.scale)
        stages.folders = [results / "tables", results / "ledger", *map(self.folder, runs)]

    def folder(self, name: str) -> Path:
        """Where a run lies."""
        return Path("results", self.options.scale, "runs", name)

    def finished(self, name: str) -> bool:
        """Whether a run is done."""
        return (self.folder(name) / "metrics.json").is_file()

    def ready(self) -> list[str]:
        """The runs that can begin now."""
        waiting = (name for name in self.runs if name not in self.running and name not in self.failed)
        able = (name for name in waiting if all(self.finished(one.name) for one in self.runs[name].parents()))
        return [name for name in able if not self.finished(name)]

    def train(self) -> None:
        """Train until all is done, or the end begins; then save, and make the tables."""
        while self.stages.left > 0 and (self.running or self.ready()):
            for name in self.ready()[: self.options.slots - len(self.running)]:
                self.start(name)
            time.sleep(0.2)
            self.reap()
            if self.stages.pulse():
                self.tell()
        self.save()
        self.tables()
        self.tell()
        self.stages.pack()

    def start(self, name: str) -> None:
        """Start a training, or go on with it."""
        line = f"{BKDSNN} train {name} --scale {self.options.scale} --device {self.options.device}"
        self.running[name] = begin(line, self.stages.log(f"train-{name}"))

    def reap(self) -> None:
        """Take note of trainings that have ended; one that saved is none that failed."""
        for name in [name for name, process in self.running.items() if process.poll() is not None]:
            code = self.running[name].returncode
            self.end(name, "" if code in (0, RESUMABLE) else f"exit code {code}")

    def end(self, name: str, wrong: str) -> None:
        """Take a process out of those that run; keep what went wrong, if anything did."""
        ended(self.running.pop(name))
        log = self.stages.log(name if name in TABLES else f"train-{name}")
        if wrong:
            self.failed[name] = [f"    {wrong}", *error(log.read_text(errors="replace").splitlines())]

    def save(self) -> None:
        """Tell the trainings to save, and end those that do not."""
        for process in self.running.values():
            process.terminate()
        self.wait("save", "it did not save in time")

    def wait(self, kind: str, wrong: str) -> None:
        """Wait until all that runs has ended, as long as its kind may take."""
        limit = time.time() + SECONDS[kind] * self.options.patience
        while self.running and time.time() < limit:
            time.sleep(0.1)
            self.reap()
        for name in list(self.running):
            self.end(name, wrong)

    def tables(self) -> None:
        """Write the tables of what there is."""
        for table in TABLES:
            seeds = " ".join(map(str, self.options.seeds))
            line = f"{BKDSNN} table {table} --scale {self.options.scale} --seeds {seeds} {self.options.replaced}"
            self.running[table] = begin(line, self.stages.log(table))
        self.wait("table", "it was not made in time")

    def tell(self) -> None:
        """Report how far every run is, and what went wrong."""
        done = sum(map(self.finished, self.runs))
        lines = [f"{done} of {len(self.runs)} runs finished, {len(self.failed)} failed; {self.speed()}"]
        lines += [line for name in self.runs for line in self.shown(name)]
        lines += [
            line for table in TABLES if table in self.failed for line in (f"{table}: FAILED", *self.failed[table])
        ]
        self.stages.tell("true", lines, failed=bool(self.failed))

    def history(self, name: str) -> list[dict[str, Any]]:
        """The finished epochs of a run."""
        path = self.folder(name) / "history.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    def speed(self) -> str:
        """What all trainings that run do together, at most so far too, and how busy the GPU is."""
        now = sum(history[-1]["images_per_second"] for name in self.running if (history := self.history(name)))
        self.fastest = max(self.fastest, now)
        command = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader"]
        smi = shutil.which(command[0]) and subprocess.run(command, capture_output=True, text=True, check=False).stdout
        told = f"{len(self.running)} running at {now:.0f} images/s in all, {self.fastest:.0f} at most"
        return f"{told}; GPU: {(smi or 'none').strip()}"

    def shown(self, name: str) -> list[str]:
        """The lines of a run: how far it is, accuracy and speed, and why it failed."""
        history, recipe = self.history(name), self.runs[name].recipe
        state = "FAILED" if name in self.failed else "finished" if self.finished(name) else "to do"
        line = f"{name}: {state}, {len(history)} of {recipe.total_epochs if recipe else 0} epochs"
        if history:
            rate, seconds = (statistics.median(one[key] for one in history) for key in ("images_per_second", "seconds"))
            line += f", top-1 {history[-1]['top1']:.2f} %, {rate:.0f} images/s, {seconds:.1f} s an epoch"
            line += f", {max(one['peak_memory_mb'] for one in history):.0f} MiB"
        return [line, *self.failed.get(name, [])]


def prepare(options: argparse.Namespace) -> None:
    """Say to all that is started: share the GPU, and take the JPEG copy for CIFAR-10 where the kit has one."""
    os.environ["BKDSNN_GPU_SHARE"] = "32"  # more than processes and slots
    options.images = next(iter(sorted(options.kit.glob("cifar10-jpeg*"))), None)
    options.copies, options.replaced = {}, ""
    if options.images:
        os.environ["BKDSNN_DATA_ROOT"] = str(options.work / "data")
        options.copies, options.replaced = {"cifar10": COPY}, f"--datasets cifar10={COPY}"


def main(arguments: list[str] | None = None) -> int:
    """Run the stages of a mode; see the module's text for the exit code."""
    options = parser().parse_args(arguments)
    prepare(options)
    stages, runs = Stages(options), planned(options)
    column = Column(stages, runs)
    stages.run(machine(options))
    prepared = stages.start(data(options, {spec.dataset.name for spec in runs.values()}))
    if options.mode in ("all", "right"):
        stages.run(right(options))
    prepared()  # it runs beside the tests; nothing runs beside the benchmarks
    if options.mode in ("all", "fast"):
        stages.run(*fast(options, stages.measured))
    if options.mode in ("all", "true", "resume"):
        column.train()
    print((options.out / "report.txt").read_text(), flush=True)
    return bool(stages.failed)


def parser() -> argparse.ArgumentParser:
    """The options; LIMIT and OUT of the environment are defaults."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("mode", nargs="?", default="all", choices=("all", "right", "fast", "true", "resume"))
    add, said = made.add_argument, "(default: %(default)s)"
    add("--limit", type=float, default=float(os.environ.get("LIMIT", 570)), help=f"seconds for everything {said}")
    add("--out", type=Path, default=Path(os.environ.get("OUT", "out")), help=f"what comes back {said}")
    add("--kit", type=Path, default=Path(), help="folder that `make gpu-kit` filled")
    add("--work", type=Path, default=Path("work"), help=f"scratch folder {said}")
    add("--device", default="cuda", choices=sorted(CASES), help=said)
    add("--scale", default="lite", help=said)
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help=said)
    add("--rows", nargs="+", default=ROWS, choices=ROWS, help="of the column, the first ones first (default: all)")
    add("--slots", type=int, default=7, help=f"trainings at a time {said}")
    add("--patience", type=float, default=1, help=f"multiple of each stage's time that it may take {said}")
    add("--tests", nargs="+", help="files of tests (default: all that have tests marked `gpu`)")
    add("--processes", type=int, default=8, help=f"for the tests; 0: no others {said}")
    add("--threads", type=int, default=8, help=f"of the CPU, for the benchmarks of steps {said}")
    add("--batch", type=int, default=256, help=f"images in the benchmark of neurons {said}")
    add("--cases", nargs="+", help="cases of throughput.py (default: one, or on a GPU three)")
    add("--rounds", type=int, default=3, help=f"measurements of each side of a benchmark {said}")
    return made


if __name__ == "__main__":
    sys.exit(main())
