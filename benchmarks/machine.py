"""The machine and the servers that a run was made on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from orchestrator.embedded.broker import find_server_program
from tests.rigs.postgres import Postgres

_GIB = 2**30

#: Settings of the database server that the figures depend on.
_TOLD = ("fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "wal_sync_method")


def describe(server: Postgres) -> dict[str, str]:
    """What to know about the place where figures were measured."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / _GIB:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "PostgreSQL": _postgresql(server),
        "broker": _broker(),
        "Celery": importlib.metadata.version("celery"),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _postgresql(server: Postgres) -> str:
    url = server.url("postgres").replace("postgresql+psycopg:", "postgresql:")
    with psycopg.connect(url) as connection:
        shown = {name: _show(connection, name) for name in _TOLD}
        version = _show(connection, "server_version").split()[0]
    if shown["fsync"] != "on" or shown["synchronous_commit"] != "on":
        raise RuntimeError(f"the database server must keep what it has committed: {shown}")
    return f"{version} ({', '.join(f'{name} {value}' for name, value in shown.items())})"


def _show(connection: psycopg.Connection, name: str) -> str:
    row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
    return str(row[0]) if row else ""


def _broker() -> str:
    """``Valkey 9.1.2``, from ``Valkey server v=9.1.2 sha=…``."""
    told = subprocess.run(
        [find_server_program(), "--version"], capture_output=True, text=True, check=True
    ).stdout.split()
    version = next((word[2:] for word in told if word.startswith("v=")), "")
    return f"{told[0]} {version}".strip()
