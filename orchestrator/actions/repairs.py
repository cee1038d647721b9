"""Which repairs there are for which kind of finding: each a job of its own.

A repair is possible or not for one finding; `repairs_of` tells which are, with the job each
would be. What is not ours is never removed: it can only be adopted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.actions.backend.recount import RECOUNT
from orchestrator.actions.policy.assign import ASSIGN
from orchestrator.actions.policy.rules import REAPPLY, SET_RULES
from orchestrator.actions.volume.adopt import ADOPT
from orchestrator.actions.volume.attach import ATTACH
from orchestrator.actions.volume.break_lock import BREAK_LOCK
from orchestrator.actions.volume.detach import DETACH
from orchestrator.actions.volume.forget import FORGET
from orchestrator.actions.volume.reconcile import RECONCILE
from orchestrator.actions.volume.recreate import RECREATE
from orchestrator.actions.volume.remove_orphan import REMOVE_ORPHAN
from orchestrator.actions.volume.rename import RENAME
from orchestrator.actions.volume.update import UPDATE
from orchestrator.domain.action import Action
from orchestrator.domain.errors import InvalidName
from orchestrator.domain.names import check_volume_name
from orchestrator.domain.states import FindingKind

#: What is known of whose an orphan is, by `detail["whose"]`.
REMOVED, FORGOTTEN, UNKNOWN, FOREIGN = "removed", "forgotten", "unknown", "foreign"
#: It bears the stamp of a volume that the inventory has, and is not where that one's image is.
TWIN = "twin"

#: A row of `findings`, with its ``backend``; the job that repairs it, or None.
Row = Mapping[str, Any]
RepairRequest = dict[str, Any]


@dataclass(frozen=True)
class Repair:
    """One way to make a finding untrue."""

    summary: str
    request: Callable[[Row], RepairRequest | None]


def repairs_of(row: Row) -> dict[str, tuple[Repair, RepairRequest]]:
    """The repairs that are possible for this finding, by name, with the job each would be."""
    possible: dict[str, tuple[Repair, RepairRequest]] = {}
    for name, repair in REPAIRS[FindingKind(row["kind"])].items():
        request = repair.request(row)
        if request is not None:
            possible[name] = repair, {"backend": row["backend"], **request}
    return possible


def _of_volume(action: Action, **params: Any) -> Callable[[Row], RepairRequest | None]:
    def request(row: Row) -> RepairRequest | None:
        if row["volume"] is None:
            return None
        return {"action": action.name, "volume": row["volume"], "params": params}

    return request


def _adopt(row: Row) -> RepairRequest | None:
    whose = row["detail"].get("whose")
    if whose in (None, TWIN) or row["detail"].get("name_taken") or row["detail"].get("copies"):
        return None
    if row["detail"].get("volume") is False:
        return None
    try:
        check_volume_name(row["volume"])
    except InvalidName:
        return None
    params = {} if whose == FOREIGN else {"take_over": True}
    return {"action": ADOPT.name, "volume": row["volume"], "params": params}


def _remove(row: Row) -> RepairRequest | None:
    if row["detail"].get("whose") != REMOVED or row["detail"].get("name_taken"):
        return None
    params = {"finding": row["id"]}
    return {"action": REMOVE_ORPHAN.name, "volume": row["volume"], "params": params}


def _record_snapshots(row: Row) -> RepairRequest | None:
    if row["detail"].get("whose") == FOREIGN:
        return None
    return _of_volume(RECONCILE, what=["snapshots"])(row)


def _reapply(row: Row) -> RepairRequest | None:
    if row["volume"] is None and row["detail"].get("recorded") is not None:
        return {"action": REAPPLY.name, "policy": row["policy"]}
    if row["volume"] is not None:
        return {"action": ASSIGN.name, "volume": row["volume"], "policy": row["policy"]}
    return None


def _record_policy(row: Row) -> RepairRequest | None:
    found = row["detail"].get("found")
    if row["volume"] is not None:
        known = row["detail"].get("known")
        return _of_volume(RECONCILE, what=["policy"])(row) if known else None
    if found is None or row["detail"].get("recorded") is None or row["detail"].get("foreign_rules"):
        return None
    return {"action": SET_RULES.name, "policy": row["policy"], "params": {"rules": found}}


def _on_host(action: Action) -> Callable[[Row], RepairRequest | None]:
    def request(row: Row) -> RepairRequest | None:
        if action is DETACH and row["detail"].get("recorded") is None:
            return None
        params = {}
        if action is ATTACH and row["detail"].get("read_only"):
            params = {"read_only": True}
        target = {"volume": row["volume"], "host": row["host"]}
        return {"action": action.name, **target, "params": params}

    return request


#: What of a record a reconciliation takes from the storage.
_RECORDABLE = ("metadata", "settings")


def _record_differing(row: Row) -> RepairRequest | None:
    what = row["detail"]["what"]
    if what == "name":
        return _of_volume(RENAME, new_name=row["detail"]["found"])(row)
    return _of_volume(RECONCILE, what=[what])(row) if what in _RECORDABLE else None


def _apply(row: Row) -> RepairRequest | None:
    what, recorded, found = (row["detail"].get(key) for key in ("what", "recorded", "found"))
    if what == "metadata":
        changed = {**dict.fromkeys(found or {}), **(recorded or {})}
        return _of_volume(UPDATE, metadata=changed)(row) if changed else None
    if what == "settings":
        return _of_volume(UPDATE, settings=recorded)(row)
    return None


def _break(row: Row) -> RepairRequest | None:
    """That very lock: not one that was taken since."""
    if row["detail"].get("what") != "lock":
        return None
    meant = {"owner": row["host"], "taken_at": row["detail"].get("taken_at")}
    return _of_volume(BREAK_LOCK, **meant)(row)


def _forget_stuck(row: Row) -> RepairRequest | None:
    return _of_volume(FORGET)(row) if row["detail"].get("what") == "pending" else None


_BREAK = Repair("Break the lock.", _break)

#: By kind of finding and name.
REPAIRS: dict[FindingKind, dict[str, Repair]] = {
    FindingKind.ORPHAN: {
        "adopt": Repair("Take it into the inventory.", _adopt),
        "remove": Repair("Remove what is left of a volume that was removed.", _remove),
    },
    FindingKind.GHOST: {
        "forget": Repair("Strike the volume from the inventory.", _of_volume(FORGET, lost=True)),
        "recreate": Repair("Make it anew, empty.", _of_volume(RECREATE)),
    },
    FindingKind.SIZE: {
        "record": Repair(
            "Record the size that the storage has.", _of_volume(RECONCILE, what=["size"])
        ),
    },
    FindingKind.SNAPSHOT: {
        "record": Repair("Record the snapshots that there are.", _record_snapshots),
    },
    FindingKind.POLICY: {
        "reapply": Repair("Make the storage's what is recorded.", _reapply),
        "record": Repair("Record what the storage has.", _record_policy),
    },
    FindingKind.ATTACHMENT: {
        "attach": Repair("Attach it, or record that it is attached.", _on_host(ATTACH)),
        "detach": Repair("Record that it is not attached.", _on_host(DETACH)),
    },
    FindingKind.LOCK: {"break": _BREAK},
    FindingKind.METADATA: {
        "record": Repair("Record what the storage has.", _record_differing),
        "apply": Repair("Make the storage's what is recorded.", _apply),
    },
    FindingKind.STUCK: {
        "break": _BREAK,
        "forget": Repair("Strike the volume that nothing makes any more.", _forget_stuck),
    },
    FindingKind.CAPACITY: {
        "recount": Repair(
            "Count anew what is promised.",
            lambda row: {"action": RECOUNT.name} if row["detail"].get("what") == "sum" else None,
        ),
    },
}
