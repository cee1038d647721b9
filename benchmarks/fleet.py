"""A fleet for a database and a `memory` backend: volumes by the million, and their whole record.

An installation that took over what was there: each volume was adopted with five snapshots, grown
later, and every second one changed after that, so that it grows by itself. These are two and a
half jobs and ten events a volume. Rows are those that the product writes for this, in the
backend's own store, too; every event has a number and is chained.
"""

from __future__ import annotations

import sqlite3
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from functools import cache, partial
from itertools import islice, pairwise, repeat
from multiprocessing import get_context
from typing import NamedTuple

import psycopg
from sqlalchemy import select

from benchmarks.bulk import connect, drop_indexes, one, reserve
from benchmarks.product import RAM
from orchestrator.ledger import chain
from orchestrator.store.bulk import insert_rows
from orchestrator.store.database import Database
from orchestrator.store.tables import event_chain, event_commits
from workers.backends.memory.store import Store

#: Of each volume.
SNAPSHOTS, EVENTS = 5, 10

#: Bytes of a volume as adopted, and of its snapshots; jobs of a batch.
_SMALL, _OF_BATCH = 2**30, 1000
#: Parameters of the statements.
_SHAPE = {
    "backend": RAM,
    "small": _SMALL,
    "large": 2**31,
    "most": 2**33,
    "snapshots": SNAPSHOTS,
    "tenants": 1000,
    "of_batch": _OF_BATCH,
    "days": 364,
}

#: Volumes written into the store in one transaction; commits whose events are read at a time.
_STORED, _DIGESTED = 20_000, 2_000
_PROCESSES = 2

# The jobs, by number: first all adoptions, then all growths, then the changes.
_WORK = """
CREATE TEMPORARY TABLE work AS
SELECT j, %(first_job)s + j - 1 AS id, %(first_fence)s + j - 1 AS fence,
    %(first_batch)s + (j - 1) / %(of_batch)s AS batch_id,
    step, v, backends.id AS backend_id, backends.name AS backend,
    (ARRAY['volume.adopt', 'volume.grow', 'volume.update'])[step] AS action,
    account, account || '/vol' || lpad(v::text, 7, '0') AS volume, volume_id,
    CASE WHEN mod(v, 10) = 0 THEN 'ticket ' || v END AS reason,
    CASE step
        WHEN 1 THEN '{"take_over": true}'
        WHEN 2 THEN jsonb_build_object('size_bytes', %(large)s)
        ELSE changed
    END AS params,
    CASE step
        WHEN 1 THEN jsonb_build_object(
            'id', volume_id, 'size_bytes', %(small)s, 'used_bytes', 0, 'metadata', '{}'::jsonb,
            'snapshots', names, 'taken_over', NULL
        )
        WHEN 2 THEN jsonb_build_object('size_bytes', %(large)s, 'used_bytes', 0)
        ELSE changed
    END AS result,
    now() - make_interval(days => %(days)s)
        + (j - 1) * (make_interval(days => %(days)s) / %(jobs)s::float) AS at
FROM generate_series(1, %(jobs)s::bigint) AS j,
    LATERAL (
        SELECT CASE WHEN j <= %(volumes)s THEN 1 WHEN j <= 2 * %(volumes)s THEN 2 ELSE 3 END
    ) AS done (step),
    LATERAL (
        SELECT CASE step
            WHEN 3 THEN 2 * (j - 2 * %(volumes)s) ELSE j - (step - 1) * %(volumes)s
        END
    ) AS about (v),
    LATERAL (
        SELECT md5('fleet ' || v), 'tenant' || lpad(mod(v, %(tenants)s)::text, 3, '0')
    ) AS named (volume_id, account),
    LATERAL (
        SELECT jsonb_build_object(
            'metadata', jsonb_build_object('owner', account),
            'settings',
            jsonb_build_object('autosize_enabled', true, 'autosize_max_bytes', %(most)s)
        )
    ) AS asked (changed),
    (
        SELECT jsonb_agg('daily' || place ORDER BY place)
        FROM generate_series(1, %(snapshots)s) AS place
    ) AS kept (names),
    backends
WHERE backends.name = %(backend)s
"""

_BATCHES = """
INSERT INTO batches (id, submitted_by, total, succeeded, created_at, finished_at)
SELECT batch_id, 'importer', count(*), count(*), min(at), max(at) + interval '2 seconds'
FROM work
GROUP BY batch_id
"""

_JOBS = """
INSERT INTO jobs
    (id, action, backend_id, volume, params, volume_id, state, priority, queue, after, cost,
     promised_bytes, begun, claims, attempt, max_attempts, fence, outcome_fence, worker, result,
     submitted_by, account, reason, batch_id, created_at, queued_at, started_at, finished_at)
SELECT id, action, backend_id, volume, params, volume_id, 'succeeded', 0, 'backend.' || backend,
    'success', 5, CASE step WHEN 2 THEN %(large)s - %(small)s ELSE 0 END, true, 1, 1, 5,
    fence, fence, 'storage-' || mod(j, 7) || '-1234-0a1b2c3d', result, account, account, reason,
    batch_id, at, at, at + interval '20 milliseconds', at + interval '35 milliseconds'
FROM work
ORDER BY id
"""

