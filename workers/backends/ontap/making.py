"""Making volumes: built under a name with their id, then published by giving them theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from orchestrator.domain.errors import (
    AlreadyExists,
    Conflict,
    InUse,
    InvalidInput,
    InvalidSize,
    NoSpace,
    NotFound,
    Problem,
    StillWorking,
    UnknownVolume,
)
from workers.backends.base.call import Call
from workers.backends.base.references import SnapshotRef, VolumeRef, check_id
from workers.backends.ontap.facts import is_listed, policy_body, settings_body, usable
from workers.backends.ontap.names import NEW, native_volume
from workers.backends.ontap.snapshots import Snapshots
from workers.backends.ontap.stamps import Stamp, read_stamp
from workers.backends.ontap.volumes import VOLUMES, Record, Volumes, fenced

#: ONTAP's smallest FlexVol.
LEAST = 20 * 2**20
#: How long a volume's comment may be.
LONGEST_COMMENT = 1023


class Making:
    """Creates, clones and discards."""

    def __init__(self, volumes: Volumes, snapshots: Snapshots) -> None:
        self.volumes = volumes
        self.snapshots = snapshots
        self.filer = volumes.filer

    def create(self, volume: VolumeRef, size: int, call: Call) -> Record:
        """An empty volume, as asked; one that was begun is gone on with."""
        native = native_volume(volume.name)
        call.checkpoint()
        there, built = self.volumes.bearing(volume.id, sure=False)
        if there is not None:
            return self._as_asked(there, built, volume, size, call)
        if built is None:
            self._refuse_taken(native, volume)
            asked = settings_body({**volume.settings, "junction_path": None})
            built = self._begin(
                volume,
                {
                    "size": size,
                    "aggregates": [{"name": self._aggregate(volume, size)}],
                    **asked,
                },
                call,
            )
        return self._publish(built, native, volume, call)

    def clone(
        self, volume: VolumeRef, source: VolumeRef | SnapshotRef, size: int, call: Call
    ) -> Record:
        """A volume with the contents of another, on its own feet before it is published."""
        native = native_volume(volume.name)
        call.checkpoint()
        there, built = self.volumes.bearing(volume.id, sure=False)
        if there is not None:
            return self._as_asked(there, built, volume, size, call)
        if built is None:
            built = self._begin_clone(volume, native, source, size, call)
        if built.get("clone", {}).get("is_flexclone"):
            built = self._split(built, volume, size, call)
        origin = source.volume if isinstance(source, SnapshotRef) else source
        self.snapshots.drop_bases(volume.id, call, self.volumes.found(origin))
        # What came along from the source would bear ids that are not this volume's.
        self.snapshots.drop_all(built, call)
        return self._publish(built, native, volume, call)

    def adopt(self, volume: VolumeRef, call: Call, instead_of: str | None) -> Record:
        """Stamp what others have made under this name, and the snapshots that it has."""
        native = native_volume(volume.name)
        call.checkpoint()
        there = self.volumes.found(volume)
        if there is None:
            record = self.volumes.named(native)
            if record is None or not is_listed(record):
                raise UnknownVolume(f"the SVM {self.filer.svm} has no volume {volume.name}")
            other = read_stamp(record.get("comment"))
            if other is not None and other.id != instead_of:
                raise Conflict(
                    f"volume {volume.name} bears the stamp {other.id} already", stamp=other.id
                )
            was = other.was if other else record.get("comment") or None
            stamp = Stamp(id=check_id(volume.id), fence=call.fence, was=was)
            if len(stamp.written()) > LONGEST_COMMENT:
                raise InvalidInput(
                    f"the comment of volume {volume.name} is too long to be kept beside the stamp: "
                    "shorten it on the filer"
                )
            there = self.volumes.apply(record, {}, stamp, call)
        fenced(there, volume.name, call)
        self.snapshots.adopt(there, volume.id, call)
        return there

    def discard(self, volume: VolumeRef, call: Call) -> None:
        """Take away all that bears this id, and what a clone began from."""
        self.remove(volume, call)
        self.snapshots.drop_bases(volume.id, call)

    def remove(self, volume: VolumeRef, call: Call) -> bool:
        """Take away all that bears this id, and whether there was a volume; `InUse` while it
        has snapshots."""
        call.checkpoint()
        there, built = self.volumes.bearing(volume.id)
        if there is not None:
            fenced(there, volume.name, call)
            if kept := self.snapshots.holding(there):
                raise InUse(
                    f"volume {volume.name} has snapshots ({', '.join(kept[:5])}): delete them first"
                )
        for record in (built, there):
            if record is not None:
                self.volumes.delete(record, call)
        return there is not None

    # -- the parts ----------------------------------------------------------------------------

    def _as_asked(
        self, there: Record, built: Record | None, volume: VolumeRef, size: int, call: Call
    ) -> Record:
        stamp = fenced(there, volume.name, call)
        if (there["name"], there.get("size")) != (native_volume(volume.name), size):
            raise Conflict(
                f"volume {volume.name} exists with {there.get('size')} bytes as {there['name']}, "
                f"not as asked with {size} bytes",
                size_bytes=there.get("size"),
            )
        if built is not None:
            # A call that came too late began it again.
            self.volumes.delete(built, call)
        if stamp.fence < call.fence:
            with suppress(StillWorking):
                return self.volumes.apply(there, {}, stamp, call)
        return there

    def _refuse_taken(self, native: str, volume: VolumeRef) -> None:
        if self.volumes.named(native) is not None:
            raise AlreadyExists(
                f"the SVM {self.filer.svm} already has another volume {volume.name}"
            )

    def _aggregate(self, volume: VolumeRef, size: int) -> str:
        """Where to put a new volume: as asked, or where there is the most room."""
        asked = volume.settings.get("aggregate")
        room = self.room()
        if asked is not None:
            if asked not in room:
                raise InvalidInput(
                    f"the aggregate {asked!r} is none that this backend may use: "
                    f"{', '.join(sorted(room)) or 'there is none'}"
                )
            return str(asked)
        if not room:
            raise NoSpace(f"the SVM {self.filer.svm} has no aggregate that volumes may be on")
        return max(sorted(room), key=lambda name: room[name][0])

    def room(self) -> dict[str, tuple[int, int]]:
        """Free and all bytes of each aggregate that volumes may be on."""
        assigned = {one["name"] for one in self.volumes.require_svm().get("aggregates", ())}
        wanted = set(self.filer.options.aggregates)
        found = self.filer.records(
            "/storage/aggregates", "name,space.block_storage.size,space.block_storage.available"
        )
        return {
            record["name"]: (int(space["available"]), int(space["size"]))
            for record in found
            if (space := record.get("space", {}).get("block_storage"))
            and (record["name"] in wanted if wanted else usable(record["name"]))
            and (not assigned or record["name"] in assigned)
        }

    def _begin(self, volume: VolumeRef, more: dict[str, Any], call: Call) -> Record:
        """Build it under the name with its id, stamped from the beginning on."""
        stamp = Stamp(id=check_id(volume.id), fence=call.fence)
        body = {
            "name": NEW + volume.id,
            "svm": {"name": self.filer.svm},
            "comment": stamp.written(),
            "guarantee": {"type": "none"},
            "nas": {"export_policy": policy_body(volume.policy)},
            **more,
        }
        with self._taken_back(volume, call):
            try:
                answer = self.filer.post(VOLUMES, body, return_timeout="0")
            except AlreadyExists:
                raise self._on_its_way(volume) from None
            self.filer.follow(answer, call, f"POST {VOLUMES}")
            call.checkpoint()
        built = self.volumes.bearing(volume.id, sure=False)[1]
        if built is None:
            raise Conflict(f"what was built for {volume.name} was taken away meanwhile")
        return built

    def _on_its_way(self, volume: VolumeRef) -> Problem:
        """The name with the id is taken by what does not bear the id, or cannot be seen yet."""
        there = self.volumes.named(NEW + volume.id)
        if there is None or self.filer.is_at_work_on(there["uuid"]):
            return StillWorking(f"the filer is making {volume.name}")
        return Conflict(
            f"the filer's volume {there['name']} stands where {volume.name} is to be built, and "
            "bears no stamp of ours: look at it, and rename or delete it on the filer"
        )

    @contextmanager
    def _taken_back(self, volume: VolumeRef, call: Call) -> Iterator[None]:
        """Who learns directly behind the first request that it came too late undoes that."""
        try:
            yield
        except Problem:
            raise
        except BaseException:
            with suppress(Exception):
                built = self.volumes.bearing(volume.id, sure=False)[1]
                stamp = built and read_stamp(built.get("comment"))
                if built and stamp and stamp.fence == call.fence:
                    self.filer.delete(f"{VOLUMES}/{built['uuid']}")
                    self.snapshots.forget_bases(volume.id)
            raise

    def _begin_clone(
        self,
        volume: VolumeRef,
        native: str,
        source: VolumeRef | SnapshotRef,
        size: int,
        call: Call,
    ) -> Record:
        origin = source.volume if isinstance(source, SnapshotRef) else source
        parent = self.volumes.needed(origin)
        if isinstance(source, SnapshotRef):
            base = self.snapshots.needed(parent, source)
            stamp = read_stamp(base.get("comment"))
            least = stamp.size if stamp and stamp.size is not None else int(parent["size"])
        else:
            least = int(parent["size"])
        if size < least:
            raise InvalidSize(f"{volume.name} must have at least its source's {least} bytes")
        self._refuse_taken(native, volume)
        aggregates = [one["name"] for one in parent.get("aggregates", ())]
        if volume.settings.get("aggregate") not in (None, *aggregates):
            raise InvalidInput(
                f"a clone is made on the aggregate of its source, {', '.join(aggregates)}"
            )
        if not isinstance(source, SnapshotRef):
            base = self.snapshots.base(parent, volume.id, call)
        return self._begin(
            volume,
            {
                "clone": {
                    "is_flexclone": True,
                    "parent_volume": {"uuid": parent["uuid"]},
                    "parent_snapshot": {"uuid": base["uuid"]},
                }
            },
            call,
        )

    def _split(self, built: Record, volume: VolumeRef, size: int, call: Call) -> Record:
        """Make it independent of its source; the filer copies the blocks by itself."""
        state = built["clone"]
        if not state.get("split_initiated"):

            def change(body: dict[str, Any]) -> Record:
                call.checkpoint()
                there = self._still(built, volume)
                return self.volumes.apply(there, body, fenced(there, volume.name, call), call)

            settings = settings_body({**volume.settings, "junction_path": None}, built)
            if size != built.get("size") or settings:
                built = change({"size": size, **settings})
            self._reported(built, size, call, change)
            built = self._still(built, volume)
        if built.get("clone", {}).get("is_flexclone"):
            self._tell(built, size, call)
            raise StillWorking(f"the filer is copying the blocks of {volume.name}", seconds=10)
        call.progress(size, size)
        return built

    def _reported(
        self, built: Record, size: int, call: Call, change: Callable[[dict[str, Any]], Record]
    ) -> None:
        try:
            change({"clone": {"split_initiated": True}})
        except StillWorking:
            there = self.volumes.again(built["uuid"])
            if there is not None:
                self._tell(there, size, call)
            raise

    def _tell(self, record: Record, size: int, call: Call) -> None:
        done = int(record.get("clone", {}).get("split_complete_percent") or 0)
        call.progress(size * min(100, done) // 100, size)

    def _still(self, built: Record, volume: VolumeRef) -> Record:
        there = self.volumes.again(built["uuid"])
        if there is None:
            raise Conflict(f"what was built for {volume.name} was taken away meanwhile")
        return there

    def _publish(self, built: Record, native: str, volume: VolumeRef, call: Call) -> Record:
        call.checkpoint()
        there = self._still(built, volume)
        stamp = fenced(there, volume.name, call)
        path = settings_body({"junction_path": volume.settings.get("junction_path")})
        try:
            if path and there.get("nas", {}).get("path") != path["nas"]["path"]:
                there = self.volumes.apply(there, path, stamp, call)
            return self.volumes.apply(there, {"name": native}, stamp, call)
        except (NotFound, UnknownVolume):
            raise Conflict(f"what was built for {volume.name} was taken away meanwhile") from None
