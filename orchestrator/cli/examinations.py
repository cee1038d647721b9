"""What a machine needs to be a part of the service, tried out: each thing, and how to mend it."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError, ResponseError
from sqlalchemy import func, select, text, update

from orchestrator import broker, trust
from orchestrator.cli.output import when
from orchestrator.domain.errors import Problem
from orchestrator.domain.sizes import format_size
from orchestrator.inventory.hosts import live_hosts
from orchestrator.ledger import chain, restored
from orchestrator.settings import BackendSettings, Settings, without_secrets
from orchestrator.store import migrate
from orchestrator.store.columns import db_now
from orchestrator.store.database import Database
from orchestrator.store.tables import event_chain, installation
from orchestrator.store.transaction import Transaction

#: Room in the data directory below which there is something to say.
_LITTLE, _TOO_LITTLE = 2**30, 2**27
#: Seconds that this machine's clock may differ from the database's.
_MOST_SKEW = 2.0
#: Settings of PostgreSQL without which what was accepted can be lost, and what to do.
_DURABLE = {
    "fsync": "a crash of its machine can destroy the database: set it to on",
    "full_page_writes": "a crash of its machine can destroy the database: set it to on",
    "synchronous_commit": "a crash of its server loses jobs that were accepted: set it to on",
    "autovacuum": "the database gets ever slower: set it to on",
}


class Verdict(StrEnum):
    """How one thing is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """One thing that was tried; ``remedy`` unless it is well."""

    what: str
    verdict: Verdict
    detail: str
    remedy: str | None = None


Findings = Iterator[Finding]


def examine(settings: Settings) -> Findings:
    """All that this machine needs, each thing as soon as it was tried."""
    yield from _guarded("data directory", lambda: _data(settings))
    yield from _guarded("database", lambda: _database(settings))
    yield from _guarded("broker", lambda: _broker(settings))
    yield from _guarded("key of the chain", lambda: _key(settings))
    for name, backend in settings.backends.items():
        what = f"backend {name}"
        yield from _guarded(what, lambda n=name, b=backend: _backend(settings, n, b))  # type: ignore[misc]
    if settings.hooks.path is not None:
        hooks = settings.hooks.path
        yield from _guarded("hooks", lambda: _hooks(hooks))
    for directory in (*settings.transfer.import_from, *settings.transfer.export_to):
        what = f"transfer {directory}"
        yield from _guarded(what, lambda d=directory: _transfer(settings, d))  # type: ignore[misc]


def _guarded(what: str, examination: Callable[[], Findings]) -> Findings:
    """What an examination says; where it fails itself, that is what is wrong."""
    try:
        yield from examination()
    except Problem as problem:
        yield Finding(what, Verdict.ERROR, problem.detail)
    except OSError as error:
        yield Finding(
            what,
            Verdict.ERROR,
            f"{error.filename or what}: {error.strerror or error}",
            f"give user {_user()} access, or run this as the service's user",
        )


def _user() -> str:
    return str(os.geteuid())


def _ok(what: str, detail: str) -> Finding:
    return Finding(what, Verdict.OK, detail)


def _warning(what: str, detail: str, remedy: str) -> Finding:
    return Finding(what, Verdict.WARNING, detail, remedy)


def _error(what: str, detail: str, remedy: str) -> Finding:
    return Finding(what, Verdict.ERROR, detail, remedy)


# -- this machine -------------------------------------------------------------------------


def _data(settings: Settings) -> Findings:
    what, data = "data directory", settings.data.absolute()
    if not data.exists():
        yield _warning(
            what, f"{data} is not there", "'up' and 'db upgrade' make it; else make it, mode 0700"
        )
        return
    why = trust.why_untrusted(data)
    if why is not None:
        yield _error(what, f"{data} cannot be trusted", why)
    if not _can_write(data):
        yield _error(
            what, f"user {_user()} may not write to {data}", f"chown {_user()} {data}, or --data"
        )
        return
    if data.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        yield _warning(
            what, f"others may read {data}, where keys and tokens are", f"chmod 700 {data}"
        )
    yield from _room(what, data)


def _can_write(directory: Path) -> bool:
    trial = directory / f".doctor.{secrets.token_hex(8)}"
    try:
        trial.touch(exist_ok=False)
        trial.unlink()
    except OSError:
        return False
    return True


