"""Check that a backend is reachable and bears its identity marker."""

from __future__ import annotations

from pydantic import Field

from orchestrator.domain.action import Action, Checks, Params
from orchestrator.domain.states import Role


class VerifyBackendParams(Params):
    """What to do about the identity marker."""

    accept_identity: bool = Field(
        default=False,
        description="Accept the existing marker as this backend's own, or write one if "
        "there is none. Only after you have made sure that it is the right storage.",
    )


VERIFY = Action(
    name="backend.verify",
    order=390,
    summary="Check that a backend is reachable and bears its identity marker.",
    audit="verified backend {backend}",
    params=VerifyBackendParams,
    checks=Checks(),
    role=Role.ADMIN,
    takes=(),
    lanes=(),
    schedulable=True,
    by_hand=("accept_identity",),
    needs_storage=False,
    journaled=False,
    route=("POST", "/verify"),
)
