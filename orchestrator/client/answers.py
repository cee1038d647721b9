"""From what came over the wire to what a caller gets: documents, or the `Problem` that is told."""

from __future__ import annotations

import json
from typing import Any

import httpx

from orchestrator.client.steps import Answer
from orchestrator.domain.errors import (
    Conflict,
    Gone,
    InvalidInput,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    Problem,
    Unavailable,
    problem_for,
)

#: Members of a problem document that are not facts.
_ENVELOPE = ("type", "title", "status", "code", "detail", "field", "instance")
#: What a status means where the code is one that a newer service made, or absent.
_FAMILIES: dict[int, type[Problem]] = {
    400: InvalidInput,
    401: NotAuthenticated,
    403: NotAllowed,
    404: NotFound,
    409: Conflict,
    410: Gone,
    413: InvalidInput,
    422: InvalidInput,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}


def read_answer(response: httpx.Response) -> Answer:
    """The decoded answer. Raises the `Problem` that the service answered with."""
    try:
        body = json.loads(response.content) if response.content else None
    except ValueError:
        body = None
    if response.is_success and (body is not None or response.status_code == 204):
        return Answer(response.status_code, response.headers, body)
    raise _problem(response, body)


def _problem(response: httpx.Response, body: Any) -> Problem:
    told = isinstance(body, dict) and isinstance(body.get("code"), str)
    if not told:
        return _not_ours(response)
    code, status = body["code"], response.status_code
    kind = problem_for(code)
    known = kind.code == code
    if not known:
        kind = _FAMILIES.get(status, Problem)
    facts = {name: value for name, value in body.items() if name not in _ENVELOPE}
    detail = str(body.get("detail") or kind.title())
    problem = kind(detail, field=body.get("field"), **facts)
    if not known:
        # The newer service's words are kept for programs.
        problem.code = code  # type: ignore[misc]
        problem.status = status  # type: ignore[misc]
    return problem


def _not_ours(response: httpx.Response) -> Problem:
    """What something in between said: a proxy, or another service at this address."""
    status, url = response.status_code, response.request.url
    if status in _FAMILIES and status not in (400, 404, 422):
        kind = _FAMILIES[status]
        return kind(f"{url} answered with HTTP status {status}")
    return Unavailable(
        f"what answers at {url} (HTTP status {status}) is not the storage orchestrator: "
        "check ORCHESTRATOR_URL"
    )


def unreachable(url: str, error: httpx.TransportError) -> Unavailable:
    """What a failed connection means, and what to check."""
    never_sent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
        return Unavailable(
            f"{url!r} cannot be called: {error}. Set ORCHESTRATOR_URL to an address such as "
            "http://127.0.0.1:8080",
            url=url,
            may_have_arrived=False,
        )
    why = str(error) or type(error).__name__
    if isinstance(error, httpx.TimeoutException) and not never_sent:
        why = "no answer in time"
    return Unavailable(
        f"{url} cannot be reached ({why}): check that the service runs there, and that "
        "ORCHESTRATOR_URL names the right address",
        url=url,
        may_have_arrived=not never_sent,
    )
