"""Claiming: a worker takes queued jobs, each with a lease and a fencing number of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import func, or_, select, update
from sqlalchemy.exc import IntegrityError

from orchestrator.actions import rules
from orchestrator.actions.registry import intent_of
from orchestrator.domain.action import Action, source_of
from orchestrator.domain.errors import Locked, Problem
from orchestrator.domain.outlook import (
    BackendOutlook,
    Intent,
    Outlook,
    PolicyOutlook,
    VolumeOutlook,
)
from orchestrator.domain.queues import CONTROL_QUEUE, GROUP_BUDGET
from orchestrator.domain.states import EventKind, JobState
from orchestrator.history.events import Event, intent_event, recorded
from orchestrator.jobs.loading import (
    backends_named,
    backends_with,
    life_in,
    load_named,
    take_backends,
)
from orchestrator.resources.registry import RESOURCES
from orchestrator.resources.volume.loading import take_volumes, volumes_at
from orchestrator.store.asking import Asked, Question, Rows, one_of
from orchestrator.store.bulk import among, inserted, update_rows
from orchestrator.store.columns import db_now
from orchestrator.store.conditions import lane_taken
from orchestrator.store.database import Database
from orchestrator.store.lives import token
from orchestrator.store.queries.claiming import (
    BeginLanes,
    ClaimJobs,
    LockRunning,
    NextJobs,
    RenewLeases,
    RunningJobs,
    VolumesClaimed,
)
from orchestrator.store.tables import (
    job_steps,
    jobs,
    locks,
    volumes,
)
from orchestrator.store.transaction import Transaction

#: At most this many jobs are claimed at once, however cheap they are.
MOST_CLAIMED = 200
#: The class of our advisory locks that guard limits of jobs at once.
_CLAIM_LOCKS = 0x636C6169

_STEPS = Question(
    select(job_steps)
    .where(one_of(job_steps.c.job_id, "ids"))
    .order_by(job_steps.c.job_id, job_steps.c.seq)
)

#: The journal's names for what is left to do once it is decided how a job ends: take away
#: what it has made, or find out what it has changed.
UNDO, SETTLE = "undo", "settle"

#: Steps that say that a job has begun to change something.
CHANGES = job_steps.c.name.not_in((UNDO, SETTLE))


def last_step(action: Action) -> str:
    """The journal's name for what ends a job of this action that did not succeed."""
    return UNDO if action.creates else SETTLE


def last_step_detail(ending: str, problem: Problem) -> dict[str, Any]:
    """What the journal keeps with it: how the job will end."""
    return {"ending": ending, "error": {"code": problem.code, "detail": problem.detail}}


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
    #: The lease on its storage, and the one that is about to follow.
    leases: tuple[str | None, str | None]
    #: The life of the database that the job is of.
    life: str
    grain_bytes: int
    driver: str
    attempt: int
    max_attempts: int
    #: How often the job was claimed; more than its attempts where others had to find out how
    #: the last one had ended, or handed it back.
    claims: int
    batch_id: int | None
    submitted_by: str
    queue: str
    cancel_requested: bool
    #: An earlier attempt may have changed the storage: it has written a step, or the row of
    #: what it makes. Until then the job is checked again each time it is claimed.
    touched: bool
    #: The target, and for a clone or copy the source, as the inventory has it before the job.
    volume: VolumeOutlook | None
    source: VolumeOutlook | None
    #: The policy that it is about, likewise.
    policy: PolicyOutlook | None = None
    #: The backend that the source of a copy is on.
    source_backend: BackendOutlook | None = None
    #: What earlier attempts wrote down.
    steps: list[Step] = field(default_factory=list)
    #: Why the job may no longer run, found when it was claimed.
    refused: Problem | None = None

    @property
    def action(self) -> Action:
        """The declaration of its action."""
        return self.intent.action

    @property
    def token(self) -> str:
        """The job, as no other database and no other life of this one names any of its own."""
        return token(self.job_id, self.life)

    @property
    def account(self) -> str:
        """Whose storage it makes; a job from before there were accounts, its submitter's."""
        return self.intent.account or self.submitted_by


