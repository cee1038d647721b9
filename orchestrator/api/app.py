"""The application: routes, errors, and what a request may be like."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import anyio.to_thread
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator import __version__
from orchestrator.api import models, problems
from orchestrator.api.direct import ShortWay
from orchestrator.api.nas import nas_application
from orchestrator.api.requesting import Trusted
from orchestrator.api.routes import (
    batches,
    events,
    findings,
    health,
    inventory,
    jobs,
    queue,
    quotas,
    report,
    schedules,
    tokens,
    verbs,
)
from orchestrator.api.service import Service
from orchestrator.domain.errors import BodyTooLarge
from orchestrator.domain.requests import MAX_BATCH
from orchestrator.rawpaths import RawPaths

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
    app.state.trusted = Trusted()
    problems.install(app)
    for router in (
        health.router,
        jobs.router,
        batches.router,
        inventory.router,
        verbs.router(),
        events.router,
        findings.router,
        tokens.router,
        quotas.router,
        queue.router,
        schedules.router,
        report.router,
    ):
        app.include_router(router)
    if service.settings.v3.enabled:
        app.mount("/v3", nas_application(service, app.state.trusted))
    _name_schemas(app)
    app.add_middleware(RawPaths)
    return app


def served(app: FastAPI, service: Service) -> ASGIApp:
    """What a server serves: the application behind the short way in."""
    short = ShortWay(app, service, app.state.trusted)
    return LimitedBodies(short, most=service.settings.api.max_body_bytes)


def _name_schemas(app: FastAPI) -> None:
    """Put the models that only references name among the components."""
    generate = app.openapi

    def openapi() -> dict[str, object]:
        document = generate()
        schemas = document["components"]["schemas"]
        for model in (models.ProblemDocument, batches.BatchRequest):
            if model.__name__ not in schemas:
                schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
                for name, definition in schema.pop("$defs", {}).items():
                    schemas.setdefault(name, definition)
                schemas[model.__name__] = schema
        return document

    app.openapi = openapi  # type: ignore[method-assign]


class LimitedBodies:
    """Refuses bodies above a size, announced or not, before they fill the memory."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app = app
        self.most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what is received."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self.most:
            problem = BodyTooLarge(f"the body has more than {self.most} bytes: split the batch")
            await problems.respond(problem)(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self.most:
                    raise BodyTooLarge(f"the body has more than {self.most} bytes: split the batch")
            return message

        await self.app(scope, counted, send)
