"""Claiming: a worker takes queued jobs, each with a lease and a fencing number of its own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, func, or_, select, text, update
from sqlalchemy.exc import IntegrityError

from orchestrator import failpoints
from orchestrator.audit.events import Event, record
from orchestrator.domain.actions import Action
from orchestrator.domain.errors import Locked, Problem
from orchestrator.domain.states import JobState, SnapshotState, VolumeState
from orchestrator.jobs import rules
from orchestrator.jobs.lanes import lane_taken
from orchestrator.jobs.outlook import Intent, Outlook, VolumeOutlook, intent_of
from orchestrator.jobs.submission import GROUP_BUDGET
from orchestrator.jobs.wakeups import CONTROL_QUEUE
from orchestrator.store.bulk import among, draw, insert_rows
from orchestrator.store.columns import Json, UtcDateTime, db_now
from orchestrator.store.database import Database
from orchestrator.store.statements import BEGIN_LANES_SQLITE, CLAIM_POSTGRESQL, CLAIM_SQLITE
from orchestrator.store.tables import job_steps, jobs, locks, snapshots, volumes

#: At most this many jobs are claimed at once, however cheap they are.
MOST_CLAIMED = 200
#: The class of our advisory locks that guard limits of jobs at once.
_CLAIM_LOCKS = 0x636C6169

_CLAIM_POSTGRESQL = text(CLAIM_POSTGRESQL).columns(
    params=Json, cancel_requested_at=UtcDateTime, now=UtcDateTime
)
_CLAIM_SQLITE = text(CLAIM_SQLITE).columns(
    params=Json, cancel_requested_at=UtcDateTime, now=UtcDateTime
)


@dataclass(frozen=True)
class Step:
    """One line of a job's journal."""

    seq: int
    name: str
    state: str
    detail: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A job in a worker's hands until its lease runs out."""

    job_id: int
    fence: int
    intent: Intent
    backend_id: int
    #: The backend's identity marker, and whether it is known to be on the storage.
    identity: str | None
    identity_written: bool
    grain_bytes: int
    attempt: int
    max_attempts: int
    batch_id: int | None
    submitted_by: str
    queue: str
    cancel_requested: bool
    #: An earlier attempt may have changed the storage: it has written a step, or the row of
    #: what it makes. Until then the job is checked again each time it is claimed.
    touched: bool
    #: The target (for a clone, the source) as the inventory has it, before the job.
    volume: VolumeOutlook | None
    source: VolumeOutlook | None
    #: What earlier attempts wrote down.
    steps: list[Step] = field(default_factory=list)
    #: Why the job may no longer run, found when it was claimed.
    refused: Problem | None = None

    @property
    def action(self) -> Action:
        """The declaration of its action."""
        return self.intent.action


def claim(
    database: Database,
    *,
    worker: str,
    queue: str,
    backends: Sequence[int],
    lease_seconds: float,
    slow: bool = True,
    at_once: int | None = None,
) -> list[Claim]:
    """Take work from a queue; an empty list if there is none for these backends.

    One slow job (unless ``slow`` is false), or a group of quick ones; with ``at_once``, no
    more than leaves that many running on these backends, all workers together. What is to
    be made gets its pending row here, in the same transaction; a job that may no longer run
    comes with ``refused`` set.
    """
    if not backends:
        return []
    values = {
        "worker": worker,
        "queue": queue,
        "control": CONTROL_QUEUE,
        "most": MOST_CLAIMED,
        "budget": GROUP_BUDGET,
        "lease": lease_seconds,
        "slow": slow,
    }
    try:
        return database.transact(lambda connection: _claim(connection, values, backends, at_once))
    except IntegrityError:
        # A job was queued although its lane has a begun one (its time came while another
        # was submitted). Put such jobs back to waiting; the lane's end queues them again.
        database.transact(put_back_blocked)
        return []


