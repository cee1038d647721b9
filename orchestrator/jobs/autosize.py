"""Volumes that grow by themselves as they fill, where their storage does not see to it.

The scheduler reads here which are full enough, and submits jobs like anybody else: one that
several schedulers submit is one job, because it has the same idempotency key. Where one cannot
grow, history tells why, once an hour, and the audit finds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import BindParameter, bindparam, exists, select, text

from orchestrator.actions.backend.refresh import REFRESH
from orchestrator.actions.requests import parse_request
from orchestrator.actions.volume.grow import GROW
from orchestrator.domain.actors import ENGINE, Actor
from orchestrator.domain.errors import Problem, ShrinkRefused
from orchestrator.domain.installed import DRIVERS
from orchestrator.domain.sizes import format_size, round_up
from orchestrator.domain.states import BackendState, EventKind, Role, VolumeState
from orchestrator.history.events import Event, record
from orchestrator.jobs.submission import Submission
from orchestrator.store.bulk import among
from orchestrator.store.columns import db_now
from orchestrator.store.tables import UNUSUAL_EVENT, backends, events, jobs, volumes
from orchestrator.store.transaction import Transaction

#: By how much a volume grows at once, in percent of its size.
STEP_PERCENT = 20
#: A growth that was refused or failed is tried again after this many seconds.
_AGAIN_SECONDS = 3600
_AGAIN = timedelta(seconds=_AGAIN_SECONDS)
#: Refusals that are read at a time.
_PAGE = 500

#: Drivers whose storage does not let volumes grow by itself.
_OURS = sorted(name for name, spec in DRIVERS.items() if "autosize_enabled" not in spec.settings)


def refreshes(transaction: Transaction, seconds: float) -> list[Submission]:
    """What reads the use of volumes anew, each ``seconds``, where some grow by themselves."""
    now = transaction.execute(select(db_now())).scalar_one().timestamp()
    names = transaction.execute(
        select(backends.c.name)
        .where(
            exists().where(volumes.c.backend_id == backends.c.id, volumes.c.autosize),
            backends.c.configured,
            backends.c.state == BackendState.ENABLED,
            backends.c.driver.in_(_OURS),
            # One at a time, also while no worker is there to do it.
            ~exists().where(
                jobs.c.backend_id == backends.c.id,
                jobs.c.action == REFRESH.name,
                jobs.c.finished_at.is_(None),
            ),
        )
        .order_by(backends.c.name)
    )
    return [
        _submission(
            {"action": REFRESH.name, "backend": name},
            f"autosize refresh {name} {int(now / seconds)}",
            "autosize: how full are its volumes",
        )
        for (name,) in names
    ]


@dataclass(frozen=True, kw_only=True)
class Growth:
    """A volume that is nearly full, and what makes it larger; None if nothing may."""

    backend: str
    volume: str
    volume_id: str
    size_bytes: int
    used_bytes: int
    submission: Submission | None
    why_not: str = ""


def growths(transaction: Transaction, percent: float) -> Iterator[Growth]:
    """What is to be done about the volumes that are fuller than ``percent``."""
    now = transaction.execute(select(db_now())).scalar_one().timestamp()
    found = transaction.execute(
        select(
            backends.c.name.label("backend"),
            backends.c.grain_bytes,
            *(volumes.c.id, volumes.c.name, volumes.c.size_bytes, volumes.c.used_bytes),
            volumes.c.settings,
        )
        .join(backends, backends.c.id == volumes.c.backend_id)
        .where(
            volumes.c.autosize,
            volumes.c.state == VolumeState.AVAILABLE,
            volumes.c.used_bytes >= volumes.c.size_bytes * (percent / 100.0),
            backends.c.configured,
            backends.c.state == BackendState.ENABLED,
            backends.c.driver.in_(_OURS),
        )
    ).all()
    # Were they ordered by the database, it would walk over all volumes by their ids.
    for row in sorted(found, key=lambda row: row.id):
        wanted = round_up(row.size_bytes * (100 + STEP_PERCENT) // 100, row.grain_bytes or 1)
        most = int(row.settings["autosize_max_bytes"])
        size, submission = min(wanted, most), None
        if size > row.size_bytes:
            submission = _submission(
                {
                    "action": GROW.name,
                    "backend": row.backend,
                    "volume": row.name,
                    "params": {"size_bytes": size},
                },
                f"autosize {row.id} {row.size_bytes} {int(now / _AGAIN_SECONDS)}",
                "autosize: it was nearly full",
                row.id,
            )
        yield Growth(
            backend=row.backend,
            volume=row.name,
            volume_id=row.id,
            size_bytes=row.size_bytes,
            used_bytes=row.used_bytes,
            submission=submission,
            why_not=f"its autosize_max_bytes are {format_size(most)}: raise them",
        )


def matters(problem: Problem) -> bool:
    """Whether a growth that is refused so leaves the volume as full as it is."""
    return not isinstance(problem, ShrinkRefused)


def note_refusal(transaction: Transaction, growth: Growth, why: str) -> bool:
    """Tell in the history that a volume which is nearly full does not grow.

    False if that was told lately, and has not changed.
    """
    now: datetime = transaction.execute(select(db_now())).scalar_one()
    told = _last_refusal(transaction, growth.backend, growth.volume, growth.volume_id)
    data = {"size_bytes": growth.size_bytes, "used_bytes": growth.used_bytes, "why": why}
    lately = told is not None and told.at > now - _AGAIN
    if lately and {**told.data, "used_bytes": growth.used_bytes} == data:
        return False
    event = Event(
        kind=EventKind.AUTOSIZE_REFUSED,
        actor=ENGINE,
        backend=growth.backend,
        volume=growth.volume,
        volume_id=growth.volume_id,
        data=data,
    )
    record(transaction, [event], now)
    return True


def refused(transaction: Transaction, backend_id: int, backend: str) -> Iterator[tuple[Any, str]]:
    """The volumes of a backend that should have grown lately and did not; and why."""
    told = _refused_lately(transaction, backend)
    for row in transaction.execute(
        select(volumes.c.id, volumes.c.name, volumes.c.size_bytes, volumes.c.used_bytes)
        .where(
            among(volumes.c.id, told),
            volumes.c.backend_id == backend_id,
            volumes.c.autosize,
            volumes.c.state == VolumeState.AVAILABLE,
        )
        .order_by(volumes.c.name)
    ).all():
        if told[row.id]["size_bytes"] == row.size_bytes:
            yield row, told[row.id]["why"]


def _refused_lately(transaction: Transaction, backend: str) -> dict[str, Any]:
    """The latest refusals of the last two hours, by the id of their volume.

    Of all volumes that may grow, few are refused: it is these that are looked for.
    """
    since = transaction.execute(select(db_now())).scalar_one() - 2 * _AGAIN
    kind: BindParameter[str] = bindparam(
        None, EventKind.AUTOSIZE_REFUSED, literal_execute=True, unique=True
    )
    found: dict[str, Any] = {}
    with transaction.execute(
        select(events.c.volume_id, events.c.backend, events.c.at, events.c.data)
        # Said as the index of kinds says it.
        .where(events.c.kind == kind, text(UNUSUAL_EVENT))
        .order_by(events.c.commit_id.desc(), events.c.seq.desc())
        .execution_options(yield_per=_PAGE)
    ) as newest_first:
        for event in newest_first:
            if event.at < since:
                break
            if event.backend == backend:
                found.setdefault(event.volume_id, event.data)
    return found


def _last_refusal(transaction: Transaction, backend: str, volume: str, volume_id: str) -> Any:
    return transaction.execute(
        select(events.c.at, events.c.data)
        .where(
            events.c.backend == backend,
            events.c.volume == volume,
            events.c.volume_id == volume_id,
            events.c.kind == EventKind.AUTOSIZE_REFUSED,
        )
        .order_by(events.c.commit_id.desc())
        .limit(1)
    ).first()


def _submission(
    request: dict[str, Any], key: str, reason: str, volume_id: str | None = None
) -> Submission:
    """``volume_id``: the very volume meant, and no later one of its name."""
    return Submission(
        requests=[parse_request(request)],
        actor=Actor(ENGINE, Role.OPERATOR),
        reason=reason,
        idempotency_key=key,
        bound={} if volume_id is None else {0: {"volume_id": volume_id}},
    )
