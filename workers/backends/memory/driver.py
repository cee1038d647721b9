"""The `memory` driver: volumes that are rows in RAM, shared by all workers of this host.

It serves tests, demonstrations and measurements: it behaves as storage does, costs next to
nothing, and can be told from outside, at run time, to be slow or to fail (`Faults`).
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from tempfile import TemporaryFile
from typing import Any

from orchestrator.domain.drivers import DriverOptions
from orchestrator.domain.errors import (
    AlreadyExists,
    Conflict,
    Drift,
    IdentityMismatch,
    InUse,
    InvalidSize,
    NoSpace,
    UnknownSnapshot,
    UnknownVolume,
)
from orchestrator.domain.exports import Rule
from orchestrator.domain.installed import DRIVERS
from orchestrator.domain.names import check_volume_name
from orchestrator.domain.sizes import round_up
from workers.backends.base.abilities import (
    CanAdopt,
    CanAttachReadOnly,
    CanClone,
    CanConfigure,
    CanExport,
    CanExportByPolicy,
    CanGrow,
    CanHoldLease,
    CanImport,
    CanOpen,
    CanRename,
    CanRollBack,
    CanSetMetadata,
    CanSnapshot,
    CanTrim,
    CanWipe,
)
from workers.backends.base.call import Call
from workers.backends.base.driver import Driver
from workers.backends.base.facts import (
    Absent,
    Capacity,
    Contents,
    Device,
    Look,
    PolicyFacts,
    Removed,
    SnapshotFacts,
    VolumeFacts,
)
from workers.backends.base.fences import refuse_late
from workers.backends.base.references import PolicyRef, SnapshotRef, VolumeRef, adopted_id, check_id
from workers.backends.base.streams import pour
from workers.backends.memory import exports
from workers.backends.memory.spec import MemoryOptions
from workers.backends.memory.store import AFTER, BEFORE, Faults, Store, erase, translated

__all__ = ["Faults", "MemoryDriver", "erase"]

#: The sector of most disks. Nothing here needs it; the rounding of real systems is shown.
GRAIN = 512
#: How many removed ids are remembered, so that a late call cannot bring one back.
TOMBSTONES = 100_000
#: Rows read at a time by `list_volumes`, so that no reader holds up the log's clean-up.
PAGE = 500
#: How long a change that takes its time goes without looking whether it must stop.
NAP = 0.05

_FACTS = """
    id, name, size, length(contents), metadata, restored_by, exports.settings AS settings,
    (SELECT name FROM policies WHERE policies.n = exports.policy) AS policy,
    EXISTS (SELECT 1 FROM attachments WHERE attachments.volume = volumes.id) AS attached,
    ifnull(exports.restricted, 0) AS restricted
