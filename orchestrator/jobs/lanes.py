"""Lanes: who waits for whom. One begun job per name at a time, in the order of submission."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Boolean, Select, and_, exists, or_, select, text, update
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ColumnElement
from sqlalchemy.sql.functions import FunctionElement

from orchestrator.domain.states import JobState
from orchestrator.store.asking import Question, rows_of
from orchestrator.store.bulk import among
from orchestrator.store.columns import UtcDateTime, db_now
from orchestrator.store.tables import job_dependencies, job_lanes, jobs
from orchestrator.store.transaction import Asked, Transaction

#: Lanes share this many locks, so that a batch of any size needs a bounded number.
_STRIPES = 1024
#: The class of our advisory locks that guard submission to lanes.
_LANE_LOCKS = 0x6C616E65
#: The locks of a submission, all in the order of their numbers, and the time by then.
_LOCK = Question(
    lambda d: (
        text(
            "SELECT count(pg_advisory_xact_lock(:kind, stripe)), clock_timestamp() AS now"
            " FROM unnest(CAST(:stripes AS integer[])) AS stripe"
        )
        if d == "postgresql"
        else text("SELECT :kind, :stripes, " + _SQLITE_NOW).columns(now=UtcDateTime)
    )
)
_SQLITE_NOW = "strftime('%Y-%m-%d %H:%M:%f000', 'now') AS now"


#: The start time of a job that waits for an approval: it does not come by itself.
UNAPPROVED = datetime(9999, 1, 1, tzinfo=UTC)


def locked_for_submission(keys: Iterable[str]) -> Asked:
    """Wait until no other submission works on these keys; held until the transaction ends.

    Taken before job ids are drawn: within a lane, order of ids is order of commit. SQLite
    needs no locks, its writing transactions are one at a time. Answers ``now``, the time.
    """
    stripes = sorted({zlib.crc32(key.encode()) % _STRIPES for key in keys})
    return _LOCK(kind=_LANE_LOCKS, stripes=stripes)


def hold_unfinished(transaction: Transaction, job_ids: Iterable[int]) -> set[int]:
    """Keep those of these jobs that have not ended from ending before this transaction.

    A job that ends lets those go that wait for it. Holding the jobs a new one will wait
    for makes sure that their end sees the new one. Claims and heartbeats are not held up.
    """
    wanted = sorted(set(job_ids))
    if not wanted:
        return set()
    statement = (
        select(jobs.c.id)
        .where(among(transaction, jobs.c.id, wanted), jobs.c.finished_at.is_(None))
        .order_by(jobs.c.id)
        .with_for_update(read=True, key_share=True)
    )
    return set(transaction.execute(statement).scalars())


def hold_tails(transaction: Transaction, lanes: Iterable[str]) -> None:
    """`hold_unfinished` for the last job of each lane that others wait for."""
    keys = sorted(lanes)
    if transaction.dialect.name != "postgresql" or not keys:
        return
    while True:
        [rows] = transaction.ask(_TAILS(lanes=keys))
        tails = {row["head"] for row in rows if row["head"] is not None}
        if hold_unfinished(transaction, tails) == tails:
            return


def promote(transaction: Transaction, candidates: Iterable[int]) -> list[str]:
    """Queue those of these waiting jobs that nothing stands in the way of any more.

    Returns the queues that have got work. The candidates are locked first and judged in a
    statement of its own, which then sees what any concurrent ending has committed.
    """
    wanted = sorted(set(candidates))
    if not wanted:
        return []
    locked = list(
        transaction.execute(
            select(jobs.c.id)
            .where(among(transaction, jobs.c.id, wanted), jobs.c.state == JobState.WAITING)
            .order_by(jobs.c.id)
            .with_for_update(key_share=True)
        ).scalars()
    )
    if not locked:
        return []
    statement = (
        update(jobs)
        .where(
            among(transaction, jobs.c.id, locked),
            jobs.c.state == JobState.WAITING,
            runnable(),
        )
        .values(state=JobState.QUEUED, queued_at=db_now(), not_before=None)
        .returning(jobs.c.queue)
    )
    return sorted(set(transaction.execute(statement).scalars()))


def heads(transaction: Transaction, lanes: Iterable[str]) -> list[int]:
    """The first job of each lane whose time has come."""
    [rows] = transaction.ask(heads_of(sorted(set(lanes))))
    return [row["head"] for row in rows if row["head"] is not None]


def heads_of(lanes: list[str]) -> Asked:
    """What `heads` does, to be done by `ask`: ``head`` is null where a lane is empty."""
    return _HEADS(lanes=lanes)


def due(not_before: ColumnElement[Any]) -> ColumnElement[bool]:
    """That the time has come, or none was set."""
    return or_(not_before.is_(None), not_before <= db_now())


def _blocks(lane_row: Any, job_row: Any) -> ColumnElement[bool]:
    return or_(lane_row.c.begun, due(job_row.c.not_before))


def _first_of_lane(dialect: str, *, newest: bool) -> Select[Any]:
    """For each of ``lanes``, its first (or newest) job that blocks others, or null.

    One short index walk a lane: a lane with ten thousand waiting jobs costs no more.
    """
    wanted = rows_of(dialect, "lanes")
    lane_row, job_row = job_lanes.alias("l"), jobs.alias("j")
    # Written so that no other index than the one that begins with the lane has this order: the
    # table is empty most of the time, and then PostgreSQL would expect it to be small.
    order = [
        column.desc() if newest else column.asc() for column in (lane_row.c.lane, lane_row.c.job_id)
    ]
    first = (
        select(lane_row.c.job_id)
        .join(job_row, job_row.c.id == lane_row.c.job_id)
        .where(
            lane_row.c.lane >= wanted.c.value,
            lane_row.c.lane <= wanted.c.value,
            _blocks(lane_row, job_row),
        )
        .order_by(*order)
        .limit(1)
        .scalar_subquery()
    )
    return select(first.label("head")).select_from(wanted)


_HEADS = Question(lambda d: _first_of_lane(d, newest=False))
_TAILS = Question(lambda d: _first_of_lane(d, newest=True))


class lane_taken(FunctionElement[bool]):
    """That a begun job, or an earlier one whose time has come, is in a lane of `jobs`' row."""

    type = Boolean()
    inherit_cache = True


