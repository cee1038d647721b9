"""Targets: what jobs are about, each in a role."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Kind:
    """A kind of object that jobs name, by a field of their request that is called like it."""

    name: str
    #: What people call one, and several.
    title: str
    titles: str
    #: A name that one may have.
    example: str

    @property
    def a_title(self) -> str:
        """One of them in a sentence."""
        return f"{'an' if self.title[0] in 'aeiou' else 'a'} {self.title}"

    @cached_property
    def names(self) -> Any:
        """The type of its names."""
        from orchestrator.domain.names import name_like  # brings pydantic along

        return name_like(self.example)


#: Every kind, in the order in which requests name them; what others refer to comes before them.
#: The resource of each is in the package of `orchestrator.resources` that is called like it.
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("volume", "volume", "volumes", "vm1"),
        Kind("snapshot", "snapshot", "snapshots", "before-upgrade"),
        Kind("policy", "export policy", "export policies", "web"),
    )
}


#: The columns of jobs with the ids of what nearly every job is about; what else it is about are
#: rows.
COLUMNS = {"volume": "volume_id", "snapshot": "snapshot_id"}


class TargetRole(StrEnum):
    """What an object is to a job."""

    #: The job makes it, changes it or reads it.
    SUBJECT = "subject"
    #: The volume that has the snapshot which the job is about.
    PARENT = "parent"
    #: It is copied, or gone back to.
    SOURCE = "source"
    #: The volume gets it.
    ASSIGNED = "assigned"


def named(targets: Sequence[Sequence[str | None]] | None, kind: str) -> str | None:
    """The name of the one of this kind, of targets as they are read with the row of a job."""
    return next((name for _, one, _, name in targets or () if one == kind), None)


@dataclass(frozen=True, slots=True)
class Target:
    """One object that a job names."""

    role: str
    kind: str
    #: The very object that is meant, if there is or will be one; a later one of its name is not.
    id: str | None
    name: str | None
