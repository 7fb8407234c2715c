"""Tables as data: a specification says what stands in rows and columns, `grid` places trials, `fill` computes numbers.

A sweep's own table has a specification too, made of its axes by `sweep`; the others are the YAML files beside this
module. In tables about whole grids of settings `study` computes the numbers. Rendering, figures and `build` may import
it. It must not know how a table is printed.
"""

from reports.tables.runs import study_points, table_of_runs, table_scores
from reports.tables.sweep import number_rows, table_of_sweep

__all__ = ["number_rows", "study_points", "table_of_runs", "table_of_sweep", "table_scores"]
