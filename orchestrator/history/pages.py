"""Pages of events in the order of their numbers, found through indexes that lack the numbers.

Indexes have the events of a kind, or of a volume, by the ids of their commits. That is nearly the
order of their numbers: a commit that was still open while later ones got numbers has an id below
theirs. How far below is known of each (`event_commits.behind`), so no event of a page lies further
from those that come first by id than the furthest of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Row, Select, TextClause, bindparam, func, select, text

from orchestrator.store.bulk import among
from orchestrator.store.tables import UNUSUAL_EVENT, USUAL_EVENTS, backends, event_commits, events
from orchestrator.store.transaction import Transaction

Filters = Mapping[str, Any]
Condition = ColumnElement[bool] | TextClause

#: The number of an event that is joined with its commit; null until that has got its own.
NUMBER = event_commits.c.base + events.c.seq
#: The same, looked up for each event by itself: no plan can join all commits for it.
_NUMBER = (
    select(event_commits.c.base)
    .where(event_commits.c.id == events.c.commit_id)
    .correlate(events)
    .scalar_subquery()
    + events.c.seq
)
_FURTHEST = (
    select(event_commits.c.behind)
    .where(event_commits.c.behind.is_not(None))
    .order_by(event_commits.c.behind.desc())
    .limit(1)
    .scalar_subquery()
)


#: Events that are walked over at a time: at first so many for each that is wanted of some kind, and
#: at most.
_FIRST_SPAN, _LONGEST_SPAN = 4, 20_000


class _Place(NamedTuple):
    """A place in the order of numbers: the id of the commit there, and how far others may be
    below the highest id before them."""

    id: int
    furthest: int


def after(
    transaction: Transaction, number: int, limit: int, filters: Filters
) -> Sequence[Row[Any]]:
    """The next events above a number, with their ``number``."""
    coming = number < _NUMBER
    if _are_few(filters):
        return transaction.execute(_sorted(filters, [coming], limit)).all()
    if _are_by_commit(filters):
        place = _place(transaction, event_commits.c.base <= number)
        coming &= events.c.commit_id >= place.id - place.furthest
        ids = select(events.c.commit_id).where(*_wanted(filters), coming)
        first = ids.order_by(events.c.commit_id).limit(limit).subquery()
        last = transaction.execute(select(func.max(first.c.commit_id))).scalar()
        if last is None:
            return []
        if last - place.id > place.furthest:
            coming &= events.c.commit_id <= last + place.furthest
            return transaction.execute(_sorted(filters, [coming], limit)).all()
    return _walk(transaction, number, limit, filters)


def newest(
    transaction: Transaction, limit: int, filters: Filters, before: int | None = None
) -> Sequence[Row[Any]]:
    """The last events that have numbers, in order, with their ``number``.

    ``before``: of those with lower numbers than this.
    """
    numbered = _NUMBER.is_not(None) if before is None else before > _NUMBER
    if _are_few(filters):
        found = transaction.execute(_sorted(filters, [numbered], limit, back=True)).all()
        return found[::-1]
    if _are_by_commit(filters):
        base = event_commits.c.base
        place = _place(transaction, base >= 0 if before is None else base < before)
        if before is not None:
            numbered &= events.c.commit_id <= place.id + place.furthest
        ids = select(events.c.commit_id).where(*_wanted(filters), numbered)
        last = ids.order_by(events.c.commit_id.desc()).limit(limit).subquery()
        first = transaction.execute(select(func.min(last.c.commit_id))).scalar()
        if first is None:
            return []
        if place.id - first > place.furthest:
            numbered &= events.c.commit_id >= first - place.furthest
            found = transaction.execute(_sorted(filters, [numbered], limit, back=True)).all()
            return found[::-1]
    return _walk(transaction, before, limit, filters, back=True)[::-1]


def _are_few(filters: Filters) -> bool:
    """Whether there are few events like that: they are all read, and sorted."""
    return "job_id" in filters or ("volume" in filters and "backend" not in filters)


def _are_by_commit(filters: Filters) -> bool:
    """Whether an index has events like that in the order of their commits' ids."""
    return "volume" in filters or _is_unusual(filters)


def _is_unusual(filters: Filters) -> bool:
    return "kind" in filters and filters["kind"] not in USUAL_EVENTS


