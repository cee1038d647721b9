"""Errors at the edge: every one a problem document; what was not foreseen is redacted."""

from __future__ import annotations

from collections.abc import Callable

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from orchestrator.actions.requests import problem_from
from orchestrator.asgi.reading import methods_here
from orchestrator.domain.errors import (
    InternalError,
    InvalidInput,
    MalformedBody,
    MethodNotAllowed,
    NotAuthenticated,
    NotFound,
    Problem,
)

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"


def respond(problem: Problem, instance: str | None = None) -> JSONResponse:
    """The response that tells a problem."""
    document = problem.document()
    if instance is not None:
        document["instance"] = instance
    headers = {"WWW-Authenticate": "Bearer"} if isinstance(problem, NotAuthenticated) else None
    return JSONResponse(
        document, status_code=problem.status, media_type=MEDIA_TYPE, headers=headers
    )


def unforeseen(error: Exception, instance: str) -> JSONResponse:
    """The response to what was not foreseen, which the log tells and the client does not see."""
    note_unforeseen(error, instance)
    return respond(InternalError(), instance)


def note_unforeseen(error: Exception, path: str) -> None:
    """Log what was not foreseen."""
    log.error("api.unforeseen_error", path=path, exc_info=error)


class _Other(Problem):
    """The request could not be served."""

    code = "http_error"


def _document(problem: Problem, request: Request) -> Response:
    return respond(problem, request.url.path)


def install(app: FastAPI, answer: Callable[[Problem, Request], Response] = _document) -> None:
    """Make the application answer every error by ``answer``: as a problem document."""

    @app.exception_handler(Problem)
    async def _problem(request: Request, problem: Problem) -> Response:
        return answer(problem, request)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        return answer(_problem_of(error, request), request)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        if isinstance(error.__cause__, Problem):
            problem: Problem = error.__cause__  # raised while the body was received
        elif error.status_code == NotFound.status:
            problem = NotFound(f"there is nothing at {request.url.path}")
        elif error.status_code == MethodNotAllowed.status:
            methods = headers["Allow"] = methods_here(request)
            problem = MethodNotAllowed(
                f"{request.method} is not for this path, which takes {methods}"
            )
        elif error.status_code == MalformedBody.status:
            problem = MalformedBody(str(error.detail))
        else:
            problem = _Other(str(error.detail))
            problem.status = error.status_code  # type: ignore[misc]
        response = answer(problem, request)
        response.headers.update(headers)
        return response

    @app.exception_handler(UnicodeError)
    async def _undecodable(request: Request, error: UnicodeError) -> Response:
        return answer(InvalidInput("the request holds text that is not UTF-8"), request)

    @app.exception_handler(Exception)
    async def _unforeseen(request: Request, error: Exception) -> Response:
        note_unforeseen(error, request.url.path)
        return answer(InternalError(), request)


def _problem_of(error: RequestValidationError, request: Request) -> Problem:
    """What is wrong with a request that is not as its route declares."""
    errors = list(error.errors())
    if errors and errors[0].get("type") == "json_invalid":
        return MalformedBody(f"the body is no JSON: {errors[0]['ctx']['error']}", field="body")
    if errors and isinstance(errors[0].get("input"), bytes):
        return MalformedBody(
            "the body was not read as JSON: send JSON with 'Content-Type: application/json'",
            field="body",
        )
    field = getattr(request.scope.get("route"), "body_field", None)
    model = field.field_info.annotation if field is not None else None
    return problem_from(errors, model)
