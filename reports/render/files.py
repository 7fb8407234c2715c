"""The files that every table is written to."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from reports.render.data import to_csv, to_json
from reports.render.latex import to_latex
from reports.render.markup import to_html, to_markdown
from reports.tables import Table

FORMATS = ("md", "tex", "html", "csv", "json")


def render_all(table: Table, about: Mapping[str, Any]) -> dict[str, str]:
    """The text of each file of a table by its ending; `about` says in the JSON how the table was made."""
    return {
        "md": to_markdown(table),
        "tex": to_latex(table),
        "html": to_html(table),
        "csv": to_csv(table),
        "json": to_json(table, about),
    }


def program() -> str:
    """Name and version of this program."""
    try:
        return f"cplearn-sweeps {version('cplearn-sweeps')}"
    except PackageNotFoundError:
        return "cplearn-sweeps"
