"""The engine with two workers in one process, each moved from point to point by the test."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Select, delete, func, select, text, update

from orchestrator.actions.requests import JobRequest
from orchestrator.history.events import number_committed
from orchestrator.jobs import upkeep
from orchestrator.jobs.claim import put_back_blocked
from orchestrator.jobs.submission import Accepted, Submission
from orchestrator.jobs.submit import submit
from orchestrator.jobs.wakeups import Wakeups
from orchestrator.settings import Settings
from orchestrator.store.columns import UtcDateTime, db_now
from orchestrator.store.database import Database
from orchestrator.store.tables import backends, events, installation, jobs, metadata
from orchestrator.store.targets import JOB
from orchestrator.store.transaction import Transaction
from tests.engine.conftest import ADMIN
from tests.model.life import Life, WatchedDatabase, WatchedDriver
from tests.model.storage import Effects, Stored, look
from workers.backends.memory.driver import MemoryDriver
from workers.backends.memory.store import Faults, erase
from workers.leases import Leases
from workers.runner import Runner
from workers.serving import Serving

BACKEND = "ram"
#: By the workers' own clocks no lease ever runs out here: only the database says so.
LEASE_SECONDS = 900.0
WORKERS = ("one", "two")
#: Who does what is left at the end.
LAST = "last"

#: What a scheduler does, by name. Each may be done at any time, and twice.
SCHEDULER: dict[str, Callable[[Transaction], Any]] = {
    "queue_due": upkeep.queue_due,
    "reclaim_expired": upkeep.reclaim_expired,
    "queue_overlooked": upkeep.queue_overlooked,
    "cancel_overlooked": upkeep.cancel_overlooked,
    "put_back_blocked": put_back_blocked,
    "expire_locks": upkeep.expire_locks,
    "number_committed": number_committed,
    "fail_for_dead_hosts": lambda transaction: upkeep.fail_for_dead_hosts(transaction, 30.0),
}

#: Orders events as they were written: their transaction, and their place in it.
EVENT_ID = events.c.commit_id * 1_000_000 + events.c.seq


class Worker:
    """A worker process's inside."""

    def __init__(self, world: World, name: str, database: WatchedDatabase) -> None:
        self.life = database.life = Life()
        self.serving = Serving(world.settings, database)
        self.serving.look_at_all()
        self.drivers: list[MemoryDriver] = []
        for backend_id, driver in self.serving.drivers.items():
            assert isinstance(driver, MemoryDriver)
            self.drivers.append(driver)
            self.serving.drivers[backend_id] = WatchedDriver(driver, self.life, world.effects)
        self.leases = Leases(database, lease_seconds=LEASE_SECONDS, beat_seconds=LEASE_SECONDS)
        self.runner = Runner(
            world.settings, database, self.serving, self.leases, world.wakeups, worker=name
        )

    def step(self) -> None:
        """Go on to the next point, taking up work where there was none."""
        if not self.life.busy:
            self.life.begin(self._look_for_work)
        self.life.step()

    def finish(self) -> None:
        """Go on until there is nothing left to do."""
        if not self.life.busy:
            self.life.begin(self._look_for_work)
        self.life.finish()

    def beat(self) -> None:
        """Its heartbeat, whatever its other thread is at."""
        self.leases._beat()

    def keep_moving(self) -> None:
        """Its clock: give up what waits behind a slow job, write what is done."""
        self.runner.hand_back_held_up()
        self.runner.write_ready()

    def shut_down(self) -> None:
        """Stop at the next safe points."""
        self.leases.stopping.set()
        self.life.finish()

    def close(self) -> None:
        """Die, if it has not, and let go of what this process holds."""
        self.life.die()
        self.leases.close()
        self.runner.close()

    def _look_for_work(self) -> None:
        for queue in self.runner.queues:
            self.runner.drain(queue)


