"""The model: what there is, as a dict of volumes, and what each action needs and does to it.

It knows nothing of jobs, leases, workers or retries: an action is done at once or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

GRAIN = 512
#: A moment after every lock has come to its end.
NO_LOCKS = float("inf")

#: An action on its target: the columns of a job's row that say what is meant.
Wanted = Mapping[str, Any]


@dataclass
class Snapshot:
    id: str
    size: int
    contents: bytes
    state: str = "available"


@dataclass
class Volume:
    id: str
    size: int
    contents: bytes = b""
    state: str = "available"
    metadata: dict[str, str] = field(default_factory=dict)
    #: By name, oldest first.
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    #: By host: whether it is read-only.
    attached: dict[str, bool] = field(default_factory=dict)
    #: Owner and end of its lock, on the clock of the history.
    lock: tuple[str, float] | None = None

    def copy(self) -> Volume:
        return replace(
            self,
            metadata=dict(self.metadata),
            snapshots={name: replace(one) for name, one in self.snapshots.items()},
            attached=dict(self.attached),
        )


#: Live volumes by name.
Inventory = dict[str, Volume]


def copied(inventory: Inventory) -> Inventory:
    return {name: volume.copy() for name, volume in inventory.items()}


def rounded(size: int) -> int:
    return -(-size // GRAIN) * GRAIN


#: Actions that another host's lock forbids.
LOCKABLE = {
    "volume.rename",
    "volume.rollback",
    "volume.wipe",
    "volume.restrict",
    "volume.remove",
    "volume.purge",
    "volume.detach",
    "snapshot.delete",
}
#: Actions that run only if what is unfinished before them on the volume succeeds.
DESTRUCTIVE = {
    "volume.rollback",
    "volume.wipe",
    "volume.restrict",
    "volume.remove",
    "volume.purge",
}
#: Actions that make something new, which is taken away again if they fail.
MAKERS = {"volume.create", "volume.clone", "snapshot.create"}


def names_of(job: Wanted) -> set[str]:
    """The names an action needs for itself."""
    names = {job["volume"], job["params"].get("source"), job["params"].get("new_name")}
    if job["action"].startswith("backend."):
        names = {""} if job["action"] in ("backend.drain", "backend.resume") else set()
    return {name for name in names if name is not None}


def refusal(there: Inventory, job: Wanted, now: float = NO_LOCKS) -> str | None:
    """Why this cannot be done now, as the code of an error; None if it can."""
    volume = there.get(job["volume"] or "")
    if job["action"] in LOCKABLE and volume and locked_against(volume, job["host"], now):
        return "locked"
    needs = _NEEDS.get(job["action"])
    return needs(there, job) if needs else None


def locked_against(volume: Volume, host: str | None, now: float) -> bool:
    if volume.lock is None:
        return False
    owner, end = volume.lock
    return end > now and owner != host


def do(there: Inventory, job: Wanted) -> None:
    """What the action leaves."""
    if does := _DOES.get(job["action"]):
        does(there, job)


# -- what they need -------------------------------------------------------------------------


def _wrong(there: Inventory, job: Wanted, *states: str) -> str | None:
    volume = there.get(job["volume"])
    if volume is None:
        return "unknown_volume"
    if job["volume_id"] is not None and job["volume_id"] != volume.id:
        return "volume_replaced"
    return None if volume.state in (states or ("available",)) else "wrong_state"


def _no_snapshot(volume: Volume, job: Wanted, *, usable: bool = True) -> str | None:
    snapshot = volume.snapshots.get(job["snapshot"])
    if snapshot is None or job["snapshot_id"] not in (None, snapshot.id):
        return "unknown_snapshot"
    return "wrong_state" if usable and snapshot.state != "available" else None


def _needs_create(there: Inventory, job: Wanted) -> str | None:
    return "already_exists" if job["volume"] in there else None


def _needs_clone(there: Inventory, job: Wanted) -> str | None:
    if job["volume"] in there:
        return "already_exists"
    source = there.get(job["params"]["source"])
    if source is None:
        return "unknown_volume"
    if job["source_id"] not in (None, source.id):
        return "volume_replaced"
    if source.state != "available":
        return "wrong_state"
    if job["snapshot"] is not None and (why := _no_snapshot(source, job)):
        return why
    asked = job["params"].get("size_bytes")
    return "shrink_refused" if asked is not None and asked < _origin(there, job).size else None


def _needs_grow(there: Inventory, job: Wanted) -> str | None:
    if why := _wrong(there, job):
        return why
    return "shrink_refused" if job["params"]["size_bytes"] <= there[job["volume"]].size else None


def _needs_idle(there: Inventory, job: Wanted) -> str | None:
    return _wrong(there, job) or ("in_use" if there[job["volume"]].attached else None)


def _needs_rename(there: Inventory, job: Wanted) -> str | None:
    if why := _needs_idle(there, job):
        return why
    return "already_exists" if job["params"]["new_name"] in there else None


def _needs_rollback(there: Inventory, job: Wanted) -> str | None:
    if why := _needs_idle(there, job):
        return why
    volume = there[job["volume"]]
    if why := _no_snapshot(volume, job):
        return why
    newer = _newer(volume, job["snapshot"])
    return "newer_snapshots" if newer and not job["params"].get("discard_newer") else None


def _newer(volume: Volume, snapshot: str) -> list[str]:
    names = list(volume.snapshots)
    return names[names.index(snapshot) + 1 :]


def _needs_remove(there: Inventory, job: Wanted) -> str | None:
    purge = job["action"] == "volume.purge"
    states = ("restricted",) if purge else ("available", "error")
    if why := _wrong(there, job, *states):
        return why
    volume = there[job["volume"]]
    return "in_use" if volume.attached or volume.snapshots else None


def _needs_snapshot(there: Inventory, job: Wanted) -> str | None:
    if why := _wrong(there, job):
        return why
    return "already_exists" if job["snapshot"] in there[job["volume"]].snapshots else None


def _needs_deletable(there: Inventory, job: Wanted) -> str | None:
    if why := _wrong(there, job, "available", "restricted"):
        return why
    return _no_snapshot(there[job["volume"]], job, usable=False)


def _needs_attach(there: Inventory, job: Wanted) -> str | None:
    if why := _wrong(there, job):
        return why
    held = there[job["volume"]].attached.get(job["host"])
    wanted = bool(job["params"].get("read_only"))
    return "in_use" if held not in (None, wanted) else None


_NEEDS: dict[str, Callable[[Inventory, Wanted], str | None]] = {
    "volume.create": _needs_create,
    "volume.clone": _needs_clone,
    "volume.grow": _needs_grow,
    "volume.update": _wrong,
    "volume.rename": _needs_rename,
    "volume.rollback": _needs_rollback,
    "volume.wipe": _needs_idle,
    "volume.restrict": _needs_idle,
    "volume.unrestrict": lambda there, job: _wrong(there, job, "restricted"),
    "volume.remove": _needs_remove,
    "volume.purge": _needs_remove,
    "volume.verify": lambda there, job: _wrong(there, job, "available", "restricted", "error"),
    "volume.attach": _needs_attach,
    "volume.detach": lambda there, job: _wrong(there, job, "available", "error"),
    "snapshot.create": _needs_snapshot,
    "snapshot.delete": _needs_deletable,
}


# -- what they do ---------------------------------------------------------------------------


def _origin(there: Inventory, job: Wanted) -> Volume | Snapshot:
    source = there[job["params"]["source"]]
    return source if job["snapshot"] is None else source.snapshots[job["snapshot"]]


def _create(there: Inventory, job: Wanted) -> None:
    size, metadata = job["params"]["size_bytes"], job["params"].get("metadata") or {}
    there[job["volume"]] = Volume(job["volume_id"], rounded(size), metadata=dict(metadata))


def _clone(there: Inventory, job: Wanted) -> None:
    origin = _origin(there, job)
    size = rounded(job["params"].get("size_bytes") or origin.size)
    given = job["params"].get("metadata")
    source = there[job["params"]["source"]]
    metadata = dict(source.metadata if given is None else given)
    there[job["volume"]] = Volume(job["volume_id"], size, origin.contents, metadata=metadata)


def _grow(there: Inventory, job: Wanted) -> None:
    there[job["volume"]].size = rounded(job["params"]["size_bytes"])


def _update(there: Inventory, job: Wanted) -> None:
    merged = {**there[job["volume"]].metadata, **job["params"]["metadata"]}
    there[job["volume"]].metadata = {k: text for k, text in merged.items() if text is not None}


def _rename(there: Inventory, job: Wanted) -> None:
    there[job["params"]["new_name"]] = there.pop(job["volume"])


def _rollback(there: Inventory, job: Wanted) -> None:
    volume = there[job["volume"]]
    for newer in _newer(volume, job["snapshot"]):
        del volume.snapshots[newer]
    kept = volume.snapshots[job["snapshot"]]
    volume.size, volume.contents = kept.size, kept.contents


def _wipe(there: Inventory, job: Wanted) -> None:
    there[job["volume"]].contents = b""


def _becomes(state: str) -> Callable[[Inventory, Wanted], None]:
    def become(there: Inventory, job: Wanted) -> None:
        there[job["volume"]].state = state

    return become


def _remove(there: Inventory, job: Wanted) -> None:
    del there[job["volume"]]


def _snapshot(there: Inventory, job: Wanted) -> None:
    volume = there[job["volume"]]
    volume.snapshots[job["snapshot"]] = Snapshot(job["snapshot_id"], volume.size, volume.contents)


def _delete_snapshot(there: Inventory, job: Wanted) -> None:
    del there[job["volume"]].snapshots[job["snapshot"]]


def _attach(there: Inventory, job: Wanted) -> None:
    there[job["volume"]].attached[job["host"]] = bool(job["params"].get("read_only"))


def _detach(there: Inventory, job: Wanted) -> None:
    there[job["volume"]].attached.pop(job["host"], None)


_DOES: dict[str, Callable[[Inventory, Wanted], None]] = {
    "volume.create": _create,
    "volume.clone": _clone,
    "volume.grow": _grow,
    "volume.update": _update,
    "volume.rename": _rename,
    "volume.rollback": _rollback,
    "volume.wipe": _wipe,
    "volume.restrict": _becomes("restricted"),
    "volume.unrestrict": _becomes("available"),
    "volume.remove": _remove,
    "volume.purge": _remove,
    "volume.attach": _attach,
    "volume.detach": _detach,
    "snapshot.create": _snapshot,
    "snapshot.delete": _delete_snapshot,
}
