"""Figures as data: panels and curves declared in YAML, each curve a cell of some table. Pure, and free of torch.

config/figures/fig4.yaml --plan(figure, scale, seeds)--> FigurePlan of panels, each curve with its run specs
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from bkdsnn.config import RunSpec, Strict
from bkdsnn.config.catalogue import CONFIG, known, load, load_table, named_files, place, table_names
from bkdsnn.config.declarations import Column, Deviation, Row, Scale, Table
from bkdsnn.config.paper import Expansion, different
from bkdsnn.config.plans import Cell, Plan, Preset, command
from bkdsnn.core.errors import UserError, unknown

Kind = Literal[
    "gradcam",
    "histogram",
    "accuracy-by-time",
    "accuracy-by-epoch",
    "accuracy-by-timestep",
    "gradient",
    "firing-rates",
]
OF_ONE_SEED = ("gradcam", "histogram")  # kinds of figures that show only the network of the first seed


class Curve(Strict):
    """One method in a panel: a cell of a table."""

    label: str = Field(description="the name that the legend prints")
    row: str = Field(description="key of the cell's row")
    table: str | None = Field(default=None, description="name of the cell's table; none: that of the panel")
    column: str | None = Field(default=None, description="key of the cell's column; none: that of the panel")


class Panel(Strict):
    """A panel of a figure: curves that share the same axes."""

    title: str = Field(description="heading of the panel")
    table: str = Field(description="table whose cells the curves are, such as table2c")
    column: str = Field(description="key of the column whose cells the curves are")
    curves: tuple[Curve, ...] = Field(min_length=1, description="one curve, row of images or histogram per method")

    @model_validator(mode="after")
    def _told_apart(self) -> Panel:
        labels = [curve.label for curve in self.curves]
        if len(set(labels)) != len(labels):
            raise ValueError(f"panel '{self.title}': two curves share a label: {', '.join(labels)}")
        return self


class Figure(Strict):
    """A figure of the paper."""

    name: str = Field(description="name of the figure's file")
    number: str = Field(description="number of the figure in the paper, such as 2a")
    title: str = Field(description="subject of the figure, for its caption")
    kind: Kind = Field(description="kind of plot")
    panels: tuple[Panel, ...] = Field(min_length=1, description="panels, in order")
    images: tuple[int, ...] = Field(default=(), description="indices of the test images that a Grad-CAM figure shows")
    taps: Literal["all", "last"] = Field(
        default="last", description="whether Grad-CAM looks at the features of every stage, or only at the last"
    )
    notes: tuple[str, ...] = Field(default=(), description="sentences below the figure")
    deviations: tuple[Deviation, ...] = Field(default=(), description="rows of docs/deviations.md to cite")

    @model_validator(mode="after")
    def _consistent(self) -> Figure:
        titles = [panel.title for panel in self.panels]
        if len(set(titles)) != len(titles):
            raise ValueError(f"two panels share a title: {', '.join(titles)}")
        if bool(self.images) != (self.kind == "gradcam"):
            raise ValueError(
                f"'images' is {list(self.images)} and 'kind' is '{self.kind}'; only kind 'gradcam' needs 'images'"
            )
        if self.taps != "last" and self.kind != "gradcam":
            raise ValueError(f"'taps' is given with kind '{self.kind}', expected kind 'gradcam'; leave it out")
        return self


class OwnFigure(Figure):
    """A figure that the paper does not have: the user's own, or one of the project's in `config/beyond/`."""

    number: Literal[""] = Field(default="", description="always empty: the paper has no such figure")


@dataclass(frozen=True)
class CurvePlan:
    """A curve with its runs, one per seed."""

    label: str
    runs: tuple[RunSpec, ...]


@dataclass(frozen=True)
class PanelPlan:
    """A panel with its curves."""

    title: str
    curves: tuple[CurvePlan, ...]


@dataclass(frozen=True)
class FigurePlan:
    """A figure at a scale. `data` maps each dataset in use to the paper's dataset that it replaces, or to None."""

    figure: Figure
    scale: Scale
    neurons: Preset
    seeds: tuple[int, ...]
    command: str
    data: dict[str, str | None]
    panels: tuple[PanelPlan, ...]

    def runs(self) -> dict[str, RunSpec]:
        """Every run that the figure shows, by name."""
        runs = (run for panel in self.panels for curve in panel.curves for run in curve.runs)
        return {run.name: run for run in runs}


