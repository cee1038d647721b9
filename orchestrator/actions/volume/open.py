"""Let a host use an attached volume; end that use."""

from __future__ import annotations

from pydantic import Field

from orchestrator.actions.targets import check_there, target_volume, volume_there
from orchestrator.domain.action import Action, Checks, Need, Params
from orchestrator.domain.errors import InUse, NotAttached
from orchestrator.domain.outlook import Intent, Outlook


class OpenParams(Params):
    """How the host will use the volume."""

    exclusive: bool = Field(
        default=False, description="No other host may have it open at the same time."
    )


def _check(outlook: Outlook, intent: Intent) -> None:
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


def _play_open(outlook: Outlook, intent: Intent) -> None:
    volume = target_volume(outlook, intent)
    held = volume.attachments.get(intent.host or "") if volume else None
    if held is not None:
        held.opening = "exclusive" if intent.params.get("exclusive") else "shared"


def _play_close(outlook: Outlook, intent: Intent) -> None:
    volume = target_volume(outlook, intent)
    held = volume.attachments.get(intent.host or "") if volume else None
    if held is not None:
        held.opening = None


OPEN = Action(
    name="volume.open",
    order=250,
    summary="Let a host use an attached volume.",
    audit="opened volume {volume} on {host}",
    params=OpenParams,
    checks=Checks(check=_check, effect=_play_open),
    host=Need.REQUIRED,
    capability="open",
    on_host=True,
    route=("POST", "/volumes/{volume}/attachments/{host}/open"),
)

CLOSE = Action(
    name="volume.close",
    order=260,
    summary="End a host's use of an attached volume.",
    audit="closed volume {volume} on {host}",
    checks=Checks(check=check_there, effect=_play_close),
    host=Need.REQUIRED,
    capability="open",
    on_host=True,
    route=("POST", "/volumes/{volume}/attachments/{host}/close"),
)
