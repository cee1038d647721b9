"""Change a volume's metadata or settings."""

from __future__ import annotations

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from orchestrator.actions.targets import check_there, target_volume, volume_there
from orchestrator.actions.volume.settings import check_settings, play_settings
from orchestrator.domain.action import Action, Checks, Lane, Params
from orchestrator.domain.errors import InvalidInput
from orchestrator.domain.outlook import Intent, Outlook
from orchestrator.domain.volumes import MAX_METADATA, MetadataKey, MetadataText, VolumeSettings


class UpdateParams(Params):
    """What to change in a volume's metadata and settings: one of them at least."""

    metadata: dict[MetadataKey, MetadataText | None] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_METADATA,
        description="Entries to set; null removes an entry.",
        examples=[{"owner": "billing", "stage": None}],
    )
    settings: VolumeSettings | None = Field(
        default=None, description="Settings to change.", examples=[{"autosize_enabled": True}]
    )

    @model_validator(mode="after")
    def _something(self) -> UpdateParams:
        if self.metadata is None and not (self.settings and self.settings.model_fields_set):
            raise PydanticCustomError(
                "invalid_input", "give metadata or settings to change, or both of them"
            )
        return self


class SetInfoParams(Params):
    """The text that another system keeps with a volume."""

    info: MetadataText = Field(
        description="Kept in the volume's metadata under 'info' (Ganeti: VOL_METADATA).",
        examples=["originstname+web1"],
    )


def _check(outlook: Outlook, intent: Intent) -> None:
    volume = volume_there(outlook, intent)
    check_settings(outlook, intent, volume)
    merged = {**volume.metadata, **(intent.params.get("metadata") or {})}
    if sum(text is not None for text in merged.values()) > MAX_METADATA:
        raise InvalidInput(
            f"volume {volume.name!r} would have more than {MAX_METADATA} metadata entries: "
            "remove some with null",
            field="params.metadata",
        )


def _play(outlook: Outlook, intent: Intent) -> None:
    if volume := target_volume(outlook, intent):
        merged = {**volume.metadata, **(intent.params.get("metadata") or {})}
        volume.metadata = {key: text for key, text in merged.items() if text is not None}
        play_settings(outlook, intent)


UPDATE = Action(
    name="volume.update",
    order=70,
    summary="Change a volume's metadata or settings.",
    audit="changed volume {volume}",
    params=UpdateParams,
    checks=Checks(check=_check, effect=_play),
    lanes=(Lane.VOLUME, Lane.JUNCTION),
    capability="metadata",
    route=("POST", "/volumes/{volume}/update"),
)

SET_INFO = Action(
    name="volume.set_info",
    order=80,
    summary="Store a text with a volume on behalf of another system.",
    audit="set the info text of volume {volume}",
    params=SetInfoParams,
    checks=Checks(check=check_there),
    capability="metadata",
    route=("POST", "/volumes/{volume}/set_info"),
)
