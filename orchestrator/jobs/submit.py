"""Submission: everything that can be checked is checked, then jobs and events are one commit."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import defaultdict
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from orchestrator.audit.events import Event, record
from orchestrator.domain.drivers import DRIVERS
from orchestrator.domain.errors import (
    DependencyCycle,
    DependencyFailed,
    HostUnavailable,
    IdempotencyMismatch,
    InvalidInput,
    NotAllowed,
    Problem,
    UnknownJob,
)
from orchestrator.domain.requests import MAX_BATCH, MAX_ID, JobRequest
from orchestrator.domain.states import JobState, Role
from orchestrator.inventory.hosts import live_hosts
from orchestrator.jobs import rules
from orchestrator.jobs.lanes import (
    hold_tails,
    hold_unfinished,
    lanes_of,
    lock_for_submission,
    target_of,
)
from orchestrator.jobs.outlook import Intent, Outlook
from orchestrator.jobs.wakeups import queue_for
from orchestrator.store.bulk import among, draw, insert_rows
from orchestrator.store.columns import db_now
from orchestrator.store.tables import (
    batches,
    idempotency_keys,
    job_dependencies,
    job_lanes,
    jobs,
)

#: What a claimed group may cost in all; a slow job fills it alone.
GROUP_BUDGET = 1000

#: How messages name a row of a batch, and a single job.
_ROW = "jobs.{}"


@dataclass(frozen=True)
class Actor:
    """Who submits: a token's name and role."""

    name: str
    role: Role


