"""The driver interface: what every kind of storage must be able to answer and do.

A driver knows its storage system and `orchestrator.domain`, nothing else: no jobs, no
database, no queue. Calls block. Each changing call is idempotent: creating what exists as
asked and bears our stamp succeeds, removing what is gone succeeds, and what differs from
what was asked raises `Conflict`. Every object is stamped with the immutable id the
inventory gave it, and calls act on that id: a name is only what people see.

A changing call receives a `Call`. Drivers call ``call.checkpoint()`` between their own
steps and while copying, directly before each irreversible step above all; it raises when
the worker has lost its lease, when the time is over, or when the job was canceled and
stopping is still safe. An exception from it leaves only unpublished objects behind, which
`discard` or the next attempt takes away.

Errors raised are those of `orchestrator.domain.errors`: `Outage` means that nothing of the
backend can be reached, and its jobs wait; `BackendUnavailable`, `BackendBusy` and `TimedOut`
are tried again; `StillWorking` means that the storage goes on by
itself, and the same call will be made again; `NoSpace`, `Conflict`, `InUse`, `NotFound`,
`IdentityMismatch`, `BackendError` are not.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from orchestrator.domain.drivers import DriverOptions
from orchestrator.domain.errors import Conflict, InvalidInput, UnknownVolume, Unsupported
from orchestrator.domain.exports import Rule

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
    #: Its settings (`orchestrator.domain.actions.VolumeSettings`): what is made is to have them,
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


class Call(Protocol):
    """What a driver may know of the work it is part of."""

    @property
    def job_id(self) -> int:
        """The job on whose behalf this is done."""

    @property
    def token(self) -> str:
        """The job, as no other database and no other life of this one names any of its own.

        Proofs on the storage are bound to this: letters, digits and underscores.
        """

    @property
    def fence(self) -> int:
        """Grows with every claim of any job: of two callers the larger one is later."""

    @property
    def alone(self) -> bool:
        """Whether it is known that no other host has done anything for this job."""

    def checkpoint(self) -> None:
        """Raise if the work must stop here."""

    def progress(self, done: int, total: int, unit: str = "bytes") -> None:
        """Tell how far a long call has come; cheap enough to be called for each chunk."""

    def seconds_left(self) -> float:
        """Time until the deadline, for the timeouts of what the driver itself calls."""


class Driver(ABC):
    """One configured storage system. Instances are shared by the threads of a worker."""

    #: What this kind of storage cannot tell, so that only the inventory knows: ``identity`` (it
    #: can bear no marker), ``capacity``, ``volumes`` (which there are), ``metadata``.
    cannot_tell: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, backend: str, options: DriverOptions, installation: str) -> None:
        """Remember the configuration; touch nothing yet.

        ``installation`` is the id of the database this worker belongs to; storage that is
        private to one installation (RAM) is named after it.
        """
        self.backend = backend
        self.installation = installation

    # -- the system as a whole ------------------------------------------------------------

    @abstractmethod
    def capabilities(self) -> frozenset[str]:
        """What can be done here and now: the driver's own, less what this host lacks."""

    @abstractmethod
    def read_identity(self) -> str | None:
        """The identity marker, or None if the storage bears none.

        Raises `BackendUnavailable` if the storage is not there at all, and `IdentityMismatch`
        if it is seen to be a copy of the storage that the marker was written on.
        """

    @abstractmethod
    def write_identity(self, identity: str, *, replace: bool = False) -> None:
        """Write the marker where there is none; `Conflict` if there is another one.

        With ``replace`` a marker that is there is overwritten, also that of a copy.
        """

    def read_lease(self) -> bytes | None:
        """What the one who writes to this storage has left on it; None: nothing, or no room."""
        return None

    def write_lease(self, new: bytes, expected: bytes | None) -> None:  # noqa: B027 - for those that can
        """Replace what `read_lease` answers, durably, if it still is ``expected``.

        Compared and replaced in one step for whoever writes to this storage, on any host;
        what is ``new`` already is left. Raises `IdentityMismatch` if it is anything else.
        """

    @abstractmethod
    def capacity(self) -> Capacity:
        """Room in all, room that is left, and the grain of sizes."""

    def parameters(self) -> Mapping[str, str]:
        """What volumes may have values of their own for: names, and what they mean."""
        return {}

    def diagnose(self) -> list[Candidate]:
        """Whatever could serve this backend, on this host, and what is wrong with it."""
        raise Unsupported(f"backend {self.backend} has nothing to choose from")

    def check(self, call: Call) -> None:  # noqa: B027 - for those that want it
        """Let the storage check its configuration, where it has a way to do that."""

    # -- reading --------------------------------------------------------------------------

    @abstractmethod
    def list_volumes(self) -> Iterator[VolumeFacts]:
        """Everything that looks like a volume, ours or not, in bounded memory."""

    @abstractmethod
    def inspect(self, volume: VolumeRef) -> Look:
        """What there is of the volume with this id, under whatever name.

        Raises what kept the driver from seeing it: `AccessDenied`, `BackendUnavailable` …
        """

    @abstractmethod
    def list_snapshots(self, volume: VolumeRef) -> list[SnapshotFacts]:
        """The volume's snapshots, oldest first."""

    def inspect_snapshot(self, snapshot: SnapshotRef) -> SnapshotFacts | Absent | NotOurs:
        """What there is of the snapshot with this id, as `inspect` of a volume."""
        listed = self.list_snapshots(snapshot.volume)
        for one in listed:
            if one.id == snapshot.id:
                return one
        if any(one.name == snapshot.name for one in listed):
            return NotOurs(f"another snapshot {snapshot.name}")
        return Absent()

    def contents(self, of: VolumeRef | SnapshotRef, call: Call) -> AbstractContextManager[Contents]:
        """What is in it, as it is at one moment. `InUse` where that cannot be had."""
        raise Unsupported(f"backend {self.backend} cannot read its volumes")

    def list_strays(self) -> Iterator[tuple[str, SnapshotFacts]]:
        """The snapshots whose volume is not there, each with that volume's id."""
        return iter(())

    @abstractmethod
    def devices(self, volume: VolumeRef) -> list[Device]:
        """Where the volume is in use on this host, whoever attached it."""

    def client_locks(self, volume: VolumeRef) -> list[ClientLock]:
        """The locks that the storage has given clients on what is in the volume."""
        raise Unsupported(f"backend {self.backend} knows of no locks of its clients")

    # -- making ---------------------------------------------------------------------------

    @abstractmethod
    def create(
        self, volume: VolumeRef, size_bytes: int, metadata: Mapping[str, str], call: Call
    ) -> VolumeFacts:
        """Make an empty volume that reads as zeroes; its size rounded up to the grain."""

    def load(
        self,
        volume: VolumeRef,
        size_bytes: int,
        metadata: Mapping[str, str],
        contents: Contents,
        call: Call,
    ) -> VolumeFacts:
        """Make a volume with these contents, zeroes behind them.

        It is published once all of them are on the disk; storage that cannot publish makes it
        anew each time. `InvalidSize` if they are larger.
        """
        raise Unsupported(f"backend {self.backend} cannot fill volumes")

    def adopt(self, volume: VolumeRef, call: Call, *, instead_of: str | None = None) -> VolumeFacts:
        """Stamp what is there under this name and bears no stamp, and its snapshots, too.

        Their ids are made with `adopted_id`. Nothing else of it changes. What bears this very
        stamp is adopted already. If it bears another one than ``instead_of``, `Conflict` tells
        it as the fact ``stamp``.
        """
        raise Unsupported(f"backend {self.backend} cannot adopt volumes")

    def clone(
        self,
        volume: VolumeRef,
        source: VolumeRef | SnapshotRef,
        size_bytes: int,
        metadata: Mapping[str, str],
        call: Call,
    ) -> VolumeFacts:
        """Make a volume with the contents of ``source``, independent of it afterwards."""
        raise Unsupported(f"backend {self.backend} cannot clone")

    def create_snapshot(self, snapshot: SnapshotRef, call: Call) -> SnapshotFacts:
        """Keep the present contents. `InUse` where they cannot be read in one piece."""
        raise Unsupported(f"backend {self.backend} cannot take snapshots")

    @abstractmethod
    def discard(self, made: VolumeRef | SnapshotRef, call: Call) -> None:
        """Take away what an unfinished create, clone or snapshot with this id left.

        Published or not; only what bears this very id; nothing else is ever touched.
        """

    # -- changing -------------------------------------------------------------------------

    def grow(self, volume: VolumeRef, size_bytes: int, call: Call) -> VolumeFacts:
        """Make the volume at least this large, and its devices on this host too.

        Never shrinks, however late it is called.
        """
        raise Unsupported(f"backend {self.backend} cannot grow volumes")

    def set_metadata(
        self, volume: VolumeRef, metadata: Mapping[str, str], call: Call
    ) -> VolumeFacts:
        """Replace the metadata kept with the volume by this."""
        raise Unsupported(f"backend {self.backend} keeps no metadata")

    def configure(self, volume: VolumeRef, settings: Mapping[str, Any], call: Call) -> VolumeFacts:
        """Change these settings of the volume, and no others."""
        raise Unsupported(f"backend {self.backend} has no settings of its own for volumes")

    def restrict(self, volume: VolumeRef, call: Call) -> None:  # noqa: B027 - for those that want it
        """Keep clients from the volume and its data, which stays; done already is fine."""

    def unrestrict(self, volume: VolumeRef, call: Call) -> None:  # noqa: B027 - for those that want it
        """Let clients have it again."""

    def rename(self, volume: VolumeRef, new_name: str, call: Call) -> VolumeFacts:
        """Give the volume with this id another name; never overwrites (`Conflict`)."""
        raise Unsupported(f"backend {self.backend} cannot rename volumes")

    def rollback(self, volume: VolumeRef, snapshot: SnapshotRef, call: Call) -> VolumeFacts:
        """Put the volume's contents back to the snapshot's, in one atomic step.

        Afterwards ``inspect(volume).restored_by`` is ``call.token``: that proves it was
        done, and a second call with the same job then changes nothing. The size becomes
        the snapshot's. `InUse` while the volume is attached on this host.
        """
        raise Unsupported(f"backend {self.backend} cannot roll back")

    def wipe(
        self, volume: VolumeRef, call: Call, *, offset: int = 0, length: int | None = None
    ) -> VolumeFacts:
        """Overwrite ``length`` bytes from ``offset`` on with zeroes; up to the end if None.

        They are on the disk when this returns. `InUse` while attached on this host.
        """
        raise Unsupported(f"backend {self.backend} cannot wipe")

    @abstractmethod
    def fence_off(self, changed: VolumeRef | SnapshotRef, call: Call) -> None:
        """Refuse from now on what earlier claims still do to this object, if it is there.

        Nothing of it changes. `BackendBusy` while an earlier call is in the middle of it.
        """

    def withdraw(self, volume: VolumeRef, call: Call) -> None:  # noqa: B027 - for those that prepare
        """Take away what this job had prepared on the storage for a change that did not happen."""

    # -- removing -------------------------------------------------------------------------

    @abstractmethod
    def remove(self, volume: VolumeRef, call: Call, *, wipe: bool = False) -> Removed:
        """Remove the volume with this id; nothing if it is gone.

        With ``wipe`` its contents are overwritten first; what cannot be wiped is not removed.
        `InUse` while attached on this host, recorded or not, or while it has snapshots.
        """

    def delete_snapshot(self, snapshot: SnapshotRef, call: Call) -> None:
        """Delete the snapshot with this id; nothing if it is gone."""
        raise Unsupported(f"backend {self.backend} cannot take snapshots")

    # -- using ----------------------------------------------------------------------------

    def attach(self, volume: VolumeRef, call: Call, *, read_only: bool = False) -> Device:
        """Make the volume usable on this host; the device it already has, if it has one.

        What is returned was verified on this host just now.
        """
        raise Unsupported(f"backend {self.backend} cannot attach volumes")

    def detach(self, volume: VolumeRef, call: Call) -> None:
        """Take the volume away from this host; nothing if it is not attached.

        `InUse` while somebody holds the device open.
        """
        raise Unsupported(f"backend {self.backend} cannot attach volumes")

    def open(self, volume: VolumeRef, call: Call, *, exclusive: bool) -> None:  # noqa: B027 - for those that want it
        """Let this host use the volume that is attached; for storage that wants to know."""

    def close(self, volume: VolumeRef, call: Call) -> None:  # noqa: B027 - for those that want it
        """End that use."""

    # -- export policies: needed with the capability "policy" --------------------------------
    #
    # A policy is made in two calls, so that it is published in one step and is known for ours
    # whatever its storage can stamp: what `build_policy` answers is written down before
    # `publish_policy` is called with it as ``native``.

    def list_policies(self) -> Iterator[PolicyFacts]:
        """Every published policy, ours or not."""
        raise self._no_policies()

    def inspect_policy(self, policy: PolicyRef) -> PolicyFacts | None:
        """What there is of the policy, published or not; None if nothing."""
        raise self._no_policies()

    def build_policy(self, policy: PolicyRef, rules: Sequence[Rule], call: Call) -> str | None:
        """Make a policy under a name that nobody uses; the key of it, which never changes."""
        raise self._no_policies()

    def publish_policy(self, policy: PolicyRef, call: Call) -> PolicyFacts:
        """Give what was built its name; never overwrites (`AlreadyExists`)."""
        raise self._no_policies()

    def discard_policy(self, policy: PolicyRef, call: Call) -> None:
        """Take away what `build_policy` left for this id; nothing that was published."""
        raise self._no_policies()

    def set_rules(self, policy: PolicyRef, rules: Sequence[Rule], call: Call) -> PolicyFacts:
        """Replace the policy's rules by these, in their order; `UnknownPolicy` if it is gone.

        Where this takes several steps, no client is admitted in between that neither the old
        rules nor the new ones admit.
        """
        raise self._no_policies()

    def remove_policy(self, policy: PolicyRef, call: Call) -> None:
        """Remove it; nothing if it is gone; `InUse` while a volume has it."""
        raise self._no_policies()

    def assign_policy(self, volume: VolumeRef, policy: PolicyRef | None, call: Call) -> VolumeFacts:
        """Give the volume this policy, or none; `UnknownPolicy` if it is not there."""
        raise self._no_policies()

    def _no_policies(self) -> Unsupported:
        return Unsupported(f"backend {self.backend} has no export policies")