"""
_FROM = "volumes LEFT JOIN exports ON exports.volume = volumes.id"


class MemoryDriver(
    Driver,
    CanAdopt,
    CanAttachReadOnly,
    CanClone,
    CanConfigure,
    CanExport,
    CanExportByPolicy,
    CanGrow,
    CanHoldLease,
    CanImport,
    CanOpen,
    CanRename,
    CanRollBack,
    CanSetMetadata,
    CanSnapshot,
    CanTrim,
    CanWipe,
):
    """Volumes as rows of a SQLite file in RAM.

    A late call is made harmless so: each change is one transaction, which acts on the
    immutable id and first compares the caller's fence with the largest one the volume has
    seen. A smaller one is refused with `Conflict`, for calls with the same fence are the
    same claim of the same job, and of two claims on one volume the smaller is always the
    late one. The last 100,000 removed ids keep their fence too, so that a late create
    brings nothing back. What it cannot fence: an id removed longer ago than that.

    Everything is lost when the host restarts, the identity marker included, so that a
    restart shows as a missing marker and not as an empty backend.
    """

    def __init__(self, backend: str, options: DriverOptions, installation: str) -> None:
        super().__init__(backend, options, installation)
        if not isinstance(options, MemoryOptions):
            raise TypeError(f"the memory driver takes MemoryOptions, not {type(options).__name__}")
        self.options = options
        self._store = Store(backend, installation)

    # -- the system as a whole ------------------------------------------------------------

    def read_identity(self) -> str | None:
        with self._faults("read_identity", ""):
            row = self._store.read().execute("SELECT identity FROM marker").fetchone()
        return None if row is None else str(row[0])

    def write_identity(self, identity: str, *, replace: bool = False) -> None:
        with self._store.change() as db:
            row = db.execute("SELECT identity FROM marker").fetchone()
            if row is not None and row[0] != identity and not replace:
                raise IdentityMismatch(
                    f"backend {self.backend} already bears the marker {row[0]}, not {identity}"
                )
            db.execute("INSERT OR REPLACE INTO marker VALUES (1, ?)", (identity,))

    def read_lease(self) -> bytes | None:
        row = self._store.read().execute("SELECT record FROM lease").fetchone()
        return None if row is None else bytes(row[0])

    def write_lease(self, new: bytes, expected: bytes | None) -> None:
        db = self._store.read()
        with translated():
            if expected is None:
                db.execute("INSERT OR IGNORE INTO lease VALUES (1, ?)", (new,))
            else:
                db.execute("UPDATE lease SET record = ? WHERE record = ?", (new, expected))
        if self.read_lease() != new:
            raise IdentityMismatch(
                f"backend {self.backend}: somebody else has begun to write to it"
            )

    def capacity(self) -> Capacity:
        with self._faults("capacity", ""):
            used = self._used(self._store.read())
        total = self.options.capacity
        return Capacity(total_bytes=total, free_bytes=max(0, total - used), grain_bytes=GRAIN)

    # -- reading --------------------------------------------------------------------------

    def list_volumes(self) -> Iterator[VolumeFacts]:
        with self._faults("list_volumes", ""):
            last = 0
        while True:
            rows = (
                self._store.read()
                .execute(
                    f"SELECT n, {_FACTS} FROM {_FROM} WHERE n > ? ORDER BY n LIMIT {PAGE}",  # noqa: S608
                    (last,),
                )
                .fetchall()
            )
            if not rows:
                return
            for n, *facts in rows:
                last = n
                yield self._volume_facts(facts)

    def inspect(self, volume: VolumeRef) -> Look:
        with self._faults("inspect", volume.name):
            return self._facts(self._store.read(), volume.id) or Absent()

    def list_snapshots(self, volume: VolumeRef) -> list[SnapshotFacts]:
        with self._faults("list_snapshots", volume.name):
            rows = self._store.read().execute(
                "SELECT id, name, size, length(contents), n FROM snapshots WHERE volume = ? "
                "ORDER BY n",
                (volume.id,),
            )
            return [_snapshot_facts(row) for row in rows]

    @contextmanager
    def contents(self, of: VolumeRef | SnapshotRef, call: Call) -> Iterator[Contents]:
        with self._faults("contents", of.name):
            db = self._store.read()
            if isinstance(of, SnapshotRef):
                row = self._snapshot(db, of)
            else:
                row = self._volume(db, of, "size, contents")
            _refuse_drift(of, row)
        yield Contents(row["size"], iter([(0, row["contents"])] if row["contents"] else []))

    def devices(self, volume: VolumeRef) -> list[Device]:
        with self._faults("devices", volume.name):
            device = self._device(self._store.read(), volume.id)
        return [] if device is None else [device]

    # -- making ---------------------------------------------------------------------------

    def create(
        self, volume: VolumeRef, size_bytes: int, metadata: Mapping[str, str], call: Call
    ) -> VolumeFacts:
        check_volume_name(volume.name)
        with self._changing("create", volume.name, call) as db:
            return self._insert(db, volume, round_up(size_bytes, GRAIN), metadata, b"", call)

    def load(
        self,
        volume: VolumeRef,
        size_bytes: int,
        metadata: Mapping[str, str],
        contents: Contents,
        call: Call,
    ) -> VolumeFacts:
        check_volume_name(volume.name)
        size = round_up(size_bytes, GRAIN)
        with TemporaryFile() as gathered:
            pour(contents, gathered.fileno(), size, call)
            data = gathered.read().rstrip(b"\0")
        with self._changing("load", volume.name, call) as db:
            self._need(db, len(data))
            return self._insert(db, volume, size, metadata, data, call)

    def adopt(self, volume: VolumeRef, call: Call, *, instead_of: str | None = None) -> VolumeFacts:
        with self._changing("adopt", volume.name, call) as db:
            self._refuse_buried(db, check_id(volume.id), volume.name, call)
            db.execute("PRAGMA defer_foreign_keys = ON")
            db.execute(
                "UPDATE volumes SET id = ?, fence = ? WHERE name = ? AND id IS ?",
                (volume.id, call.fence, volume.name, instead_of),
            )
            if instead_of is not None:
                self._hand_on(db, instead_of, volume.id)
            row = db.execute("SELECT id FROM volumes WHERE name = ?", (volume.name,)).fetchone()
            if row is None:
                raise UnknownVolume(f"backend {self.backend} has no volume {volume.name}")
            if row["id"] != volume.id:
                raise Conflict(
                    f"volume {volume.name} bears the stamp {row['id']} already", stamp=row["id"]
                )
            self._fenced(db, volume, call)
            return self._present(db, volume)

    def clone(
        self,
        volume: VolumeRef,
        source: VolumeRef | SnapshotRef,
        size_bytes: int,
        metadata: Mapping[str, str],
        call: Call,
    ) -> VolumeFacts:
        check_volume_name(volume.name)
        size = round_up(size_bytes, GRAIN)
        with self._changing("clone", volume.name, call) as db:
            if isinstance(source, SnapshotRef):
                found = self._snapshot(db, source)
            else:
                found = self._volume(db, source, "size, contents")
            _refuse_drift(source, found)
            if size < found["size"]:
                raise InvalidSize(
                    f"{volume.name} must have at least its source's {found['size']} bytes, "
                    f"not {size}"
                )
            self._need(db, len(found["contents"]))
            facts = self._insert(db, volume, size, metadata, found["contents"], call)
        call.progress(size, size)
        return facts

    def create_snapshot(self, snapshot: SnapshotRef, call: Call) -> SnapshotFacts:
        check_volume_name(snapshot.name)
        with self._changing("create_snapshot", snapshot.name, call) as db:
            volume = self._fenced(db, snapshot.volume, call, "size, contents")
            self._refuse_buried(db, check_id(snapshot.id), snapshot.name, call)
            for row in db.execute(
                "SELECT id, name, volume, size, length(contents) AS used, n FROM snapshots "
                "WHERE id = ? OR (volume = ? AND name = ?)",
                (snapshot.id, snapshot.volume.id, snapshot.name),
            ):
                if row["id"] != snapshot.id:
                    raise AlreadyExists(
                        f"volume {snapshot.volume.name} has another snapshot {snapshot.name}"
                    )
                if (row["name"], row["volume"]) != (snapshot.name, snapshot.volume.id):
                    raise Conflict(f"snapshot {snapshot.id} exists as {row['name']}")
                return _snapshot_facts((row["id"], row["name"], row["size"], row["used"], row["n"]))
            _refuse_drift(snapshot.volume, volume)
            self._need(db, len(volume["contents"]))
            made = db.execute(
                "INSERT INTO snapshots (id, volume, name, size, contents) VALUES (?, ?, ?, ?, ?)",
                (
                    snapshot.id,
                    snapshot.volume.id,
                    snapshot.name,
                    volume["size"],
                    volume["contents"],
                ),
            )
            used = len(volume["contents"])
            return _snapshot_facts(
                (snapshot.id, snapshot.name, volume["size"], used, made.lastrowid)
            )

    def discard(self, made: VolumeRef | SnapshotRef, call: Call) -> None:
        with self._changing("discard", made.name, call) as db:
            if isinstance(made, SnapshotRef):
                db.execute("DELETE FROM snapshots WHERE id = ?", (made.id,))
            else:
                self._delete(db, made, call)
            self._bury(db, check_id(made.id), call)

    # -- changing -------------------------------------------------------------------------

    def grow(self, volume: VolumeRef, size_bytes: int, call: Call) -> VolumeFacts:
        with self._changing("grow", volume.name, call) as db:
            self._fenced(db, volume, call)
            db.execute(
                "UPDATE volumes SET size = max(size, ?) WHERE id = ?",
                (round_up(size_bytes, GRAIN), volume.id),
            )
            return self._present(db, volume)

    def set_metadata(
        self, volume: VolumeRef, metadata: Mapping[str, str], call: Call
    ) -> VolumeFacts:
        with self._changing("set_metadata", volume.name, call) as db:
            self._fenced(db, volume, call)
            db.execute(
                "UPDATE volumes SET metadata = ? WHERE id = ?", (_written(metadata), volume.id)
            )
            return self._present(db, volume)

    def configure(self, volume: VolumeRef, settings: Mapping[str, Any], call: Call) -> VolumeFacts:
        with self._changing("configure", volume.name, call) as db:
            self._fenced(db, volume, call)
            exports.configure(db, volume, settings)
            return self._present(db, volume)

    def restrict(self, volume: VolumeRef, call: Call) -> None:
        with self._changing("restrict", volume.name, call) as db:
            self._fenced(db, volume, call)
            exports.restrict(db, volume, restricted=True)

    def unrestrict(self, volume: VolumeRef, call: Call) -> None:
        with self._changing("unrestrict", volume.name, call) as db:
            self._fenced(db, volume, call)
            exports.restrict(db, volume, restricted=False)

    def rename(self, volume: VolumeRef, new_name: str, call: Call) -> VolumeFacts:
        check_volume_name(new_name)
        with self._changing("rename", volume.name, call) as db:
            self._fenced(db, volume, call)
            if db.execute(
                "SELECT 1 FROM volumes WHERE name = ? AND id IS NOT ?", (new_name, volume.id)
            ).fetchone():
                raise AlreadyExists(f"backend {self.backend} already has a volume {new_name}")
            db.execute("UPDATE volumes SET name = ? WHERE id = ?", (new_name, volume.id))
            return self._present(db, volume)

    def rollback(self, volume: VolumeRef, snapshot: SnapshotRef, call: Call) -> VolumeFacts:
        with self._changing("rollback", volume.name, call) as db:
            found = self._fenced(db, volume, call, "restored_by, size")
            if str(found["restored_by"]) != call.token:
                self._refuse_attached(db, volume)
                kept = self._snapshot(db, snapshot)
                _refuse_drift(volume, found)
                _refuse_drift(snapshot, kept)
                db.execute(
                    "UPDATE volumes SET size = ?, contents = ?, restored_by = ? WHERE id = ?",
                    (kept["size"], kept["contents"], call.token, volume.id),
                )
            return self._present(db, volume)

    def wipe(
        self, volume: VolumeRef, call: Call, *, offset: int = 0, length: int | None = None
    ) -> VolumeFacts:
        with self._changing("wipe", volume.name, call) as db:
            row = self._fenced(db, volume, call, "size, contents")
            self._refuse_attached(db, volume)
            _refuse_drift(volume, row)
            end = row["size"] if length is None else min(row["size"], offset + length)
            kept, behind = row["contents"][:offset], row["contents"][end:]
            contents = kept.ljust(end, b"\0") + behind if behind else kept
            db.execute("UPDATE volumes SET contents = ? WHERE id = ?", (contents, volume.id))
            facts = self._present(db, volume)
        call.progress(end - offset, end - offset)
        return facts

    def trim(self, volume: VolumeRef, call: Call) -> VolumeFacts:
        with self._changing("trim", volume.name, call) as db:
            row = self._fenced(db, volume, call, "size, contents")
            self._refuse_attached(db, volume)
            _refuse_drift(volume, row)
            used = row["contents"].rstrip(b"\0")
            db.execute("UPDATE volumes SET contents = ? WHERE id = ?", (used, volume.id))
            return self._present(db, volume)

    def fence_off(self, changed: VolumeRef | SnapshotRef, call: Call) -> None:
        volume = changed.volume if isinstance(changed, SnapshotRef) else changed
        with (
            self._changing("fence_off", changed.name, call) as db,
            suppress(UnknownVolume),
        ):
            self._fenced(db, volume, call)

    # -- removing -------------------------------------------------------------------------

    def remove(self, volume: VolumeRef, call: Call, *, wipe: bool = False) -> Removed:
        with self._changing("remove", volume.name, call) as db:
            facts = self._facts(db, volume.id)
            self._delete(db, volume, call)
            self._bury(db, volume.id, call)
        # RAM that is given back is zeroed before anybody else has it.
        return Removed(facts is not None, facts.size_bytes if facts and wipe else 0)

    def delete_snapshot(self, snapshot: SnapshotRef, call: Call) -> None:
        with self._changing("delete_snapshot", snapshot.name, call) as db:
            with suppress(UnknownVolume):
                self._fenced(db, snapshot.volume, call)
            db.execute("DELETE FROM snapshots WHERE id = ?", (snapshot.id,))
            self._bury(db, snapshot.id, call)

    # -- using ----------------------------------------------------------------------------

    def attach(self, volume: VolumeRef, call: Call, *, read_only: bool = False) -> Device:
        with self._changing("attach", volume.name, call) as db:
            self._fenced(db, volume, call)
            device = self._device(db, volume.id)
            if device is None:
                db.execute("INSERT INTO attachments VALUES (?, ?)", (volume.id, read_only))
                device = self._as_device(volume.id, read_only)
            elif device.read_only != read_only:
                raise Conflict(
                    f"{volume.name} is attached read-{'only' if device.read_only else 'write'}: "
                    "detach it first"
                )
            return device

    def detach(self, volume: VolumeRef, call: Call) -> None:
        with self._changing("detach", volume.name, call) as db:
            if self._facts(db, volume.id) is None:
                return
            self._fenced(db, volume, call)
            db.execute("DELETE FROM attachments WHERE volume = ?", (volume.id,))

    # -- export policies --------------------------------------------------------------------

    def list_policies(self) -> Iterator[PolicyFacts]:
        with self._faults("list_policies", ""):
            yield from exports.published(self._store.read())

    def inspect_policy(self, policy: PolicyRef) -> PolicyFacts | None:
        with self._faults("inspect_policy", policy.name):
            row = exports.found(self._store.read(), policy)
        return None if row is None else exports.facts_of(row)

    def build_policy(self, policy: PolicyRef, rules: Sequence[Rule], call: Call) -> str | None:
        check_volume_name(policy.name)
        with self._changing("build_policy", policy.name, call) as db:
            self._refuse_buried(db, check_id(policy.id), policy.name, call)
            return exports.build(db, policy, rules, call)

    def publish_policy(self, policy: PolicyRef, call: Call) -> PolicyFacts:
        with self._changing("publish_policy", policy.name, call) as db:
            return exports.publish(db, policy, call)

    def discard_policy(self, policy: PolicyRef, call: Call) -> None:
        with self._changing("discard_policy", policy.name, call) as db:
            exports.discard(db, policy, call)
            self._bury(db, policy.id, call)

    def set_rules(self, policy: PolicyRef, rules: Sequence[Rule], call: Call) -> PolicyFacts:
        with self._changing("set_rules", policy.name, call) as db:
            return exports.set_rules(db, policy, rules, call)

    def remove_policy(self, policy: PolicyRef, call: Call) -> None:
        with self._changing("remove_policy", policy.name, call) as db:
            exports.remove(db, policy, call)
            self._bury(db, policy.id, call)

    def assign_policy(self, volume: VolumeRef, policy: PolicyRef | None, call: Call) -> VolumeFacts:
        with self._changing("assign_policy", volume.name, call) as db:
            self._fenced(db, volume, call)
            exports.assign(db, volume, policy)
            return self._present(db, volume)

    # -- what the user of an attached device would do ---------------------------------------

    def write(self, volume_id: str, data: bytes, offset: int = 0) -> None:
        """Write ``data`` into a volume; for tests, which have no device to write to."""
        with self._store.change() as db:
            row = self._volume(db, VolumeRef(volume_id, volume_id), "size, contents")
            if offset + len(data) > row["size"]:
                raise NoSpace(f"volume {volume_id} ends at {row['size']} bytes")
            before = row["contents"].ljust(offset, b"\0")
            contents = before[:offset] + data + before[offset + len(data) :]
            self._need(db, len(contents) - len(row["contents"]))
            db.execute("UPDATE volumes SET contents = ? WHERE id = ?", (contents, volume_id))

    def read(self, volume_id: str, length: int, offset: int = 0) -> bytes:
        """What a volume holds, zeroes where nothing was written; for tests."""
        row = self._volume(self._store.read(), VolumeRef(volume_id, volume_id), "size, contents")
        end = min(offset + length, row["size"])
        return bytes(row["contents"][offset:end].ljust(end - offset, b"\0"))

    # -- inside -----------------------------------------------------------------------------

    @contextmanager
    def _changing(self, operation: str, name: str, call: Call) -> Iterator[sqlite3.Connection]:

        def pause(seconds: float) -> None:
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0:
                call.checkpoint()
                time.sleep(min(left, NAP))

        with self._faults(operation, name, pause):
            pause(self.options.delay)
            call.checkpoint()
            with self._store.change() as db:
                yield db

    @contextmanager
    def _faults(
        self, operation: str, name: str, pause: Callable[[float], None] = time.sleep
    ) -> Iterator[None]:
        with translated():
            if self._store.flag[0]:
                self._store.suffer(operation, name, BEFORE, pause)
                yield
                self._store.suffer(operation, name, AFTER, pause)
            else:
                yield

    def _insert(
        self,
        db: sqlite3.Connection,
        volume: VolumeRef,
        size: int,
        metadata: Mapping[str, str],
        contents: bytes,
        call: Call,
    ) -> VolumeFacts:
        id_ = check_id(volume.id)
        made = db.execute(
            "INSERT OR IGNORE INTO volumes (id, name, size, metadata, contents, fence) "
            "SELECT :id, :name, :size, :metadata, :contents, :fence "
            "WHERE NOT EXISTS (SELECT 1 FROM removed WHERE id = :id AND fence > :fence)",
            {
                "id": id_,
                "name": volume.name,
                "size": size,
                "metadata": _written(metadata),
                "contents": contents,
                "fence": call.fence,
            },
        )
        if made.rowcount == 1:
            if volume.settings or volume.policy:
                return self._exported(db, volume)
            return VolumeFacts(
                id=volume.id,
                name=volume.name,
                size_bytes=size,
                used_bytes=len(contents),
                metadata=dict(metadata),
                address=self.options.filer_address,
            )
        self._refuse_buried(db, id_, volume.name, call)
        found = self._facts(db, id_)
        if found is None:
            raise AlreadyExists(f"backend {self.backend} already has a volume {volume.name}")
        self._fenced(db, volume, call)
        if (found.name, found.size_bytes, found.metadata) != (volume.name, size, dict(metadata)):
            raise Conflict(
                f"volume {volume.name} exists with {found.size_bytes} bytes as {found.name}, "
                f"not as asked with {size} bytes",
                size_bytes=found.size_bytes,
            )
        return found

    def _exported(self, db: sqlite3.Connection, volume: VolumeRef) -> VolumeFacts:
        """The volume just made, with the settings and the policy that it is to have."""
        own = DRIVERS["memory"].settings
        exports.configure(db, volume, {k: v for k, v in volume.settings.items() if k in own})
        exports.assign(db, volume, volume.policy)
        return self._present(db, volume)

    def _hand_on(self, db: sqlite3.Connection, old: str, new: str) -> None:
        """What hangs on a volume's old id hangs on the new one."""
        for table in ("attachments", "exports"):
            db.execute(f"UPDATE {table} SET volume = ? WHERE volume = ?", (new, old))  # noqa: S608
        for row in db.execute("SELECT n, name FROM snapshots WHERE volume = ?", (old,)).fetchall():
            db.execute(
                "UPDATE snapshots SET volume = ?, id = ? WHERE n = ?",
                (new, adopted_id(new, row["name"]), row["n"]),
            )

    def _delete(self, db: sqlite3.Connection, volume: VolumeRef, call: Call) -> None:
        if self._facts(db, volume.id) is None:
            return
        self._fenced(db, volume, call)
        self._refuse_attached(db, volume)
        kept = db.execute("SELECT name FROM snapshots WHERE volume = ?", (volume.id,)).fetchone()
        if kept is not None:
            raise InUse(f"volume {volume.name} has snapshots ({kept[0]}): delete them first")
        db.execute("DELETE FROM volumes WHERE id = ?", (volume.id,))

    def _bury(self, db: sqlite3.Connection, dead_id: str, call: Call) -> None:
        db.execute(
            "INSERT INTO removed (id, fence) VALUES (?, ?) "
            "ON CONFLICT (id) DO UPDATE SET fence = max(fence, excluded.fence)",
            (dead_id, call.fence),
        )
        db.execute("DELETE FROM removed WHERE n <= (SELECT max(n) FROM removed) - ?", (TOMBSTONES,))

    def _refuse_buried(self, db: sqlite3.Connection, new_id: str, name: str, call: Call) -> None:
        row = db.execute("SELECT fence FROM removed WHERE id = ?", (new_id,)).fetchone()
        if row is not None:
            refuse_late(name, row[0], call)

    def _fenced(
        self, db: sqlite3.Connection, volume: VolumeRef, call: Call, columns: str = "id"
    ) -> sqlite3.Row:
        """The volume's row, once it is known that nobody later has changed it."""
        row = self._volume(db, volume, f"fence, {columns}")
        refuse_late(volume.name, row["fence"], call)
        db.execute("UPDATE volumes SET fence = ? WHERE id = ?", (call.fence, volume.id))
        return row

    def _volume(self, db: sqlite3.Connection, volume: VolumeRef, columns: str) -> sqlite3.Row:
        row: sqlite3.Row | None = db.execute(
            f"SELECT {columns} FROM volumes WHERE id = ?",  # noqa: S608 - columns are ours
            (volume.id,),
        ).fetchone()
        if row is None:
            raise UnknownVolume(f"backend {self.backend} has no volume {volume.name}")
        return row

    def _snapshot(self, db: sqlite3.Connection, snapshot: SnapshotRef) -> sqlite3.Row:
        row: sqlite3.Row | None = db.execute(
            "SELECT size, contents FROM snapshots WHERE id = ? AND volume = ?",
            (snapshot.id, snapshot.volume.id),
        ).fetchone()
        if row is None:
            raise UnknownSnapshot(f"volume {snapshot.volume.name} has no snapshot {snapshot.name}")
        return row

    def _facts(self, db: sqlite3.Connection, volume_id: str) -> VolumeFacts | None:
        row = db.execute(
            f"SELECT {_FACTS} FROM {_FROM} WHERE id = ?",  # noqa: S608 - columns are ours
            (volume_id,),
        ).fetchone()
        return None if row is None else self._volume_facts(row)

    def _volume_facts(self, row: Any) -> VolumeFacts:
        volume_id, name, size, used, metadata, restored_by, settings, policy, *use = row
        attached, restricted = use
        return VolumeFacts(
            id=volume_id,
            name=name,
            size_bytes=size,
            used_bytes=used,
            metadata={} if metadata == "{}" else json.loads(metadata),
            restored_by=None if restored_by is None else str(restored_by),
            settings=json.loads(settings) if settings else {},
            policy=policy,
            address=self.options.filer_address,
            restricted=bool(restricted),
            attached=bool(attached),
        )

    def _present(self, db: sqlite3.Connection, volume: VolumeRef) -> VolumeFacts:
        facts = self._facts(db, volume.id)
        if facts is None:
            raise UnknownVolume(f"backend {self.backend} has no volume {volume.name}")
        return facts

    def _device(self, db: sqlite3.Connection, volume_id: str) -> Device | None:
        row = db.execute(
            "SELECT read_only FROM attachments WHERE volume = ?", (volume_id,)
        ).fetchone()
        return None if row is None else self._as_device(volume_id, bool(row[0]))

    def _as_device(self, volume_id: str, read_only: bool) -> Device:
        uri = f"memory:{self.backend}/{volume_id}"
        return Device(path=None, uris=(uri,), read_only=read_only)

    def _refuse_attached(self, db: sqlite3.Connection, volume: VolumeRef) -> None:
        if self._device(db, volume.id) is not None:
            raise InUse(f"volume {volume.name} is attached: detach it first")

    def _used(self, db: sqlite3.Connection) -> int:
        (used,) = db.execute(
            "SELECT (SELECT ifnull(sum(length(contents)), 0) FROM volumes"
            " WHERE length(contents) > 0)"
            " + (SELECT ifnull(sum(length(contents)), 0) FROM snapshots"
            " WHERE length(contents) > 0)"
        ).fetchone()
        return int(used)

    def _need(self, db: sqlite3.Connection, more: int) -> None:
        if more > 0 and self._used(db) + more > self.options.capacity:
            raise NoSpace(f"backend {self.backend} has no room for {more} more bytes")


def _refuse_drift(of: VolumeRef | SnapshotRef, row: Any) -> None:
    """`Drift` if what is there is not as large as the inventory says."""
    if of.size_bytes in (None, row["size"]):
        return
    what = f"snapshot {of.name} of {of.volume.name}" if isinstance(of, SnapshotRef) else of.name
    raise Drift(
        f"{what} has {row['size']} bytes in memory and {of.size_bytes} in the inventory: nothing "
        "was changed. Find out what happened to its contents; 'orchestrator volume reconcile' then "
        "records the size that is there",
        size_bytes=row["size"],
        recorded_bytes=of.size_bytes,
    )


def _written(metadata: Mapping[str, str]) -> str:
    return json.dumps(dict(metadata), sort_keys=True) if metadata else "{}"


def _snapshot_facts(row: Any) -> SnapshotFacts:
    snapshot_id, name, size, used, order = row
    return SnapshotFacts(id=snapshot_id, name=name, size_bytes=size, used_bytes=used, order=order)
