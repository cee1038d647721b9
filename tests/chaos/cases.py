"""A case for every action: what must be there before, the job itself, and one that follows it.

The follower stands in the same lane, so that each cell shows, too, that order is kept and that
the end of one job lets the next one go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from orchestrator.domain.installed import DRIVERS

Request = dict[str, Any]

#: Sizes, in bytes.
MIB = 2**20
HOST = "here"
BACKEND = "store"
#: A backend that nothing happens to: volumes on it are only read.
SIDE = "side"

NETWORK, READER, WEB = "10.0.0.9/24", "2001:db8::7(ro)", "www.example.com"
#: What a person gives to policies of their own, and to ours by hand.
ANYBODY = "0.0.0.0/0"


class ByHand(Enum):
    """What a person does, and no job of ours, to what the job is about."""

    #: Makes a volume or an export policy of its name.
    TAKE_NAME = auto()
    #: Changes the rules of the export policy.
    CHANGE_RULES = auto()
    #: Deletes the volume with its snapshots.
    LOSE = auto()
    #: Puts back the storage of a volume that was removed; here one that was forgotten is recorded
    #: as removed.
    PUT_BACK = auto()


@dataclass(frozen=True, kw_only=True)
class Case:
    """One action with its surroundings.

    ``{v}`` and ``{w}`` in names are the cell's own, ``{p}`` and ``{q}`` too, which are export
    policies' where a cell has any; ``{x}`` is the directory of images and exports; ``{finding}``
    is the number of the open finding about ``{v}``.
    """

    action: str
    job: Request
    #: Done, and ended well, before anything is broken.
    before: tuple[Request | ByHand, ...] = ()
    #: Queued behind the job.
    follower: Request | None = None
    #: How the follower must end.
    follower_ends: str = "succeeded"
    #: Puts back what other cells need; of a volume, where it is still attached or lost.
    afterwards: tuple[Request, ...] = ()
    #: What the job must end as; None: well or not, if only it leaves nothing where it failed.
    ends: str | None = "succeeded"
    #: What the driver must be able to do.
    needs: frozenset[str] = frozenset()
    #: How often it calls the driver depends on what else the storage has.
    of_all: bool = False
    #: How this case is called, where an action has several.
    name: str = field(default="")

    @property
    def id(self) -> str:
        return self.name or self.action

    def fits(self, driver: str) -> bool:
        """Whether it can be tried on this driver."""
        return self.needs <= DRIVERS[driver].capabilities


def _act(action: str, volume: str | None = "{v}", **more: Any) -> Request:
    request: Request = {"action": action, **more}
    if volume is not None:
        request["volume"] = volume
    return request


def _create(volume: str = "{v}", mib: int = 1, **params: Any) -> Request:
    return _act("volume.create", volume, params={"size_bytes": mib * MIB, **params})


def _grow(mib: int) -> Request:
    return _act("volume.grow", params={"size_bytes": mib * MIB})


def _update(value: str) -> Request:
    return _act("volume.update", params={"metadata": {"stage": value}})


def _settings(**wanted: Any) -> Request:
    return _act("volume.update", params={"settings": wanted})


def _exported(**settings: Any) -> Request:
    """A volume made with a policy, at a path of its own."""
    return {**_create(settings={"junction_path": "/{v}", **settings}), "policy": "{p}"}


def _on_policy(verb: str, policy: str = "{p}", **params: Any) -> Request:
    return _act(f"policy.{verb}", None, policy=policy, **({"params": params} if params else {}))


def _policy(*rules: str, policy: str = "{p}") -> Request:
    return _on_policy("create", policy, rules=list(rules))


def _assign(policy: str | None) -> Request:
    return _act("policy.assign", **({} if policy is None else {"policy": policy}))


def _snapshot(name: str) -> Request:
    return _act("snapshot.create", snapshot=name)


_ATTACH = _act("volume.attach", host=HOST)
_DETACH = _act("volume.detach", host=HOST)
_OPEN = _act("volume.open", host=HOST, params={"exclusive": True})
_CLOSE = _act("volume.close", host=HOST)
_VERIFY = _act("volume.verify")
_RESTRICT = _act("volume.restrict")
_AUDIT = _act("backend.audit", None)
_RESUME = _act("backend.resume", None)
_POLICIES = frozenset({"policy"})

CASES: dict[str, Case] = {
    case.id: case
    for case in (
        Case(action="volume.create", job=_create(metadata={"a": "b"}), follower=_grow(2)),
        Case(
            action="volume.create",
            name="volume.create of a name that a person took",
            before=(ByHand.TAKE_NAME,),
            job=_create(),
            ends="failed",
        ),
        Case(
            action="volume.create",
            name="volume.create with a policy and settings",
            needs=_POLICIES,
            before=(_policy(NETWORK),),
            job=_exported(compression=True, snapshot_reserve_percent=20, autosize_max_bytes=2**70),
            follower=_settings(junction_path="/{w}", compression=False),
        ),
        Case(
            action="volume.create",
            name="volume.create with a policy that is tried once",
            needs=_POLICIES,
            before=(_policy(NETWORK),),
            job={**_exported(compression=True), "max_attempts": 1},
            ends=None,
        ),
        Case(
            action="volume.clone",
            before=(_create("{w}", metadata={"a": "b"}),),
            job=_act("volume.clone", params={"source": "{w}", "size_bytes": 2 * MIB}),
            follower=_grow(3),
        ),
        Case(
            action="volume.copy",
            before=({**_create("{w}"), "backend": SIDE},),
            job=_act("volume.copy", params={"source": "{w}", "source_backend": SIDE}),
            follower=_grow(3),
        ),
        Case(
            action="volume.import",
            job=_act("volume.import", params={"image": "{x}/image", "size_bytes": 2 * MIB}),
            follower=_grow(3),
        ),
        Case(
            action="volume.export",
            before=(_create(),),
            job=_act("volume.export", params={"target": "{x}/{v}"}),
            follower=_act("volume.remove"),
        ),
        Case(action="volume.grow", before=(_create(),), job=_grow(2), follower=_grow(3)),
        Case(action="volume.update", before=(_create(),), job=_update("1"), follower=_update("2")),
        Case(
            action="volume.update",
            name="volume.update of metadata and settings",
            before=(_create(settings={"junction_path": "/{v}"}),),
            job=_act(
                "volume.update",
                params={
                    "metadata": {"stage": "1"},
                    # One that grows by itself would have the scheduler submit jobs, too.
                    "settings": {"junction_path": "/{w}", "autosize_max_bytes": 2**70},
                },
            ),
            follower=_settings(junction_path="/{v}"),
        ),
        Case(
            action="volume.set_info",
            before=(_create(),),
            job=_act("volume.set_info", params={"info": "one"}),
            follower=_act("volume.set_info", params={"info": "two"}),
        ),
        Case(
            action="volume.rename",
            before=(_create(),),
            job=_act("volume.rename", params={"new_name": "{w}"}),
            follower=_create(mib=2),
        ),
        Case(
            action="volume.rollback",
            before=(_create(), _snapshot("old"), _grow(2), _snapshot("new")),
            job=_act("volume.rollback", snapshot="old", params={"discard_newer": True}),
            follower=_grow(3),
        ),
        Case(action="volume.wipe", before=(_create(),), job=_act("volume.wipe"), follower=_grow(2)),
        Case(action="volume.trim", before=(_create(),), job=_act("volume.trim"), follower=_grow(2)),
        Case(
            action="volume.restrict",
            before=(_create(),),
            job=_RESTRICT,
            follower=_act("volume.unrestrict"),
        ),
        Case(
            action="volume.unrestrict",
            before=(_create(), _RESTRICT),
            job=_act("volume.unrestrict"),
            follower=_grow(2),
        ),
        Case(
            action="volume.remove",
            before=(_create(),),
            job=_act("volume.remove"),
            follower=_create(mib=2),
        ),
        Case(
            action="volume.remove",
            name="volume.remove of one with a policy and a path",
            needs=_POLICIES,
            before=(_policy(NETWORK), _exported()),
            job=_act("volume.remove"),
            # The path is free again.
            follower=_exported(compression=True),
        ),
        Case(
            action="volume.purge",
            before=(_create(), _RESTRICT),
            job=_act("volume.purge"),
            follower=_create(mib=2),
        ),
        Case(
            action="volume.forget",
            before=(_create(),),
            job=_act("volume.forget"),
            # What was forgotten still has the name.
            follower=_create(mib=2),
            follower_ends="failed",
        ),
        Case(
            action="volume.adopt",
            before=(_create(metadata={"a": "b"}), _snapshot("s"), _act("volume.forget")),
            job=_act("volume.adopt", params={"take_over": True}),
            follower=_grow(2),
        ),
        Case(
            action="volume.recreate",
            before=(_create(metadata={"a": "b"}), _snapshot("s"), ByHand.LOSE),
            job=_act("volume.recreate"),
            follower=_grow(2),
            # Where there was no room for it.
            afterwards=(_act("volume.recreate"),),
        ),
        Case(
            action="volume.remove_orphan",
            before=(_create(), _act("volume.forget"), ByHand.PUT_BACK, _AUDIT),
            job=_act("volume.remove_orphan", params={"finding": "{finding}"}),
            # The name is free again.
            follower=_create(mib=2),
        ),
        Case(action="volume.verify", before=(_create(),), job=_VERIFY, follower=_grow(2)),
        Case(action="volume.attach", before=(_create(),), job=_ATTACH, follower=_DETACH),
        Case(
            action="volume.detach",
            before=(_create(), _ATTACH),
            job=_DETACH,
            follower=_act("volume.remove"),
        ),
        Case(
            action="volume.open",
            before=(_create(), _ATTACH),
            job=_OPEN,
            follower=_CLOSE,
            afterwards=(_DETACH,),
        ),
        Case(
            action="volume.close",
            before=(_create(), _ATTACH, _OPEN),
            job=_CLOSE,
            follower=_DETACH,
        ),
        Case(
            action="snapshot.create",
            before=(_create(),),
            job=_snapshot("one"),
            follower=_snapshot("two"),
        ),
        Case(
            action="snapshot.delete",
            before=(_create(), _snapshot("one")),
            job=_act("snapshot.delete", snapshot="one"),
            follower=_act("volume.remove"),
        ),
        Case(
            action="policy.create",
            needs=_POLICIES,
            job=_policy(NETWORK, READER),
            follower=_on_policy("add_rule", rule=WEB),
        ),
        Case(
            action="policy.create",
            name="policy.create of a name that a person took",
            needs=_POLICIES,
            before=(ByHand.TAKE_NAME,),
            job=_policy(NETWORK),
            ends="failed",
        ),
        Case(
            action="policy.create",
            name="policy.create that is tried once",
            needs=_POLICIES,
            job={**_policy(NETWORK), "max_attempts": 1},
            ends=None,
        ),
        Case(
            action="policy.remove",
            needs=_POLICIES,
            before=(_policy(NETWORK),),
            job=_on_policy("remove"),
            follower=_policy(READER),
        ),
        Case(
            action="policy.add_rule",
            needs=_POLICIES,
            before=(_policy(NETWORK),),
            job=_on_policy("add_rule", rule=READER),
            follower=_on_policy("add_rule", rule=WEB),
        ),
        Case(
            action="policy.remove_rule",
            needs=_POLICIES,
            before=(_policy(NETWORK, READER),),
            job=_on_policy("remove_rule", rule=NETWORK),
            # Now it comes behind the other one.
            follower=_on_policy("add_rule", rule=NETWORK),
        ),
        Case(
            action="policy.set_rules",
            needs=_POLICIES,
            before=(_policy(NETWORK),),
            job=_on_policy("set_rules", rules=[WEB, READER]),
            follower=_on_policy("remove_rule", rule=WEB),
        ),
        Case(
            action="policy.reapply",
            needs=_POLICIES,
            before=(_policy(NETWORK, READER), ByHand.CHANGE_RULES),
            job=_on_policy("reapply"),
            follower=_on_policy("remove_rule", rule=NETWORK),
        ),
        Case(
            action="policy.verify",
            needs=_POLICIES,
            before=(_policy(NETWORK, READER),),
            job=_on_policy("verify"),
            follower=_on_policy("remove_rule", rule=NETWORK),
        ),
        Case(
            action="policy.assign",
            needs=_POLICIES,
            before=(_policy(NETWORK), _policy(READER, policy="{q}"), _exported()),
            job=_assign("{q}"),
            follower=_assign("{p}"),
        ),
        Case(
            action="policy.assign",
            name="policy.assign of none",
            needs=_POLICIES,
            before=(_policy(NETWORK), _exported()),
            job=_assign(None),
            follower=_act("volume.remove"),
        ),
        Case(
            action="volume.reconcile",
            before=(_create(), _snapshot("s")),
            job=_act("volume.reconcile", params={"what": ["size", "metadata", "snapshots"]}),
            follower=_grow(2),
        ),
        Case(
            action="volume.break_lock",
            before=(_create(),),
            job=_act("volume.break_lock"),
            follower=_grow(2),
        ),
        Case(action="backend.audit", job=_AUDIT, of_all=True),
        Case(action="backend.recount", job=_act("backend.recount", None)),
        Case(action="backend.refresh", job=_act("backend.refresh", None), of_all=True),
        Case(action="backend.verify", job=_act("backend.verify", None)),
        Case(
            action="backend.drain",
            job=_act("backend.drain", None),
            follower=_RESUME,
            afterwards=(_RESUME,),
        ),
        Case(
            action="backend.resume",
            before=(_act("backend.drain", None),),
            job=_RESUME,
            follower=_RESUME,
        ),
    )
}


def filled(request: Request, names: Callable[[str], Any], backend: str) -> Request:
    """The request for one cell: with its names and its backend."""

    def fill(value: Any) -> Any:
        if isinstance(value, str):
            return names(value)
        if isinstance(value, dict):
            return {key: fill(one) for key, one in value.items()}
        return value

    return {"backend": backend, **{key: fill(value) for key, value in request.items()}}
