"""Strike a volume from the inventory."""

from __future__ import annotations

from typing import Any

from orchestrator.actions.volume.forget import FORGET
from orchestrator.domain.states import VolumeState
from orchestrator.resources.volume.changes import VolumeGone
from workers.actions.volume.lost import refuse_unless_lost
from workers.execution.handler import Handler
from workers.execution.work import Done, Work, recorded_volume


def forget(work: Work) -> Done:
    """Strike a volume from the inventory; the storage is not touched."""
    record = recorded_volume(work)
    struck: dict[str, Any] = {
        "lost": False,
        "snapshots": [*record.snapshots],
        "attached_to": sorted(record.attachments),
    }
    if work.intent.params.get("lost"):
        work.check_identity()
        refuse_unless_lost(work)
        left = {one.id for one in work.driver.list_snapshots(work.volume)}
        kept = [one.name for one in record.snapshots.values() if one.id in left]
        struck |= {"lost": True, "snapshots_left": kept}
    return Done(
        result=struck,
        changes=[VolumeGone(work.volume.id, forgotten=True)],
        before={"state": record.state, "size_bytes": record.size_bytes},
        after={"state": VolumeState.REMOVED, "forgotten": True, **struck},
    )


HANDLERS = (Handler(FORGET, forget),)
