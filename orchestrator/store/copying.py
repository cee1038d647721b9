"""A database as one file, and from there into another database, of either kind.

The file is a SQLite database with the same schema: of SQLite a copy, of PostgreSQL every row of
one transaction.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path

from sqlalchemy import func, insert, select, text
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DatabaseError

from orchestrator.domain.errors import Conflict, InvalidInput, Unavailable
from orchestrator.store import migrate, urls
from orchestrator.store.database import Database
from orchestrator.store.tables import SEQUENCES, counters, metadata, schedule_jobs, schedules
from orchestrator.store.transaction import Transaction

#: Rows read and written at a time.
_CHUNK = 2_000
#: Every table whose rows are copied, those that others refer to first.
_TABLES = [table for table in metadata.sorted_tables if table is not counters]
#: Numbers of rows that others refer to still when the row itself is gone.
_OUTLIVED = {schedules: [schedule_jobs.c.schedule_id]}


def save(url: str, file: Path) -> None:
    """Write the database as it is at one moment to a new file; it may be in use meanwhile."""
    if file.exists():
        raise Conflict(f"{file} exists already: name a new file", field="file")
    if (wrong := migrate.check(url)) is not None:
        raise Conflict(wrong)
    part = file.with_name(f".{file.name}.part")
    _forget(part)
    try:
        part.touch(mode=0o600, exist_ok=False)
        if (source := urls.file_of(url)) is not None:
            copy_file(source, part)
        else:
            fill(url, f"sqlite:///{part.absolute()}")
            with closing(sqlite3.connect(part)) as connection:
                connection.execute("PRAGMA journal_mode = DELETE")
        _sync(part)
        os.link(part, file)
        _sync(file.parent)
    finally:
        _forget(part)


def opened(file: Path, directory: Path) -> Path:
    """A copy of a backup, to be read; `InvalidInput` unless this version can."""
    if not file.is_file():
        raise InvalidInput(f"there is no file {file}", field="file")
    copy = directory / "database"
    copy.touch(mode=0o600)
    for ending in ("", "-wal"):
        part = file.with_name(file.name + ending)
        if part.exists():
            shutil.copyfile(part, copy.with_name(copy.name + ending))
    try:
        wrong = migrate.check(f"sqlite:///{copy}")
    except (DatabaseError, Unavailable):
        raise InvalidInput(f"{file} is no backup of a database", field="file") from None
    if wrong is not None:
        raise InvalidInput(
            f"{file} was written by another version: {wrong} with "
            f"ORCHESTRATOR_DATABASE__URL=sqlite:///{file.absolute()} for a copy of the file, or "
            "restore it with the version that wrote it and upgrade then",
            field="file",
        )
    return copy


def copy_file(source: Path, to: Path) -> None:
    """Copy a SQLite database, in one piece, though others write to it."""
    with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(to)) as other:
        one.backup(other)
        other.execute("PRAGMA journal_mode = DELETE")


def fill(source_url: str, target_url: str) -> None:
    """Bring an empty database to the schema of this version, and copy every row into it."""
    migrate.upgrade(target_url, named=False)
    source = Database(source_url, pool_size=1, standby=True)
    target = Database(target_url, pool_size=1)
    try:
        with source.read() as reading, target.write(may_take_long=True) as writing:
            pour(reading, writing)
    finally:
        source.close()
        target.close()


def pour(source: Transaction, target: Transaction) -> None:
    """Copy every row and where numbers go on, into tables with no rows."""
    with _without_triggers(target):
        for table in _TABLES:
            rows = source.connection.execution_options(
                stream_results=True, yield_per=_CHUNK
            ).execute(select(table))
            for chunk in rows.mappings().partitions(_CHUNK):
                target.execute(insert(table), [dict(row) for row in chunk])
    # Read last, they are not behind the rows.
    for name, value in _numbers(source).items():
        _go_on(target, name, value)
    _renew_serials(target)


def empty(transaction: Transaction) -> None:
    """Delete every row; on PostgreSQL."""
    tables = ", ".join(table.name for table in [*_TABLES, counters])
    transaction.execute(text(f"TRUNCATE {tables}"))


def put_in_place(new: Path, path: Path) -> Path | None:
    """Have a SQLite database replaced by another one; where the old one is now, if there was one.

    Nobody may have it open.
    """
    kept: Path | None = None
    if path.exists():
        try:
            with closing(sqlite3.connect(path, timeout=5)) as there:
                # Only who is alone with a database can end its log, and writes that back; whoever
                # has it open counts, also one who does nothing just now.
                [mode] = there.execute("PRAGMA journal_mode = DELETE").fetchone()
                busy = mode == "wal"
        except sqlite3.DatabaseError as error:
            # A file that cannot be read is replaced, too.
            busy = error.sqlite_errorname.startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
        if busy:
            raise Conflict(
                f"somebody uses the database {path}: stop the service on this machine first"
            )
        kept = _unused(f"{path}.replaced")
        os.link(path, kept)
    # A log of the old file must not be taken for one of the new.
    for ending in ("-wal", "-shm"):
        path.with_name(path.name + ending).unlink(missing_ok=True)
    _sync(new)
    new.replace(path)
    _sync(path.parent)
    return kept


def _unused(name: str) -> Path:
    return next(path for n in count(1) if not (path := Path(f"{name}-{n}")).exists())


@contextmanager
def _without_triggers(transaction: Transaction) -> Iterator[None]:
    """What triggers have written is copied with the rest: they write nothing meanwhile."""
    if transaction.connection.dialect.name == "postgresql":
        found = transaction.execute(
            text(
                "SELECT DISTINCT tgrelid::regclass::text FROM pg_trigger"
                " WHERE NOT tgisinternal AND tgrelid::regclass::text = ANY(:tables)"
            ),
            {"tables": [table.name for table in _TABLES]},
        )
        tables = list(found.scalars())
        for table in tables:
            transaction.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))
        yield
        # Checks of foreign keys that were put off would keep the table from being altered.
        transaction.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))
        for table in tables:
            transaction.execute(text(f"ALTER TABLE {table} ENABLE TRIGGER USER"))
        return
    query = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
    triggers = transaction.connection.exec_driver_sql(query).all()
    for trigger in triggers:
        transaction.connection.exec_driver_sql(f"DROP TRIGGER {trigger.name}")
    yield
    for trigger in triggers:
        transaction.connection.exec_driver_sql(trigger.sql)


def _numbers(transaction: Transaction) -> dict[str, int]:
    """The last number given out by each source, and by each column that numbers its own rows."""
    if transaction.connection.dialect.name != "postgresql":
        found = dict(transaction.execute(select(counters.c.name, counters.c.value)).all())
        return {name: value for name, value in found.items() if name in SEQUENCES}
    numbers = {}
    for name, sequence in SEQUENCES.items():
        query = f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {sequence.name}"  # noqa: S608
        numbers[name] = int(transaction.execute(text(query)).scalar_one())
    return {name: value for name, value in numbers.items() if value}


def _go_on(transaction: Transaction, name: str, last: int) -> None:
    if transaction.connection.dialect.name == "postgresql":
        _set_sequence(transaction, SEQUENCES[name].name, last)
        return
    fresh = sqlite.insert(counters).values(name=name, value=last)
    transaction.execute(fresh.on_conflict_do_update(index_elements=["name"], set_={"value": last}))


def _set_sequence(transaction: Transaction, sequence: str, last: int) -> None:
    """Have a sequence go on above a number. It never goes back: what it is set to stays, also where
    the transaction fails and the rows that it was for are those of before."""
    query = f"SELECT setval(:name, greatest(:last, last_value)) FROM {sequence}"  # noqa: S608
    transaction.execute(text(query), {"name": sequence, "last": last})


def _renew_serials(transaction: Transaction) -> None:
    """Columns that number their own rows go on above those that were copied, or are referred to."""
    for table in _TABLES:
        if (column := table.autoincrement_column) is None:
            continue
        used = [column, *_OUTLIVED.get(table, ())]
        last = max(transaction.execute(select(func.max(one))).scalar() or 0 for one in used)
        if not last:
            continue
        named = {"table": table.name, "column": column.name}
        if transaction.connection.dialect.name == "postgresql":
            query = "SELECT pg_get_serial_sequence(:table, :column)"
            _set_sequence(transaction, transaction.execute(text(query), named).scalar_one(), last)
        elif table.dialect_options["sqlite"]["autoincrement"]:
            numbers = {"table": table.name, "last": last}
            transaction.execute(text("DELETE FROM sqlite_sequence WHERE name = :table"), numbers)
            insert_last = "INSERT INTO sqlite_sequence (name, seq) VALUES (:table, :last)"
            transaction.execute(text(insert_last), numbers)


def _forget(path: Path) -> None:
    for ending in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + ending).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
