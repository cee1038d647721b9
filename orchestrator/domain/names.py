"""Names: what volumes, snapshots, backends and hosts may be called."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from orchestrator.domain.checking import checked
from orchestrator.domain.errors import InvalidName

MAX_NAME = 255
#: The largest job id: what a 64-bit column holds.
MAX_ID = 2**63 - 1
_VOLUME = re.compile(r"[A-Za-z0-9._:/+][A-Za-z0-9._:/+-]{0,254}", re.ASCII)
_BACKEND = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)
#: What Ganeti takes for a storage provider's name (EXT_PLUGIN_MASK).
PROVIDER = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", re.ASCII)


def check_volume_name(name: str) -> str:
    """``name`` itself, or `InvalidName` saying what is wrong. Snapshots obey it too."""
    if not name:
        raise InvalidName("a name has at least one character")
    if len(name) > MAX_NAME:
        raise InvalidName(f"a name has at most {MAX_NAME} characters, this one has {len(name)}")
    if name.startswith("-"):
        raise InvalidName(f"{name!r} begins with '-'")
    if not _VOLUME.fullmatch(name):
        raise InvalidName(f"{name!r} has characters other than A-Z a-z 0-9 . _ : / + -")
    if any(part in (".", "..") for part in name.split("/")):
        raise InvalidName(f"{name!r} has '.' or '..' between slashes")
    return name


def check_backend_name(name: str) -> str:
    """``name`` itself, or `InvalidName`."""
    if not _BACKEND.fullmatch(name):
        raise InvalidName(
            f"{name[:80]!r} is no backend name: use up to 63 of a-z 0-9 _ -, beginning with a "
            "letter or digit"
        )
    return name


def check_host_name(name: str) -> str:
    """``name`` itself, or `InvalidName`."""
    if not _HOST.fullmatch(name):
        raise InvalidName(f"{name[:80]!r} is no host name: use letters, digits, dots and dashes")
    return name


def check_junction_path(path: str) -> str:
    """``path`` itself, or `InvalidName`: where a volume is mounted in its backend's name space."""
    name = check_volume_name(path)
    if not name.startswith("/") or name.endswith("/") or "//" in name:
        raise InvalidName(f"{path!r} is no junction path: write /projects or /projects/web")
    return name


_checked = AfterValidator(checked(check_volume_name))
_PATTERN: Any = {"pattern": r"^[A-Za-z0-9_:+][A-Za-z0-9._:/+\-]{0,254}$"}
VolumeName = Annotated[str, _checked, Field(json_schema_extra=_PATTERN, examples=["vm1"])]
SnapshotName = Annotated[
    str, _checked, Field(json_schema_extra=_PATTERN, examples=["before-upgrade"])
]
PolicyName = Annotated[str, _checked, Field(json_schema_extra=_PATTERN, examples=["web"])]


def name_like(example: str) -> Any:
    """The type of names that obey the same, such as this one."""
    return Annotated[str, _checked, Field(json_schema_extra=_PATTERN, examples=[example])]


BackendName = Annotated[
    str,
    AfterValidator(checked(check_backend_name)),
    Field(json_schema_extra={"pattern": r"^[a-z0-9][a-z0-9_\-]{0,62}$"}, examples=["fast"]),
]
HostName = Annotated[
    str,
    AfterValidator(checked(check_host_name)),
    Field(
        json_schema_extra={"pattern": r"^[A-Za-z0-9]([A-Za-z0-9.\-]{0,251}[A-Za-z0-9])?$"},
        examples=["node1.example.com"],
    ),
]
JunctionPath = Annotated[
    str,
    AfterValidator(checked(check_junction_path)),
    Field(
        json_schema_extra={"pattern": r"^(/[A-Za-z0-9_:+][A-Za-z0-9_:+\-]{0,60}){1,4}$"},
        examples=["/projects/web"],
    ),
]
#: What a token may be called.
NAME_OF_TOKENS = r"^[A-Za-z0-9._@-]+$"
