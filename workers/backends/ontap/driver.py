"""The `ontap` driver's calls, put together from volumes, snapshots and export policies."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.domain.drivers import DriverOptions
from orchestrator.domain.errors import BackendBusy, NotFound, StillWorking, Unsupported
from orchestrator.domain.exports import Rule
from orchestrator.domain.names import check_volume_name
from orchestrator.domain.sizes import round_up
from workers.backends.base.abilities import (
    CanAdopt,
    CanClone,
    CanConfigure,
    CanExportByPolicy,
    CanGrow,
    CanListClientLocks,
    CanRename,
    CanRollBack,
    CanSetMetadata,
    CanSnapshot,
)
from workers.backends.base.call import Call
from workers.backends.base.driver import Driver
from workers.backends.base.facts import (
    Absent,
    Capacity,
    ClientLock,
    Device,
    Look,
    PolicyFacts,
    Removed,
    SnapshotFacts,
    VolumeFacts,
)
from workers.backends.base.references import PolicyRef, SnapshotRef, VolumeRef, check_id
from workers.backends.ontap.facts import (
    VOLUME_FIELDS,
    is_listed,
    settings_body,
    snapshot_facts,
    volume_facts,
)
from workers.backends.ontap.filer import Filer
from workers.backends.ontap.making import LEAST, Making
from workers.backends.ontap.names import native_volume
from workers.backends.ontap.policies import Policies
from workers.backends.ontap.snapshots import Snapshots
from workers.backends.ontap.spec import OntapOptions
from workers.backends.ontap.stamps import Stamp, read_stamp
from workers.backends.ontap.volumes import VOLUMES, Record, Volumes, fenced

#: A block of WAFL.
GRAIN = 4096
#: Seconds for which the address of the SVM is believed.
_ADDRESS_HOLDS = 300.0


class OntapDriver(
    Driver,
    CanAdopt,
    CanClone,
    CanConfigure,
    CanExportByPolicy,
    CanGrow,
    CanListClientLocks,
    CanRename,
    CanRollBack,
    CanSetMetadata,
    CanSnapshot,
):
    """Volumes of one SVM of a NetApp filer, made and changed over REST, used over NFS.

    A late call is made harmless so. The stamp in a volume's comment holds the fence of the
    claim that changed it last. Before each change the volume is read, and a call with a smaller
    fence is refused with `Conflict`; the change itself writes the fence in the same request,
    and it names the filer's own uuid, never a name. Taking and deleting snapshots compare the
    fence and write none.

    What it cannot fence: the filer has no compare-and-set, so a request that is on its way
    between that look and the filer, or that the filer has accepted as a job, takes effect
    although a later claim came in between. Of a creation that leaves a volume under its
    temporary name, which an audit reports. Export policies have no place for a fence: of two
    claims that set rules at once the filer shows what came last.

    A lease of who writes here has no place: nothing on a filer that holds some hundred bytes is
    compared and replaced in one step. Two lives of one database are told apart by what they
    write into the stamps alone.
    """

    #: Comments are too short for it: the inventory keeps it.
    cannot_tell = frozenset({"metadata"})

    def __init__(self, backend: str, options: DriverOptions, installation: str) -> None:
        super().__init__(backend, options, installation)
        if not isinstance(options, OntapOptions):
            raise TypeError(f"the ontap driver takes OntapOptions, not {type(options).__name__}")
        self.options = options
        self.filer = Filer(options)
        self.volumes = Volumes(self.filer)
        self.snapshots = Snapshots(self.volumes)
        self.making = Making(self.volumes, self.snapshots)
        self.policies = Policies(self.volumes)
        self._address_lock = threading.Lock()
        self._address_seen: tuple[float, str | None] | None = None

    # -- the system as a whole ------------------------------------------------------------

    def read_identity(self) -> str | None:
        return self.policies.read_marker()

    def write_identity(self, identity: str, *, replace: bool = False) -> None:
        self.policies.write_marker(identity, replace=replace)

    def capacity(self) -> Capacity:
        room = self.making.room().values()
        return Capacity(
            total_bytes=sum(total for _, total in room),
            free_bytes=sum(free for free, _ in room),
            grain_bytes=GRAIN,
        )

    # -- reading --------------------------------------------------------------------------

    def list_volumes(self) -> Iterator[VolumeFacts]:
        nothing = True
        for record in self.filer.records(VOLUMES, VOLUME_FIELDS, **{"svm.name": self.filer.svm}):
            nothing = False
            if is_listed(record):
                yield self._facts(record)
        if nothing:
            # An SVM that is there has its root volume at least.
            self.volumes.require_svm()

    def inspect(self, volume: VolumeRef) -> Look:
        record = self.volumes.found(volume)
        if record is None:
            return Absent()
        facts, stamp = self._facts(record), read_stamp(record.get("comment"))
        if stamp and stamp.restoring and self.snapshots.is_restored(record, stamp):
            # Done by the filer; who had asked for it did not live to write that down.
            return replace(facts, restored_by=stamp.restoring)
        return facts

    def list_snapshots(self, volume: VolumeRef) -> list[SnapshotFacts]:
        record = self.volumes.found(volume)
        return (
            [] if record is None else [snapshot_facts(one) for one in self.snapshots.seen(record)]
        )

    def devices(self, volume: VolumeRef) -> list[Device]:
        return []

    def client_locks(self, volume: VolumeRef) -> list[ClientLock]:
        record = self.volumes.needed(volume)
        found = self.filer.records(
            "/protocols/locks",
            "client_address,type,path",
            **{"svm.name": self.filer.svm, "volume.uuid": record["uuid"]},
        )
        locks = (
            ClientLock(
                host=str(one["client_address"]),
                kind=str(one.get("type", "unknown")),
                path=one.get("path"),
            )
            for one in found
            if one.get("client_address")
        )
        return list(dict.fromkeys(locks))

    # -- making ---------------------------------------------------------------------------

    def create(
        self, volume: VolumeRef, size_bytes: int, metadata: Mapping[str, str], call: Call
    ) -> VolumeFacts:
        return self._facts(self.making.create(volume, _size(size_bytes), call))

    def adopt(self, volume: VolumeRef, call: Call, *, instead_of: str | None = None) -> VolumeFacts:
        check_volume_name(volume.name)
        return self._facts(self.making.adopt(volume, call, instead_of))

    def clone(
        self,
        volume: VolumeRef,
        source: VolumeRef | SnapshotRef,
        size_bytes: int,
        metadata: Mapping[str, str],
        call: Call,
    ) -> VolumeFacts:
        return self._facts(self.making.clone(volume, source, _size(size_bytes), call))

    def create_snapshot(self, snapshot: SnapshotRef, call: Call) -> SnapshotFacts:
        return snapshot_facts(self.snapshots.create(snapshot, call))

    def discard(self, made: VolumeRef | SnapshotRef, call: Call) -> None:
        if isinstance(made, SnapshotRef):
            self.snapshots.delete(made, call)
        else:
            self.making.discard(made, call)

    # -- changing -------------------------------------------------------------------------

    def grow(self, volume: VolumeRef, size_bytes: int, call: Call) -> VolumeFacts:
        size = _size(size_bytes)

        def wanted(record: Record, stamp: Stamp) -> tuple[Mapping[str, Any], Stamp]:
            return ({"size": size} if size > int(record["size"]) else {}), stamp

        return self._facts(self.volumes.change(volume, call, wanted))

    def set_metadata(
        self, volume: VolumeRef, metadata: Mapping[str, str], call: Call
    ) -> VolumeFacts:
        return self._facts(self.volumes.change(volume, call, lambda _, stamp: ({}, stamp)))

    def configure(self, volume: VolumeRef, settings: Mapping[str, Any], call: Call) -> VolumeFacts:
        def wanted(record: Record, stamp: Stamp) -> tuple[Mapping[str, Any], Stamp]:
            there = {one["name"] for one in record.get("aggregates", ())}
            if settings.get("aggregate") not in (None, *there):
                raise Unsupported(
                    f"volume {volume.name} is on {', '.join(sorted(there))}: moving it to another "
                    "aggregate is done on the filer"
                )
            return settings_body(settings, record), stamp

        return self._facts(self.volumes.change(volume, call, wanted))

    def restrict(self, volume: VolumeRef, call: Call) -> None:
        def wanted(record: Record, stamp: Stamp) -> tuple[Mapping[str, Any], Stamp]:
            if record.get("state") == "restricted":
                return {}, stamp
            # The filer unmounts it, and would not know later where it was.
            path = record.get("nas", {}).get("path") or stamp.path
            return {"state": "restricted"}, replace(stamp, path=path)

        self.volumes.change(volume, call, wanted)

    def unrestrict(self, volume: VolumeRef, call: Call) -> None:
        def online(record: Record, stamp: Stamp) -> tuple[Mapping[str, Any], Stamp]:
            return ({} if record.get("state") == "online" else {"state": "online"}), stamp

        def mounted(record: Record, stamp: Stamp) -> tuple[Mapping[str, Any], Stamp]:
            path = stamp.path or volume.settings.get("junction_path")
            if not path or record.get("nas", {}).get("path"):
                return {}, replace(stamp, path=None)
            return {"nas": {"path": path}}, replace(stamp, path=None)

        self.volumes.change(volume, call, online)
        self.volumes.change(volume, call, mounted)

    def rename(self, volume: VolumeRef, new_name: str, call: Call) -> VolumeFacts:
        native = native_volume(new_name)

        def wanted(record: Record, stamp: Stamp) -> tuple[Mapping[str, Any], Stamp]:
            return ({} if record["name"] == native else {"name": native}), stamp

        return self._facts(self.volumes.change(volume, call, wanted))

    def rollback(self, volume: VolumeRef, snapshot: SnapshotRef, call: Call) -> VolumeFacts:
        return self._facts(self.snapshots.rollback(volume, snapshot, call))

    def withdraw(self, volume: VolumeRef, call: Call) -> None:
        self.snapshots.withdraw(volume, call)

    def fence_off(self, changed: VolumeRef | SnapshotRef, call: Call) -> None:
        volume = changed.volume if isinstance(changed, SnapshotRef) else changed
        for record in self.volumes.bearing(volume.id):
            if record is None:
                continue
            stamp = fenced(record, volume.name, call)
            if stamp.fence < call.fence:
                try:
                    self.volumes.apply(record, {}, stamp, call)
                except StillWorking as working:
                    raise BackendBusy(working.detail) from None
                except NotFound:
                    pass

    # -- removing -------------------------------------------------------------------------

    def remove(self, volume: VolumeRef, call: Call, *, wipe: bool = False) -> Removed:
        if wipe:
            raise Unsupported(f"backend {self.backend} cannot wipe")
        return Removed(self.making.remove(volume, call))

    def delete_snapshot(self, snapshot: SnapshotRef, call: Call) -> None:
        self.snapshots.delete(snapshot, call)

    # -- export policies ------------------------------------------------------------------

    def list_policies(self) -> Iterator[PolicyFacts]:
        return self.policies.all()

    def inspect_policy(self, policy: PolicyRef) -> PolicyFacts | None:
        return self.policies.inspect(policy)

    def build_policy(self, policy: PolicyRef, rules: Sequence[Rule], call: Call) -> str | None:
        check_volume_name(policy.name)
        return self.policies.build(policy, rules, call)

    def publish_policy(self, policy: PolicyRef, call: Call) -> PolicyFacts:
        return self.policies.publish(policy, call)

    def discard_policy(self, policy: PolicyRef, call: Call) -> None:
        self.policies.discard(policy, call)

    def set_rules(self, policy: PolicyRef, rules: Sequence[Rule], call: Call) -> PolicyFacts:
        return self.policies.set_rules(policy, rules, call)

    def remove_policy(self, policy: PolicyRef, call: Call) -> None:
        self.policies.remove(policy, call)

    def assign_policy(self, volume: VolumeRef, policy: PolicyRef | None, call: Call) -> VolumeFacts:
        check_id(volume.id)
        body = {"nas": {"export_policy": self.policies.body_for(policy)}}
        return self._facts(self.volumes.change(volume, call, lambda _, stamp: (body, stamp)))

    # -- inside -----------------------------------------------------------------------------

    def _facts(self, record: Record) -> VolumeFacts:
        return volume_facts(record, self._address() if record.get("nas", {}).get("path") else None)

    def _address(self) -> str | None:
        """Where the SVM serves NFS: as configured, or its first data LIF."""
        if self.options.filer_address is not None:
            return self.options.filer_address
        with self._address_lock:
            seen, now = self._address_seen, time.monotonic()
            if seen is None or now - seen[0] > _ADDRESS_HOLDS:
                found = self.filer.records(
                    "/network/ip/interfaces",
                    "name,ip.address,enabled,services",
                    **{"svm.name": self.filer.svm, "services": "data_nfs"},
                )
                lifs = sorted(
                    (str(one["name"]), str(one["ip"]["address"]))
                    for one in found
                    if one.get("enabled", True)
                )
                seen = self._address_seen = (now, lifs[0][1] if lifs else None)
            return seen[1]


def _size(size_bytes: int) -> int:
    return max(LEAST, round_up(size_bytes, GRAIN))
