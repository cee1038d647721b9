"""Backups: complete, readable by both kinds of database, and restored as a new life."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, func, insert, select, text, update

from orchestrator import backups, tokens
from orchestrator.domain.errors import Conflict, InvalidInput, NotAuthenticated
from orchestrator.domain.states import Role
from orchestrator.history.events import number_committed
from orchestrator.inventory.hosts import seen
from orchestrator.ledger import chain, restored
from orchestrator.settings import DatabaseSettings
from orchestrator.store import copying, migrate
from orchestrator.store.columns import db_now
from orchestrator.store.database import Database
from orchestrator.store.tables import (
    backends,
    counters,
    jobs,
    metadata,
    policies,
    schedule_jobs,
    schedules,
)
from orchestrator.store.tables import lives as lives_table
from tests.engine.conftest import Engine, act, create, grow
from workers.scheduler import Scheduler

#: What a restore writes anew, on purpose.
CHANGED = {"lives", "events", "event_commits", "installation", "backends", "workers"}


@pytest.fixture
def used(engine: Engine) -> Engine:
    """A database with something in most of its tables."""
    engine.submit(*(create(f"vm{n}", backend="fast") for n in range(3)), reason="für dich")
    engine.submit(create("ram"))
    engine.work()
    engine.submit(
        act("snapshot.create", "vm1", "fast", snapshot="s1"),
        _policy("web"),
        grow("vm2", "2M", "fast"),
        act("volume.set_info", "vm0", "fast", params={"info": "für Zoë"}),
    )
    engine.work()
    engine.submit(create("later", run_at="2999-01-01T00:00:00Z"))
    engine.database.transact(lambda c: tokens.create(c, "someone", Role.ADMIN, "tests"))
    _watch(engine)
    return engine


@pytest.fixture
def empty_url(request: pytest.FixtureRequest, tmp_path: Path, database_kind: str) -> Iterator[str]:
    """An empty database, of the other kind unless the test wants the same."""
    same = getattr(request, "param", "other") == "same"
    if (database_kind == "sqlite") == same:
        yield f"sqlite:///{tmp_path / 'restored' / 'new.sqlite'}"
        return
    server = request.getfixturevalue("postgres_server")
    name = f"restored_{uuid.uuid4().hex}"
    server.create_database(name)
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture
def going_on(used: Engine) -> Iterator[Callable[[str], Engine]]:
    """Starts workers on another database, with the same configuration."""
    made: list[Engine] = []

    def start(url: str) -> Engine:
        settings = used.settings.model_copy(update={"database": DatabaseSettings(url=url)})
        made.append(Engine(settings, Database(url)))
        return made[-1]

    yield start
    for one in made:
        one.close()


def test_a_backup_has_every_row_and_an_unbroken_chain(used: Engine, tmp_path: Path) -> None:
    file = tmp_path / "backup"
    backups.back_up(used.settings.database_url, file)
    assert file.stat().st_mode & 0o077 == 0
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".backup")]
    url = f"sqlite:///{file}"
    assert _rows(url) == _rows(used.settings.database_url)
    assert _verified(url, used) is None
    with pytest.raises(Conflict):
        backups.back_up(used.settings.database_url, file)


@pytest.mark.parametrize("empty_url", ["same", "other"], indirect=True)
def test_a_restored_database_has_every_row_and_goes_on_above_all_numbers(
    used: Engine, tmp_path: Path, empty_url: str, going_on: Callable[[str], Engine]
) -> None:
    file = tmp_path / "backup"
    backups.back_up(used.settings.database_url, file)
    before = _rows(used.settings.database_url)
    # What follows is lost; how far it came is known beside the database.
    [last] = used.submit(grow("vm1", "4M", "fast")).job_ids
    used.work()
    _watch(used)
    used.worker.serving.leases.release()
    done = backups.restore(file, empty_url, used.settings.data)
    after = _rows(empty_url)
    assert {name: after[name] for name in after if name not in CHANGED} == {
        name: before[name] for name in before if name not in CHANGED
    }
    assert _verified(empty_url, used) is None
    assert done.first_job > last
    engine = going_on(empty_url)
    ids = engine.submit(
        # Its stamp has a later fencing number than the backup knows of.
        grow("vm1", "8M", "fast"),
        act("snapshot.delete", "vm1", "fast", snapshot="s1"),
        _policy("other"),
        create("new", backend="fast"),
    ).job_ids
    engine.work()
    assert engine.states(ids) == ["succeeded"] * 4
    assert min(ids) >= done.first_job
    with engine.database.read() as connection:
        assert restored.state(connection)["restored_at"] is not None


def test_where_the_lost_life_is_still_at_work_nothing_is_taken_over(
    used: Engine, tmp_path: Path, empty_url: str, going_on: Callable[[str], Engine]
) -> None:
    file = tmp_path / "backup"
    backups.back_up(used.settings.database_url, file)
    backups.restore(file, empty_url, used.settings.data)
    engine = going_on(empty_url)
    [refused] = engine.submit(act("volume.remove", "vm2", "fast", max_attempts=1)).job_ids
    engine.work()
    assert "stop that first" in engine.job(refused)["error"]["detail"]
    ids = used.submit(grow("vm2", "4M", "fast")).job_ids
    used.work()
    assert used.states(ids) == ["succeeded"]
    used.worker.serving.leases.release()
    ids = engine.submit(grow("vm2", "8M", "fast")).job_ids
    engine.work()
    assert engine.states(ids) == ["succeeded"]


def test_a_rollback_whose_number_comes_again_is_done_again(
    used: Engine, tmp_path: Path, empty_url: str, going_on: Callable[[str], Engine]
) -> None:
    rollback = act("volume.rollback", "vm1", "fast", snapshot="s1")
    file = tmp_path / "backup"
    backups.back_up(used.settings.database_url, file)
    [job_id] = used.submit(rollback).job_ids
    used.work()
    used.worker.serving.leases.release()
    [image] = (tmp_path / "volumes").rglob("vm1~*")
    image.write_bytes(b"written since".ljust(image.stat().st_size, b"\0"))
    backups.restore(file, empty_url, used.settings.data)
    engine = going_on(empty_url)
    # The jump aside: a number is no proof even where it comes again.
    with engine.database.write() as connection:
        connection.execute(
            update(lives_table).where(lives_table.c.first_job > 0).values(first_job=job_id)
        )
        if engine.database.is_postgresql:
            connection.execute(text(f"SELECT setval('jobs_numbers', {job_id}, false)"))
        else:
            connection.execute(
                update(counters).where(counters.c.name == "jobs").values(value=job_id - 1)
            )
    assert engine.submit(rollback).job_ids == [job_id]
    engine.work()
    assert engine.states([job_id]) == ["succeeded"]
    assert image.read_bytes().count(b"\0") == image.stat().st_size


def test_tokens_that_were_revoked_since_stay_revoked(
    used: Engine, tmp_path: Path, empty_url: str
) -> None:
    _, kept = used.database.transact(lambda c: tokens.create(c, "kept", Role.ADMIN, "tests"))
    row, gone = used.database.transact(lambda c: tokens.create(c, "gone", Role.ADMIN, "tests"))
    file = tmp_path / "backup"
    backups.back_up(used.settings.database_url, file)
    used.database.transact(lambda c: tokens.revoke(c, row["id"], "tests"))
    _watch(used)
    elsewhere = tmp_path / "another data directory"
    with pytest.raises(InvalidInput, match="--revoke-tokens"):
        backups.restore(file, empty_url, elsewhere)
    backups.restore(file, empty_url, used.settings.data)
    assert _accepted(empty_url, kept)
    assert not _accepted(empty_url, gone)
    backups.restore(file, empty_url, elsewhere, replace=True, tokens="revoke")
    assert not _accepted(empty_url, kept)


def test_a_database_is_replaced_only_when_told_and_not_while_it_is_used(
    used: Engine, tmp_path: Path
) -> None:
    url = used.settings.database_url
    file = tmp_path / "backup"
    backups.back_up(url, file)
    [last] = used.submit(create("lost")).job_ids
    with pytest.raises(Conflict, match="--replace"):
        backups.restore(file, url, tmp_path / "none")
    with used.database.write() as connection:
        seen(connection, "w", host="here", pid=1, boot_id=None, queues=[])
    with pytest.raises(Conflict, match="stop the service"):
        backups.restore(file, url, tmp_path / "none", replace=True)
    with used.database.write() as connection:
        connection.execute(text("DELETE FROM workers"))
    used.database.engine.dispose()
    # The one that is replaced tells of tokens and numbers itself.
    done = backups.restore(file, url, tmp_path / "none", replace=True)
    assert done.first_job > last
    with used.database.read() as connection:
        found = connection.execute(select(func.count()).where(jobs.c.volume == "lost")).scalar()
    assert found == 0
    if done.replaced is not None:
        assert any(row["volume"] == "lost" for row in _rows(f"sqlite:///{done.replaced}")["jobs"])


def test_a_restore_that_fails_sets_no_number_back(
    used: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, url = tmp_path / "backup", used.settings.database_url
    backups.back_up(url, file)
    used.submit(create("since", backend="fast"), _policy("since"))
    used.work()
    with used.database.write() as connection:
        connection.execute(text("DELETE FROM workers"))
        fence = connection.execute(select(func.max(jobs.c.fence))).scalar_one()

    def lost(*_: object) -> None:
        raise ConnectionResetError

    monkeypatch.setattr(backups, "_begin", lost)
    with pytest.raises(ConnectionResetError):
        backups.restore(file, url, used.settings.data, replace=True, tokens="keep")
    before = _rows(url)
    ids = used.submit(create("after", backend="fast"), _policy("after")).job_ids
    used.work()
    assert used.states(ids) == ["succeeded", "succeeded"]
    assert min(ids) > max(row["id"] for row in before["jobs"])
    assert used.job(ids[0])["state"] == "succeeded"
    with used.database.read() as connection:
        [after] = connection.execute(select(jobs.c.fence).where(jobs.c.id == ids[0])).scalars()
    assert after > fence


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_database_that_cannot_be_read_any_more_is_replaced(used: Engine, tmp_path: Path) -> None:
    backups.back_up(used.settings.database_url, tmp_path / "backup")
    broken = tmp_path / "broken"
    broken.write_bytes(b"once a database" * 1000)
    url = f"sqlite:///{broken}"
    with pytest.raises(Conflict, match="--replace"):
        backups.restore(tmp_path / "backup", url, used.settings.data)
    (tmp_path / "backup").chmod(0o400)
    backups.restore(tmp_path / "backup", url, used.settings.data, replace=True)
    assert _rows(url)["jobs"] == _rows(used.settings.database_url)["jobs"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".restore")]


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_database_that_is_locked_is_not_taken_for_one_that_cannot_be_read(
    used: Engine, tmp_path: Path
) -> None:
    path = tmp_path / "locked"
    backups.back_up(used.settings.database_url, path)
    with closing(sqlite3.connect(path, isolation_level=None)) as user:
        user.execute("PRAGMA journal_mode = WAL")
        user.execute("PRAGMA locking_mode = EXCLUSIVE")
        user.execute("DELETE FROM idempotency_keys")
        with pytest.raises(Conflict, match="somebody uses"):
            copying.put_in_place(tmp_path / "backup", path)


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_database_that_somebody_has_open_is_not_replaced(used: Engine, tmp_path: Path) -> None:
    """What an idle service accepts next would be in the file that was replaced."""
    path = tmp_path / "open"
    backups.back_up(used.settings.database_url, path)
    idle = Database(f"sqlite:///{path}")
    with idle.read() as connection:
        assert connection.execute(select(jobs.c.id)).first() is not None
    with pytest.raises(Conflict, match="somebody uses"):
        copying.put_in_place(tmp_path / "backup", path)
    idle.close()
    backups.back_up(used.settings.database_url, tmp_path / "backup")
    kept = copying.put_in_place(tmp_path / "backup", path)
    assert kept is not None
    assert not path.with_name("open-wal").exists()


def test_what_is_no_backup_of_this_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    target = f"sqlite:///{tmp_path / 'new'}"
    (tmp_path / "text").write_text("no database" * 1000)
    with pytest.raises(InvalidInput, match="no backup"):
        backups.restore(tmp_path / "text", target, tmp_path)
    with pytest.raises(InvalidInput, match="no file"):
        backups.restore(tmp_path / "missing", target, tmp_path)
    migrate.upgrade(f"sqlite:///{tmp_path / 'old'}", "0009")
    with pytest.raises(InvalidInput, match="another version"):
        backups.restore(tmp_path / "old", target, tmp_path)
    assert not (tmp_path / "new").exists()


def test_a_database_that_was_moved_goes_on_as_it_was(
    used: Engine, empty_url: str, going_on: Callable[[str], Engine]
) -> None:
    used.worker.serving.leases.release()
    before = _rows(used.settings.database_url)
    backups.move(used.settings.database_url, empty_url)
    assert _rows(empty_url) == before
    engine = going_on(empty_url)
    [job_id] = engine.submit(grow("vm1", "4M", "fast")).job_ids
    engine.work()
    assert engine.states([job_id]) == ["succeeded"]
    assert job_id == 1 + max(row["id"] for row in before["jobs"])
    with engine.database.write() as connection:
        values = {"name": "p", "uid": "p", "backend_id": 1, "rules": [], "state": "available"}
        connection.execute(
            insert(policies).values(**values, created_at=db_now(), changed_at=db_now())
        )
        connection.execute(insert(backends).values(name="b", driver="memory", created_at=db_now()))
    with pytest.raises(Conflict):
        backups.move(used.settings.database_url, empty_url)


@pytest.mark.parametrize("empty_url", ["same", "other"], indirect=True)
def test_the_number_of_a_removed_schedule_is_not_another_s_where_the_database_was_moved(
    used: Engine, empty_url: str
) -> None:
    """By it pruning knows what a schedule has made."""
    of_id = {"name": "s", "cron": "@daily", "action": "backend.refresh", "params": {}}
    made = (
        insert(schedules)
        .values(**of_id, created_by="tests", created_at=db_now(), next_at=db_now())
        .returning(schedules.c.id)
    )
    with used.database.write() as connection:
        removed = connection.execute(made).scalar_one()
        connection.execute(
            insert(schedule_jobs).values(job_id=1, schedule_id=removed, due_at=db_now())
        )
        connection.execute(delete(schedules))
    used.worker.serving.leases.release()
    backups.move(used.settings.database_url, empty_url)
    database = Database(empty_url)
    with database.write() as connection:
        assert connection.execute(made).scalar_one() > removed
    database.close()


def _policy(name: str) -> dict[str, Any]:
    params = {"rules": ["10.0.0.0/8"]}
    return {"action": "policy.create", "backend": "ram", "policy": name, "params": params}


def _watch(engine: Engine) -> None:
    engine.database.transact(number_committed)
    key = chain.key_of(engine.settings, make=True)
    engine.database.transact(lambda connection: chain.extend(connection, key, 10_000))
    scheduler = Scheduler(engine.settings)
    scheduler._watch_restores()
    scheduler.close()


def _accepted(url: str, token: str) -> bool:
    database = Database(url)
    try:
        database.look(lambda connection: tokens.authenticate(connection, token))
    except NotAuthenticated:
        return False
    finally:
        database.close()
    return True


def _verified(url: str, engine: Engine) -> Any:
    database = Database(url)
    with database.read() as connection:
        *_, found = chain.verify(connection, chain.key_of(engine.settings))
    database.close()
    assert found.events > 0
    return found.broken


def _rows(url: str) -> dict[str, list[dict[str, Any]]]:
    database = Database(url)
    with database.read() as connection:
        found = {
            table.name: [
                dict(row)
                for row in connection.execute(
                    select(table).order_by(*table.primary_key.columns)
                ).mappings()
            ]
            for table in metadata.sorted_tables
            if table is not counters
        }
    database.close()
    return found
