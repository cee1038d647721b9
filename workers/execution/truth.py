"""What a job has left of what was there: seen once nobody else changes it, then recorded."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from sqlalchemy import exists, or_, select

from orchestrator.domain.drivers import Reach
from orchestrator.domain.errors import Problem
from orchestrator.domain.exports import is_ours
from orchestrator.domain.installed import DRIVERS
from orchestrator.domain.outlook import SnapshotOutlook, VolumeOutlook
from orchestrator.domain.states import (
    EventKind,
    JobState,
    PolicyState,
    SnapshotState,
    VolumeState,
)
from orchestrator.machine import boot_id
from orchestrator.resources.changes import Change
from orchestrator.resources.policy.changes import PolicyGone, set_policy
from orchestrator.resources.snapshot.changes import SnapshotGone, SnapshotMissing
from orchestrator.resources.volume.changes import Detached, VolumeGone, set_volume
from orchestrator.store.tables import events, job_steps, jobs
from workers.backends.base.abilities import CanExportByPolicy
from workers.backends.base.commands import Ran
from workers.backends.base.driver import driver_that
from workers.backends.base.facts import (
    Absent,
    Device,
    Look,
    NotOurs,
    PolicyFacts,
    SnapshotFacts,
    VolumeFacts,
)
from workers.backends.base.references import SnapshotRef, VolumeRef
from workers.execution.work import Work, attached_as, recorded_volume, settings_found
from workers.leases import HandBack

log = structlog.get_logger(__name__)


class LastCall:
    """The `Call` of what ends a job: only the loss of the lease stops it.

    ``maker``: the number and the token of another job, whose making is ended.
    """

    def __init__(self, work: Work, maker: tuple[int, str] | None = None) -> None:
        self._work = work
        self.job_id = work.job_id
        self.token = maker[1] if maker else work.token
        self._maker = maker
        self.fence = work.fence

    @property
    def alone(self) -> bool:
        return self._work.only_here(self._maker[0]) if self._maker else self._work.alone

    def checkpoint(self) -> None:
        try:
            self._work.checkpoint()
        except (Problem, HandBack):
            return

    def progress(self, done: int, total: int, unit: str = "bytes") -> None:
        """Nobody waits for it."""

    def seconds_left(self) -> float:
        return max(30.0, self._work.seconds_left())

    def ran(self, ran: Ran) -> None:
        self._work.ran(ran)


@dataclass(frozen=True)
class Seen:
    """What there is of a job's volume."""

    look: Look
    #: By id.
    snapshots: Mapping[str, SnapshotFacts] = field(default_factory=dict)
    #: Where it is in use on this host, of a job that is about just that.
    devices: Sequence[Device] = ()


def look(work: Work, *, others: bool = False, used_on: str | None = None) -> Seen:
    """What there is of the job's volume, once earlier claims can change nothing more of it.

    ``others``: also those of earlier jobs, the last of which may have changed its use on the
    host ``used_on``. Raises whatever keeps that from being seen.
    """
    work.check_identity()
    fence_off(work, needed=others or work.claim.claims > 1)
    found = work.driver.inspect(work.volume)
    if not isinstance(found, VolumeFacts):
        return Seen(found)
    kept = work.driver.list_snapshots(work.volume)
    used = work.intended("attach") or work.intended("detach") or used_on
    return Seen(
        found,
        {one.id: one for one in kept if one.id is not None},
        work.driver.devices(work.volume) if used else (),
    )


def fence_off(work: Work, *, needed: bool) -> None:
    """Shut earlier claims out of the job's volume; ``needed``: there may be some."""
    changed: list[VolumeRef | SnapshotRef] = [work.volume]
    kept = recorded_volume(work).snapshots.values()
    changed += [SnapshotRef(one.id, one.name, work.volume) for one in kept]
    for one in changed:
        try:
            work.driver.fence_off(one, LastCall(work))
        except Problem as problem:
            # Before a job's first claim there was none to shut out: what the storage does not
            # let be written (an immutable file, a read-only mount) can be looked at still.
            if problem.retryable or needed:
                raise
            log.info("work.not_fenced_off", job=work.job_id, why=problem.detail)


def gone(work: Work, seen: Seen) -> bool:
    """Whether it is proved that there is nothing of the volume any more."""
    proves = "absence" in DRIVERS[work.claim.driver].capabilities
    return proves and isinstance(seen.look, Absent)


