"""Subcommands that list, show, train, import and time runs."""

from __future__ import annotations

import argparse
import json
import signal
from pathlib import Path

from bkdsnn.cli import arguments
from bkdsnn.cli.arguments import positive
from bkdsnn.config import catalogue, resolution
from bkdsnn.config import figure_plans as figures
from bkdsnn.config.layers import origins
from bkdsnn.config.resolution import Resolved
from bkdsnn.config.settings import recomputes
from bkdsnn.core import progress
from bkdsnn.core.errors import UserError
from bkdsnn.machine import launch
from bkdsnn.runs import overview
from bkdsnn.runs.artefacts import expect_version, find_run
from bkdsnn.runs.attempts import expect_able_teacher, expect_progress, expect_ready
from bkdsnn.runs.run_folder import RunFolder


def add(commands: arguments.Commands) -> None:
    """Add these subcommands to the parser."""
    one = arguments.command(commands, "train", train)
    arguments.run_or_spec(one)
    arguments.common(one)
    arguments.on_device(one)
    arguments.recomputing(one)
    said = "longest time: the training is saved shortly before and ends with exit code 75 (default: no limit)"
    one.add_argument("--minutes", type=positive(float), metavar="MINUTES", help=said)
    said = (
        "for retries: 2 and more say that the run was tried before, and refuse it if the last try saved no progress, "
        "because another would fail likewise (default: 1, never refused)"
    )
    one.add_argument("--attempt", type=positive(int), default=1, metavar="N", help=said)
    arguments.resourced(one)

    one = arguments.command(commands, "import", import_runs)
    one.add_argument("source", type=Path, help="a run folder, a folder of runs, or an archive (.tar, .tar.gz, .zip)")
    arguments.common(one)
    arguments.logged(one)

    one = arguments.command(commands, "calibrate", calibrate)
    said = "tables and figures whose runs are timed, such as table2c fig4 (default: all)"
    one.add_argument("targets", nargs="*", help=said)
    arguments.common(one)
    arguments.variant(one)
    said = "seconds for which the training steps of each kind of run are repeated (default: 1)"
    one.add_argument("--seconds", type=positive(float), default=1.0, metavar="SECONDS", help=said)
    arguments.on_device(one)
    arguments.recomputing(one)

    one = arguments.command(commands, "plan", plan)
    known = ", ".join((*catalogue.table_names(), *figures.figure_names()))
    one.add_argument("target", help=f"one of: {known}")
    said = "only this row of the table, or curve of the figure, such as bkdsnn (default: all)"
    one.add_argument("--row", help=said)
    said = "only this column of the table, or panel of the figure, such as resnet18-imagenet (default: all)"
    one.add_argument("--column", help=said)
    form = one.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print a list of JSON objects in place of text")
    said = "print only names, and only of the runs whose results the table or figure shows, not of their teachers"
    form.add_argument("--names", action="store_true", help=said)
    arguments.common(one)
    arguments.planned(one)
    arguments.logged(one)

    one = arguments.command(commands, "show", show)
    arguments.run_or_spec(one)
    form = one.add_mutually_exclusive_group()
    form.add_argument("--why", action="store_true", help="print behind each value the file that it came from")
    form.add_argument("--json", action="store_true", help="print the settings as JSON, which `train --spec` reads")
    arguments.common(one)


def train(options: argparse.Namespace) -> None:
    """Carry out one run: train its network, or only evaluate its weights, and write its results.

    An interrupted run continues from its last checkpoint; a finished run is left as it is.
    """
    _expect_run(options)
    spec = (
        resolution.of_file(options.spec, options.scale, options.run).spec
        if options.spec
        else find_run(options.run, options.scale, options.results / options.scale)
    )
    results, recompute = options.results / options.scale, recomputes(options.recompute)
    folder, processes = RunFolder(results / "runs", spec), spec.recipe.processes if spec.recipe else 1
    if not launch.started():
        expect_able_teacher(folder, lambda run: origins(_resolved(options, run.name).parts["recipe"])["floor"])
        expect_progress(folder, options.attempt)
        if options.spec:
            again = f"--spec {options.spec} --scale {options.scale} --results {options.results}"
            expect_ready(folder, again)
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
    """Import finished runs from another machine; each is verified before it is added to the results."""
    catalogue.load_scale(options.scale)
    if not options.source.exists():
        raise UserError(f"{options.source}: no such file or folder")
    from bkdsnn.training import importing

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # raise, so that an unpacked archive is removed
    importing.import_runs(options.source, options.scale, options.results / options.scale)


def calibrate(options: argparse.Namespace) -> None:
    """Time a few training steps of every kind of run on this machine; dry runs then estimate the total time."""
    from bkdsnn.budget.quote import runs_of

    specs = runs_of(options.targets, arguments.expansion(options))
    recompute = recomputes(options.recompute)
    from bkdsnn.budget.calibrate import calibrate as time_steps
    from bkdsnn.machine import devices

    device = devices.choose(options.device, options.threads, keep_memory=not recompute)
    path = time_steps(specs.values(), options.results, device, options.seconds, recompute)
    progress.log.info("%s: used by dry runs from now on", path)


def plan(options: argparse.Namespace) -> str:
    """List the runs of a table or figure with row, column, seed, state and name."""
    chosen = figures.planned(arguments.expansion(options), options.target, options.seeds)
    runs = overview.listed(chosen, options.results / options.scale / "runs", options.row, options.column)
    if options.json:
        return json.dumps([one._asdict() for one in runs], indent=1) + "\n"
    if options.names:
        return "".join(f"{one.name}\n" for one in runs if one.role == "cell")
    return overview.columns(overview.in_words(runs))


def show(options: argparse.Namespace) -> str:
    """Print all settings of a run: dataset, network, losses, teacher, recipe and seed."""
    _expect_run(options)
    found = _resolved(options, options.run)
    if options.json:
        return json.dumps(json.loads(found.spec.canonical()), indent=1) + "\n"
    return overview.details(found, RunFolder(options.results / options.scale / "runs", found.spec), options.why)


def _resolved(options: argparse.Namespace, run: str | None) -> Resolved:
    """The run of this name, with the place that states each value; None: the run that the user's file describes."""
    if options.spec or run is None:
        return resolution.of_file(options.spec, options.scale, run)
    stored = options.results / options.scale / "runs" / run / "spec.json"
    try:
        return resolution.resolve(run, options.scale, stored)
    except UserError:
        expect_version(stored.parent)
        raise


def _expect_run(options: argparse.Namespace) -> None:
    if not (options.run or options.spec):
        raise UserError("no run; expected a name, which `python -m bkdsnn plan <table>` lists, or --spec <file>")
