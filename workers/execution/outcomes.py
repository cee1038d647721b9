"""What has become of a job that was canceled after it had begun, read off the storage.

One entry for each action that changes what is there. Nothing is begun here: what happened is
told, what happened wholly is the job's success, and what happened in part is told with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.actions.policy.rules import rules_wanted
from orchestrator.actions.volume.rollback import newer_snapshots
from orchestrator.domain.drivers import DRIVERS
from orchestrator.domain.exports import written_rules
from orchestrator.domain.states import PolicyState, VolumeState
from orchestrator.inventory.changes import (
    Change,
    Detached,
    Opened,
    PolicyGone,
    SnapshotGone,
    VolumeGone,
    set_policy,
    set_volume,
    settings_columns,
)
from workers.backends.base.abilities import CanExportByPolicy, CanOpen
from workers.backends.base.driver import driver_that
from workers.backends.base.facts import Absent, NotOurs, PolicyFacts, VolumeFacts
from workers.backends.base.references import VolumeRef
from workers.execution.handlers import adopt, rolled_back
from workers.execution.truth import (
    LastCall,
    Seen,
    gone,
    look,
    look_at_policy,
    not_seen,
    recorded,
    recorded_policy,
    told_of,
)
from workers.execution.work import (
    Done,
    Work,
    attached_as,
    exports_of,
    made,
    recorded_volume,
    sizes_of,
)


@dataclass(frozen=True)
class Nothing:
    """Nothing of it happened."""

    changes: Sequence[Change] = ()


@dataclass(frozen=True)
class Whole:
    """All of it happened."""

    done: Done


@dataclass(frozen=True)
class Part:
    """Some of it happened, or may have: what, for people, and as facts."""

    told: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    changes: Sequence[Change] = ()
    #: The action can be stopped anywhere: what was done until then stays, as it was to.
    stopped: bool = False


Become = Nothing | Whole | Part
#: Raises whatever keeps it from being seen.
OutcomeOf = Callable[[Work], Become]

#: What is seen of the volume, or of the policy, if it is there.
_Judge = Callable[[Work, VolumeFacts, Seen], Become]
_JudgePolicy = Callable[[Work, PolicyFacts | None], Become]


def _of_volume(judge: _Judge, if_gone: Callable[[Work], Become] | None = None) -> OutcomeOf:
    """``if_gone``: what it means that the volume is proved to be gone."""

    def outcome(work: Work) -> Become:
        seen = look(work)
        if if_gone is not None and gone(work, seen):
            return if_gone(work)
        if isinstance(seen.look, VolumeFacts):
            become = judge(work, seen.look, seen)
        else:
            what = "nothing" if isinstance(seen.look, Absent) else seen.look.what
            become = Part(f"{what} is where the volume's storage belongs")
        return _with(become, recorded(work, seen))

    return outcome


def _of_policy(judge: _JudgePolicy) -> OutcomeOf:
    def outcome(work: Work) -> Become:
        found = look_at_policy(work)
        become = judge(work, found)
        return become if isinstance(become, Whole) else _with(become, recorded_policy(work, found))

    return outcome


def _with(become: Become, changes: Sequence[Change]) -> Become:
    """The same, with what the inventory has to say of what was seen."""
    match become:
        case Nothing():
            return Nothing(changes)
        case Part(told, facts, stopped=stopped):
            return Part(told, facts, changes, stopped)
    return become


# -- volumes ------------------------------------------------------------------------------


def _grow(work: Work, facts: VolumeFacts, _seen: Seen) -> Become:
    wanted, before = int(work.intent.params["size_bytes"]), recorded_volume(work).size_bytes
    if facts.size_bytes >= wanted:
        return Whole(
            Done(
                result=sizes_of(facts),
                changes=[set_volume(work.volume.id, requested_bytes=wanted, **sizes_of(facts))],
                before={"size_bytes": before},
                after=sizes_of(facts),
            )
        )
    if facts.size_bytes > before:
        return Part(f"it has {facts.size_bytes} bytes, of {wanted} asked for", sizes_of(facts))
    return Nothing()


def _update(work: Work, facts: VolumeFacts, _seen: Seen) -> Become:
    """Metadata first, then settings: each is as it was, or as it was to be."""
    record, asked = recorded_volume(work), work.intent.params.get("metadata") or {}
    if work.intent.action.verb == "set_info":
        asked = {"info": work.intent.params["info"]}
    metadata = {**record.metadata, **asked}
    metadata = {key: text for key, text in metadata.items() if text is not None}
    settings = {**record.settings, **work.intent.settings}
    native = {
        name: value
        for name, value in work.intent.settings.items()
        if name in DRIVERS[work.claim.driver].settings
    }
    if asked and "metadata" in work.driver.cannot_tell:
        return Part("whether the storage has been told the new text cannot be seen: set it again")
    done = []
    if asked:
        done.append(dict(facts.metadata) == metadata)
    if work.intent.settings:
        # Others are in the inventory alone: nothing of them has happened.
        there = all(facts.settings.get(name) == value for name, value in native.items())
        done.append(there if native else done == [True])
    if not all(done):
        return _some(done, "the metadata is as asked for, and the settings are not")
    values: dict[str, Any] = {"metadata": metadata} if asked else {}
    if work.intent.settings:
        told = exports_of(facts, settings, work.intent.settings.get("junction_path"))
        values |= told if native else settings_columns(settings)
    told = {part: values[part] for part in ("metadata", "settings") if part in values}
    return Whole(Done(result=told, changes=[set_volume(record.id, **values)], after=told))


def _some(done: Sequence[bool], told: str) -> Become:
    return Part(told) if any(done) else Nothing()


def _rename(work: Work, facts: VolumeFacts, _seen: Seen) -> Become:
    old, new = work.volume.name, work.intent.params["new_name"]
    if facts.name == new:
        return Whole(
            Done(
                result={"name": new},
                changes=[set_volume(work.volume.id, name=new)],
                before={"name": old},
                after={"name": new},
            )
        )
    return Nothing() if facts.name == old else Part(f"it is called {facts.name!r}")


def _rollback(work: Work, facts: VolumeFacts, seen: Seen) -> Become:
    if facts.restored_by != work.token:
        return Nothing()
    record, name = recorded_volume(work), work.intent.snapshot
    newer = newer_snapshots(record, name) if name in record.snapshots else []
    left = [one.name for one in newer if one.id in seen.snapshots]
    if left:
        why = f"its contents are those of {name!r}, and newer snapshots are there still"
        return Part(f"{why} ({', '.join(left)})", {"restored": name, "snapshots": left})
    told, changes = rolled_back(work, facts, seen.snapshots)
    return Whole(
        Done(
            result=told,
            changes=changes,
            before={"size_bytes": record.size_bytes, "snapshots": [*record.snapshots]},
            after={"restored": name, **told},
        )
    )


def _wipe(work: Work, _facts: VolumeFacts, _seen: Seen) -> Become:
    """How far it came is in the journal, part by part."""
    begun = work.intended("wipe")
    if begun is None:
        return Nothing()
    begin, length = int(begun.detail["offset_bytes"]), int(begun.detail["length_bytes"])
    told = [step.name.removeprefix("wiped to ") for step in work.steps if step is not begun]
    done = max((int(behind) - begin for behind in told if behind.isdigit()), default=0)
    return Part(
        f"of the {length} bytes from {begin} on, at least the first {done} are wiped",
        {"wiped_bytes": done},
        stopped=True,
    )


def _restriction(wanted: bool, state: VolumeState) -> OutcomeOf:
    def judge(work: Work, facts: VolumeFacts, _seen: Seen) -> Become:
        # None: the storage takes no part in it, so that only the inventory would have changed.
        if facts.restricted is not wanted:
            return Nothing()
        return Whole(
            Done(
                result={"state": state},
                changes=[set_volume(work.volume.id, state=state)],
                before={"state": recorded_volume(work).state},
                after={"state": state},
            )
        )

    return _of_volume(judge)


def _removed(work: Work) -> Become:
    before, wipe = recorded_volume(work), bool(work.intent.params.get("wipe"))
    # Nobody has heard how far it was wiped before.
    told = {"removed": True, "wiped": None if wipe else False, "wiped_bytes": None}
    return Whole(
        Done(
            result=told,
            changes=[VolumeGone(before.id)],
            before={"state": before.state, "size_bytes": before.size_bytes},
            after={"state": VolumeState.REMOVED, **told},
        )
    )


def _remove(work: Work, _facts: VolumeFacts, _seen: Seen) -> Become:
    if work.intent.params.get("wipe"):
        return Part(
            "it is there still, and some or all of its contents may have been wiped already",
            {"wipe_begun": True},
        )
    return Nothing()


def _recreated(work: Work, facts: VolumeFacts, seen: Seen) -> Become:
    record = recorded_volume(work)
    kept = record.snapshots.values()
    lost = not_seen(work, seen.snapshots, {one.id for one in kept})
    told = {
        **sizes_of(facts),
        "lost_snapshots": [one.name for one in kept if one.id not in seen.snapshots],
        "kept_snapshots": [one.name for one in kept if one.id in seen.snapshots],
        **told_of(lost),
    }
    done = made(work, facts)
    changes = [*done.changes, set_volume(record.id, detail=None), *lost]
    # What is found may also be the volume itself, which has come back.
    after = {"empty": facts.used_bytes == 0, **told}
    return Whole(Done(result=told, changes=changes, after=after))


def _remove_orphan(work: Work) -> Become:
    begun = work.intended("remove_orphan")
    assert begun is not None and work.intent.volume is not None  # noqa: S101 - it was touched
    left = VolumeRef(str(begun.detail["id"]), work.intent.volume)
    work.check_identity()
    work.driver.fence_off(left, LastCall(work))
    found = work.driver.inspect(left)
    if isinstance(found, Absent):
        told = {"removed": True, "id": left.id, "wiped_bytes": None}
        return Whole(Done(result=told, before={"id": left.id}, after={"state": "removed"}))
    if isinstance(found, NotOurs) or found.name != left.name:
        return Nothing()
    kept = work.driver.list_snapshots(left)
    return Part(
        f"it is there still, with {len(kept)} of the snapshots that it had",
        {"snapshots": [one.name for one in kept]},
    )


def _adopt(work: Work) -> Become:
    """What bears the stamp is ours, whatever becomes of the job; its snapshots get theirs, too."""
    work.check_identity()
    work.driver.fence_off(work.volume, LastCall(work))
    if isinstance(work.driver.inspect(work.volume), VolumeFacts):
        return Whole(adopt(work))
    taken = [one.name for one in work.driver.list_snapshots(work.volume)]
    if not taken:
        return Nothing()
    told = f"its snapshots {', '.join(taken)} were taken over, and the volume was not"
    return Part(f"{told}: adopt it again, which finishes that", {"snapshots_taken": taken})


# -- use by hosts -------------------------------------------------------------------------


def _attach(work: Work, _facts: VolumeFacts, seen: Seen) -> Become:
    if not seen.devices:
        return Nothing()
    assert work.intent.host is not None  # noqa: S101 - the request model requires it
    device, host = seen.devices[0], work.intent.host
    told = {"device": device.path, "uris": list(device.uris), "host": host}
    attached = attached_as(work.volume.id, host, device)
    return Whole(Done(result=told, changes=[attached], after=told))


def _detach(work: Work, _facts: VolumeFacts, seen: Seen) -> Become:
    if seen.devices:
        return Nothing()
    assert work.intent.host is not None  # noqa: S101 - the request model requires it
    told = {"host": work.intent.host, "forced": False}
    gone_ = Detached(work.volume.id, work.intent.host)
    return Whole(Done(result={"forced": False}, changes=[gone_], after=told))


def _open(work: Work, _facts: VolumeFacts, _seen: Seen) -> Become:
    """No storage tells who has a volume open: an opening is new, and is taken back."""
    attachment = recorded_volume(work).attachments.get(work.intent.host or "")
    if attachment is not None and attachment.opening is None:
        driver_that(work.driver, CanOpen).close(work.volume, LastCall(work))
        return Nothing()
    return Part("whether the storage has let the host use it otherwise cannot be seen")


def _close(work: Work, _facts: VolumeFacts, _seen: Seen) -> Become:
    """Likewise: to close what is closed does nothing, so that it is finished."""
    assert work.intent.host is not None  # noqa: S101 - the request model requires it
    driver_that(work.driver, CanOpen).close(work.volume, LastCall(work))
    told = {"host": work.intent.host, "opening": None}
    closed = Opened(work.volume.id, work.intent.host, None)
    return Whole(Done(result={"opening": None}, changes=[closed], after=told))


# -- snapshots, policies ------------------------------------------------------------------


def _delete_snapshot(work: Work, _facts: VolumeFacts, seen: Seen) -> Become:
    if work.snapshot.id in seen.snapshots:
        return Nothing()
    found = work.driver.inspect_snapshot(work.snapshot)
    if isinstance(found, NotOurs):
        return Part(f"{found.what} stands where the snapshot belongs")
    return Whole(Done(changes=[SnapshotGone(work.snapshot.id)], after={"state": "removed"}))


def _remove_policy(work: Work, found: PolicyFacts | None) -> Become:
    if found is not None:
        return Nothing()
    return Whole(Done(changes=[PolicyGone(work.policy.id)], after={"state": PolicyState.REMOVED}))


def _rules(work: Work, found: PolicyFacts | None) -> Become:
    record = work.claim.policy
    assert record is not None  # noqa: S101 - the rule has checked it
    if found is None:
        return Part("the policy is not there")
    wanted = rules_wanted(work.intent, record)
    if found.rules == wanted:
        # Written once more by this claim, they stay: earlier claims are shut out.
        driver_that(work.driver, CanExportByPolicy).set_rules(work.policy, wanted, LastCall(work))
        rules = written_rules(wanted)
        told = set_policy(record.id, rules=rules, state=PolicyState.AVAILABLE)
        return Whole(
            Done(
                result={"rules": rules},
                changes=[told],
                before={"rules": written_rules(record.rules)},
                after={"rules": rules},
            )
        )
    if found.rules == record.rules:
        return Nothing()
    rules = written_rules(found.rules)
    return Part(f"its rules are {', '.join(rules) or 'none'}", {"rules": rules})


def _assign(work: Work, facts: VolumeFacts, _seen: Seen) -> Become:
    record, wanted = recorded_volume(work), work.claim.policy
    name = wanted.name if wanted else None
    if facts.policy == name:
        return Whole(
            Done(
                result={"policy": name},
                changes=[set_volume(record.id, policy_id=wanted.row_id if wanted else None)],
                before={"policy": record.policy},
                after={"policy": name},
            )
        )
    if facts.policy == record.policy:
        return Nothing()
    return Part(f"it has the export policy {facts.policy!r}", {"policy": facts.policy})


#: By action, of all that change what is there. What makes something new is taken away again
#: instead, and what writes nothing into its journal has touched nothing.
OUTCOMES: dict[str, OutcomeOf] = {
    "volume.grow": _of_volume(_grow),
    "volume.update": _of_volume(_update),
    "volume.set_info": _of_volume(_update),
    "volume.rename": _of_volume(_rename),
    "volume.rollback": _of_volume(_rollback),
    "volume.wipe": _of_volume(_wipe),
    "volume.restrict": _restriction(True, VolumeState.RESTRICTED),
    "volume.unrestrict": _restriction(False, VolumeState.AVAILABLE),
    "volume.remove": _of_volume(_remove, _removed),
    "volume.purge": _of_volume(_remove, _removed),
    "volume.recreate": _of_volume(_recreated, lambda _: Nothing()),
    "volume.remove_orphan": _remove_orphan,
    "volume.adopt": _adopt,
    "volume.attach": _of_volume(_attach),
    "volume.detach": _of_volume(_detach),
    "volume.open": _of_volume(_open),
    "volume.close": _of_volume(_close),
    "snapshot.delete": _of_volume(_delete_snapshot),
    "policy.remove": _of_policy(_remove_policy),
    "policy.add_rule": _of_policy(_rules),
    "policy.remove_rule": _of_policy(_rules),
    "policy.set_rules": _of_policy(_rules),
    "policy.reapply": _of_policy(_rules),
    "policy.assign": _of_volume(_assign),
}