def _room(what: str, directory: Path) -> Findings:
    free = shutil.disk_usage(directory).free
    told = f"{directory}, {format_size(free)} free"
    if free < _TOO_LITTLE:
        yield _error(what, told, "make room there: what cannot be written stops the service")
    elif free < _LITTLE:
        yield _warning(what, told, "make room there")
    else:
        yield _ok(what, told)


def _key(settings: Settings) -> Findings:
    if settings.audit.key is not None:
        yield _ok("key of the chain", "given by [audit] key")
        return
    path = settings.data.absolute() / "audit.key"
    if not path.exists():
        yield _warning(
            "key of the chain",
            f"{path} is not there",
            "only the scheduler needs it, which makes it once; several schedulers need one [audit] "
            "key",
        )
        return
    chain.key_of(settings)
    yield _ok("key of the chain", f"{path}; keep a copy apart from the database's backups")


def _hooks(path: Path) -> Findings:
    if not path.is_dir():
        yield _error("hooks", f"there is no directory {path}", "make it, or change hooks.path")
        return
    looked = [path, *(each for each in path.glob("*.d/*") if os.access(each, os.X_OK))]
    wrong = [why for each in looked if (why := trust.why_untrusted(each)) is not None]
    for why in dict.fromkeys(wrong):
        yield _error("hooks", f"something in {path} cannot be trusted: its hooks fail", why)
    if not wrong:
        yield _ok("hooks", f"{path}, {len(looked) - 1} programs")


def _transfer(settings: Settings, directory: Path) -> Findings:
    what = f"transfer {directory}"
    needed = os.W_OK | os.X_OK if directory in settings.transfer.export_to else os.R_OK | os.X_OK
    if not directory.is_dir():
        yield _warning(what, "it is not there", "make it on the hosts whose workers use it")
    elif not os.access(directory, needed, effective_ids=True):
        yield _error(what, f"user {_user()} may not use it", "give the worker's user access")
    else:
        yield _ok(what, "can be used")


# -- database and broker ------------------------------------------------------------------


def _database(settings: Settings) -> Findings:
    what, url = "database", settings.database_url
    shown = without_secrets(url)
    behind = migrate.check(url)
    if behind is not None:
        yield _error(what, f"{shown}: {behind}", "orchestrator db upgrade")
        return
    database = Database(url, pool_size=1)
    try:
        database.transact(_change_nothing)
        yield _ok(what, f"{shown}: can be read and written, and has this version's schema")
        yield from _clock(database)
        if database.is_postgresql:
            yield from database.look(_postgresql)
        else:
            yield from _sqlite(settings)
        found = database.look(restored.state)["restored_at"]
        if found is not None:
            at = when(found.isoformat())
            yield _warning(what, f"it was restored ({at}, UTC)", restored.REMEDY)
        yield from _served(settings, database)
        yield from _chain(settings, database)
    finally:
        database.close()


def _change_nothing(transaction: Transaction) -> None:
    transaction.execute(update(installation).values(id=installation.c.id))


def _clock(database: Database) -> Findings:
    before = time.time()
    theirs: datetime = database.look(lambda c: c.execute(select(db_now())).scalar_one())
    after = time.time()
    told = theirs.replace(tzinfo=theirs.tzinfo or UTC).timestamp()
    skew = told - after if told > after else min(0.0, told - before)
    if abs(skew) > _MOST_SKEW:
        yield _warning(
            "clock",
            f"the database's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} "
            "this machine's",
            "keep both right with NTP: times in the history are the database's",
        )
    else:
        yield _ok("clock", "agrees with the database's")


def _postgresql(transaction: Transaction) -> list[Finding]:
    version = transaction.execute(text("SHOW server_version")).scalar_one()
    encoding = transaction.execute(text("SHOW server_encoding")).scalar_one()
    found = [_ok("PostgreSQL", f"version {version}")]
    if encoding != "UTF8":
        found.append(
            _error(
                "PostgreSQL",
                f"the database's encoding is {encoding}",
                "make the database with ENCODING 'UTF8', and copy to it with 'db copy'",
            )
        )
    for name, why in _DURABLE.items():
        if transaction.execute(text(f"SHOW {name}")).scalar_one() == "off":
            found.append(_error("PostgreSQL", f"{name} is off", why))
    return found


