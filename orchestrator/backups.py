"""Backing a database up, restoring it, and moving it to another server."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, TypeVar

from sqlalchemy import delete, func, inspect, select, update
from sqlalchemy.exc import DatabaseError

from orchestrator.domain.errors import Conflict, InvalidInput, Unavailable
from orchestrator.inventory.hosts import ALIVE_SECONDS
from orchestrator.ledger import restored
from orchestrator.store import copying, lives, migrate, urls
from orchestrator.store.columns import db_now
from orchestrator.store.database import Database
from orchestrator.store.lives import Life, Reached
from orchestrator.store.tables import backends, events, installation, tokens, workers
from orchestrator.store.transaction import Transaction

T = TypeVar("T")
Tokens = Literal["keep", "revoke"]
#: Stands for the id of a database that cannot be read any more.
_UNREADABLE = "?"


@dataclass(frozen=True)
class Restored:
    """What a restore has done."""

    epoch: int
    first_job: int
    #: The newest event that was restored.
    newest_event_at: datetime | None
    revoked_tokens: int
    #: Where the database is that was replaced, if it was a file.
    replaced: Path | None = None


def back_up(url: str, file: Path) -> None:
    """Write the database to a new file, as it is at one moment."""
    copying.save(url, file)


def move(source: str, target: str) -> None:
    """Copy the database to an empty one, which goes on in its place."""
    if (wrong := migrate.check(source)) is not None:
        raise Conflict(wrong)
    _refuse_used(source)
    if _installation_of(target) is not None:
        raise Conflict("the database to copy to is in use already: name an empty one", field="to")
    copying.fill(source, target)


def restore(
    file: Path, url: str, data: Path, *, replace: bool = False, tokens: Tokens | None = None
) -> Restored:
    """Put a backup in the place of the database; a new life of it begins.

    What must outlive a restore is read from the database that is replaced and from the data
    directory: how far numbers came, and which tokens were revoked. Where neither tells the
    latter, ``tokens`` says what becomes of all of them.
    """
    path = urls.file_of(url)
    beside = data if path is None else path.parent
    beside.mkdir(mode=0o700, parents=True, exist_ok=True)
    # The backup itself is only read, and may lie where nobody can write.
    with TemporaryDirectory(dir=beside, prefix=".restore.") as directory:
        copy = copying.opened(file, Path(directory))
        above, gone = _known(f"sqlite:///{copy}", url, data, replace=replace)
        if gone is None and tokens is None:
            raise InvalidInput(
                f"which tokens were revoked after the backup is not known ({data} does not tell): "
                "say --keep-tokens to have all those valid that were at the time of the backup, "
                "or --revoke-tokens to have none",
                field="tokens",
            )
        if path is None:
            return _restore_rows(f"sqlite:///{copy}", url, above, gone or (), tokens)
        database = Database(f"sqlite:///{copy}", pool_size=1)
        try:
            with database.write() as transaction:
                done = _begin(transaction, above, gone or (), tokens)
        finally:
            database.close()
        return dataclasses.replace(done, replaced=copying.put_in_place(copy, path))


def _known(
    source: str, url: str, data: Path, *, replace: bool
) -> tuple[Reached, Sequence[str] | None]:
    """How far the database had come that is replaced, and which tokens had been revoked there.

    Refuses to replace one that may not be.
    """
    there = _installation_of(url)
    if there is not None and not replace:
        raise Conflict(
            "there is a database already; what it has is lost if it is replaced: say so with "
            "--replace"
        )
    watch = restored.Watch(data)
    reached, gone = [watch.reached], _look(source, watch.revoked)
    if there not in (None, _UNREADABLE):
        # Live workers count whatever the version of the schema; the rest needs the present one.
        _refuse_used(url)
        if there == _installation_of(source) and not migrate.check(url):
            reached.append(_look(url, lives.reached))
            gone = [*(gone or ()), *_look(url, restored.revoked)]
    above = Reached(
        epoch=max(one.epoch for one in reached),
        job=max(one.job for one in reached),
        batch=max(one.batch for one in reached),
    )
    return above, gone


def _restore_rows(
    source_url: str, url: str, above: Reached, gone: Sequence[str], tokens: Tokens | None
) -> Restored:
    migrate.upgrade(url, named=False)
    source, target = Database(source_url, pool_size=1), Database(url, pool_size=1)
    try:
        with source.read() as reading, target.write(may_take_long=True) as writing:
            copying.empty(writing)
            copying.pour(reading, writing)
            return _begin(writing, above, gone, tokens)
    finally:
        source.close()
        target.close()


def _begin(
    transaction: Transaction,
    above: Reached,
    gone: Sequence[str],
    kept: Tokens | None,
) -> Restored:
    """Begin the new life, in which the storage is taken over from the lost one."""
    newest = transaction.execute(select(func.max(events.c.at))).scalar()
    life: Life = restored.note_restored(transaction, above)
    transaction.execute(delete(workers))
    transaction.execute(update(backends).values(take_over=True))
    if kept == "revoke":
        gone = list(transaction.execute(select(tokens.c.id)).scalars())
    revoked = restored.revoke(transaction, gone)
    return Restored(life.epoch, life.first_job, newest, revoked)


def _refuse_used(url: str) -> None:
    """Refuse a database whose workers are alive."""
    alive = select(workers.c.host).where(workers.c.seen_at > db_now(-ALIVE_SECONDS)).limit(1)
    host = _look(url, lambda transaction: transaction.execute(alive).scalar())
    if host is not None:
        raise Conflict(
            f"a worker on host {host} uses the database: stop the service first (one that died "
            f"counts as alive for {ALIVE_SECONDS:.0f} seconds)"
        )


def _installation_of(url: str) -> str | None:
    """The id of the installation whose database this is; None if it is nobody's yet."""
    path = urls.file_of(url)
    if path is not None and not path.exists():
        return None

    def find(transaction: Transaction) -> str | None:
        if not inspect(transaction.connection).has_table(installation.name):
            return None
        return transaction.execute(select(installation.c.uuid)).scalar()

    try:
        return _look(url, find)
    except (DatabaseError, Unavailable):
        if path is None:
            raise
        return _UNREADABLE


def _look(url: str, work: Callable[[Transaction], T]) -> T:
    database = Database(url, pool_size=1)
    try:
        return database.look(work)
    finally:
        database.close()