def put_back_blocked(connection: Connection) -> int:
    """Queued jobs whose lane another job holds wait again; returns how many."""
    return connection.execute(
        update(jobs)
        .where(jobs.c.state == JobState.QUEUED, ~jobs.c.begun, lane_taken())
        .values(state=JobState.WAITING, queued_at=None)
    ).rowcount


def _claim(
    connection: Connection,
    values: dict[str, Any],
    backends: Sequence[int],
    at_once: int | None,
) -> list[Claim]:
    if at_once is not None:
        most = min(values["most"], _places_left(connection, backends, at_once))
        values = {**values, "most": most}
    rows = _take(connection, values, backends) if values["most"] > 0 else []
    if not rows:
        return []
    now: datetime = rows[0]["now"]
    outlook = _look(connection, rows)
    names = {backend.id: backend.name for backend in outlook.backends.values()}
    again = [row for row in rows if row["claims"] > 1]
    steps = _steps(connection, [row["id"] for row in again])
    born = _born(connection, again)
    claims = [
        _claim_of(
            row,
            outlook,
            names[row["backend_id"]],
            steps.get(row["id"], []),
            touched=row["id"] in steps or row["id"] in born,
        )
        for row in rows
    ]
    _give_birth(connection, claims, now)
    record(connection, [_started(claim) for claim in claims], now)
    for claimed in claims:
        failpoints.reach("claim.before_commit", connection, action=claimed.action.name)
    return claims


def _places_left(connection: Connection, backends: Sequence[int], at_once: int) -> int:
    """How many jobs more may run on these backends; nobody else claims there meanwhile."""
    if connection.dialect.name == "postgresql":
        for backend_id in sorted(backends):
            connection.execute(select(func.pg_advisory_xact_lock(_CLAIM_LOCKS, backend_id)))
    running = select(func.count()).where(
        jobs.c.state == JobState.RUNNING, among(connection, jobs.c.backend_id, backends)
    )
    return at_once - int(connection.execute(running).scalar_one())


def _take(
    connection: Connection, values: dict[str, Any], backends: Sequence[int]
) -> list[RowMapping]:
    if connection.dialect.name == "postgresql":
        found = connection.execute(_CLAIM_POSTGRESQL, {**values, "backends": list(backends)})
        return sorted(found.mappings().all(), key=lambda row: row["fence"])
    queued = connection.execute(
        select(jobs.c.id)
        .where(jobs.c.state == JobState.QUEUED, jobs.c.queue == values["queue"])
        .limit(1)
    ).first()
    if queued is None:
        return []
    fences = draw(connection, "fences", MOST_CLAIMED)[0] - 1
    values = {**values, "backends": json.dumps(list(backends)), "fences": fences}
    rows = connection.execute(_CLAIM_SQLITE, values).mappings().all()
    connection.execute(text(BEGIN_LANES_SQLITE), {"ids": json.dumps([row["id"] for row in rows])})
    return sorted(rows, key=lambda row: row["fence"])


def _look(connection: Connection, rows: Sequence[RowMapping]) -> Outlook:
    outlook = Outlook(connection)
    outlook.load_backends_by_id({row["backend_id"] for row in rows})
    names = {backend.id: backend.name for backend in outlook.backends.values()}
    targets: set[tuple[str, str]] = set()
    for row in rows:
        backend = names[row["backend_id"]]
        for name in (row["volume"], row["params"].get("source"), row["params"].get("new_name")):
            if name is not None:
                targets.add((backend, name))
    outlook.load_volumes(targets, own_jobs=frozenset(row["id"] for row in rows))
    return outlook


