"""The door: what is decided of a request before a route sees it.

In this order, each from what is known by then: who asks, from the head alone; how long the body
may be, and how fast it must come; and only then is it read. A request that is refused costs its
head, however long the body is that it announces.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import structlog
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from orchestrator.api import problems
from orchestrator.api.refusals import REASONS
from orchestrator.api.requesting import ACTOR, ASKING, BODY, Trusted, token_in
from orchestrator.api.service import Service
from orchestrator.domain.actors import Actor
from orchestrator.domain.errors import (
    BodyTooLarge,
    InternalError,
    InvalidInput,
    NotAllowed,
    NotAuthenticated,
    Problem,
    SlowRequest,
)
from orchestrator.domain.states import Role
from orchestrator.nas.edges.v3 import refusal as nas_refusal

log = structlog.get_logger(__name__)

#: The most bytes of a body, but for batches.
MAX_BODY = 2**20
#: A body has to come at this rate at least, in bytes a second, beside the time it has in any case.
_SLOWEST = 16 * 1024
#: What anybody may read. A token that comes with it is not looked at.
_OPEN = frozenset({"/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/v3/openapi.json"})
#: What is open of `/v3` whatever is configured: which roles there are, and which one has.
_OPEN_NAS = "/v3/conf/"
_BATCHES = "/v1/batches"
#: Headers of which a second one would silently not be heeded. Two of ``Authorization`` are no token
#: (`token_in`); ``Prefer`` may come in several (RFC 7240).
_ONCE = frozenset({b"idempotency-key", b"reason", b"content-type", b"last-event-id"})
_REQUEST_ID = b"x-request-id"
_ID = re.compile(rb"[A-Za-z0-9._:+/=@-]{1,128}")
#: How much of a path is logged.
_MOST_OF_PATH = 1000
#: What every answer carries, unless it has its own: browsers shall run, frame and keep nothing.
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
]
_STAY_WITH_HTTPS = (b"strict-transport-security", b"max-age=31536000")


class Room(Protocol):
    """Another application behind the same door, which finds out by itself who asks."""

    def serves(self, path: str) -> bool:
        """Whether this path, below the prefix, is one of its own."""

    async def who_asks(self, path: str, scope: Scope) -> Actor | None:
        """Who asks; None where anybody may. Raises `NotAuthenticated`."""

    def refusal(self, problem: Problem, path: str) -> ASGIApp:
        """What answers a request that does not come in."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; its scope has who asks, and the body."""


