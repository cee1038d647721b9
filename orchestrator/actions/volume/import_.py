"""Make a new volume with the contents of an image."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from orchestrator.actions.targets import size_asked
from orchestrator.actions.volume.create import check_create, play_new
from orchestrator.domain.action import Action, Checks, Need, Params
from orchestrator.domain.errors import MissingField
from orchestrator.domain.outlook import Intent, Outlook
from orchestrator.domain.places import ImageLocation, Sha256
from orchestrator.domain.sizes import Size
from orchestrator.domain.volumes import SIZE_NAMES, Metadata, OwnParameters


class ImportParams(Params):
    """The image that a new volume shall hold."""

    image: ImageLocation = Field(
        description="Path of a file on the worker's host, or a URL (http, https), within what "
        "'transfer' in the configuration allows.",
        examples=["/srv/images/debian.raw"],
    )
    size_bytes: Size | None = Field(
        default=None,
        validation_alias=SIZE_NAMES,
        description="Size of the volume, at least the image's, padded with zeroes; the image's "
        "if absent.",
    )
    sha256: Sha256 | None = Field(
        default=None,
        description="The expected SHA-256 of the image; otherwise the volume is not created. Any "
        "notation of checksum files: in capitals, after 'sha256:', before the file name.",
    )
    format: Literal["raw"] | None = Field(
        default=None,
        description="'raw': take the bytes as they are, even if they are in another format (qcow2, "
        "VMDK …), compressed, an archive, text or empty, which is refused otherwise.",
    )
    metadata: Metadata = Field(default_factory=dict)
    parameters: OwnParameters = None


def _check(outlook: Outlook, intent: Intent) -> None:
    if outlook.places is not None:
        outlook.places.image(intent.params["image"])
    check_create(outlook, intent)


def _play(outlook: Outlook, intent: Intent) -> None:
    said = intent.params.get("size_bytes") is not None
    # Otherwise only the image can tell, and what follows is checked again when it has.
    play_new(outlook, intent, size_asked(outlook, intent) if said else 0)


def _room(outlook: Outlook, intent: Intent) -> int:
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


def _notes(_outlook: Outlook, intent: Intent) -> list[str]:
    """What a plan of an import cannot tell, for people."""
    if intent.params.get("size_bytes") is not None:
        return []
    return ["the volume will be as large as the image, which is not counted yet"]


IMPORT = Action(
    name="volume.import",
    order=40,
    summary="Create a volume with the contents of an image in a file or at a URL.",
    audit="imported volume {volume}",
    params=ImportParams,
    checks=Checks(check=_check, effect=_play, room=_room, notes=_notes),
    host=Need.OPTIONAL,
    on_host=True,
    capability="import",
    creates=True,
    slow=True,
    time_limit=24 * 3600.0,
    route=("POST", "/volumes/{volume}/import"),
)
