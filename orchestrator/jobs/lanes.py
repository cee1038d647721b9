"""Lanes: who waits for whom. One begun job per name at a time, in the order of submission."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from datetime import UTC, datetime

from orchestrator.jobs.queued import Wake, released
from orchestrator.store.asking import Asked
from orchestrator.store.queries.lanes import (
    Head,
    Heads,
    HoldUnfinished,
    Locked,
    LockStripes,
    LockWaiting,
    Promote,
    Tails,
)
from orchestrator.store.transaction import Transaction

#: Lanes share this many locks, so that a batch of any size needs a bounded number.
_STRIPES = 1024
#: The class of our advisory locks that guard submission to lanes.
_LANE_LOCKS = 0x6C616E65
#: The start time of a job that waits for an approval: it does not come by itself.
UNAPPROVED = datetime(9999, 1, 1, tzinfo=UTC)


def locked_for_submission(keys: Iterable[str]) -> Asked[Locked]:
    """Wait until no other submission works on these keys; held until the transaction ends.

    Taken before job ids are drawn: within a lane, order of ids is order of commit. SQLite
    needs no locks, its writing transactions are one at a time. Answers ``now``, the time.
    """
    stripes = sorted({zlib.crc32(key.encode()) % _STRIPES for key in keys})
    return LockStripes(kind=_LANE_LOCKS, stripes=stripes)


def hold_unfinished(transaction: Transaction, job_ids: Iterable[int]) -> set[int]:
    """Keep those of these jobs that have not ended from ending before this transaction.

    A job that ends lets those go that wait for it. Holding the jobs a new one will wait
    for makes sure that their end sees the new one. Claims and heartbeats are not held up.
    """
    wanted = sorted(set(job_ids))
    if not wanted:
        return set()
    [held] = transaction.ask(HoldUnfinished(wanted))
    return {row.id for row in held}


def hold_tails(transaction: Transaction, lanes: Iterable[str]) -> None:
    """`hold_unfinished` for the last job of each lane that others wait for."""
    keys = sorted(lanes)
    if transaction.writes_alone or not keys:
        return
    while True:
        [rows] = transaction.ask(Tails(keys))
        tails = {row.head for row in rows if row.head is not None}
        if hold_unfinished(transaction, tails) == tails:
            return


def promote(transaction: Transaction, candidates: Iterable[int]) -> Wake:
    """Queue those of these waiting jobs that nothing stands in the way of any more.

    Returns what was queued. The candidates are locked first and judged in a
    statement of its own, which then sees what any concurrent ending has committed.
    """
    wanted = sorted(set(candidates))
    if not wanted:
        return {}
    [locked] = transaction.ask(LockWaiting(wanted))
    if not locked:
        return {}
    [queued] = transaction.ask(Promote([row.id for row in locked]))
    return released((row.queue, row.id) for row in queued)


def heads(transaction: Transaction, lanes: Iterable[str]) -> list[int]:
    """The first job of each lane whose time has come."""
    [rows] = transaction.ask(heads_of(sorted(set(lanes))))
    return [row.head for row in rows if row.head is not None]


def heads_of(lanes: list[str]) -> Asked[Head]:
    """What `heads` does, to be done by `ask`: ``head`` is null where a lane is empty."""
    return Heads(lanes)