def figure_names(config: Path = CONFIG) -> list[str]:
    """Names of all figures: the paper's, those that the project adds, and those in the user's own folder."""
    return list(figure_files(config))


def figure_files(config: Path = CONFIG) -> dict[str, Path]:
    """The file of every figure by the figure's name; see `catalogue.named_files`."""
    return named_files("fig", [config / "figures", config / "beyond"], "figures")


def load_figure(name: str, config: Path = CONFIG) -> Figure:
    """Read any figure by name; an unknown name or key raises `UserError`."""
    files = figure_files(config)
    known("figure", name, files)
    return load(Figure if files[name].parent == config / "figures" else OwnFigure, files[name], name)


def plan_figure(expansion: Expansion, figure: Figure, seeds: Iterable[int] | None = None) -> FigurePlan:
    """Expand a figure at a scale; an unknown table, column or row raises `UserError`.

    `seeds` replaces the scale's seeds. A figure that shows single networks uses only the first seed.
    """
    chosen = None if seeds is None else different(seeds)
    cells = [[_cell(expansion, figure, panel, curve, chosen) for curve in panel.curves] for panel in figure.panels]
    panels = (
        PanelPlan(panel.title, tuple(CurvePlan(curve.label, cell.runs) for curve, cell in zip(panel.curves, row)))
        for panel, row in zip(figure.panels, cells)
    )
    flat = [cell for row in cells for cell in row]
    return FigurePlan(
        figure=figure,
        scale=expansion.scale,
        neurons=expansion.preset,
        seeds=max((tuple(run.seed for run in cell.runs) for cell in flat), key=len),
        command=command(figure.name, expansion.scale.name, expansion.preset, chosen, expansion.copies),
        data=_data(expansion, flat),
        panels=tuple(panels),
    )


def _cell(
    expansion: Expansion,
    figure: Figure,
    panel: Panel,
    curve: Curve,
    seeds: tuple[int, ...] | None,
) -> Cell:
    path = figure_files().get(figure.name, CONFIG / "figures" / f"{figure.name}.yaml")
    where = f"{place(path)}, panel '{panel.title}', curve '{curve.label}'"
    name = curve.table or panel.table
    table = load_table(known("table", name, table_names(), where))
    seeds = expansion.scale.seeds if seeds is None else seeds
    if figure.kind in OF_ONE_SEED:
        seeds = seeds[:1]
    column = _column(table, curve.column or panel.column, where)
    return expansion.cell(table, _row(table, curve.row, where), column, seeds)


def _row(table: Table, key: str, where: str) -> Row:
    rows = {row.key: row for row in table.rows}
    if key not in rows:
        raise unknown(f"row of '{table.name}'", key, rows, where)
    return rows[key]


def _column(table: Table, key: str, where: str) -> Column:
    columns = {column.key: column for column in table.columns}
    if key not in columns:
        raise unknown(f"column of '{table.name}'", key, columns, where)
    return columns[key]


def _data(expansion: Expansion, cells: Iterable[Cell]) -> dict[str, str | None]:
    """Map each dataset in use to the paper's datasets that it replaces, or to None."""
    found: dict[str, dict[str, None]] = {}
    for cell in cells:
        used, real = cell.runs[0].dataset, _stood_in_for(expansion, cell)
        found.setdefault(used.label or used.name, {}).update({real: None} if real else {})
    return {name: " and ".join(real) or None for name, real in found.items()}


def _stood_in_for(expansion: Expansion, cell: Cell) -> str | None:
    wanted = cell.column.dataset
    return None if cell.runs[0].dataset.name == wanted else expansion.datasets[wanted].label


def planned(expansion: Expansion, target: str, seeds: Iterable[int] | None) -> Plan | FigurePlan:
    """Return the plan of a table or figure by its name; an unknown name raises `UserError`."""
    if target in figure_names():
        return plan_figure(expansion, load_figure(target), seeds)
    if target == "table1":
        raise UserError("table1, the notation, needs no run; `snakemake --cores 1 table1` makes it")
    known("target", target, {*table_names(), *figure_names()})
    return expansion.plan(load_table(target), seeds)
