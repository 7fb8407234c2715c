"""A proxy before a real server that errs as servers and networks do."""

from __future__ import annotations

import http.client
import itertools
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULTS = ("500", "429", "cut", "slow", "lost")
"""Two answers; no answer, to a request that is not carried out, carried out late, or carried out at once."""
EVERY = 5
"""One of so many requests meets a fault."""
LATE = 1.3
"""Seconds after which a slow request is carried out; the client has given up by then."""


class Proxy(ThreadingHTTPServer):
    """Hands requests on to a port of the loopback. The faults come in turns; the first two requests to make a run meet
    the two faults that make it although the client does not hear of it."""

    def __init__(self, target: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.target, self.lock = target, threading.Lock()
        self.turns, self.faults, self.creations = itertools.count(1), itertools.cycle(FAULTS), iter(("lost", "slow"))
        self.met: Counter[str] = Counter()
        self.open = 0
        self.errs, self.authorization = True, ""
        """Whether there are faults; the header without which a request is refused, if there is one."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fault(self, path: str) -> str | None:
        """The fault that a request meets, if any."""
        with self.lock:
            fault = next(self.creations, None) if path.endswith("runs/create") else None
            if not fault and next(self.turns) % EVERY == 0:
                fault = next(self.faults)
            self.met.update([fault] if self.errs and fault else [])
            return fault if self.errs else None

    def settle(self) -> None:
        """Wait until what clients have given up is carried out too."""
        while self.open:
            time.sleep(0.05)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Proxy

    def log_message(self, *arguments: Any) -> None:
        """Tests show no log."""

    def handle_one_request(self) -> None:
        with self.server.lock:
            self.server.open += 1
        try:
            super().handle_one_request()
        finally:
            with self.server.lock:
                self.server.open -= 1

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.authorization not in ("", self.headers.get("Authorization")):
            self._answer(401, b"who?", {})
            return
        fault = self.server.fault(self.path.partition("?")[0])
        if fault in ("500", "429"):
            self._answer(int(fault), b"no", {})
            return
        if fault == "slow":
            time.sleep(LATE)
        answer = (0, b"", {}) if fault == "cut" else self._hand_on(body)
        if fault in ("cut", "slow", "lost"):
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        self._answer(*answer)

    do_POST = do_PUT = do_DELETE = do_PATCH = do_GET

    def _hand_on(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.target, timeout=60)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        kept = {name: text for name, text in answer.getheaders() if name.lower() == "content-type"}
        return answer.status, content, kept

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, text in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def erring(address: str) -> Iterator[Proxy]:
    """A proxy before the server at an address."""
    proxy = Proxy(int(address.rpartition(":")[2]))
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
