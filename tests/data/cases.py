"""What is done to a volume of the matrix: each action that changes something, or says something."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from orchestrator.domain.installed import DRIVERS
from tests.data.patterns import MIB
from tests.data.site import HERE, SIDE, Request, Site, Without

#: The volume that is acted on, one beside it that nobody touches, one that is made.
V, W, N = "v1", "w1", "n1"
#: How much a volume grows.
_MORE = MIB


@dataclass(frozen=True, kw_only=True)
class Case:
    """One action with what must be there before."""

    action: str
    #: The request, once everything is there.
    job: Callable[[Site], Request]
    before: Callable[[Site], None] | None = None
    #: The volume has two snapshots.
    snapshots: bool = False
    #: Capabilities that the driver needs.
    needs: frozenset[str] = frozenset()
    #: Contents may be partly overwritten where it fails: that was asked for.
    overwrites: bool = False
    #: The volume may be left with somebody using it, as users of it would not notice.
    harmless: bool = False
    #: It hands out the contents, or builds on them: it stops where those are not as recorded.
    builds: bool = False
    #: In peace nothing is in its way: it is not refused then.
    goes: bool = False
    #: Settings of audits.
    audit: dict[str, Any] = field(default_factory=dict)
    #: The states in which it makes sense; all if empty.
    states: frozenset[str] = frozenset()
    name: str = ""

    @property
    def id(self) -> str:
        return self.name or self.action

    def fits(self, driver: str, has: frozenset[str]) -> str | None:
        """Why it cannot be tried on this storage; None: it can."""
        lacking = self.needs - DRIVERS[driver].capabilities
        if self.snapshots and "snapshots" not in has:
            lacking |= {"snapshot"}
        if self.needs & {"attach", "attach_read_only"} and "attach" not in has:
            lacking |= {"attach"}
        return f"the storage cannot {', '.join(sorted(lacking))}" if lacking else None


def _on(volume: str, action: str, **params: Any) -> Callable[[Site], Request]:
    def request(_site: Site) -> Request:
        return {"action": action, "volume": volume, **({"params": params} if params else {})}

    return request


def _here(action: str, **params: Any) -> Callable[[Site], Request]:
    return lambda site: {**_on(V, action, **params)(site), "host": HERE}


def _snapshot(action: str, snapshot: str, **params: Any) -> Callable[[Site], Request]:
    return lambda site: {**_on(V, action, **params)(site), "snapshot": snapshot}


def _backend(action: str, **more: Any) -> Callable[[Site], Request]:
    return lambda _site: {"action": action, **more}


def _export(site: Site) -> Request:
    return _on(V, "volume.export", target=str(site.exchange / "out"))(site)


def _import(site: Site) -> Request:
    image = str(site.exchange / "image")
    return _on(N, "volume.import", image=image, size_bytes=site.ground.size)(site)


def _copy(site: Site) -> Request:
    params = {"source": V, "source_backend": "store"}
    return {"action": "volume.copy", "backend": SIDE, "volume": N, "params": params}


def _forgotten(site: Site) -> None:
    site.do({"action": "volume.forget", "volume": V})


def _restricted(site: Site) -> None:
    site.do({"action": "volume.restrict", "volume": V})


def _in_use(site: Site) -> None:
    if site.device(V) is None:
        site.attach(V)


def _opened(site: Site) -> None:
    _in_use(site)
    site.do({"action": "volume.open", "volume": V, "host": HERE})


def _orphaned(site: Site) -> None:
    """Storage of a volume that was removed is there all the same, as after a restore of files."""
    site.do({"action": "volume.create", "volume": "x1", "params": {"size_bytes": site.ground.size}})
    volume = site.model.volumes["x1"]
    image = site.ground.image(volume.id)
    if image is None:
        raise Without("the storage has no files")
    kept = site.directory / "kept"
    subprocess.run(["cp", "-a", str(image), str(kept)], check=True)
    site.do({"action": "volume.remove", "volume": "x1"})
    image.parent.mkdir(exist_ok=True)
    subprocess.run(["cp", "-a", str(kept), str(image)], check=True)
    site.audit()


def _remove_orphan(site: Site) -> Request:
    found = [one for one in site.findings() if one["volume"] == "x1"]
    if not found:
        raise Without("audits of this storage find no orphans")
    params = {"finding": found[0]["id"]}
    return {"action": "volume.remove_orphan", "volume": "x1", "params": params}


def _grow(site: Site) -> Request:
    size = site.model.volumes[V].size + _MORE
    return _on(V, "volume.grow", size_bytes=size)(site)


def _clone(site: Site) -> Request:
    size = site.model.volumes[V].size
    return _on(N, "volume.clone", source=V, size_bytes=size)(site)


def _clone_of_snapshot(site: Site) -> Request:
    return {**_clone(site), "snapshot": "s1"}


def _create(site: Site) -> Request:
    return _on(N, "volume.create", size_bytes=site.ground.size, metadata={"a": "b"})(site)


_ACTIONS = (
    Case(action="volume.create", job=_create),
    Case(action="volume.clone", job=_clone, needs=frozenset({"clone"}), builds=True),
    Case(
        action="volume.clone",
        name="volume.clone of a snapshot",
        job=_clone_of_snapshot,
        needs=frozenset({"clone"}),
        snapshots=True,
    ),
    Case(action="volume.copy", job=_copy, needs=frozenset({"export"}), builds=True),
    Case(action="volume.import", job=_import, needs=frozenset({"import"})),
    Case(action="volume.export", job=_export, needs=frozenset({"export"}), builds=True),
    Case(
        action="volume.export",
        name="volume.export of a snapshot",
        job=lambda site: {**_export(site), "snapshot": "s1"},
        needs=frozenset({"export"}),
        snapshots=True,
    ),
    Case(action="volume.grow", job=_grow, needs=frozenset({"grow"}), harmless=True, builds=True),
    Case(
        action="volume.update",
        job=_on(V, "volume.update", metadata={"owner": "b"}),
        needs=frozenset({"metadata"}),
        harmless=True,
    ),
    Case(
        action="volume.set_info",
        job=_on(V, "volume.set_info", info="one"),
        needs=frozenset({"metadata"}),
        harmless=True,
    ),
    Case(
        action="volume.rename",
        job=_on(V, "volume.rename", new_name=N),
        needs=frozenset({"rename"}),
        harmless=True,
    ),
    Case(
        action="volume.rollback",
        job=_snapshot("volume.rollback", "s2"),
        goes=True,
        needs=frozenset({"rollback"}),
        snapshots=True,
    ),
    Case(
        action="volume.rollback",
        name="volume.rollback that discards newer ones",
        job=_snapshot("volume.rollback", "s1", discard_newer=True),
        needs=frozenset({"rollback"}),
        snapshots=True,
    ),
    Case(
        action="volume.wipe",
        job=_on(V, "volume.wipe"),
        needs=frozenset({"wipe"}),
        overwrites=True,
    ),
    Case(action="volume.trim", job=_on(V, "volume.trim"), needs=frozenset({"trim"})),
    Case(action="volume.remove", job=_on(V, "volume.remove")),
    Case(
        action="volume.remove",
        name="volume.remove with wipe",
        job=_on(V, "volume.remove", wipe=True),
        needs=frozenset({"wipe"}),
        overwrites=True,
    ),
    Case(
        action="volume.remove",
        name="volume.remove of one with snapshots",
        job=_on(V, "volume.remove"),
        snapshots=True,
    ),
    Case(action="volume.restrict", job=_on(V, "volume.restrict"), harmless=True),
    Case(
        action="volume.unrestrict",
        before=_restricted,
        job=_on(V, "volume.unrestrict"),
        harmless=True,
    ),
    Case(
        action="volume.purge",
        before=_restricted,
        job=_on(V, "volume.purge", wipe=True),
        needs=frozenset({"wipe"}),
        overwrites=True,
    ),
    Case(action="volume.forget", job=_on(V, "volume.forget"), snapshots=True, harmless=True),
    Case(
        action="volume.forget",
        name="volume.forget of one said to be lost",
        job=_on(V, "volume.forget", lost=True),
        harmless=True,
    ),
    Case(
        action="volume.adopt",
        before=_forgotten,
        job=_on(V, "volume.adopt", take_over=True),
        needs=frozenset({"adopt"}),
        snapshots=True,
    ),
    Case(
        action="volume.reconcile",
        job=_on(V, "volume.reconcile", what=["size", "metadata", "snapshots"]),
        needs=frozenset({"snapshot"}),
        snapshots=True,
        harmless=True,
    ),
    Case(
        action="volume.recreate",
        job=_on(V, "volume.recreate"),
        needs=frozenset({"absence"}),
    ),
    Case(
        action="volume.remove_orphan",
        before=_orphaned,
        job=_remove_orphan,
        needs=frozenset({"adopt"}),
        harmless=True,
    ),
    Case(action="volume.verify", job=_on(V, "volume.verify"), harmless=True),
    Case(
        action="volume.attach",
        job=_here("volume.attach"),
        needs=frozenset({"attach"}),
        builds=True,
    ),
    Case(
        action="volume.attach",
        name="volume.attach for reading",
        job=_here("volume.attach", read_only=True),
        needs=frozenset({"attach_read_only"}),
        builds=True,
    ),
    Case(
        action="volume.detach",
        before=_in_use,
        job=_here("volume.detach"),
        needs=frozenset({"attach"}),
        states=frozenset({"plain", "attached here", "open by its address", "mounted"}),
    ),
    Case(
        action="volume.open",
        before=_in_use,
        job=_here("volume.open", exclusive=True),
        needs=frozenset({"attach", "open"}),
        states=frozenset({"plain", "attached here", "mounted"}),
        harmless=True,
    ),
    Case(
        action="volume.close",
        before=_opened,
        job=_here("volume.close"),
        needs=frozenset({"attach", "open"}),
        states=frozenset({"plain", "attached here", "mounted"}),
        harmless=True,
    ),
    Case(
        action="snapshot.create",
        job=_snapshot("snapshot.create", "s3"),
        needs=frozenset({"snapshot"}),
        snapshots=True,
        builds=True,
    ),
    Case(
        action="snapshot.delete",
        job=_snapshot("snapshot.delete", "s1"),
        needs=frozenset({"snapshot"}),
        snapshots=True,
        harmless=True,
    ),
    Case(action="backend.audit", job=_backend("backend.audit", host=HERE), harmless=True),
    Case(
        action="backend.audit",
        name="backend.audit with rules that repair",
        job=_backend("backend.audit", host=HERE),
        audit={
            "rules": {"ghost": "forget", "snapshot": "record", "attachment": "detach"},
        },
        harmless=True,
    ),
    Case(action="backend.refresh", job=_backend("backend.refresh"), harmless=True),
    Case(action="backend.verify", job=_backend("backend.verify"), harmless=True),
)

CASES: dict[str, Case] = {case.id: case for case in _ACTIONS}
