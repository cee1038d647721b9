"""Looking at a backend: room, capabilities, and the use of its volumes."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from orchestrator.domain.states import VolumeState
from orchestrator.resources.changes import Change, set_backend
from orchestrator.resources.volume.changes import set_volume
from orchestrator.store.columns import db_now
from orchestrator.store.database import Database
from orchestrator.store.tables import volumes
from workers.backends.base.call import Call
from workers.backends.base.driver import Driver


def look_at(
    driver: Driver, database: Database, backend_id: int, call: Call
) -> tuple[dict[str, Any], list[Change]]:
    """What a backend has, and the changes that make the inventory say so.

    The use of each volume is read anew; sizes and existence are an audit's business.
    """
    capacity = driver.capacity()
    with database.read() as transaction:
        now = transaction.execute(select(db_now())).scalar_one()
        recorded = dict(
            transaction.execute(
                select(volumes.c.id, volumes.c.used_bytes).where(
                    volumes.c.backend_id == backend_id,
                    volumes.c.state.in_((VolumeState.AVAILABLE, VolumeState.RESTRICTED)),
                )
            ).all()
        )
    changes: list[Change] = [
        set_backend(
            backend_id,
            total_bytes=capacity.total_bytes,
            free_bytes=capacity.free_bytes,
            grain_bytes=capacity.grain_bytes,
            capabilities=sorted(driver.capabilities()),
            parameters=dict(driver.parameters()),
            refreshed_at=now,
            error=None,
        )
    ]
    seen = 0
    for facts in () if "volumes" in driver.cannot_tell else driver.list_volumes():
        call.checkpoint()
        seen += 1
        if facts.id is not None and recorded.get(facts.id, facts.used_bytes) != facts.used_bytes:
            changes.append(set_volume(facts.id, used_bytes=facts.used_bytes))
    told = {
        "total_bytes": capacity.total_bytes,
        "free_bytes": capacity.free_bytes,
        "volumes_found": None if "volumes" in driver.cannot_tell else seen,
    }
    return told, changes
