"""Make a new volume with the contents of another."""

from __future__ import annotations

from pydantic import Field

from orchestrator.actions.targets import name_free, usable_snapshot, volume_name
from orchestrator.actions.volume.create import add, check_parameters
from orchestrator.domain.action import Action, Checks, Lane, Need, Params, Takes, source_of
from orchestrator.domain.errors import ShrinkRefused, UnknownVolume, VolumeReplaced, WrongState
from orchestrator.domain.names import VolumeName
from orchestrator.domain.outlook import Intent, Outlook, VolumeOutlook
from orchestrator.domain.sizes import Size, round_up
from orchestrator.domain.states import VolumeState
from orchestrator.domain.targets import TargetRole
from orchestrator.domain.volumes import (
    OWN_PARAMETERS,
    SIZE_NAMES,
    CopiedMetadata,
    MetadataText,
    ParameterName,
)


class CloneParams(Params):
    """What to clone; the job's ``volume`` is the new one, ``snapshot`` one of the source's."""

    source: VolumeName = Field(description="The volume to clone.", examples=["golden"])
    size_bytes: Size | None = Field(
        default=None,
        validation_alias=SIZE_NAMES,
        description="Size of the clone, at least the source's; the source's if absent.",
    )
    metadata: CopiedMetadata = None
    parameters: dict[ParameterName, MetadataText] | None = Field(
        default=None, description=f"{OWN_PARAMETERS}; the source's if absent."
    )


def check_clone(outlook: Outlook, intent: Intent) -> None:
    name_free(outlook, intent.backend, volume_name(intent), "volume")
    check_parameters(outlook, intent)
    _, least = clone_source(outlook, intent)
    asked = intent.params.get("size_bytes")
    if asked is not None and asked < least:
        raise ShrinkRefused(
            f"the source has {least} bytes: a {intent.action.verb} of it cannot be smaller",
            field="params.size_bytes",
        )


def _source(outlook: Outlook, intent: Intent) -> VolumeOutlook | None:
    place = source_of(intent.backend, intent.params)
    return None if place is None else outlook.volume(*place)


def clone_source(outlook: Outlook, intent: Intent) -> tuple[VolumeOutlook, int]:
    """The source of a clone or copy, and the size of what is cloned."""
    name, source = intent.params["source"], _source(outlook, intent)
    if source is None:
        raise UnknownVolume(
            f"there is no volume {name!r} to {intent.action.verb} on backend "
            f"{intent.params.get('source_backend', intent.backend)}, or there will be none by then",
            field="params.source",
        )
    if intent.source_id is not None and source.id != intent.source_id:
        raise VolumeReplaced(
            f"volume {name!r} is not the one that was there when this was submitted",
            field="params.source",
        )
    if source.state is not VolumeState.AVAILABLE:
        raise WrongState(
            f"volume {name!r} is {source.state}: {intent.action.verb} needs one that is available",
            field="params.source",
        )
    if intent.snapshot is None:
        return source, source.size_bytes
    return source, usable_snapshot(source, intent).size_bytes


def clone_size(outlook: Outlook, intent: Intent) -> int:
    _, least = clone_source(outlook, intent)
    asked = int(intent.params.get("size_bytes") or least)
    return round_up(asked, outlook.backend(intent.backend).grain_bytes)


def play_clone(outlook: Outlook, intent: Intent) -> None:
    source = _source(outlook, intent)
    if source is not None and (intent.snapshot is None or intent.snapshot in source.snapshots):
        add(
            outlook,
            intent,
            clone_size(outlook, intent),
            own_parameters(intent, source),
            own_metadata(intent, source),
        )


def own_parameters(intent: Intent, source: VolumeOutlook | None) -> dict[str, str]:
    """A new volume's own values for parameters: of a clone, if it names none, the source's."""
    own = intent.params.get("parameters")
    if own is None and source is not None and "source_backend" not in intent.params:
        return source.parameters
    return dict(own or {})


def own_metadata(intent: Intent, source: VolumeOutlook | None) -> dict[str, str]:
    """A new volume's metadata: of a clone or copy, if none is named, the source's."""
    own = intent.params.get("metadata")
    if own is None and source is not None:
        return source.metadata
    return dict(own or {})


def not_copied(outlook: Outlook, intent: Intent) -> list[str]:
    """What a clone or copy does not take over, for people."""
    source = _source(outlook, intent)
    if source is None:
        return []
    told, name = [], repr(source.name)
    if source.snapshots:
        told += [f"snapshots of {name} are not copied: {', '.join(source.snapshots)}"]
    if source.settings:
        told += [f"settings of {name} are not copied: {', '.join(sorted(source.settings))}"]
    if source.policy is not None:
        told += [f"the export policy of {name} is not assigned to it: {source.policy}"]
    return told


CLONE = Action(
    name="volume.clone",
    order=20,
    summary="Create a volume with the contents of another, or of one of its snapshots.",
    audit="cloned volume {volume}",
    params=CloneParams,
    checks=Checks(check=check_clone, effect=play_clone, room=clone_size, notes=not_copied),
    takes=(Takes("volume"), Takes("snapshot", Need.OPTIONAL, TargetRole.SOURCE)),
    lanes=(Lane.VOLUME, Lane.SOURCE),
    capability="clone",
    reads_in_use=True,
    creates=True,
    slow=True,
    route=("POST", "/volumes/{volume}/clone"),
)
