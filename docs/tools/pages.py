"""Makes the pages of the site that are generated: the reference from the code, and a page of the notebook. Their text
stands in the templates beside this module.

MkDocs calls the functions whose names begin with `on_` (`hooks` in mkdocs.yml). Nothing is written beside the site.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import jinja2
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel

from cplearn import methods
from cplearn.config.trial import TrialSettings
from cplearn.data.catalogue import CATALOGUE
from reports.metrics import METRICS
from reports.tables import spec
from runner.cli import app
from sweeps import file
from sweeps.loading import load

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = "notebook.ipynb"
TEMPLATES = Path(__file__).with_name("templates")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for name, text in pages():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into their names; raise PluginError for a file that is not there."""

    def name(link: re.Match[str]) -> str:
        text, target = link.groups()
        if not (ROOT / "docs" / target.partition("#")[0]).exists():
            raise PluginError(f"{page.file.src_uri} links to {target}, which does not exist")
        return text

    markdown = markdown.replace(f"]({NOTEBOOK})", "](notebook.md)")
    return re.sub(r"\[([^\]]+)\]\((\.\./[^)]+)\)", name, markdown)


def pages() -> Iterator[tuple[str, str]]:
    """Name and text of each page that is generated, one for each template."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["cell"] = cell
    groups = ("backbone", "augment", "optimizer", "evaluation")
    shipped = sorted([*(ROOT / "sweeps").glob("*.yaml"), *(ROOT / "sweeps/presets").glob("*.yaml")])
    content = {
        "fields": fields,
        "section": section,
        "TrialSettings": TrialSettings,
        "groups": {group: TrialSettings.model_fields[group].annotation for group in groups},
        "catalogue": CATALOGUE,
        "methods": methods,
        "metrics": METRICS,
        "sweep_file": file,
        "sweeps": {path.stem: load(path) for path in shipped},
        "table_spec": spec,
        "commands": list(commands()),
        "targets": re.findall(r"^([a-z0-9-]+):.*?## (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE),
        "cells": json.loads((ROOT / "docs" / NOTEBOOK).read_text())["cells"],
    }
    for name in environment.list_templates():
        yield name.removesuffix(".j2"), environment.get_template(name).render(content)


def commands() -> Iterator[tuple[click.Command, str, list[tuple[str, str]]]]:
    """Each command, its usage, and its arguments and options with what they do."""
    context = typer.Context(typer.main.get_command(app), info_name="cplearn")
    for name, command in context.command.commands.items():  # type: ignore[attr-defined]
        called = typer.Context(command, parent=context, info_name=name)
        usage = " ".join([called.command_path, *command.collect_usage_pieces(called)])
        records = [option.get_help_record(called) for option in command.get_params(called) if option.name != "help"]
        yield command, usage, list(filter(None, records))


def section(heading: str, model: type[BaseModel], prefix: str = "") -> str:
    """What a model is, and its keys with the prefix, under its heading."""
    return f"\n## {heading}\n\n{' '.join((model.__doc__ or '').split())}\n\n{fields(model, prefix)}"


def fields(model: type[BaseModel], prefix: str = "", leave_out: Iterable[str] = ()) -> str:
    """The fields of a model as a markdown table: key, type with bounds, default, sentence."""
    schema = model.model_json_schema()
    lines = ["| key | type | default | what it does |", "| :-- | :-- | :-- | :-- |"]
    for key, field in schema["properties"].items():
        if key not in leave_out:
            value = field.get("default")
            is_shown = value not in (None, "", [], {}) and not isinstance(value, dict)
            default = "required" if key in schema.get("required", []) else f"`{_text(value)}`" if is_shown else ""
            cells = [f"`{prefix}{key}`", kind(field, schema.get("$defs", {})), default, field.get("description", "")]
            lines.append("| " + " | ".join(map(cell, cells)) + " |")
    return "\n".join(lines) if len(lines) > 2 else "No settings of its own."


def kind(field: Mapping[str, Any], models: Mapping[str, Any]) -> str:
    """The type of a field of a JSON schema in words.

    >>> kind({"type": "integer", "minimum": 1}, {})
    'whole number ≥ 1'
    """
    if reference := field.get("$ref"):
        name = reference.rpartition("/")[2]
        return kind(models[name], models) if "enum" in models[name] else "group of keys"
    if "const" in field or "enum" in field:
        return ", ".join(f"`{_text(value)}`" for value in field.get("enum", [field.get("const")]))
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(kind(option, models) for option in field["anyOf"]))
    if field.get("type") == "array":
        return f"list of {kind(field['items'], models)}" if field.get("items") else "list"
    words = {
        "integer": "whole number",
        "number": "number",
        "boolean": "`true`, `false`",
        "string": "text",
        "null": "`null`",
        "object": "mapping",
    }
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {field[key]:,}" for key, sign in signs.items() if key in field]
    return " ".join([words.get(field.get("type", ""), "any value"), ", ".join(bounds)]).strip()


def cell(text: str) -> str:
    """Text in a cell of a markdown table, which a bar would end."""
    return text.replace("|", "\\|")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
