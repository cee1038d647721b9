"""The console as a room behind the door: its application, and who has signed in."""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qsl, urlencode

from fastapi import FastAPI, Response
from fastapi.responses import RedirectResponse
from fastapi.routing import iter_route_contexts
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.api import problems
from orchestrator.api.requesting import ASKING, Trusted
from orchestrator.api.service import Service
from orchestrator.console import changes, rendering, signing
from orchestrator.console.pages import (
    batches,
    collections,
    events,
    findings,
    inventory,
    jobs,
    overview,
)
from orchestrator.console.visits import COOKIE, SESSION, own_path, problem_page
from orchestrator.domain.actors import Actor
from orchestrator.domain.errors import NotAuthenticated, NotFound, Problem
from orchestrator.sessions import Session, find, renew

#: Pages that anybody may see.
_OPEN = ("/sign-in", "/assets/")
#: How long browsers keep assets, whose addresses change with what is in them.
_KEPT = {"Cache-Control": "public, max-age=31536000, immutable"}
_MEDIA_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


class Console:
    """What serves the pages of one process (`orchestrator.api.door.Room`)."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._sessions: Trusted[Session] = Trusted(find)
        app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
        app.state.service, app.state.sessions = service, self._sessions
        problems.install(app, lambda problem, request: self._answer(problem, request.scope))
        for router in (
            signing.router,
            changes.router,
            overview.router,
            jobs.router,
            batches.router,
            inventory.router,
            collections.router(),
            findings.router,
            events.router,
        ):
            app.include_router(router)
        app.add_api_route("/assets/{version}/{name}", _asset)
        self._app = app
        #: The first segments of its paths.
        self._own = frozenset(
            route.path.split("/")[1] for route in iter_route_contexts(app.routes) if route.path
        ) - {""}

    def serves(self, path: str) -> bool:
        """Whether a path is one of the console's."""
        return path == "/" or (path[:1] == "/" and path[1:].partition("/")[0] in self._own)

    async def who_asks(self, path: str, scope: Scope) -> Actor | None:
        """Whose session it is. Raises `NotAuthenticated`."""
        scope[SESSION] = None
        if path.startswith(_OPEN):
            return None
        if (secret := signing.secret_in(scope)) is None:
            raise NotAuthenticated()
        session = await self._sessions.check(self._service, secret)
        ASKING.set((self._sessions, secret))
        scope[SESSION], scope[COOKIE] = session, secret
        return session.actor

    def refusal(self, problem: Problem, _path: str) -> ASGIApp:
        """The page that tells why a request does not come in; or the way to sign in."""

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await self._answer(problem, scope)(scope, receive, send)

        return answer

    def _answer(self, problem: Problem, scope: Scope) -> Response:
        if not isinstance(problem, NotAuthenticated):
            return problem_page(scope, self._service, problem)
        if changes.is_stream(scope):
            return Response(status_code=problem.status)
        return signing.to_sign_in(scope, self._service)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        session: Session | None = scope[SESSION]
        if session is not None and session.is_old and not changes.is_stream(scope):
            send = await self._renewing(scope, send)
        if scope["method"] == "GET" and (shorter := _shorter(scope)) is not None:
            await shorter(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _renewing(self, scope: Scope, send: Send) -> Send:
        """What sends the answer with another secret for a session whose own is old."""
        secret = await asyncio.to_thread(
            self._service.write, lambda transaction: renew(transaction, scope[COOKIE])
        )
        if secret is None:
            return send
        response = Response()
        signing.keep_session(response, scope, self._service, secret)
        cookie = response.headers["set-cookie"]

        async def renewing(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if not any("session=" in one for one in headers.getlist("set-cookie")):
                    headers.append("set-cookie", cookie)
            await send(message)

        return renewing


def _shorter(scope: Scope) -> Response | None:
    """The way to the same address without the fields of a filter that were left empty, and
    without a slash at its end; None if it has neither."""
    sent = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    kept = [(name, value) for name, value in sent if value]
    own = own_path(scope)
    path = scope["path"].rstrip("/") if own != "/" else scope["path"]
    if len(kept) == len(sent) and path == scope["path"]:
        return None
    query = f"?{urlencode(kept)}" if kept else ""
    return RedirectResponse(path + query, status_code=303)


def _asset(version: str, name: str) -> Response:
    """A file that pages load."""
    try:
        content = rendering.asset(name)
    except KeyError:
        raise NotFound(f"there is no file {name!r} here") from None
    media_type = _MEDIA_TYPES[name.rpartition(".")[2]]
    is_present = version == rendering.version_of(name)
    return Response(content, media_type=media_type, headers=_KEPT if is_present else None)
