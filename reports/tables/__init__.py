"""Tables as data: `spec` says what stands where, `sweep` and `paper` lay it out, `fill` computes the numbers.

The specifications themselves are the YAML files beside this module.
"""

from reports.tables.model import STATES, UNDEFINED, Cell, Column, Row, Source, Table
from reports.tables.sweep import make_table, number_rows

__all__ = ["STATES", "UNDEFINED", "Cell", "Column", "Row", "Source", "Table", "make_table", "number_rows"]
