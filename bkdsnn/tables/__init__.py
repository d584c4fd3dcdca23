"""Tables of the paper with measured values: one cell model, three renderers.

Plan + results/<scale>/runs/*  --measure-->  TableModel  --csv | latex | markdown-->  text
"""

from bkdsnn.tables.cells import ColumnModel, MeasuredCell, State, TableModel
from bkdsnn.tables.emission import emit
from bkdsnn.tables.measurement import measure
from bkdsnn.tables.states import summary

__all__ = ["ColumnModel", "MeasuredCell", "State", "TableModel", "emit", "measure", "summary"]
