"""What only some kinds of storage can do.

Each class is one ability: its methods, and the capability that a driver has by inheriting it.
The names of capabilities are public: actions ask for them, and the API lists them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from orchestrator.domain.exports import Rule
from workers.backends.base.call import Call
from workers.backends.base.facts import (
    Candidate,
    ClientLock,
    Contents,
    Device,
    PolicyFacts,
    SnapshotFacts,
    VolumeFacts,
)
from workers.backends.base.references import PolicyRef, SnapshotRef, VolumeRef


class Ability(ABC):  # noqa: B024 - the methods are those of its subclasses
    """What a driver may inherit beside `Driver`."""

    #: None: the engine alone asks for it, no action does.
    capability: ClassVar[str | None] = None


# -- contents -----------------------------------------------------------------------------


class CanImport(Ability):
    """Makes volumes with contents that come from elsewhere."""

    capability = "import"

    @abstractmethod
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
        again each time. `InvalidSize` if they are larger.
        """


class CanExport(Ability):
    """Lets the contents of volumes be read."""

    capability = "export"

    @abstractmethod
    def contents(self, of: VolumeRef | SnapshotRef, call: Call) -> AbstractContextManager[Contents]:
        """What is in it, as it is at one moment. `InUse` where that cannot be had."""


class CanClone(Ability):
    """Makes volumes of volumes or snapshots on the same backend."""

    capability = "clone"

    @abstractmethod
    def clone(
        self,
        volume: VolumeRef,
        source: VolumeRef | SnapshotRef,
        size_bytes: int,
        metadata: Mapping[str, str],
        call: Call,
    ) -> VolumeFacts:
        """Make a volume with the contents of ``source``, independent of it afterwards."""


class CanWipe(Ability):
    """Overwrites contents."""

    capability = "wipe"

    @abstractmethod
    def wipe(
        self, volume: VolumeRef, call: Call, *, offset: int = 0, length: int | None = None
    ) -> VolumeFacts:
        """Overwrite ``length`` bytes from ``offset`` on with zeroes; up to the end if None.

        They are on the disk when this returns. `InUse` while attached on this host.
        """


class CanTrim(Ability):
    """Gives blocks back that hold only zeroes."""

    capability = "trim"

    @abstractmethod
    def trim(self, volume: VolumeRef, call: Call) -> VolumeFacts:
        """Give them back; the contents read the same. `InUse` while others could write to it."""


# -- snapshots ----------------------------------------------------------------------------


class CanSnapshot(Ability):
    """Takes snapshots of volumes."""

    capability = "snapshot"

    @abstractmethod
    def create_snapshot(self, snapshot: SnapshotRef, call: Call) -> SnapshotFacts:
        """Preserve the present contents. `InUse` where they cannot be read in one piece."""

    @abstractmethod
    def delete_snapshot(self, snapshot: SnapshotRef, call: Call) -> None:
        """Delete the snapshot with this id; nothing if it is gone."""

    def list_strays(self) -> Iterator[tuple[str, SnapshotFacts]]:
        """The snapshots whose volume is not there, each with that volume's id."""
        return iter(())


class CanRollBack(Ability):
    """Puts volumes back to their snapshots."""

    capability = "rollback"

    @abstractmethod
    def rollback(self, volume: VolumeRef, snapshot: SnapshotRef, call: Call) -> VolumeFacts:
        """Put the volume's contents back to the snapshot's, in one atomic step.

        Afterwards ``inspect(volume).restored_by`` is ``call.token``: that proves it was
        done, and a second call with the same job then changes nothing. The size becomes
        the snapshot's. `InUse` while the volume is attached on this host.
        """


# -- changing -----------------------------------------------------------------------------


class CanGrow(Ability):
    """Makes volumes larger."""

    capability = "grow"

    @abstractmethod
    def grow(self, volume: VolumeRef, size_bytes: int, call: Call) -> VolumeFacts:
        """Make the volume at least this large, and its devices on this host too.

        Never shrinks, however late it is called.
        """


class CanSetMetadata(Ability):
    """Changes the metadata of volumes."""

    capability = "metadata"

    @abstractmethod
    def set_metadata(
        self, volume: VolumeRef, metadata: Mapping[str, str], call: Call
    ) -> VolumeFacts:
        """Replace the metadata stored with the volume by this."""


class CanRename(Ability):
    """Gives volumes other names."""

    capability = "rename"

    @abstractmethod
    def rename(self, volume: VolumeRef, new_name: str, call: Call) -> VolumeFacts:
        """Give the volume with this id another name; never overwrites (`Conflict`)."""


class CanConfigure(Ability):
    """Has settings of volumes of its own: those that the driver's spec names."""

    @abstractmethod
    def configure(self, volume: VolumeRef, settings: Mapping[str, Any], call: Call) -> VolumeFacts:
        """Change these settings of the volume, and no others."""