class Claimed(list[Claim]):
    """Jobs that were claimed together."""

    #: Whether there may be more, among those that were tried, that could be claimed now.
    more = False


def next_jobs(
    transaction: Transaction,
    *,
    queue: str,
    backends: Sequence[int],
    most: int = MOST_CLAIMED,
    slow: bool = True,
) -> list[int]:
    """The jobs that come next in a queue, in their order: what a claim may try.

    ``slow``: whether it may be slow ones.
    """
    [found] = transaction.ask(
        NextJobs(
            queue=queue,
            control=CONTROL_QUEUE,
            backends=list(backends),
            most=most,
            budget=GROUP_BUDGET,
            slow=slow,
        )
    )
    return [row.id for row in found]


def claim(
    database: Database,
    *,
    worker: str,
    queue: str,
    backends: Sequence[int],
    lease_seconds: float,
    slow: bool = True,
    at_once: int | None = None,
    jobs: Sequence[int] | None = None,
) -> Claimed:
    """Take work from a queue; an empty list if there is none for these backends.

    ``jobs``: those to try, which may be anything by now; None: those that come next.

    One slow job (unless ``slow`` is false), or a group of quick ones; with ``at_once``, no
    more than leaves that many running on these backends, all workers together. What is to
    be made gets its pending row here, in the same transaction; a job that may no longer run
    comes with ``refused`` set.
    """
    if not backends:
        return Claimed()
    values = {
        "ids": jobs,
        "worker": worker,
        "queue": queue,
        "control": CONTROL_QUEUE,
        "most": MOST_CLAIMED,
        "budget": GROUP_BUDGET,
        "lease": lease_seconds,
        "slow": slow,
    }
    try:
        return database.transact(lambda transaction: _claim(transaction, values, backends, at_once))
    except IntegrityError:
        # A job was queued although its lane has a begun one (its time came while another
        # was submitted). Put such jobs back to waiting; the lane's end queues them again.
        database.transact(put_back_blocked)
        return Claimed()


def put_back_blocked(transaction: Transaction) -> int:
    """Queued jobs whose lane another job holds wait again; returns how many."""
    return transaction.execute(
        update(jobs)
        .where(jobs.c.state == JobState.QUEUED, ~jobs.c.begun, lane_taken())
        .values(state=JobState.WAITING, queued_at=None)
    ).rowcount


def _claim(
    transaction: Transaction,
    values: dict[str, Any],
    backends: Sequence[int],
    at_once: int | None,
) -> Claimed:
    if at_once is not None:
        most = min(values["most"], _places_left(transaction, backends, at_once))
        values = {**values, "most": most}
    if values["most"] <= 0:
        return Claimed()
    if values["ids"] is None:
        wanted = {name: values[name] for name in ("queue", "most", "slow")}
        values = {**values, "ids": next_jobs(transaction, backends=backends, **wanted)}
    if not values["ids"]:
        return Claimed()
    rows, found, *known = _take(transaction, values, backends)
    if not rows:
        return Claimed()
    now: datetime = rows[0]["now"]
    outlook = Outlook()
    take_backends(outlook, found)
    names = {backend.id: backend.name for backend in outlook.backends.values()}
    life = life_in(transaction, found)
    targets = _targets(rows, names)
    if elsewhere := {backend for backend, _ in targets} - set(outlook.backends):
        [found] = transaction.ask(backends_named(elsewhere))
        take_backends(outlook, found)
        known = []
    [there] = known or transaction.ask(volumes_at(targets))
    own_jobs = frozenset(row["id"] for row in rows)
    take_volumes(transaction, outlook, there, targets, own_jobs=own_jobs)
    intents = [intent_of(row, names[row["backend_id"]]) for row in rows]
    load_named(transaction, outlook, intents, own_jobs)
    again = {r["id"]: one for r, one in zip(rows, intents, strict=True) if r["claims"] > 1}
    steps, born = _look(transaction, again)
    claims = Claimed(
        _claim_of(
            row,
            outlook,
            intent,
            steps.get(row["id"], []),
            life=life(row["id"]),
            touched=row["id"] in steps or row["id"] in born,
        )
        for row, intent in zip(rows, intents, strict=True)
    )
    seen = rows[0]["seen"]
    claims.more = seen > len(rows) or seen == values["most"]
    transaction.defer(*_births(claims, now), recorded([_started(one) for one in claims], now))
    transaction.reach("claim.before_commit", ({"action": one.action.name} for one in claims))
    return claims


