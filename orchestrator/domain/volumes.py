"""What requests say of a volume: its metadata, parameters and settings."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, AliasChoices, Field
from pydantic_core import PydanticCustomError

from orchestrator.domain.action import Params
from orchestrator.domain.names import JunctionPath
from orchestrator.domain.sizes import AnySize

#: How much metadata a volume may carry, as JSON.
MAX_METADATA = 64


def _limited(metadata: dict[str, Any]) -> dict[str, Any]:
    if len(metadata) > MAX_METADATA:
        raise PydanticCustomError(
            "invalid_input", "metadata has more than {most} entries", {"most": MAX_METADATA}
        )
    return metadata


MetadataKey = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\x20-\x7e]+$")]

MetadataText = Annotated[str, Field(max_length=1024, pattern=r"^[^\x00-\x08\x0b\x0c\x0e-\x1f]*$")]

Metadata = Annotated[
    dict[MetadataKey, MetadataText],
    AfterValidator(_limited),
    Field(description="Texts by key, stored with the volume.", examples=[{"owner": "billing"}]),
]

#: The same of a volume that is made of another.
CopiedMetadata = Annotated[
    Metadata | None, Field(description="Texts by key; the source's if absent, none with {}.")
]

ParameterName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]

OWN_PARAMETERS = "The volume's own values for parameters of the backend ('backend show' lists them)"

#: The same of a volume that takes none over.
OwnParameters = Annotated[
    dict[ParameterName, MetadataText] | None, Field(description=f"{OWN_PARAMETERS}.")
]

SIZE_NAMES = AliasChoices("size_bytes", "size")


class VolumeSettings(Params):
    """How a volume behaves, and where it is found; what is absent stays as it is.

    ``autosize_…`` and ``junction_path`` every backend has; the others are the driver's
    (`orchestrator.domain.drivers.DriverSpec.settings`).
    """

    autosize_enabled: bool | None = Field(
        default=None, description="Whether the volume grows automatically as it fills."
    )
    autosize_max_bytes: AnySize | None = Field(
        default=None, description="The largest size it may grow to; required for it to grow."
    )
    snapshot_reserve_percent: Annotated[int, Field(ge=0, le=90)] | None = Field(
        default=None, description="How much of the volume is reserved for its snapshots."
    )
    compression: bool | None = Field(default=None, description="Compress data already written.")
    inline_compression: bool | None = Field(
        default=None, description="Compress data being written."
    )
    caching_policy: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = Field(
        default=None, description="How the storage caches it, in the storage's own terms."
    )
    junction_path: JunctionPath | None = Field(
        default=None, description="Where it is mounted in the backend's name space."
    )


class NewVolumeSettings(VolumeSettings):
    """The same of a volume to be made."""

    aggregate: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = Field(
        default=None, description="The aggregate to create it on; the emptiest if absent."
    )
