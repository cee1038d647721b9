"""Conditions that the databases write differently: on a row of `jobs`, and on names."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Boolean, String, Table, and_, bindparam, literal_column, or_
from sqlalchemy.sql.expression import ColumnElement
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.operators import OperatorType

from orchestrator.domain.states import JobState
from orchestrator.store.columns import db_now
from orchestrator.store.tables import jobs


class lane_taken(FunctionElement[bool]):
    """That a begun job, or an earlier one whose time has come, is in a lane of `jobs`' row."""

    type = Boolean()
    inherit_cache = True


class needs_more(FunctionElement[bool]):
    """That the job in `jobs`' row needs another that has not succeeded."""

    type = Boolean()
    inherit_cache = True


def in_state(state: JobState) -> ColumnElement[bool]:
    """That a row of `jobs` is in this state.

    It is written out: a plan that is kept for any state could not use the index of those in one.
    """
    return jobs.c.state == literal_column(f"'{state}'")


def unsuccessful() -> ColumnElement[bool]:
    """That a row of `jobs` has failed or was canceled; written out, for the index of those."""
    wrong = (JobState.FAILED, JobState.CANCELED)
    words: list[Any] = [literal_column(f"'{state}'") for state in wrong]
    return jobs.c.state.in_(words)


def live(table: Table) -> ColumnElement[bool]:
    """That a volume, a snapshot or an export policy has not been removed; written out, too."""
    return table.c.state != literal_column("'removed'")


class Beginning(FunctionElement[bool]):
    """That a name begins with a prefix, and comes after another name: see `begins_with`."""

    type = Boolean()
    inherit_cache = True

    def self_group(self, against: OperatorType | None = None) -> Any:
        """Leave it as it is: compared with 1, as SQLite's conditions are, it would use no index."""
        return self


def begins_with(
    name: ColumnElement[str], prefix: str, after: str | None = None
) -> ColumnElement[bool]:
    """That a name begins with a prefix, and comes after another name if there is one.

    An index on the names finds these, if it sorts by bytes. On PostgreSQL 15 and later, a database
    that sorts otherwise reads all names instead. The prefix is part of the statement, so that a
    plan is made for it.
    """
    beginning = bindparam(None, prefix, String, unique=True, literal_execute=True)
    return Beginning(name, beginning, *([] if after is None else [after]))


def due(not_before: ColumnElement[Any]) -> ColumnElement[bool]:
    """That the time has come, or none was set."""
    return or_(not_before.is_(None), not_before <= db_now())


def runnable() -> ColumnElement[bool]:
    """That nothing stands in the way of the waiting job in `jobs`' row: time, dependency, lane.

    A dependency that did not succeed stands in the way too: the job will be canceled.
    """
    return and_(due(jobs.c.not_before), ~needs_more(), or_(jobs.c.begun, ~lane_taken()))
