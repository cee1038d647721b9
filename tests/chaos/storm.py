"""Faults of all kinds, one after the other, while a load is at work."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
from collections.abc import Callable
from contextlib import suppress

import redis
from sqlalchemy import func, select

from orchestrator.store.tables import jobs
from tests.chaos.armed import Armed
from tests.chaos.processes import until
from tests.chaos.product import Shaken
from tests.chaos.servers import FragilePostgres

#: Points at which some process of the whole product comes by again and again.
_POINTS = (
    "api.received",
    "submit.before_commit",
    "submit.after_commit",
    "api.before_answer",
    "worker.woken",
    "claim.before_commit",
    "claim.after_commit",
    "journal.after_commit",
    "driver.before_publish",
    "driver.after_call",
    "finish.before_commit",
    "lanes.after_release",
    "finish.after_commit",
    "notices.before_publish",
    "lease.before_renewal",
    "lease.after_renewal",
    "events.before_commit",
    "events.after_commit",
)
#: Points at which a worker can be frozen without holding what everybody needs.
_HOLDING_NOTHING = (
    "claim.after_commit",
    "journal.after_commit",
    "driver.before_call",
    "driver.after_call",
    "finish.after_commit",
)


class Storm:
    """Breaks things in an order that a seed gives, and tells which."""

    def __init__(
        self, product: Shaken, chance: random.Random, postgres: FragilePostgres | None
    ) -> None:
        self._product = product
        self._chance = chance
        self._postgres = postgres
        self.told: list[str] = []
        self._armed: list[Armed] = []
        self._faults: list[Callable[[], str]] = [
            self._kill_worker,
            self._kill_api,
            self._kill_scheduler,
            self._kill_broker,
            self._empty_broker,
            self._freeze_broker,
            self._freeze_worker,
            self._die_at_a_point,
            self._die_at_a_point,
            self._die_at_a_point,
        ]
        if postgres is not None:
            self._faults += [self._restart_database, self._crash_database]
        self._left: list[Callable[[], str]] = []

    def strike(self) -> None:
        """One more fault; each kind comes once before any comes again."""
        if not self._left:
            self._left = list(self._faults)
            self._chance.shuffle(self._left)
        self.told.append(self._left.pop()())

    def end(self) -> None:
        """Nothing more happens; what was armed and not met is taken back."""
        for armed in self._armed:
            armed.clear()

    def _kill_worker(self) -> str:
        return f"killed worker {self._product.kill('worker', self._chance.randrange(9))}"

    def _kill_api(self) -> str:
        return f"killed the API {self._product.kill('api')}"

    def _kill_scheduler(self) -> str:
        return f"killed the scheduler {self._product.kill('scheduler')}"

    def _kill_broker(self) -> str:
        return f"killed the broker {self._product.kill('broker')}"

    def _empty_broker(self) -> str:
        empty_broker(self._product)
        return "emptied the broker"

    def _freeze_broker(self) -> str:
        pids = self._product.children().get("broker", [])
        ended = self._ended()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            # The database alone must be enough to go on.
            until(lambda: self._ended() > ended or self._idle(), "a job ends without the broker")
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        return f"froze the broker {pids}"

    def _freeze_worker(self) -> str:
        """Where it holds nothing that others need: SQLite, for one, has a single writer."""
        point = self._chance.choice(_HOLDING_NOTHING)
        armed = Armed(self._product.failpoints, f"frozen{len(self.told)}", point, "stop")
        self._armed.append(armed)
        until(lambda: armed.fired or self._idle(), f"a worker comes by {point}")
        armed.release()
        for pid in armed.victims:
            try:
                until(lambda pid=pid: self._taken_over(pid), "others take over")  # type: ignore[misc]
            finally:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        return f"froze {armed.victims} at {point} until others had taken over"

    def _taken_over(self, pid: int) -> bool:
        return not self._held_by(pid) or self._writer_held()

    def _writer_held(self) -> bool:
        """Whether another thread of a frozen process was just writing to SQLite: nobody else
        can, then, until it wakes or is killed."""
        if self._postgres is not None:
            return False
        path = self._product.data / "orchestrator.db"
        raw = sqlite3.connect(path, timeout=5, isolation_level=None)
        try:
            raw.execute("BEGIN IMMEDIATE")
            raw.execute("ROLLBACK")
        except sqlite3.OperationalError:
            return True
        finally:
            raw.close()
        return False

    def _die_at_a_point(self) -> str:
        point, nth = self._chance.choice(_POINTS), self._chance.randrange(1, 4)
        name = f"storm{len(self._armed)}"
        self._armed.append(Armed(self._product.failpoints, name, point, "crash", nth=nth))
        return f"somebody shall die at {point}, at pass {nth}"

    def _restart_database(self) -> str:
        assert self._postgres is not None
        self._postgres.restart()
        return "restarted PostgreSQL"

    def _crash_database(self) -> str:
        assert self._postgres is not None
        self._postgres.crash()
        return "crashed PostgreSQL"

    def _ended(self) -> int:
        with self._product.database.read() as connection:
            query = select(func.count()).where(jobs.c.finished_at.is_not(None))
            return int(connection.execute(query).scalar_one())

    def _idle(self) -> bool:
        return not self._product.unfinished()

    def _held_by(self, pid: int) -> int:
        with self._product.database.read() as connection:
            query = select(func.count()).where(
                jobs.c.state == "running", jobs.c.worker.like(f"%-{pid}-%")
            )
            return int(connection.execute(query).scalar_one())


def empty_broker(product: Shaken) -> None:
    """Make the broker forget everything, if it is there at the moment."""
    with (
        suppress(redis.RedisError),
        redis.Redis(unix_socket_path=str(product.broker_socket())) as client,
    ):
        client.flushall()
