"""Changes to the record, as values: what a finished job leaves in the database.

Each room has those of its kind; here is what they have in common, and how they are written.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Table, select

from orchestrator.domain.states import PROMISED_STATES, EventKind
from orchestrator.inventory import promises
from orchestrator.store.asking import Asked, Question, Rows, one_of
from orchestrator.store.bulk import updated
from orchestrator.store.tables import backends, volumes
from orchestrator.store.transaction import Transaction


@dataclass(frozen=True)
class Set:
    """Set columns of the row with this id."""

    table: Table
    id: str | int
    values: dict[str, Any]
    #: The column with the id.
    key: str = "id"


class Written(ABC):
    """A change that is more than columns of one row: those of a kind are written together."""

    @classmethod
    @abstractmethod
    def write(cls, transaction: Transaction, changes: Sequence[Any], now: datetime) -> None:
        """Write these changes of this class, in the transaction of the outcome."""

    def event(self) -> tuple[EventKind, dict[str, Any]] | None:
        """The event, and its own fields, by which history tells of it beside its job."""
        return None

    def resized(self) -> Mapping[str, dict[str, Any]]:
        """Volumes whose state it changes, by id, with their new state."""
        return {}

    def room(self) -> Mapping[int, int]:
        """Bytes that backends (by id) promise for what they did not know of."""
        return {}


@dataclass(frozen=True)
class Recounted(Written):
    """What the backend has promised is counted again, from its volumes and unfinished jobs."""

    backend_id: int

    @classmethod
    def write(cls, transaction: Transaction, changes: Sequence[Recounted], now: datetime) -> None:
        """Count."""
        for change in changes:
            promises.recount(transaction, change.backend_id)


Change = Set | Written


def set_backend(backend_id: int, **values: Any) -> Set:
    """Set columns of a backend."""
    return Set(backends, backend_id, values)


_BEFORE = Question(
    select(volumes.c.id, volumes.c.backend_id, volumes.c.state, volumes.c.size_bytes).where(
        one_of(volumes.c.id, "ids")
    )
)


@dataclass
class Changes:
    """Changes merged into what few statements can write; of two that set one column of a row
    the last holds."""

    merged: dict[tuple[Table, str, str | int], dict[str, Any]]
    others: dict[type[Written], list[Written]]

    def volumes_before(self) -> list[Asked[Any]]:
        """Ask for the volumes whose size or state changes, as they are; for `room`."""
        ids = self._resized()
        return [_BEFORE(ids=list(ids))] if ids else []

    def room(self, before: Rows) -> Counter[int]:
        """By how much these change what each backend (id) has promised.

        The caller gives that to `promises.add` as the last thing it does.
        """
        resized = self._resized()
        room: Counter[int] = Counter()
        for row in before:
            new = resized[row["id"]]
            if new.get("state", row["state"]) in PROMISED_STATES:
                room[row["backend_id"]] += int(new.get("size_bytes") or row["size_bytes"])
            if row["state"] in PROMISED_STATES:
                room[row["backend_id"]] -= row["size_bytes"]
        for change in self._others():
            room.update(change.room())
        return room

    def rows_set(self, now: datetime) -> list[Asked[Any]]:
        """Set columns: one statement for all rows of a table that set the same ones."""
        alike: dict[tuple[Table, str, tuple[str, ...]], list[dict[str, Any]]] = defaultdict(list)
        for (table, key, id_), values in self.merged.items():
            stamped = {**values, "changed_at": now} if "changed_at" in table.c else values
            alike[table, key, tuple(sorted(stamped))].append({key: id_, **stamped})
        return [updated(table, [key], rows) for (table, key, _), rows in alike.items()]

    def write_others(self, transaction: Transaction, now: datetime) -> None:
        """Write what `rows_set` does not; what is counted again comes last."""
        for kind in sorted(self.others, key=lambda kind: kind is Recounted):
            kind.write(transaction, self.others[kind], now)

    def _others(self) -> Iterable[Written]:
        return (change for some in self.others.values() for change in some)

    def _resized(self) -> dict[str | int, dict[str, Any]]:
        found: dict[str | int, dict[str, Any]] = {
            id_: values
            for (table, _, id_), values in self.merged.items()
            if table is volumes and ("size_bytes" in values or "state" in values)
        }
        for change in self._others():
            found.update(change.resized())
        return found


def merge(changes: Iterable[Change]) -> Changes:
    """Merge changes, in their order."""
    merged = Changes(defaultdict(dict), defaultdict(list))
    for change in changes:
        if isinstance(change, Set):
            merged.merged[change.table, change.key, change.id].update(change.values)
        else:
            merged.others[type(change)].append(change)
    return merged


def apply(transaction: Transaction, changes: Iterable[Change], now: datetime) -> Counter[int]:
    """Write changes; by how much they change what each backend (id) has promised."""
    merged = merge(changes)
    before = transaction.ask(*merged.volumes_before())
    transaction.ask(*merged.rows_set(now))
    merged.write_others(transaction, now)
    return merged.room(before[0] if before else [])
