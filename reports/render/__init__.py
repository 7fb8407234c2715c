"""Finished tables and reports as text: markdown, LaTeX, HTML, CSV, JSON, the terminal, and the report page.

`build`, `provenance` and the command line may import it. It must not read the tracking store or compute a number.
"""
