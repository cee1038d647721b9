"""Looking at a backend: its room and capabilities; and reading the use of its volumes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from sqlalchemy import select

from orchestrator.domain.states import VolumeState
from orchestrator.resources.changes import Change, apply, set_backend
from orchestrator.resources.volume.changes import set_volume
from orchestrator.store.bulk import among
from orchestrator.store.columns import db_now
from orchestrator.store.database import Database
from orchestrator.store.tables import volumes
from orchestrator.store.transaction import Transaction
from workers.backends.base.call import Call
from workers.backends.base.driver import Driver

#: Volumes whose use is compared at a time, and written if it has changed.
_PAGE = 500


def look_at(driver: Driver, database: Database, backend_id: int) -> tuple[dict[str, Any], Change]:
    """What room a backend has, and the change that makes the inventory say so."""
    capacity = driver.capacity()
    with database.read() as transaction:
        now = transaction.execute(select(db_now())).scalar_one()
    change = set_backend(
        backend_id,
        total_bytes=capacity.total_bytes,
        free_bytes=capacity.free_bytes,
        grain_bytes=capacity.grain_bytes,
        capabilities=sorted(driver.capabilities()),
        parameters=dict(driver.parameters()),
        refreshed_at=now,
        error=None,
    )
    return {"total_bytes": capacity.total_bytes, "free_bytes": capacity.free_bytes}, change


def read_use(driver: Driver, database: Database, backend_id: int, call: Call) -> int | None:
    """Read how much each volume uses and record it; return the number of volumes.

    None if the storage cannot tell which it has. Sizes and existence are an audit's business.
    """
    if "volumes" in driver.cannot_tell:
        return None
    seen, used = 0, dict[str, int]()
    for facts in driver.list_volumes():
        call.checkpoint()
        seen += 1
        if facts.id is not None:
            used[facts.id] = facts.used_bytes
        if len(used) == _PAGE:
            _record(database, backend_id, used)
            used = {}
    _record(database, backend_id, used)
    return seen


def _record(database: Database, backend_id: int, used: Mapping[str, int]) -> None:
    """Record the use of these volumes, by id, where it is another than was known."""
    query = select(volumes.c.id, volumes.c.used_bytes).where(
        among(volumes.c.id, used),
        volumes.c.backend_id == backend_id,
        volumes.c.state.in_((VolumeState.AVAILABLE, VolumeState.RESTRICTED)),
    )
    known = database.look(lambda transaction: transaction.execute(query).all())
    changes = [set_volume(id_, used_bytes=used[id_]) for id_, old in known if used[id_] != old]
    if changes:
        database.transact(partial(_write, changes=changes))


def _write(transaction: Transaction, changes: Iterable[Change]) -> None:
    apply(transaction, changes, transaction.execute(select(db_now())).scalar_one())
