"""Health, readiness, metrics, and the list of actions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis.exceptions import RedisError
from sqlalchemy import func, select

from orchestrator.actions.registry import ACTIONS
from orchestrator.api.requesting import Reader, ServiceHere
from orchestrator.asgi.reading import ExactRoute
from orchestrator.contract.answers import Page
from orchestrator.contract.service import ActionDescription, Ready
from orchestrator.domain.errors import Problem
from orchestrator.domain.queues import backend_queue
from orchestrator.inventory.hosts import ALIVE_SECONDS
from orchestrator.store import migrate
from orchestrator.store.columns import db_now
from orchestrator.store.tables import backends, jobs, workers
from orchestrator.store.transaction import Transaction

router = APIRouter(tags=["service"], route_class=ExactRoute)

_OK = "ok"
_DOWN = "down"


@router.get("/healthz")
def healthz() -> dict[str, str]:
    """Whether the process answers."""
    return {"status": _OK}


@router.get("/readyz", response_model=Ready, responses={503: {"model": Ready}})
def readyz(
    service: ServiceHere,
    strict: Annotated[
        Literal["", "true", "1", "false", "0"],
        Query(description="Whether a broker that is down is more than a warning."),
    ] = "false",
) -> Response:
    """Whether requests can be served: the database takes changes and has the schema of this
    version. Jobs are accepted and run without the broker, too, a little later.
    """
    ready = {"database": _OK, "broker": _OK}
    try:
        if (wrong := service.read(migrate.trouble)) is not None:
            ready["database"] = wrong
        else:
            service.database.try_to_write()
    except Problem as problem:
        ready["database"] = problem.detail
    try:
        service.notices.ping()
    except (RedisError, OSError):
        ready["broker"] = _DOWN
    needed = ready.values() if strict in ("", "true", "1") else [ready["database"]]
    status = 200 if set(needed) == {_OK} else 503
    return JSONResponse(ready, status_code=status)


class Figures(Collector):
    """Gauges read from the database when asked for, and this process's waiters."""

    def __init__(self, transaction: Transaction, waiters: int, refused: Mapping[str, int]) -> None:
        self._transaction = transaction
        self._waiters = waiters
        self._refused = refused

    def collect(self) -> Iterable[Metric]:
        """Unfinished jobs by state and backend, live workers, room, and waiters."""
        yield GaugeMetricFamily(
            "orchestrator_waiters",
            "Requests to this process that wait for a job or batch to end.",
            value=self._waiters,
        )
        refused = CounterMetricFamily(
            "orchestrator_api_refused",
            "Requests that this process refused because of their token or its role.",
            labels=["reason"],
        )
        for reason, count in self._refused.items():
            refused.add_metric([reason], count)
        yield refused
        unfinished = GaugeMetricFamily(
            "orchestrator_jobs_unfinished", "Jobs that have not ended.", labels=["backend", "state"]
        )
        query = (
            select(backends.c.name, jobs.c.state, func.count())
            .join(backends, backends.c.id == jobs.c.backend_id)
            .where(jobs.c.finished_at.is_(None))
            .group_by(backends.c.name, jobs.c.state)
        )
        for name, state, count in self._transaction.execute(query):
            unfinished.add_metric([name, state], count)
        yield unfinished
        alive = GaugeMetricFamily(
            "orchestrator_workers_alive", "Live worker processes by backend.", labels=["backend"]
        )
        room = GaugeMetricFamily(
            "orchestrator_backend_bytes",
            "Capacity of a backend.",
            labels=["backend", "kind"],
        )
        queues = list(
            self._transaction.execute(
                select(workers.c.queues).where(workers.c.seen_at > db_now(-ALIVE_SECONDS))
            ).scalars()
        )
        for row in self._transaction.execute(select(backends).where(backends.c.configured)):
            alive.add_metric([row.name], sum(backend_queue(row.name) in q for q in queues))
            for kind, size in (("total", row.total_bytes), ("free", row.free_bytes)):
                if size is not None:
                    room.add_metric([row.name, kind], size)
        yield alive
        yield room


@router.get("/metrics", response_class=Response)
def metrics(service: ServiceHere) -> Response:
    """Figures for Prometheus."""
    registry = CollectorRegistry()
    with service.database.read() as transaction:
        registry.register(Figures(transaction, service.waiters.count, service.refusals.counts))
        told = generate_latest(registry)
    return Response(told, media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/actions", response_model=Page[ActionDescription])
def actions(_actor: Reader) -> dict[str, Any]:
    """List the actions there are, with their parameters."""
    described = [
        {
            "name": action.name,
            "summary": action.summary,
            "role": action.role,
            "capability": action.capability,
            "destructive": action.destructive,
            "params": action.params.model_json_schema(),
        }
        for action in ACTIONS.values()
    ]
    return {"items": described, "cursor": None}
