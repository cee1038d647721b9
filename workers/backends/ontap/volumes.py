"""Volumes of the SVM: found by their stamp, changed under a fence, deleted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from orchestrator.domain.errors import (
    BackendUnavailable,
    Conflict,
    NotFound,
    UnknownVolume,
)
from workers.backends.base.call import Call
from workers.backends.base.fences import refuse_late
from workers.backends.base.references import VolumeRef, check_id
from workers.backends.ontap.facts import VOLUME_FIELDS
from workers.backends.ontap.filer import Filer
from workers.backends.ontap.names import NEW
from workers.backends.ontap.stamps import Stamp, read_stamp

Record = dict[str, Any]

VOLUMES = "/storage/volumes"


class Volumes:
    """What is done with the volumes of one SVM."""

    def __init__(self, filer: Filer) -> None:
        self.filer = filer

    # -- looking ------------------------------------------------------------------------------

    def bearing(self, volume_id: str, *, sure: bool = True) -> tuple[Record | None, Record | None]:
        """The volume with this id, and what is being built for it.

        Nothing means that there is none, unless ``sure`` is false: then perhaps no SVM either.
        """
        found = [
            record
            for record in self.filer.records(
                VOLUMES,
                VOLUME_FIELDS,
                **{"svm.name": self.filer.svm, "comment": f"*id={check_id(volume_id)}*"},
            )
            if (stamp := read_stamp(record.get("comment"))) and stamp.id == volume_id
        ]
        if not found and sure:
            self.require_svm()
        built = [record for record in found if record["name"] == NEW + volume_id]
        published = [record for record in found if record["name"] != NEW + volume_id]
        if len(published) > 1:
            names = ", ".join(sorted(record["name"] for record in published))
            raise Conflict(
                f"several volumes of the filer bear the id {volume_id}: {names}; take the stamp "
                "out of the comments of those that are copies"
            )
        return (published[0] if published else None), (built[0] if built else None)

    def found(self, volume: VolumeRef) -> Record | None:
        """The published volume with this id."""
        return self.bearing(volume.id)[0]

    def needed(self, volume: VolumeRef) -> Record:
        """The same; `UnknownVolume` if there is none."""
        record = self.found(volume)
        if record is None:
            raise UnknownVolume(f"the SVM {self.filer.svm} has no volume {volume.name}")
        return record

    def again(self, uuid: str) -> Record | None:
        """What the filer has under this uuid now."""
        with suppress(NotFound):
            return self.filer.get(f"{VOLUMES}/{uuid}", fields=VOLUME_FIELDS)
        return None

    def named(self, native: str) -> Record | None:
        """Whatever has this name in the SVM."""
        query = {"svm.name": self.filer.svm, "name": native}
        found = self.filer.records(VOLUMES, VOLUME_FIELDS, **query)
        # Some characters make a pattern of a name.
        return next((record for record in found if record["name"] == native), None)

    def require_svm(self) -> Record:
        """The SVM's record. An SVM that is not there is not an empty one."""
        query = {"name": self.filer.svm}
        record = next(self.filer.records("/svm/svms", "uuid,name,aggregates.name", **query), None)
        if record is None:
            raise BackendUnavailable(
                f"the filer {self.filer.where} has no SVM {self.filer.svm}, or hides it from the "
                f"user {self.filer.options.username}"
            )
        return record

    # -- changing -----------------------------------------------------------------------------

    def change(
        self,
        volume: VolumeRef,
        call: Call,
        wanted: Callable[[Record, Stamp], tuple[Mapping[str, Any], Stamp]],
    ) -> Record:
        """Change a volume so that nobody later is disturbed; what it is afterwards.

        ``wanted`` is given the record and the stamp, and answers the fields to change, and the
        stamp, whose fence is then the call's. With no fields nothing is asked of the filer.
        """
        call.checkpoint()
        record = self.needed(volume)
        stamp = fenced(record, volume.name, call)
        body, new = wanted(record, stamp)
        if not body and new == stamp:
            return record
        return self.apply(record, body, new, call)

    def apply(self, record: Record, body: Mapping[str, Any], stamp: Stamp, call: Call) -> Record:
        """One PATCH with the fields and the stamp; what the volume is afterwards."""
        stamped = replace(stamp, fence=max(stamp.fence, call.fence)).written()
        path = f"{VOLUMES}/{record['uuid']}"
        answer = self.filer.patch(path, {**body, "comment": stamped}, return_timeout="0")
        self.filer.follow(answer, call, f"PATCH {path}")
        after = self.again(record["uuid"])
        if after is None:
            raise Conflict("the volume was taken away while it was changed")
        return after

    def delete(self, record: Record, call: Call) -> None:
        """Delete what was looked at, unless somebody later has changed it since."""
        call.checkpoint()
        there = self.again(record["uuid"])
        if there is None:
            return
        stamp = fenced(there, record["name"], call)
        if there.get("nas", {}).get("path"):
            # The filer deletes nothing that is mounted.
            there = self.apply(there, {"nas": {"path": ""}}, stamp, call)
        path = f"{VOLUMES}/{there['uuid']}"
        with suppress(NotFound):
            self.filer.follow(self.filer.delete(path), call, f"DELETE {path}")


def fenced(record: Mapping[str, Any], name: str, call: Call) -> Stamp:
    """The stamp of a record of ours, once it is known that nobody later has changed it."""
    stamp = read_stamp(record.get("comment"))
    if stamp is None:
        raise Conflict(f"the filer's volume {record['name']} bears no stamp of ours any more")
    refuse_late(name, stamp.fence, call)
    return stamp
