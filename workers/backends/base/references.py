"""Which object is meant: what drivers are given of volumes, snapshots and export policies."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.domain.errors import InvalidInput

_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)


def check_id(written: str) -> str:
    """``written`` itself; ids become parts of native names, so anything else is refused.

    Drivers check ids, and names with `orchestrator.domain.names`, once more themselves.
    """
    if not _ID.fullmatch(written):
        raise InvalidInput(f"{written[:40]!r} is no id: 32 hexadecimal digits")
    return written


def adopted_id(volume_id: str, snapshot: str) -> str:
    """The id of a snapshot that is adopted with its volume: the same each time."""
    return hashlib.sha256(f"{volume_id} {snapshot}".encode()).hexdigest()[:32]


@dataclass(frozen=True)
class PolicyRef:
    """Which export policy is meant: ``id`` is 32 hexadecimal digits, never reused."""

    id: str
    name: str
    #: The storage's own immutable key, as `build_policy` told it; None where it has none.
    native: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class VolumeRef:
    """Which volume is meant: ``id`` is 32 hexadecimal digits, given once and never reused."""

    id: str
    name: str
    #: What the inventory has of it, for storage that cannot tell: its size in bytes, and its
    #: own values of the driver's parameters.
    size_bytes: int | None = field(default=None, compare=False)
    parameters: Mapping[str, str] = field(default_factory=dict, compare=False)
    #: Its settings (`orchestrator.domain.volumes.VolumeSettings`): what is made is to have them,
    #: of what is there they are those that the inventory has. The policy that it is made with.
    settings: Mapping[str, Any] = field(default_factory=dict, compare=False)
    policy: PolicyRef | None = field(default=None, compare=False)


@dataclass(frozen=True)
class SnapshotRef:
    """Which snapshot of which volume is meant."""

    id: str
    name: str
    volume: VolumeRef
    #: What the inventory has of its size in bytes; None: nothing, as of one that is being made.
    size_bytes: int | None = field(default=None, compare=False)