_STEPS = """
INSERT INTO job_steps (job_id, seq, fence, name, state, detail, at)
SELECT id, seq, fence, name, 'done',
    CASE name
        WHEN 'take over' THEN jsonb_build_object('stamp', md5('former ' || v))
        WHEN 'grow' THEN params
        ELSE '{}'
    END,
    at + interval '25 milliseconds'
FROM work, LATERAL unnest(
    CASE step
        WHEN 1 THEN ARRAY['adopt', 'take over']
        WHEN 2 THEN ARRAY['grow']
        ELSE ARRAY['set_metadata', 'configure']
    END
) WITH ORDINALITY AS written (name, seq)
ORDER BY id, seq
"""

_VOLUMES = """
INSERT INTO volumes
    (id, backend_id, name, requested_bytes, size_bytes, state, metadata, settings, autosize,
     address, account, created_at, changed_at)
SELECT adopted.volume_id, adopted.backend_id, adopted.volume, %(large)s, %(large)s, 'available',
    coalesce(changed.params -> 'metadata', '{}'), coalesce(changed.params -> 'settings', '{}'),
    changed.id IS NOT NULL, 'memory', adopted.account,
    adopted.at + interval '35 milliseconds',
    coalesce(changed.at, grown.at) + interval '35 milliseconds'
FROM work AS adopted
JOIN work AS grown ON grown.step = 2 AND grown.v = adopted.v
LEFT JOIN work AS changed ON changed.step = 3 AND changed.v = adopted.v
WHERE adopted.step = 1
ORDER BY adopted.id
"""

_VERSIONS = """
INSERT INTO volume_versions
    (volume_id, version, backend_id, name, state, requested_bytes, size_bytes, account, metadata,
     valid_from, valid_to)
SELECT volume_id, step, backend_id, volume, 'available', size, size, account,
    CASE step WHEN 3 THEN params -> 'metadata' ELSE '{}' END,
    at + interval '35 milliseconds',
    lead(at) OVER (PARTITION BY v ORDER BY step) + interval '35 milliseconds'
FROM work, LATERAL (SELECT CASE step WHEN 1 THEN %(small)s ELSE %(large)s END) AS sized (size)
ORDER BY volume_id, step
"""

# Their ids are those that an adoption gives.
_SNAPSHOTS = """
INSERT INTO snapshots
    (id, volume_id, name, size_bytes, used_bytes, position, state, created_by_job, created_at)
SELECT left(encode(sha256((volume_id || ' daily' || place)::bytea), 'hex'), 32), volume_id,
    'daily' || place, %(small)s, 0, (v - 1) * %(snapshots)s + place, 'available', id,
    at + interval '35 milliseconds'
FROM work, generate_series(1, %(snapshots)s) AS place
WHERE step = 1
ORDER BY v, place
"""

# Ten jobs at a time were submitted, begun and ended: three commits.
_EVENTS = """
INSERT INTO events
    (commit_id, seq, at, kind, backend, volume, volume_id, job_id, actor, reason, data)
SELECT %(first_commit)s + (j - 1) / 10 * 3 + least(place, 3) - 1,
    row_number() OVER (PARTITION BY (j - 1) / 10, least(place, 3) ORDER BY j, place),
    at + (ARRAY[0, 20, 35, 35])[place] * interval '1 millisecond',
    kind, backend, volume, volume_id, id, account, reason,
    CASE place
        WHEN 1 THEN jsonb_build_object('action', action, 'params', params)
        WHEN 2 THEN jsonb_build_object('fence', fence, 'attempt', 1)
        WHEN 3 THEN jsonb_build_object(
            'text',
            (ARRAY['adopted', 'grew', 'changed'])[step] || ' volume ' || volume,
            'before',
            CASE step
                WHEN 2 THEN jsonb_build_object('size_bytes', %(small)s)
                WHEN 3 THEN '{"metadata": {}, "settings": {}}'
            END,
            'after',
            CASE step WHEN 1 THEN result || '{"state": "available"}' ELSE result END
        )
        ELSE '{"attempt": 1}'
    END
FROM work, LATERAL unnest(
    ARRAY['job.submitted', 'job.started', action, 'job.succeeded']
) WITH ORDINALITY AS happened (kind, place)
ORDER BY 1, 2
"""

_COMMITS = """
INSERT INTO event_commits (id, events, base)
SELECT commit_id, count(*), %(number)s + sum(count(*)) OVER (ORDER BY commit_id) - count(*)
FROM events
WHERE commit_id >= %(first_commit)s
GROUP BY commit_id
"""

_PROMISED = """
UPDATE promises SET promised_bytes = promised_bytes + %(volumes)s * %(large)s::bigint
FROM backends WHERE backends.id = promises.backend_id AND backends.name = %(backend)s
"""

