"""Settling what could not be seen when the job that left a volume ended.

`orchestrator.jobs.rechecking` has `volume.verify` look again until it has been seen: then the
volume is what it is, and no person is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import exists, select

from orchestrator.domain.drivers import Reach
from orchestrator.domain.errors import BackendBusy, HostUnavailable
from orchestrator.domain.installed import DRIVERS
from orchestrator.domain.states import SnapshotState, VolumeState
from orchestrator.jobs.claim import CHANGES
from orchestrator.jobs.rechecking import host_to_ask
from orchestrator.resources.changes import Change, Set
from orchestrator.resources.snapshot.changes import SnapshotGone, set_snapshot
from orchestrator.resources.volume.changes import VolumeGone, set_volume
from orchestrator.store.conditions import live
from orchestrator.store.lives import all_of, token
from orchestrator.store.tables import (
    job_lanes,
    job_steps,
    jobs,
    snapshots,
    volume_versions,
    volumes,
)
from orchestrator.store.transaction import Transaction
from workers.backends.base.facts import Absent, NotOurs, SnapshotFacts, VolumeFacts
from workers.backends.base.references import SnapshotRef
from workers.execution.truth import (
    LastCall,
    columns,
    gone,
    has_failed,
    last_intended,
    look,
    lost,
    newer_than,
    not_seen,
    told_of,
    usable_as,
    use_on,
)
from workers.execution.work import Done, Work, policy_named, recorded_volume, sizes_of

#: The states of a volume that somebody may use, or could once it is brought back.
_USABLE = (VolumeState.AVAILABLE, VolumeState.RESTRICTED)


def settle(work: Work) -> Done | None:
    """See what there is of a volume that is to be looked at again, and record that.

    None if it need not be. Raises whatever keeps it from being seen.
    """
    record = recorded_volume(work)
    with work.database.read() as transaction:
        due = transaction.execute(
            select(volumes.c.look_again_at).where(volumes.c.id == record.id)
        ).scalar()
        before = _usable_before(transaction, record.id)
        host = host_to_ask(transaction, work.claim.backend_id, record.name, record.id)
    if due is None:
        return None
    if before is None and record.state is VolumeState.ERROR:
        if has_failed(work, record.created_by_job):
            return _taken_away(work)
        # It was made, and was in error already when versions began to be kept.
        before = VolumeState.AVAILABLE
    _refuse_elsewhere(work, host)
    seen = look(work, others=True, used_on=host)
    facts = seen.look
    if gone(work, seen) and _was_to_go(work):
        return _settled(work, "removed", [VolumeGone(record.id)])
    if isinstance(facts, Absent | NotOurs):
        values = {"state": VolumeState.ERROR, **lost(facts, work.job_id)}
        told = [set_volume(record.id, **values)]
        return _settled(work, "error", told, {"storage": values["detail"]})
    state = before if before is not None and record.state is VolumeState.ERROR else record.state
    state = usable_as(facts, state)
    values = {
        "state": state,
        "detail": None,
        "look_again_at": None,
        "looks": 0,
        **_name(work, facts),
        **policy_found(work, facts),
        **columns(work, facts),
    }
    missing = not_seen(work, seen.snapshots, _deleted(work, facts))
    found = [*_half_made(work), *missing, *come_back(work, seen.snapshots.values())]
    changes: list[Change] = [set_volume(record.id, **values), *found]
    if host is not None:
        changes += use_on(work, record, host, seen.devices)
    return _settled(work, state, changes, told_of(missing), sizes_of(facts))


def _refuse_elsewhere(work: Work, host: str | None) -> None:
    """Refuse to settle what only another host can see: whether it has the volume attached."""
    if host in (None, work.host) or DRIVERS[work.claim.driver].reach is not Reach.HOST:
        return
    raise HostUnavailable(
        f"only a worker on host {host} can see whether volume {work.volume.name!r} is attached "
        f"there, and this one runs on {work.host}: it is looked at once a worker is alive there. "
        f"If that host is gone for good and fenced: 'orchestrator volume detach "
        f"{work.volume.name} --backend {work.intent.backend} --host {host} force=true "
        "fenced=true --reason TEXT'"
    )


def _settled(
    work: Work,
    state: str,
    changes: Sequence[Change],
    differences: dict[str, Any] | None = None,
    facts: dict[str, Any] | None = None,
) -> Done:
    told = {"agrees": not differences, "differences": differences or {}, **(facts or {})}
    return Done(
        result={**told, "settled": state},
        changes=changes,
        before={"state": recorded_volume(work).state},
        after={"state": state, **(facts or {})},
    )


def usable_again(work: Work, facts: VolumeFacts) -> VolumeState:
    """What a volume in error is once it has been seen to be all right."""
    with work.database.read() as transaction:
        before = _usable_before(transaction, work.volume.id)
    return usable_as(facts, before or VolumeState.AVAILABLE)


def _usable_before(transaction: Transaction, volume_id: str) -> VolumeState | None:
    """The state that the volume was in when somebody could use it last; None: it never was."""
    found = transaction.execute(
        select(volume_versions.c.state)
        .where(volume_versions.c.volume_id == volume_id, volume_versions.c.state.in_(_USABLE))
        .order_by(volume_versions.c.version.desc())
        .limit(1)
    ).scalar()
    return None if found is None else VolumeState(found)


def _taken_away(work: Work) -> Done:
    """Take away what a job has made that failed, and that nobody ever could use."""
    work.check_identity()
    # It never was what was asked for: the size in the inventory is no fact.
    left = replace(work.volume, size_bytes=None)
    work.driver.discard(left, LastCall(work, maker=_maker(work)))
    return _settled(work, "removed", [VolumeGone(work.volume.id)])


def _maker(work: Work) -> tuple[int, str]:
    """The job that was to make the volume: its number, and its token."""
    job_id = recorded_volume(work).created_by_job or 0
    return job_id, _token(work, job_id)


def _token(work: Work, job_id: int) -> str:
    """The token of a job, in the life of the database that it is of."""
    with work.database.read() as transaction:
        lives = [one for one in all_of(transaction) if one.first_job <= job_id]
    return token(job_id, lives[-1].life)


def _was_to_go(work: Work) -> bool:
    """Whether the last job that has begun to change the volume was to remove it.

    One before that proves nothing: the volume was there for what came after it.
    """
    return any(step.name == "remove" for step in _last_begun(work))


def _deleted(work: Work, facts: VolumeFacts) -> set[str]:
    """The recorded snapshots that the last such job was to delete, as far as it had come."""
    for step in _last_begun(work):
        if step.name == "delete_snapshot":
            return {step.detail["snapshot"]}
        if step.name == "rollback" and facts.restored_by == _token(work, step.job_id):
            return newer_than(recorded_volume(work), step.detail["snapshot"])
    return set()


def _last_begun(work: Work) -> Sequence[Any]:
    """The journal of the last job that has begun to change the volume."""
    about = (
        jobs.c.backend_id == work.claim.backend_id,
        jobs.c.volume == work.intent.volume,
        jobs.c.volume_id == work.volume.id,
    )
    steps = select(job_steps.c.job_id).join(jobs, jobs.c.id == job_steps.c.job_id)
    begun = steps.where(*about, CHANGES)
    last = begun.order_by(jobs.c.id.desc()).limit(1).scalar_subquery()
    journal = select(job_steps).where(job_steps.c.job_id == last)
    with work.database.read() as transaction:
        return transaction.execute(journal).all()


def _name(work: Work, facts: VolumeFacts) -> dict[str, Any]:
    """The name that a failed rename has given it, if nobody else has that here."""
    if facts.name == work.volume.name:
        return {}
    renamed = last_intended(work, "rename")
    if renamed is None or renamed["new_name"] != facts.name:
        return {}
    with work.database.read() as transaction:
        lane = f"{work.intent.backend}/{facts.name}"
        if transaction.execute(select(exists().where(job_lanes.c.lane == lane))).scalar():
            raise BackendBusy(
                f"the volume is called {facts.name!r} by now, and a job is about that name: the "
                "record follows when it has ended"
            )
        taken = exists().where(
            volumes.c.backend_id == work.claim.backend_id,
            volumes.c.name == facts.name,
            live(volumes),
        )
        return {} if transaction.execute(select(taken)).scalar() else {"name": facts.name}


def policy_found(work: Work, facts: VolumeFacts) -> dict[str, Any]:
    """The export policy that it has, if that is one of the inventory's."""
    if "policy" not in work.driver.capabilities():
        return {}
    if facts.policy is None:
        return {"policy_id": None}
    found = policy_named(work, facts.policy)
    return {} if found is None else {"policy_id": found}


