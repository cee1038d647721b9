"""What routes read from a request: who asks, names in paths, preferences, pages."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from typing import Annotated, Any, Final, Generic, TypeVar
from urllib.parse import unquote

from fastapi import Depends, Header, Path, Query, Request
from fastapi.security import HTTPBearer
from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError
from starlette.datastructures import Headers

from orchestrator.api.service import Service
from orchestrator.api.waiters import Ended
from orchestrator.domain.actors import Actor
from orchestrator.domain.errors import InvalidInput, NotAllowed, NotAuthenticated, Problem
from orchestrator.domain.names import (
    MAX_ID,
    BackendName,
    HostName,
    SnapshotName,
    VolumeName,
)
from orchestrator.domain.states import Role
from orchestrator.domain.targets import KINDS
from orchestrator.store.transaction import Transaction
from orchestrator.tokens import authenticate

T = TypeVar("T")

#: Seconds for which a token once checked is not checked again: a revoked one stays valid
#: for at most this long.
_TRUST_SECONDS = 4.0
_MOST_TRUSTED = 1000
#: The longest a request may wait for a job.
MAX_WAIT = 3600.0
#: Where the scope of a request has who asks: an `Actor`, or None.
ACTOR: Final = "orchestrator.actor"
#: And the whole body, as bytes.
BODY: Final = "orchestrator.body"
#: One preference (RFC 7240): its name, perhaps a value, plain or quoted, and parameters.
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PREFERENCE = re.compile(
    rf"\s*([^\s=;,\"]+)\s*(?:=\s*({_QUOTED}|[^\s;,\"]*))?\s*(?:;(?:[^,\"]|{_QUOTED})*)?(?:,|$)"
)
_SECONDS = re.compile(r"\d{1,9}", re.ASCII)


async def service_of(request: Request) -> Service:
    """The process's service."""
    service: Service = request.app.state.service
    return service


ServiceHere = Annotated[Service, Depends(service_of)]

# Only told: the door has looked at the token before.
_bearer = HTTPBearer(auto_error=False, description="A token made with `orchestrator token create`.")


class Trusted(Generic[T]):
    """Secrets that were checked a moment ago, by digest: tokens, or those of sessions.

    ``look`` says what one stands for, and raises `NotAuthenticated`.
    """

    def __init__(self, look: Callable[[Transaction, str], T]) -> None:
        self._look_for = look
        self._known: dict[str, tuple[float, T]] = {}
        self._looking: dict[str, asyncio.Future[T]] = {}

    def known(self, token: str) -> T | None:
        """What this stands for, if it was checked a moment ago."""
        found = self._known.get(_digest(token))
        return found[1] if found is not None and found[0] > time.monotonic() else None

    async def renewed(self, service: Service, token: str) -> float:
        """Seconds until a token is to be checked again, which is valid now.

        Raises `NotAuthenticated`.
        """
        await self.check(service, token)
        return self.valid_for(token)

    def valid_for(self, token: str) -> float:
        """Seconds until a token is to be checked again; 0 if it is now."""
        found = self._known.get(_digest(token))
        return 0.0 if found is None else max(0.0, found[0] - time.monotonic())

    def forget(self, token: str) -> None:
        """Check it again when it comes next: it was ended here."""
        self._known.pop(_digest(token), None)

    async def revoked(self, service: Service, token: str) -> None:
        """Return once a token is valid no longer."""
        while True:
            try:
                valid = await self.renewed(service, token)
            except NotAuthenticated:
                return
            except Problem:  # the database cannot be asked: nothing is read from it, either
                valid = _TRUST_SECONDS
            await asyncio.sleep(valid)

    async def check(self, service: Service, token: str) -> T:
        """What this stands for. Raises `NotAuthenticated`."""
        if (known := self.known(token)) is not None:
            return known
        # Many may come with one token at once: it is looked at once for all of them.
        digest = _digest(token)
        if (looking := self._looking.get(digest)) is None:
            looking = self._looking[digest] = asyncio.ensure_future(self._look(service, token))
            looking.add_done_callback(lambda _: self._looking.pop(digest))
        return await asyncio.shield(looking)

    async def _look(self, service: Service, token: str) -> T:
        found = await asyncio.to_thread(
            service.read, lambda transaction: self._look_for(transaction, token)
        )
        if len(self._known) >= _MOST_TRUSTED:
            self._known.clear()
        self._known[_digest(token)] = (time.monotonic() + _TRUST_SECONDS, found)
        return found


def trusted_tokens() -> Trusted[Actor]:
    """Tokens, and whose they are."""
    return Trusted(authenticate)


#: What the request that is served here came with, if with a token.
ASKING: ContextVar[tuple[Trusted[Any], str] | None] = ContextVar("asking", default=None)