def recorded(work: Work, seen: Seen) -> list[Change]:
    """What the inventory has to say of what was seen after a change that did not succeed."""
    record = recorded_volume(work)
    facts = seen.look
    if gone(work, seen) and work.intended("remove"):
        return [VolumeGone(record.id)]
    if not isinstance(facts, VolumeFacts):
        return [set_volume(record.id, state=VolumeState.ERROR, **lost(facts, work.job_id))]
    return [
        set_volume(
            record.id,
            # Only a rename may have changed the name; its lanes hold both.
            name=facts.name if work.intended("rename") else record.name,
            **columns(work, facts) | _size(work, facts),
            **_assigned(work, facts),
            **_restriction(work, facts),
        ),
        *not_seen(work, seen.snapshots, _deleted(work, facts)),
        *_used(work, record, seen.devices),
    ]


def not_seen(work: Work, there: Container[str | None], deleted: Container[str]) -> list[Change]:
    """What becomes of the recorded snapshots that are not among ``there``.

    Those that were to be ``deleted`` are struck once it is proved that they are gone. All others
    may come back, from wherever a person has moved them: their records stay, in error.
    """
    changes: list[Change] = []
    for one in recorded_volume(work).snapshots.values():
        if one.id in there:
            continue
        if one.id in deleted and is_absent(work, one):
            changes.append(SnapshotGone(one.id, one.name))
        elif one.state is not SnapshotState.ERROR:
            changes.append(SnapshotMissing(one.id, one.name))
    return changes


def is_absent(work: Work, one: SnapshotOutlook) -> bool:
    """Whether it is proved that nothing of a snapshot is there, nor anything in its place."""
    proves = "absence" in DRIVERS[work.claim.driver].capabilities
    ref = SnapshotRef(one.id, one.name, work.volume)
    return proves and isinstance(work.driver.inspect_snapshot(ref), Absent)


def told_of(changes: Sequence[Change]) -> dict[str, list[str]]:
    """What results and errors say of snapshots that were not found."""
    struck = [one.name for one in changes if isinstance(one, SnapshotGone) and one.name]
    missing = [one.name for one in changes if isinstance(one, SnapshotMissing)]
    told = {"snapshots_struck": struck, "snapshots_missing": missing}
    return {part: names for part, names in told.items() if names}


def _deleted(work: Work, facts: VolumeFacts) -> set[str]:
    """The recorded snapshots that this job was to delete, as far as it had come."""
    record = recorded_volume(work)
    if work.intended("delete_snapshot"):
        return {work.snapshot.id}
    if work.intended("rollback") and facts.restored_by == work.token:
        return newer_than(record, work.snapshot.id)
    return set()


def newer_than(record: VolumeOutlook, snapshot_id: str) -> set[str]:
    """The recorded snapshots that were taken after this one, which a rollback to it deletes."""
    ids = [one.id for one in record.snapshots.values()]
    return set(ids[ids.index(snapshot_id) + 1 :]) if snapshot_id in ids else set()


def columns(work: Work, facts: VolumeFacts) -> dict[str, Any]:
    """What a volume's row says of what there is."""
    record = recorded_volume(work)
    told = "metadata" not in work.driver.cannot_tell
    return {
        "size_bytes": facts.size_bytes,
        "used_bytes": facts.used_bytes,
        "metadata": dict(facts.metadata) if told else record.metadata,
        **settings_found(facts, record.settings, work.intent.settings.get("junction_path")),
    }


def lost(found: Absent | NotOurs, job_id: int) -> dict[str, Any]:
    """What a volume's row says whose storage is not there. Nobody need look again."""
    if isinstance(found, NotOurs):
        why = f"{found.what} stands where it belongs and does not bear its stamp"
    else:
        why = "its storage is lost: it was not found"
    return {"detail": f"{why} (job {job_id})", "look_again_at": None, "looks": 0}


def _size(work: Work, facts: VolumeFacts) -> dict[str, Any]:
    """The recorded size of what somebody cut short: that it was larger must not be forgotten.

    Only a rollback makes a volume smaller.
    """
    record = recorded_volume(work)
    if facts.size_bytes >= record.size_bytes or facts.restored_by == work.token:
        return {}
    return {"size_bytes": record.size_bytes}