def _half_made(work: Work) -> list[Change]:
    """Take away what failed jobs have left of snapshots that they were making."""
    changes: list[Change] = []
    half_made = never_made(work)
    for one in recorded_volume(work).snapshots.values():
        if one.id in half_made:
            work.driver.discard(SnapshotRef(one.id, one.name, work.volume), LastCall(work))
            changes.append(SnapshotGone(one.id, one.name))
    return changes


def come_back(work: Work, found: Iterable[SnapshotFacts]) -> list[Set]:
    """The snapshots that were missing and are there again, as they are recorded: usable."""
    missing = {
        one.id: one.size_bytes
        for one in recorded_volume(work).snapshots.values()
        if one.state is SnapshotState.ERROR
    }
    back = [one for one in found if one.id in missing and one.size_bytes == missing[one.id]]
    never = never_made(work) if back else set()
    return [
        set_snapshot(one.id, state=SnapshotState.AVAILABLE)
        for one in back
        if one.id is not None and one.id not in never
    ]


def never_made(work: Work) -> set[str]:
    """The recorded snapshots in error whose making has failed: others were usable once."""
    query = select(snapshots.c.id, snapshots.c.created_by_job).where(
        snapshots.c.volume_id == work.volume.id, snapshots.c.state == SnapshotState.ERROR
    )
    with work.database.read() as transaction:
        rows = transaction.execute(query).all()
    return {row.id for row in rows if has_failed(work, row.created_by_job)}
