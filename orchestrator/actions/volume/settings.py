"""What is asked of settings of volumes, and what they leave."""

from __future__ import annotations

from orchestrator.actions.targets import target_volume
from orchestrator.domain.errors import AlreadyExists, InvalidInput, Unsupported
from orchestrator.domain.installed import DRIVERS
from orchestrator.domain.outlook import Intent, Outlook, VolumeOutlook

#: The settings that every backend has: those that the engine itself sees to.
_SETTINGS_OF_ALL = frozenset({"autosize_enabled", "autosize_max_bytes", "junction_path"})


def check_settings(outlook: Outlook, intent: Intent, volume: VolumeOutlook | None) -> None:
    """Whether the backend has these settings, and the volume can have them."""
    if not intent.settings:
        return
    backend = outlook.backend(intent.backend)
    has = DRIVERS[backend.driver].settings | _SETTINGS_OF_ALL
    for name in intent.settings:
        if name not in has:
            raise Unsupported(
                f"backend {backend.name} (driver {backend.driver}) has no setting {name!r} for its "
                f"volumes; it has {', '.join(sorted(has))}",
                field=f"params.settings.{name}",
            )
    if intent.settings.get("autosize_enabled") and "grow" not in backend.known_capabilities:
        raise Unsupported(
            f"backend {backend.name} (driver {backend.driver}) cannot grow volumes",
            field="params.settings.autosize_enabled",
        )
    merged = {**(volume.settings if volume else {}), **intent.settings}
    if merged.get("autosize_enabled") and merged.get("autosize_max_bytes") is None:
        raise InvalidInput(
            "a volume that grows by itself needs autosize_max_bytes: how large it may become",
            field="params.settings.autosize_max_bytes",
        )
    if intent.junction is not None:
        holder = outlook.junctions.get(intent.junction)
        if holder is not None and (volume is None or holder != volume.id):
            raise AlreadyExists(
                f"backend {backend.name} has a volume at {intent.junction[1]} already, or will "
                "have by then: choose another path",
                field="params.settings.junction_path",
                volume_id=holder,
            )


def play_settings(outlook: Outlook, intent: Intent) -> None:
    if volume := target_volume(outlook, intent):
        if intent.junction is not None:
            play_unmount(outlook, intent.backend, volume)
            outlook.junctions[intent.junction] = volume.id
        volume.settings = {**volume.settings, **intent.settings}


def play_unmount(outlook: Outlook, backend: str, volume: VolumeOutlook) -> None:
    path = (backend, volume.settings.get("junction_path") or "")
    if outlook.junctions.get(path) == volume.id:
        del outlook.junctions[path]
