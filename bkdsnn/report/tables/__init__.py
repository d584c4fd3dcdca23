"""Tables of the paper with measured values: one cell model, three renderers.

Plan + results/<scale>/runs/*  --measure-->  TableModel  --csv | latex | markdown-->  text
"""

from bkdsnn.report.tables.cells import ColumnModel, MeasuredCell, State, TableModel
from bkdsnn.report.tables.emission import emit
from bkdsnn.report.tables.measurement import measure
from bkdsnn.report.tables.states import summary

__all__ = ["ColumnModel", "MeasuredCell", "State", "TableModel", "emit", "measure", "summary"]
