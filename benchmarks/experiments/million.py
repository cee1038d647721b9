"""A million volumes: what takes no longer with them, and what they take themselves."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC
from statistics import median
from typing import Any
from urllib.parse import quote, urlencode

import psycopg

from benchmarks.bulk import one, plain
from benchmarks.experiments.audit import audit_verify, meant
from benchmarks.figures import Results, ratios
from benchmarks.lean_client import LeanClient
from benchmarks.pages import Asked, far_in, milliseconds
from benchmarks.product import RAM, SLOW, Product, resident_mib
from benchmarks.rounds import interleaved
from benchmarks.sizes import Sizes
from benchmarks.stand import Stand
from orchestrator.inventory.capacity import record_day
from orchestrator.jobs import autosize, upkeep
from orchestrator.settings import SchedulerSettings
from orchestrator.store.database import Database
from tests.rigs.sql_examples import examples

_EMPTY, _FULL = "without", "with the fleet"
#: The names of the fleet's first volumes, and of all that one of its thousand accounts has.
_VOLUME, _TENANT = "tenant010/vol0000010", "tenant010"
#: Seconds between two looks at a worker's memory.
_SAMPLED = 0.05


def measure(stand: Stand, sizes: Sizes, results: Results) -> None:
    """Measure the figures of ``million``, `verify_s`, and what has no target."""
    with stand.product() as empty, stand.product(volumes_before=sizes.fleet) as full:
        _batches(empty, full, sizes, results)
        _pages(full, sizes, results)
        _plan(full, sizes, results)
        _drift(full, sizes, results)
        _verification(full, sizes, results)
        _reports(full, sizes, results)
        _upkeep(full, sizes, results)
        _schedule(full, results)
        _archive(full, sizes, results)
        _ready(empty, full, sizes, results)


def _read(results: Results, name: str, unit: str, *values: float) -> None:
    results.read("million", name, unit, values)


def _batches(empty: Product, full: Product, sizes: Sizes, results: Results) -> None:
    found = interleaved(
        {
            _EMPTY: lambda: sizes.batch / empty.batch_seconds(sizes.batch),
            _FULL: lambda: sizes.batch / full.batch_seconds(sizes.batch),
        },
        sizes.fine_rounds,
    )
    for side, values in found.items():
        _read(results, f"batch, {side}", "jobs/s", *values)
    results.figure("million_batch", ratios(found[_FULL], found[_EMPTY]))


def _pages(product: Product, sizes: Sizes, results: Results) -> None:
    client = product.client()
    _quotas(client)
    found = {name: milliseconds(client, one, sizes.pages) for name, one in _asked(client).items()}
    client.close()
    slowest = max(found, key=lambda name: median(found[name]))
    results.figure("million_pages", found[slowest])
    for name, values in found.items():
        results.read("million pages", name, "ms", values)


def _quotas(client: LeanClient) -> None:
    """Let a page of the fleet's accounts have limits that they keep."""
    for number in range(100):
        path = f"/v1/quotas/tenant{number:03}/{RAM}"
        client.put(path, json.dumps({"max_volumes": 10**6}).encode())


