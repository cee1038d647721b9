"""A visit: one request for a page, by somebody who has signed in; and the frame of every page."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from urllib.parse import parse_qsl

from fastapi import Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Scope

from orchestrator import __version__
from orchestrator.actions.registry import collection
from orchestrator.actions.requests import Reason, validated
from orchestrator.api.requesting import BODY
from orchestrator.api.service import Service
from orchestrator.console import rendering
from orchestrator.domain.errors import NotAllowed, NotAuthenticated, Problem
from orchestrator.domain.states import Role
from orchestrator.domain.targets import KINDS
from orchestrator.history.events import as_of
from orchestrator.resources.registry import RESOURCES
from orchestrator.resources.resource import Listed
from orchestrator.sessions import Session
from orchestrator.store.transaction import Transaction

#: Where the scope of a request has its `Session`, or None; and the secret that it came with.
SESSION: Final = "orchestrator.session"
COOKIE: Final = "orchestrator.session_cookie"
#: The field of every form that says which page it is of.
FORM_TOKEN: Final = "form_token"  # noqa: S105
#: Items of a page of a list.
PAGE = 50
HEADERS: Final = {"Content-Security-Policy": rendering.POLICY}


@dataclass(frozen=True)
class Visit:
    """A request for a page."""

    scope: Scope
    service: Service
    session: Session

    def page(
        self,
        template: str,
        read: Callable[[Transaction], Mapping[str, Any]],
        *,
        about: Mapping[str, object] | None = None,
    ) -> HTMLResponse:
        """A page of what ``read`` finds, on one state of the database.

        ``about``: the query that says which changes concern the page (`changes`); without it,
        any do.
        """

        def work(transaction: Transaction) -> tuple[Mapping[str, Any], datetime, int]:
            return read(transaction), *as_of(transaction)

        values, now, number = self.service.read(work)
        stream = url_of(self.service)("changes") + rendering.query(**(about or {}), after=number)
        shown = {**frame(self.scope, self.service), **values, "now": now, "stream": stream}
        return HTMLResponse(rendering.render(template, **shown), headers=HEADERS)

    def gone(
        self, problem: Problem, title: str, read: Callable[[Transaction], Mapping[str, Any]]
    ) -> HTMLResponse:
        """The page of what is not there any more, but was: ``read`` finds its jobs and events.

        Raises the problem if there are neither.
        """
        found = self.service.read(read)
        if not (found["jobs"] or found["events"]):
            raise problem
        return self.page("gone.html", lambda _: {**found, "problem": problem, "title": title})

    def go(self, *segments: object) -> RedirectResponse:
        """Send the browser on to a page, once a form has done something."""
        return RedirectResponse(url_of(self.service)(*segments), status_code=303)


async def visit_of(request: Request) -> Visit:
    """The visit that a request is. Raises `NotAuthenticated`."""
    session: Session | None = request.scope[SESSION]
    if session is None:
        raise NotAuthenticated()
    return Visit(request.scope, request.app.state.service, session)


Here = Annotated[Visit, Depends(visit_of)]


class Sent(BaseModel):
    """What a form of a page sends."""

    model_config = ConfigDict(extra="forbid")

    form_token: str = ""
    #: That of two that are sent one is heeded.
    key: str | None = Field(default=None, max_length=255, pattern=r"^[\x21-\x7e]+$")
    reason: Reason | None = None
    #: Of a finding: the name of one of its repairs.
    repair: str = Field(default="", max_length=40)


def fields_of(scope: Scope) -> dict[str, str]:
    """The fields of a form that was sent; those left empty are left out."""
    body: bytes = scope[BODY]
    return dict(parse_qsl(body.decode("latin-1"), encoding="utf-8", errors="replace"))


async def form_of(request: Request, visit: Here) -> Sent:
    """A form of one of this session's pages. Raises `NotAllowed` for any other."""
    fields = fields_of(request.scope)
    check_form(fields.get(FORM_TOKEN, ""), visit.session.form_token)
    sent: Sent = validated(Sent.model_validate, fields)
    return sent


def check_form(sent: str, expected: str) -> None:
    """Raise `NotAllowed` unless a form was sent by the page that it belongs to."""
    if not hmac.compare_digest(sent.encode(), expected.encode()):
        raise NotAllowed(
            "the form is not of a page of this session: nothing was done. Open the page again, and "
            "send the form from there"
        )


FormHere = Annotated[Sent, Depends(form_of)]


def url_of(service: Service) -> Callable[..., str]:
    """What makes the address of a page from the segments of its path."""
    prefix = service.settings.api.root_path

    def url(*segments: object) -> str:
        return f"{prefix}{rendering.path(*segments) or '/'}"

    return url


def own_path(scope: Scope) -> str:
    """The path of a request below the prefix."""
    path: str = scope["path"]
    return path.removeprefix(scope["root_path"]) or "/"


def frame(scope: Scope, service: Service) -> dict[str, Any]:
    """What the frame of a page shows, with or without a session."""
    session: Session | None = scope.get(SESSION)
    url = url_of(service)
    own = own_path(scope)
    return {
        "url": url,
        "asset": lambda name: url("assets", rendering.version_of(name), name),
        "here": own,
        "section": _section_of(own),
        "given": dict(parse_qsl(scope["query_string"].decode("latin-1"))),
        "session": session,
        "actor": session.actor if session else None,
        "may": lambda role: session is not None and session.actor.role.includes(Role(role)),
        "version": __version__,
        "sections": [(name, url(*path), f"/{'/'.join(path)}") for name, path in _SECTIONS],
        "segments": SEGMENTS,
        "stream": None,
    }


#: The segment of the path below which the objects of each kind are.
SEGMENTS: Final = {kind: collection(kind).rpartition("/")[2] for kind in KINDS}
#: The pages that every page leads to; a resource that is listed has one by itself.
_SECTIONS: Final[list[tuple[str, tuple[str, ...]]]] = [
    ("Overview", ()),
    ("Jobs", ("jobs",)),
    ("Batches", ("batches",)),
    ("Backends", ("backends",)),
    ("Volumes", ("volumes",)),
    *(
        (kind.titles.capitalize(), (SEGMENTS[kind.name],))
        for kind in KINDS.values()
        if isinstance(RESOURCES[kind.name], Listed)
    ),
    ("Findings", ("findings",)),
    ("Events", ("events",)),
]


def _section_of(own: str) -> str:
    """The page that a path belongs to: what a backend has belongs to the list of its kind."""
    first, *rest = own.split("/")[1:]
    return f"/{rest[1] if first == 'backends' and len(rest) > 1 else first}"


def problem_page(scope: Scope, service: Service, problem: Problem) -> HTMLResponse:
    """The page that tells a problem."""
    values = frame(scope, service)
    own = values["here"]
    # A form was sent to a path below the page that has it.
    back = own.rpartition("/")[0] if scope["method"] == "POST" else ""
    values["back"] = f"{service.settings.api.root_path}{back or '/'}"
    return HTMLResponse(
        rendering.render("problem.html", **values, problem=problem, now=datetime.now(UTC)),
        status_code=problem.status,
        headers=HEADERS,
    )
