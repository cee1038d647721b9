"""Attach a volume to a host."""

from __future__ import annotations

from pydantic import Field

from orchestrator.actions.targets import target_volume, volume_there
from orchestrator.domain.action import Action, Checks, Need, Params
from orchestrator.domain.errors import InUse, Unsupported
from orchestrator.domain.outlook import AttachmentOutlook, Intent, Outlook


class AttachParams(Params):
    """How to attach."""

    read_only: bool = Field(default=False, description="Refuse writes through this attachment.")


def _check(outlook: Outlook, intent: Intent) -> None:
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


def _play(outlook: Outlook, intent: Intent) -> None:
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


ATTACH = Action(
    name="volume.attach",
    order=230,
    summary="Attach a volume to a host.",
    audit="attached volume {volume} to {host}",
    params=AttachParams,
    checks=Checks(check=_check, effect=_play),
    host=Need.REQUIRED,
    capability="attach",
    on_host=True,
    route=("PUT", "/volumes/{volume}/attachments/{host}"),
)
