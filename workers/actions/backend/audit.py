"""Compare what a backend really has with the inventory."""

from __future__ import annotations

from orchestrator.actions.backend.audit import AUDIT
from workers.execution.auditing import audit
from workers.execution.handler import Handler

HANDLERS = (Handler(AUDIT, audit),)