@dataclass(frozen=True, kw_only=True)
class Submission:
    """Jobs that are accepted together or not at all."""

    requests: Sequence[JobRequest]
    actor: Actor
    batch: bool = False
    reason: str | None = None
    idempotency_key: str | None = None
    #: Volumes that hand-made retries are bound to, by place in ``requests``.
    bound: dict[int, dict[str, Any]] = field(default_factory=dict)

    def digest(self) -> str:
        """What the idempotency key stands for."""
        body = [request.model_dump(mode="json") for request in self.requests]
        retries = [bound.get("retry_of") for bound in self.bound.values()]
        text = json.dumps([self.batch, self.reason, body, retries], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """What became of a submission: the stored jobs, in order, and whom to wake."""

    job_ids: list[int]
    batch_id: int | None
    #: Rows as inserted; empty when the key had been used before.
    rows: list[dict[str, Any]]
    depends_on: dict[int, list[int]]
    #: Names of the backends in ``rows``, by id.
    backends: dict[int, str]
    wake: dict[str, int]
    repeated: bool = False


@dataclass(frozen=True, kw_only=True)
class PlannedJob:
    """What one job of a plan would do, and what it would wait for."""

    request: JobRequest
    would: str
    waits_for: list[str]


def submit(connection: Connection, submission: Submission, *, max_attempts: int) -> Accepted:
    """Store the submission's jobs. Raises the `Problem` of the first one that is refused.

    Call in a writing transaction; send ``Accepted.wake`` after it has committed.
    """
    if submission.idempotency_key is not None:
        answered = _answered_before(connection, submission)
        if answered is not None:
            return answered
    drafts = _Drafts(connection, submission)
    drafts.check()
    return drafts.store(max_attempts)


def plan(connection: Connection, submission: Submission) -> list[PlannedJob]:
    """What the submission would do; the same checks, and nothing stored."""
    drafts = _Drafts(connection, submission)
    drafts.check()
    return [
        PlannedJob(
            request=request,
            would=request.declaration.summary,
            waits_for=drafts.waits_for(place),
        )
        for place, request in enumerate(submission.requests)
    ]


class _Drafts:
    """The jobs of one submission on their way into the store."""

    def __init__(self, connection: Connection, submission: Submission) -> None:
        self.connection = connection
        self.submission = submission
        self.requests = submission.requests
        self.outlook = Outlook(connection)
        self.intents: list[Intent] = []
        self.lanes: list[list[str]] = []
        #: Per job: ids of stored jobs, and places of jobs of this submission, it depends on.
        self.stored_deps: list[set[int]] = []
        self.batch_deps: list[set[int]] = []
        #: The same for order: a destructive job after what is unfinished in its lanes.
        self.order_stored: list[set[int]] = []
        self.order_batch: list[set[int]] = []
        self.blocked: list[bool] = []
        self.rooms: list[int] = []
        #: By lane, the last job of this submission that needs the success of all before it.
        self._batch_gates: dict[str, int] = {}
        self.now: datetime = connection.execute(select(db_now())).scalar_one()

    # -- checks ---------------------------------------------------------------------------

    def check(self) -> None:
        """Refuse the submission, or know everything needed to store it."""
        self._check_shape()
        self.outlook.load_backends(request.backend for request in self.requests)
        for request in self.requests:
            self.lanes.append(
                lanes_of(
                    request.declaration,
                    request.backend,
                    request.volume,
                    request.stored_params(),
                )
            )
        every_lane = {lane for lanes in self.lanes for lane in lanes}
        lock_for_submission(self.connection, every_lane)
        hold_tails(self.connection, every_lane)
        self._resolve_dependencies()
        self._load(every_lane)
        self._check_each()
        self._check_cycles()

    def _check_shape(self) -> None:
        if not self.requests:
            raise InvalidInput("a batch has at least one job", field="jobs")
        if len(self.requests) > MAX_BATCH:
            raise InvalidInput(
                f"a batch has at most {MAX_BATCH} jobs, this one has {len(self.requests)}: "
                "split it",
                field="jobs",
            )
        for place, request in enumerate(self.requests):
            role = request.declaration.role
            if not self.submission.actor.role.includes(role):
                raise NotAllowed(
                    f"{request.action} needs the role {role}; this token has the role "
                    f"{self.submission.actor.role}",
                    **self._at(place),
                )

    def _at(self, place: int) -> dict[str, Any]:
        """The facts that tell which job of a batch a problem is about."""
        if not self.submission.batch:
            return {}
        ref = self.requests[place].ref
        return {"index": place, **({"ref": ref} if ref else {})}

    def _resolve_dependencies(self) -> None:
        places: dict[str, int] = {}
        for place, request in enumerate(self.requests):
            if request.ref is None:
                continue
            if request.ref in places:
                raise InvalidInput(
                    f"ref {request.ref!r} is used twice in this batch",
                    field=self._field(place, "ref"),
                )
            places[request.ref] = place
        wanted: set[int] = set()
        for place, request in enumerate(self.requests):
            stored: set[int] = set()
            inside: set[int] = set()
            for named in request.depends_on:
                if isinstance(named, str) and named in places:
                    inside.add(places[named])
                elif isinstance(named, int) or (named.isdecimal() and int(named) <= MAX_ID):
                    stored.add(int(named))
                else:
                    raise InvalidInput(
                        f"depends_on names {named!r}, which is neither a job's id nor a ref of "
                        "this batch",
                        field=self._field(place, "depends_on"),
                    )
            wanted |= stored
            self.stored_deps.append(stored)
            self.batch_deps.append(inside)
        self._check_stored_dependencies(wanted)

    def _check_stored_dependencies(self, wanted: set[int]) -> None:
        unfinished = hold_unfinished(self.connection, wanted)
        states: dict[int, str] = {}
        if wanted:
            query = select(jobs.c.id, jobs.c.state).where(among(self.connection, jobs.c.id, wanted))
            states = dict(self.connection.execute(query).all())
        for place, stored in enumerate(self.stored_deps):
            for job_id in sorted(stored):
                field = self._field(place, "depends_on")
                if job_id not in states:
                    raise UnknownJob(f"depends_on names job {job_id}: there is none", field=field)
                if states[job_id] in (JobState.FAILED, JobState.CANCELED):
                    raise DependencyFailed(
                        f"depends_on names job {job_id}, which has {states[job_id]}",
                        field=field,
                        job=job_id,
                    )
            self.blocked.append(bool(stored & unfinished) or bool(self.batch_deps[place]))

    def _field(self, place: int, name: str) -> str:
        return f"{_ROW.format(place)}.{name}" if self.submission.batch else name

    def _load(self, every_lane: set[str]) -> None:
        ahead = self._ahead(every_lane)
        targets = {target_of(lane) for lane in every_lane}
        for request in self.requests:
            if request.volume is not None:
                targets.add((request.backend, request.volume))
        for _, intent in ahead:
            for lane in lanes_of(intent.action, intent.backend, intent.volume, intent.params):
                targets.add(target_of(lane))
        self.outlook.load_volumes(
            targets,
            own_jobs=frozenset(job_id for job_id, _ in ahead),
        )
        for _, intent in ahead:
            rules.play(self.outlook, intent)

    def _ahead(self, every_lane: set[str]) -> list[tuple[int, Intent]]:
        """The unfinished jobs before these; held, where a destructive job needs their success."""
        while True:
            ahead = self.outlook.load_ahead(every_lane)
            needed = {
                job_id
                for place, request in enumerate(self.requests)
                if request.declaration.destructive and request.after == "success"
                for lane in self.lanes[place]
                for job_id in self.outlook.ahead.get(lane, ())
            }
            if hold_unfinished(self.connection, needed) == needed:
                return ahead
            # One has ended between the look and the hold: look again.
            self.outlook.forget_ahead()

    def _check_each(self) -> None:
        last_in_lane: dict[str, list[int]] = defaultdict(list)
        for place, request in enumerate(self.requests):
            try:
                if request.run_at is not None and request.run_at > self.now:
                    self._check_later(place, request.run_at)
                else:
                    rules.play(self.outlook, self._check_one(place))
            except Problem as problem:
                if self.submission.batch:
                    where = _ROW.format(place)
                    problem.field = f"{where}.{problem.field}" if problem.field else where
                    problem.facts.update(self._at(place))
                raise
            self._order(place, last_in_lane)

    def _check_one(self, place: int) -> Intent:
        """Check a job against the outlook as it is now; what it was found to mean."""
        intent = self._intent(place)
        self._check_host(place, intent)
        rules.check(self.outlook, intent)
        self.rooms.append(rules.check_room(self.outlook, intent))
        self.intents.append(intent)
        return intent

    def _intent(self, place: int) -> Intent:
        request = self.requests[place]
        bound = self.submission.bound.get(place, {})
        action = request.declaration
        params = request.stored_params()
        volume_id, snapshot_id, source_id = (
            bound.get(name) for name in ("volume_id", "snapshot_id", "source_id")
        )
        made = uuid.uuid4().hex if action.creates else None
        volume = self.outlook.volume(request.backend, request.volume) if request.volume else None
        origin = volume
        if "source" in params:
            origin = self.outlook.volume(request.backend, params["source"])
            source_id = source_id or (origin.id if origin else None)
        if made is not None and action.kind == "volume":
            volume_id = made
        elif volume_id is None and volume is not None:
            volume_id = volume.id
        if made is not None and action.kind == "snapshot":
            snapshot_id = made
        elif snapshot_id is None and origin is not None and request.snapshot is not None:
            found = origin.snapshots.get(request.snapshot)
            snapshot_id = found.id if found else None
        return Intent(
            action=action,
            backend=request.backend,
            volume=request.volume,
            snapshot=request.snapshot,
            host=request.host,
            params=params,
            reason=request.reason or self.submission.reason,
            volume_id=volume_id,
            snapshot_id=snapshot_id,
            source_id=source_id,
        )

    def _check_later(self, place: int, run_at: datetime) -> None:
        """Check a job with a start time ahead against what will be there then."""
        lanes = self.lanes[place]
        before = self.outlook.due_by(lanes, run_at)
        touched = {target_of(lane) for lane in lanes}
        for one in before:
            others = lanes_of(one.action, one.backend, one.volume, one.params)
            touched.update(target_of(lane) for lane in others)
        kept = {key: deepcopy(self.outlook.volumes.get(key)) for key in touched}
        for earlier in before:
            rules.play(self.outlook, earlier)
        try:
            intent = self._check_one(place)
        finally:
            self.outlook.restore(kept)
        self.outlook.add_later(lanes, run_at, intent)

    def _check_host(self, place: int, intent: Intent) -> None:
        backend = self.outlook.backend(intent.backend)
        if _queue(intent, backend.driver).startswith("host."):
            alive = live_hosts(self.connection, intent.backend)
            if intent.host not in alive:
                raise HostUnavailable(
                    f"no worker that serves backend {intent.backend} is alive on host "
                    f"{intent.host}; alive are: {', '.join(sorted(alive)) or 'none'}",
                    field=self._field(place, "host"),
                    **self._at(place),
                )

    def _order(self, place: int, last_in_lane: dict[str, list[int]]) -> None:
        """Note what stands before the job in its lanes."""
        request = self.requests[place]
        order_stored: set[int] = set()
        order_batch: set[int] = set()
        batch_gates = self._batch_gates
        later = request.run_at is not None and request.run_at > self.now
        for lane in self.lanes[place]:
            ahead, before = self.outlook.ahead.get(lane, []), last_in_lane[lane]
            if (ahead or before) and not later:
                self.blocked[place] = True
            if request.declaration.destructive and request.after == "success":
                # The last gate has all before it for its own condition.
                gate = self.outlook.gates.get(lane, 0)
                order_stored.update(() if lane in batch_gates else (n for n in ahead if n >= gate))
                order_batch.update(n for n in before if n >= batch_gates.get(lane, 0))
                batch_gates[lane] = place
            if not later:
                before.append(place)
        if later:
            self.blocked[place] = True
        self.order_stored.append(order_stored - self.stored_deps[place])
        self.order_batch.append(order_batch - self.batch_deps[place])

    def _check_cycles(self) -> None:
        """Refuse jobs of one batch that wait for one another in a circle."""
        if not any(self.batch_deps):
            return
        waits: list[set[int]] = [set(inside) for inside in self.batch_deps]
        previous: dict[str, int] = {}
        for place, lanes in enumerate(self.lanes):
            for lane in lanes:
                if lane in previous:
                    waits[place].add(previous[lane])
                previous[lane] = place
        free = [place for place, others in enumerate(waits) if not others]
        waiters: dict[int, list[int]] = defaultdict(list)
        for place, others in enumerate(waits):
            for other in others:
                waiters[other].append(place)
        left = [len(others) for others in waits]
        done = 0
        while free:
            done += 1
            for place in waiters[free.pop()]:
                left[place] -= 1
                if left[place] == 0:
                    free.append(place)
        if done < len(waits):
            stuck = [place for place, count in enumerate(left) if count > 0]
            names = ", ".join(self.requests[place].ref or f"jobs.{place}" for place in stuck[:10])
            raise DependencyCycle(
                f"these jobs wait for one another, by depends_on or because an earlier one is on "
                f"the same volume: {names}",
                field=self._field(stuck[0], "depends_on"),
            )

    def waits_for(self, place: int) -> list[str]:
        """For people: what the job of a plan would wait for."""
        request = self.requests[place]
        told = [f"job {job_id}" for job_id in sorted(self.stored_deps[place])]
        told += [
            self.requests[other].ref or f"jobs.{other}" for other in sorted(self.batch_deps[place])
        ]
        for lane in self.lanes[place]:
            if ahead := self.outlook.ahead.get(lane):
                told.append(f"job {ahead[-1]} on {lane}")
        if request.run_at is not None:
            told.append(request.run_at.isoformat())
        return told

    # -- storing --------------------------------------------------------------------------

    def store(self, max_attempts: int) -> Accepted:
        """Insert everything the submission needs; the caller commits."""
        connection, submission = self.connection, self.submission
        batch_id = self._store_batch() if submission.batch else None
        ids = draw(connection, "jobs", len(self.requests))
        rows = [
            self._row(place, job_id, batch_id, max_attempts) for place, job_id in enumerate(ids)
        ]
        insert_rows(connection, jobs, rows)
        insert_rows(
            connection,
            job_lanes,
            [
                {"lane": lane, "job_id": ids[place], "begun": False}
                for place, lanes in enumerate(self.lanes)
                for lane in lanes
            ],
        )
        depends_on = self._store_dependencies(ids)
        if submission.idempotency_key is not None:
            insert_rows(
                connection,
                idempotency_keys,
                [
                    {
                        "owner": submission.actor.name,
                        "key": submission.idempotency_key,
                        "request_digest": submission.digest(),
                        "job_id": None if submission.batch else ids[0],
                        "batch_id": batch_id,
                        "created_at": self.now,
                    }
                ],
            )
        record(
            connection,
            [
                self._event(row, intent.backend)
                for row, intent in zip(rows, self.intents, strict=True)
            ],
            self.now,
        )
        wake: dict[str, int] = defaultdict(int)
        for row in rows:
            if row["state"] == JobState.QUEUED:
                wake[row["queue"]] += 1
        return Accepted(
            job_ids=ids,
            batch_id=batch_id,
            rows=rows,
            depends_on=depends_on,
            backends={backend.id: backend.name for backend in self.outlook.backends.values()},
            wake=dict(wake),
        )

    def _store_batch(self) -> int:
        [batch_id] = draw(self.connection, "batches", 1)
        insert_rows(
            self.connection,
            batches,
            [
                {
                    "id": batch_id,
                    "submitted_by": self.submission.actor.name,
                    "reason": self.submission.reason,
                    "total": len(self.requests),
                    "created_at": self.now,
                }
            ],
        )
        return batch_id

    def _row(
        self, place: int, job_id: int, batch_id: int | None, max_attempts: int
    ) -> dict[str, Any]:
        request, intent = self.requests[place], self.intents[place]
        driver = self.outlook.backend(intent.backend).driver
        later = request.run_at is not None and request.run_at > self.now
        state = JobState.WAITING if self.blocked[place] else JobState.QUEUED
        bound = self.submission.bound.get(place, {})
        return {
            "id": job_id,
            "action": intent.action.name,
            "backend_id": self.outlook.backend(intent.backend).id,
            "volume": intent.volume,
            "snapshot": intent.snapshot,
            "host": intent.host,
            "params": dict(intent.params),
            "volume_id": intent.volume_id,
            "snapshot_id": intent.snapshot_id,
            "source_id": intent.source_id,
            "state": state,
            "priority": request.priority,
            "queue": _queue(intent, driver),
            "cost": _cost(intent, driver),
            "after": request.after,
            "promised_bytes": self.rooms[place],
            "begun": False,
            "attempt": 0,
            "max_attempts": request.max_attempts or max_attempts,
            "run_at": request.run_at,
            "not_before": request.run_at if later else None,
            "submitted_by": self.submission.actor.name,
            "reason": intent.reason,
            "batch_id": batch_id,
            "ref": request.ref,
            "retry_of": bound.get("retry_of"),
            "created_at": self.now,
            "queued_at": self.now if state is JobState.QUEUED else None,
        }

    def _store_dependencies(self, ids: list[int]) -> dict[int, list[int]]:
        rows: list[dict[str, Any]] = []
        asked: dict[int, list[int]] = {}
        for place, job_id in enumerate(ids):
            needed = self.stored_deps[place] | {ids[other] for other in self.batch_deps[place]}
            order = self.order_stored[place] | {ids[other] for other in self.order_batch[place]}
            if needed:
                asked[job_id] = sorted(needed)
            rows += [
                {"job_id": job_id, "depends_on": other, "kind": kind}
                for kind, others in (("asked", needed), ("order", order - needed))
                for other in sorted(others)
            ]
        insert_rows(self.connection, job_dependencies, rows)
        return asked

    def _event(self, row: dict[str, Any], backend: str) -> Event:
        return Event(
            kind="job.submitted",
            actor=row["submitted_by"],
            backend=backend,
            volume=row["volume"],
            volume_id=row["volume_id"],
            snapshot=row["snapshot"],
            job_id=row["id"],
            reason=row["reason"],
            data={"action": row["action"], "params": row["params"]},
        )


def _queue(intent: Intent, driver: str) -> str:
    # A forced detach is for a host that is dead: any worker of the backend does it.
    forced = bool(intent.params.get("force"))
    return queue_for(
        driver,
        intent.backend,
        intent.host,
        on_host=intent.action.on_host and not forced,
        administrative=intent.action.administrative,
    )


def _cost(intent: Intent, driver: str) -> int:
    if intent.action.slow or intent.params.get("wipe"):
        return GROUP_BUDGET
    return max(1, GROUP_BUDGET // DRIVERS[driver].group)


def _answered_before(connection: Connection, submission: Submission) -> Accepted | None:
    """The first answer given for the submission's key, if there was one."""
    owner, key = submission.actor.name, submission.idempotency_key
    lock_for_submission(connection, [f"key {owner} {key}"])
    found = (
        connection.execute(
            select(idempotency_keys).where(
                idempotency_keys.c.owner == owner, idempotency_keys.c.key == key
            )
        )
        .mappings()
        .first()
    )
    if found is None:
        return None
    if found["request_digest"] != submission.digest():
        raise IdempotencyMismatch(field="Idempotency-Key", job=found["job_id"])
    batch_id = found["batch_id"]
    ids = [found["job_id"]]
    if batch_id is not None:
        query = select(jobs.c.id).where(jobs.c.batch_id == batch_id).order_by(jobs.c.id)
        ids = list(connection.execute(query).scalars())
    return Accepted(
        job_ids=ids,
        batch_id=batch_id,
        rows=[],
        depends_on={},
        backends={},
        wake={},
        repeated=True,
    )
