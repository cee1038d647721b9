"""Volumes whose disk Ganeti no longer has: left where it could not ask for their removal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from orchestrator.domain.errors import InvalidInput

_UUID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.IGNORECASE)


def disks_in(listed: str) -> frozenset[str]:
    """The UUIDs in what ``gnt-instance list -o disk.uuids`` has printed.

    Raises `InvalidInput` if there are none, for then every volume would count as left.
    """
    found = frozenset(uuid.lower() for uuid in _UUID.findall(listed))
    if not found:
        raise InvalidInput(
            "there is no UUID of a disk in the list: give what 'gnt-instance list --no-headers -o "
            "disk.uuids' prints on the master, as a file or on standard input",
            field="FILE",
        )
    return found


def left_over(
    volumes: Iterable[Mapping[str, Any]], disks: frozenset[str]
) -> Iterator[dict[str, Any]]:
    """Of these volumes those that were made for a disk which is not one of ``disks``."""
    for volume in volumes:
        uuid = volume["metadata"].get("ganeti.uuid")
        if uuid is None or uuid.lower() in disks:
            continue
        yield {
            "backend": volume["backend"],
            "name": volume["name"],
            "size_bytes": volume["size_bytes"],
            "state": volume["state"],
            "disk": volume["metadata"].get("ganeti.name"),
            "uuid": uuid,
            "attached_to": [one["host"] for one in volume["attachments"]],
            "created_at": volume["created_at"],
        }
