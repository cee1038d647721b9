"""The short way in for the request that comes most often: one job, well formed.

FastAPI's own way costs more than all the rest of the request. A request that is anything
but well formed goes that way, so that what is refused, and how, is written once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError

from orchestrator.api.requesting import (
    IdempotencyKey,
    ReasonHeader,
    Trusted,
    preferred_wait,
    service_of,
)
from orchestrator.api.submitting import answer, single
from orchestrator.domain.requests import AnyJobRequest, JobRequest
from orchestrator.domain.states import Role

_job: TypeAdapter[JobRequest] = TypeAdapter(AnyJobRequest)
_key: TypeAdapter[str | None] = TypeAdapter(IdempotencyKey)
_reason: TypeAdapter[str | None] = TypeAdapter(ReasonHeader)


class DirectRoute(APIRoute):
    """A route of `POST /v1/jobs`, documented like any other."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The short way, with the usual one behind it."""
        usual = super().get_route_handler()

        async def handle(request: Request) -> Response:
            short = await _short(request)
            return await (usual(request) if short is None else short)

        return handle


async def _short(request: Request) -> Awaitable[Response] | None:
    """The answer on its way; None if the request needs the usual way."""
    headers = request.headers
    scheme, _, token = headers.get("authorization", "").partition(" ")
    plain = headers.get("content-type", "").partition(";")[0] == "application/json"
    if scheme.lower() != "bearer" or not plain or request.scope.get("query_string"):
        return None
    service = await service_of(request)
    trusted: Trusted = request.app.state.trusted
    actor = trusted.known(token)
    if actor is None or not actor.role.includes(Role.OPERATOR):
        return None
    try:
        job = _job.validate_json(await request.body())
        key = _key.validate_python(headers.get("idempotency-key"))
        reason = _reason.validate_python(headers.get("reason"))
    except ValidationError:
        return None
    wait = await preferred_wait(headers.get("prefer"))
    return answer(service, single(job, actor, reason=reason, key=key), wait=wait)
