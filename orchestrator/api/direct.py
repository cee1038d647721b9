"""The short way in for the request that comes most often: one job, well formed.

FastAPI's own way costs more than all the rest of the request. A request that is anything
but well formed goes that way, so that what is refused, and how, is written once.
"""

from __future__ import annotations

from fastapi import Response
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from orchestrator.actions.requests import AnyJobRequest, JobRequest
from orchestrator.api import problems
from orchestrator.api.requesting import ACTOR, BODY, IdempotencyKey, ReasonHeader, wait_in
from orchestrator.api.service import Service
from orchestrator.api.submitting import answer, single
from orchestrator.domain.actors import Actor
from orchestrator.domain.errors import MalformedBody, Problem
from orchestrator.domain.exact import read_json
from orchestrator.domain.states import Role

_job: TypeAdapter[JobRequest] = TypeAdapter(AnyJobRequest)
_key: TypeAdapter[str | None] = TypeAdapter(IdempotencyKey)
_reason: TypeAdapter[str | None] = TypeAdapter(ReasonHeader)


class ShortWay:
    """Answers `POST /v1/jobs` where it can, and leaves everything else to the application."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self._service = service
        self._path = f"{service.settings.api.root_path}/v1/jobs"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        if scope["type"] != "http" or scope["path"] != self._path or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        response: Response | None
        try:
            response = await self._answer(scope, scope[BODY])
        except Problem as problem:
            response = problems.respond(problem, scope["path"])
        except Exception as error:
            response = problems.unforeseen(error, scope["path"])
        await (response or self.app)(scope, receive, send)

    async def _answer(self, scope: Scope, body: bytes) -> Response | None:
        """The answer; None if the request needs the usual way. Raises a `Problem`."""
        headers = Headers(scope=scope)
        plain = headers.get("content-type", "").partition(";")[0] == "application/json"
        actor: Actor | None = scope[ACTOR]
        if not plain or scope["query_string"]:
            return None
        if actor is None or not actor.role.includes(Role.OPERATOR):
            return None
        try:
            job = _job.validate_python(read_json(body))
            key = _key.validate_python(headers.get("idempotency-key"))
            reason = _reason.validate_python(headers.get("reason"))
        except (ValidationError, MalformedBody):
            return None
        wait = wait_in(headers)
        submission = single(job, actor, reason=reason, key=key)
        return await answer(self._service, submission, wait=wait)