_FILLED = {
    "batches": _BATCHES,
    "jobs": _JOBS,
    "job_steps": _STEPS,
    "volumes": _VOLUMES,
    "volume_versions": _VERSIONS,
    "snapshots": _SNAPSHOTS,
    "events": _EVENTS,
    "event_commits": _COMMITS,
}


def write(url: str, key: bytes, volumes: int) -> int:
    """Write a fleet of so many volumes, an even number; how many events it has.

    The product must have been there, for its tables and backends, and be gone. ``key``: that of
    the chain.
    """
    jobs = 2 * volumes + volumes // 2
    with connect(url) as connection:
        shape = {
            **_SHAPE,
            "volumes": volumes,
            "jobs": jobs,
            "first_job": reserve(connection, "jobs_numbers", jobs),
            "first_fence": reserve(connection, "fences_numbers", jobs),
            "first_batch": reserve(connection, "batches_numbers", -(-jobs // _OF_BATCH)),
            "first_commit": reserve(connection, "commits_numbers", -(-jobs // 10) * 3),
            "number": one(connection, "SELECT coalesce(max(base + events), 0) FROM event_commits"),
        }
        connection.execute(_WORK, shape)
        connection.execute("ANALYZE work")
        for table, statement in _FILLED.items():
            indexes = drop_indexes(connection, table)
            connection.execute(statement, shape)
            for definition in indexes:
                connection.execute(definition)
        connection.execute(_PROMISED, shape)
        connection.execute("VACUUM ANALYZE")
        _store(connection)
    _chain(url, key)
    with connect(url) as connection:
        connection.execute("VACUUM ANALYZE event_chain")
        connection.execute("CHECKPOINT")
    return EVENTS * volumes


_OF_STORE = """
SELECT volumes.id, name, size_bytes, metadata::text, fence, snapshots
FROM volumes
JOIN (SELECT volume_id, max(fence) AS fence FROM work GROUP BY volume_id) AS claimed
    ON claimed.volume_id = volumes.id
JOIN (
    SELECT volume_id, array_agg(ARRAY[id, name] ORDER BY position) AS snapshots
    FROM snapshots GROUP BY volume_id
) AS taken ON taken.volume_id = volumes.id
ORDER BY created_at
"""


def _store(connection: psycopg.Connection) -> None:
    """Give the backend what the inventory says that it has."""
    row = connection.execute("SELECT uuid FROM installation").fetchone()
    assert row is not None  # noqa: S101 - the product has been there
    path = Store(RAM, row[0]).path
    connection.autocommit = False
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as store,
        connection.transaction(),
        connection.cursor(name="stored") as cursor,
    ):
        cursor.itersize = _STORED
        rows = iter(cursor.execute(_OF_STORE))
        while some := list(islice(rows, _STORED)):
            store.execute("BEGIN IMMEDIATE")
            store.executemany(
                "INSERT INTO volumes (id, name, size, metadata, fence) VALUES (?, ?, ?, ?, ?)",
                (volume[:5] for volume in some),
            )
            store.executemany(
                "INSERT INTO snapshots (id, volume, name, size, contents) VALUES (?, ?, ?, ?, x'')",
                ((id_, volume[0], name, _SMALL) for volume in some for id_, name in volume[5]),
            )
            store.execute("COMMIT")


def _chain(url: str, key: bytes) -> None:
    """Chain all numbered events: several processes make the digests, this one the links."""
    database = Database(url, pool_size=1)
    with database.read() as transaction:
        number, link = chain.head(transaction) or (0, chain.GENESIS.hex())
        waiting = select(event_commits.c.base).where(event_commits.c.base >= number)
        bases = transaction.execute(waiting.order_by(event_commits.c.base)).scalars().all()
    before, ends = bytes.fromhex(link), [*bases[::_DIGESTED], 2**62]
    with ProcessPoolExecutor(_PROCESSES, get_context("spawn")) as processes:
        for some in processes.map(_digested, repeat(url), pairwise(ends)):
            rows = []
            for commit, digests in some:
                before = chain.link_of(key, before, commit, digests, chain.FORMAT)
                rows.append(
                    {
                        "base": commit.base,
                        "commit_id": commit.id,
                        "events": commit.events,
                        "digests": digests,
                        "link": before,
                        "format": chain.FORMAT,
                    }
                )
            database.transact(partial(insert_rows, table=event_chain, rows=rows))
    database.close()


def _digested(url: str, between: tuple[int, int]) -> list[tuple[_Commit, bytes]]:
    """The commits between two numbers, with the digests of their events."""
    database = _opened(url)
    with database.read() as transaction:
        rows = transaction.execute(
            select(event_commits)
            .where(event_commits.c.base >= between[0], event_commits.c.base < between[1])
            .order_by(event_commits.c.base)
        ).all()
        return [
            (_Commit(commit.id, commit.base, commit.events), digests)
            for commit, digests in chain.digested(transaction, rows)
        ]


class _Commit(NamedTuple):
    """What of a commit its link covers, as it travels between processes."""

    id: int
    base: int
    events: int


@cache
def _opened(url: str) -> Database:
    """The one connection of a process that makes digests."""
    return Database(url, pool_size=1)
