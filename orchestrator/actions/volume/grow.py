"""Grow a volume."""

from __future__ import annotations

from pydantic import Field

from orchestrator.actions.targets import size_asked, target_volume, volume_there
from orchestrator.domain.action import Action, Checks, Params
from orchestrator.domain.errors import ShrinkRefused
from orchestrator.domain.outlook import Intent, Outlook
from orchestrator.domain.sizes import Size
from orchestrator.domain.volumes import SIZE_NAMES


class GrowParams(Params):
    """The size a volume shall have."""

    size_bytes: Size = Field(
        validation_alias=SIZE_NAMES,
        description="The new size, never a difference; above the current size.",
    )


def _check(outlook: Outlook, intent: Intent) -> None:
    volume = volume_there(outlook, intent)
    if int(intent.params["size_bytes"]) <= volume.size_bytes:
        raise ShrinkRefused(
            f"volume {volume.name!r} has {volume.size_bytes} bytes, or will have by then: ask for "
            "a larger size",
            field="params.size_bytes",
            size_bytes=volume.size_bytes,
        )


def _room(outlook: Outlook, intent: Intent) -> int:
    volume = target_volume(outlook, intent)
    return size_asked(outlook, intent) - (volume.size_bytes if volume else 0)


def _play(outlook: Outlook, intent: Intent) -> None:
    if volume := target_volume(outlook, intent):
        volume.size_bytes = max(volume.size_bytes, size_asked(outlook, intent))


GROW = Action(
    name="volume.grow",
    order=60,
    summary="Grow a volume.",
    audit="grew volume {volume}",
    params=GrowParams,
    checks=Checks(check=_check, effect=_play, room=_room),
    capability="grow",
    route=("POST", "/volumes/{volume}/grow"),
)
