"""The product with one of its guards switched off, to see that the matrix of data notices.

Nothing in the product can be switched off: in the test's own process functions are replaced by
ones that do without the guard, and put back.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from orchestrator.actions.volume import rollback
from orchestrator.domain.errors import Canceled, Problem
from orchestrator.domain.outlook import SnapshotOutlook, VolumeOutlook
from orchestrator.domain.states import Ending
from orchestrator.jobs.finish import Outcome
from workers.backends.base.facts import Absent, Device, Look
from workers.backends.base.references import VolumeRef
from workers.backends.extstorage.writing import Writing
from workers.backends.file import holding, images, uses
from workers.backends.file.driver import FileDriver
from workers.execution import ending
from workers.execution.work import Work
from workers.storage_leases import StorageLeases

Undo = Callable[[], None]


@contextmanager
def switched_off(guard: str) -> Iterator[None]:
    """A guard is off during the block."""
    undone = GUARDS[guard]()
    try:
        yield
    finally:
        for undo in reversed(undone):
            undo()


def _without_absence() -> list[Undo]:
    """What could not be seen counts as not there."""
    inspect, devices = FileDriver.inspect, FileDriver.devices

    def guess(self: FileDriver, volume: VolumeRef) -> Look:
        try:
            return inspect(self, volume)
        except Problem:
            return Absent()

    def guess_devices(self: FileDriver, volume: VolumeRef) -> list[Device]:
        try:
            return devices(self, volume)
        except Problem:
            return []

    return [
        _method(FileDriver, "inspect", guess),
        _method(FileDriver, "devices", guess_devices),
    ]


def _without_use() -> list[Undo]:
    """Whether somebody else has an image open is not asked."""

    @contextmanager
    def carefree(*_: Any, **__: Any) -> Iterator[Callable[[], None]]:
        yield lambda: None

    return _function(uses.alone, carefree)


def _without_identity() -> list[Undo]:
    """Which life of the database writes to the storage is not asked."""

    def fine(*_: Any, **__: Any) -> None:
        return

    return [_method(StorageLeases, "check", fine), _method(StorageLeases, "enter", fine)]


def _without_order() -> list[Undo]:
    """Snapshots are ordered by something else than the storage's own order: here its reverse."""

    def older(volume: VolumeOutlook, snapshot: str) -> list[SnapshotOutlook]:
        names = list(volume.snapshots)
        return [volume.snapshots[name] for name in names[: names.index(snapshot)]]

    return _function(rollback.newer_snapshots, older)


def _without_asking() -> list[Undo]:
    """A job that was canceled while it waited is over; the storage is not asked what happened."""

    def over(_work: Work, *_: Any) -> Outcome:
        return Outcome(ending=Ending.CANCELED, problem=Canceled("canceled"))

    return _function(ending.called_off, over)


def _without_results() -> list[Undo]:
    """What was asked for is told, not what was done: nothing is overwritten."""

    def told(self: Any, volume: VolumeRef, *_: Any, **__: Any) -> int:
        return volume.size_bytes or 1

    return [_method(Writing, "overwrite", told)]


def _without_drift() -> list[Undo]:
    """What is there is not compared with what is recorded."""

    def fine(*_: Any, **__: Any) -> None:
        return

    return _function(holding.refuse_drift, fine)


def _without_lists() -> list[Undo]:
    """A walk ends where what it walks through changes: after the first it has found."""
    walk = images.walk

    def hasty(tree: Any, top: tuple[str, ...], *rest: Any) -> Iterator[Any]:
        for one in walk(tree, top, *rest):
            yield one
            if top[:1] == ("snapshots",):
                return

    return _function(walk, hasty)


def _method(kind: type, name: str, replacement: Callable[..., Any]) -> Undo:
    before = getattr(kind, name)
    setattr(kind, name, replacement)
    return lambda: setattr(kind, name, before)


def _function(function: Callable[..., Any], replacement: Callable[..., Any]) -> list[Undo]:
    """Put one function in the place of another, wherever it was imported to."""
    undone: list[Undo] = []
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in ("orchestrator", "workers"):
            continue
        for attribute, value in list(vars(module).items()):
            if value is function:
                setattr(module, attribute, replacement)
                undone.append(
                    lambda module=module, attribute=attribute: setattr(  # type: ignore[misc]
                        module, attribute, function
                    )
                )
    return undone


#: What can be switched off: the kinds of guards.
GUARDS: dict[str, Callable[[], Sequence[Undo]]] = {
    "absence": _without_absence,
    "in use": _without_use,
    "identity over time": _without_identity,
    "order": _without_order,
    "cancel": _without_asking,
    "results": _without_results,
    "drift": _without_drift,
    "walks": _without_lists,
}
