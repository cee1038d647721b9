"""Snapshots, as the engine knows them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from orchestrator.domain.outlook import Intent, Outlook, VolumeOutlook
from orchestrator.domain.states import SnapshotState
from orchestrator.resources.changes import Change
from orchestrator.resources.resource import Making, Named, Resource
from orchestrator.resources.snapshot.changes import SnapshotGone, set_snapshot
from orchestrator.resources.volume.changes import seen_again, set_volume
from orchestrator.store.tables import snapshots
from orchestrator.store.transaction import Transaction


class Snapshot(Resource):
    """Snapshots of volumes."""

    kind = "snapshot"
    table = snapshots
    key = snapshots.c.id
    bound = ("volume_id",)

    def named(self, outlook: Outlook, request: Named, origin: VolumeOutlook | None) -> str | None:
        """The id of the snapshot of this name."""
        name = request.name_of(self.kind)
        if origin is None or name is None:
            return None
        found = origin.snapshots.get(name)
        return None if found is None else found.id

    def load(
        self,
        transaction: Transaction,
        outlook: Outlook,
        intents: Sequence[Intent],
        own_jobs: frozenset[int],
        *,
        users: bool,
    ) -> None:
        """Nothing: snapshots are loaded with their volumes."""

    def pending(self, making: Making, now: datetime) -> dict[str, Any]:
        """A snapshot of the volume as it is."""
        assert making.volume is not None  # noqa: S101 - the rule has checked it
        return {
            "id": making.intent.snapshot_id,
            "volume_id": making.volume.id,
            "name": making.intent.snapshot,
            "size_bytes": making.volume.size_bytes,
            "state": SnapshotState.PENDING,
            "created_by_job": making.job_id,
            "created_at": now,
        }

    def gone(self, id_: str) -> Change:
        """The snapshot is not there."""
        return SnapshotGone(id_)

    def unseen(self, intent: Intent, why: str, now: datetime) -> Sequence[Change]:
        """The snapshot is in error, and its volume is looked at again."""
        return [
            set_snapshot(intent.snapshot_id or "", state=SnapshotState.ERROR),
            set_volume(intent.volume_id or "", **seen_again(now)),
        ]
