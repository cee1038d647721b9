"""Loading an outlook: the queries that fill it with what the database has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import exists, select

from orchestrator.actions.registry import intent_of
from orchestrator.domain.outlook import (
    BackendOutlook,
    Intent,
    Outlook,
)
from orchestrator.inventory.promises import promised
from orchestrator.resources.registry import RESOURCES
from orchestrator.store.asking import Asked, Question, Rows, one_of
from orchestrator.store.lives import PRESENT, all_of
from orchestrator.store.queries.loading import JobsInLanes, LaneJob
from orchestrator.store.tables import (
    backends,
    installation,
    quotas,
)
from orchestrator.store.transaction import Transaction

LifeOf = Callable[[int], str]

#: The backends with what they have promised.
_BACKENDS = select(
    backends,
    promised().label("promised_bytes"),
    select(installation.c.accepting).scalar_subquery().label("accepting"),
    select(exists(select(quotas.c.account))).scalar_subquery().label("quotas_set"),
)

_BACKENDS_NAMED = Question(_BACKENDS.where(one_of(backends.c.name, "names")))
_BACKENDS_WITH = Question(
    _BACKENDS.add_columns(PRESENT.label("life")).where(one_of(backends.c.id, "ids"))
)


def backends_named(names: Iterable[str]) -> Asked[Any]:
    """Ask for backends by name; for `take_backends`."""
    return _BACKENDS_NAMED(names=sorted(names))


def backends_with(ids: Iterable[int]) -> Asked[Any]:
    """Ask for backends by id, and for the present life; for `take_backends`, `life_in`."""
    return _BACKENDS_WITH(ids=sorted(ids))


def jobs_in(lanes: Iterable[str]) -> Asked[LaneJob]:
    """Ask for the unfinished jobs of lanes; for `take_ahead`."""
    return JobsInLanes(sorted(lanes))


def life_in(transaction: Transaction, rows: Rows) -> LifeOf:
    """The life that a job is of, as `backends_with` found them; by the job's id."""
    first, _, life = rows[0]["life"].partition(".")

    def of(job_id: int) -> str:
        if job_id >= int(first):
            return str(life)
        # From before a restore: there are few of them.
        return next(one.life for one in reversed(all_of(transaction)) if one.first_job <= job_id)

    return of


def take_backends(outlook: Outlook, rows: Rows) -> None:
    """Put backends into the outlook."""
    for row in rows:
        known = row["capabilities"]
        outlook.accepting = row["accepting"]
        outlook.quotas_set = bool(row["quotas_set"])
        outlook.backends[row["name"]] = BackendOutlook(
            id=row["id"],
            name=row["name"],
            driver=row["driver"],
            state=row["state"],
            configured=row["configured"],
            capabilities=None if known is None else frozenset(known),
            total_bytes=row["total_bytes"],
            grain_bytes=row["grain_bytes"] or 1,
            overcommit=row["overcommit"],
            parameters=None if row["parameters"] is None else frozenset(row["parameters"]),
            identity=row["identity"],
            leases=(row["lease"], row["lease_next"]),
            identity_written=row["identity_written"],
            promised_bytes=int(row["promised_bytes"]),
            max_jobs=row["max_jobs"],
        )


def load_named(
    transaction: Transaction,
    outlook: Outlook,
    intents: Sequence[Intent],
    own_jobs: frozenset[int],
    *,
    users: bool = False,
) -> None:
    """Load what these intents name, kind by kind; their volumes are loaded before.

    ``users``: also which other unfinished jobs will use what they remove.
    """
    for resource in RESOURCES.values():
        resource.load(transaction, outlook, intents, own_jobs, users=users)


def take_ahead(
    transaction: Transaction, outlook: Outlook, rows: Rows, lanes: Iterable[str]
) -> list[tuple[int, Intent]]:
    """Put the unfinished jobs of these lanes into the outlook; in the order they will run.

    Also those of the lanes that these jobs hold besides, and so on: what comes of a clone
    or a rename depends on them. Jobs that block nobody (not begun, start time ahead) are
    kept for `Outlook.due_by`.
    """
    outlook.ahead.clear()
    outlook.gates.clear()
    outlook.later.clear()
    found: dict[int, Intent] = {}
    late: set[int] = set()
    loaded = set(lanes)
    while rows:
        _take_backends_of(transaction, outlook, rows)
        intents = _take_jobs(outlook, rows, found, late)
        wanted = {lane for one in intents for lane in one.lanes} - loaded
        loaded |= wanted
        [rows] = transaction.ask(jobs_in(wanted)) if wanted else [[]]
    return [(job_id, found[job_id]) for job_id in sorted(found) if job_id not in late]


def _take_backends_of(transaction: Transaction, outlook: Outlook, rows: Rows) -> None:
    """Put the backends of these jobs into the outlook: a copy holds a lane of another one's."""
    known = {backend.id for backend in outlook.backends.values()}
    if more := {row["backend_id"] for row in rows} - known:
        [found] = transaction.ask(backends_with(more))
        take_backends(outlook, found)


def _take_jobs(
    outlook: Outlook, rows: Rows, found: dict[int, Intent], late: set[int]
) -> list[Intent]:
    """Note the jobs of some lanes; those that were not known before."""
    names = {backend.id: backend.name for backend in outlook.backends.values()}
    new: list[Intent] = []
    for row in rows:
        job_id = row["id"]
        if job_id not in found:
            found[job_id] = intent_of(row, names[row["backend_id"]])
            new.append(found[job_id])
        if row["blocks"]:
            outlook.ahead[row["lane"]].append(job_id)
            if row["after"] == "success" and found[job_id].action.destructive:
                outlook.gates[row["lane"]] = job_id
        else:
            late.add(job_id)
            outlook.later[row["lane"]].append((row["not_before"], job_id, found[job_id]))
    return new
