"""Connections: how many there are, and how long a head may be and may take.

uvicorn limits how many requests are served, and how long a connection may stay idle. What it does
not limit is here: connections that never send a whole head, and heads without an end. Bodies are
the business of `orchestrator.api.door`.
"""

from __future__ import annotations

import asyncio
from asyncio.events import TimerHandle
from typing import ClassVar

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from orchestrator.api import problems
from orchestrator.domain.errors import HeadTooLarge, MalformedBody, Problem, Unavailable

log = structlog.get_logger(__name__)

#: The most bytes of a request's line and headers.
MAX_HEAD = 64 * 1024
#: Seconds for a client to hear that it was refused before it has sent its body to the end.
_LINGER_SECONDS = 5.0


class Connection(HttpToolsProtocol):
    """One connection of a client."""

    #: Connections that are served at once; further ones are told so and closed.
    most: ClassVar[int] = 10_000
    #: Seconds for a head to arrive.
    head_seconds: ClassVar[float] = 10.0

    _due: TimerHandle | None = None
    #: Whether what comes next belongs to a head, and how much of that has come.
    _in_head: bool = True
    _head_bytes: int = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self._refuse(Unavailable("there are too many connections: try again shortly"))
        else:
            self._close_unless_done(self.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._done()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A piece of a request has come."""
        if self._in_head:
            self._head_bytes += len(data)
            if self._due is None:
                self._close_unless_done(self.head_seconds)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD and not self.transport.is_closing():
            self._refuse(HeadTooLarge())

    def on_message_begin(self) -> None:
        """A head has begun."""
        self._close_unless_done(self.head_seconds)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is there: from here on the application answers."""
        self._done()
        self._in_head = False
        length = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        app = self.app
        if length > MAX_HEAD:
            self.app = problems.respond(HeadTooLarge())
        super().on_headers_complete()
        self.app = app

    def on_message_complete(self) -> None:
        """The request is there whole: what comes next is another one's head."""
        self._done()
        self._in_head, self._head_bytes = True, 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """It was answered, perhaps before its body came: what comes of that is dropped."""
        if not self._in_head:
            self._close_unless_done(_LINGER_SECONDS)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        log.debug("api.no_http", peer=self.client)
        self._refuse(MalformedBody("this is no HTTP request"))

    def _close_unless_done(self, seconds: float) -> None:
        self._done()
        self._due = self.loop.call_later(seconds, self._overdue)

    def _done(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _overdue(self) -> None:
        self._due = None
        answered = getattr(self.cycle, "response_complete", True)
        if self._in_head and not answered:
            return  # part of another request, while the one before it is still answered
        if not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        """Say why, and close. There is no request that the application could answer."""
        self._done()
        answer = problems.respond(problem)
        head = [f"HTTP/1.1 {answer.status_code} \r\n".encode(), b"connection: close\r\n"]
        head += [name + b": " + value + b"\r\n" for name, value in answer.raw_headers]
        self.transport.write(b"".join([*head, b"\r\n", bytes(answer.body)]))
        self.transport.close()


def limited(most: int, head_seconds: float) -> type[Connection]:
    """The kind of connection that has these limits."""
    return type("LimitedConnection", (Connection,), {"most": most, "head_seconds": head_seconds})
