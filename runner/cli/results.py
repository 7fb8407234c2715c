"""`cplearn report`, `verify`, `trace` and `ui`: what is in the tracking store."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Exit, Option

from cplearn.errors import InputError
from runner.cli.console import FAILED, err, note, out, show, sigterm_as_interrupt
from runner.driver.options import Results, Uri
from sweeps.addresses import resolve, without_secrets
from sweeps.errors import UserError
from sweeps.loading import parse_override
from sweeps.record import param_text

if TYPE_CHECKING:
    from reports.build import Report

GRACE = 5.0
"""Seconds in which MLflow's server must have ended by itself."""


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
    results: Results = Path("results"),
    tracking_uri: Uri = None,
) -> None:
    """Write tables and figures from the runs in the tracking store, without running anything."""
    from cplearn.data import catalogue
    from reports import build, store
    from reports.render import terminal

    uri = resolve(tracking_uri)
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
            show_reports(build.build(uri, sweep, results, only))
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


def trace(
    path: Annotated[Path, Argument(help="A table's file: table.md, table.tex, ...")],
    words: Annotated[list[str], Argument(help="What the cell's row and column are called, roughly.")],
    tracking_uri: Uri = None,
) -> None:
    """Print the runs behind a cell of a table, their settings, and the command that repeats each."""
    from reports import provenance

    for cell in provenance.trace(resolve(tracking_uri), path, words):
        out.print(provenance.to_text(cell), soft_wrap=True, highlight=False)


def ui(
    port: Annotated[int, Option("--port", "-p", min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
    tracking_uri: Uri = None,
) -> None:
    """Open MLflow's user interface on 127.0.0.1, where runs can be compared."""
    from reports.store.connection import NothingThere, connect
    from runner.tracking.database import check_store, update_artifact_addresses

    uri = resolve(tracking_uri)
    check_store(uri)
    if uri.startswith("http"):
        show(f"The tracking store is a server already: open {without_secrets(uri)}")
        return
    with suppress(NothingThere):  # The server would end with a traceback where the store cannot be read.
        connect(uri)
    update_artifact_addresses(uri)
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        raise InputError(f"--port {port}: {os.strerror(error.errno or 0)}; choose another") from None
    show(f"MLflow on http://127.0.0.1:{port} (Ctrl-C ends it)")
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,  # Everybody on this machine can read arguments.
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Without job execution MLflow starts in half the time; only its tools for language models need it.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    # MLflow does not end the processes that it starts; so it gets a group of its own, which is ended as a whole.
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    with sigterm_as_interrupt():
        server = subprocess.Popen([*command, "--port", str(port)], env=environment, process_group=0)
        try:
            code = server.wait()
        except KeyboardInterrupt:
            code = 0
        finally:
            _end_group(server)
    raise Exit(code)


def _end_group(leader: subprocess.Popen[bytes]) -> None:
    """End a process and all that it has started in its group, after a moment to do so by themselves."""
    with suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            leader.wait(GRACE)
        os.killpg(leader.pid, signal.SIGKILL)
    leader.wait()


def show_reports(reports: Iterable[Report]) -> None:
    """Print the tables of reports, and where they lie."""
    from reports.render import terminal

    for report in reports:
        render = terminal.render_sweep if report.dataset else terminal.render_table
        out.print(render(report.table, out.width), crop=False)
        for text in report.notes:
            note(text)
        show(f"Written to {report.folder / 'report.html' if report.dataset else report.folder}\n")
