"""Findings: the list, and one finding with the repairs that are possible."""

from __future__ import annotations

import json
import secrets
from typing import Any

from fastapi import APIRouter, Response

from orchestrator.actions.registry import ACTIONS
from orchestrator.api.filters import check_backend
from orchestrator.api.requesting import Cursor, IdInPath, Operator, cursor_for, position_of
from orchestrator.api.routes import findings as routes
from orchestrator.asgi.reading import ExactRoute
from orchestrator.console.visits import PAGE, FormHere, Here
from orchestrator.domain.names import BackendName
from orchestrator.domain.states import FindingKind, FindingState
from orchestrator.findings.recording import finding, list_findings
from orchestrator.findings.repairing import finding_view
from orchestrator.inventory.backends import configured_names
from orchestrator.store.transaction import Transaction

router = APIRouter(prefix="/findings", route_class=ExactRoute)


@router.get("")
def list_(
    visit: Here,
    backend: BackendName | None = None,
    kind: FindingKind | None = None,
    state: FindingState | None = None,
    cursor: Cursor = None,
) -> Response:
    """List findings, newest first."""
    before = position_of(cursor, int)
    wanted = {"backend": backend, "kind": kind, "state": state}
    filters = {name: value for name, value in wanted.items() if value is not None}

    def read(transaction: Transaction) -> dict[str, Any]:
        check_backend(transaction, backend)
        found = list_findings(transaction, filters, before=before, limit=PAGE)
        return {
            "findings": found,
            "cursor": cursor_for(found[-1]["id"]) if len(found) == PAGE else None,
            "kinds": [one.value for one in FindingKind],
            "states": [one.value for one in FindingState],
            "backends": configured_names(transaction),
        }

    return visit.page("findings.html", read)


@router.get("/{finding_id}")
def show(visit: Here, finding_id: IdInPath) -> Response:
    """One finding: what was recorded and what was found, and how it can be repaired."""

    def read(transaction: Transaction) -> dict[str, Any]:
        found: Any = finding(transaction, finding_id)
        shown = finding_view(found)
        # Of the repairs, those whose jobs this visitor may submit.
        mine = [
            one
            for one in shown["repairs"]
            if visit.session.actor.role.includes(ACTIONS[one["job"]["action"]].role)
        ]
        return {"finding": shown, "repairs": mine, "key": secrets.token_hex(16)}

    return visit.page("finding.html", read)


@router.post("/{finding_id}/repair")
async def repair(visit: Here, actor: Operator, finding_id: IdInPath, sent: FormHere) -> Response:
    """Submit the job that repairs a finding, and go on to it."""
    wanted = routes.RepairRequest(repair=sent.repair)
    answer = await routes.repair(
        visit.service,
        actor,
        finding_id,
        wanted,
        0.0,
        key=sent.key,
        reason=sent.reason,
    )
    return visit.go("jobs", json.loads(bytes(answer.body))["id"])