class World:
    """Everything there is: the database, the storage, two workers, and nobody else."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database(settings.database_url, pool_size=4)
        self._databases = {
            name: WatchedDatabase(settings.database_url) for name in (*WORKERS, LAST)
        }
        self.wakeups = Wakeups(settings.broker_url)
        self.installation = ""
        self.workers: dict[str, Worker] = {}
        self._born = 0

    def begin(self) -> None:
        """An empty world."""
        self.installation = uuid.uuid4().hex
        with self.database.write() as transaction:
            for table in reversed(metadata.sorted_tables):
                if table.name not in ("counters", "installation", "lives"):
                    transaction.execute(delete(table))
            transaction.execute(update(installation).values(uuid=self.installation))
        self.effects = Effects(self.stored, self.last_event)
        self.faults = Faults(BACKEND, self.installation)
        self.workers = {name: self.new_worker(name) for name in WORKERS}
        [self.storage] = self.workers["one"].drivers

    def end(self) -> None:
        """Take it all away."""
        for worker in self.workers.values():
            worker.close()
        self.workers = {}
        if self.installation:
            erase(BACKEND, self.installation)

    def close(self) -> None:
        self.end()
        self.wakeups.close()
        for database in (self.database, *self._databases.values()):
            database.close()

    def new_worker(self, name: str) -> Worker:
        """Another process in the place of this one, which must have come to an end."""
        self._born += 1
        worker = Worker(self, f"{name}-{self._born}", self._databases[name])
        self.workers[name] = worker
        return worker

    # -- what comes from outside ------------------------------------------------------------

    def transact(self, work: Callable[[Transaction], Any]) -> Any:
        return self.database.transact(work)

    def submit(
        self,
        requests: Sequence[JobRequest],
        *,
        batch: bool,
        key: str | None = None,
        bound: Mapping[int, dict[str, Any]] | None = None,
    ) -> Accepted:
        submission = Submission(
            requests=requests,
            actor=ADMIN,
            batch=batch,
            idempotency_key=key,
            bound=dict(bound or {}),
        )
        accepted: Accepted = self.transact(lambda c: submit(c, submission, max_attempts=5))
        return accepted

    def jump(self, seconds: float) -> None:
        """The database's clock goes ahead (or back), and nobody else's: all it wrote is older."""
        with self.database.write() as transaction:
            for table in metadata.sorted_tables:
                moved = [
                    f"{column.name} = {self._shifted(column.name)}"
                    for column in table.columns
                    if isinstance(column.type, UtcDateTime)
                ]
                if moved:
                    statement = f"UPDATE {table.name} SET {', '.join(moved)}"
                    amount: Any = -seconds if self.database.is_postgresql else f"{-seconds} seconds"
                    transaction.execute(text(statement), {"amount": amount})

    def _shifted(self, column: str) -> str:
        if self.database.is_postgresql:
            return f"{column} + make_interval(secs => :amount)"
        return f"strftime('%Y-%m-%d %H:%M:%f000', {column}, :amount)"

    # -- what can be seen -------------------------------------------------------------------

    def stored(self) -> Stored:
        return look(BACKEND, self.installation)

    def rows(self, statement: Any) -> Sequence[Any]:
        with self.database.read() as transaction:
            return transaction.execute(statement).mappings().all()

    def now(self) -> Any:
        with self.database.read() as transaction:
            return transaction.execute(select(db_now())).scalar_one()

    def last_event(self) -> int:
        with self.database.read() as transaction:
            return int(
                transaction.execute(select(func.coalesce(func.max(EVENT_ID), 0))).scalar_one()
            )

    def jobs(self, query: Select[Any]) -> list[dict[str, Any]]:
        """Rows of `JOB` with the id of the volume that is cloned or copied, if one is."""
        found = []
        for row in self.rows(query):
            sources = [id_ for role, _, id_, _ in row["targets"] or () if role == "source"]
            found.append({**row, "source_id": sources[0] if sources else None})
        return found

    def unfinished(self) -> Sequence[Any]:
        """Jobs that have not ended, with whether they hold up others."""
        later = ~jobs.c.begun & jobs.c.not_before.is_not(None) & (jobs.c.not_before > db_now())
        return self.jobs(
            select(*JOB, later.label("later"))
            .where(jobs.c.finished_at.is_(None))
            .order_by(jobs.c.id)
        )

    def draining(self) -> bool:
        """Whether the backend starts nothing."""
        [row] = self.rows(select(backends.c.state))
        return bool(row["state"] != "enabled")

    def fingerprint(self) -> list[Any]:
        """What a refused submission must leave as it was."""
        counted = [table for table in metadata.sorted_tables if table.name != "counters"]
        counts = select(
            *(select(func.count()).select_from(one).scalar_subquery() for one in counted)
        )
        states = select(jobs.c.id, jobs.c.state, jobs.c.fence, jobs.c.not_before)
        with self.database.read() as transaction:
            return [
                transaction.execute(counts).one(),
                transaction.execute(states.order_by(jobs.c.id)).all(),
            ]
