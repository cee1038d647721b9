"""Pruning: which snapshots of a schedule are to be deleted once a new one was made."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import literal_column, select

from orchestrator.actions.snapshot.delete import DELETE
from orchestrator.domain.keeping import Keep, Made, surplus
from orchestrator.domain.states import SnapshotState
from orchestrator.store.bulk import among
from orchestrator.store.tables import job_lanes, jobs, schedule_jobs, snapshots
from orchestrator.store.transaction import Transaction


@dataclass(frozen=True)
class Volume:
    """A volume, by its id and its name."""

    id: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """A snapshot to be deleted after a job has succeeded."""

    volume: Volume
    snapshot: str
    snapshot_id: str
    after: int


def deletions(
    transaction: Transaction,
    schedule_id: int,
    backend: str,
    keep: Keep,
    new: Sequence[tuple[Volume, int]],
    due: datetime,
) -> list[Deletion]:
    """What a schedule's new snapshots replace: of these volumes, made by these jobs for ``due``.

    Only what the schedule itself has made is among them, and nothing that is newer. The new
    snapshot counts as if it were there: what is deleted waits for its success.
    """
    made: dict[str, list[Made]] = defaultdict(list)
    names: dict[str, str] = {}
    for row in transaction.execute(
        select(
            *(snapshots.c.volume_id, snapshots.c.id, snapshots.c.name, snapshots.c.position),
            *(schedule_jobs.c.job_id, schedule_jobs.c.due_at),
        )
        .join(schedule_jobs, schedule_jobs.c.job_id == snapshots.c.created_by_job)
        .where(
            among(snapshots.c.volume_id, [volume.id for volume, _ in new]),
            # As it stands in the index of live snapshots, which are found by it.
            literal_column("snapshots.state <> 'removed'"),
            snapshots.c.state == SnapshotState.AVAILABLE,
            schedule_jobs.c.schedule_id == schedule_id,
        )
    ):
        names[row.id] = row.name
        made[row.volume_id].append(
            Made(id=row.id, job_id=row.job_id, due=row.due_at, position=row.position)
        )
    going = _being_deleted(transaction, [f"{backend}/{volume.name}" for volume, _ in new])
    found: list[Deletion] = []
    for volume, job_id in new:
        there = [one for one in made[volume.id] if one.id not in going and one.job_id < job_id]
        expected = Made(id="", job_id=job_id, due=due)
        found += [
            Deletion(volume=volume, snapshot=names[one.id], snapshot_id=one.id, after=job_id)
            for one in surplus(keep, [*there, expected])
        ]
    return found


def _being_deleted(transaction: Transaction, lanes: Sequence[str]) -> set[str]:
    """The snapshots of these lanes that an unfinished job deletes."""
    query = (
        select(jobs.c.snapshot_id, jobs.c.action)
        .join(job_lanes, job_lanes.c.job_id == jobs.c.id)
        .where(among(job_lanes.c.lane, lanes))
    )
    # Were the action among the conditions, SQLite would look at all jobs of that action.
    found = transaction.execute(query)
    return {row.snapshot_id for row in found if row.action == DELETE.name}
