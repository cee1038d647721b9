"""A double of a NetApp filer: the part of ONTAP's REST interface that the driver uses.

It answers over HTTP (or HTTPS) from a thread, keeps state, takes slow work on as jobs,
refuses what a filer refuses, counts every request, and fails as it is told to.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
import ssl
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.ontap.answers import answer
from tests.ontap.filer import Filer
from tests.ontap.records import Refused

USER, PASSWORD = "vsadmin", "s3cret-of-the-filer"


@dataclass(frozen=True)
class Request:
    """One that came in."""

    number: int
    method: str
    path: str
    query: dict[str, str]


@dataclass
class Fault:
    """What happens at a request instead of, or besides, its answer.

    ``kind`` is ``drop before``, ``drop after`` (its effect), ``status``, ``slow``, ``hang``,
    ``part`` (of the records, the rest cannot be told), ``call before`` or ``call after``
    (``hook`` is called, then the connection is dropped).
    """

    kind: str
    #: The number of the request among all; 0: the first that matches.
    number: int = 0
    method: str = ".*"
    path: str = ".*"
    status: int = 503
    seconds: float = 0.0
    hook: Callable[[Request], None] | None = None
    times: int = 1

    def hits(self, request: Request) -> bool:
        return (
            self.times > 0
            and self.number in (0, request.number)
            and re.fullmatch(self.method, request.method) is not None
            and re.search(self.path, request.path) is not None
        )


class Double:
    """The filer behind a port of this host."""

    def __init__(self, port: int = 0, tls: tuple[Path, Path] | None = None) -> None:
        self.filer = Filer()
        self.lock = threading.RLock()
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.stopping = threading.Event()
        self.connections: set[socket.socket] = set()
        #: Called after each change, with the lock held.
        self.changed: Callable[[], None] = lambda: None
        double = self

        class Bound(Handler):
            pass

        Bound.double = double
        self._server = ThreadingHTTPServer(("127.0.0.1", port), Bound)
        self._server.daemon_threads = True
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            # The handshake belongs to the thread of the connection, not to the one that accepts.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def start(self) -> Double:
        self._thread.start()
        return self

    def stop(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def asked(self, method: str = ".*", path: str = "") -> list[Request]:
        """The requests so far, of this method and with this path."""
        return [
            one
            for one in self.requests
            if re.fullmatch(method, one.method) and re.search(path, one.path)
        ]

    def forget(self) -> None:
        """Count requests from one again."""
        with self.lock:
            self.requests.clear()
            self.faults.clear()

    def note(self, method: str, path: str, query: dict[str, str]) -> tuple[Request, Fault | None]:
        with self.lock:
            request = Request(len(self.requests) + 1, method, path, query)
            self.requests.append(request)
            fault = next((one for one in self.faults if one.hits(request)), None)
            if fault is not None:
                fault.times -= 1
            return request, fault


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    double: ClassVar[Double]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.double.connections.add(self.connection)

    def finish(self) -> None:
        self.double.connections.discard(self.connection)
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def handle(self) -> None:
        # A client that goes away in the middle is an everyday matter here.
        with contextlib.suppress(OSError):
            super().handle()

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PATCH = do_DELETE = do_GET

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if parts.path.startswith("/double/"):
            return self._control(parts.path, json.loads(text or b"{}"))
        request, fault = self.double.note(self.command, parts.path, query)
        kind = fault.kind if fault else ""
        if fault and kind in ("slow", "hang"):
            self.double.stopping.wait(fault.seconds if kind == "slow" else None)
        if fault and kind == "call before" and fault.hook:
            fault.hook(request)
        if kind in ("drop before", "call before"):
            return self._drop()
        if fault and kind == "status":
            error = {"message": "The service is not available.", "code": "9240595"}
            return self._send(fault.status, {"error": error})
        try:
            self._authorise()
            with self.double.lock:
                self.double.filer.jobs.advance()
                status, body = answer(
                    self.double.filer,
                    self.command,
                    [unquote(part) for part in parts.path.strip("/").split("/")],
                    query,
                    json.loads(text or b"{}"),
                )
                if self.command != "GET":
                    self.double.changed()
        except Refused as refused:
            status, body = refused.status, refused.body()
        except Exception:
            traceback.print_exc()
            raise
        if fault and kind == "call after" and fault.hook:
            fault.hook(request)
        if kind in ("drop after", "call after"):
            return self._drop()
        if kind == "part":
            error = {"message": "A node does not answer.", "code": "13434880"}
            body = {**body, "records": [], "num_records": 0, "error": error}
        self._send(status, body)

    def _authorise(self) -> None:
        wanted = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.headers.get("Authorization") != f"Basic {wanted}":
            raise Refused(401, 6691623, "User is not authorized.")

    def _drop(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/hal+json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _control(self, path: str, told: dict[str, Any]) -> None:
        """What a test, or a person, tells a double that is a process of its own."""
        with self.double.lock:
            if path == "/double/faults":
                self.double.faults[:] = [Fault(**one) for one in told["faults"]]
            elif path == "/double/jobs":
                for key, value in told.items():
                    setattr(self.double.filer.jobs, key, value)
            elif path == "/double/forget":
                self.double.forget()
            elif path != "/double/requests":
                return self._send(404, {})
            asked = [[one.method, one.path, one.query] for one in self.double.requests]
            self._send(200, {"requests": asked})
