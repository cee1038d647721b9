"""The `extstorage` driver: volumes of a provider's scripts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager

from orchestrator.domain.drivers import DriverOptions
from orchestrator.domain.errors import Unsupported
from orchestrator.domain.names import check_volume_name
from workers.backends.base.abilities import (
    CanAttach,
    CanClone,
    CanDiagnose,
    CanExport,
    CanGrow,
    CanImport,
    CanOpen,
    CanSetMetadata,
    CanWipe,
)
from workers.backends.base.call import Call
from workers.backends.base.driver import Driver
from workers.backends.base.facts import (
    Candidate,
    Capacity,
    Contents,
    Device,
    Look,
    Removed,
    VolumeFacts,
)
from workers.backends.base.references import SnapshotRef, VolumeRef, check_id
from workers.backends.extstorage.asking import Asking
from workers.backends.extstorage.attaching import Attaching, facts
from workers.backends.extstorage.making import GRAIN, Making
from workers.backends.extstorage.notes import Notes
from workers.backends.extstorage.provider import diagnose
from workers.backends.extstorage.removing import Removing
from workers.backends.extstorage.running import Run
from workers.backends.extstorage.spec import ExtStorageOptions
from workers.backends.extstorage.writing import Writing

#: What the text kept with a volume may have (Ganeti: VOL_METADATA), and how long it may be.
_NOT_IN_TEXT = re.compile(r"[^-A-Za-z0-9_+.]", re.ASCII)
_LONGEST_TEXT = 128
#: The entry of a volume's metadata that the provider is told.
_INFO = "info"

#: What stands for the backend as a whole where an id is needed.
_NO_VOLUME = "0" * 32


class ExtStorageDriver(
    Driver,
    CanAttach,
    CanClone,
    CanDiagnose,
    CanExport,
    CanGrow,
    CanImport,
    CanOpen,
    CanSetMetadata,
    CanWipe,
):
    """Volumes of a provider of Ganeti's External Storage interface.

    A provider knows a volume by its immutable id (``VOL_NAME``): what is done late to an old
    id never meets a newer volume of the same name. ``VOL_CNAME`` is the volume's name. What
    a provider cannot tell comes from the inventory: which volumes there are, their metadata,
    and the size of those that have no block device. That one is there is known by attaching
    it. That attach fails, or names a device that is not there, proves nothing, so that none is
    ever called absent.

    A provider can bear no stamp. What a job has begun to make from nothing is known by a note on
    the host, written before the script begins; it is taken away again for that job alone, on
    that host alone. Where ``create`` or ``snapshot`` has ended with an error, as it does for what
    is there already, nothing is ever taken away, but by a removal that somebody asks for. A
    device is wiped, written and read for a copy while the kernel keeps others from it, and it is
    detached or removed only if nobody used it directly before.

    A late call is made harmless so. Each script runs in a process group of its own, which
    the next claim of the volume on the same host kills before it runs anything; and a claim
    is refused once a later one has run a script for the volume there. What it cannot fence:
    scripts of a worker that was cut off, on another host, until they have ended. A provider has
    no place for a lease either, and a lease on one host would say nothing of the others: of two
    lives of one database each is refused only what the other has begun on the same host.
    """

    cannot_tell = frozenset({"identity", "capacity", "volumes", "metadata", "absence"})

    def __init__(self, backend: str, options: DriverOptions, installation: str) -> None:
        super().__init__(backend, options, installation)
        if not isinstance(options, ExtStorageOptions):
            raise TypeError(f"extstorage takes ExtStorageOptions, not {type(options).__name__}")
        self._options = options
        room = options.path / backend
        self._notes = Notes(room)
        self._asking = Asking(options, room)
        self._attaching = Attaching(self._asking, room)
        self._writing = Writing(options, self._asking, self._attaching)
        self._removing = Removing(self._asking, self._attaching, self._writing, self._notes)
        self._making = Making(
            options, self._asking, self._attaching, self._writing, self._removing, self._notes
        )

    # -- the system as a whole ------------------------------------------------------------

    def lacking(self) -> frozenset[str]:
        provider = self._asking.provider()
        return frozenset(
            capability
            for capability, scripts in (("clone", {"snapshot"}), ("open", {"open", "close"}))
            if not scripts <= provider.scripts
        )

    def read_identity(self) -> str | None:
        self._asking.provider()
        return None

    def write_identity(self, identity: str, *, replace: bool = False) -> None:
        raise Unsupported("a provider has no place for an identity marker")

    def capacity(self) -> Capacity:
        self._asking.provider()
        self._asking.scripts.forget_logs(self._options.log_days)
        self._notes.forget_removed(self._options.log_days)
        return Capacity(total_bytes=None, free_bytes=None, grain_bytes=GRAIN)

    def parameters(self) -> dict[str, str]:
        return self._asking.provider().parameters

    def diagnose(self) -> list[Candidate]:
        used: dict[str, str] = {}
        candidates = []
        for found in diagnose(self._options.search_path):
            path = str(found.directory)
            # As `find` goes: what is no directory hides nothing.
            first = used.setdefault(found.name, path) if found.directory.is_dir() else path
            candidates.append(
                Candidate(
                    name=found.name,
                    path=path,
                    faults=found.faults,
                    parameters=found.parameters,
                    hidden_by=None if first == path else first,
                )
            )
        return candidates

    def check(self, call: Call) -> None:
        """Let the provider's own ``verify`` look at the names of the parameters."""
        call.checkpoint()
        names = tuple(sorted(self._options.parameters))
        run = Run(
            script=self._asking.provider().directory / "verify",
            object_id=_NO_VOLUME,
            environment=self._asking.environment({}),
            arguments=names,
        )
        self._asking.scripts.run(run, None)

    # -- reading --------------------------------------------------------------------------

    def list_volumes(self) -> Iterator[VolumeFacts]:
        raise Unsupported("a provider cannot tell which volumes it has")

    def inspect(self, volume: VolumeRef) -> Look:
        _checked(volume)
        with self._attaching.needed(volume, None) as device:
            return facts(volume, device)

    def contents(self, of: VolumeRef | SnapshotRef, call: Call) -> AbstractContextManager[Contents]:
        if isinstance(of, SnapshotRef):
            raise Unsupported("what a provider snapshots is a volume of its own: read that")
        return self._writing.contents(_checked(of), call)

    def devices(self, volume: VolumeRef) -> list[Device]:
        check_id(volume.id)
        return self._attaching.devices(volume)

    # -- making ---------------------------------------------------------------------------

    def create(
        self, volume: VolumeRef, size_bytes: int, metadata: Mapping[str, str], call: Call
    ) -> VolumeFacts:
        return self._making.create(_checked(volume), size_bytes, call)

    def load(
        self,
        volume: VolumeRef,
        size_bytes: int,
        metadata: Mapping[str, str],
        contents: Contents,
        call: Call,
    ) -> VolumeFacts:
        return self._making.load(_checked(volume), size_bytes, contents, call)

    def clone(
        self,
        volume: VolumeRef,
        source: VolumeRef | SnapshotRef,
        size_bytes: int,
        metadata: Mapping[str, str],
        call: Call,
    ) -> VolumeFacts:
        if isinstance(source, SnapshotRef):
            raise Unsupported("what a provider snapshots is a volume of its own: clone that")
        return self._making.clone(_checked(volume), _checked(source), size_bytes, call)

    def discard(self, made: VolumeRef | SnapshotRef, call: Call) -> None:
        if isinstance(made, VolumeRef):
            self._removing.discard(_checked(made), call)

    # -- changing -------------------------------------------------------------------------

    def grow(self, volume: VolumeRef, size_bytes: int, call: Call) -> VolumeFacts:
        return self._making.grow(_checked(volume), size_bytes, call)

    def set_metadata(
        self, volume: VolumeRef, metadata: Mapping[str, str], call: Call
    ) -> VolumeFacts:
        _checked(volume)
        text = _NOT_IN_TEXT.sub("_", metadata.get(_INFO, ""))[:_LONGEST_TEXT]
        with self._attaching.needed(volume, call) as device:
            self._asking.run("setinfo", volume, {"VOL_METADATA": text}, call)
            return facts(volume, device)

    def wipe(
        self, volume: VolumeRef, call: Call, *, offset: int = 0, length: int | None = None
    ) -> VolumeFacts:
        _checked(volume)
        self._attaching.refuse_attached(volume)
        with self._attaching.needed(volume, call) as device:
            self._writing.overwrite(volume, device, call, offset, length)
            return facts(volume, device)

    def fence_off(self, changed: VolumeRef | SnapshotRef, call: Call) -> None:
        with self._asking.scripts.claimed(check_id(changed.id), call):
            pass

    # -- removing -------------------------------------------------------------------------

    def remove(self, volume: VolumeRef, call: Call, *, wipe: bool = False) -> Removed:
        return self._removing.remove(_checked(volume), call, wipe=wipe)

    # -- using ----------------------------------------------------------------------------

    def attach(self, volume: VolumeRef, call: Call) -> Device:
        return self._attaching.attach(_checked(volume), call)

    def detach(self, volume: VolumeRef, call: Call) -> None:
        self._attaching.let_go(_checked(volume), call)

    def open(self, volume: VolumeRef, call: Call, *, exclusive: bool) -> None:
        _checked(volume)
        told = {"VOL_OPEN_EXCLUSIVE": str(exclusive)}
        self._asking.run("open", volume, told, call)

    def close(self, volume: VolumeRef, call: Call) -> None:
        _checked(volume)
        self._asking.run("close", volume, {}, call)


def _checked(volume: VolumeRef) -> VolumeRef:
    """The volume, if it is named as volumes are."""
    check_id(volume.id)
    check_volume_name(volume.name)
    return volume
