"""Tables as data: a specification says what stands in rows and columns, `grid` places trials, `fill` computes numbers.

A sweep's own table has a specification too, made of its axes by `sweep`; the others are the YAML files beside this
module; `study` places the runs of the store by them, and computes the numbers of whole grids of settings. Rendering,
figures and `build` may import it. It must not know how a table is printed.
"""

from reports.tables.study import place_runs
from reports.tables.sweep import number_rows, table_of_sweep

__all__ = ["number_rows", "place_runs", "table_of_sweep"]