def _claim_of(
    row: RowMapping, outlook: Outlook, backend_name: str, steps: list[Step], *, touched: bool
) -> Claim:
    intent = intent_of(row, backend_name)
    backend = outlook.backends[backend_name]
    refused: Problem | None = None
    if not touched:
        try:
            rules.check(outlook, intent)
        except Problem as problem:
            refused = problem
    source = intent.params.get("source")
    return Claim(
        job_id=row["id"],
        fence=row["fence"],
        intent=intent,
        backend_id=row["backend_id"],
        identity=backend.identity,
        identity_written=backend.identity_written,
        grain_bytes=backend.grain_bytes,
        attempt=row["attempt"],
        max_attempts=row["max_attempts"],
        batch_id=row["batch_id"],
        submitted_by=row["submitted_by"],
        queue=row["queue"],
        cancel_requested=row["cancel_requested_at"] is not None,
        touched=touched,
        volume=outlook.volume(backend_name, intent.volume) if intent.volume else None,
        source=outlook.volume(backend_name, source) if source else None,
        steps=steps,
        refused=refused,
    )


def _born(connection: Connection, rows: Sequence[RowMapping]) -> set[int]:
    """Those of these jobs that have inserted the row of what they make."""
    found: set[int] = set()
    for table, column in ((volumes, "volume_id"), (snapshots, "snapshot_id")):
        ids = [row[column] for row in rows if row[column] is not None]
        if ids:
            query = select(table.c.created_by_job).where(among(connection, table.c.id, ids))
            found.update(connection.execute(query).scalars())
    return found & {row["id"] for row in rows}


def _steps(connection: Connection, ids: list[int]) -> dict[int, list[Step]]:
    found: dict[int, list[Step]] = {}
    if ids:
        for row in connection.execute(
            select(job_steps)
            .where(among(connection, job_steps.c.job_id, ids))
            .order_by(job_steps.c.job_id, job_steps.c.seq)
        ):
            found.setdefault(row.job_id, []).append(
                Step(row.seq, row.name, row.state, row.detail or {})
            )
    return found


def _give_birth(connection: Connection, claims: Iterable[Claim], now: datetime) -> None:
    """Insert the pending rows of what these jobs will make."""
    new_volumes: list[dict[str, Any]] = []
    new_snapshots: list[dict[str, Any]] = []
    for claim in claims:
        intent = claim.intent
        if not claim.action.creates or claim.refused or claim.touched:
            continue
        if claim.action.kind == "snapshot":
            assert claim.volume is not None  # noqa: S101 - the rule has checked it
            new_snapshots.append(
                {
                    "id": intent.snapshot_id,
                    "volume_id": claim.volume.id,
                    "name": intent.snapshot,
                    "size_bytes": claim.volume.size_bytes,
                    "state": SnapshotState.PENDING,
                    "created_by_job": claim.job_id,
                    "created_at": now,
                }
            )
            continue
        size = size_wanted(claim)
        new_volumes.append(
            {
                "id": intent.volume_id,
                "backend_id": claim.backend_id,
                "name": intent.volume,
                "requested_bytes": size,
                "size_bytes": size,
                "state": VolumeState.PENDING,
                "metadata": intent.params.get("metadata") or {},
                "parent_volume_id": claim.source.id if claim.source else None,
                "parent_snapshot_id": intent.snapshot_id,
                "created_by_job": claim.job_id,
                "created_at": now,
                "changed_at": now,
            }
        )
    insert_rows(connection, volumes, new_volumes)
    insert_rows(connection, snapshots, new_snapshots)


def size_wanted(claim: Claim) -> int:
    """Bytes that a new volume was asked to have: for a clone, at least what it copies."""
    asked = claim.intent.params.get("size_bytes")
    if asked is not None:
        return int(asked)
    assert claim.source is not None  # noqa: S101 - only a clone may leave the size out
    snapshot = claim.source.snapshots.get(claim.intent.snapshot or "")
    return snapshot.size_bytes if snapshot else claim.source.size_bytes


def _started(claim: Claim) -> Event:
    return Event(
        kind="job.started",
        actor=claim.submitted_by,
        backend=claim.intent.backend,
        volume=claim.intent.volume,
        volume_id=claim.intent.volume_id,
        snapshot=claim.intent.snapshot,
        job_id=claim.job_id,
        reason=claim.intent.reason,
        data={"attempt": claim.attempt, "fence": claim.fence},
    )


