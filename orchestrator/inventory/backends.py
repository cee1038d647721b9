"""Backends in the inventory: taken over from the configuration, and read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import RowMapping, func, insert, select, update

from orchestrator.domain.errors import UnknownBackend
from orchestrator.domain.nearest import no_such_backend
from orchestrator.domain.states import BackendState
from orchestrator.inventory.promises import promised
from orchestrator.settings import BackendSettings
from orchestrator.store.columns import db_now
from orchestrator.store.conditions import live
from orchestrator.store.tables import backends, installation, promises, volumes
from orchestrator.store.transaction import Transaction


def configure(transaction: Transaction, configured: Mapping[str, BackendSettings]) -> None:
    """Make the backends' rows agree with the configuration.

    A backend that is gone from it keeps its row and history, but takes no more work.
    The driver of a known backend never changes: its volumes would be read by the wrong one.
    Processes that start together do this one after the other.
    """
    transaction.execute(select(installation.c.uuid).with_for_update())
    known = {row.name: row for row in transaction.execute(select(backends))}
    for name, wanted in configured.items():
        values: dict[str, Any] = {
            "configured": True,
            "overcommit": wanted.overcommit
            or (wanted.spec.overcommit if wanted.spec.thin else 1.0),
            "hosts": wanted.hosts,
            "max_jobs": wanted.max_jobs,
        }
        row = known.get(name)
        if row is None:
            state = BackendState.ENABLED if wanted.enabled else BackendState.DISABLED
            new = insert(backends).values(
                name=name, driver=wanted.driver, state=state, created_at=db_now(), **values
            )
            made = transaction.execute(new.returning(backends.c.id)).scalar_one()
            transaction.execute(insert(promises).values(backend_id=made, promised_bytes=0))
            continue
        if row.driver != wanted.driver:
            raise ValueError(
                f"backend {name} was set up with the driver {row.driver!r} and is now configured "
                f"with {wanted.driver!r}: give the new one another name"
            )
        if not wanted.enabled:
            values["state"] = BackendState.DISABLED
        elif row.state == BackendState.DISABLED:
            values["state"] = BackendState.ENABLED
        if any(getattr(row, column) != value for column, value in values.items()):
            transaction.execute(update(backends).where(backends.c.name == name).values(**values))
    for name, row in known.items():
        if name not in configured and row.configured:
            transaction.execute(
                update(backends).where(backends.c.name == name).values(configured=False)
            )


def backend_id(transaction: Transaction, backend: str) -> int:
    """The id of a configured backend. Raises `UnknownBackend`."""
    found = transaction.execute(
        select(backends.c.id).where(backends.c.name == backend, backends.c.configured)
    ).scalar()
    if found is None:
        raise unknown_backend(transaction, backend)
    return int(found)


def unknown_backend(transaction: Transaction, name: str) -> UnknownBackend:
    """What to raise about a backend that there is not, with the one that may have been meant."""
    return no_such_backend(name, configured_names(transaction))


def configured_names(transaction: Transaction) -> list[str]:
    """The names of the configured backends, in order."""
    query = select(backends.c.name).where(backends.c.configured).order_by(backends.c.name)
    return list(transaction.execute(query).scalars())


def ids_of(transaction: Transaction, names: list[str]) -> dict[str, int]:
    """The ids of backends by name."""
    found = transaction.execute(
        select(backends.c.name, backends.c.id).where(backends.c.name.in_(names))
    )
    return dict(found.all())


def backend_row(transaction: Transaction, name: str) -> RowMapping:
    """What is kept of a configured backend. Raises `UnknownBackend`."""
    query = select(backends).where(backends.c.name == name, backends.c.configured)
    row = transaction.execute(query).mappings().first()
    if row is None:
        raise unknown_backend(transaction, name)
    return row


def backend_views(transaction: Transaction, name: str | None = None) -> list[dict[str, Any]]:
    """The configured backends by name, or the one named. Raises `UnknownBackend`."""
    # No row of a volume is read: an index has all that is counted.
    held = (
        select(func.count())
        .where(volumes.c.backend_id == backends.c.id, live(volumes))
        .scalar_subquery()
    )
    statement = (
        select(backends, held.label("volumes"), promised().label("promised_bytes"))
        .where(backends.c.configured)
        .order_by(backends.c.name)
    )
    if name is not None:
        statement = statement.where(backends.c.name == name)
    found = [
        {
            "name": row["name"],
            "driver": row["driver"],
            "state": row["state"],
            "capabilities": row["capabilities"],
            "parameters": row["parameters"],
            "total_bytes": row["total_bytes"],
            "free_bytes": row["free_bytes"],
            "grain_bytes": row["grain_bytes"],
            "overcommit": row["overcommit"],
            "promised_bytes": row["promised_bytes"],
            "volumes": row["volumes"],
            "hosts": row["hosts"],
            "error": row["error"],
            "unavailable_since": row["unavailable_since"],
            "refreshed_at": row["refreshed_at"],
        }
        for row in transaction.execute(statement).mappings()
    ]
    if name is not None and not found:
        raise unknown_backend(transaction, name)
    return found
