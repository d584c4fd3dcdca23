"""Arguments that several subcommands share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias, get_args

from bkdsnn.config import catalogue, paper

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # where each module adds its own


def command(
    commands: Commands,
    name: str,
    function: Callable[[argparse.Namespace], str | None],
) -> argparse.ArgumentParser:
    """Add a subcommand whose help is the docstring of its function; text that it returns is printed."""
    made = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
    made.set_defaults(command=function)
    return made


def common(one: argparse.ArgumentParser) -> None:
    """Add --scale and --results."""
    one.add_argument("--scale", default="demo", help=f"one of: {', '.join(catalogue.scale_names())} (default: demo)")
    one.add_argument("--results", type=Path, default=Path("results"), help="results folder (default: results)")


def described(one: argparse.ArgumentParser) -> None:
    """Add --spec."""
    said = "YAML or JSON file that describes a run: a spec.json, or what a cell of a table says (see README)"
    one.add_argument("--spec", type=Path, help=said)


def logged(one: argparse.ArgumentParser) -> None:
    """Add --log."""
    one.add_argument("--log", type=Path, help="also log to this file")


def planned(one: argparse.ArgumentParser) -> None:
    """Add --neurons and --seeds, which choose the runs of a table or figure."""
    with_neurons(one)
    one.add_argument("--seeds", type=int, nargs="+", help="seeds (default: those of the scale)")


def with_neurons(one: argparse.ArgumentParser) -> None:
    """Add --neurons."""
    one.add_argument("--neurons", default="reference", choices=get_args(paper.Preset), help="neuron preset")


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


def positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    """Return a type of argument: a number of that kind above 0."""

    def parse(text: str) -> float:
        value = kind(text)
        if not value > 0:  # nan too
            raise argparse.ArgumentTypeError(f"must be more than 0, found {text}")
        return value

    parse.__name__ = kind.__name__
    return parse
