"""The tables' declared values are those that the paper prints, no more and no fewer."""

from collections.abc import Iterator
from typing import Any

import pytest

from bkdsnn.config import paper
from bkdsnn.config.catalogue import load_table, table_names
from bkdsnn.config.declarations import Column, Row, Table
from bkdsnn.config.plans import Cell

WITH_SIZES = ("2a", "2b", "2c", "2d")
WITH_EPOCHS = ("4a", "4d", "A1", "A2")
EVENTS = ("3b", "A4")
TABLES = (*WITH_SIZES, "3a", "3b", "4a", "4b", "4c", "4d", "A1", "A2", "A3", "A4")
# The paper's name where a table needs a variant of the method under a name of its own.
PRINTED_AS = {
    "kdsnn-bkd": "kdsnn+bkd",
    "kdsnn-last": "kdsnn",
    "lasnn-bkd": "lasnn+bkd",
    "meta-spikeformer-kd-tuned": "meta-spikeformer-kd",
    "meta-spikeformer-tuned": "meta-spikeformer",
    "spikformer-cml": "spikformer+cml",
    "spikingformer-cml": "spikingformer+cml",
    "spikingformer-cml-events": "spikingformer+cml",
    "tet-sew": "tet",
    "wide-7b-net": "sew-resnet",
}
SETTINGS = {"tau": "ld.tau", "lambda": "bkd.blur_ratio"}
# Differences that the paper prints and its own values contradict: by table, row and column, with what it prints.
MISPRINTS = {
    ("4b", "ld", "sformer-8-384-imagenet"): 0.24,  # 74.69 - 74.35 = 0.34
}

Key = tuple[Any, ...]  # group, method, architecture, dataset, time-steps, tau, lambda; as printed


@pytest.fixture(scope="module", params=TABLES)
def table(request) -> Table:
    return load_table(f"table{request.param}")


@pytest.fixture(scope="module")
def cells(table) -> dict[Key, list[Cell]]:
    """Our cells by the paper's names; it prints a teacher once where ours stands in several columns."""
    found: dict[Key, list[Cell]] = {}
    for cell in paper.plan(table.name, "paper", seeds=[0]).cells:
        found.setdefault(key(table, cell), []).append(cell)
    return found


def key(table: Table, cell: Cell) -> Key:
    own = cell.row.method
    method = cell.column.student if table.number in EVENTS and own in ("none", "snn") else own
    method = PRINTED_AS.get(method, method)
    architecture = architecture_of(table, cell.row, cell.column)
    timesteps = cell.runs[0].network.timesteps
    return (group(table, cell), method, architecture, cell.column.dataset, timesteps, *settings(table, cell))


def group(table: Table, cell: Cell) -> str:
    if table.number == "4d":
        return "without-G" if cell.column.key.endswith("-without-g") else "with-G"
    return "" if table.number == "4a" else cell.row.group


def architecture_of(table: Table, row: Row, column: Column) -> str:
    by_itself = table.number in ("A1", "A2") and row.method == "ann"
    return (by_itself and column.teacher) or column.network


def settings(table: Table, cell: Cell) -> Iterator[float | None]:
    """Tau and lambda of the run, if the table is about them."""
    terms = {term.method: term for term in cell.runs[0].distill}
    for place in SETTINGS.values():
        term, option = place.split(".")
        yield getattr(terms.get(term), option, None) if place in table.settings.values() else None


def rows_of(printed: list[dict[str, str]], table: Table, metric: str) -> list[dict[str, str]]:
    return [line for line in printed if line["table"] == table.number and line["metric"] == metric]


def printed_key(line: dict[str, str]) -> Key:
    names = (line["group"], line["method"], line["architecture"], line["dataset"], int(line["timesteps"]))
    return (*names, *(number(line[setting]) for setting in SETTINGS))


def number(text: str) -> float | None:
    return float(text) if text else None


