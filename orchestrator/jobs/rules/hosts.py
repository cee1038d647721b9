"""What is asked of the use of volumes by hosts, and what it leaves."""

from __future__ import annotations

from orchestrator.domain.errors import InUse, InvalidInput, NotAttached, Unsupported
from orchestrator.domain.states import VolumeState
from orchestrator.jobs.outlook import AttachmentOutlook, Intent, Outlook
from orchestrator.jobs.rules.targets import target_volume, volume_there


def play_attach(outlook: Outlook, intent: Intent) -> None:
    volume = target_volume(outlook, intent)
    if volume is not None and intent.host is not None:
        volume.attachments.setdefault(
            intent.host,
            AttachmentOutlook(
                device=None,
                boot_id=None,
                read_only=bool(intent.params.get("read_only")),
                opening=None,
            ),
        )


def check_attach(outlook: Outlook, intent: Intent) -> None:
    volume = volume_there(outlook, intent)
    backend = outlook.backend(intent.backend)
    if intent.params.get("read_only") and "attach_read_only" not in backend.known_capabilities:
        raise Unsupported(
            f"backend {backend.name} (driver {backend.driver}) attaches volumes for writing only",
            field="params.read_only",
        )
    held = volume.attachments.get(intent.host or "")
    if held is not None and held.read_only != bool(intent.params.get("read_only")):
        raise InUse(
            f"volume {volume.name!r} is attached to {intent.host} "
            f"{'read-only' if held.read_only else 'for writing'}: detach it first",
            field="params.read_only",
        )


def check_detach(outlook: Outlook, intent: Intent) -> None:
    volume_there(outlook, intent, VolumeState.AVAILABLE, VolumeState.ERROR)
    if intent.params.get("force"):
        if not intent.params.get("fenced"):
            raise InvalidInput(
                "forced detach leaves a host's device behind: confirm with fenced=true that the "
                "host can no longer write",
                field="params.fenced",
            )
        if not (intent.reason or "").strip():
            raise InvalidInput("forced detach needs a reason: say what happened", field="reason")


def play_detach(outlook: Outlook, intent: Intent) -> None:
    if volume := target_volume(outlook, intent):
        volume.attachments.pop(intent.host or "", None)


def check_open(outlook: Outlook, intent: Intent) -> None:
    volume = volume_there(outlook, intent)
    if intent.host not in volume.attachments:
        raise NotAttached(
            f"volume {volume.name!r} is not attached to {intent.host}: attach it first",
            field="host",
        )
    exclusive = bool(intent.params.get("exclusive"))
    for host, other in volume.attachments.items():
        if host == intent.host or other.opening is None:
            continue
        if exclusive or other.opening == "exclusive":
            raise InUse(
                f"volume {volume.name!r} is open on {host} ({other.opening}): close it there "
                "first; if that host is dead and fenced, detach it from there with force=true "
                "fenced=true and a reason",
                field="host",
                hosts=[host],
            )


def play_open(outlook: Outlook, intent: Intent) -> None:
    volume = target_volume(outlook, intent)
    held = volume.attachments.get(intent.host or "") if volume else None
    if held is not None:
        held.opening = "exclusive" if intent.params.get("exclusive") else "shared"


def play_close(outlook: Outlook, intent: Intent) -> None:
    volume = target_volume(outlook, intent)
    held = volume.attachments.get(intent.host or "") if volume else None
    if held is not None:
        held.opening = None
