"""What storage holds: the answers of drivers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.domain.errors import Conflict, UnknownVolume
from orchestrator.domain.exports import Rule
from workers.backends.base.references import VolumeRef


@dataclass(frozen=True, kw_only=True)
class Device:
    """How a volume can be reached on this host."""

    #: Block device path; None where there are only URIs.
    path: str | None
    #: ``<hypervisor>:<uri>`` lines, e.g. ``kvm:file:/srv/volumes/x.img``.
    uris: tuple[str, ...] = ()
    read_only: bool = False


@dataclass(frozen=True, kw_only=True)
class VolumeFacts:
    """What the storage really holds of one volume. Sizes are bytes."""

    #: The stamp; None: this object is not ours.
    id: str | None
    name: str
    size_bytes: int
    used_bytes: int
    metadata: Mapping[str, str] = field(default_factory=dict)
    #: The token of the job whose rollback made the present contents, if any.
    restored_by: str | None = None
    #: The settings that this kind of storage has itself, as they are.
    settings: Mapping[str, Any] = field(default_factory=dict)
    #: The name of its export policy; None: it has none.
    policy: str | None = None
    #: Where hosts mount it from: a host name or an address; None: it is not exported.
    address: str | None = None
    #: How much of what is reserved for snapshots they use.
    snapshot_reserve_used_percent: int | None = None
    #: Whether clients are kept from it; None: this kind of storage does not do that.
    restricted: bool | None = field(default=None, compare=False)
    #: Whether it is in use on this host; None: not to be told while listing.
    attached: bool | None = field(default=None, compare=False)
    #: Of images that others on the host could lay hands on: under how many names it is there, its
    #: owner and mode (``0:0 0600``), and when its contents were last written, in seconds since
    #: 1970. None: it is nothing of that kind.
    links: int | None = field(default=None, compare=False)
    owner: str | None = field(default=None, compare=False)
    written_at: float | None = field(default=None, compare=False)
    #: Of what is not ours: the id on the stamp that it bears all the same, as a further name of
    #: an image (a hard link) or a copy of it. Told while listing.
    bears: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Absent:
    """It is not there: the driver was allowed to look, and looked at all of it."""


@dataclass(frozen=True)
class NotOurs:
    """Something stands where it belongs and does not bear its stamp."""

    #: What stands there, for people.
    what: str


#: What a look at one volume shows. What could not be seen is raised: it is none of the three.
Look = VolumeFacts | Absent | NotOurs


def there(look: Look, volume: VolumeRef) -> VolumeFacts:
    """The facts of a volume that must be there. Raises `UnknownVolume`, `Conflict`."""
    if isinstance(look, Absent):
        raise UnknownVolume(f"the storage has no volume {volume.name!r}")
    if isinstance(look, NotOurs):
        raise Conflict(
            f"{look.what} stands where volume {volume.name!r} belongs and does not bear its stamp: "
            "somebody else put it there, so move it away"
        )
    return look


@dataclass(frozen=True)
class Removed:
    """What a removal has done, which may be less than was asked for."""

    #: False: there was nothing.
    found: bool
    #: Bytes that were overwritten before.
    wiped_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class PolicyFacts:
    """What the storage really holds of one export policy."""

    #: The stamp; None: this object is not ours, or the storage cannot tell.
    id: str | None
    name: str
    native: str | None
    #: In their order; none: nobody is admitted.
    rules: tuple[Rule, ...]


@dataclass(frozen=True, kw_only=True)
class ClientLock:
    """A lock that the storage itself has given a client on something in a volume."""

    #: The client: a host name or an address.
    host: str
    #: What kind of lock it is, in the storage's own words.
    kind: str
    #: What is locked, below the volume.
    path: str | None = None


@dataclass(frozen=True, kw_only=True)
class SnapshotFacts:
    """What the storage really holds of one snapshot. Sizes are bytes."""

    id: str | None
    name: str
    size_bytes: int
    used_bytes: int
    #: Grows with each snapshot of the volume, as the storage has them; 0: it does not say.
    order: int = 0
    #: The storage takes it and deletes it by itself: nobody counts on it.
    passing: bool = field(default=False, compare=False)
    #: As of volumes (`VolumeFacts`).
    links: int | None = field(default=None, compare=False)
    owner: str | None = field(default=None, compare=False)
    written_at: float | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Contents:
    """What a volume, a snapshot or an image holds, to be read once, from the beginning on."""

    #: None where only the end tells.
    size_bytes: int | None
    #: (offset, bytes) in the order of the offsets; what lies between is zeroes.
    parts: Iterator[tuple[int, bytes]]


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """Room of a backend, in bytes. Sizes of volumes are multiples of ``grain``."""

    #: None where the storage cannot tell.
    total_bytes: int | None
    free_bytes: int | None
    grain_bytes: int


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Something that could serve a backend: of `extstorage`, a provider."""

    name: str
    path: str
    #: Why it cannot, a sentence each; none if it can.
    faults: tuple[str, ...]
    #: What volumes may have values of their own for, and what they mean.
    parameters: Mapping[str, str]
    #: Where another of its name is that is found before, and so used instead.
    hidden_by: str | None = None
