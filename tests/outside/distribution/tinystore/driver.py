"""The `tiny` driver: the least that a driver must be."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.domain.drivers import DriverOptions
from orchestrator.domain.errors import (
    AlreadyExists,
    Conflict,
    IdentityMismatch,
    Outage,
    UnknownVolume,
    Unsupported,
)
from orchestrator.domain.names import check_volume_name
from orchestrator.domain.sizes import round_up
from workers.backends.base.abilities import CanGrow
from workers.backends.base.call import Call
from workers.backends.base.driver import Driver
from workers.backends.base.facts import Absent, Capacity, Device, Look, Removed, VolumeFacts
from workers.backends.base.references import SnapshotRef, VolumeRef, check_id

from .spec import TinyOptions

GRAIN = 4096


class TinyDriver(Driver, CanGrow):
    """Volumes as files, and an index that is the only truth of them.

    A late call is made harmless so: every change holds the lock of the index and compares its
    fence with the largest one that the id has seen, also of ids that were removed. A volume is
    published, grown and removed by the exchange of the index.
    """

    def __init__(self, backend: str, options: DriverOptions, installation: str) -> None:
        super().__init__(backend, options, installation)
        assert isinstance(options, TinyOptions)
        self.path = options.path

    # -- the system as a whole ------------------------------------------------------------

    def read_identity(self) -> str | None:
        identity: str | None = self._read()["identity"]
        return identity

    def write_identity(self, identity: str, *, replace: bool = False) -> None:
        with self._change() as index:
            if index["identity"] not in (None, identity) and not replace:
                raise IdentityMismatch(f"backend {self.backend} bears another marker")
            index["identity"] = identity

    def capacity(self) -> Capacity:
        self._read()
        room = os.statvfs(self.path)
        return Capacity(
            total_bytes=room.f_frsize * room.f_blocks,
            free_bytes=room.f_frsize * room.f_bavail,
            grain_bytes=GRAIN,
        )

    # -- reading --------------------------------------------------------------------------

    def list_volumes(self) -> Iterator[VolumeFacts]:
        return (self._facts(id_, one) for id_, one in self._read()["volumes"].items())

    def inspect(self, volume: VolumeRef) -> Look:
        found = self._read()["volumes"].get(volume.id)
        return Absent() if found is None else self._facts(volume.id, found)

    def devices(self, volume: VolumeRef) -> list[Device]:
        return []

    # -- changing -------------------------------------------------------------------------

    def create(
        self, volume: VolumeRef, size_bytes: int, metadata: Mapping[str, str], call: Call
    ) -> VolumeFacts:
        check_volume_name(volume.name)
        size = round_up(size_bytes, GRAIN)
        call.checkpoint()
        with self._change(volume, call) as index:
            wanted = {"name": volume.name, "size": size, "metadata": dict(metadata)}
            found = index["volumes"].get(volume.id)
            if found is None:
                if any(one["name"] == volume.name for one in index["volumes"].values()):
                    raise AlreadyExists(f"there is another volume {volume.name}")
                with self._file(volume.id).open("wb") as file:
                    file.truncate(size)
                    os.fsync(file.fileno())
                index["volumes"][volume.id] = wanted
            elif found != wanted:
                raise Conflict(f"volume {volume.name} exists otherwise than asked")
            return self._facts(volume.id, wanted)

    def grow(self, volume: VolumeRef, size_bytes: int, call: Call) -> VolumeFacts:
        call.checkpoint()
        with self._change(volume, call) as index:
            found = index["volumes"].get(volume.id)
            if found is None:
                raise UnknownVolume(f"there is no volume {volume.name}")
            found["size"] = max(found["size"], round_up(size_bytes, GRAIN))
            os.truncate(self._file(volume.id), found["size"])
            return self._facts(volume.id, found)

    def fence_off(self, changed: VolumeRef | SnapshotRef, call: Call) -> None:
        with self._change(changed, call):
            pass

    def discard(self, made: VolumeRef | SnapshotRef, call: Call) -> None:
        self._take_away(made, call)

    def remove(self, volume: VolumeRef, call: Call, *, wipe: bool = False) -> Removed:
        if wipe:
            raise Unsupported(f"backend {self.backend} cannot wipe")
        return Removed(self._take_away(volume, call))

    def _take_away(self, what: VolumeRef | SnapshotRef, call: Call) -> bool:
        call.checkpoint()
        with self._change(what, call) as index:
            found = index["volumes"].pop(what.id, None)
        self._file(what.id).unlink(missing_ok=True)
        return found is not None

    # -- the index ------------------------------------------------------------------------

    def _read(self) -> dict[str, Any]:
        try:
            index: dict[str, Any] = json.loads((self.path / "index.json").read_bytes())
        except FileNotFoundError:
            if not self.path.is_dir():
                raise Outage(f"{self.path} is not there") from None
            return {"identity": None, "volumes": {}, "fences": {}}
        return index

    @contextmanager
    def _change(
        self, what: VolumeRef | SnapshotRef | None = None, call: Call | None = None
    ) -> Iterator[dict[str, Any]]:
        """The index, which is exchanged at the end of the block; for nobody who comes late."""
        self._read()
        with (self.path / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            index = self._read()
            if what is not None and call is not None:
                fence = index["fences"].get(check_id(what.id), 0)
                if fence > call.fence:
                    raise Conflict(f"a later claim ({fence}) has changed {what.name}", fence=fence)
                index["fences"][what.id] = call.fence
            yield index
            new = self.path / "index.new"
            with new.open("w") as file:
                json.dump(index, file)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path / "index.json")
            directory = os.open(self.path, os.O_RDONLY)
            os.fsync(directory)
            os.close(directory)

    def _file(self, id_: str) -> Path:
        return self.path / f"{id_}.img"

    def _facts(self, id_: str, one: Mapping[str, Any]) -> VolumeFacts:
        ours = not id_.startswith("foreign")
        return VolumeFacts(
            id=id_ if ours else None,
            name=one["name"],
            size_bytes=one["size"],
            used_bytes=self._file(id_).stat().st_blocks * 512 if ours else 0,
            metadata=one["metadata"],
        )
