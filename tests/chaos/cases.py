"""A case for every action: what must be there before, the job itself, and one that follows it.

The follower stands in the same lane, so that each cell shows, too, that order is kept and that
the end of one job lets the next one go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Request = dict[str, Any]

#: Sizes, in bytes.
MIB = 2**20
HOST = "here"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One action with its surroundings.

    ``{v}`` and ``{w}`` in names are the cell's own, ``{x}`` the directory of images and exports.
    """

    action: str
    job: Request
    #: Done, and ended well, before anything is broken.
    before: tuple[Request, ...] = ()
    #: Queued behind the job.
    follower: Request | None = None
    #: How the follower must end.
    follower_ends: str = "succeeded"
    #: Puts back what other cells need.
    afterwards: tuple[Request, ...] = ()
    #: What the job and its follower are allowed to end as if nothing is ever broken.
    ends: str = "succeeded"
    #: Somebody who is no job of ours has a volume of this name.
    taken: bool = False
    #: How this case is called, where an action has several.
    name: str = field(default="")

    @property
    def id(self) -> str:
        return self.name or self.action


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


def _snapshot(name: str) -> Request:
    return _act("snapshot.create", snapshot=name)


_ATTACH = _act("volume.attach", host=HOST)
_DETACH = _act("volume.detach", host=HOST)
_OPEN = _act("volume.open", host=HOST, params={"exclusive": True})
_CLOSE = _act("volume.close", host=HOST)
_VERIFY = _act("volume.verify")
_RESTRICT = _act("volume.restrict")
_RESUME = _act("backend.resume", None)

CASES: dict[str, Case] = {
    case.id: case
    for case in (
        Case(action="volume.create", job=_create(metadata={"a": "b"}), follower=_grow(2)),
        Case(
            action="volume.create",
            name="volume.create of a name that a person took",
            job=_create(),
            taken=True,
            ends="failed",
        ),
        Case(
            action="volume.clone",
            before=(_create("{w}", metadata={"a": "b"}),),
            job=_act("volume.clone", params={"source": "{w}", "size_bytes": 2 * MIB}),
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
        Case(action="backend.refresh", job=_act("backend.refresh", None)),
        Case(action="backend.verify", job=_act("backend.verify", None)),
        Case(action="backend.drain", job=_act("backend.drain", None), follower=_RESUME),
        Case(
            action="backend.resume",
            before=(_act("backend.drain", None),),
            job=_RESUME,
            follower=_RESUME,
        ),
    )
}


def filled(request: Request, names: Callable[[str], str], backend: str) -> Request:
    """The request for one cell: with its names and its backend."""

    def fill(value: Any) -> Any:
        if isinstance(value, str):
            return names(value)
        if isinstance(value, dict):
            return {key: fill(one) for key, one in value.items()}
        return value

    return {"backend": backend, **{key: fill(value) for key, value in request.items()}}
