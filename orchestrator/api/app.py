"""The application: routes, errors, and what a request may be like."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import anyio.to_thread
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from starlette.types import ASGIApp

from orchestrator import __version__
from orchestrator.actions.requests import MAX_BATCH
from orchestrator.api import problems
from orchestrator.api.direct import ShortWay
from orchestrator.api.door import Door, Room
from orchestrator.api.nas import is_open, nas_application
from orchestrator.api.pages import POLICY, page
from orchestrator.api.requesting import trusted_tokens
from orchestrator.api.routes import (
    batches,
    events,
    findings,
    health,
    inventory,
    jobs,
    locks,
    queue,
    quotas,
    report,
    schedules,
    status,
    tokens,
    verbs,
)
from orchestrator.api.service import Service
from orchestrator.contract.answers import ProblemDocument

_DESCRIPTION = f"""\
Actions on storage become durable jobs; workers execute them, and the database tells what
there is and what happened.

Submit with `POST /v1/jobs`, or up to {MAX_BATCH:,} at once with `POST /v1/batches`. Everything
that submits takes `Idempotency-Key`, `Prefer: wait=30` and `?plan=true`. Errors are problem
documents (RFC 9457) with a stable `code`.
"""

#: Any route may answer with one of these.
_ERRORS = {
    400: "The body could not be read.",
    401: "A valid token is needed.",
    403: "The token's role does not allow this.",
    404: "There is no such thing.",
    409: "What is there does not allow this.",
    405: "The path does not take this method.",
    408: "The body did not arrive in time.",
    410: "This has been archived.",
    413: "The body is too large.",
    422: "The request is not valid.",
    503: "The service cannot do this now.",
}


def create_app(service: Service) -> FastAPI:
    """The ASGI application of one process."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        # No more threads than the pool has connections for, its committer's included: others
        # would wait for one, and some too long.
        size = service.settings.database.pool_size
        anyio.to_thread.current_default_thread_limiter().total_tokens = max(1, size - 1)
        threads = ThreadPoolExecutor(size, thread_name_prefix="request")
        asyncio.get_running_loop().set_default_executor(threads)
        await service.waiters.start()
        try:
            yield
        finally:
            await service.waiters.stop()
            service.close()

    app = FastAPI(
        title="Storage orchestrator",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        responses={
            status: {
                "description": text,
                "content": {
                    problems.MEDIA_TYPE: {
                        "schema": {"$ref": "#/components/schemas/ProblemDocument"}
                    }
                },
            }
            for status, text in _ERRORS.items()
        },
    )
    app.state.service = service
    app.state.trusted = trusted_tokens()
    problems.install(app)
    for router in (
        health.router,
        jobs.router,
        batches.router,
        inventory.router,
        locks.router,
        verbs.router(),
        events.router,
        findings.router,
        tokens.router,
        quotas.router,
        queue.router,
        schedules.router,
        report.router,
        status.router,
    ):
        app.include_router(router)
    if service.settings.v3.enabled:
        app.mount("/v3", nas_application(service, app.state.trusted))
    _name_schemas(app)

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        """The description as a page."""
        return HTMLResponse(page(app.openapi()), headers={"Content-Security-Policy": POLICY})

    return app


def served(app: FastAPI, service: Service, room: Room | None = None) -> ASGIApp:
    """What a server serves: the application behind the short way in and the door, and a room."""
    return Door(
        ShortWay(app, service),
        service,
        app.state.trusted,
        nas_is_open=is_open(service.settings.v3),
        room=room,
    )


def _name_schemas(app: FastAPI) -> None:
    """Put the models that only references name among the components."""
    generate = app.openapi

    def openapi() -> dict[str, object]:
        document = generate()
        schemas = document["components"]["schemas"]
        for model in (ProblemDocument, batches.BatchRequest):
            if model.__name__ not in schemas:
                schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
                for name, definition in schema.pop("$defs", {}).items():
                    schemas.setdefault(name, definition)
                schemas[model.__name__] = schema
        return document

    app.openapi = openapi  # type: ignore[method-assign]