class needs_more(FunctionElement[bool]):
    """That the job in `jobs`' row needs another that has not succeeded."""

    type = Boolean()
    inherit_cache = True


def runnable() -> ColumnElement[bool]:
    """That nothing stands in the way of the waiting job in `jobs`' row: time, dependency, lane.

    A dependency that did not succeed stands in the way too: the job will be canceled.
    """
    return and_(due(jobs.c.not_before), ~needs_more(), or_(jobs.c.begun, ~lane_taken()))


# The tables of lanes and dependencies are empty most of the time. PostgreSQL, once it has seen
# them so, expects any index to be as good as another, and reads all of it for each job. So for
# PostgreSQL the conditions ask for a first row in an order that only the right index has.
_TAKEN_POSTGRESQL = """EXISTS (
    SELECT 1 FROM (
        SELECT lane FROM job_lanes WHERE job_id >= jobs.id AND job_id <= jobs.id
        ORDER BY job_id LIMIT 10
    ) AS mine
    WHERE (
        SELECT 1 FROM job_lanes AS earlier JOIN jobs AS job ON job.id = earlier.job_id
        WHERE earlier.lane >= mine.lane AND earlier.lane <= mine.lane
          AND earlier.job_id < jobs.id
          AND (job.not_before IS NULL OR job.not_before <= clock_timestamp())
        ORDER BY earlier.lane, earlier.job_id LIMIT 1
    ) IS NOT NULL OR (
        SELECT 1 FROM job_lanes AS other
        WHERE other.lane >= mine.lane AND other.lane <= mine.lane
          AND other.begun AND other.job_id <> jobs.id
        ORDER BY other.lane LIMIT 1
    ) IS NOT NULL
)"""
_NEEDS_POSTGRESQL = """(
    SELECT 1 FROM job_dependencies AS need JOIN jobs AS job ON job.id = need.depends_on
    WHERE need.job_id >= jobs.id AND need.job_id <= jobs.id AND job.state <> 'succeeded'
    ORDER BY need.job_id LIMIT 1
) IS NOT NULL"""


@compiles(lane_taken, "postgresql")
def _taken_on_postgresql(_element: lane_taken, _compiler: SQLCompiler, **_kw: Any) -> str:
    return _TAKEN_POSTGRESQL


@compiles(needs_more, "postgresql")
def _needs_on_postgresql(_element: needs_more, _compiler: SQLCompiler, **_kw: Any) -> str:
    return _NEEDS_POSTGRESQL


@compiles(lane_taken, "sqlite")
def _taken_on_sqlite(_element: lane_taken, compiler: SQLCompiler, **kw: Any) -> str:
    mine, other = job_lanes.alias("mine"), job_lanes.alias("other")
    earlier, job = job_lanes.alias("earlier"), jobs.alias("job")
    begun = exists().where(
        mine.c.job_id == jobs.c.id,
        other.c.lane == mine.c.lane,
        other.c.job_id != mine.c.job_id,
        other.c.begun,
    )
    before = exists().where(
        mine.c.job_id == jobs.c.id,
        earlier.c.lane == mine.c.lane,
        earlier.c.job_id < mine.c.job_id,
        job.c.id == earlier.c.job_id,
        due(job.c.not_before),
    )
    # In brackets: what stands around it binds more closely than OR.
    return f"({compiler.process(or_(begun, before), **kw)})"


@compiles(needs_more, "sqlite")
def _needs_on_sqlite(_element: needs_more, compiler: SQLCompiler, **kw: Any) -> str:
    needed = jobs.alias("needed")
    dependency = exists().where(
        job_dependencies.c.job_id == jobs.c.id,
        needed.c.id == job_dependencies.c.depends_on,
        needed.c.state != JobState.SUCCEEDED,
    )
    return compiler.process(dependency, **kw)
