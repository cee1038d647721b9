"""Waiters: many requests wait for few jobs, with one subscription and one query a second."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog
from sqlalchemy import select

from orchestrator import broker, failpoints
from orchestrator.history.events import latest_number
from orchestrator.jobs.notices import CHANNEL
from orchestrator.jobs.views import View, batch_views, job_views
from orchestrator.logs import Trouble
from orchestrator.store.bulk import among
from orchestrator.store.database import Database
from orchestrator.store.tables import batches, jobs
from orchestrator.store.transaction import Transaction

log = structlog.get_logger(__name__)

#: Ends heard of lately, for requests that begin to wait just after.
_REMEMBERED = 10_000
#: Seconds between looks at the database, in case a notice was lost.
_POLL_SECONDS = 1.0
#: Seconds before trying the broker again.
_RECONNECT_SECONDS = 1.0

Key = tuple[str, int]


_READERS: dict[str, Callable[[Transaction, Iterable[int]], dict[int, View]]] = {
    "job": job_views,
    "batch": batch_views,
}


@dataclass(frozen=True)
class Ended:
    """A job or batch that has ended, and the answer that tells it, made once for all."""

    view: View
    body: bytes


@dataclass(frozen=True)
class _Notice:
    """What a notice says. A hint, which somebody else may have sent."""

    ended: list[Key]
    events: int


def _read(data: str | bytes) -> _Notice:
    """Read a notice; of one that makes no sense nothing is left."""
    try:
        notice = json.loads(data)
        ended = [("job", int(id_)) for id_ in notice.get("jobs", ())]
        ended += [("batch", int(id_)) for id_ in notice.get("batches", ())]
        return _Notice(ended, int(notice.get("events", 0)))
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return _Notice([], 0)


class Waiters:
    """Futures by job and batch, resolved with what the database says of it once it has ended.

    ``prefix``: of the channel of notices. ``render`` makes the body of the answer from the kind
    and the view.
    """

    def __init__(
        self,
        database: Database,
        broker_url: str,
        prefix: str,
        render: Callable[[str, View], bytes],
    ) -> None:
        self._database = database
        self._render = render
        self._broker_url, self._channel = broker_url, prefix + CHANNEL
        self._waiting: dict[Key, set[asyncio.Future[Ended | None]]] = defaultdict(set)
        self._ended: OrderedDict[Key, None] = OrderedDict()
        self._tasks: list[asyncio.Task[None]] = []
        self._trouble = Trouble(log, "waiters.no_notices", "waiters.notices_again")
        self._poll_trouble = Trouble(log, "waiters.poll_failed", "waiters.polls_again")
        #: Whether the process is shutting down.
        self.closing = False
        self._number = 0
        #: Streams that wait for the next event.
        self._sleepers: set[asyncio.Event] = set()

    async def start(self) -> None:
        """Begin to listen."""
        self._tasks = [
            asyncio.create_task(self._listen(), name="waiters-listen"),
            asyncio.create_task(self._poll(), name="waiters-poll"),
        ]

    def release(self) -> None:
        """Let every request go, as if its time were over; for a shutdown that waits for them."""
        self.closing = True
        for futures in list(self._waiting.values()):
            for future in futures:
                if not future.done():
                    future.set_result(None)
        for sleeper in list(self._sleepers):
            sleeper.set()

    async def stop(self) -> None:
        """Stop listening; requests that still wait are broken off."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for futures in self._waiting.values():
            for future in futures:
                future.cancel()

    @property
    def count(self) -> int:
        """How many requests wait for the end of something."""
        return sum(len(futures) for futures in self._waiting.values())

    async def wait(self, kind: str, id_: int, seconds: float) -> Ended | None:
        """The ended job or batch (``kind``), or None when the time is over."""
        if self.closing:
            return None
        key = (kind, id_)
        future: asyncio.Future[Ended | None] = asyncio.get_running_loop().create_future()
        self._waiting[key].add(future)
        try:
            if key in self._ended:
                await self._tell([key])
            return await asyncio.wait_for(future, seconds)
        except TimeoutError:
            return None
        finally:
            self._waiting[key].discard(future)
            if not self._waiting[key]:
                del self._waiting[key]

    async def events_after(self, number: int, seconds: float) -> int:
        """The latest number once it is above ``number``; ``number`` when the time is over."""
        if self._number > number or self.closing:
            return max(self._number, number)
        woken = asyncio.Event()
        self._sleepers.add(woken)
        try:
            async with asyncio.timeout(seconds):
                await woken.wait()
        except TimeoutError:
            return number
        finally:
            self._sleepers.discard(woken)
        return max(self._number, number)

    # -- hearing ---------------------------------------------------------------------------

    async def _listen(self) -> None:
        while True:
            try:
                client = broker.async_client(self._broker_url, socket_timeout=None)
                async with client, client.pubsub() as pubsub:
                    await pubsub.subscribe(self._channel)
                    async for message in pubsub.listen():
                        self._trouble.went()
                        if message["type"] == "message":
                            await self._heard(_read(message["data"]))
            except Exception as error:
                self._trouble.came(error=str(error))
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _heard(self, notice: _Notice) -> None:
        failpoints.reach("waiters.heard")
        for key in notice.ended:
            self._ended[key] = None
        while len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)
        wanted = [key for key in notice.ended if key in self._waiting]
        if wanted:
            await self._tell(wanted)
        if notice.events > self._number:
            # Anybody may have sent that: how far the events are is asked of the database.
            self._numbered(await asyncio.to_thread(self._latest))

    def _numbered(self, number: int) -> None:
        if number > self._number:
            self._number = number
            for sleeper in list(self._sleepers):
                sleeper.set()

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            try:
                if self._waiting:
                    ended = await asyncio.to_thread(self._find_ended, list(self._waiting))
                    if ended:
                        await self._tell(ended)
                if self._sleepers:
                    self._numbered(await asyncio.to_thread(self._latest))
                self._poll_trouble.went()
            except Exception as error:
                self._poll_trouble.came(error=str(error))

    # -- looking ---------------------------------------------------------------------------

    async def _tell(self, keys: Iterable[Key]) -> None:
        """Read these once and give them to everyone who waits for them."""
        found = await asyncio.to_thread(self._read, list(keys))
        for key, ended in found.items():
            for future in list(self._waiting.get(key, ())):
                if not future.done():
                    future.set_result(ended)

    def _read(self, keys: list[Key]) -> dict[Key, Ended]:
        def work(transaction: Transaction) -> dict[Key, Ended]:
            found: dict[Key, Ended] = {}
            for kind, read in _READERS.items():
                ids = [id_ for key_kind, id_ in keys if key_kind == kind]
                for id_, view in (read(transaction, ids) if ids else {}).items():
                    if view["finished_at"] is not None:
                        found[kind, id_] = Ended(view, self._render(kind, view))
            return found

        return self._database.glance(work)

    def _find_ended(self, keys: list[Key]) -> list[Key]:
        ended: list[Key] = []
        with self._database.read() as transaction:
            for kind, table in (("job", jobs), ("batch", batches)):
                ids = [id_ for key_kind, id_ in keys if key_kind == kind]
                if ids:
                    query = select(table.c.id).where(
                        among(table.c.id, ids), table.c.finished_at.is_not(None)
                    )
                    ended += [(kind, id_) for id_ in transaction.execute(query).scalars()]
        return ended

    def _latest(self) -> int:
        with self._database.read() as transaction:
            return latest_number(transaction)
