"""The command line. Parsing and checks come first and import no torch, so that mistakes are told at once."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from bkdsnn import errors, launch, paper, progress
from bkdsnn.analysis.energy import Constants
from bkdsnn.attempts import expect_progress
from bkdsnn.errors import Interrupted, UserError
from bkdsnn.figures import plan as figures
from bkdsnn.runs import RunFolder
from bkdsnn.settings import data_root, recomputes, weights_root
from bkdsnn.spec import Dataset


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand and return its exit code: 0 done, 1 bad input, 75 saved and to be continued, 130 Ctrl-C."""
    options = parser().parse_args(arguments)
    options.arguments = sys.argv[1:] if arguments is None else arguments
    try:
        progress.configure(getattr(options, "log", None) if launch.main() else None)
        options.command(options)
    except UserError as error:
        progress.log.error("error: %s", error)
        return 1
    except Interrupted as pause:
        progress.log.info("%s", pause)
        return errors.RESUMABLE
    except KeyboardInterrupt:
        progress.log.info("stopped")
        return 130
    return 0


def train(options: argparse.Namespace) -> None:
    """Carry out a run."""
    spec = paper.find_run(options.run, options.scale)
    results, recompute = options.results / options.scale, recomputes(options.recompute)
    folder, processes = RunFolder(results / "runs", spec), spec.recipe.processes if spec.recipe else 1
    if not launch.started():
        expect_progress(folder, options.attempt)
    from bkdsnn import devices

    alone = processes == 1 or folder.finished
    if not (alone or launch.started()):
        gpus = devices.several(options.device, processes)
        raise SystemExit(launch.launch(options.arguments, processes, gpus))
    from bkdsnn.distributed import ALONE, join
    from bkdsnn.execute import execute

    device = devices.choose(options.device, max(1, options.threads // processes), keep_memory=not recompute)
    group = ALONE if alone else join(processes, device)
    execute(spec, results, options.resources, device, options.minutes, group, recompute)


def data(options: argparse.Namespace) -> None:
    """Check or build a dataset and write its manifest."""
    from bkdsnn.data import prepare

    dataset = _dataset(options)
    prepare(dataset, None if dataset.embedded else data_root(options.root), _manifest(options))


def frames(options: argparse.Namespace) -> None:
    """Integrate the recordings of a prepared event dataset to frames."""
    dataset = _dataset(options)
    if not dataset.events:
        raise UserError(f"dataset '{options.dataset}' has images; expected one with recordings of events")
    from bkdsnn.data.events.frames import convert as convert_events

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends the job leaves no half-written arrays
    convert_events(dataset, _manifest(options), options.timesteps)


def weights(options: argparse.Namespace) -> None:
    """Fetch and check published weights."""
    from bkdsnn.weights import fetch, stored

    known = {one.name: one for one in paper.published_weights()}
    if options.name not in known:
        raise errors.unknown("weights", options.name, known)
    target = stored(options.resources / "weights", known[options.name])
    fetch(known[options.name], target, weights_root(options.root))


def table(options: argparse.Namespace) -> None:
    """Write a table from what has been measured so far."""
    from bkdsnn.tables import emit, measure, summary

    plan = paper.plan(options.table, options.scale, seeds=options.seeds, neurons=options.neurons)
    results = options.results / options.scale
    constants = Constants(options.mac_pj, options.ac_pj)
    emit(plan, results, results / "tables", constants)
    progress.log.info("%s", summary(measure(plan, results, constants)))


def activity(options: argparse.Namespace) -> None:
    """Count firing rates and operations of a finished run."""
    spec = paper.find_run(options.run, options.scale)
    from bkdsnn import devices
    from bkdsnn.analysis.activity import analyse

    analyse(spec, options.results / options.scale, devices.choose(options.device, options.threads))


def layers(options: argparse.Namespace) -> None:
    """Write operations and energy of every layer of a table's networks."""
    from bkdsnn.tables.layers import emit_layers

    plan = paper.plan(options.table, options.scale, seeds=options.seeds, neurons=options.neurons)
    results = options.results / options.scale
    emit_layers(plan, results, results / "tables", Constants(options.mac_pj, options.ac_pj))


def gradcam(options: argparse.Namespace) -> None:
    """Map what the networks of a figure look at, by Grad-CAM."""
    chosen = _figure(options, "gradcam")
    from bkdsnn import devices
    from bkdsnn.analysis.gradcam import analyse

    analyse(chosen, options.results / options.scale, devices.choose(options.device, options.threads))


def features(options: argparse.Namespace) -> None:
    """Count the features before the last layer of the networks of a figure."""
    chosen = _figure(options, "histogram")
    from bkdsnn import devices
    from bkdsnn.analysis.features import analyse

    analyse(chosen, options.results / options.scale, devices.choose(options.device, options.threads))


def figure(options: argparse.Namespace) -> None:
    """Draw a figure from what finished runs and analyses left."""
    chosen = _figure(options)
    from bkdsnn.figures.draw import draw

    paths = draw(chosen, options.results / options.scale, options.figures / options.scale)
    progress.log.info("%s: %s", options.figure, ", ".join(map(str, paths.values())))


def notation(options: argparse.Namespace) -> None:
    """Write table 1, the notation, checked on one training batch of a finished run."""
    from bkdsnn.notation.plan import load_notation, plan_notation

    expansion = paper.Expansion(options.scale, neurons=options.neurons)
    chosen = plan_notation(expansion, load_notation(), options.seeds)
    from bkdsnn import devices
    from bkdsnn.notation.check import check
    from bkdsnn.notation.trace import trace
    from bkdsnn.tables.notation import emit

    results = options.results / options.scale
    found = trace(chosen.spec, results, devices.choose(options.device, options.threads))
    emit(check(chosen, found), results / "tables")
    progress.log.info("table1: every entry holds on the first batch of %s", chosen.spec.name)


def ledger(options: argparse.Namespace) -> None:
    """Write the ledger: every attempt at a run, failed ones too, with device, time and memory."""
    from bkdsnn.tables.ledger import emit

    results = options.results / options.scale
    paths = emit(results, results / "tables")
    progress.log.info("ledger: %s", ", ".join(map(str, paths.values())))


def plan(options: argparse.Namespace) -> None:
    """List the runs of a table and whether they are finished."""
    chosen = paper.plan(options.table, options.scale, seeds=options.seeds, neurons=options.neurons)
    runs = options.results / options.scale / "runs"
    for name in chosen.runs():
        sys.stdout.write(f"{'finished' if (runs / name / 'metrics.json').exists() else 'to do   '} {name}\n")


def calibrate(options: argparse.Namespace) -> None:
    """Time a few steps of every kind of run on this machine, for the budget of a dry run."""
    from bkdsnn.budget.targets import runs_of

    specs, recompute = runs_of(options.targets, options.scale, options.neurons), recomputes(options.recompute)
    from bkdsnn import devices
    from bkdsnn.budget.calibrate import calibrate as time_steps

    device = devices.choose(options.device, options.threads, keep_memory=not recompute)
    path = time_steps(specs.values(), options.scale, options.results, device, options.seconds, recompute)
    progress.log.info("%s: used by dry runs from now on", path)


def import_runs(options: argparse.Namespace) -> None:
    """Bring finished runs of another machine into the results, each verified before."""
    paper.load_scale(options.scale)
    if not options.source.exists():
        raise UserError(f"{options.source}: no such file or folder")
    from bkdsnn import importing

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends it leaves no unpacked archive
    importing.import_runs(options.source, options.scale, options.results / options.scale)


def convert(options: argparse.Namespace) -> None:
    """Convert pickled CIFAR or image folders to the binary layout that the pipeline reads."""
    from bkdsnn.data.convert import convert as convert_data

    progress.log.info("%s", convert_data(options.source, options.target))


def parser() -> argparse.ArgumentParser:
    """Return the parser; every subcommand has --help."""
    top = argparse.ArgumentParser(prog="python -m bkdsnn", description=sys.modules["bkdsnn"].__doc__)
    commands = top.add_subparsers(required=True, metavar="command")
    one = _command(commands, "train", train)
    one.add_argument("run", help="run name; `plan` lists them")
    _common(one)
    _on_device(one)
    _recomputing(one)
    one.add_argument("--minutes", type=_positive(float), help="save and exit with 75 shortly before so many minutes")
    one.add_argument(
        "--attempt",
        type=_positive(int),
        default=1,
        help="from 2 on, refuse if the one before got no further (default: 1)",
    )
    one.add_argument("--resources", type=Path, default=Path("resources"), help="folder of published weights")

    one = _command(commands, "activity", activity)
    one.add_argument("run", help="name of a finished run")
    _common(one)
    _on_device(one)

    one = _command(commands, "data", data)
    one.add_argument("dataset", help="name in config/datasets.yaml")
    _common(one)
    one.add_argument("--root", type=Path, help="folder with your data (default: $BKDSNN_DATA_ROOT)")
    one.add_argument("--log", type=Path, help="also log to this file")

    one = _command(commands, "frames", frames)
    one.add_argument("dataset", help="name in config/datasets.yaml")
    one.add_argument("--timesteps", type=_positive(int), required=True, help="T, frames of one recording")
    _common(one)
    one.add_argument("--log", type=Path, help="also log to this file")

    one = _command(commands, "weights", weights)
    one.add_argument("name", help="such as torchvision/ResNet18_Weights.IMAGENET1K_V1")
    one.add_argument("--root", type=Path, help="folder with the files (default: $BKDSNN_WEIGHTS_ROOT, else download)")
    one.add_argument("--resources", type=Path, default=Path("resources"), help="where to put them")
    one.add_argument("--log", type=Path, help="also log to this file")

    for name, command in (("table", table), ("layers", layers), ("plan", plan)):
        one = _command(commands, name, command)
        one.add_argument("table", help=f"one of: {', '.join(paper.table_names())}")
        _common(one)
        one.add_argument("--neurons", default="reference", choices=get_args(paper.Preset), help="neuron preset")
        one.add_argument("--seeds", type=int, nargs="+", help="seeds (default: those of the scale)")
        one.add_argument("--log", type=Path, help="also log to this file")
        if name != "plan":
            one.add_argument("--mac-pj", type=_positive(float), default=4.6, help="energy of a MAC, pJ (default: 4.6)")
            one.add_argument("--ac-pj", type=_positive(float), default=0.9, help="energy of an AC, pJ (default: 0.9)")

    one = _command(commands, "notation", notation)
    _common(one)
    one.add_argument("--neurons", default="reference", choices=get_args(paper.Preset), help="neuron preset")
    one.add_argument("--seeds", type=int, nargs="+", help="seeds (default: those of the scale); the first is used")
    _on_device(one)

    for name, command in (("gradcam", gradcam), ("features", features), ("figure", figure)):
        one = _command(commands, name, command)
        one.add_argument("figure", help=f"one of: {', '.join(figures.figure_names())}")
        _common(one)
        one.add_argument("--neurons", default="reference", choices=get_args(paper.Preset), help="neuron preset")
        one.add_argument("--seeds", type=int, nargs="+", help="seeds (default: those of the scale)")
        if name == "figure":
            one.add_argument("--figures", type=Path, default=Path("figures"), help="where to draw (default: figures)")
            one.add_argument("--log", type=Path, help="also log to this file")
        else:
            _on_device(one)

    one = _command(commands, "ledger", ledger)
    _common(one)
    one.add_argument("--log", type=Path, help="also log to this file")

    one = _command(commands, "calibrate", calibrate)
    one.add_argument("targets", nargs="*", help="tables and figures whose runs are timed (default: all)")
    _common(one)
    one.add_argument("--neurons", default="reference", choices=get_args(paper.Preset), help="neuron preset")
    one.add_argument("--seconds", type=_positive(float), default=1.0, help="for the steps of one kind (default: 1)")
    _on_device(one)
    _recomputing(one)

    one = _command(commands, "import", import_runs)
    one.add_argument("source", type=Path, help="a run folder, a folder of runs, or an archive (.tar, .tar.gz, .zip)")
    _common(one)
    one.add_argument("--log", type=Path, help="also log to this file")

    one = _command(commands, "convert", convert)
    one.add_argument(
        "source", type=Path, help="cifar-10-batches-py, cifar-100-python (folder, .tar.gz or .zip) or images"
    )
    one.add_argument("target", type=Path, help="folder to make")
    return top


def _figure(options: argparse.Namespace, kind: str | None = None) -> figures.FigurePlan:
    """Return the plan of the figure that was named, if it is of that kind."""
    chosen = figures.load_figure(options.figure)
    if kind and chosen.kind != kind:
        right = [name for name in figures.figure_names() if figures.load_figure(name).kind == kind]
        raise UserError(f"{options.figure} is of kind '{chosen.kind}', expected '{kind}': {', '.join(right)}")
    return figures.plan_figure(paper.Expansion(options.scale, neurons=options.neurons), chosen, options.seeds)


def _dataset(options: argparse.Namespace) -> Dataset:
    """Return the dataset that was named, if a run of the scale uses it."""
    datasets = {spec.dataset.name: spec.dataset for spec in paper.all_runs(options.scale, seeds=[0]).values()}
    if options.dataset not in datasets:
        raise errors.unknown("dataset", options.dataset, datasets, f"scale '{options.scale}'")
    return datasets[options.dataset]


def _manifest(options: argparse.Namespace) -> Path:
    return options.results / options.scale / "data" / f"{options.dataset}.json"


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    function: Callable[[argparse.Namespace], None],
) -> argparse.ArgumentParser:
    made = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
    made.set_defaults(command=function)
    return made


def _common(one: argparse.ArgumentParser) -> None:
    one.add_argument("--scale", default="demo", help=f"one of: {', '.join(paper.scale_names())} (default: demo)")
    one.add_argument("--results", type=Path, default=Path("results"), help="results folder (default: results)")


def _on_device(one: argparse.ArgumentParser) -> None:
    device = os.environ.get("BKDSNN_DEVICE", "auto")
    one.add_argument("--device", default=device, help="auto, cpu, cuda or cuda:<n> (default: $BKDSNN_DEVICE or auto)")
    one.add_argument("--threads", type=_positive(int), default=1, help="CPU threads (default: 1)")
    one.add_argument("--log", type=Path, help="also log to this file")


def _recomputing(one: argparse.ArgumentParser) -> None:
    said = "train in less memory and more time, to the same result (default: $BKDSNN_RECOMPUTE or false)"
    one.add_argument("--recompute", action="store_true", help=said)


def _positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = kind(text)
        if not value > 0:  # nan too
            raise argparse.ArgumentTypeError(f"must be more than 0, found {text}")
        return value

    parse.__name__ = kind.__name__
    return parse
