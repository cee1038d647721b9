"""Promises: how many bytes each backend has promised, kept as a running sum."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, text

#: The row stays locked until the transaction ends: nothing may follow but its commit, and
#: several backends come in the order of their ids.
_ADD = text(
    "INSERT INTO promises (backend_id, promised_bytes) VALUES (:backend_id, :bytes)"
    " ON CONFLICT (backend_id) DO UPDATE"
    " SET promised_bytes = promises.promised_bytes + excluded.promised_bytes"
    " RETURNING promised_bytes"
)


def add(connection: Connection, bytes_by_backend: Mapping[int, int]) -> dict[int, int]:
    """Add to what backends have promised (ids to bytes, which may be negative).

    The last thing a transaction does. Returns the new sums of those that have changed.
    """
    return {
        backend_id: connection.execute(
            _ADD, {"backend_id": backend_id, "bytes": bytes_by_backend[backend_id]}
        ).scalar_one()
        for backend_id in sorted(bytes_by_backend)
        if bytes_by_backend[backend_id]
    }
