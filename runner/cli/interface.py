"""`cplearn ui`: MLflow's interface on this machine, open at a sweep."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
import webbrowser
from contextlib import nullcontext, suppress
from socket import create_server
from typing import Annotated

from typer import Argument, Exit, Option

from cplearn.errors import InputError
from runner.cli.console import FAILED, err, out, show, sigterm_as_interrupt
from runner.driver.options import Uri
from sweeps.addresses import resolve, without_secrets

GRACE = 5.0  # Seconds in which MLflow's server must have ended by itself.
LAST_LINES = 15  # Lines of the server's log that are shown where it does not start.


def ui(
    name: Annotated[str | None, Argument(help="The sweep to show; default: the newest.")] = None,
    port: Annotated[int, Option("--port", "-p", min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
    tracking_uri: Uri = None,
) -> None:
    """Open MLflow's user interface on 127.0.0.1 at a sweep, whose trials it compares."""
    from reports.store.connection import NothingThere, connect
    from runner.machine.folders import companion
    from runner.tracking import views
    from runner.tracking.database import check_store, update_artifact_addresses

    uri = resolve(tracking_uri)
    check_store(uri)
    if uri.startswith("http"):
        show(f"The tracking store is a server already: open {without_secrets(uri)}")
        return
    pages = {"page": ""}
    try:  # The server would end with a traceback where the store cannot be read.
        connect(uri)
        pages = views.pages(uri, name) or pages
    except NothingThere:
        if name:
            raise
    update_artifact_addresses(uri)
    try:
        create_server(("127.0.0.1", port)).close()
    except OSError as error:
        raise InputError(f"--port {port}: {os.strerror(error.errno or 0)}; choose another") from None
    address, log = f"http://127.0.0.1:{port}", companion(uri, "ui.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    # MLflow does not end the processes that it starts; so it gets a group of its own, which is ended as a whole.
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    with sigterm_as_interrupt(), log.open("wb") as file:
        server = _start(uri, port, file.fileno())
        try:
            if _answers(server, address):
                for word, page in pages.items():
                    show(f"{word:6} ", (f"{address}/{page}", "bold"))
                show(f"MLflow runs until Ctrl-C; its log: {log}")
                if _is_desktop():
                    webbrowser.open(f"{address}/{next(iter(pages.values()))}")
            code = server.wait()
            show("\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:]), console=err)
            show(("error:", "red"), f" MLflow's server has ended with status {code}; its log: {log}", console=err)
        except KeyboardInterrupt:
            code = 0
        finally:
            _end_group(server)
    raise Exit(FAILED if code else 0)


def _start(uri: str, port: int, log: int) -> subprocess.Popen[bytes]:
    """Start MLflow's server on a store; what it prints goes to the file `log`."""
    # One process starts sooner than MLflow's usual four, and serves one user as well.
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,  # Everybody on this machine can read arguments.
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Without job execution MLflow starts in half the time; only its tools for language models need it.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    return subprocess.Popen(command, env=environment, process_group=0, stdout=log, stderr=log)


def _answers(server: subprocess.Popen[bytes], address: str) -> bool:
    """Wait until the server answers; False if it ends before."""
    with out.status("Starting MLflow ...") if out.is_interactive else nullcontext():
        while server.poll() is None:
            with suppress(OSError):
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                return True
            time.sleep(0.2)
    return False


def _is_desktop() -> bool:
    """Whether a browser can be opened where the user sees it: not over SSH, nor from a script."""
    has_screen = sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return bool(has_screen) and "SSH_CONNECTION" not in os.environ and out.is_interactive


def _end_group(leader: subprocess.Popen[bytes]) -> None:
    """End a process and all that it has started in its group, after a moment to do so by themselves."""
    with suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            leader.wait(GRACE)
        os.killpg(leader.pid, signal.SIGKILL)
    leader.wait()
