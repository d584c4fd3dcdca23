"""The tables' declared values are those that the paper prints, no more and no fewer."""

import csv
from collections.abc import Iterator

import pytest

from bkdsnn.paper import Column, Row, Table, load_table

TABLES = ("2a", "2c")
PRINTED_AS = {"qcfs-8": "qcfs", "tet-sew": "tet"}  # our name where a table needs a variant of the paper's method


@pytest.fixture(scope="module")
def printed(samples) -> list[dict[str, str]]:
    with samples("../paper/reported_values.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module", params=TABLES)
def table(request) -> Table:
    return load_table(f"table{request.param}")


def cells(table: Table) -> Iterator[tuple[Row, Column, int]]:
    yield from ((row, column, i) for row in table.rows for i, column in enumerate(table.columns))


def key(row: Row, column: Column) -> tuple[str, str, str, str, int]:
    method = PRINTED_AS.get(row.method, row.method)
    return (row.group, method, column.network, column.dataset, row.timesteps)


def rows_of(printed: list[dict[str, str]], table: Table, metric: str) -> list[dict[str, str]]:
    return [line for line in printed if line["table"] == table.number and line["metric"] == metric]


def printed_key(line: dict[str, str]) -> tuple[str, str, str, str, int]:
    return (line["group"], line["method"], line["architecture"], line["dataset"], int(line["timesteps"]))


def number(text: str) -> float | None:
    return float(text) if text else None


def test_accuracies(printed, table):
    expected = {printed_key(line): number(line["value"]) for line in rows_of(printed, table, "top1")}
    declared = {key(row, column): row.paper[i] for row, column, i in cells(table)}
    assert expected
    assert declared == expected


def test_printed_differences_are_to_our_choice_of_baselines(printed, table):
    lines = rows_of(printed, table, "top1")
    expected = {printed_key(line): float(line["delta_printed"]) for line in lines if line["delta_printed"]}
    values = {(row.method, column.key): row.paper[i] for row, column, i in cells(table)}
    declared = {
        key(row, column): round(row.paper[i] - values[row.delta_against[i], column.key], 2)
        for row, column, i in cells(table)
        if row.delta_against
    }
    assert expected
    assert declared == expected


def test_parameter_counts(printed, table):
    expected = {line["architecture"]: float(line["value"]) for line in rows_of(printed, table, "params_m")}
    declared = {(column.network, column.parameters_m) for column in table.columns}
    assert expected
    assert declared == set(expected.items())
