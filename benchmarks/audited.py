"""What audits read besides a past's jobs and events: versions, locks, removals, days; and the same
past in SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg import sql
from sqlalchemy import JSON, Boolean, Column, Date, insert

from benchmarks import past
from benchmarks.bulk import connect, one, plain
from benchmarks.product import RAM
from orchestrator.store import migrate
from orchestrator.store.columns import UtcDateTime, db_now
from orchestrator.store.database import Database
from orchestrator.store.tables import backends, metadata

#: One volume in so many of the past's jobs lived for long.
_LONG = 50

# The past's volumes were created, grown, changed (or not, where that failed) and removed.
_VERSIONS = """
INSERT INTO volume_versions
    (volume_id, version, backend_id, name, state, requested_bytes, size_bytes, account, metadata,
     valid_from, valid_to)
SELECT volume_id, row_number() OVER of_volume, backend_id, volume, 'available',
    CASE action WHEN 'volume.create' THEN 1073741824 ELSE 2147483648 END,
    CASE action WHEN 'volume.create' THEN 1073741824 ELSE 2147483648 END,
    submitted_by,
    CASE action WHEN 'volume.update' THEN '{"owner": "tenant"}' ELSE '{}' END::jsonb,
    finished_at, lead(finished_at) OVER of_volume
FROM jobs
WHERE state = 'succeeded'
WINDOW of_volume AS (PARTITION BY volume_id ORDER BY id)
"""
_WITHOUT_REMOVALS = """
DELETE FROM volume_versions AS version USING jobs
WHERE jobs.volume_id = version.volume_id AND jobs.action = 'volume.remove'
    AND version.valid_from = jobs.finished_at
"""

# Volumes that lived for months; three of four were removed within the last one.
_LONG_LIVED = """
CREATE TEMPORARY TABLE lived AS
SELECT n, md5('lived ' || n) AS id, backends.id AS backend_id,
    'service' || lpad(mod(n, 200)::text, 3, '0') || '/disk' || lpad(n::text, 6, '0') AS name,
    CASE WHEN mod(n, 100) <= 1 THEN 'team' ELSE 'tenant' || mod(n, 50) END AS account,
    now() - interval '1 year' + n * (interval '330 days' / %(count)s::float) AS created_at,
    CASE WHEN mod(n, 4) <> 1 THEN
        now() - interval '30 days' + n * (interval '29 days' / %(count)s::float)
    END AS removed_at
FROM generate_series(1, %(count)s::bigint) AS n
JOIN backends ON backends.name = %(backend)s
"""
_LONG_VOLUMES = """
INSERT INTO volumes
    (id, backend_id, name, requested_bytes, size_bytes, used_bytes, state, metadata, account,
     created_at, changed_at, removed_at)
SELECT id, backend_id, name, 5368709120, 5368709120, 1073741824,
    CASE WHEN removed_at IS NULL THEN 'available' ELSE 'removed' END, '{}', account,
    created_at, coalesce(removed_at, created_at), removed_at
FROM lived
"""
_LONG_VERSIONS = """
INSERT INTO volume_versions
    (volume_id, version, backend_id, name, state, requested_bytes, size_bytes, account, metadata,
     valid_from, valid_to)
SELECT id, version, backend_id, name, 'available', version * 1073741824::bigint,
    version * 1073741824::bigint, account, '{}',
    created_at + (version - 1) * interval '20 hours',
    CASE WHEN version < 5 THEN created_at + version * interval '20 hours' ELSE removed_at END
FROM lived, generate_series(1, 5) AS version
"""

# Every second one has a snapshot, every second one was locked by its host for a day.
_LONG_EVENTS = """
INSERT INTO events
    (commit_id, seq, at, kind, backend, volume, volume_id, snapshot, actor, reason, data)
SELECT %(last)s + row_number() OVER (ORDER BY at, n), 1, at, kind, %(backend)s, name, id,
    CASE kind WHEN 'snapshot.create' THEN 'daily' END,
    CASE WHEN kind = 'lock.expired' THEN 'orchestrator' ELSE account END,
    CASE WHEN kind IN ('volume.remove', 'lock.broken') THEN 'ticket ' || n END,
    CASE WHEN kind = 'lock.taken' THEN '{"before": null, "after": {"owner": "node1"}}'
        WHEN kind LIKE 'lock.%%' THEN '{"before": {"owner": "node1"}, "after": null}'
        ELSE '{"text": "done"}'
    END::jsonb