@dataclass(frozen=True)
class Held:
    """What a heartbeat found: jobs still ours, those renewed, and those to be canceled."""

    held: frozenset[int]
    renewed: frozenset[int]
    to_cancel: frozenset[int]


def renew(
    connection: Connection,
    fences: Mapping[int, int],
    lease_seconds: float,
    progress: Mapping[int, dict[str, Any]],
) -> Held:
    """Renew the leases of jobs (fencing number by id) in one statement, and tell progress.

    A row that another transaction holds at the moment is left for the next time; it is
    still ours if its fencing number says so.
    """
    mine = list(fences.items())
    ids = [job_id for job_id, _ in mine]
    free = (
        select(jobs.c.id)
        .where(among(connection, jobs.c.id, ids), jobs.c.state == JobState.RUNNING)
        .order_by(jobs.c.id)
        .with_for_update(skip_locked=True, key_share=True)
    )
    unlocked = set(connection.execute(free).scalars())
    found = connection.execute(
        select(jobs.c.id, jobs.c.fence, jobs.c.cancel_requested_at).where(
            among(connection, jobs.c.id, ids), jobs.c.state == JobState.RUNNING
        )
    ).all()
    ours = {row.id for row in found if row.fence == fences[row.id]}
    renewable = [job_id for job_id in ids if job_id in ours and job_id in unlocked]
    if renewable:
        connection.execute(
            update(jobs)
            .where(among(connection, jobs.c.id, renewable))
            .values(lease_expires_at=db_now(lease_seconds))
        )
    told = [
        {"_id": job_id, "_fence": fences[job_id], "progress": progress[job_id]}
        for job_id in renewable
        if job_id in progress
    ]
    if told:
        connection.execute(
            update(jobs).where(jobs.c.id == bindparam("_id"), jobs.c.fence == bindparam("_fence")),
            told,
        )
    return Held(
        held=frozenset(ours),
        renewed=frozenset(renewable),
        to_cancel=frozenset(row.id for row in found if row.id in ours and row.cancel_requested_at),
    )


def write_step(connection: Connection, claim: Claim, step: Step) -> bool:
    """Write a line of the journal; False, and nothing written, if the lease was lost."""
    still = connection.execute(
        select(jobs.c.id)
        .where(
            jobs.c.id == claim.job_id,
            jobs.c.fence == claim.fence,
            jobs.c.state == JobState.RUNNING,
        )
        .with_for_update(key_share=True)
    ).first()
    if still is None:
        return False
    if claim.action.respects_lock:
        _refuse_locked(connection, claim)
    values = {
        "fence": claim.fence,
        "name": step.name,
        "state": step.state,
        "detail": step.detail,
        "at": db_now(),
    }
    changed = connection.execute(
        update(job_steps)
        .where(job_steps.c.job_id == claim.job_id, job_steps.c.seq == step.seq)
        .values(**values)
    )
    if changed.rowcount == 0:
        connection.execute(job_steps.insert().values(job_id=claim.job_id, seq=step.seq, **values))
    failpoints.reach("journal.before_commit", connection, action=claim.action.name)
    return True


def _refuse_locked(connection: Connection, claim: Claim) -> None:
    """Refuse to begin under another host's lock; once begun, no lock is given out.

    Whoever takes a lock holds the volume's row, too (`orchestrator.inventory.locks`).
    """
    volume_id, host = claim.intent.volume_id, claim.intent.host
    connection.execute(
        select(volumes.c.id).where(volumes.c.id == volume_id).with_for_update(read=True)
    )
    owner = connection.execute(
        select(locks.c.owner).where(
            locks.c.volume_id == volume_id,
            or_(locks.c.expires_at.is_(None), locks.c.expires_at > db_now()),
        )
    ).scalar()
    if owner is not None and owner != host:
        raise Locked(
            f"host {owner} has taken the lock on volume {claim.intent.volume!r} meanwhile",
            lock_owner=owner,
        )
