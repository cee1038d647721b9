"""Volumes that grow by themselves as they fill, where their storage does not see to it.

The scheduler reads here which are full enough, and submits jobs like anybody else: one that
several schedulers submit is one job, because it has the same idempotency key.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, exists, select

from orchestrator.domain.drivers import DRIVERS
from orchestrator.domain.requests import parse_request
from orchestrator.domain.sizes import round_up
from orchestrator.domain.states import BackendState, Role, VolumeState
from orchestrator.jobs.finish import ENGINE
from orchestrator.jobs.submission import Actor, Submission
from orchestrator.store.columns import db_now
from orchestrator.store.tables import backends, jobs, volumes

#: By how much a volume grows at once, in percent of its size.
STEP_PERCENT = 20
#: A growth that was refused or failed is tried again after this many seconds.
_AGAIN_SECONDS = 3600

#: Drivers whose storage does not let volumes grow by itself.
_OURS = sorted(name for name, spec in DRIVERS.items() if "autosize_enabled" not in spec.settings)


def refreshes(connection: Connection, seconds: float) -> list[Submission]:
    """What reads the use of volumes anew, each ``seconds``, where some grow by themselves."""
    now = connection.execute(select(db_now())).scalar_one().timestamp()
    names = connection.execute(
        select(backends.c.name)
        .where(
            backends.c.id.in_(select(volumes.c.backend_id).where(volumes.c.autosize)),
            backends.c.configured,
            backends.c.state == BackendState.ENABLED,
            backends.c.driver.in_(_OURS),
            # One at a time, also while no worker is there to do it.
            ~exists().where(
                jobs.c.backend_id == backends.c.id,
                jobs.c.action == "backend.refresh",
                jobs.c.finished_at.is_(None),
            ),
        )
        .order_by(backends.c.name)
    )
    return [
        _submission(
            {"action": "backend.refresh", "backend": name},
            f"autosize refresh {name} {int(now / seconds)}",
            "autosize: how full are its volumes",
        )
        for (name,) in names
    ]


def growths(connection: Connection, percent: float) -> Iterator[Submission]:
    """What makes those volumes larger that are fuller than ``percent``."""
    now = connection.execute(select(db_now())).scalar_one().timestamp()
    found = connection.execute(
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
        .order_by(volumes.c.id)
    ).all()
    for row in found:
        wanted = round_up(row.size_bytes * (100 + STEP_PERCENT) // 100, row.grain_bytes or 1)
        size = min(wanted, int(row.settings["autosize_max_bytes"]))
        if size <= row.size_bytes:
            continue
        yield _submission(
            {
                "action": "volume.grow",
                "backend": row.backend,
                "volume": row.name,
                "params": {"size_bytes": size},
            },
            f"autosize {row.id} {row.size_bytes} {int(now / _AGAIN_SECONDS)}",
            "autosize: it was nearly full",
        )


def _submission(request: dict[str, Any], key: str, reason: str) -> Submission:
    return Submission(
        requests=[parse_request(request)],
        actor=Actor(ENGINE, Role.OPERATOR),
        reason=reason,
        idempotency_key=key,
    )