def _sqlite(settings: Settings) -> Findings:
    if any(backend.hosts for backend in settings.backends.values()):
        yield _warning(
            "database",
            "SQLite is for one machine, and backends name hosts",
            "move to PostgreSQL with 'orchestrator db copy'",
        )


def _chain(settings: Settings, database: Database) -> Findings:
    """Whether the newest link of the history was made with the key that is here."""
    if settings.audit.key is None and not (settings.data.absolute() / "audit.key").exists():
        return
    key = chain.key_of(settings)

    def fits(transaction: Transaction) -> bool:
        newest = select(func.max(event_chain.c.base))
        base = transaction.execute(newest).scalar()
        if base is None:
            return True
        *_, found = chain.verify(transaction, key, after=base)
        return found.broken is None

    if not database.look(fits):
        yield _error(
            "key of the chain",
            "the newest events do not fit the key that is here: they were chained with another "
            "one, or altered; a scheduler with this key chains and deletes nothing more",
            "run 'audit verify' where the right key is; give each scheduler that one: copy "
            'audit.key, or set [audit] key. If it is lost: docs/audit.md, "Another key"',
        )


def _served(settings: Settings, database: Database) -> Findings:
    for name, backend in settings.backends.items():
        hosts = database.look(lambda transaction, n=name: live_hosts(transaction, n))  # type: ignore[misc]
        wanted = set(backend.hosts or ())
        if not hosts:
            yield _warning(
                f"backend {name}",
                "no worker is alive that serves it: its jobs wait",
                f"start 'orchestrator worker' on {', '.join(sorted(wanted)) or 'a host'}",
            )
        elif missing := wanted - hosts:
            yield _warning(
                f"backend {name}",
                f"no worker is alive on {', '.join(sorted(missing))}",
                "start one there, or mend 'host' in its settings: the names must be the same",
            )


def _broker(settings: Settings) -> Findings:
    what, url = "broker", settings.broker.url
    if url is None:
        yield _ok(what, "embedded, with 'up' only")
        return
    shown = without_secrets(url)
    client = broker.client(url, socket_timeout=5, socket_connect_timeout=5)
    try:
        client.ping()
    except (RedisError, OSError) as error:
        yield _error(
            what,
            f"{shown} does not answer: {error}",
            "jobs are accepted and done without it, but later: see its address, password and log",
        )
        return
    finally:
        client.close()
    yield _ok(what, f"{shown} answers")
    try:
        told: Any = client.info("memory")
        policy = told.get("maxmemory_policy", "noeviction")
    except ResponseError:
        yield _ok(what, "its settings may not be read by this user, which is well")
        return
    if told.get("maxmemory") and policy != "noeviction":
        yield _warning(
            what,
            f"maxmemory-policy is {policy}: wake-ups can be thrown away, which makes jobs late",
            "set it to noeviction",
        )


# -- backends -----------------------------------------------------------------------------


def _backend(settings: Settings, name: str, backend: BackendSettings) -> Findings:
    what = f"backend {name}"
    if name not in settings.served_backends():
        hosts = ", ".join(backend.hosts or ())
        yield _ok(what, f"is served by {hosts}, not by this host ({settings.host})")
        return
    if backend.driver == "memory":
        yield _ok(what, "memory: gone with the machine's power")
        return
    from workers.serving import make_driver  # brings the driver's own libraries

    driver = make_driver(name, backend.spec, backend.options, "")
    identity = driver.read_identity()
    if identity is None and "identity" not in driver.cannot_tell:
        yield _warning(
            what,
            "bears no marker yet",
            "the first worker writes it; if it had one, its storage is not mounted here",
        )
    else:
        room = driver.capacity()
        told = (
            f"{backend.driver}, {format_size(room.free_bytes)} of {format_size(room.total_bytes)}"
        )
        can = ", ".join(sorted(driver.capabilities()))
        yield _ok(what, f"{told} free, can {can}")
    if backend.driver == "file":
        yield from _loop_devices(what)


def _loop_devices(what: str) -> Findings:
    if os.geteuid() != 0:
        yield _warning(
            what,
            f"user {_user()} cannot attach volumes as block devices",
            "if hosts attach them, run deploy/orchestrator-worker-root.service",
        )
    elif not Path("/dev/loop-control").exists():
        yield _error(what, "there is no /dev/loop-control", "modprobe loop")
