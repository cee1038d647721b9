"""What actions are about: the volume or snapshot meant, and what all kinds of checks ask of it."""

from __future__ import annotations

from orchestrator.domain.errors import (
    AlreadyExists,
    BackendDisabled,
    InUse,
    UnknownSnapshot,
    UnknownVolume,
    VolumeReplaced,
    WrongState,
)
from orchestrator.domain.outlook import Intent, Outlook, SnapshotOutlook, VolumeOutlook
from orchestrator.domain.sizes import round_up
from orchestrator.domain.states import BackendState, SnapshotState, VolumeState


def volume_name(intent: Intent) -> str:
    assert intent.volume is not None  # noqa: S101 - the request model requires it
    return intent.volume


def volume_there(outlook: Outlook, intent: Intent, *states: VolumeState) -> VolumeOutlook:
    """The volume the intent means, in one of ``states`` (available if none are given)."""
    name = volume_name(intent)
    found = outlook.volume(intent.backend, name)
    states = states or (VolumeState.AVAILABLE,)
    if found is None or found.state is VolumeState.REMOVED:
        raise UnknownVolume(
            f"there is no volume {name!r} on backend {intent.backend}, or there will be none "
            "by then",
            field="volume",
        )
    if intent.volume_id is not None and found.id != intent.volume_id:
        raise VolumeReplaced(
            f"volume {name!r} is not the one that was there when this was submitted",
            field="volume",
        )
    if found.state not in states:
        raise WrongState(
            f"volume {name!r} is {found.state}; {intent.action.verb} needs one that is "
            f"{' or '.join(states)}",
            field="volume",
            state=found.state,
        )
    return found


def name_free(outlook: Outlook, backend: str, name: str, field: str) -> None:
    found = outlook.volume(backend, name)
    if found is not None:
        raise AlreadyExists(
            f"backend {backend} has a volume {name!r} already, or will have by then: "
            "choose another name",
            field=field,
            volume_id=found.id,
        )


def not_attached(volume: VolumeOutlook) -> None:
    if volume.attachments:
        hosts = ", ".join(sorted(volume.attachments))
        if all(one.possible for one in volume.attachments.values()):
            raise InUse(
                f"volume {volume.name!r} may be attached to {hosts}: how the attach there ended "
                "is not known yet. The engine has it looked at by a worker there; detach it "
                "there, or, if the host is gone for good and fenced, detach it with force=true "
                "fenced=true and a reason",
                field="volume",
                hosts=sorted(volume.attachments),
            )
        raise InUse(
            f"volume {volume.name!r} is attached to {hosts}: detach it first",
            field="volume",
            hosts=sorted(volume.attachments),
        )


def snapshot_there(volume: VolumeOutlook, intent: Intent) -> SnapshotOutlook:
    found = volume.snapshots.get(intent.snapshot or "")
    if found is None or (intent.snapshot_id is not None and found.id != intent.snapshot_id):
        raise UnknownSnapshot(
            f"volume {volume.name!r} has no snapshot {intent.snapshot!r}, or will have none "
            "by then",
            field="snapshot",
        )
    return found


def usable_snapshot(volume: VolumeOutlook, intent: Intent) -> SnapshotOutlook:
    found = snapshot_there(volume, intent)
    if found.state is not SnapshotState.AVAILABLE:
        raise WrongState(
            f"snapshot {found.name!r} of volume {volume.name!r} is {found.state}: if it is on the "
            "storage again, 'orchestrator volume verify' makes it usable; else it can only be "
            "deleted",
            field="snapshot",
        )
    return found


def size_asked(outlook: Outlook, intent: Intent) -> int:
    return round_up(int(intent.params["size_bytes"]), outlook.backend(intent.backend).grain_bytes)


def target_volume(outlook: Outlook, intent: Intent) -> VolumeOutlook | None:
    return outlook.volume(intent.backend, volume_name(intent))


def check_there(outlook: Outlook, intent: Intent) -> None:
    volume_there(outlook, intent)


def check_idle(outlook: Outlook, intent: Intent) -> None:
    not_attached(volume_there(outlook, intent))


def check_any_state(outlook: Outlook, intent: Intent) -> None:
    volume_there(outlook, intent, VolumeState.AVAILABLE, VolumeState.RESTRICTED, VolumeState.ERROR)


def check_enabled(outlook: Outlook, intent: Intent) -> None:
    """Refuse what only the configuration can allow again."""
    backend = outlook.backend(intent.backend)
    if backend.state == BackendState.DISABLED:
        raise BackendDisabled(
            f"backend {backend.name} is disabled by the configuration: take out enabled = false "
            "there, and restart",
            field="backend",
        )
