"""Overwrite a volume, or a part of it, with zeroes."""

from __future__ import annotations

from pydantic import AliasChoices, Field

from orchestrator.actions.targets import check_idle, volume_there
from orchestrator.domain.action import Action, Checks, Params
from orchestrator.domain.errors import InvalidInput
from orchestrator.domain.outlook import Intent, Outlook
from orchestrator.domain.sizes import Offset, Size


class WipeParams(Params):
    """What part of a volume to wipe."""

    offset_bytes: Offset = Field(
        default=0,
        validation_alias=AliasChoices("offset_bytes", "offset"),
        description="Where to begin.",
    )
    length_bytes: Size | None = Field(
        default=None,
        validation_alias=AliasChoices("length_bytes", "length"),
        description="How much to overwrite; everything up to the end if absent.",
    )


def _check(outlook: Outlook, intent: Intent) -> None:
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


WIPE = Action(
    name="volume.wipe",
    order=110,
    summary="Overwrite a volume, or a part of it, with zeroes.",
    audit="wiped volume {volume}",
    params=WipeParams,
    checks=Checks(check=_check),
    stoppable=True,
    capability="wipe",
    respects_lock=True,
    destructive=True,
    slow=True,
    time_limit=24 * 3600.0,
    route=("POST", "/volumes/{volume}/wipe"),
)
