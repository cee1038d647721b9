"""The core of a driver: what every kind of storage can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar, TypeVar

from orchestrator.domain.drivers import DriverOptions
from orchestrator.domain.errors import Unsupported
from workers.backends.base.abilities import Ability
from workers.backends.base.call import Call
from workers.backends.base.facts import (
    Absent,
    Capacity,
    Device,
    Look,
    NotOurs,
    Removed,
    SnapshotFacts,
    VolumeFacts,
)
from workers.backends.base.references import SnapshotRef, VolumeRef

A = TypeVar("A", bound=Ability)

#: The capabilities of every driver.
_CORE = frozenset({"create", "inspect", "remove"})


class Driver(ABC):
    """One configured storage system. Instances are shared by the threads of a worker."""

    #: What this kind of storage cannot tell, so that only the inventory knows: ``identity`` (it
    #: can bear no marker), ``capacity``, ``volumes`` (which there are), ``metadata``; and
    #: ``absence``: that a volume is not there can never be proved.
    cannot_tell: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, backend: str, options: DriverOptions, installation: str) -> None:
        """Remember the configuration; touch nothing yet.

        ``installation`` is the id of the database this worker belongs to; storage that is
        private to one installation (RAM) is named after it.
        """
        self.backend = backend
        self.installation = installation

    # -- the system as a whole ------------------------------------------------------------

    @classmethod
    def declared(cls) -> frozenset[str]:
        """The capabilities of this kind of storage: those of the abilities it inherits."""
        inherited = (vars(base).get("capability") for base in cls.__mro__)
        return _CORE | ({"absence"} - cls.cannot_tell) | set(filter(None, inherited))

    def capabilities(self) -> frozenset[str]:
        """What can be done here and now."""
        return self.declared() - self.lacking()

    def lacking(self) -> frozenset[str]:
        """The capabilities that this host, or this very storage, does not have."""
        return frozenset()

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

    @abstractmethod
    def capacity(self) -> Capacity:
        """Room in all, room that is left, and the grain of sizes."""

    def parameters(self) -> Mapping[str, str]:
        """What volumes may have values of their own for: names, and what they mean."""
        return {}

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

    def list_snapshots(self, volume: VolumeRef) -> list[SnapshotFacts]:
        """The volume's snapshots, oldest first."""
        return []

    def inspect_snapshot(self, snapshot: SnapshotRef) -> SnapshotFacts | Absent | NotOurs:
        """What there is of the snapshot with this id, as `inspect` of a volume."""
        listed = self.list_snapshots(snapshot.volume)
        for one in listed:
            if one.id == snapshot.id:
                return one
        if any(one.name == snapshot.name for one in listed):
            return NotOurs(f"another snapshot {snapshot.name}")
        return Absent()

    @abstractmethod
    def devices(self, volume: VolumeRef) -> list[Device]:
        """Where the volume is in use on this host, whoever attached it."""

    # -- making and removing --------------------------------------------------------------

    @abstractmethod
    def create(
        self, volume: VolumeRef, size_bytes: int, metadata: Mapping[str, str], call: Call
    ) -> VolumeFacts:
        """Make an empty volume that reads as zeroes; its size rounded up to the grain."""

    @abstractmethod
    def discard(self, made: VolumeRef | SnapshotRef, call: Call) -> None:
        """Take away what an unfinished create, clone or snapshot with this id left.

        Published or not; only what bears this very id; nothing else is ever touched.
        """

    @abstractmethod
    def remove(self, volume: VolumeRef, call: Call, *, wipe: bool = False) -> Removed:
        """Remove the volume with this id; nothing if it is gone.

        With ``wipe`` its contents are overwritten first; what cannot be wiped is not removed.
        `InUse` while attached on this host, recorded or not, or while it has snapshots.
        """

    # -- changing -------------------------------------------------------------------------

    def restrict(self, volume: VolumeRef, call: Call) -> None:  # noqa: B027 - for those that want it
        """Keep clients from the volume and its data, which stays; done already is fine."""

    def unrestrict(self, volume: VolumeRef, call: Call) -> None:  # noqa: B027 - for those that want it
        """Let clients have it again."""

    @abstractmethod
    def fence_off(self, changed: VolumeRef | SnapshotRef, call: Call) -> None:
        """Refuse from now on what earlier claims still do to this object, if it is there.

        Nothing of it changes. `BackendBusy` while an earlier call is in the middle of it.
        """

    def withdraw(self, volume: VolumeRef, call: Call) -> None:  # noqa: B027 - for those that prepare
        """Take away what this job had prepared on the storage for a change that did not happen."""


def driver_that(driver: Driver, ability: type[A]) -> A:
    """The driver as one that has an ability. Raises `Unsupported` if it has not."""
    able: object = driver
    if isinstance(able, ability):
        return able
    raise Unsupported(f"backend {driver.backend} lacks the capability {ability.capability}")
