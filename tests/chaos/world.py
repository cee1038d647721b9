"""One database, one backend, one broker, and whoever is left when something has died."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis
from sqlalchemy import event, func, select, update

from orchestrator import tokens
from orchestrator.actions.requests import parse_request
from orchestrator.domain.actors import Actor
from orchestrator.domain.queues import CONTROL_QUEUE, backend_queue, host_queue
from orchestrator.domain.states import Role
from orchestrator.embedded.broker import redis_client_url
from orchestrator.inventory.hosts import seen
from orchestrator.jobs.approvals import approve
from orchestrator.jobs.lanes import UNAPPROVED
from orchestrator.jobs.submission import Submission
from orchestrator.jobs.submit import submit
from orchestrator.jobs.upkeep import queue_due
from orchestrator.machine import boot_id
from orchestrator.store.columns import db_now
from orchestrator.store.database import Database
from orchestrator.store.tables import findings, installation, jobs, volumes
from orchestrator.store.targets import JOB
from orchestrator.store.transaction import Transaction
from tests.chaos import roles
from tests.chaos.cases import ANYBODY, BACKEND, HOST, SIDE, ByHand, Request
from tests.chaos.model import IMAGE, SOURCE_MARK, Model
from tests.chaos.processes import Child, Nursery
from tests.chaos.storage import FileStorage, MemoryStorage, Storage, Stray
from workers.backends.base.references import VolumeRef

CAPACITY = 2**40
#: How long a process may stand in a transaction before its session is ended.
IDLE_SECONDS = 1.0
#: How long ago everything was, once time has passed.
HOUR = 3600.0
#: Rounds of time passing and everyone working, after which nothing more will come of it.
ROUNDS = 12


def watching_database(url: str) -> Database:
    """The test's own connections, under another name than the product's.

    The product ends sessions of its own that pause in a transaction for `IDLE_SECONDS`, and on a
    busy machine the test does.
    """
    database = Database(url, pool_size=3)
    if database.is_postgresql:
        event.listen(database.engine, "connect", _call_it_another_program)
    return database


def _call_it_another_program(raw: Any, _record: object) -> None:
    raw.execute("SET application_name = 'watching'")
    raw.commit()


def policy_of(row: Any) -> str | None:
    """The id of the policy that a job is about; ``row`` as `JOB` selects it."""
    return next((id_ for _, kind, id_, _ in row.targets or () if kind == "policy"), None)


class World:
    """Where cells are tried, one after the other. ``driver`` is ``memory`` or ``file``."""

    def __init__(
        self,
        nursery: Nursery,
        directory: Path,
        driver: str,
        database_url: str,
        broker_url: str,
        switched_off: str | None = None,
    ) -> None:
        self.nursery = nursery
        self.driver_name = driver
        self.host = HOST
        self.directory = directory
        self.broker_url = broker_url
        volumes = directory / "volumes"
        self.exchange = directory.with_name(f"{directory.name}-exchange")
        self.exchange.mkdir()
        (self.exchange / "image").write_bytes(IMAGE)
        options: dict[str, Any] = (
            {"capacity": CAPACITY} if driver == "memory" else {"path": str(volumes)}
        )
        self.settings: dict[str, Any] = {
            "data": str(directory),
            "host": HOST,
            "database": {"url": database_url, "idle_seconds": IDLE_SECONDS},
            "broker": {"url": broker_url},
            "backends": {
                BACKEND: {"driver": driver, **options},
                SIDE: {"driver": "memory", "capacity": CAPACITY},
            },
            # What an audit finds may be removed at once.
            "audit": {"grace_hours": 0},
            "transfer": {
                "import_from": [str(self.exchange)],
                "export_to": [str(self.exchange)],
            },
            # Time passes when the test says so: until then no lease runs out by itself.
            "worker": {"lease_seconds": HOUR, "heartbeat_seconds": 1.0},
        }
        self.database = watching_database(database_url)
        self.model = Model()
        #: Jobs in the order of their ids, and how many of them the model has played.
        self.asked: list[tuple[int, Request]] = []
        self._played = 0
        #: The last event that was looked at.
        self.event_number = 0
        self._switched_off = switched_off
        self._workers = 0
        self._children: list[Child] = []
        self._other_api: Child | None = None
        with self.database.read() as connection:
            uuid = connection.execute(select(installation.c.uuid)).scalar_one()
        _, self.token = self.database.transact(
            lambda connection: tokens.create(connection, "chaos", Role.ADMIN, "chaos")
        )
        self.survivor = self.start(roles.survivor, "survivor").ready()
        self.storage: Storage = (
            MemoryStorage(BACKEND, uuid, CAPACITY)
            if driver == "memory"
            else FileStorage(BACKEND, uuid, volumes)
        )
        for number in range(3):
            self.storage.put(Stray(f"person{number}", b"somebody needs this" * 100))
        if self.storage.has_policies:
            self.storage.put_policy("person", [ANYBODY])
        self._side = MemoryStorage(SIDE, uuid, CAPACITY)

    # -- who is there -----------------------------------------------------------------------

    def start(self, role: Any, *arguments: Any, armed: bool = False) -> Child:
        """A process of the product; failpoints act in ``armed`` ones only."""
        child = self.nursery.start(
            role, self.settings, *arguments, armed=armed, switched_off=self._switched_off
        )
        self._children.append(child)
        return child

    def end(self, child: Child) -> None:
        """Kill one, however it is."""
        child.kill()
        self._children.remove(child)

    def worker(self, beat_seconds: float = roles.NEVER, *, armed: bool = False) -> Child:
        """One more worker."""
        self._workers += 1
        return self.start(roles.worker, f"worker-{self._workers}", beat_seconds, armed=armed)

    def other_api(self) -> Child:
        """An API process that nothing happens to."""
        if self._other_api is None or not self._other_api.alive:
            self._other_api = self.start(roles.api, self.token).ready()
        return self._other_api

    def close(self) -> None:
        while self._children:
            self.end(self._children[-1])
        self.database.close()
        self.storage.erase()
        self._side.erase()

    # -- what is done -----------------------------------------------------------------------

    def submit(self, requests: Sequence[Request]) -> list[int]:
        """Submit each by itself, in this order, without telling anyone."""
        return [self._submit(request) for request in requests]

    def _submit(self, request: Request) -> int:
        submission = Submission(
            requests=[parse_request(request)], actor=Actor("chaos", Role.ADMIN), batch=False
        )
        [job_id] = self.database.transact(
            lambda connection: submit(connection, submission, max_attempts=5)
        ).job_ids
        self.note(job_id, request)
        self.approve()
        return job_id

    def approve(self) -> None:
        """Approve, as an administrator does, every job that waits for it."""

        def work(transaction: Transaction) -> None:
            for job_id in ids:
                approve(transaction, job_id, Actor("admin", Role.ADMIN), "chaos")
            queue_due(transaction)

        with self.database.read() as transaction:
            waiting = select(jobs.c.id).where(jobs.c.not_before == UNAPPROVED)
            ids = list(transaction.execute(waiting).scalars())
        if ids:
            self.database.transact(work)

    def note(self, job_id: int, request: Request) -> None:
        """A job was accepted."""
        self.asked.append((job_id, request))

    def prepare(self, requests: Sequence[Request]) -> None:
        """Do these in peace; a user writes into what they have made."""
        for request in requests:
            [job_id] = self.submit([request])
            self.survivor.call("work")
            rows = self.settle()
            self.use([request.get("volume")])
            if request["backend"] == SIDE:
                source = VolumeRef(rows[job_id].volume_id, request["volume"])
                self._side.mark(source, SOURCE_MARK)

    def by_hand(self, deed: ByHand, job: Request) -> None:
        """Do what a person does to what this job is about."""
        name = job.get("volume", "")
        match deed:
            case ByHand.TAKE_NAME if name:
                self.storage.put(Stray(name, b"mine, and nobody else's"))
            case ByHand.TAKE_NAME:
                self.storage.put_policy(job["policy"], [ANYBODY])
            case ByHand.CHANGE_RULES:
                self.storage.meddle(job["policy"], [ANYBODY])
            case ByHand.LOSE:
                self.storage.lose(VolumeRef(self.model.volumes[name].id, name))
                self.model.volumes[name].lost = True
            case ByHand.PUT_BACK:
                removed = (volumes.c.name == name, volumes.c.state == "removed")
                self.database.transact(
                    lambda t: t.execute(update(volumes).where(*removed).values(detail=None))
                )

    def finding(self, name: str) -> int:
        """The number of the open finding about a volume."""
        query = select(findings.c.id).where(findings.c.volume == name, findings.c.state == "open")
        with self.database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def use(self, names: Sequence[str | None]) -> None:
        """Users write into these volumes, if they are there: what must not be lost."""
        for name in names:
            volume = self.model.volumes.get(name or "")
            if volume is not None:
                volume.mark = f"at {len(self.asked)}.{time.monotonic_ns() % 10**8}".encode()
                self.storage.mark(VolumeRef(volume.id, volume.name), volume.mark)

    def settle(self) -> dict[int, Any]:
        """Play what has ended since into the model; the rows of these jobs."""
        ids = [job_id for job_id, _ in self.asked[self._played :]]
        with self.database.read() as connection:
            rows = {
                row.id: row for row in connection.execute(select(*JOB).where(jobs.c.id.in_(ids)))
            }
        for job_id, request in self.asked[self._played :]:
            if rows[job_id].finished_at is None:
                break
            self._played += 1
            if rows[job_id].state == "succeeded" and request["backend"] == BACKEND:
                self.model.play(request, rows[job_id].volume_id, policy_of(rows[job_id]))
        return rows

    def sign_of_life(self) -> None:
        """Tell, as the clock of a worker does, that one is there who serves everything."""
        backends = [backend_queue(name) for name in (BACKEND, SIDE)]
        queues = [CONTROL_QUEUE, *backends, host_queue(self.host)]
        self.database.transact(
            lambda connection: seen(
                connection,
                "survivor",
                host=self.host,
                pid=self.survivor.pid,
                boot_id=boot_id(),
                queues=queues,
            )
        )

    # -- time ---------------------------------------------------------------------------------

    @property
    def unfinished(self) -> int:
        """How many jobs have not ended."""
        with self.database.read() as connection:
            query = select(func.count()).select_from(jobs).where(jobs.c.finished_at.is_(None))
            return int(connection.execute(query).scalar_one())

    def time_passes(self) -> None:
        """An hour goes by: back-off and start times come, leases and wake-ups grow old.

        The clock of the database cannot be set, so the times in the rows are set back. Rows
        that somebody holds in a transaction are left alone, as the product's own sweeps do.
        """

        def age(connection: Any) -> None:
            for column, condition in (
                (jobs.c.not_before, jobs.c.not_before != UNAPPROVED),
                (jobs.c.lease_expires_at, jobs.c.state == "running"),
                (jobs.c.queued_at, jobs.c.state == "queued"),
            ):
                free = select(jobs.c.id).where(condition).with_for_update(skip_locked=True)
                ids = list(connection.execute(free).scalars())
                if ids:
                    connection.execute(
                        update(jobs).where(jobs.c.id.in_(ids)).values({column.name: db_now(-HOUR)})
                    )

        self.database.transact(age)

    def go_on(self, rounds: int = ROUNDS) -> bool:
        """Let time pass and everyone who is left work; whether everything has ended."""
        for number in range(1, rounds + 1):
            if not self.unfinished:
                break
            self.time_passes()
            self.approve()
            self.survivor.call("recover" if number < rounds else "sweep")
        return not self.unfinished

    def help(self) -> None:
        """Approve what needs it, and execute what is queued, if anything is."""
        if self.unfinished:
            self.approve()
            self.survivor.call("recover")

    def empty_broker(self) -> None:
        """The broker forgets everything."""
        with redis.Redis.from_url(redis_client_url(self.broker_url)) as client:
            client.flushall()