def _wanted(filters: Filters) -> list[Condition]:
    # The kind is part of the statement, so that a partial index can serve it.
    wanted: list[Condition] = [
        events.c[name] == bindparam(None, value, literal_execute=name == "kind", unique=True)
        for name, value in filters.items()
    ]
    if _is_unusual(filters):
        # Said twice: the second is what the index is made with.
        wanted.append(text(UNUSUAL_EVENT))
    if "volume" in filters and "backend" not in filters:
        # The index has volumes by backend.
        wanted.append(events.c.backend.in_(select(backends.c.name)))
    return wanted


def _place(transaction: Transaction, condition: ColumnElement[bool]) -> _Place:
    """The last commit of these, by number; the beginning where there is none."""
    last = select(event_commits.c.id).where(condition).order_by(event_commits.c.base.desc())
    found = transaction.execute(select(last.limit(1).scalar_subquery(), _FURTHEST)).one()
    return _Place(*(int(one or 0) for one in found))


def _sorted(
    filters: Filters, conditions: Sequence[Condition], limit: int, *, back: bool = False
) -> Select[Any]:
    """The first events of the few that are wanted, or the last ones, from the last on."""
    number = _NUMBER.label("number")
    statement = select(events, number).where(*_wanted(filters), *conditions)
    return statement.order_by(number.desc() if back else number).limit(limit)


def _walk(
    transaction: Transaction,
    number: int | None,
    limit: int,
    filters: Filters,
    *,
    back: bool = False,
) -> list[Row[Any]]:
    """Events above a number, or ``back`` from below it or from the last one, found by walking over
    the commits.

    It ends where there are fewer events of the backend that is wanted than were walked over.
    """
    found: list[Row[Any]] = []
    walked, span = 0, limit * (_FIRST_SPAN if filters else 1)
    conditions: list[Condition] = []
    if number is not None:
        conditions = [number > _NUMBER if back else number < _NUMBER]
    while len(found) < limit and (commits := _commits(transaction, number, span, back=back)):
        if "backend" in filters and _has_at_most(transaction, filters["backend"], walked + span):
            conditions = conditions or [_NUMBER.is_not(None)]
            return list(transaction.execute(_sorted(filters, conditions, limit, back=back)))
        there = _of_commits(commits, filters, conditions, limit - len(found), back=back)
        found += transaction.execute(there).all()
        number = commits[-1].base if back else commits[-1].base + commits[-1].events
        walked += span
        span = min(2 * span, _LONGEST_SPAN)
    return found


def _commits(
    transaction: Transaction, number: int | None, span: int, *, back: bool
) -> Sequence[Row[Any]]:
    """The next commits with up to so many events, but one at least: those with events above a
    number; or ``back`` from the last one, or from below a number."""
    base = event_commits.c.base
    if back:
        here = base >= 0 if number is None else base < number
        statement = select(event_commits).where(here).order_by(base.desc())
    else:
        # Numbering goes by commits: begin with the one that holds the next number.
        first = select(func.max(base)).where(base <= number).scalar_subquery()
        statement = (
            select(event_commits)
            .where(base >= func.coalesce(first, 0), base + event_commits.c.events > number)
            .order_by(base)
        )
    commits = transaction.execute(statement.limit(span)).all()
    totals = accumulate(one.events for one in commits)
    return commits[: max(1, sum(total <= span for total in totals))]


def _of_commits(
    commits: Sequence[Row[Any]],
    filters: Filters,
    conditions: Sequence[Condition],
    limit: int,
    *,
    back: bool,
) -> Select[Any]:
    """The wanted events of some commits. Of one, which may have very many, they come by index."""
    number = _NUMBER.label("number")
    order: ColumnElement[Any] = events.c.seq if len(commits) == 1 else number
    return (
        select(events, number)
        .where(
            among(events.c.commit_id, [one.id for one in commits]),
            # No index of these is to be used.
            *(func.coalesce(events.c[name], "") == value for name, value in filters.items()),
            *conditions,
        )
        .order_by(order.desc() if back else order)
        .limit(limit)
    )


def _has_at_most(transaction: Transaction, backend: str, most: int) -> bool:
    """Whether there are no more events than that of a backend."""
    # In the order of an index: any other way to find them would find them all.
    some = select(events.c.seq).where(events.c.backend == backend)
    some = some.order_by(events.c.backend, events.c.volume, events.c.commit_id).limit(most + 1)
    counted = select(func.count()).select_from(some.subquery())
    return bool(transaction.execute(counted).scalar_one() <= most)
