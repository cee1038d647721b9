"""Drafts: a submission's jobs, checked against what there will be, on their way to the store."""

from __future__ import annotations

import uuid
from collections import defaultdict
from copy import deepcopy
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from orchestrator.domain.errors import (
    DependencyCycle,
    DependencyFailed,
    HostUnavailable,
    InvalidInput,
    NotAllowed,
    Problem,
    UnknownJob,
)
from orchestrator.domain.requests import MAX_BATCH, MAX_ID
from orchestrator.domain.states import JobState
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
from orchestrator.jobs.submission import Submission
from orchestrator.jobs.wakeups import queue_for
from orchestrator.store.bulk import among
from orchestrator.store.columns import db_now
from orchestrator.store.tables import jobs

#: How messages name a row of a batch, and a single job.
_ROW = "jobs.{}"


class Drafts:
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
        self._gates_here: dict[str, int] = {}
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
        if queue_of(intent, backend.driver).startswith("host."):
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
        batch_gates = self._gates_here
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


def queue_of(intent: Intent, driver: str) -> str:
    """The queue of the workers that can do this."""
    # A forced detach is for a host that is dead: any worker of the backend does it.
    forced = bool(intent.params.get("force"))
    return queue_for(
        driver,
        intent.backend,
        intent.host,
        on_host=intent.action.on_host and not forced,
        administrative=intent.action.administrative,
    )
