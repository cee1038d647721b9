"""Transactions: what is executed in one, what is deferred to its end, and the commit.

Every transaction that `Database` begins, for reading or for writing, is passed on as a
`Transaction`. Connections stay within this package. Each database has a class of its own
(`orchestrator.store.postgresql`, `orchestrator.store.sqlite`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, overload

from sqlalchemy import Connection, Table

from orchestrator import failpoints
from orchestrator.store.asking import Asked

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")

#: A failpoint that is passed once, with no facts.
ONCE: tuple[Mapping[str, Any], ...] = ({},)


@dataclass(frozen=True)
class Point(Asked[Any]):
    """A failpoint among statements: passed when its turn comes, and nothing is executed."""

    name: str
    raw: Any
    passes: Iterable[Mapping[str, Any]]

    def reach(self) -> None:
        """Pass it."""
        failpoints.reach_within(self.name, self.raw, self.passes)


class Transaction(ABC):
    """One transaction, from its first statement to its commit."""

    #: No other transaction writes while this one does.
    writes_alone: ClassVar[bool]

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        #: Execute a statement of SQLAlchemy at once. It does not see what was deferred.
        self.execute = connection.execute
        self._before_commit: list[Point] = []

    @overload
    def ask(self, one: Asked[A], /) -> tuple[Sequence[A]]: ...
    @overload
    def ask(self, one: Asked[A], two: Asked[B], /) -> tuple[Sequence[A], Sequence[B]]: ...
    @overload
    def ask(
        self, one: Asked[A], two: Asked[B], three: Asked[C], /
    ) -> tuple[Sequence[A], Sequence[B], Sequence[C]]: ...
    @overload
    def ask(self, *asked: Asked[Any]) -> Sequence[Sequence[Any]]: ...
    def ask(self, *asked: Asked[Any]) -> Sequence[Sequence[Any]]:
        """Execute what was deferred, then these, in order, each seeing what those before it did.

        They take one round trip. Returns the rows of each of these, none for one that returns
        none. Raises what SQLAlchemy raises.
        """
        return self._ask(asked)

    @abstractmethod
    def _ask(self, asked: Sequence[Asked[Any]]) -> Sequence[Sequence[Any]]: ...

    @abstractmethod
    def ask_along(self, first: Asked[Any], *others: Asked[Any]) -> Sequence[Sequence[Any]]:
        """The same, where the others matter only if the first finds rows.

        They travel with it; where nothing travels, they are executed only then.
        """

    @abstractmethod
    def defer(self, *asked: Asked[Any]) -> None:
        """Execute these with whatever is asked next, at the latest with the commit.

        For the last statements of a transaction that writes, if nobody needs their rows: where
        there are round trips, they and the commit are one.
        """

    def reach(self, point: str, passes: Iterable[Mapping[str, Any]] = ONCE) -> None:
        """Have a failpoint passed in the flush: after the last statement, before the COMMIT.

        ``passes``: the facts of each pass, if it is passed for several things that were done.
        """
        self._before_commit.append(Point(point, self.raw, passes))

    def point(self, point: str, passes: Iterable[Mapping[str, Any]] = ONCE) -> Asked[Any]:
        """The same to be asked or deferred: it is passed in its place among the statements."""
        return Point(point, self.raw, passes)

    @abstractmethod
    def insert(self, table: Table) -> Any:
        """An INSERT that may say what is done about a conflict."""

    @abstractmethod
    def lock(self, kind: int, key: int) -> None:
        """Wait until nobody else holds this lock, and hold it until the transaction ends."""

    @abstractmethod
    def try_lock(self, key: int) -> bool:
        """Hold this lock until the transaction ends; False if somebody else holds it."""

    @abstractmethod
    def read_many(self) -> None:
        """Have the statements that follow planned as ones that read many rows."""

    @abstractmethod
    def instance(self) -> str:
        """What distinguishes this very database from a copy of it, as far as that is cheap."""

    def savepoint(self) -> AbstractContextManager[Any]:
        """A block whose failure undoes only what was executed in it."""
        return self.connection.begin_nested()

    @abstractmethod
    def commit(self) -> None:
        """Pass failpoints and commit, with what was deferred."""

    @property
    def raw(self) -> Any:
        """The driver's own connection: psycopg's or that of `sqlite3`."""
        return self.connection.connection.driver_connection
