"""Subcommands that write tables and figures."""

from __future__ import annotations

import argparse
from pathlib import Path

from bkdsnn.analysis.energy import Constants
from bkdsnn.cli import arguments
from bkdsnn.cli.analysis_commands import planned_figure
from bkdsnn.cli.arguments import positive
from bkdsnn.config import catalogue, plans
from bkdsnn.config import figure_plans as figures
from bkdsnn.core import progress


def add(commands: arguments.Commands) -> None:
    """Add these subcommands to the parser."""
    for name, command in (("table", table), ("layers", layers)):
        one = arguments.command(commands, name, command)
        one.add_argument("table", help=f"one of: {', '.join(catalogue.table_names())}")
        arguments.common(one)
        arguments.planned(one)
        arguments.logged(one)
        for kind, words, picojoules in (("mac", "multiply-accumulate", 4.6), ("ac", "accumulate", 0.9)):
            said = f"energy of one {words} operation, pJ (default: {picojoules})"
            one.add_argument(f"--{kind}-pj", type=positive(float), default=picojoules, metavar="PJ", help=said)

    one = arguments.command(commands, "figure", figure)
    one.add_argument("figure", help=f"one of: {', '.join(figures.figure_names())}")
    arguments.common(one)
    arguments.planned(one)
    said = "folder for the images, with a folder per scale in it (default: figures)"
    one.add_argument("--figures", type=Path, default=Path("figures"), metavar="FOLDER", help=said)
    arguments.logged(one)

    one = arguments.command(commands, "notation", notation)
    arguments.common(one)
    arguments.logged(one)

    one = arguments.command(commands, "schema", schema)
    said = "folder to write to (default: config/schemas)"
    one.add_argument("--folder", type=Path, default=catalogue.CONFIG / "schemas", help=said)

    one = arguments.command(commands, "ledger", ledger)
    arguments.common(one)
    arguments.logged(one)


def table(options: argparse.Namespace) -> None:
    """Write a table as CSV, LaTeX and Markdown from the runs that are finished so far."""
    from bkdsnn.report.tables import emit, measure, summary

    plan = arguments.plan(options)
    results = options.results / options.scale
    constants = Constants(options.mac_pj, options.ac_pj)
    emit(plan, results, results / "tables", constants)
    progress.log.info("%s", summary(measure(plan, results, constants)))


def layers(options: argparse.Namespace) -> None:
    """Write operations and energy of every layer of a table's networks as CSV; their runs must have been analysed."""
    from bkdsnn.report.tables.layer_costs import emit_layers

    plan = arguments.plan(options)
    results = options.results / options.scale
    emit_layers(plan, results, results / "tables", Constants(options.mac_pj, options.ac_pj))


def figure(options: argparse.Namespace) -> None:
    """Draw a figure (PNG, PDF and CSV) from finished runs and analyses."""
    chosen = planned_figure(options)
    from bkdsnn.report.figures.draw import draw

    paths = draw(chosen, options.results / options.scale, options.figures / options.scale)
    progress.log.info("%s: %s", options.figure, ", ".join(map(str, paths.values())))


def notation(options: argparse.Namespace) -> None:
    """Write table 1, the notation, as CSV, LaTeX and Markdown; it needs no run."""
    catalogue.load_scale(options.scale)
    from bkdsnn.config.notation import load_notation
    from bkdsnn.report.tables.notation_table import NAME, emit

    made_by = plans.command(NAME, options.scale, "reference", None)
    paths = emit(load_notation(), made_by, options.results / options.scale / "tables")
    progress.log.info("table1: %s", ", ".join(map(str, paths.values())))


def schema(options: argparse.Namespace) -> None:
    """Write the JSON schemas of the files in config/; editors use them to check and complete YAML."""
    from bkdsnn.config.json_schema import write_schemas

    progress.log.info("schemas: %s", ", ".join(map(str, write_schemas(options.folder))))


def ledger(options: argparse.Namespace) -> None:
    """Write the ledger, a table of all attempts at runs, including failed ones, with device, time and memory."""
    from bkdsnn.report.tables.ledger_table import emit

    results = options.results / options.scale
    paths = emit(results, results / "tables")
    progress.log.info("ledger: %s", ", ".join(map(str, paths.values())))