class Door:
    """The outermost layer of the application."""

    def __init__(
        self,
        app: ASGIApp,
        service: Service,
        trusted: Trusted[Actor],
        *,
        nas_is_open: bool,
        room: Room | None = None,
    ) -> None:
        """``nas_is_open``: whether somebody without a token may do anything at ``/v3``."""
        self.app = app
        self._room = room
        self._service = service
        self._trusted = trusted
        self._nas_is_open = nas_is_open
        self._settings = service.settings.api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope, path = self._placed(scope)
        scope[ACTOR] = None
        ASKING.set(None)
        request_id = _id_of(scope)
        bind_contextvars(request=request_id)
        if self._settings.access_log:
            with _logged(scope, path, send) as send:
                await self._let_in(scope, path, request_id, receive, send)
        else:
            await self._let_in(scope, path, request_id, receive, send)

    async def _let_in(
        self, scope: Scope, path: str, request_id: str, receive: Receive, send: Send
    ) -> None:
        send = self._answering(scope, path, request_id, send)
        if scope["method"] == "HEAD":
            scope, send = _as_get(scope, send)
        room = self._room if self._room is not None and self._room.serves(path) else None
        who_asks, refuse = (room.who_asks, room.refusal) if room else (self._who_asks, _refuse)
        try:
            actor = scope[ACTOR] = await who_asks(path, scope)
            _refuse_doubled(scope)
            body = await self._body(path, scope, receive, actor)
        except Problem as problem:
            await refuse(problem, path)(scope, receive, send)
            return
        except Exception as error:
            problems.note_unforeseen(error, path)
            await refuse(InternalError(), path)(scope, receive, send)
            return
        if body is None:
            return  # the client has gone
        scope[BODY] = body
        if path.startswith("/v1/") and path.endswith("/"):
            # Relative, so that it is right whatever stands in front of the service.
            query = scope["query_string"].decode("latin-1")
            where = scope["path"].rstrip("/") + (f"?{query}" if query else "")
            await RedirectResponse(where)(scope, receive, send)
            return
        await (room or self.app)(scope, _given(body, receive), send)

    def _answering(self, scope: Scope, path: str, request_id: str, send: Send) -> Send:
        """What sends an answer with what every answer carries, and notes those that refuse."""

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                present = {name for name, _ in headers}
                headers += [header for header in _HEADERS if header[0] not in present]
                headers.append((_REQUEST_ID, request_id.encode()))
                if scope["scheme"] == "https":
                    headers.append(_STAY_WITH_HTTPS)
                message = {**message, "headers": headers}
                if message["status"] in REASONS:
                    self._service.refusals.note(message["status"], scope, path, scope[ACTOR])
            await send(message)

        return answer

    def _placed(self, scope: Scope) -> tuple[Scope, str]:
        """The scope with the path as it was sent, and the path below the prefix.

        Names in paths are decoded where they are validated: ``a%2Fb`` stays one segment. A proxy
        may take the prefix off or leave it: both are understood.
        """
        raw = scope.get("raw_path") or scope["path"].encode()
        path = raw.partition(b"?")[0].decode("latin-1")
        prefix = self._settings.root_path
        if prefix and (path == prefix or path.startswith(f"{prefix}/")):
            path = path[len(prefix) :] or "/"
        return {**scope, "path": prefix + path, "root_path": prefix}, path

    async def _who_asks(self, path: str, scope: Scope) -> Actor | None:
        """Whose token it is; None where none is needed. Raises `NotAuthenticated`."""
        if path in _OPEN or path.startswith("/docs/"):
            return None
        token = token_in(scope["headers"])
        if token is not None:
            actor = await self._trusted.check(self._service, token)
            ASKING.set((self._trusted, token))
            return actor
        nas = path.startswith("/v3/")
        if nas and (self._nas_is_open or path.startswith(_OPEN_NAS)):
            return None
        raise NotAuthenticated()

    async def _body(
        self, path: str, scope: Scope, receive: Receive, actor: Actor | None
    ) -> bytes | None:
        """The body; None if the client has gone. Raises `BodyTooLarge`, `SlowRequest`."""
        headers = dict(scope["headers"])
        announced = headers.get(b"content-length", b"0")
        if announced == b"0" and b"transfer-encoding" not in headers:
            return b""
        most = MAX_BODY
        if scope["method"] == "POST" and path == _BATCHES:
            if actor is None or not actor.role.includes(Role.OPERATOR):
                raise NotAllowed(f"this needs the role {Role.OPERATOR}")
            most = self._settings.max_body_bytes
        too_large = BodyTooLarge(f"the body has more than {most} bytes: send less at once")
        if announced.isdigit() and int(announced) > most:
            raise too_large
        parts: list[bytes] = []
        received = 0
        clock = asyncio.get_running_loop()
        began = clock.time()
        while True:
            due = began + self._settings.request_seconds + received / _SLOWEST
            try:
                async with asyncio.timeout_at(due):
                    message = await receive()
            except TimeoutError:
                raise SlowRequest(
                    f"only {received} bytes of the body came within {clock.time() - began:.0f} s: "
                    "send it again, and faster"
                ) from None
            if message["type"] != "http.request":
                return None
            part = message.get("body", b"")
            received += len(part)
            if received > most:
                raise too_large
            parts.append(part)
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)


def _id_of(scope: Scope) -> str:
    """What tells a request from others in logs: what the client or a proxy calls it, or our own."""
    sent = [value for name, value in scope["headers"] if name == _REQUEST_ID]
    if len(sent) == 1 and _ID.fullmatch(sent[0]):
        return str(sent[0], "ascii")
    return secrets.token_hex(8)


@contextmanager
def _logged(scope: Scope, path: str, send: Send) -> Iterator[Send]:
    """Log the request once it was answered; without its query and its headers: nothing secret."""
    began, status = time.monotonic(), None

    async def noting(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        await send(message)

    try:
        yield noting
    finally:
        actor: Actor | None = scope[ACTOR]
        log.info(
            "api.access",
            method=scope["method"],
            path=path[:_MOST_OF_PATH],
            status=status,
            seconds=round(time.monotonic() - began, 4),
            token=None if actor is None else actor.name,
            client=scope["client"][0] if scope.get("client") else "?",
        )


def _refuse_doubled(scope: Scope) -> None:
    """Raise `InvalidInput` for a header that means something and is there twice."""
    seen: set[bytes] = set()
    for name, _ in scope["headers"]:
        if name in _ONCE:
            if name in seen:
                shown = name.decode().title()
                raise InvalidInput(f"the header {shown} is there twice: send it once", field=shown)
            seen.add(name)


def _refuse(problem: Problem, path: str) -> ASGIApp:
    if path.startswith("/v3/"):
        return nas_refusal(problem)
    return problems.respond(problem, path)


def _as_get(scope: Scope, send: Send) -> tuple[Scope, Send]:
    """What answers a HEAD: the GET of the same, without its body."""
    # A stream of events has no end to wait for.
    headers = [(name, value) for name, value in scope["headers"] if name != b"accept"]

    async def without_body(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return {**scope, "method": "GET", "headers": headers}, without_body


def _given(body: bytes, receive: Receive) -> Receive:
    """What gives the application the body that was read, and what comes after it."""
    given = False

    async def give() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return give
