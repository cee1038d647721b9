"""Snapshots: taken, listed, deleted, rolled back to; and those that a clone begins from."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import datetime

from orchestrator.domain.errors import (
    AlreadyExists,
    BackendError,
    Conflict,
    NewerSnapshots,
    NotFound,
    Problem,
    StillWorking,
    TimedOut,
    UnknownSnapshot,
    UnknownVolume,
)
from workers.backends.base.call import Call
from workers.backends.base.references import SnapshotRef, VolumeRef, adopted_id, check_id
from workers.backends.ontap.facts import ORDER, SNAPSHOT_FIELDS
from workers.backends.ontap.names import (
    NEW,
    ROLLBACK,
    is_scheduled,
    native_snapshot,
    seen_other,
)
from workers.backends.ontap.stamps import Stamp, read_stamp
from workers.backends.ontap.volumes import VOLUMES, Record, Volumes, fenced

#: How many snapshots of one moment have places of their own.
_A_MOMENT = 1000


class Snapshots:
    """What is done with the snapshots of the volumes of one SVM."""

    def __init__(self, volumes: Volumes) -> None:
        self.volumes = volumes
        self.filer = volumes.filer

    # -- looking ------------------------------------------------------------------------------

    def all_of(self, volume: Record) -> list[Record]:
        """All the filer has, oldest first, each with its place.

        Of those of one moment, mostly one second, it tells the older first.
        """
        found = sorted(self.filer.records(_path(volume), SNAPSHOT_FIELDS), key=_taken_at)
        last = -1
        for one in found:
            # Their times, and not their number, so that it stays when older ones are deleted.
            last = one[ORDER] = max(last + 1, _taken_at(one) * _A_MOMENT)
        return found

    def seen(self, volume: Record) -> list[Record]:
        """Those that are not the driver's own tools."""
        return [one for one in self.all_of(volume) if not one["name"].startswith((NEW, ROLLBACK))]

    def holding(self, volume: Record) -> list[str]:
        """The names of those that keep the volume from being removed."""
        return [
            seen_other(one["name"])
            for one in self.seen(volume)
            if read_stamp(one.get("comment")) or not is_scheduled(one["name"])
        ]

    def needed(self, volume: Record, snapshot: SnapshotRef) -> Record:
        """The snapshot with this id."""
        found = _with_id(self.all_of(volume), snapshot.id)
        if found is None:
            raise UnknownSnapshot(f"volume {snapshot.volume.name} has no snapshot {snapshot.name}")
        return found

    # -- making and deleting --------------------------------------------------------------------

    def create(self, snapshot: SnapshotRef, call: Call) -> Record:
        """Take it. ONTAP does so in one step, so it is published as it is made."""
        native, snapshot_id = native_snapshot(snapshot.name), check_id(snapshot.id)
        call.checkpoint()
        volume = self.volumes.needed(snapshot.volume)
        fenced(volume, snapshot.volume.name, call)
        there = self.all_of(volume)
        if (found := _with_id(there, snapshot_id)) is not None:
            if found["name"] != native:
                raise Conflict(f"snapshot {snapshot_id} exists as {seen_other(found['name'])}")
            return found
        if any(one["name"] == native for one in there):
            raise AlreadyExists(
                f"volume {snapshot.volume.name} has another snapshot {snapshot.name}"
            )
        self._take(volume, native, Stamp(id=snapshot_id, fence=call.fence), call)
        return self.needed(volume, snapshot)

    def adopt(self, volume: Record, volume_id: str, call: Call) -> None:
        """Stamp those that others have taken, but for what the filer deletes by itself, and those
        that bear a stamp from before: a record that was struck has had that id."""
        for one in self.seen(volume):
            old = read_stamp(one.get("comment"))
            id_ = adopted_id(volume_id, seen_other(one["name"]))
            if old is None and is_scheduled(one["name"]):
                continue
            if old is not None and old.id == id_:
                continue
            call.checkpoint()
            # Of a foreign one nobody knows how large the volume was.
            size = old.size if old else int(volume["size"])
            stamp = Stamp(id=id_, fence=call.fence, size=size)
            path = f"{_path(volume)}/{one['uuid']}"
            answer = self.filer.patch(path, {"comment": stamp.written()}, return_timeout="0")
            self.filer.follow(answer, call, f"PATCH {path}")

    def delete(self, snapshot: SnapshotRef, call: Call) -> None:
        """Delete it; nothing if it is gone."""
        snapshot_id = check_id(snapshot.id)
        call.checkpoint()
        volume = self.volumes.found(snapshot.volume)
        if volume is None:
            return
        fenced(volume, snapshot.volume.name, call)
        found = _with_id(self.all_of(volume), snapshot_id)
        if found is not None:
            self._drop(volume, found, call)

    def _take(self, volume: Record, native: str, stamp: Stamp, call: Call) -> None:
        sized = replace(stamp, size=int(volume["size"])).written()
        path = _path(volume)
        answer = self.filer.post(path, {"name": native, "comment": sized}, return_timeout="0")
        self.filer.follow(answer, call, f"POST {path}")

    def _drop(self, volume: Record, snapshot: Record, call: Call) -> None:
        path = f"{_path(volume)}/{snapshot['uuid']}"
        with suppress(NotFound):
            self.filer.follow(self.filer.delete(path), call, f"DELETE {path}")

    # -- what clones begin from -------------------------------------------------------------------

    def base(self, parent: Record, clone_id: str, call: Call) -> Record:
        """The snapshot of the source as the clone is to have it; the one that is there already."""
        return self._tool(parent, NEW + clone_id, Stamp(id=clone_id, fence=call.fence), call)

    def _tool(self, volume: Record, native: str, stamp: Stamp, call: Call) -> Record:
        """A snapshot for the driver's own use, unless it is there already."""
        for begun in (False, True):
            found = self.filer.records(_path(volume), SNAPSHOT_FIELDS, name=native)
            if (one := next(found, None)) is not None:
                return one
            if not begun:
                with suppress(AlreadyExists):
                    self._take(volume, native, stamp, call)
        raise StillWorking(f"the filer is taking a snapshot of {volume['name']}")

    def drop_bases(self, clone_id: str, call: Call, parent: Record | None = None) -> None:
        """Delete it again, wherever it is."""
        for found in self._bases(clone_id, parent):
            self._drop(found["volume"], found, call)

    def forget_bases(self, clone_id: str) -> None:
        """The same without waiting for the end."""
        for found in self._bases(clone_id, None):
            self.filer.delete(f"{_path(found['volume'])}/{found['uuid']}")

    def _bases(self, clone_id: str, parent: Record | None) -> list[Record]:
        path = _path(parent or {"uuid": "*"})
        query = {"name": NEW + check_id(clone_id)}
        if parent is None:
            query["svm.name"] = self.filer.svm
        with suppress(NotFound):
            return [
                record
                for record in self.filer.records(path, SNAPSHOT_FIELDS, **query)
                if (stamp := read_stamp(record.get("comment"))) and stamp.id == clone_id
            ]
        return []

    def drop_all(self, volume: Record, call: Call) -> None:
        """Delete every snapshot of a volume that is being built."""
        for found in self.all_of(volume):
            self._drop(volume, found, call)

    # -- rolling back -----------------------------------------------------------------------------

    def rollback(self, volume: VolumeRef, snapshot: SnapshotRef, call: Call) -> Record:
        """Put the volume back, once for each job.

        First a snapshot is taken and the job is written into the volume's stamp as rolling back;
        then the filer is asked, and which job of its own does it is written there, too. ONTAP
        deletes the newer snapshots: while that one is there, it is not done. If it is gone, the
        filer's job tells, or else that the volume holds just what the snapshot does. Where
        neither tells any more, nothing is repeated: it may have been written to since.
        """
        native_snapshot(snapshot.name)
        call.checkpoint()
        record = self.volumes.needed(volume)
        stamp = fenced(record, volume.name, call)
        if stamp.restored_by == call.token:
            return record
        target = self.needed(record, snapshot)
        proof = Stamp(id=volume.id, fence=call.fence)
        if stamp.restoring != call.token:
            self._refuse_newer(record, target)
            self._tool(record, _proof(call.token), proof, call)
            intent = replace(
                stamp, restoring=call.token, restoring_to=target["uuid"], restoring_by=None
            )
            record = self.volumes.apply(record, {}, intent, call)
        else:
            done = self.is_restored(record, stamp)
            if done:
                return self._conclude(record, target, call)
            if done is None:
                raise self._unproved(record, volume, snapshot)
            # It was not done, and somebody may have deleted what shows that.
            self._tool(record, _proof(call.token), proof, call)
        if not self._restore(record, target, volume, call):
            again = self.volumes.needed(volume)
            if not self.is_restored(again, fenced(again, volume.name, call)):
                raise self._unproved(again, volume, snapshot)
        return self._conclude(record, target, call)

    def is_restored(self, volume: Record, stamp: Stamp) -> bool | None:
        """Whether the rollback that a stamp tells of has been done by the filer; None: nobody
        knows, or it is not over."""
        there = self.all_of(volume)
        if any(one["name"] == _proof(str(stamp.restoring)) for one in there):
            return False
        ended = None if stamp.restoring_by is None else self.filer.has_succeeded(stamp.restoring_by)
        if ended is not None:
            return ended
        target = next((one for one in there if one["uuid"] == stamp.restoring_to), None)
        if target is None or self.filer.is_at_work_on(volume["uuid"]):
            return None
        return True if self._holds_just(volume, target) else None

    def _holds_just(self, volume: Record, snapshot: Record) -> bool:
        """Whether the volume holds what the snapshot does, and nothing was written since."""
        found = self.filer.records(_path(volume), "uuid,delta", name=snapshot["name"])
        consumed = [
            one.get("delta", {}).get("size_consumed")
            for one in found
            if one["uuid"] == snapshot["uuid"]
        ]
        return consumed == [0]

    def _unproved(self, record: Record, volume: VolumeRef, snapshot: SnapshotRef) -> Problem:
        if self.filer.is_at_work_on(record["uuid"]):
            return StillWorking(f"the filer is rolling {volume.name} back")
        return BackendError(
            f"whether the filer has rolled {volume.name} back to {snapshot.name} cannot be known: "
            "the snapshot that would still be there if it had not is gone, its job is forgotten, "
            "and the volume does not hold just what the snapshot does, so it may have been written "
            "to since. Nothing was repeated: look at what it holds, and roll back once more if it "
            "is not what is wanted"
        )

    def _refuse_newer(self, volume: Record, target: Record) -> None:
        """Foreign snapshots are not ours to lose; those of our own the engine has looked at."""
        there = self.all_of(volume)
        newer = [
            seen_other(one["name"])
            for one in there[there.index(target) + 1 :]
            if read_stamp(one.get("comment")) is None and not is_scheduled(one["name"])
        ]
        if newer:
            raise NewerSnapshots(
                f"rolling back would lose snapshots that others have taken: {', '.join(newer)}; "
                "delete them on the filer first",
                snapshots=newer,
            )

    def _restore(self, record: Record, target: Record, volume: VolumeRef, call: Call) -> bool:
        """Have the filer do it; whether it is known to be done."""
        call.checkpoint()
        there = self.volumes.again(record["uuid"])
        if there is None:
            raise UnknownVolume(f"the SVM {self.filer.svm} has no volume {volume.name}")
        stamp = fenced(there, volume.name, call)
        if self.filer.is_at_work_on(record["uuid"]):
            raise StillWorking(f"the filer is rolling {volume.name} back")
        path = f"{VOLUMES}/{record['uuid']}"
        query = {"return_timeout": "0", "restore_to.snapshot.uuid": target["uuid"]}
        try:
            answer = self.filer.patch(path, {}, **query)
            by = answer.get("job", {}).get("uuid")
            # Should this fail, it is known without, as long as nothing else goes wrong.
            with suppress(Problem):
                self.volumes.apply(there, {}, replace(stamp, restoring_by=by), call)
            return self.filer.follow(answer, call, f"PATCH {path}")
        except Problem as problem:
            if not problem.retryable and not isinstance(problem, TimedOut):
                self._withdraw(there, call)
            raise

    def withdraw(self, volume: VolumeRef, call: Call) -> None:
        """Take back what this job had written down for a rollback that the filer has not done."""
        record = self.volumes.found(volume)
        if record is None:
            return
        if self.filer.is_at_work_on(record["uuid"]):
            raise StillWorking(f"the filer is at work on {volume.name}")
        self._withdraw(record, call)

    def _withdraw(self, record: Record, call: Call) -> None:
        """The filer refused: first the intent goes, then what shows that it was not done."""
        stamp = read_stamp(record.get("comment"))
        proof = next(
            (one for one in self.all_of(record) if one["name"] == _proof(call.token)), None
        )
        if stamp is None or proof is None:
            return
        with suppress(Problem):
            none = replace(stamp, restoring=None, restoring_to=None, restoring_by=None)
            self.volumes.apply(record, {}, none, call)
            self._drop(record, proof, call)

    def _conclude(self, record: Record, target: Record, call: Call) -> Record:
        """Write down that it was done. The size becomes the snapshot's, if the filer lets it."""
        there = self.volumes.again(record["uuid"]) or record
        stamp = fenced(there, record["name"], call)
        done = replace(
            stamp,
            restoring=None,
            restoring_to=None,
            restoring_by=None,
            restored_by=call.token,
        )
        kept = read_stamp(target.get("comment"))
        size = kept.size if kept else None
        if size is None or size == there.get("size"):
            return self.volumes.apply(there, {}, done, call)
        try:
            return self.volumes.apply(there, {"size": size}, done, call)
        except Problem as problem:
            if problem.retryable:
                raise
            # Larger than it was; the contents are what was asked for.
            return self.volumes.apply(there, {}, done, call)


def _taken_at(snapshot: Record) -> int:
    """When it was taken, in milliseconds since 1970; filers tell whole seconds mostly."""
    told = snapshot.get("create_time")
    return 0 if told is None else round(datetime.fromisoformat(told).timestamp() * 1000)


def _path(volume: Record) -> str:
    return f"{VOLUMES}/{volume['uuid']}/snapshots"


def _proof(token: str) -> str:
    return f"{ROLLBACK}{token}"


def _with_id(there: list[Record], snapshot_id: str) -> Record | None:
    return next(
        (
            one
            for one in there
            if (stamp := read_stamp(one.get("comment")))
            and stamp.id == snapshot_id
            and not one["name"].startswith((NEW, ROLLBACK))
        ),
        None,
    )
