"""The examples of docs/sql.md on a long record, and what its chain costs."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

import psycopg

from benchmarks import audited
from benchmarks.figures import Results
from benchmarks.sizes import Sizes
from benchmarks.stand import Stand
from orchestrator.ledger.chain import extend
from orchestrator.store.database import Database
from tests.rigs.sql_examples import examples

_KEY = "a key that only the benchmark has"
#: Events that are chained and verified, those that are chained in one transaction.
_CHAINED, _AT_ONCE = 1_000_000, 5_000
_PAGE_MS = 50.0

#: Answers a query with its rows.
Ask = Callable[[str], list[Any]]


def measure(stand: Stand, sizes: Sizes, results: Results) -> None:
    """Measure every example on both databases, the chain, and its verification."""
    url = stand.database("record")
    there = audited.write(url, sizes.history)
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as postgresql:
        postgresql.execute("SET TIME ZONE 'UTC'")
        statements = examples(meant(postgresql))

        def ask(query: str) -> list[Any]:
            return postgresql.execute(query).fetchall()

        _pages("PostgreSQL", statements, ask, "EXPLAIN ANALYZE", sizes, results)
    path = stand.scratch("record") / "orchestrator.db"
    audited.copy_to_sqlite(url, path)
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as sqlite:

        def ask_sqlite(query: str) -> list[Any]:
            return sqlite.execute(query).fetchall()

        _pages("SQLite", statements, ask_sqlite, "EXPLAIN QUERY PLAN", sizes, results)
    _chain(url, min(_CHAINED, there), results)
    _verify(url, stand.scratch("verify"), results)


def meant(connection: psycopg.Connection) -> Mapping[str, str]:
    """What the words of the examples mean in this record."""
    row = connection.execute(
        "SELECT to_char(now() - interval '200 days', 'YYYY-MM-DD HH24:MI:SS.US'),"
        " to_char(now() - interval '31 days', 'YYYY-MM-DD'), to_char(now(), 'YYYY-MM-DD'),"
        " (SELECT name FROM volumes WHERE state = 'available' LIMIT 1)"
    ).fetchone()
    assert row is not None  # noqa: S101 - it has no condition
    moment, since, until, volume = row
    return {
        "fast": "ram",
        "vm1": volume,
        "backup": "tenant7",
        "2026-03-01 12:00:00.000000": moment,
        "2026-10-01": since,
        "2026-11-01": until,
    }


def _pages(
    database: str,
    statements: Mapping[str, str],
    ask: Ask,
    explain: str,
    sizes: Sizes,
    results: Results,
) -> None:
    for title, statement in statements.items():
        found = ask(statement)
        if not found:
            raise RuntimeError(f"{title}, on {database}: nothing was found")
        times = []
        for _ in range(max(3, sizes.pages // 4)):
            begun = time.perf_counter()
            ask(statement)
            times.append((time.perf_counter() - begun) * 1e3)
        results.read("sql", f"{title}: {database}", "ms", times)
        if median(times) > _PAGE_MS:
            print(f"\n{title}, on {database}: {median(times):.0f} ms")
            for row in ask(f"{explain} {statement}"):
                print("   ", row[-1])


def _chain(url: str, most: int, results: Results) -> None:
    """Chain the oldest events, as the scheduler does."""
    database = Database(url, pool_size=1)
    done, begun = 0, time.perf_counter()
    while done < most:
        done += database.transact(lambda connection: extend(connection, _KEY.encode(), _AT_ONCE))
    results.read("chain", "chained", "events/s", [done / (time.perf_counter() - begun)])
    database.close()


def _verify(url: str, directory: Path, results: Results) -> None:
    """Verify by the command, whole and with one byte changed; with time and memory."""
    told, used = audit_verify(url, directory, _KEY)
    if not told["intact"]:
        raise RuntimeError(f"the chain is broken: {told['broken']}")
    results.read("chain", f"{told['events']:,} events verified", "s", [used["seconds"]])
    results.read("chain", "processor time of the process for that", "s", [used["processor"]])
    results.read("chain", "its memory at the peak", "MiB", [used["mib"]])
    number = told["events"] // 10
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as owner:
        changed = owner.execute(_ONE_BYTE, {"number": number}).rowcount
    told, used = audit_verify(url, directory, _KEY)
    if changed != 1 or told["intact"] or told["broken"]["number"] != number:
        raise RuntimeError(f"a byte of event {number} was changed, and {told['broken']} was told")
    results.read("chain", f"a changed byte of event {number:,} found", "s", [used["seconds"]])


#: The first letter of whom an event names.
_ONE_BYTE = """
UPDATE events SET actor = upper(substr(actor, 1, 1)) || substr(actor, 2)
WHERE (commit_id, seq) = (
    SELECT id, %(number)s - base FROM event_commits WHERE base < %(number)s
    ORDER BY base DESC LIMIT 1
)
"""


#: Runs a command and tells what it took: from a small process, since the peak of one that was just
#: made counts what its parent had in memory.
_MEASURED = """
import json, resource, subprocess, sys
told = json.loads(subprocess.run(sys.argv[1:], stdout=subprocess.PIPE).stdout)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
spent = {"processor": used.ru_utime + used.ru_stime, "mib": used.ru_maxrss / 1024}
print(json.dumps([told, spent]))
"""


def audit_verify(
    url: str, directory: Path, key: str, *words: str
) -> tuple[dict[str, Any], dict[str, float]]:
    """What `orchestrator audit verify` tells, the time it takes, and its memory in MiB."""
    env = {**os.environ, "ORCHESTRATOR_DATABASE__URL": url, "ORCHESTRATOR_AUDIT__KEY": key}
    command = ["-m", "orchestrator", "audit", "verify", "--json", "--data", str(directory), *words]
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, sys.executable, *command],
        env=env,
        stdout=subprocess.PIPE,
        check=True,
    )
    told, spent = json.loads(done.stdout)
    return told, {**spent, "seconds": time.perf_counter() - begun}
