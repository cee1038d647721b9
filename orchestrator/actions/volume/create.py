"""Create an empty volume."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from orchestrator.actions.policy.assign import play_assign
from orchestrator.actions.policy.targets import usable_policy
from orchestrator.actions.targets import name_free, size_asked, volume_name
from orchestrator.actions.volume.settings import check_settings, play_settings
from orchestrator.domain.action import Action, Checks, Lane, Need, Params, Takes
from orchestrator.domain.errors import UnknownParameter, Unsupported
from orchestrator.domain.outlook import Intent, Outlook, VolumeOutlook
from orchestrator.domain.sizes import Size
from orchestrator.domain.states import VolumeState
from orchestrator.domain.targets import TargetRole
from orchestrator.domain.volumes import SIZE_NAMES, Metadata, NewVolumeSettings, OwnParameters


class CreateParams(Params):
    """What a new volume shall be."""

    size_bytes: Size = Field(
        validation_alias=SIZE_NAMES,
        description="Size of the volume; rounded up to the backend's grain.",
    )
    metadata: Metadata = Field(default_factory=dict)
    parameters: OwnParameters = None
    settings: NewVolumeSettings | None = Field(
        default=None, description="Settings that differ from the defaults."
    )


def check_create(outlook: Outlook, intent: Intent) -> None:
    name_free(outlook, intent.backend, volume_name(intent), "volume")
    check_parameters(outlook, intent)
    check_settings(outlook, intent, None)
    if intent.policy is not None:
        if "policy" not in outlook.backend(intent.backend).known_capabilities:
            raise Unsupported(f"backend {intent.backend} has no export policies", field="policy")
        usable_policy(outlook, intent)


def check_parameters(outlook: Outlook, intent: Intent) -> None:
    backend = outlook.backend(intent.backend)
    for name in intent.params.get("parameters") or ():
        if backend.parameters is not None and name not in backend.parameters:
            raise UnknownParameter(
                f"backend {backend.name} has no parameter {name!r} for its volumes; it has "
                f"{', '.join(sorted(backend.parameters)) or 'none'}",
                field=f"params.parameters.{name}",
            )


def play_create(outlook: Outlook, intent: Intent) -> None:
    play_new(outlook, intent, size_asked(outlook, intent))


def play_new(outlook: Outlook, intent: Intent, size: int) -> None:
    params = intent.params
    add(outlook, intent, size, params.get("parameters") or {}, params.get("metadata") or {})
    play_settings(outlook, intent)
    play_assign(outlook, intent)


def add(
    outlook: Outlook,
    intent: Intent,
    size: int,
    parameters: Mapping[str, str],
    metadata: Mapping[str, str],
) -> None:
    name = volume_name(intent)
    outlook.volumes[intent.backend, name] = VolumeOutlook(
        id=intent.volume_id or "",
        name=name,
        state=VolumeState.AVAILABLE,
        size_bytes=size,
        metadata=dict(metadata),
        parameters=dict(parameters),
        account=intent.account,
    )


CREATE = Action(
    name="volume.create",
    order=10,
    summary="Create an empty volume.",
    audit="created volume {volume}",
    params=CreateParams,
    checks=Checks(check=check_create, effect=play_create, room=size_asked),
    takes=(Takes("volume"), Takes("policy", Need.OPTIONAL, TargetRole.ASSIGNED)),
    lanes=(Lane.VOLUME, Lane.JUNCTION),
    capability="create",
    creates=True,
    route=("POST", "/volumes"),
)
