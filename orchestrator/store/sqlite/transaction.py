"""A transaction of SQLite: there is nothing to travel, so everything is executed at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Table
from sqlalchemy.dialects import sqlite

from orchestrator.machine import machine_id
from orchestrator.store.asking import Asked
from orchestrator.store.sqlite import conditions as _conditions  # noqa: F401 - are registered
from orchestrator.store.sqlite.statements import RUNNERS
from orchestrator.store.transaction import Transaction


class SqliteTransaction(Transaction):
    """A transaction of SQLite; of those that write there is one at a time, so none locks."""

    writes_alone = True

    def _ask(self, asked: Sequence[Asked[Any]]) -> Sequence[Sequence[Any]]:
        return [RUNNERS[type(one)](self, one) for one in asked]

    def ask_along(self, first: Asked[Any], *others: Asked[Any]) -> Sequence[Sequence[Any]]:
        """See `Transaction.ask_along`."""
        [rows] = self._ask([first])
        return [rows, *(self._ask(others) if rows else [[] for _ in others])]

    def defer(self, *asked: Asked[Any]) -> None:
        """Execute these now."""
        self._ask(asked)

    def insert(self, table: Table) -> Any:
        """See `Transaction.insert`."""
        return sqlite.insert(table)

    def lock(self, kind: int, key: int) -> None:
        """Do nothing."""

    def try_lock(self, key: int) -> bool:
        """Do nothing; always True."""
        return True

    def read_many(self) -> None:
        """Do nothing."""

    def instance(self) -> str:
        """See `Transaction.instance`."""
        there = Path(self.connection.engine.url.database or "").stat()
        return f"sqlite {machine_id()} {there.st_dev} {there.st_ino}"

    def commit(self) -> None:
        """Pass failpoints; SQLAlchemy commits."""
        for point in self._before_commit:
            point.reach()