class CanAdopt(Ability):
    """Makes volumes of ours of what is there."""

    capability = "adopt"

    @abstractmethod
    def adopt(self, volume: VolumeRef, call: Call, *, instead_of: str | None = None) -> VolumeFacts:
        """Stamp what is there under this name and bears no stamp, and its snapshots, too.

        Their ids are made with `adopted_id`. Nothing else of it changes. What bears this very
        stamp is adopted already. If it bears another one than ``instead_of``, `Conflict` names
        it as the fact ``stamp``.
        """


# -- using --------------------------------------------------------------------------------


class CanAttach(Ability):
    """Makes volumes usable on hosts."""

    capability = "attach"

    @abstractmethod
    def attach(self, volume: VolumeRef, call: Call) -> Device:
        """Make the volume usable on this host; the device it already has, if it has one.

        What is returned was verified on this host just now.
        """

    @abstractmethod
    def detach(self, volume: VolumeRef, call: Call) -> None:
        """Take the volume away from this host; nothing if it is not attached.

        `InUse` while somebody holds the device open.
        """


class CanAttachReadOnly(CanAttach):
    """Can also see to it that the host only reads."""

    capability = "attach_read_only"

    @abstractmethod
    def attach(self, volume: VolumeRef, call: Call, *, read_only: bool = False) -> Device:
        """The same, for reading alone where ``read_only``."""


class CanOpen(Ability):
    """Lets it be recorded how a host uses what is attached; for storage that wants to know."""

    capability = "open"

    def open(self, volume: VolumeRef, call: Call, *, exclusive: bool) -> None:
        """Let this host use the volume that is attached."""

    def close(self, volume: VolumeRef, call: Call) -> None:
        """End that use."""


class CanListClientLocks(Ability):
    """Knows the locks of its clients."""

    capability = "client_locks"

    @abstractmethod
    def client_locks(self, volume: VolumeRef) -> list[ClientLock]:
        """The locks that the storage has given clients on what is in the volume."""


class CanExportByPolicy(Ability):
    """Has export policies.

    A policy is made in two calls, so that it is published in one step and is known for ours
    whatever its storage can stamp: what `build_policy` answers is written down before
    `publish_policy` is called with it as ``native``.
    """

    capability = "policy"

    @abstractmethod
    def list_policies(self) -> Iterator[PolicyFacts]:
        """Every published policy, ours or not."""

    @abstractmethod
    def inspect_policy(self, policy: PolicyRef) -> PolicyFacts | None:
        """What there is of the policy, published or not; None if nothing."""

    @abstractmethod
    def build_policy(self, policy: PolicyRef, rules: Sequence[Rule], call: Call) -> str | None:
        """Make a policy under a name that nobody uses; the key of it, which never changes."""

    @abstractmethod
    def publish_policy(self, policy: PolicyRef, call: Call) -> PolicyFacts:
        """Give what was built its name; never overwrites (`AlreadyExists`)."""

    @abstractmethod
    def discard_policy(self, policy: PolicyRef, call: Call) -> None:
        """Take away what `build_policy` left for this id; nothing that was published."""

    @abstractmethod
    def set_rules(self, policy: PolicyRef, rules: Sequence[Rule], call: Call) -> PolicyFacts:
        """Replace the policy's rules by these, in their order; `UnknownPolicy` if it is gone.

        Where this takes several steps, no client is admitted in between that neither the old
        rules nor the new ones admit.
        """

    @abstractmethod
    def remove_policy(self, policy: PolicyRef, call: Call) -> None:
        """Remove it; nothing if it is gone; `InUse` while a volume has it."""

    @abstractmethod
    def assign_policy(self, volume: VolumeRef, policy: PolicyRef | None, call: Call) -> VolumeFacts:
        """Give the volume this policy, or none; `UnknownPolicy` if it is not there."""


# -- the system as a whole ----------------------------------------------------------------


class CanHoldLease(Ability):
    """Has room for the lease of whoever writes to it."""

    @abstractmethod
    def read_lease(self) -> bytes | None:
        """What the one who writes to this storage has left on it; None: nothing."""

    @abstractmethod
    def write_lease(self, new: bytes, expected: bytes | None) -> None:
        """Replace what `read_lease` answers, durably, if it still is ``expected``.

        Compared and replaced in one step for whoever writes to this storage, on any host;
        what is ``new`` already is left. Raises `IdentityMismatch` if it is anything else.
        """


class CanDiagnose(Ability):
    """Can show what could serve a backend on this host."""

    capability = "diagnose"

    @abstractmethod
    def diagnose(self) -> list[Candidate]:
        """Whatever could serve this backend, on this host, and what is wrong with it."""