def test_every_printed_line_belongs_to_a_table_that_is_checked(printed):
    analyses = {"5a", "5b"}  # checked in test_paper_analyses.py
    beyond = {"A5"}  # detection and segmentation, which the project does not have
    assert {line["table"] for line in printed} == {*TABLES} | analyses | beyond
    assert {name.removeprefix("table") for name in table_names()} == {*TABLES} | analyses


def test_accuracies(printed, table, cells):
    lines = {printed_key(line): number(line["value"]) for line in rows_of(printed, table, "top1")}
    declared = {name: {cell.paper for cell in same} for name, same in cells.items()}
    assert any(lines.values())
    # Our rows run through all columns, so some cells are empty of which the paper's text has no trace.
    missing = {name: {None} for name in declared if name not in lines}
    assert declared == {**{name: {value} for name, value in lines.items()}, **missing}


def test_printed_differences_are_to_our_choice_of_baselines(printed, table, cells):
    lines = rows_of(printed, table, "top1")
    expected = {printed_key(line): float(line["delta_printed"]) for line in lines if line["delta_printed"]}
    values = {(cell.row.key, cell.column.key): cell.paper for same in cells.values() for cell in same}
    declared = {
        name: round(cell.paper - values[cell.baseline, cell.column.key], 2)
        for name, (cell, *_) in cells.items()
        if cell.baseline
    }
    misprints = {
        name: MISPRINTS[place]
        for name, (cell, *_) in cells.items()
        if (place := (table.number, cell.row.key, cell.column.key)) in MISPRINTS
    }
    assert not [name for name, wrong in misprints.items() if declared[name] == wrong]
    assert {**declared, **misprints} == expected


def test_the_csv_of_the_table_states_what_is_printed(printed, table, cells, emitted):
    stated = {(line["row"], line["column"]): line for line in emitted(table.name)}
    lines = {printed_key(line): line for line in rows_of(printed, table, "top1")}
    for name, line in lines.items():
        shown = [stated[cell.row.key, cell.column.key] for cell in cells[name]]
        assert [number(one["paper"]) for one in shown] == [number(line["value"])] * len(shown)
        wrong = {MISPRINTS.get((table.number, one["row"], one["column"])) for one in shown} - {None}
        if line["delta_printed"] and float(line["delta_printed"]) not in wrong:
            assert number(shown[0]["paper_difference"]) == float(line["delta_printed"])
    sizes = {line["architecture"]: number(line["value"]) for line in rows_of(printed, table, "params_m")}
    networks = {column.key: column.network for column in table.columns}
    assert all(number(one["paper_parameters_m"]) == sizes.get(networks[column]) for (_, column), one in stated.items())


def test_values_that_the_paper_does_not_print_are_marked_as_inferred(printed, table, cells):
    expected = {printed_key(line) for line in rows_of(printed, table, "top1") if "; inferred:" in line["note"]}
    assert {name for name, (c, *_) in cells.items() if c.paper and c.row.origin == "inferred"} == expected
    assert bool(expected) is (table.number == "3a")


def test_epochs_are_those_printed(printed, table, cells):
    lines = {printed_key(line): line["epochs"] for line in rows_of(printed, table, "top1") if line["epochs"]}
    epochs = {name: {str(cell.runs[0].recipe.epochs) for cell in cells[name]} for name in lines}
    assert bool(lines) is (table.number in WITH_EPOCHS)
    assert epochs == {name: {text} for name, text in lines.items()}


@pytest.mark.parametrize("number", TABLES)
def test_parameter_counts(printed, number):
    table = load_table(f"table{number}")
    expected = {line["architecture"]: float(line["value"]) for line in rows_of(printed, table, "params_m")}
    declared = {(column.network, column.parameters_m) for column in table.columns}
    assert bool(expected) is (number in WITH_SIZES)
    assert declared == (set(expected.items()) or {(column.network, None) for column in table.columns})
