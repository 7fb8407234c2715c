"""`cplearn report`, `verify` and `trace`: what is in the tracking store."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Exit, Option

from runner.cli.console import FAILED, err, note, out, show
from runner.driver.options import DataRoot, Results, Uri
from sweeps.addresses import resolve
from sweeps.errors import UserError
from sweeps.loading import parse_override
from sweeps.record import param_text

if TYPE_CHECKING:
    from reports.build import Report

AllMetrics = Annotated[bool, Option("--all-metrics", help="Print the table with every metric, in parts if need be.")]


def report(
    name: Annotated[str | None, Argument(help="A sweep's name; default: every sweep of the store.")] = None,
    dataset: Annotated[str | None, Option("--dataset", "-d", metavar="NAME", help="Only this data set.")] = None,
    table: Annotated[
        str | None, Option("--table", metavar="NAME|FILE", help="One of the paper's tables, or a YAML file.")
    ] = None,
    sweeps: Annotated[
        list[str] | None, Option("--sweep", metavar="NAME", help="With --table: only trials of this sweep.")
    ] = None,
    where: Annotated[list[str], Option(metavar="KEY=VALUE", help="With --table: only trials with this setting.")] = [],  # noqa: B006
    all_metrics: AllMetrics = False,
    checklist: Annotated[
        bool, Option("--checklist", help="Answer what reproducibility checklists ask of the experiments instead.")
    ] = False,
    results: Results = Path("results"),
    tracking_uri: Uri = None,
) -> None:
    """Write tables and figures from the runs in the tracking store, without running anything."""
    from cplearn.data import catalogue
    from reports import build, store
    from reports.render import terminal
    from runner.search.importance import importances

    uri = resolve(tracking_uri)
    if checklist:
        if table or dataset or sweeps or where:
            raise UserError("--checklist takes a sweep's name, or all sweeps, and no other condition")
        folder = build.build_checklist(uri, [name] if name else store.list_sweeps(uri), results)
        show(f"Written to {folder / 'checklist.md'} and .tex")
        return
    if table:
        if name or dataset:
            raise UserError("--table goes with --sweep NAME and --where dataset=NAME, not with a sweep or --dataset")
        kept = dict(map(_condition, where))
        written = build.build_table(uri, table, results, sweeps, kept)
        out.print(terminal.render_table(written.table, out.width), crop=False)
        show(f"Written to {written.folder}\n")
        return
    if sweeps or where:
        raise UserError("--sweep and --where go with --table; for the report of a sweep give its name alone")
    only = {catalogue.absolute(dataset)} if dataset else None
    names = [name] if name else store.list_sweeps(uri, only)
    for sweep in names:
        try:
            show_reports(build.build(uri, sweep, results, only, importances), all_metrics)
        except UserError as error:
            if name or len(names) == 1:
                raise
            # Of many sweeps, one without results must not keep the others from theirs.
            note(f"{error}\n")


def _condition(text: str) -> tuple[str, Any]:
    """A condition of --where: a setting and its value. What is spelled unlike the number that it is counts as text too,
    1e5 for instance."""
    from reports.tables.model import EXTRA

    key, value = parse_override(text, "--where", EXTRA)
    written = text.partition("=")[2]
    return key, value if isinstance(value, str | list) or param_text(value) == written else [value, written]


def verify(
    path: Annotated[Path, Argument(help="A table's file, or a folder of results.")] = Path("results"),
    retrain: Annotated[
        int, Option(min=0, metavar="N", help="Also train N trials of the tables again, drawn at random.")
    ] = 0,
    tolerance: Annotated[
        float, Option(min=0, help="With --retrain: what still agrees on another kind of machine.")
    ] = 0.02,
    data_root: DataRoot = None,
    tracking_uri: Uri = None,
) -> None:
    """Compute every cell of written tables anew from the tracking store; fail if one has drifted."""
    from reports import provenance, store

    uri = resolve(tracking_uri)
    store.open_experiment(uri)  # Whether there is one.
    checked = provenance.verify(uri, path)
    for table in checked:
        for sentence in table.drift:
            show(("drift:", "red"), f" {table.folder}: {sentence}", console=err)
    numbers = sum(table.numbers for table in checked)
    drifted = sum(bool(table.drift) for table in checked)
    tables = f"{len(checked):,} table{'' if len(checked) == 1 else 's'}"
    if drifted:
        again = "cplearn report, or cplearn report --table NAME for one of the paper's tables"
        show(f"{drifted} of {tables} drifted; write what has drifted again with: {again}")
        raise Exit(FAILED)
    show(f"{numbers:,} numbers in {tables} agree with the tracking store.")
    if retrain:
        _retrain(uri, path, retrain, tolerance, data_root)


def _retrain(uri: str, path: Path, count: int, tolerance: float, data_root: Path | None) -> None:
    """Train trials again and say of each how far it agrees; the command fails here if one does not."""
    from runner.driver.retrain import retrain

    held = []
    for trained in retrain(uri, path, count, root=data_root):
        held.append(trained.agreement.holds(trained.same_machine, tolerance))
        show(("agrees:", "green") if held[-1] else ("differs:", "red"), f" {trained}")
    show(
        f"{sum(held)} of {len(held)} trials that were trained again agree: bit for bit on the same kind of machine, "
        f"else within {tolerance:g} of the larger of 1 and the number. Written to {trained.written.parent}"
    )
    if not all(held):
        raise Exit(FAILED)


def trace(
    path: Annotated[Path, Argument(help="A table's file: table.md, table.tex, ...")],
    words: Annotated[list[str], Argument(help="What the cell's row and column are called, roughly.")],
    tracking_uri: Uri = None,
) -> None:
    """Print the runs behind a cell of a table, their settings, and the command that repeats each."""
    from reports import provenance

    for cell in provenance.trace(resolve(tracking_uri), path, words):
        out.print(provenance.to_text(cell), soft_wrap=True, highlight=False)


def show_reports(reports: "Iterable[Report]", all_metrics: bool = False) -> None:
    """Print the tables of reports, those of sweeps with the metrics that decide or with all, and where they lie."""
    from reports.render import terminal

    for report in reports:
        render = terminal.render_sweep if report.dataset and not all_metrics else terminal.render_table
        out.print(render(report.table, out.width), crop=False)
        for text in report.notes:
            note(text)
        show(f"Written to {report.folder / 'report.html' if report.dataset else report.folder}\n")