def _assigned(work: Work, facts: VolumeFacts) -> dict[str, Any]:
    """Which policy the volume has, after a change of just that had failed."""
    if work.intended("assign") is None:
        return {}
    wanted = work.claim.policy
    if facts.policy is None:
        return {"policy_id": None}
    return {"policy_id": wanted.row_id} if wanted and wanted.name == facts.policy else {}


def usable_as(facts: VolumeFacts, state: VolumeState) -> VolumeState:
    """The state of a volume that is there: hidden or not as the storage has it, if it tells."""
    if facts.restricted is None:
        return state
    return VolumeState.RESTRICTED if facts.restricted else VolumeState.AVAILABLE


def _restriction(work: Work, facts: VolumeFacts) -> dict[str, Any]:
    """Whether the volume is hidden, after a change of just that had failed."""
    if not (work.intended("restrict") or work.intended("unrestrict")):
        return {}
    return {"state": usable_as(facts, recorded_volume(work).state)}


def _used(work: Work, record: VolumeOutlook, devices: Sequence[Device]) -> list[Change]:
    """Whether the host has the volume attached, after a change of just that had failed."""
    host = work.intent.host
    if host is None or not (work.intended("attach") or work.intended("detach")):
        return []
    return use_on(work, record, host, devices)


def use_on(work: Work, record: VolumeOutlook, host: str, devices: Sequence[Device]) -> list[Change]:
    """Whether this host has the volume attached, as ``devices`` found here tell."""
    if not devices:
        return [Detached(record.id, host)] if host in record.attachments else []
    held = record.attachments.get(host)
    if held is not None and not held.possible:
        return []  # as recorded
    others = [one for one in record.attachments.values() if one is not held]
    if DRIVERS[work.claim.driver].reach is Reach.HOST:
        # Another host of this machine has devices here, too; one of another machine has not.
        theirs = {one.device for one in others if one.boot_id == boot_id()}
        devices = [device for device in devices if device.path not in theirs]
    elif others:
        return []  # where a device does not tell whose it is
    return [attached_as(record.id, host, device) for device in devices[:1]]


def look_at_policy(work: Work) -> PolicyFacts | None:
    """What there is of the job's export policy."""
    work.check_identity()
    return driver_that(work.driver, CanExportByPolicy).inspect_policy(work.policy)


def recorded_policy(work: Work, found: PolicyFacts | None) -> list[Change]:
    """What the inventory has to say of an export policy after a change that did not succeed."""
    record = work.claim.policy
    assert record is not None  # noqa: S101 - the rule has checked it
    if found is None:
        if work.intended("remove"):
            return [PolicyGone(record.id)]
        return [set_policy(record.id, state=PolicyState.ERROR)]
    if not all(is_ours(rule) for rule in found.rules):
        # Somebody has added what we have no words for: nothing of it is lost, nor recorded.
        return [set_policy(record.id, state=PolicyState.ERROR)]
    # Written once more by this claim, they stay: earlier claims are shut out.
    facts = driver_that(work.driver, CanExportByPolicy).set_rules(
        work.policy, found.rules, LastCall(work)
    )
    if facts.rules == record.rules:
        return []
    return [set_policy(record.id, rules=[rule.written for rule in facts.rules])]


def has_failed(work: Work, job_id: int | None) -> bool:
    """Whether it is known that a job has failed, or was canceled."""
    ended = exists().where(
        jobs.c.id == job_id, jobs.c.state.in_((JobState.FAILED, JobState.CANCELED))
    )
    # History knows it of a job that was archived since.
    told = exists().where(
        events.c.job_id == job_id, events.c.kind.in_((EventKind.JOB_FAILED, EventKind.JOB_CANCELED))
    )
    with work.database.read() as transaction:
        return bool(transaction.execute(select(or_(ended, told))).scalar())


def last_intended(work: Work, name: str) -> Mapping[str, Any] | None:
    """The detail of the step of this name, of the last job that intended it with the volume."""
    with work.database.read() as transaction:
        detail: Mapping[str, Any] | None = transaction.execute(
            select(job_steps.c.detail)
            .join(jobs, jobs.c.id == job_steps.c.job_id)
            .where(
                jobs.c.backend_id == work.claim.backend_id,
                jobs.c.volume == work.intent.volume,
                jobs.c.volume_id == work.volume.id,
                job_steps.c.name == name,
            )
            .order_by(jobs.c.id.desc())
            .limit(1)
        ).scalar()
    return detail
