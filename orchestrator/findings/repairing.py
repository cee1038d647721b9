"""Repairing findings: each repair is a job, asked for by a person or by a configured rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import exists, func, select, update

from orchestrator.actions.registry import ACTIONS
from orchestrator.actions.repairs import Repair, RepairRequest, repairs_of
from orchestrator.actions.requests import parse_request
from orchestrator.domain.actors import ENGINE, Actor
from orchestrator.domain.errors import InvalidInput, WrongState
from orchestrator.domain.states import BackendState, EventKind, FindingKind, FindingState, Role
from orchestrator.findings import refusals
from orchestrator.findings.recording import finding
from orchestrator.jobs.submission import Submission
from orchestrator.settings import AuditSettings
from orchestrator.store.tables import audits, backends, events, findings, installation, jobs
from orchestrator.store.targets import names
from orchestrator.store.transaction import Transaction

#: Findings that are looked at for rules at a time.
_AT_ONCE = 500
#: What is told of a volume, and changes nothing of it.
_HARMLESS = (
    *(
        EventKind.FINDING_OPENED,
        EventKind.FINDING_CLOSED,
        EventKind.JOB_SUBMITTED,
        EventKind.JOB_APPROVED,
    ),
    *(EventKind.LOOK_REFUSED, EventKind.REPAIR_REFUSED, EventKind.JOB_STUCK),
)


def finding_view(row: Mapping[str, Any]) -> dict[str, Any]:
    """A finding as readers see it, with the repairs that are possible."""
    is_open = row["state"] == FindingState.OPEN
    possible = repairs_of(row) if is_open else {}
    return {**row, "repairs": [_told(name, *found) for name, found in possible.items()]}


def _told(name: str, repair: Repair, request: RepairRequest) -> dict[str, Any]:
    approval = ACTIONS[request["action"]].approval
    return {"name": name, "summary": repair.summary, "job": request, "approval": approval}


def repair_submission(
    transaction: Transaction,
    finding_id: int,
    name: str,
    actor: Actor,
    *,
    reason: str | None = None,
    approval: bool | None = None,
) -> Submission:
    """What repairs a finding so. The same repair after the same audit is one job.

    Raises `NotFound`, `WrongState` if it is closed, `InvalidInput` if that is not possible.
    """
    row: Any = finding(transaction, finding_id)
    if row["state"] != FindingState.OPEN:
        raise WrongState(f"finding {finding_id} is closed: there is nothing to repair")
    _refuse_changed(transaction, row)
    possible = repairs_of(row)
    if name not in possible:
        raise InvalidInput(
            f"finding {finding_id} cannot be repaired by {name!r}; possible are: "
            f"{', '.join(possible) or 'none'}",
            field="repair",
        )
    return _submission(row, name, possible[name][1], actor, reason, approval)


def _refuse_changed(transaction: Transaction, row: Mapping[str, Any]) -> None:
    """Refuse to repair what something has happened to since the audit that saw it began."""
    if _changed(transaction, row, _began(transaction, row["last_seen_by"], row["last_seen_at"])):
        raise WrongState(
            f"something has happened to what finding {row['id']} is about since it was seen: "
            f"audit backend {row['backend']} again",
            field="finding",
        )


def _began(transaction: Transaction, audit: int, ended: datetime) -> datetime:
    """When an audit began; once its job is archived, when it had ended."""
    query = select(jobs.c.started_at).where(jobs.c.id == audit)
    return transaction.execute(query).scalar() or ended


def _changed(transaction: Transaction, row: Mapping[str, Any], since: datetime) -> bool:
    asked: list[Any] = []
    if row["volume"] is not None:
        asked.append(
            exists().where(
                events.c.backend == row["backend"],
                events.c.volume == row["volume"],
                events.c.at >= since,
                events.c.kind.not_in(_HARMLESS),
            )
        )
    elif row["policy"] is not None:
        asked.append(
            exists().where(
                jobs.c.backend_id == row["backend_id"],
                names("policy", row["policy"]),
                jobs.c.started_at >= since,
            )
        )
    return any(transaction.execute(select(one)).scalar_one() for one in asked)


def _submission(
    row: Mapping[str, Any],
    name: str,
    request: RepairRequest,
    actor: Actor,
    reason: str | None,
    approval: bool | None = None,
) -> Submission:
    written = {**request, "approval": approval} if approval else request
    parsed = parse_request(written)
    # The very volume that was seen: not another that has its name by now.
    adds = parsed.declaration.adopts or row["kind"] == FindingKind.ORPHAN
    meant = None if adds else row["volume_id"]
    return Submission(
        requests=[parsed],
        bound={0: {"volume_id": meant}} if meant is not None else {},
        actor=actor,
        reason=reason or f"repair of finding {row['id']}: {row['kind']}",
        idempotency_key=f"repair {row['id']} {name} {row['last_seen_by']}",
    )


def note_repair(transaction: Transaction, finding_id: int, job_id: int) -> None:
    """Note which job is to repair a finding: nothing refuses that any more."""
    query = select(findings.c.detail).where(findings.c.id == finding_id)
    detail = dict(transaction.execute(query).scalar_one())
    detail.pop(refusals.DETAIL, None)
    transaction.execute(
        update(findings).where(findings.c.id == finding_id).values(repair_job=job_id, detail=detail)
    )


def by_rule(transaction: Transaction, settings: AuditSettings) -> Iterator[tuple[int, Submission]]:
    """What rules have repaired now: ids of findings, and the submissions.

    Nothing after a restore of the database, nor on a backend where too much differs, nor what
    the latest audit has not seen, nor what a job is to repair already.
    """
    restored = transaction.execute(select(installation.c.restored_at)).scalar()
    if not settings.rules or restored is not None:
        return
    for backend in transaction.execute(
        select(backends.c.id, audits.c.job_id, audits.c.at, audits.c.recorded, audits.c.found)
        .join(audits, audits.c.backend_id == backends.c.id)
        .where(backends.c.configured, backends.c.state == BackendState.ENABLED)
    ).all():
        most = max(backend.recorded, backend.found) * settings.most_percent / 100.0
        if repairable(transaction, backend.id, settings) <= most:
            yield from _due(transaction, backend, settings)


def repairable(transaction: Transaction, backend_id: int, settings: AuditSettings) -> int:
    """How many open findings of a backend rules would repair."""
    query = select(func.count()).where(
        findings.c.backend_id == backend_id,
        findings.c.state == FindingState.OPEN,
        findings.c.kind.in_(settings.rules),
    )
    return int(transaction.execute(query).scalar_one())


def _due(
    transaction: Transaction, backend: Any, settings: AuditSettings
) -> Iterator[tuple[int, Submission]]:
    # An audit has seen it again after the grace time.
    oldest = backend.at - timedelta(hours=settings.grace_hours)
    unfinished = select(jobs.c.id).where(jobs.c.finished_at.is_(None))
    rows = transaction.execute(
        select(findings, backends.c.name.label("backend"))
        .join(backends, backends.c.id == findings.c.backend_id)
        .where(
            findings.c.backend_id == backend.id,
            findings.c.state == FindingState.OPEN,
            findings.c.kind.in_(settings.rules),
            findings.c.last_seen_by == backend.job_id,
            findings.c.first_seen_at <= oldest,
            findings.c.repair_job.is_(None) | findings.c.repair_job.not_in(unfinished),
        )
        .order_by(findings.c.id)
        .limit(_AT_ONCE)
    ).mappings()
    began = _began(transaction, backend.job_id, backend.at)
    for row in rows.all():
        if _changed(transaction, row, began):  # type: ignore[arg-type]
            continue
        name = settings.rules[row["kind"]]
        possible = repairs_of(row)  # type: ignore[arg-type]
        if name in possible:
            request = possible[name][1]
            reason = f"rule for findings of the kind {row['kind']}: {row['text']}"[:500]
            actor = Actor(ENGINE, Role.ADMIN)
            yield row["id"], _submission(row, name, request, actor, reason)  # type: ignore[arg-type]
