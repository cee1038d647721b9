"""Put a volume back to a snapshot."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from orchestrator.actions.volume.rollback import ROLLBACK, newer_snapshots
from orchestrator.resources.changes import Change
from orchestrator.resources.snapshot.changes import SnapshotGone, SnapshotMissing
from orchestrator.resources.volume.changes import set_volume
from workers.actions.volume.in_use import refuse_while_used
from workers.backends.base.abilities import CanRollBack, CanSnapshot
from workers.backends.base.driver import driver_that
from workers.backends.base.facts import VolumeFacts
from workers.backends.base.references import SnapshotRef
from workers.execution.handler import Handler
from workers.execution.outcomes import Become, Nothing, Part, Whole, of_volume
from workers.execution.truth import Seen, newer_than, not_seen, told_of
from workers.execution.work import Done, Work, recorded_volume, sizes_of


def rollback(work: Work) -> Done:
    """Put a volume back to a snapshot; then newer ones go, if that was asked for."""
    volume = recorded_volume(work)
    refuse_while_used(work)
    if work.intended("rollback") is None:
        # What is left is told afterwards: where that cannot be seen, nothing is begun.
        work.driver.list_snapshots(work.volume)
    work.intend("rollback", snapshot=work.snapshot.id)
    facts = driver_that(work.driver, CanRollBack).rollback(work.volume, work.snapshot, work)
    if work.intent.snapshot in volume.snapshots:
        for newer in reversed(newer_snapshots(volume, work.intent.snapshot)):
            driver_that(work.driver, CanSnapshot).delete_snapshot(
                SnapshotRef(newer.id, newer.name, work.volume), work
            )
    # Some storage deletes what is newer by itself.
    left = {one.id for one in work.driver.list_snapshots(work.volume)}
    told, changes = _rolled_back(work, facts, left)
    return Done(
        result=told,
        changes=changes,
        before={"size_bytes": volume.size_bytes, "snapshots": [*volume.snapshots]},
        after={"restored": work.intent.snapshot, **told},
    )


def _rolled_back(
    work: Work, facts: VolumeFacts, left: Container[str | None]
) -> tuple[dict[str, Any], list[Change]]:
    """What is told and recorded of a volume that was put back, which has these snapshots left."""
    record = recorded_volume(work)
    lost = not_seen(work, left, newer_than(record, work.snapshot.id))
    kept = [one.name for one in record.snapshots.values() if one.id in left]
    struck = [one.name for one in lost if isinstance(one, SnapshotGone)]
    missing = told_of([one for one in lost if isinstance(one, SnapshotMissing)])
    told = {"snapshots_kept": kept, "snapshots_deleted": struck, **missing}
    changes: list[Change] = [set_volume(record.id, **sizes_of(facts)), *lost]
    return {**sizes_of(facts), **told}, changes


def _outcome(work: Work, facts: VolumeFacts, seen: Seen) -> Become:
    if facts.restored_by != work.token:
        return Nothing()
    record, name = recorded_volume(work), work.intent.snapshot
    newer = newer_snapshots(record, name) if name in record.snapshots else []
    left = [one.name for one in newer if one.id in seen.snapshots]
    if left:
        why = f"its contents are those of {name!r}, and newer snapshots are there still"
        return Part(f"{why} ({', '.join(left)})", {"restored": name, "snapshots": left})
    told, changes = _rolled_back(work, facts, seen.snapshots)
    return Whole(
        Done(
            result=told,
            changes=changes,
            before={"size_bytes": record.size_bytes, "snapshots": [*record.snapshots]},
            after={"restored": name, **told},
        )
    )


HANDLERS = (Handler(ROLLBACK, rollback, outcome=of_volume(_outcome)),)
