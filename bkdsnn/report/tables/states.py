"""The progress of a table, for the terminal."""

from __future__ import annotations

from collections import Counter
from typing import get_args

from bkdsnn.report.tables import markdown
from bkdsnn.report.tables.cells import State, TableModel


def summary(model: TableModel) -> str:
    """Return a line that counts the cells in each state, followed by the table."""
    counts = Counter(cell.state for cell in model.cells)
    states = ", ".join(f"{counts[state]} {state}" for state in get_args(State) if counts[state])
    return f"{model.name} at scale {model.scale}: {len(model.cells)} cells, {states}\n\n{markdown.table(model)}"
