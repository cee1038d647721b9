"""Findings: differences between a backend and its record, each kept as long as it persists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping, Select, delete, select

from orchestrator.domain.actors import ENGINE
from orchestrator.domain.errors import NotFound
from orchestrator.domain.states import EventKind, FindingKind, FindingState
from orchestrator.history.events import Event, record
from orchestrator.resources.changes import Written
from orchestrator.store.bulk import insert_rows, update_rows
from orchestrator.store.tables import audits, backends, findings
from orchestrator.store.transaction import Transaction


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One difference, as an audit has just seen it."""

    kind: FindingKind
    #: What it is about: the same at each audit that sees it.
    subject: str
    #: One sentence for people.
    text: str
    volume: str | None = None
    volume_id: str | None = None
    snapshot: str | None = None
    policy: str | None = None
    host: str | None = None
    job_id: int | None = None
    #: {"recorded": …, "found": …} and what else repairs need to know.
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from others of its backend."""
        return self.kind, self.subject


@dataclass(frozen=True, kw_only=True)
class AuditResult(Written):
    """What an audit has seen of a backend, and which open findings it closes."""

    backend_id: int
    backend: str
    job_id: int
    seen: Sequence[Finding]
    #: Open findings that are no longer true, by id.
    closed: Sequence[int]
    #: How many volumes there are in the inventory and on the storage; None: that cannot be told,
    #: or more differs than is written.
    volumes: tuple[int, int] | None

    @classmethod
    def write(cls, transaction: Transaction, changes: Sequence[AuditResult], now: datetime) -> None:
        """Open, renew and close findings; each opening and closing is an event."""
        for result in changes:
            result._write(transaction, now)

    def _write(self, transaction: Transaction, now: datetime) -> None:
        known = open_findings(transaction, self.backend_id)
        again = [(known[one.key]["id"], one) for one in self.seen if one.key in known]
        new = [one for one in self.seen if one.key not in known]
        seen = {"last_seen_at": now, "last_seen_by": self.job_id}
        update_rows(
            transaction,
            findings,
            ["id"],
            [
                {"id": id_, "text": one.text, "detail": dict(one.detail), **seen}
                for id_, one in again
            ],
        )
        common = {"backend_id": self.backend_id, "state": FindingState.OPEN, "first_seen_at": now}
        insert_rows(transaction, findings, [{**asdict(one), **common, **seen} for one in new])
        closing = set(self.closed)
        gone = [row for row in known.values() if row["id"] in closing]
        update_rows(
            transaction,
            findings,
            ["id"],
            [{"id": row["id"], "state": FindingState.CLOSED, "closed_at": now} for row in gone],
        )
        told = [_event(EventKind.FINDING_OPENED, self, asdict(one)) for one in new]
        told += [_event(EventKind.FINDING_CLOSED, self, row) for row in gone]
        record(transaction, told, now)
        # Rules act on what the latest audit has seen: on nothing, if that was not all.
        transaction.execute(delete(audits).where(audits.c.backend_id == self.backend_id))
        if self.volumes is not None:
            recorded, found = self.volumes
            row = {"backend_id": self.backend_id, "job_id": self.job_id, "at": now}
            insert_rows(transaction, audits, [{**row, "recorded": recorded, "found": found}])


def open_findings(transaction: Transaction, backend_id: int) -> dict[tuple[str, str], RowMapping]:
    """The open findings of a backend, by kind and subject."""
    rows = transaction.execute(
        select(findings).where(
            findings.c.backend_id == backend_id, findings.c.state == FindingState.OPEN
        )
    ).mappings()
    return {(row["kind"], row["subject"]): row for row in rows}


_FINDINGS = select(findings, backends.c.name.label("backend")).join(
    backends, backends.c.id == findings.c.backend_id
)


def list_findings(
    transaction: Transaction, filters: Mapping[str, Any], *, before: int | None, limit: int
) -> Sequence[RowMapping]:
    """Findings, newest first, below the id ``before``; filtered by kind, state and backend."""
    return transaction.execute(_listing(filters, before).limit(limit)).mappings().all()


def _listing(filters: Mapping[str, Any], before: int | None) -> Select[Any]:
    named = {"backend": backends.c.name}
    conditions = [named.get(name, findings.c.get(name)) == value for name, value in filters.items()]
    if before is not None:
        conditions.append(findings.c.id < before)
    return _FINDINGS.where(*conditions).order_by(findings.c.id.desc())


def finding(transaction: Transaction, finding_id: int) -> RowMapping:
    """One finding. Raises `NotFound`."""
    row = transaction.execute(_FINDINGS.where(findings.c.id == finding_id)).mappings().first()
    if row is None:
        raise NotFound(
            f"there is no finding {finding_id}; 'orchestrator audit findings' lists them",
            field="finding",
        )
    return row


def _event(kind: EventKind, result: AuditResult, row: Any) -> Event:
    return Event(
        kind=kind,
        actor=ENGINE,
        backend=result.backend,
        volume=row["volume"],
        volume_id=row["volume_id"],
        snapshot=row["snapshot"],
        policy=row["policy"],
        job_id=result.job_id,
        data={"finding": row["kind"], "subject": row["subject"], "text": row["text"]},
    )
