"""Faults of all kinds, one after the other, while a load is at work."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress

import redis
from sqlalchemy import func, select, text

from orchestrator.store.tables import jobs
from tests.chaos import lines
from tests.chaos.armed import Armed
from tests.chaos.processes import until
from tests.chaos.product import IDLE_SECONDS, LEASE_SECONDS, Shaken
from tests.chaos.servers import FragilePostgres

#: Points that processes of the whole product pass again and again.
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
    "lanes.before_release",
    "pipeline.before_sync",
    "finish.after_commit",
    "notices.before_publish",
    "lease.before_renewal",
    "lease.after_renewal",
    "events.before_commit",
    "events.after_commit",
)
#: Parts of the product that do something for the others.
_PARTS = ("worker", "worker", "scheduler", "api")
#: How much further others get before a process is woken that stands still for a short time.
_FURTHER = 2
#: Sessions that have waited for their process in a transaction for longer than they may.
_OVERDUE = text(
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
    " AND application_name = 'orchestrator' AND xact_start IS NOT NULL"
    " AND wait_event IN ('ClientRead', 'ClientWrite')"
    " AND clock_timestamp() - state_change > make_interval(secs => :seconds)"
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
            self._freeze_anything,
            self._freeze_anything,
            self._freeze_at_a_point,
            self._die_at_a_point,
            self._die_at_a_point,
        ]
        if postgres is not None:
            self._faults += [self._restart_database, self._crash_database, self._freeze_at_a_point]
            if lines.can_cut():
                self._faults += [self._cut_lines, self._cut_lines]
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

    def _any_part(self) -> tuple[str, int]:
        """Some process, 0 if it has just died."""
        part = self._chance.choice(_PARTS)
        pids = sorted(self._product.children().get(part, []))
        return part, pids[self._chance.randrange(9) % len(pids)] if pids else 0

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
            _signal(pid, signal.SIGSTOP)
        try:
            # The database alone must be enough to go on.
            until(lambda: self._ended() > ended or self._idle(), "a job ends without the broker")
        finally:
            for pid in pids:
                _signal(pid, signal.SIGCONT)
        return f"froze the broker {pids}"

    def _freeze_anything(self) -> str:
        """Wherever it is just then."""
        part, pid = self._any_part()
        if not _signal(pid, signal.SIGSTOP):
            return f"a {part} had just died"
        return f"froze the {part} {pid}, {self._while_it_stands(part, pid)}"

    def _freeze_at_a_point(self) -> str:
        """In the middle of what it does; on SQLite not while it writes, if that can be helped."""
        points = _POINTS if self._postgres is not None else _HOLDING_NOTHING
        point = self._chance.choice(points)
        armed = Armed(self._product.failpoints, f"frozen{len(self.told)}", point, "stop")
        self._armed.append(armed)
        until(lambda: armed.fired or self._idle(), f"a process passes {point}")
        armed.release()
        told = [self._while_it_stands("process", pid) for pid in armed.victims]
        return f"froze {armed.victims} at {point}, {'; '.join(told) or 'nobody came'}"

    def _while_it_stands(self, part: str, pid: int) -> str:
        """Others go on while a process stands still, or it stands beyond every time-out; it is
        never woken because others are held up."""
        begun, ended = time.monotonic(), self._ended()
        long = self._chance.random() < 0.5
        beyond = IDLE_SECONDS + LEASE_SECONDS

        def is_enough() -> bool:
            if time.monotonic() - begun > beyond:
                return True
            return not long and (self._idle() or self._ended() >= ended + _FURTHER)

        try:
            until(is_enough, "others go on")
            if self._postgres is not None:
                until(lambda: not self._overdue(), f"what the {part} {pid} has locked is free")
                if long and part != "scheduler":
                    until(lambda: not self._held_by(pid) or self._idle(), "others take over")
            killed = self._chance.random() < 0.3
            if self._postgres is None and self._writer_held():
                # A frozen writer of SQLite holds up everybody, by its nature.
                killed = self._chance.random() < 0.5
        except BaseException:
            _signal(pid, signal.SIGCONT)
            raise
        _signal(pid, signal.SIGKILL if killed else signal.SIGCONT)
        return f"for {'long' if long else 'a while'}, then {'killed' if killed else 'woke'} it"

    def _overdue(self) -> list[int]:
        """Sessions that hold up others although the time-out is over, for those who look."""
        with self._product.database.read() as connection:
            return list(connection.execute(_OVERDUE, {"seconds": IDLE_SECONDS}).scalars())

    def _cut_lines(self) -> str:
        part, pid = self._any_part()
        count = lines.cut(pid, self._chance.choice([1, 2, 100])) if pid else 0
        return f"cut {count} lines of the {part} {pid}"

    def _writer_held(self) -> bool:
        """Whether nobody can write to SQLite because somebody frozen is just doing so."""
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


def _signal(pid: int, number: int) -> bool:
    """Send a signal; False if nobody is there."""
    if pid == 0:
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def empty_broker(product: Shaken) -> None:
    """Make the broker forget everything, if it is there at the moment."""
    with (
        suppress(redis.RedisError),
        redis.Redis(unix_socket_path=str(product.broker_socket())) as client,
    ):
        client.flushall()
