"""What is asked of changes of one volume, and what they leave."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.domain.actions import MAX_METADATA
from orchestrator.domain.errors import InUse, InvalidInput, NewerSnapshots, ShrinkRefused
from orchestrator.domain.states import VolumeState
from orchestrator.jobs.outlook import Intent, Outlook, SnapshotOutlook, VolumeOutlook
from orchestrator.jobs.rules.exports import play_unassign
from orchestrator.jobs.rules.settings import check_settings, play_settings, play_unmount
from orchestrator.jobs.rules.targets import (
    check_idle,
    name_free,
    not_attached,
    size_asked,
    target_volume,
    usable_snapshot,
    volume_name,
    volume_there,
)


def check_grow(outlook: Outlook, intent: Intent) -> None:
    volume = volume_there(outlook, intent)
    if int(intent.params["size_bytes"]) <= volume.size_bytes:
        raise ShrinkRefused(
            f"volume {volume.name!r} has {volume.size_bytes} bytes, or will have by then: ask for "
            "a larger size",
            field="params.size_bytes",
            size_bytes=volume.size_bytes,
        )


def grow_room(outlook: Outlook, intent: Intent) -> int:
    volume = target_volume(outlook, intent)
    return size_asked(outlook, intent) - (volume.size_bytes if volume else 0)


def play_grow(outlook: Outlook, intent: Intent) -> None:
    if volume := target_volume(outlook, intent):
        volume.size_bytes = max(volume.size_bytes, size_asked(outlook, intent))


def check_update(outlook: Outlook, intent: Intent) -> None:
    volume = volume_there(outlook, intent)
    check_settings(outlook, intent, volume)
    merged = {**volume.metadata, **(intent.params.get("metadata") or {})}
    if sum(text is not None for text in merged.values()) > MAX_METADATA:
        raise InvalidInput(
            f"volume {volume.name!r} would have more than {MAX_METADATA} metadata entries: "
            "remove some with null",
            field="params.metadata",
        )


def play_update(outlook: Outlook, intent: Intent) -> None:
    if volume := target_volume(outlook, intent):
        merged = {**volume.metadata, **(intent.params.get("metadata") or {})}
        volume.metadata = {key: text for key, text in merged.items() if text is not None}
        play_settings(outlook, intent)


def check_rename(outlook: Outlook, intent: Intent) -> None:
    volume = volume_there(outlook, intent)
    not_attached(volume)
    name_free(outlook, intent.backend, intent.params["new_name"], "params.new_name")


def play_rename(outlook: Outlook, intent: Intent) -> None:
    volume = outlook.volumes.pop((intent.backend, volume_name(intent)), None)
    if volume is not None:
        volume.name = intent.params["new_name"]
        outlook.volumes[intent.backend, volume.name] = volume


def newer_snapshots(volume: VolumeOutlook, snapshot: str) -> list[SnapshotOutlook]:
    """The snapshots taken after the one named, oldest first."""
    names = list(volume.snapshots)
    return [volume.snapshots[name] for name in names[names.index(snapshot) + 1 :]]


def check_rollback(outlook: Outlook, intent: Intent) -> None:
    volume = volume_there(outlook, intent)
    not_attached(volume)
    snapshot = usable_snapshot(volume, intent)
    newer = [found.name for found in newer_snapshots(volume, snapshot.name)]
    if newer and not intent.params.get("discard_newer"):
        raise NewerSnapshots(
            f"rolling back to {snapshot.name!r} would lose the newer snapshots "
            f"{', '.join(newer)}: delete them, or say discard_newer",
            field="snapshot",
            snapshots=newer,
        )


def lost_by_rollback(outlook: Outlook, intent: Intent) -> list[str]:
    """What a rollback takes away besides, for people."""
    volume = target_volume(outlook, intent)
    if volume is None or intent.snapshot not in volume.snapshots:
        return []
    newer = [found.name for found in newer_snapshots(volume, intent.snapshot)]
    return [f"newer snapshots are deleted: {', '.join(newer)}"] if newer else []


def play_rollback(outlook: Outlook, intent: Intent) -> None:
    volume = target_volume(outlook, intent)
    if volume is not None and intent.snapshot in volume.snapshots:
        for newer in newer_snapshots(volume, intent.snapshot):
            del volume.snapshots[newer.name]
        volume.size_bytes = volume.snapshots[intent.snapshot].size_bytes


def check_wipe(outlook: Outlook, intent: Intent) -> None:
    check_idle(outlook, intent)
    size = volume_there(outlook, intent).size_bytes
    offset, length = intent.params.get("offset_bytes", 0), intent.params.get("length_bytes")
    if offset >= size:
        raise InvalidInput(
            f"volume {intent.volume!r} ends at {size} bytes, or will by then: begin before that",
            field="params.offset_bytes",
        )
    if length is not None and offset + length > size:
        raise InvalidInput(
            f"volume {intent.volume!r} has {size - offset} bytes from there on, or will have by "
            f"then, not {length}",
            field="params.length_bytes",
        )


def check_unrestrict(outlook: Outlook, intent: Intent) -> None:
    volume_there(outlook, intent, VolumeState.RESTRICTED)


def becomes(state: VolumeState) -> Callable[[Outlook, Intent], None]:
    def effect(outlook: Outlook, intent: Intent) -> None:
        if volume := target_volume(outlook, intent):
            volume.state = state

    return effect


def check_remove(outlook: Outlook, intent: Intent) -> None:
    purge = intent.action.verb == "purge"
    volume = (
        volume_there(outlook, intent, VolumeState.RESTRICTED)
        if purge
        else volume_there(outlook, intent, VolumeState.AVAILABLE, VolumeState.ERROR)
    )
    not_attached(volume)
    if volume.snapshots:
        raise InUse(
            f"volume {volume.name!r} has snapshots ({', '.join(volume.snapshots)}): "
            "delete them first",
            field="volume",
            snapshots=list(volume.snapshots),
        )


def play_remove(outlook: Outlook, intent: Intent) -> None:
    volume = outlook.volumes.pop((intent.backend, volume_name(intent)), None)
    if volume is not None:
        play_unmount(outlook, intent.backend, volume)
        play_unassign(outlook, volume)
