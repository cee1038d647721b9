"""What is submitted, by whom, and what becomes of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.actions.requests import JobRequest
from orchestrator.domain.actors import Actor
from orchestrator.domain.outlook import Intent
from orchestrator.jobs.queued import Wake


@dataclass(frozen=True, kw_only=True)
class Submission:
    """Jobs that are accepted together or not at all."""

    requests: Sequence[JobRequest]
    actor: Actor
    batch: bool = False
    reason: str | None = None
    idempotency_key: str | None = None
    #: Volumes that hand-made retries are bound to, by place in ``requests``.
    bound: dict[int, dict[str, Any]] = field(default_factory=dict)

    def digest(self) -> str:
        """What the idempotency key stands for."""
        # What is absent is left out: requests keep what they stand for when fields are added.
        body = [request.model_dump(mode="json", exclude_none=True) for request in self.requests]
        for place in self.bound:
            # A retry needs what the retried job did, which may have been retried since.
            body[place].pop("depends_on", None)
        retries = [bound.get("retry_of") for bound in self.bound.values()]
        text = json.dumps([self.batch, self.reason, body, retries], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """What became of a submission: the stored jobs, in order, and whom to wake."""

    job_ids: list[int]
    batch_id: int | None
    #: Rows as inserted; empty when the key had been used before.
    rows: list[dict[str, Any]]
    depends_on: dict[int, list[int]]
    #: What each of them asks for.
    intents: list[Intent]
    #: Those that are queued.
    wake: Wake
    repeated: bool = False


@dataclass(frozen=True, kw_only=True)
class PlannedJob:
    """What one job of a plan would do, what it would lose, and what it would wait for."""

    request: JobRequest
    would: str
    notes: list[str]
    waits_for: list[str]
