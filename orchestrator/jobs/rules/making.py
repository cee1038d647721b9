"""What is asked of new volumes, however they are filled, and what they leave."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.domain.actions import source_of
from orchestrator.domain.drivers import DRIVERS
from orchestrator.domain.errors import (
    InUse,
    InvalidInput,
    MissingField,
    ShrinkRefused,
    UnknownBackend,
    UnknownParameter,
    UnknownVolume,
    Unsupported,
    VolumeReplaced,
    WrongState,
)
from orchestrator.domain.sizes import round_up
from orchestrator.domain.states import VolumeState
from orchestrator.jobs.outlook import BackendOutlook, Intent, Outlook, VolumeOutlook
from orchestrator.jobs.rules.exports import play_assign, usable_policy
from orchestrator.jobs.rules.settings import check_settings, play_settings
from orchestrator.jobs.rules.targets import (
    name_free,
    size_asked,
    usable_snapshot,
    volume_name,
    volume_there,
)


def check_create(outlook: Outlook, intent: Intent) -> None:
    name_free(outlook, intent.backend, volume_name(intent), "volume")
    _check_parameters(outlook, intent)
    check_settings(outlook, intent, None)
    if intent.policy is not None:
        if "policy" not in outlook.backend(intent.backend).known_capabilities:
            raise Unsupported(f"backend {intent.backend} has no export policies", field="policy")
        usable_policy(outlook, intent)


def _check_parameters(outlook: Outlook, intent: Intent) -> None:
    backend = outlook.backend(intent.backend)
    for name in intent.params.get("parameters") or ():
        if backend.parameters is not None and name not in backend.parameters:
            raise UnknownParameter(
                f"backend {backend.name} has no parameter {name!r} for its volumes; it has "
                f"{', '.join(sorted(backend.parameters)) or 'none'}",
                field=f"params.parameters.{name}",
            )


def play_create(outlook: Outlook, intent: Intent) -> None:
    _play_new(outlook, intent, size_asked(outlook, intent))


def _play_new(outlook: Outlook, intent: Intent, size: int) -> None:
    params = intent.params
    _add(outlook, intent, size, params.get("parameters") or {}, params.get("metadata") or {})
    play_settings(outlook, intent)
    play_assign(outlook, intent)


def _add(
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


def _source(outlook: Outlook, intent: Intent) -> VolumeOutlook | None:
    place = source_of(intent.backend, intent.params)
    return None if place is None else outlook.volume(*place)


def _clone_source(outlook: Outlook, intent: Intent) -> tuple[VolumeOutlook, int]:
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


def check_clone(outlook: Outlook, intent: Intent) -> None:
    name_free(outlook, intent.backend, volume_name(intent), "volume")
    _check_parameters(outlook, intent)
    _, least = _clone_source(outlook, intent)
    asked = intent.params.get("size_bytes")
    if asked is not None and asked < least:
        raise ShrinkRefused(
            f"the source has {least} bytes: a {intent.action.verb} of it cannot be smaller",
            field="params.size_bytes",
        )


def clone_size(outlook: Outlook, intent: Intent) -> int:
    _, least = _clone_source(outlook, intent)
    asked = int(intent.params.get("size_bytes") or least)
    return round_up(asked, outlook.backend(intent.backend).grain_bytes)


def play_clone(outlook: Outlook, intent: Intent) -> None:
    source = _source(outlook, intent)
    if source is not None and (intent.snapshot is None or intent.snapshot in source.snapshots):
        _add(
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


def taken_as_raw(_outlook: Outlook, _intent: Intent) -> list[str]:
    """What a plan of an adoption cannot tell, for people."""
    return [
        "its bytes are the volume's, whatever their format: the result says if they are "
        "recognisably no raw disk"
    ]


def check_adopt(outlook: Outlook, intent: Intent) -> None:
    name_free(outlook, intent.backend, volume_name(intent), "volume")


def play_adopt(outlook: Outlook, intent: Intent) -> None:
    # How large it is only the storage can tell.
    _add(outlook, intent, 0, {}, {})


def check_copy(outlook: Outlook, intent: Intent) -> None:
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
        volume, _ = _clone_source(outlook, intent)
        _not_written_elsewhere(source, volume, None, "params.source")


def check_import(outlook: Outlook, intent: Intent) -> None:
    if outlook.places is not None:
        outlook.places.image(intent.params["image"])
    check_create(outlook, intent)


def import_room(outlook: Outlook, intent: Intent) -> int:
    """What an import takes up as far as it says. Raises `MissingField` where it must say it."""
    if intent.params.get("size_bytes") is not None:
        return size_asked(outlook, intent)
    quota = outlook.quotas.get((intent.account or "", intent.backend))
    if quota is not None and "bytes" in quota.limits:
        raise MissingField(
            f"account {intent.account} has a quota of bytes on backend {intent.backend}, and how "
            "large an image is shows only when it is read: say the size",
            field="params.size_bytes",
        )
    return 0


def sized_by_image(_outlook: Outlook, intent: Intent) -> list[str]:
    """What a plan of an import cannot tell, for people."""
    if intent.params.get("size_bytes") is not None:
        return []
    return ["the volume will be as large as the image, which is not counted yet"]


def play_import(outlook: Outlook, intent: Intent) -> None:
    said = intent.params.get("size_bytes") is not None
    # Otherwise only the image can tell, and what follows is checked again when it has.
    _play_new(outlook, intent, size_asked(outlook, intent) if said else 0)


def check_export(outlook: Outlook, intent: Intent) -> None:
    if outlook.places is not None:
        outlook.places.target(intent.params["target"])
    volume = volume_there(outlook, intent)
    if intent.snapshot is not None:
        usable_snapshot(volume, intent)
    else:
        _not_written_elsewhere(outlook.backend(intent.backend), volume, intent.host, "volume")


def _not_written_elsewhere(
    backend: BackendOutlook, volume: VolumeOutlook, host: str | None, field: str
) -> None:
    """Refuse to read what another host may write to, which only that host could see."""
    if not DRIVERS[backend.driver].attaches_locally:
        return
    for other, attachment in volume.attachments.items():
        if other != host and not attachment.read_only:
            raise InUse(
                f"volume {volume.name!r} is attached to {other}, which may write to it meanwhile: "
                "detach it, or take a snapshot and read that",
                field=field,
                hosts=[other],
            )