def _places_left(transaction: Transaction, backends: Sequence[int], at_once: int) -> int:
    """How many jobs more may run on these backends; nobody else claims there meanwhile."""
    for backend_id in sorted(backends):
        transaction.lock(_CLAIM_LOCKS, backend_id)
    running = select(func.count()).where(
        jobs.c.state == JobState.RUNNING, among(jobs.c.backend_id, backends)
    )
    return at_once - int(transaction.execute(running).scalar_one())


def _take(
    transaction: Transaction, values: dict[str, Any], backends: Sequence[int]
) -> tuple[Rows, ...]:
    """The claimed jobs in the order of their fences, the backends they may be on, and the volumes
    that they are about."""
    rows, found, there = transaction.ask_along(
        ClaimJobs(**values, backends=list(backends)),
        backends_with(backends),
        VolumesClaimed(sorted(backends), values["most"]),
    )
    if rows:
        transaction.defer(BeginLanes([row["id"] for row in rows]))
    return sorted(rows, key=lambda row: row["fence"]), found, there


def _targets(rows: Rows, names: Mapping[int, str]) -> set[tuple[str, str]]:
    """The (backend, name) pairs that these jobs are about."""
    own = {
        (names[row["backend_id"]], name)
        for row in rows
        for name in (row["volume"], row["params"].get("new_name"))
        if name is not None
    }
    sources = (source_of(names[row["backend_id"]], row["params"]) for row in rows)
    return own | {source for source in sources if source is not None}


def _look(
    transaction: Transaction, again: Mapping[int, Intent]
) -> tuple[dict[int, list[Step]], set[int]]:
    """Of jobs claimed before, the journals, and which have inserted the row of what they make."""
    if not again:
        return {}, set()
    ids = list(again)
    written, *made = transaction.ask(
        _STEPS(ids=ids),
        *(
            one.makers(ids=[id_ for intent in again.values() if (id_ := intent.id_of(one.kind))])
            for one in RESOURCES.values()
        ),
    )
    steps: dict[int, list[Step]] = {}
    for row in written:
        step = Step(row["seq"], row["name"], row["state"], row["detail"] or {})
        steps.setdefault(row["job_id"], []).append(step)
    born = {row["created_by_job"] for rows in made for row in rows}
    return steps, born.intersection(ids)


def _claim_of(
    row: Mapping[str, Any],
    outlook: Outlook,
    intent: Intent,
    steps: list[Step],
    *,
    life: str,
    touched: bool,
) -> Claim:
    backend_name = intent.backend
    backend = outlook.backends[backend_name]
    refused: Problem | None = None
    if not touched:
        try:
            rules.check(outlook, intent)
        except Problem as problem:
            refused = problem
    source = source_of(backend_name, intent.params)
    return Claim(
        job_id=row["id"],
        fence=row["fence"],
        intent=intent,
        backend_id=row["backend_id"],
        identity=backend.identity,
        identity_written=backend.identity_written,
        leases=backend.leases,
        life=life,
        grain_bytes=backend.grain_bytes,
        driver=backend.driver,
        attempt=row["attempt"],
        max_attempts=row["max_attempts"],
        claims=row["claims"],
        batch_id=row["batch_id"],
        submitted_by=row["submitted_by"],
        queue=row["queue"],
        cancel_requested=row["cancel_requested_at"] is not None,
        touched=touched,
        volume=outlook.volume(backend_name, intent.volume) if intent.volume else None,
        source=outlook.volume(*source) if source else None,
        policy=outlook.policies.get(intent.export_policy) if intent.export_policy else None,
        source_backend=outlook.backends.get(intent.params.get("source_backend", "")),
        steps=steps,
        refused=refused,
    )


