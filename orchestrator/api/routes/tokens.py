"""Tokens: made, listed and revoked by administrators."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from pydantic import Field

from orchestrator import tokens
from orchestrator.api.requesting import Admin, NoBody, ServiceHere
from orchestrator.asgi.reading import ExactRoute
from orchestrator.contract.answers import Page
from orchestrator.contract.service import NewToken, Token
from orchestrator.domain.exact import Exact
from orchestrator.domain.names import NAME_OF_TOKENS
from orchestrator.domain.states import Role

router = APIRouter(prefix="/v1/tokens", tags=["tokens"], route_class=ExactRoute)


class TokenRequest(Exact):
    """What the token shall be."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=NAME_OF_TOKENS)]
    # Text becomes a role.
    role: Role = Field(default=Role.OPERATOR, strict=False)
    project: Annotated[str, Field(min_length=1, max_length=64, pattern=NAME_OF_TOKENS)] | None = (
        Field(
            default=None,
            description="For whose quota counts what is made with it; if absent, its own name's.",
        )
    )
    days: Annotated[float, Field(gt=0, le=36500)] | None = Field(
        default=None, description="It expires after this; never, if absent."
    )


@router.post("", status_code=201, response_model=NewToken)
def create(service: ServiceHere, actor: Admin, wanted: TokenRequest) -> dict[str, Any]:
    """Make a token. The answer is the only place where it is shown."""
    described, token = service.write(
        lambda transaction: tokens.create(
            transaction,
            wanted.name,
            wanted.role,
            actor.name,
            days=wanted.days,
            project=wanted.project,
        )
    )
    return {**described, "token": token}


@router.get("", response_model=Page[Token])
def list_(service: ServiceHere, _actor: Admin) -> dict[str, Any]:
    """List the valid tokens."""
    return {"items": service.read(tokens.valid_tokens), "cursor": None}


@router.delete("/{token}", status_code=204, dependencies=[NoBody])
def revoke(
    service: ServiceHere,
    actor: Admin,
    token: Annotated[str, Path(max_length=64, pattern=r"^[^\x00]+$", description="Its id.")],
) -> Response:
    """Make a token invalid; within seconds no process takes it any more."""
    service.write(lambda transaction: tokens.revoke(transaction, token, actor.name))
    return Response(status_code=204)