FROM (
    SELECT n, name, id, account, 'snapshot.create' AS kind, created_at + interval '1 hour' AS at
    FROM lived WHERE mod(n, 2) = 0
    UNION ALL
    SELECT n, name, id, account, 'lock.taken', created_at + interval '2 hours'
    FROM lived WHERE mod(n, 2) = 1
    UNION ALL
    SELECT n, name, id, account,
        CASE mod(n, 101) WHEN 1 THEN 'lock.broken' WHEN 3 THEN 'lock.expired'
            ELSE 'lock.released' END,
        created_at + interval '1 day'
    FROM lived WHERE mod(n, 2) = 1 AND mod(n, 80) <> 1
    UNION ALL
    SELECT n, name, id, account, 'volume.remove', removed_at FROM lived WHERE removed_at IS NOT NULL
) AS happened
"""
_HELD = """
INSERT INTO locks (volume_id, owner, taken_by, taken_at)
SELECT id, 'node1', account, created_at + interval '2 hours'
FROM lived WHERE mod(n, 80) = 1 AND removed_at IS NULL
"""
_COMMITS = """
INSERT INTO event_commits (id, events, base)
SELECT commit_id, 1, %(number)s + row_number() OVER (ORDER BY commit_id) - 1
FROM events WHERE commit_id > %(last)s
"""
_DAYS = """
INSERT INTO capacity_days
SELECT id, day, day + interval '23 hours', 1099511627776, 549755813888, n * 1073741824::bigint, n,
    n * 1073741824::bigint, n * 536870912::bigint, n
FROM backends, generate_series(1, 365) AS n, LATERAL (SELECT current_date - 366 + n AS day) AS days
WHERE name = %(backend)s
"""


def write(url: str, jobs: int) -> int:
    """Write a whole record of so many jobs into an empty database; how many events it has."""
    migrate.upgrade(url)
    database = Database(url, pool_size=1)
    with database.write() as connection:
        connection.execute(insert(backends).values(name=RAM, driver="memory", created_at=db_now()))
    database.close()
    past.write(url, jobs)
    with connect(url) as raw:
        shape = {"backend": RAM, "count": max(1, jobs // _LONG)}
        for statement in (_VERSIONS, _WITHOUT_REMOVALS):
            raw.execute(statement)
        raw.execute(_LONG_LIVED, shape)
        for statement in (_LONG_VOLUMES, _LONG_VERSIONS, _HELD):
            raw.execute(statement)
        last = {
            "last": one(raw, "SELECT max(id) FROM event_commits"),
            "number": one(raw, "SELECT max(base + events) FROM event_commits"),
        }
        raw.execute(_LONG_EVENTS, {**shape, **last})
        raw.execute(_COMMITS, last)
        raw.execute(_DAYS, shape)
        raw.execute("VACUUM ANALYZE")
        return one(raw, "SELECT max(base + events) FROM event_commits")


def copy_to_sqlite(url: str, path: Path) -> None:
    """Copy the whole record from PostgreSQL into a new file, as SQLite keeps it."""
    migrate.upgrade(f"sqlite:///{path}", named=False)
    with (
        psycopg.connect(plain(url)) as source,
        sqlite3.connect(path, isolation_level=None) as target,
    ):
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -262144"):
            target.execute(f"PRAGMA {pragma}")
        # Triggers would write versions of their own, and indexes are quicker made afterwards.
        later = target.execute(
            "SELECT type, name, sql FROM sqlite_master"
            " WHERE type IN ('index', 'trigger') AND sql IS NOT NULL"
        ).fetchall()
        for kind, name, _ in later:
            target.execute(f"DROP {kind} {name}")
        target.execute("BEGIN")
        for table in metadata.sorted_tables:
            columns = [column.name for column in table.columns]
            places = ", ".join("?" * len(columns))
            target.executemany(
                f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({places})",  # noqa: S608
                _rows(source, table.name, list(table.columns)),
            )
        target.execute("COMMIT")
        for _, _, statement in later:
            target.execute(statement)
        target.execute("ANALYZE")
        target.execute("PRAGMA journal_mode = WAL")


def _rows(
    source: psycopg.Connection, table: str, columns: list[Column[object]]
) -> Iterator[tuple[object, ...]]:
    values = sql.SQL(", ").join(map(_as_sqlite, columns))
    query = sql.SQL("SELECT {} FROM {}").format(values, sql.Identifier(table))
    with source.cursor(name="copied") as cursor:
        cursor.itersize = 20_000
        yield from cursor.execute(query)


def _as_sqlite(column: Column[object]) -> sql.Composable:
    name = sql.Identifier(column.name)
    if isinstance(column.type, UtcDateTime):
        form = "to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')"
    elif isinstance(column.type, Boolean):
        form = "CAST({} AS int)"
    elif isinstance(column.type, Date | JSON):
        form = "CAST({} AS text)"
    else:
        form = "{}"
    return sql.SQL(form).format(name)
