"""Repairing findings: each repair is a job, asked for by a person or by a configured rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, func, select, update

from orchestrator.audit.findings import finding
from orchestrator.domain.actions import ACTIONS
from orchestrator.domain.errors import InvalidInput, WrongState
from orchestrator.domain.repairs import Repair, Request, repairs_of
from orchestrator.domain.requests import parse_request
from orchestrator.domain.states import BackendState, FindingState, Role
from orchestrator.jobs.finish import ENGINE
from orchestrator.jobs.submission import Actor, Submission
from orchestrator.settings import AuditSettings
from orchestrator.store.columns import db_now
from orchestrator.store.tables import audits, backends, findings, installation, jobs

#: Findings that are looked at for rules at a time.
_AT_ONCE = 500


def finding_view(row: Mapping[str, Any]) -> dict[str, Any]:
    """A finding as readers see it, with the repairs that are possible."""
    is_open = row["state"] == FindingState.OPEN
    possible = repairs_of(row) if is_open else {}
    return {**row, "repairs": [_told(name, *found) for name, found in possible.items()]}


def _told(name: str, repair: Repair, request: Request) -> dict[str, Any]:
    approval = ACTIONS[request["action"]].approval
    return {"name": name, "summary": repair.summary, "job": request, "approval": approval}


def repair_submission(
    connection: Connection,
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
    row: Any = finding(connection, finding_id)
    if row["state"] != FindingState.OPEN:
        raise WrongState(f"finding {finding_id} is closed: there is nothing to repair")
    possible = repairs_of(row)
    if name not in possible:
        raise InvalidInput(
            f"finding {finding_id} cannot be repaired by {name!r}; possible are: "
            f"{', '.join(possible) or 'none'}",
            field="repair",
        )
    return _submission(row, name, possible[name][1], actor, reason, approval)


def _submission(
    row: Mapping[str, Any],
    name: str,
    request: Request,
    actor: Actor,
    reason: str | None,
    approval: bool | None = None,
) -> Submission:
    written = {**request, "approval": approval} if approval else request
    return Submission(
        requests=[parse_request(written)],
        actor=actor,
        reason=reason or f"repair of finding {row['id']}: {row['kind']}",
        idempotency_key=f"repair {row['id']} {name} {row['last_seen_by']}",
    )


def note_repair(connection: Connection, finding_id: int, job_id: int) -> None:
    """Note which job is to repair a finding."""
    connection.execute(
        update(findings).where(findings.c.id == finding_id).values(repair_job=job_id)
    )


def by_rule(connection: Connection, settings: AuditSettings) -> Iterator[tuple[int, Submission]]:
    """What rules have repaired now: ids of findings, and the submissions.

    Nothing after a restore of the database, nor on a backend where too much differs, nor what
    the latest audit has not seen, nor what a job is to repair already.
    """
    restored = connection.execute(select(installation.c.restored_at)).scalar()
    if not settings.rules or restored is not None:
        return
    for backend in connection.execute(
        select(backends.c.id, audits.c.job_id, audits.c.recorded, audits.c.found)
        .join(audits, audits.c.backend_id == backends.c.id)
        .where(backends.c.configured, backends.c.state == BackendState.ENABLED)
    ).all():
        most = max(backend.recorded, backend.found) * settings.most_percent / 100.0
        if repairable(connection, backend.id, settings) <= most:
            yield from _due(connection, backend, settings)


def repairable(connection: Connection, backend_id: int, settings: AuditSettings) -> int:
    """How many open findings of a backend rules would repair."""
    query = select(func.count()).where(
        findings.c.backend_id == backend_id,
        findings.c.state == FindingState.OPEN,
        findings.c.kind.in_(settings.rules),
    )
    return int(connection.execute(query).scalar_one())


def _due(
    connection: Connection, backend: Any, settings: AuditSettings
) -> Iterator[tuple[int, Submission]]:
    now = connection.execute(select(db_now())).scalar_one()
    unfinished = select(jobs.c.id).where(jobs.c.finished_at.is_(None))
    rows = connection.execute(
        select(findings, backends.c.name.label("backend"))
        .join(backends, backends.c.id == findings.c.backend_id)
        .where(
            findings.c.backend_id == backend.id,
            findings.c.state == FindingState.OPEN,
            findings.c.kind.in_(settings.rules),
            findings.c.last_seen_by == backend.job_id,
            findings.c.first_seen_at <= now - timedelta(hours=settings.grace_hours),
            findings.c.repair_job.is_(None) | findings.c.repair_job.not_in(unfinished),
        )
        .order_by(findings.c.id)
        .limit(_AT_ONCE)
    ).mappings()
    for row in rows.all():
        name = settings.rules[row["kind"]]
        possible = repairs_of(row)  # type: ignore[arg-type]
        if name in possible:
            request = possible[name][1]
            reason = f"rule for findings of the kind {row['kind']}: {row['text']}"[:500]
            actor = Actor(ENGINE, Role.ADMIN)
            yield row["id"], _submission(row, name, request, actor, reason)  # type: ignore[arg-type]