async def wait_for_end(service: Service, kind: str, id_: int, seconds: float) -> Ended | None:
    """The ended job or batch (``kind``), or None when the time is over.

    Raises `NotAuthenticated` once the token that the request came with is valid no longer.
    """
    asking = ASKING.get()
    valid = seconds if asking is None else min(seconds, asking[0].valid_for(asking[1]))
    ended = await service.waiters.wait(kind, id_, valid)
    if asking is None or ended is not None or valid == seconds:
        return ended
    trusted, token = asking
    waiting = asyncio.ensure_future(service.waiters.wait(kind, id_, seconds - valid))
    revoked = asyncio.ensure_future(trusted.revoked(service, token))
    try:
        await asyncio.wait({waiting, revoked}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise NotAuthenticated()
        return waiting.result()
    finally:
        waiting.cancel()
        revoked.cancel()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


def token_in(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The token that a request's head holds, if any. Raises `NotAuthenticated` for what is none."""
    sent = [value for name, value in headers if name == b"authorization"]
    if not sent:
        return None
    scheme, _, token = sent[0].decode("latin-1").strip().partition(" ")
    if len(sent) > 1 or scheme.lower() != "bearer" or not token.strip():
        raise NotAuthenticated()
    return token.strip()


async def actor_of(request: Request, _told: Annotated[Any, Depends(_bearer)]) -> Actor:
    """Who asks. Raises `NotAuthenticated`."""
    actor: Actor | None = request.scope.get(ACTOR)
    if actor is None:
        raise NotAuthenticated()
    return actor


def _needs(role: Role) -> Callable[..., Awaitable[Actor]]:
    async def check(actor: Annotated[Actor, Depends(actor_of)]) -> Actor:
        if not actor.role.includes(role):
            raise NotAllowed(f"this needs the role {role}; the token has the role {actor.role}")
        return actor

    return check


Reader = Annotated[Actor, Depends(_needs(Role.READER))]
Operator = Annotated[Actor, Depends(_needs(Role.OPERATOR))]
Admin = Annotated[Actor, Depends(_needs(Role.ADMIN))]


#: Paths are matched as they were sent, so a name arrives percent-encoded (see `app`).
def _decode(sent: str) -> str:
    try:
        return unquote(sent, errors="strict")
    except UnicodeDecodeError:
        raise PydanticCustomError(
            "invalid_name",
            "{sent} is no UTF-8, percent-encoded",
            {"sent": sent},
        ) from None


decoded = BeforeValidator(_decode)
BackendInPath = Annotated[BackendName, decoded, Path(description="Name of the backend.")]
VolumeInPath = Annotated[
    VolumeName, decoded, Path(description="Name of the volume, percent-encoded.")
]
SnapshotInPath = Annotated[
    SnapshotName, decoded, Path(description="Name of the snapshot, percent-encoded.")
]
#: The name of a target of each kind.
TARGETS_IN_PATH: dict[str, Any] = {
    kind.name: Annotated[
        kind.names, decoded, Path(description=f"Name of the {kind.title}, percent-encoded.")
    ]
    for kind in KINDS.values()
}
HostInPath = Annotated[HostName, decoded, Path(description="Name of the host.")]
IdInPath = Annotated[int, Path(ge=1, le=MAX_ID)]

Limit = Annotated[int, Query(ge=1, le=1000, description="The most items to answer.")]
Cursor = Annotated[
    str | None, Query(max_length=1000, description="From the previous page's `cursor`.")
]


def cursor_for(position: Any) -> str:
    """An opaque cursor for a position in a list."""
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode().rstrip("=")


def position_of(cursor: str | None, kind: type[int] | type[str]) -> Any:
    """The position a cursor stands for. Raises `InvalidInput`."""
    if cursor is None:
        return None
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        position = json.loads(base64.urlsafe_b64decode(padded.encode()))
    except ValueError:
        position = None
    in_range = not isinstance(position, int) or 0 <= position <= MAX_ID
    if type(position) is not kind or not in_range or "\0" in str(position):
        raise InvalidInput("the cursor is not one this service gave out", field="cursor")
    return position


async def refuse_body(request: Request) -> None:
    """Refuse a body where it would mean nothing."""
    body = (await request.body()).strip()
    if body not in (b"", b"{}", b"null"):
        raise InvalidInput(f"a {request.method} of this takes no body: send none", field="body")


async def _no_body(request: Request, _actor: Annotated[Actor, Depends(actor_of)]) -> None:
    await refuse_body(request)


#: For routes that have none: what they were asked for in it would not be done.
NoBody = Depends(_no_body)


def wait_in(headers: Headers) -> float:
    """Seconds that a client wants to wait; 0 if it does not, or says so as nobody understands.

    Of several preferences of one name the first counts (RFC 7240, section 2).
    """
    if "prefer" not in headers:
        return 0.0
    for name, value in _PREFERENCE.findall(",".join(headers.getlist("prefer"))):
        if name.lower() == "wait":
            seconds = value.strip('"')
            return min(float(seconds), MAX_WAIT) if _SECONDS.fullmatch(seconds) else 0.0
    return 0.0


async def preferred_wait(
    request: Request,
    _told: Annotated[
        str | None,
        Header(
            alias="Prefer",
            description="`wait=30` holds the answer for up to 30 s, until the job has ended.",
        ),
    ] = None,
) -> float:
    """Seconds the client wants to wait; 0 if it does not."""
    return wait_in(request.headers)


PreferredWait = Annotated[float, Depends(preferred_wait)]

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="The same key with the same body is answered with the first job.",
    ),
]
ReasonHeader = Annotated[
    str | None,
    Header(
        alias="Reason",
        max_length=500,
        pattern=r"^[\x20-\x7e]*$",
        description="Why; kept in the history.",
    ),
]
