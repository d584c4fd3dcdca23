"""Arguments that several subcommands share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias, get_args

from bkdsnn.config import catalogue, paper, plans

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # each module adds its subcommands to it


def command(
    commands: Commands,
    name: str,
    function: Callable[[argparse.Namespace], str | None],
) -> argparse.ArgumentParser:
    """Add a subcommand. The docstring of its function is the help text; the text that it returns is printed."""
    made = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
    made.set_defaults(command=function)
    return made


def common(one: argparse.ArgumentParser) -> None:
    """Add --scale and --results."""
    scales = ", ".join(catalogue.scale_names())
    one.add_argument("--scale", default="demo", help=f"size of data and trainings, one of: {scales} (default: demo)")
    said = "folder of all results, with a folder per scale in it (default: results)"
    one.add_argument("--results", type=Path, default=Path("results"), metavar="FOLDER", help=said)


def described(one: argparse.ArgumentParser) -> None:
    """Add --spec."""
    said = "YAML or JSON file that describes a run that no table names (docs/usage.md), or the spec.json of a run"
    one.add_argument("--spec", type=Path, metavar="FILE", help=said)


def logged(one: argparse.ArgumentParser) -> None:
    """Add --log."""
    one.add_argument("--log", type=Path, metavar="FILE", help="append the messages to this file too (default: no file)")


def planned(one: argparse.ArgumentParser) -> None:
    """Add --neurons, --datasets and --seeds, which select the runs of a table or figure."""
    variant(one)
    said = "seeds of the runs, such as 0 1 2 (default: those of the scale)"
    one.add_argument("--seeds", type=int, nargs="+", metavar="SEED", help=said)


def variant(one: argparse.ArgumentParser) -> None:
    """Add --neurons and --datasets."""
    said = (
        "spiking neurons of all networks: those of each network's published code (reference), or IF neurons with a "
        "sigmoid surrogate, as in the paper's text (paper-text); each has runs of its own (default: reference)"
    )
    one.add_argument("--neurons", default="reference", choices=get_args(plans.Preset), help=said)
    said = "such as cifar10=cifar10-jpeg75: another dataset in place of one of the paper (default: those of the scale)"
    one.add_argument("--datasets", type=_replacement, nargs="+", default=[], metavar="PAPER=OTHER", help=said)


def expansion(options: argparse.Namespace) -> paper.Expansion:
    """Return the expansion of tables and figures into runs for the options of `variant`."""
    return paper.Expansion(options.scale, neurons=options.neurons, copies=dict(options.datasets))


def plan(options: argparse.Namespace) -> plans.Plan:
    """Return the plan of the named table for the options of `planned`."""
    return expansion(options).plan(catalogue.load_table(options.table), options.seeds)


def on_device(one: argparse.ArgumentParser) -> None:
    """Add --device, --threads and --log."""
    device = os.environ.get("BKDSNN_DEVICE", "auto")
    said = "cpu, cuda, cuda:<n>, or auto: a GPU where there is one (default: $BKDSNN_DEVICE, else auto)"
    one.add_argument("--device", default=device, help=said)
    one.add_argument("--threads", type=positive(int), default=1, metavar="N", help="number of CPU threads (default: 1)")
    logged(one)


def recomputing(one: argparse.ArgumentParser) -> None:
    """Add --recompute."""
    said = "train in less memory and more time, to the same result; see docs/memory.md (default: $BKDSNN_RECOMPUTE)"
    one.add_argument("--recompute", action="store_true", help=said)


def _replacement(text: str) -> tuple[str, str]:
    paper_dataset, _, other = text.partition("=")
    if not (paper_dataset and other):
        raise argparse.ArgumentTypeError(f"expected two datasets such as cifar10=cifar10-jpeg75, found '{text}'")
    return paper_dataset, other


def resourced(one: argparse.ArgumentParser) -> None:
    """Add --resources."""
    said = "folder in whose folder weights/ published weights are stored (default: resources)"
    one.add_argument("--resources", type=Path, default=Path("resources"), metavar="FOLDER", help=said)


def run_or_spec(one: argparse.ArgumentParser) -> None:
    """Add the name of a run, which may be left out, and --spec."""
    said = "name of a run, which `plan` lists; may be left out with --spec, whose file then decides"
    one.add_argument("run", nargs="?", help=said)
    described(one)


def positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    """Return an argument type for argparse: a positive number (int or float)."""

    def parse(text: str) -> float:
        value = kind(text)
        if not value > 0:  # nan too
            raise argparse.ArgumentTypeError(f"must be more than 0, found {text}")
        return value

    parse.__name__ = kind.__name__
    return parse
