"""Volumes, as the engine knows them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from orchestrator.actions.volume.clone import own_metadata, own_parameters
from orchestrator.domain.outlook import Intent, Outlook, VolumeOutlook
from orchestrator.domain.states import VolumeState
from orchestrator.resources.changes import Change
from orchestrator.resources.resource import Making, Named, Resource
from orchestrator.resources.volume.changes import (
    VolumeGone,
    seen_again,
    set_volume,
    settings_columns,
)
from orchestrator.resources.volume.loading import load_junctions
from orchestrator.store.tables import volumes
from orchestrator.store.transaction import Transaction

#: The size of an import's volume while only its image can tell it: no volume has less.
AS_THE_IMAGE = 1


class Volume(Resource):
    """Volumes."""

    kind = "volume"
    table = volumes
    key = volumes.c.id
    bound = ("source_id", "snapshot_id")

    def named(self, outlook: Outlook, request: Named, origin: VolumeOutlook | None) -> str | None:
        """The id of the volume of this name."""
        if (name := request.name_of(self.kind)) is None:
            return None
        volume = outlook.volume(request.backend, name)
        return None if volume is None else volume.id

    def load(
        self,
        transaction: Transaction,
        outlook: Outlook,
        intents: Sequence[Intent],
        own_jobs: frozenset[int],
        *,
        users: bool,
    ) -> None:
        """The volumes at the junction paths."""
        load_junctions(transaction, outlook, intents)

    def pending(self, making: Making, now: datetime) -> dict[str, Any]:
        """A volume as it was asked for."""
        intent, size = making.intent, size_wanted(making)
        return {
            "id": intent.volume_id,
            "backend_id": making.backend_id,
            "name": intent.volume,
            "requested_bytes": size,
            "size_bytes": size,
            "state": VolumeState.PENDING,
            "metadata": own_metadata(intent, making.source),
            "parameters": own_parameters(intent, making.source),
            **settings_columns(intent.settings),
            "policy_id": making.policy.row_id if making.policy else None,
            "parent_volume_id": making.source.id if making.source else None,
            "parent_snapshot_id": intent.snapshot_id,
            "created_by_job": making.job_id,
            "account": making.account,
            "created_at": now,
            "changed_at": now,
        }

    def gone(self, id_: str) -> Change:
        """The volume is not there."""
        return VolumeGone(id_)

    def unseen(self, intent: Intent, why: str, now: datetime) -> Sequence[Change]:
        """The volume is in error, and looked at again."""
        told = f"{why}; the engine looks again by itself"
        return [
            set_volume(
                intent.volume_id or "", state=VolumeState.ERROR, detail=told, **seen_again(now)
            )
        ]


def size_wanted(making: Making) -> int:
    """Bytes that a new volume was asked to have: for a clone, at least what it copies; for an
    import `AS_THE_IMAGE` until that is known."""
    asked = making.intent.params.get("size_bytes")
    if asked is not None:
        return int(asked)
    if making.source is None:
        return AS_THE_IMAGE
    snapshot = making.source.snapshots.get(making.intent.snapshot or "")
    return snapshot.size_bytes if snapshot else making.source.size_bytes
