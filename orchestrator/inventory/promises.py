"""Promises: how many bytes each backend has promised, kept as a running sum."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, text

from orchestrator.store.asking import Asked, Question, ask

#: The row stays locked until the transaction ends: nothing may follow but its commit, and
#: several backends come in the order of their ids.
_ADD = Question(
    lambda _: text(
        "INSERT INTO promises (backend_id, promised_bytes) VALUES (:backend_id, :bytes)"
        " ON CONFLICT (backend_id) DO UPDATE"
        " SET promised_bytes = promises.promised_bytes + excluded.promised_bytes"
        " RETURNING backend_id, promised_bytes"
    )
)


def add(connection: Connection, bytes_by_backend: Mapping[int, int]) -> None:
    """Add to what backends have promised (ids to bytes, which may be negative).

    The last thing a transaction does.
    """
    if changes := added(bytes_by_backend):
        ask(connection, *changes)


def added(bytes_by_backend: Mapping[int, int]) -> list[Asked]:
    """What `add` does, to be done by `ask`, last of all.

    Answers the new sum of each backend that changes: ``backend_id``, ``promised_bytes``.
    """
    return [
        _ADD(backend_id=backend_id, bytes=difference)
        for backend_id, difference in sorted(bytes_by_backend.items())
        if difference
    ]
