"""Subcommands that measure finished runs."""

from __future__ import annotations

import argparse

from bkdsnn.cli import arguments
from bkdsnn.config import figure_plans as figures
from bkdsnn.core.errors import UserError
from bkdsnn.runs.artefacts import find_run


def add(commands: arguments.Commands) -> None:
    """Add these subcommands to the parser."""
    one = arguments.command(commands, "activity", activity)
    one.add_argument("run", help="name of a finished run, which `plan` lists")
    arguments.common(one)
    arguments.on_device(one)

    for name, command in (("gradcam", gradcam), ("features", features)):
        one = arguments.command(commands, name, command)
        one.add_argument("figure", help=f"one of: {', '.join(figures.figure_names())}")
        arguments.common(one)
        arguments.planned(one)
        arguments.on_device(one)


def activity(options: argparse.Namespace) -> None:
    """Measure firing rates and operations of a finished run over its whole test set."""
    spec = find_run(options.run, options.scale, options.results / options.scale)
    from bkdsnn.analysis.activity import analyse
    from bkdsnn.machine import devices

    analyse(spec, options.results / options.scale, devices.choose(options.device, options.threads))


def gradcam(options: argparse.Namespace) -> None:
    """Compute the Grad-CAM maps of a figure's networks: the image regions that decide their predictions."""
    chosen = planned_figure(options, "gradcam")
    from bkdsnn.analysis.gradcam import analyse
    from bkdsnn.machine import devices

    analyse(chosen, options.results / options.scale, devices.choose(options.device, options.threads))


def features(options: argparse.Namespace) -> None:
    """Compute histograms of the features before the last layer for the networks of a figure."""
    chosen = planned_figure(options, "histogram")
    from bkdsnn.analysis.feature_histograms import analyse
    from bkdsnn.machine import devices

    analyse(chosen, options.results / options.scale, devices.choose(options.device, options.threads))


def planned_figure(options: argparse.Namespace, kind: str | None = None) -> figures.FigurePlan:
    """Return the plan of the named figure; `UserError` if it is not of the given kind."""
    chosen = figures.load_figure(options.figure)
    if kind and chosen.kind != kind:
        right = [name for name in figures.figure_names() if figures.load_figure(name).kind == kind]
        raise UserError(f"{options.figure} is of kind '{chosen.kind}', expected '{kind}': {', '.join(right)}")
    return figures.plan_figure(arguments.expansion(options), chosen, options.seeds)
