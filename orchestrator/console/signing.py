"""Signing in with a token, and out: the session's cookie, and the form for the token."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from http.cookies import CookieError, SimpleCookie
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.types import Scope

from orchestrator import sessions
from orchestrator.api.requesting import ServiceHere, Trusted
from orchestrator.api.service import Service
from orchestrator.asgi.reading import ExactRoute
from orchestrator.console import rendering
from orchestrator.console.visits import (
    COOKIE,
    FORM_TOKEN,
    HEADERS,
    FormHere,
    Here,
    check_form,
    fields_of,
    frame,
    own_path,
    url_of,
)
from orchestrator.domain.errors import NotAuthenticated
from orchestrator.sessions import Session
from orchestrator.store.transaction import Transaction

#: The cookie with the secret of the session; and the one that the form for the token goes with.
_SESSION_COOKIE = "orchestrator_session"
_FORM_COOKIE = "orchestrator_sign_in"

router = APIRouter(route_class=ExactRoute)

#: Where to go on once signed in: an address of this service, below its prefix.
Next = Annotated[str, Query(alias="next", max_length=2000)]


def secret_in(scope: Scope) -> str | None:
    """The secret of the session that a request came with."""
    return _cookie_in(scope, _SESSION_COOKIE)


def _cookie_in(scope: Scope, name: str) -> str | None:
    sent = b"; ".join(value for header, value in scope["headers"] if header == b"cookie")
    try:
        found = SimpleCookie(sent.decode("latin-1")).get(name)
    except CookieError:
        return None
    return None if found is None else found.value


def keep_cookie(
    response: Response, scope: Scope, service: Service, name: str, value: str | None
) -> None:
    """Have the browser keep a cookie until it is closed, and send it to this service only.

    Without a value: have it forget the cookie.
    """
    response.set_cookie(
        name,
        value or "",
        max_age=0 if value is None else None,
        path=service.settings.api.root_path or "/",
        secure=scope["scheme"] == "https",
        httponly=True,
        samesite="strict",
    )


def keep_session(response: Response, scope: Scope, service: Service, secret: str | None) -> None:
    """Have the browser keep the secret of a session, or forget it."""
    keep_cookie(response, scope, service, _SESSION_COOKIE, secret)


def to_sign_in(scope: Scope, service: Service) -> Response:
    """Where somebody is sent who has to sign in first; from there they come back."""
    own = own_path(scope)
    if scope["method"] == "GET":
        sent = scope["query_string"].decode("latin-1")
        own += f"?{sent}" if sent else ""
        if _comes_from_elsewhere(scope):
            return _again(scope, service, own)
    else:
        own = own.rpartition("/")[0]  # the page that has the form
    back = rendering.query(next=own if own != "/" else None)
    return RedirectResponse(url_of(service)("sign-in") + back, status_code=303)


def _comes_from_elsewhere(scope: Scope) -> bool:
    """Whether a link on a page of somebody else led here: then the browser sends no cookie."""
    headers = dict(scope["headers"])
    return headers.get(b"sec-fetch-site") == b"cross-site" and secret_in(scope) is None


def _again(scope: Scope, service: Service, own: str) -> HTMLResponse:
    """A page that leads to the same address, this time from here, so that the cookie comes."""
    values = {**frame(scope, service), "address": f"{service.settings.api.root_path}{own}"}
    return HTMLResponse(
        rendering.render("again.html", **values, now=datetime.now(UTC)), headers=HEADERS
    )


def _form(request: Request, service: Service, after: str, wrong: str | None = None) -> HTMLResponse:
    form_token = secrets.token_hex()
    values: dict[str, Any] = {"form_token": form_token, "next": after, "wrong": wrong}
    response = HTMLResponse(
        rendering.render(
            "sign_in.html", **frame(request.scope, service), **values, now=datetime.now(UTC)
        ),
        status_code=200 if wrong is None else NotAuthenticated.status,
        headers=HEADERS,
    )
    keep_cookie(response, request.scope, service, _FORM_COOKIE, form_token)
    return response


@router.get("/sign-in")
def ask(request: Request, service: ServiceHere, after: Next = "/") -> Response:
    """The form for the token."""
    return _form(request, service, _here(after))


@router.post("/sign-in")
def sign_in(request: Request, service: ServiceHere) -> Response:
    """Begin a session with a token."""
    fields = fields_of(request.scope)
    check_form(
        fields.get(FORM_TOKEN, ""), _cookie_in(request.scope, _FORM_COOKIE) or secrets.token_hex()
    )
    after, token = _here(fields.get("next", "/")), fields.get("token", "").strip()
    try:
        if not token.isprintable():
            raise NotAuthenticated("the token is not valid: it holds what no token holds")
        _, secret = service.write(lambda transaction: sessions.begin(transaction, token))
    except NotAuthenticated as problem:
        return _form(request, service, after, problem.detail)
    if (before := secret_in(request.scope)) is not None:
        service.write(lambda transaction: _end_before(transaction, before))
        trusted_of(request).forget(before)
    response = RedirectResponse(service.settings.api.root_path + after, status_code=303)
    keep_session(response, request.scope, service, secret)
    keep_cookie(response, request.scope, service, _FORM_COOKIE, None)
    return response


def _end_before(transaction: Transaction, secret: str) -> None:
    """End the session that the browser had until now, if it has not ended by itself."""
    try:
        sessions.end(transaction, sessions.find(transaction, secret))
    except NotAuthenticated:
        return


@router.post("/sign-out")
def sign_out(request: Request, service: ServiceHere, visit: Here, _sent: FormHere) -> Response:
    """End the session."""
    service.write(lambda transaction: sessions.end(transaction, visit.session))
    trusted_of(request).forget(request.scope[COOKIE])
    response = RedirectResponse(url_of(service)("sign-in"), status_code=303)
    keep_session(response, request.scope, service, None)
    return response


def trusted_of(request: Request) -> Trusted[Session]:
    """The sessions that were checked a moment ago."""
    trusted: Trusted[Session] = request.app.state.sessions
    return trusted


def _here(address: str) -> str:
    """An address to go on with, if it is one of this service."""
    is_ours = address.startswith("/") and not address.startswith(("//", "/\\"))
    return address if is_ours and address.isprintable() else "/"
