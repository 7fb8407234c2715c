"""Makes the pages of the site that are generated: the reference from the code, and a page of the notebook.

MkDocs calls the functions whose names begin with `on_` (`hooks` in mkdocs.yml). Nothing is written beside the site.
"""

import html
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel

from cplearn import methods
from cplearn.config.groups import AugmentSettings, BackboneSettings, EvaluationSettings, OptimizerSettings
from cplearn.config.trial import TrialSettings
from cplearn.data.catalogue import CATALOGUE
from reports.metrics import METRICS
from reports.tables import choice, spec
from runner.cli import app
from sweeps import file
from sweeps.loading import load

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = "notebook.ipynb"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for name, page in PAGES.items():
        files.append(File.generated(config, f"{name}.md", content=page()))
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


def settings() -> str:
    """Every setting of a trial, group by group."""
    groups: dict[str, type[BaseModel]] = {
        "backbone": BackboneSettings,
        "augment": AugmentSettings,
        "optimizer": OptimizerSettings,
        "evaluation": EvaluationSettings,
    }
    text = [
        "# Settings",
        "Everything that can be set for a trial: under `settings` or `axes` in a sweep file, and as `--set KEY=VALUE` "
        "on the command line. `cplearn settings METHOD --dataset NAME` prints the same list with the defaults for one "
        "method and one data set.",
        "## Trial",
        fields(TrialSettings, leave_out=(*groups, "method")),
    ]
    for group, model in groups.items():
        text += [f"## {group.capitalize()}", fields(model, f"{group}.")]
    text += ["## Defaults of the data sets", "Other defaults of a trial follow from its data set.", _of_data_sets()]
    text += ["## Methods", "`method.name` chooses the method. [Methods](methods.md) has the equations."]
    for name in methods.names():
        text += [f"### {name}", fields(methods.get(name).Settings, "method.", leave_out=("name",))]
    return "\n\n".join(text)


def _of_data_sets() -> str:
    rows = []
    for name, entry in CATALOGUE.items():
        backbone = ", ".join(f"`backbone.{key}={value}`" for key, value in entry.backbone.items())
        own = [f"`method.{key}={value}` for `{m}`" for m, group in entry.method.items() for key, value in group.items()]
        size = [f"`image_size={entry.image_size}`"] if entry.image_size else []
        further = ", ".join([*size, f"`decode={entry.decode[0]}`", *own])
        rows.append([f"`{name}`", backbone, f"`augment.recipe={entry.recipe}`", further])
    return table(["data set", "backbone", "augmentation", "further"], rows)


def metrics() -> str:
    """Every metric that tables know."""
    direction = {"higher": "more is better", "lower": "less is better", None: "not ranked"}
    rows = [
        [f"`{metric.name}`", metric.heading, direction[metric.better], str(metric.decimals)]
        for metric in METRICS.values()
    ]
    return "\n\n".join(
        [
            "# Metrics",
            "The metrics that tables and figures know by name, in the order in which tables show them. "
            "[Evaluation](evaluation.md) defines each of them. A run in MLflow has further ones; a table shows these "
            "too if its file gives them a heading ([Table file](table-file.md)).",
            table(["metric", "heading", "in tables", "decimals"], rows),
        ]
    )


def sweep_file() -> str:
    """The keys of a sweep file."""
    parts: dict[str, tuple[type[BaseModel], str]] = {
        "File": (file.SweepFile, ""),
        "Arm": (file.Arm, "arms.NAME."),
        "Scale": (file.Scale, "scales.NAME."),
        "Resources": (file.ResourceRequest, "resources."),
        "Range": (file.Range, "axes.SETTING."),
        "Search": (file.SearchSettings, "search."),
        "Scheduler asha": (file.AshaSettings, "scheduler."),
        "Scheduler collapse": (file.CollapseSettings, "scheduler."),
    }
    listed = [
        [f"`{path.stem}`", content["description"], ", ".join([*content.get("scales", {}), "full"])]
        for path in sorted([*(ROOT / "sweeps").glob("*.yaml"), *(ROOT / "sweeps/presets").glob("*.yaml")])
        for content in [load(path)]
    ]
    text = [
        "# Sweep file",
        "What a sweep file can hold. A key that is not listed here is refused, with the nearest one that is known.",
    ]
    return "\n\n".join(
        [*text, *sections(parts), "## Sweeps that come with the program", table(["name", "what", "scales"], listed)]
    )


