"""Reading a backend's storage whole, and what jobs did meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import func, select

from orchestrator.actions.registry import ACTIONS, intent_of
from orchestrator.domain.errors import BackendBusy
from orchestrator.store.bulk import among
from orchestrator.store.tables import backends, event_commits, events, job_lanes, jobs
from orchestrator.store.targets import JOB
from orchestrator.store.transaction import Transaction
from workers.backends.base.abilities import CanExportByPolicy, CanSnapshot
from workers.backends.base.driver import driver_that
from workers.backends.base.facts import PolicyFacts, SnapshotFacts, VolumeFacts
from workers.backends.base.references import VolumeRef
from workers.execution.auditing.comparing import devices_of
from workers.execution.auditing.seen import PAGE, Seen
from workers.execution.work import Work


def beginning(transaction: Transaction) -> int:
    """Where history stands, as a commit's id: whatever commits after this look shows above it.

    What was committing just then may get a lower number, but has changed the storage before.
    """
    newest = transaction.execute(select(func.max(event_commits.c.id))).scalar()
    return int(newest or 0)


def read_volumes(work: Work, seen: Seen) -> None:
    """Note every volume of the storage with its snapshots."""
    snapshots = "snapshot" in work.driver.capabilities()
    for count, facts in enumerate(work.driver.list_volumes(), start=1):
        if count % PAGE == 0:
            work.checkpoint()
            work.progress(count, count, "volumes")
        kept = _snapshots(work, facts) if snapshots and facts.id is not None else ()
        # Asking for the devices of each volume takes long; listing tells which are in use. What
        # is looked at later than the storage is read would be compared with an older record.
        used = facts.id is not None and bool(facts.attached)
        seen.add(facts, kept, devices_of(work.driver, _ref(facts)) if used else ())


def read_strays(work: Work, seen: Seen) -> None:
    """Note every snapshot of the storage whose volume is not there."""
    if "snapshot" not in work.driver.capabilities():
        return
    for count, (volume_id, facts) in enumerate(
        driver_that(work.driver, CanSnapshot).list_strays(), start=1
    ):
        if count % PAGE == 0:
            work.checkpoint()
        seen.add_stray(volume_id, facts)


def _snapshots(work: Work, facts: VolumeFacts) -> Sequence[SnapshotFacts]:
    return work.driver.list_snapshots(_ref(facts))


def _ref(facts: VolumeFacts) -> VolumeRef:
    assert facts.id is not None  # noqa: S101 - only stamped ones are asked for
    return VolumeRef(facts.id, facts.name)


def read_policies(work: Work) -> dict[str, PolicyFacts]:
    """Every export policy of the storage, by name."""
    if "policy" not in work.driver.capabilities():
        return {}
    return {
        facts.name: facts for facts in driver_that(work.driver, CanExportByPolicy).list_policies()
    }


def note_busy(transaction: Transaction, seen: Seen, since: int) -> None:
    """Note the lanes of jobs that run, or began or ended since then, on any backend."""
    begun = select(job_lanes.c.lane).where(job_lanes.c.begun)
    seen.note_busy(transaction.execute(begun).scalars())
    for rows in _history(transaction, since):
        seen.note_busy(f"{row.backend}/{row.volume}" for row in rows if row.backend and row.volume)
        ids = {row.job_id for row in rows if row.job_id is not None}
        found: Any = transaction.execute(
            select(*JOB, backends.c.name.label("backend"))
            .join(backends, backends.c.id == jobs.c.backend_id)
            .where(among(jobs.c.id, ids))
        ).mappings()
        for job in found:
            ids.discard(job["id"])
            if job["action"] in ACTIONS:
                seen.note_busy(intent_of(job, job["backend"]).lanes)
        if ids:
            # Nobody can tell any more what these had to themselves.
            raise BackendBusy("jobs have been archived while the storage was read")


def _history(transaction: Transaction, after: int) -> Iterator[Sequence[Any]]:
    while commits := (
        transaction.execute(
            select(event_commits.c.id)
            .where(event_commits.c.id > after)
            .order_by(event_commits.c.id)
            .limit(PAGE)
        )
        .scalars()
        .all()
    ):
        after = commits[-1]
        of_them = among(events.c.commit_id, commits)
        yield transaction.execute(
            select(events.c.backend, events.c.volume, events.c.job_id).where(of_them).distinct()
        ).all()
