"""Lives of the database: what tells it from what it was before a restore, and from its copies."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import select

from orchestrator import tokens
from orchestrator.audit import restored
from orchestrator.audit.chain import extend, key_of
from orchestrator.audit.events import number_committed
from orchestrator.domain.errors import NotAuthenticated
from orchestrator.domain.states import Role
from orchestrator.jobs.claim import Claimed, claim
from orchestrator.settings import Settings
from orchestrator.store import lives
from orchestrator.store.lives import COUNTER_BITS, Reached
from orchestrator.store.tables import events
from tests.engine.conftest import Engine, create, grow
from workers.scheduler import Scheduler

#: Fencing numbers that JSON can tell everywhere are below.
MOST = 2**53


def _claim(engine: Engine) -> Claimed:
    worker = engine.worker
    return claim(
        engine.database,
        worker="tests",
        queue="backend.ram",
        backends=list(worker.serving.drivers),
        lease_seconds=30.0,
    )


def _begin(engine: Engine, above: Reached = lives.NOTHING) -> lives.Life:
    return engine.database.transact(
        lambda connection: restored.begin_life(connection, "tests", actor="tests", above=above)
    )


def test_numbers_of_a_later_life_are_above_all_that_were(engine: Engine) -> None:
    [first] = engine.submit(create("one")).job_ids
    [early] = _claim(engine)
    life = _begin(engine)
    [second] = engine.submit(create("two")).job_ids
    batch = engine.submit(create("three"), create("four"))
    [late, *_] = _claim(engine)
    assert first < 1_000_000 <= second == life.first_job
    assert batch.batch_id is not None and batch.batch_id >= 1_000_000
    assert late.fence >> COUNTER_BITS == life.epoch > early.fence >> COUNTER_BITS
    assert early.fence < late.fence < MOST
    again = _begin(engine, Reached(epoch=life.epoch + 7, job=4_000_017, batch=12))
    assert (again.epoch, again.first_job) == (life.epoch + 8, 5_000_000)


def test_a_job_is_named_with_the_life_that_it_was_submitted_in(engine: Engine) -> None:
    before = engine.submit(create("old")).job_ids
    with engine.database.read() as connection:
        born = lives.present(connection).life
    life = _begin(engine)
    after = engine.submit(create("new")).job_ids
    tokens_of = {one.job_id: one.token for one in _claim(engine)}
    assert tokens_of == {
        before[0]: f"{before[0]}_{born[:12]}",
        after[0]: f"{after[0]}_{life.life[:12]}",
    }


def test_a_database_from_before_there_were_lives_keeps_the_names_of_its_jobs(
    engine: Engine,
) -> None:
    assert lives.token(17, "") == "17"
    assert lives.token(17, "0123456789abcdef") == "17_0123456789ab"


def test_a_new_life_is_told_in_the_history(engine: Engine) -> None:
    life = _begin(engine)
    with engine.database.read() as connection:
        told = connection.execute(select(events).where(events.c.kind == "database.new_life")).one()
    assert told.reason == "tests"
    assert told.data["after"]["epoch"] == life.epoch


def _number(engine: Engine) -> None:
    engine.database.transact(number_committed)
    key = key_of(engine.settings, make=True)
    engine.database.transact(lambda connection: extend(connection, key, 10_000))


def _watch(settings: Settings) -> None:
    scheduler = Scheduler(settings)
    scheduler._watch_restores()
    scheduler.close()


def test_a_database_found_to_be_older_goes_on_above_what_it_had_reached(
    engine: Engine, database_kind: str, tmp_path: Path
) -> None:
    if database_kind != "sqlite":
        pytest.skip("a copy of the file is the backup")
    _, kept = engine.database.transact(lambda c: tokens.create(c, "kept", Role.ADMIN, "tests"))
    row, secret = engine.database.transact(lambda c: tokens.create(c, "gone", Role.ADMIN, "tests"))
    engine.submit(create("one"))
    engine.work()
    _number(engine)
    path = Path(engine.settings.database_url.removeprefix("sqlite:///"))
    _copy(path, tmp_path / "backup")
    engine.database.transact(lambda c: tokens.revoke(c, row["id"], "tests"))
    # A life of which the backup knows nothing, and jobs of it.
    lost = _begin(engine)
    [job_id] = engine.submit(grow("one", "2M")).job_ids
    engine.work()
    _number(engine)
    _watch(engine.settings)
    with engine.database.read() as connection:
        fence = connection.execute(select(events.c.data).where(events.c.job_id == job_id)).all()
    assert fence
    _copy(tmp_path / "backup", path)
    _watch(engine.settings)
    with engine.database.read() as connection:
        life = lives.present(connection)
        tokens.authenticate(connection, kept)
        with pytest.raises(NotAuthenticated):
            tokens.authenticate(connection, secret)
    assert life.epoch > lost.epoch
    assert life.first_job > job_id
    # Noticed once.
    _watch(engine.settings)
    with engine.database.read() as connection:
        assert lives.present(connection) == life


def _copy(source: Path, to: Path) -> None:
    with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(to)) as other:
        one.backup(other)