def sections(parts: Mapping[str, tuple[type[BaseModel], str]]) -> Iterator[str]:
    """A section for each model, under its heading: what it is, and its keys with the prefix."""
    for heading, (model, prefix) in parts.items():
        yield from (f"## {heading}", sentence(model), fields(model, prefix))


def table_file() -> str:
    """The keys of a table's specification."""
    parts: dict[str, tuple[type[BaseModel], str]] = {
        "File": (spec.TableSpec, ""),
        "Rows and columns": (spec.Dimension, ""),
        "Metrics": (spec.Shown, ""),
        "Select": (choice.Selection, "select."),
        "Study": (choice.StudySettings, "study."),
        "Criteria": (choice.StudiedCriterion, "study.criteria.NAME."),
    }
    listed = [[f"`{name}`", spec.read(name).title] for name in spec.names()]
    text = [
        "# Table file",
        "What the specification of a table can hold. [How to make a paper's tables](reports.md) explains it by an "
        "example.",
    ]
    return "\n\n".join(
        [*text, *sections(parts), "## Tables that come with the program", table(["name", "what"], listed)]
    )


def commands() -> str:
    """Every command with its arguments and options, and the targets of the Makefile."""
    text = ["# Commands", "Each command has a `--help`, which says the same."]
    context = typer.Context(typer.main.get_command(app), info_name="cplearn")
    for name, command in context.command.commands.items():  # type: ignore[attr-defined]
        own = typer.Context(command, parent=context, info_name=name)
        usage = " ".join([own.command_path, *command.collect_usage_pieces(own)])
        records = [option.get_help_record(own) for option in command.get_params(own) if option.name != "help"]
        rows = [[_code(names), what] for names, what in filter(None, records)]
        text += [f"## {name}", f"```text\n{usage}\n```", command.help or "", table(["option", "what it does"], rows)]
    lines = re.findall(r"^([a-z0-9-]+):.*?## (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    targets = [[f"`make {target}`", what] for target, what in lines]
    return "\n\n".join([*text, "## make", table(["target", "what it does"], targets)])


def notebook() -> str:
    """The notebook as a page: its text, its code, and what the code has shown."""
    cells = json.loads((ROOT / "docs" / NOTEBOOK).read_text())["cells"]
    return "\n\n".join(part for cell in cells for part in _of_cell(cell))


def _of_cell(cell: Mapping[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    yield source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```"
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        if "image/png" in data:
            yield f"![What the cell shows](data:image/png;base64,{''.join(data['image/png']).strip()})"
        elif "text/html" in data:
            yield "".join(data["text/html"])
        else:
            yield f"```text\n{''.join(output.get('text', data.get('text/plain', '')))}\n```"


PAGES: dict[str, Callable[[], str]] = {
    "settings": settings,
    "metrics": metrics,
    "sweep-file": sweep_file,
    "table-file": table_file,
    "commands": commands,
    "notebook": notebook,
}


def fields(model: type[BaseModel], prefix: str = "", leave_out: Iterable[str] = ()) -> str:
    """The fields of a model as a table: key, type with bounds, default, sentence."""
    schema = model.model_json_schema()
    required = schema.get("required", [])
    rows = [
        [
            f"`{prefix}{key}`",
            kind(field, schema.get("$defs", {})),
            "required" if key in required else _default(field.get("default")),
            field.get("description", ""),
        ]
        for key, field in schema["properties"].items()
        if key not in leave_out
    ]
    return table(["key", "type", "default", "what it does"], rows) if rows else "No settings of its own."


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
        return " or ".join(dict.fromkeys(kind(one, models) for one in field["anyOf"]))
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


def _code(text: str) -> str:
    """Text as code in a cell of a table, where markdown would end the cell at a bar."""
    return f"<code>{html.escape(text).replace('|', '&#124;')}</code>"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _default(value: Any) -> str:
    return "" if value in (None, "", [], {}) or isinstance(value, dict) else f"`{_text(value)}`"


def sentence(model: type[BaseModel]) -> str:
    """The docstring of a model on one line."""
    return " ".join((model.__doc__ or "").split())


def table(head: list[str], rows: Iterable[Iterable[str]]) -> str:
    """A markdown table."""
    lines = [head, [":--"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
