"""Refused tokens and roles: counted, told in the log, and those of roles recorded."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import select
from starlette.types import Scope

from orchestrator.domain.actors import Actor
from orchestrator.domain.errors import Problem
from orchestrator.domain.states import EventKind
from orchestrator.history.events import Event, record
from orchestrator.store.columns import db_now
from orchestrator.store.transaction import Transaction

log = structlog.get_logger(__name__)

#: Why, by the status of the answer.
REASONS = {401: "token", 403: "role"}
#: Seconds within which the same is told once: whoever floods the service floods nothing else.
_AGAIN_SECONDS = 60.0
#: The most different things that are remembered to have been told.
_REMEMBERED = 1000
#: The most events within that time.
_MOST_EVENTS = 60
_MOST_OF_PATH = 200


class Refusals:
    """Those of one process."""

    def __init__(self, write: Callable[[Callable[[Transaction], Any]], Any]) -> None:
        """``write``: runs a function in a transaction, and may block."""
        self.counts: Counter[str] = Counter(dict.fromkeys(REASONS.values(), 0))
        self._write = write
        self._told: dict[tuple[str, ...], tuple[float, int]] = {}
        self._events: list[float] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def note(self, status: int, scope: Scope, path: str, actor: Actor | None) -> None:
        """A request was refused."""
        reason = REASONS[status]
        self.counts[reason] += 1
        client = scope["client"][0] if scope.get("client") else "?"
        method, path = scope["method"], path[:_MOST_OF_PATH]
        name = actor.name if actor is not None else None
        times = self._to_be_told("log", reason, client, name or "")
        if times:
            log.warning(
                "api.refused",
                reason=reason,
                client=client,
                token=name,
                method=method,
                path=path,
                times=times,
            )
        if reason == "role" and name is not None and self._to_be_told(name, method, path):
            self._record(name, {"method": method, "path": path, "client": client})

    def _to_be_told(self, *what: str) -> int:
        """How often it has come since it was told; 0 if that was a moment ago."""
        now = time.monotonic()
        at, times = self._told.get(what, (0.0, 0))
        if times and now - at < _AGAIN_SECONDS:
            self._told[what] = (at, times + 1)
            return 0
        if len(self._told) >= _REMEMBERED:
            self._told.clear()
        self._told[what] = (now, 1)
        return max(times, 1)

    def _record(self, actor: str, data: dict[str, str]) -> None:
        now = time.monotonic()
        self._events = [at for at in self._events if now - at < _AGAIN_SECONDS]
        if len(self._events) >= _MOST_EVENTS:
            return
        self._events.append(now)
        event = Event(kind=EventKind.ACCESS_REFUSED, actor=actor, data=data)

        def write(transaction: Transaction) -> None:
            at: datetime = transaction.execute(select(db_now())).scalar_one()
            record(transaction, [event], at)

        async def in_thread() -> None:
            try:
                await asyncio.to_thread(self._write, write)
            except Problem as problem:
                log.warning("api.refusal_not_recorded", error=problem.detail)

        task = asyncio.get_running_loop().create_task(in_thread())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
