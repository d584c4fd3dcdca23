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
    one.add_argument("--scale", default="demo", help=f"one of: {', '.join(catalogue.scale_names())} (default: demo)")
    one.add_argument("--results", type=Path, default=Path("results"), help="results folder (default: results)")


def described(one: argparse.ArgumentParser) -> None:
    """Add --spec."""
    said = "YAML or JSON file that describes a run: a spec.json, or what a cell of a table says (see docs/usage.md)"
    one.add_argument("--spec", type=Path, help=said)


def logged(one: argparse.ArgumentParser) -> None:
    """Add --log."""
    one.add_argument("--log", type=Path, help="also log to this file")


def planned(one: argparse.ArgumentParser) -> None:
    """Add --neurons, --datasets and --seeds, which select the runs of a table or figure."""
    variant(one)
    one.add_argument("--seeds", type=int, nargs="+", help="seeds (default: those of the scale)")


def variant(one: argparse.ArgumentParser) -> None:
    """Add --neurons and --datasets."""
    one.add_argument("--neurons", default="reference", choices=get_args(plans.Preset), help="neuron preset")
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
    one.add_argument("--device", default=device, help="auto, cpu, cuda or cuda:<n> (default: $BKDSNN_DEVICE or auto)")
    one.add_argument("--threads", type=positive(int), default=1, help="CPU threads (default: 1)")
    logged(one)


def recomputing(one: argparse.ArgumentParser) -> None:
    """Add --recompute."""
    said = "train in less memory and more time, to the same result (default: $BKDSNN_RECOMPUTE or false)"
    one.add_argument("--recompute", action="store_true", help=said)


def _replacement(text: str) -> tuple[str, str]:
    paper_dataset, _, other = text.partition("=")
    if not (paper_dataset and other):
        raise argparse.ArgumentTypeError(f"expected such as cifar10=cifar10-jpeg75, found {text}")
    return paper_dataset, other


def positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    """Return an argument type for argparse: a positive number (int or float)."""

    def parse(text: str) -> float:
        value = kind(text)
        if not value > 0:  # nan too
            raise argparse.ArgumentTypeError(f"must be more than 0, found {text}")
        return value

    parse.__name__ = kind.__name__
    return parse
