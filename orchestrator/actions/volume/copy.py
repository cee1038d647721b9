"""Create a volume with the contents of one on another backend."""

from __future__ import annotations

from pydantic import Field

from orchestrator.actions.volume.clone import (
    check_clone,
    clone_size,
    clone_source,
    not_copied,
    play_clone,
)
from orchestrator.actions.volume.export import not_written_elsewhere
from orchestrator.domain.action import Action, Checks, Lane, Need, Params, Takes
from orchestrator.domain.errors import InvalidInput, UnknownBackend, Unsupported
from orchestrator.domain.names import BackendName, VolumeName
from orchestrator.domain.outlook import Intent, Outlook
from orchestrator.domain.sizes import Size
from orchestrator.domain.targets import TargetRole
from orchestrator.domain.volumes import SIZE_NAMES, CopiedMetadata, OwnParameters


class CopyParams(Params):
    """What to copy from another backend; ``snapshot`` is one of the source's."""

    source: VolumeName = Field(description="The volume to copy.", examples=["golden"])
    source_backend: BackendName = Field(description="The backend that has it.")
    size_bytes: Size | None = Field(
        default=None,
        validation_alias=SIZE_NAMES,
        description="Size of the copy, at least the source's; the source's if absent.",
    )
    metadata: CopiedMetadata = None
    parameters: OwnParameters = None


def _check(outlook: Outlook, intent: Intent) -> None:
    name = intent.params["source_backend"]
    if name == intent.backend:
        raise InvalidInput(
            f"the volume is on backend {name} itself: volume.clone makes another of it there",
            field="params.source_backend",
        )
    try:
        source = outlook.backend(name)
    except UnknownBackend as problem:
        raise UnknownBackend(problem.detail, field="params.source_backend") from None
    if "export" not in source.known_capabilities:
        raise Unsupported(
            f"backend {name} (driver {source.driver}) cannot have its volumes read here",
            field="params.source_backend",
        )
    check_clone(outlook, intent)
    if intent.snapshot is None:
        volume, _ = clone_source(outlook, intent)
        not_written_elsewhere(source, volume, None, "params.source")


COPY = Action(
    name="volume.copy",
    order=30,
    summary="Create a volume with the contents of one on another backend.",
    audit="copied volume {volume}",
    params=CopyParams,
    checks=Checks(check=_check, effect=play_clone, room=clone_size, notes=not_copied),
    takes=(Takes("volume"), Takes("snapshot", Need.OPTIONAL, TargetRole.SOURCE)),
    lanes=(Lane.VOLUME, Lane.SOURCE),
    capability="import",
    creates=True,
    slow=True,
    time_limit=24 * 3600.0,
    route=("POST", "/volumes/{volume}/copy"),
)
