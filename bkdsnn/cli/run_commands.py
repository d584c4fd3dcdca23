"""Subcommands about single runs: list, train, import, time them."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from bkdsnn.cli import arguments
from bkdsnn.cli.arguments import positive
from bkdsnn.config import catalogue, paper
from bkdsnn.config.settings import recomputes
from bkdsnn.core import progress
from bkdsnn.core.errors import UserError
from bkdsnn.machine import launch
from bkdsnn.runs.attempts import expect_progress
from bkdsnn.runs.run_folder import RunFolder


def add(commands: arguments.Commands) -> None:
    """Add these subcommands to the parser."""
    one = arguments.command(commands, "train", train)
    one.add_argument("run", help="run name; `plan` lists them")
    arguments.common(one)
    arguments.on_device(one)
    arguments.recomputing(one)
    one.add_argument("--minutes", type=positive(float), help="save and exit with 75 shortly before so many minutes")
    one.add_argument(
        "--attempt",
        type=positive(int),
        default=1,
        help="from 2 on, refuse if the one before got no further (default: 1)",
    )
    one.add_argument("--resources", type=Path, default=Path("resources"), help="folder of published weights")

    one = arguments.command(commands, "import", import_runs)
    one.add_argument("source", type=Path, help="a run folder, a folder of runs, or an archive (.tar, .tar.gz, .zip)")
    arguments.common(one)
    arguments.logged(one)

    one = arguments.command(commands, "calibrate", calibrate)
    one.add_argument("targets", nargs="*", help="tables and figures whose runs are timed (default: all)")
    arguments.common(one)
    arguments.variant(one)
    one.add_argument("--seconds", type=positive(float), default=1.0, help="for the steps of one kind (default: 1)")
    arguments.on_device(one)
    arguments.recomputing(one)

    one = arguments.command(commands, "plan", plan)
    one.add_argument("table", help=f"one of: {', '.join(catalogue.table_names())}")
    arguments.common(one)
    arguments.planned(one)
    arguments.logged(one)


def train(options: argparse.Namespace) -> None:
    """Carry out a run."""
    spec = paper.find_run(options.run, options.scale)
    results, recompute = options.results / options.scale, recomputes(options.recompute)
    folder, processes = RunFolder(results / "runs", spec), spec.recipe.processes if spec.recipe else 1
    if not launch.started():
        expect_progress(folder, options.attempt)
    from bkdsnn.machine import devices

    alone = processes == 1 or folder.finished
    if not (alone or launch.started()):
        gpus = devices.several(options.device, processes)
        raise SystemExit(launch.launch(options.arguments, processes, gpus))
    from bkdsnn.machine.distributed import ALONE, join
    from bkdsnn.training.execute import execute

    device = devices.choose(options.device, max(1, options.threads // processes), keep_memory=not recompute)
    group = ALONE if alone else join(processes, device)
    execute(spec, results, options.resources, device, options.minutes, group, recompute)


def import_runs(options: argparse.Namespace) -> None:
    """Bring finished runs of another machine into the results, each verified before."""
    catalogue.load_scale(options.scale)
    if not options.source.exists():
        raise UserError(f"{options.source}: no such file or folder")
    from bkdsnn.training import importing

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends it leaves no unpacked archive
    importing.import_runs(options.source, options.scale, options.results / options.scale)


def calibrate(options: argparse.Namespace) -> None:
    """Time a few steps of every kind of run on this machine, for the budget of a dry run."""
    from bkdsnn.budget.targets import runs_of

    specs = runs_of(options.targets, options.scale, options.neurons, dict(options.datasets))
    recompute = recomputes(options.recompute)
    from bkdsnn.budget.calibrate import calibrate as time_steps
    from bkdsnn.machine import devices

    device = devices.choose(options.device, options.threads, keep_memory=not recompute)
    path = time_steps(specs.values(), options.scale, options.results, device, options.seconds, recompute)
    progress.log.info("%s: used by dry runs from now on", path)


def plan(options: argparse.Namespace) -> None:
    """List the runs of a table and whether they are finished."""
    chosen = arguments.plan(options)
    runs = options.results / options.scale / "runs"
    for name in chosen.runs():
        sys.stdout.write(f"{'finished' if (runs / name / 'metrics.json').exists() else 'to do   '} {name}\n")