def _births(claims: Iterable[Claim], now: datetime) -> list[Asked[Any]]:
    """The pending rows of what these jobs will make, to be inserted."""
    new: dict[str, list[dict[str, Any]]] = {kind: [] for kind in RESOURCES}
    for claim in claims:
        if claim.action.creates and not claim.refused and not claim.touched:
            kind = claim.action.kind
            new[kind].append(RESOURCES[kind].pending(claim, now))
    return [inserted(RESOURCES[kind].table, rows) for kind, rows in new.items() if rows]


def _started(claim: Claim) -> Event:
    data = {"attempt": claim.attempt, "fence": claim.fence}
    return intent_event(
        claim.intent, EventKind.JOB_STARTED, claim.submitted_by, data, job_id=claim.job_id
    )


@dataclass(frozen=True)
class Renewal:
    """What a heartbeat found: jobs still ours, those renewed, and those to be canceled."""

    held: frozenset[int]
    renewed: frozenset[int]
    to_cancel: frozenset[int]


def renew(
    transaction: Transaction,
    fences: Mapping[int, int],
    lease_seconds: float,
    progress: Mapping[int, dict[str, Any]],
) -> Renewal:
    """Renew the leases of jobs (fencing number by id) in one statement, and tell progress.

    A row that another transaction holds at the moment is left for the next time; it is
    still ours if its fencing number says so.
    """
    mine = list(fences.items())
    ids = [job_id for job_id, _ in mine]
    free, found = transaction.ask(LockRunning(ids), RunningJobs(ids))
    unlocked = {row.id for row in free}
    ours = {row.id for row in found if row.fence == fences[row.id]}
    renewable = [job_id for job_id in ids if job_id in ours and job_id in unlocked]
    if renewable:
        transaction.ask(RenewLeases(renewable, lease_seconds))
    told = [
        {"id": job_id, "fence": fences[job_id], "progress": progress[job_id]}
        for job_id in renewable
        if job_id in progress
    ]
    update_rows(transaction, jobs, ["id", "fence"], told)
    return Renewal(
        held=frozenset(ours),
        renewed=frozenset(renewable),
        to_cancel=frozenset(row.id for row in found if row.id in ours and row.cancel_requested_at),
    )


def write_step(transaction: Transaction, claim: Claim, step: Step) -> bool:
    """Write a line of the journal; False, and nothing written, if the lease was lost."""
    still = transaction.execute(
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
        _refuse_locked(transaction, claim)
    values = {
        "fence": claim.fence,
        "name": step.name,
        "state": step.state,
        "detail": step.detail,
        "at": db_now(),
    }
    changed = transaction.execute(
        update(job_steps)
        .where(job_steps.c.job_id == claim.job_id, job_steps.c.seq == step.seq)
        .values(**values)
    )
    if changed.rowcount == 0:
        transaction.execute(job_steps.insert().values(job_id=claim.job_id, seq=step.seq, **values))
    transaction.reach("journal.before_commit", [{"action": claim.action.name}])
    return True


def _refuse_locked(transaction: Transaction, claim: Claim) -> None:
    """Refuse to begin under another host's lock; once begun, no lock is given out.

    Whoever takes a lock holds the volume's row, too (`orchestrator.resources.volume.locks`).
    """
    volume_id, host = claim.intent.volume_id, claim.intent.host
    transaction.execute(
        select(volumes.c.id).where(volumes.c.id == volume_id).with_for_update(read=True)
    )
    owner = transaction.execute(
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