def _asked(client: LeanClient) -> dict[str, Asked]:
    """Every list, and every filter of it."""
    backend = f"/v1/backends/{RAM}"
    volume = f"{backend}/volumes/{quote(_VOLUME, safe='')}"
    job = client.get(f"/v1/jobs?{urlencode({'volume': _VOLUME})}")["items"][0]
    batch = job["batch_id"]
    number = client.get("/v1/events?last=1")["items"][0]["number"]
    jobs: dict[str, Mapping[str, str]] = {
        "newest": {},
        "unfinished": {"state": "waiting,queued,running"},
        "succeeded": {"state": "succeeded"},
        "failed (there are none)": {"state": "failed"},
        "of one backend": {"backend": RAM},
        "of a backend, failed": {"backend": RAM, "state": "failed"},
        "of one volume": {"volume": _VOLUME},
        "of one snapshot": {"snapshot": "daily1"},
        "on behalf of one host": {"host": "node1"},
        "of one action": {"action": "volume.adopt"},
        "of one action, failed": {"action": "volume.adopt", "state": "failed"},
        "of an action nobody used": {"action": "volume.clone"},
        "of one account": {"submitted_by": _TENANT},
        "of one account and action": {"submitted_by": _TENANT, "action": "volume.update"},
        "of one batch": {"batch_id": str(batch)},
    }
    volumes: dict[str, Mapping[str, str]] = {
        "first": {},
        "available": {"state": "available"},
        "in error (there are none)": {"state": "error"},
        "restricted or in error": {"state": "restricted,error"},
        "by prefix": {"prefix": f"{_TENANT}/"},
        "by the last prefix": {"prefix": "tenant999/"},
        "by a prefix that none has": {"prefix": "zz"},
        "by prefix, in error": {"prefix": "tenant", "state": "error"},
        "at a junction path": {"junction_path": "/nowhere"},
    }
    events: dict[str, Mapping[str, str]] = {
        "oldest": {},
        "newest": {"last": "100"},
        "from the middle": {"after": str(number // 2)},
        "of one volume": {"backend": RAM, "volume": _VOLUME},
        "of one job": {"job_id": str(job["id"])},
        "of one kind": {"kind": "volume.update"},
        "newest of one kind": {"kind": "volume.adopt", "last": "100"},
        "failures (there are none)": {"kind": "job.failed"},
        "of one backend": {"backend": RAM},
        "of a backend that has none": {"backend": SLOW},
    }
    asked: dict[str, Asked] = {
        **{f"jobs: {name}": ("/v1/jobs", filters) for name, filters in jobs.items()},
        **{f"volumes: {name}": (f"{backend}/volumes", given) for name, given in volumes.items()},
        **{f"events: {name}": ("/v1/events", filters) for name, filters in events.items()},
        "jobs of a batch": (f"/v1/batches/{batch}/jobs", {}),
        "history of one job": (f"/v1/jobs/{job['id']}/events", {}),
        "snapshots of a volume": (f"{volume}/snapshots", {}),
        "findings": ("/v1/findings", {}),
        "findings: open, of one kind": ("/v1/findings", {"state": "open", "kind": "ghost"}),
        "locks": ("/v1/locks", {}),
        "locks: of one host": ("/v1/locks", {"owner": "node1"}),
        "quotas": ("/v1/quotas", {}),
        "quotas: of one account": ("/v1/quotas", {"account": _TENANT}),
        "what an account has": (f"/v1/quotas/{_TENANT}", {}),
        "schedules": ("/v1/schedules", {}),
    }
    for name in ("jobs: newest", "volumes: first", "jobs: of one account"):
        asked[f"{name}, ten pages in"] = far_in(client, asked[name])
    for name, path in {
        "a volume": volume,
        "attachments of a volume": f"{volume}/attachments",
        "backends": "/v1/backends",
        "a backend": backend,
        "status": "/v1/status",
        "queue": "/v1/queue",
    }.items():
        asked[name] = (path, None)
    return asked


def _plan(product: Product, sizes: Sizes, results: Results) -> None:
    """Of a batch that makes volumes and grows some that are there, one after the other."""
    rows = [
        {
            "action": "volume.create",
            "backend": RAM,
            "volume": f"planned/vol{number:07}",
            "params": {"size_bytes": 2**20},
        }
        if number % 2
        else {
            "action": "volume.grow",
            "backend": RAM,
            "volume": _name(number % sizes.fleet + 1),
            # More each time, where there are fewer volumes than jobs.
            "params": {"size_bytes": 2**32 + number * 2**20},
        }
        for number in range(sizes.planned)
    ]
    body, client = json.dumps({"jobs": rows}).encode(), product.client()
    taken = []
    for _ in range(sizes.rounds):
        begun = time.perf_counter()
        client.plan("/v1/batches", body)
        taken.append(time.perf_counter() - begun)
    client.close()
    results.figure("million_plan", taken)


def _name(number: int) -> str:
    """The name of one of the fleet's volumes, by its number."""
    return f"tenant{number % 1000:03}/vol{number:07}"


def _drift(product: Product, sizes: Sizes, results: Results) -> None:
    """Audit the whole backend; with the largest growth of a worker meanwhile."""
    client, seconds, grown = product.client(), [], []
    body = json.dumps({"action": "backend.audit", "backend": RAM}).encode()
    workers = [process for process, name in product.processes().items() if name == "worker"]
    before = {process: resident_mib(process) for process in workers}
    for _ in range(sizes.rounds):
        with _growth(before) as mib:
            begun = time.perf_counter()
            job = json.loads(client.accept("/v1/jobs", body))
            while job["finished_at"] is None:
                job = client.get(f"/v1/jobs/{job['id']}/wait?timeout=300")
            seconds.append(time.perf_counter() - begun)
        grown.append(max(mib))
        result = job["result"]
        if job["state"] != "succeeded" or result["volumes_recorded"] < sizes.fleet:
            raise RuntimeError(f"the audit ended otherwise: {job}")
        if result["findings"]:
            raise RuntimeError(f"what was written in bulk differs: {result['findings']}")
    client.close()
    results.figure("million_drift_s", seconds)
    results.figure("million_drift_mib", grown)


@contextmanager
def _growth(before: Mapping[int, float]) -> Iterator[list[float]]:
    """By how many MiB one of these processes has grown since it had so many, time after time."""
    found, ended = [0.0], threading.Event()

    def sample() -> None:
        while not ended.wait(_SAMPLED):
            found.append(max(resident_mib(process) - mib for process, mib in before.items()))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield found
    finally:
        ended.set()
        sampler.join()


def _verification(product: Product, sizes: Sizes, results: Results) -> None:
    """Verify the newest million of the chained events, by the command."""
    with psycopg.connect(plain(product.database_url), autocommit=True) as connection:
        newest = one(connection, "SELECT max(base + events) FROM event_chain")
        begin = one(
            connection,
            "SELECT coalesce(max(base + events), 0) FROM event_chain"  # noqa: S608 - numbers
            f" WHERE base + events <= {newest - sizes.verified}",
        )
    seconds = []
    for _ in range(sizes.rounds):
        told, used = audit_verify(
            product.database_url,
            product.data,
            product.chain_key.decode(),
            *(["--after", str(begin)] if begin else []),
        )
        if not told["intact"]:
            raise RuntimeError(f"the chain is broken: {told['broken']}")
        seconds.append(used["seconds"] * sizes.verified / told["events"])
    results.figure("verify_s", seconds)
    _read(results, "memory of a verification at its peak", "MiB", used["mib"])


def _reports(product: Product, sizes: Sizes, results: Results) -> None:
    """The report of the last month, and the examples of docs/sql.md."""
    client = product.client()
    times = milliseconds(client, ("/v1/audit/report", None), sizes.rounds)
    _read(results, "report of a month", "ms", *times)
    client.close()
    with psycopg.connect(plain(product.database_url), autocommit=True) as connection:
        connection.execute("SET TIME ZONE 'UTC'")
        words = {**meant(connection), "vm1": _VOLUME, "backup": _TENANT, "team": _TENANT}
        for title, statement in examples(words).items():
            taken = [_ms(lambda: connection.execute(statement).fetchall()) for _ in range(3)]  # noqa: B023
            _read(results, f"SQL: {title}", "ms", *taken)


def _upkeep(product: Product, sizes: Sizes, results: Results) -> None:
    """What the scheduler does at its times about all volumes, whether or not anything is due."""
    settings, database = SchedulerSettings(), Database(product.database_url, pool_size=1)
    steps: dict[str, Callable[[Any], object]] = {
        "autosize: which backends": lambda one: autosize.refreshes(one, settings.autosize_seconds),
        "autosize: which volumes": lambda one: list(
            autosize.growths(one, settings.autosize_percent)
        ),
        "capacity of the day": record_day,
        "retention": lambda one: upkeep.retain(one, idempotency_days=7),
    }
    for name, step in steps.items():
        taken = [_ms(lambda: database.transact(step)) for _ in range(sizes.rounds)]  # noqa: B023
        _read(results, name, "ms", *taken)
    database.close()


def _schedule(product: Product, results: Results) -> None:
    """Snapshots of all volumes of one account, by a schedule that keeps two of its own."""
    client = product.client()
    for name, pattern in {"of one account": f"{_TENANT}/*", "of nobody": "nobody/*"}.items():
        spec = {
            "cron": "0 0 1 1 *",
            "action": "snapshot.create",
            "backend": RAM,
            "volumes": [pattern],
            "keep": {"last": 2},
        }
        client.put("/v1/schedules/measured", json.dumps(spec).encode())
        begun = time.perf_counter()
        run = json.loads(client.accept("/v1/schedules/measured/run", b""))
        taken = (time.perf_counter() - begun) * 1e3
        _read(results, f"schedule of snapshots {name}: {len(run['job_ids']):,} jobs", "ms", taken)
        product.settle()
    client.close()


def _archive(product: Product, sizes: Sizes, results: Results) -> None:
    """The oldest jobs leave for archives, as the scheduler takes them there."""
    with psycopg.connect(plain(product.database_url), autocommit=True) as connection:
        [moment] = connection.execute(
            "SELECT finished_at FROM jobs ORDER BY id LIMIT 1 OFFSET %s", (sizes.archived,)
        ).fetchall()[0]
        client = product.client()
        body = json.dumps({"ended_before": moment.astimezone(UTC).isoformat()}).encode()
        client.accept("/v1/jobs/archive", body)
        client.close()
        left = "SELECT count(*) FROM job_archivals"
        waiting = one(connection, left)
        while one(connection, left) == waiting:
            time.sleep(_SAMPLED)
        begun, left_then = time.perf_counter(), one(connection, left)
        while one(connection, left):
            time.sleep(_SAMPLED)
        rate = left_then / (time.perf_counter() - begun)
    _read(results, "archived", "jobs/s", rate)


def _ready(empty: Product, full: Product, sizes: Sizes, results: Results) -> None:
    """From the command until requests are served; and until the first job has ended."""
    ready: dict[str, list[float]] = {_EMPTY: [], _FULL: []}
    done: dict[str, list[float]] = {_EMPTY: [], _FULL: []}
    for _ in range(sizes.rounds):
        for side, product in ((_EMPTY, empty), (_FULL, full)):
            product.stop()
            begun = time.perf_counter()
            product.start()
            ready[side].append(time.perf_counter() - begun)
            client = product.client()
            client.finish("/v1/jobs", product.job())
            done[side].append(time.perf_counter() - begun)
            client.close()
    results.figure("million_ready", ready[_FULL])
    for side in (_EMPTY, _FULL):
        _read(results, f"ready, {side}", "s", *ready[side])
        _read(results, f"first job ended, {side}", "s", *done[side])


def _ms(act: Callable[[], object]) -> float:
    begun = time.perf_counter()
    act()
    return (time.perf_counter() - begun) * 1e3
