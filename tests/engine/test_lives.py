"""Lives of the database: what tells it from what it was before a restore, and from its copies."""

from __future__ import annotations

import sqlite3
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Connection, create_engine, make_url, select, text, update

from orchestrator import tokens
from orchestrator.domain.errors import (
    BackendUnavailable,
    EpochChanged,
    IdentityMismatch,
    NotAuthenticated,
)
from orchestrator.domain.states import Role
from orchestrator.history.events import number_committed, read_feed
from orchestrator.jobs.claim import Claimed, claim
from orchestrator.ledger import restored
from orchestrator.ledger.chain import extend, key_of
from orchestrator.settings import BackendSettings, DatabaseSettings, Settings
from orchestrator.store import lives
from orchestrator.store.database import Database
from orchestrator.store.lives import COUNTER_BITS, Reached
from orchestrator.store.tables import backends, events
from tests.engine.conftest import Engine, act, create, grow
from workers.backends.base.driver import Driver
from workers.backends.file import layout
from workers.backends.file.driver import FileDriver
from workers.backends.file.spec import FileOptions
from workers.scheduler import Scheduler
from workers.storage_leases import Holder, StorageLeases, _born, this_process

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


def test_readers_of_events_are_told_where_a_life_that_was_lost_had_left_the_common_history(
    engine: Engine,
) -> None:
    engine.submit(create("one"))
    engine.database.transact(number_committed)

    def read(after: int, epoch: int | None = None, **filters: Any) -> Any:
        return engine.database.look(lambda c: read_feed(c, after, 10, filters, epoch))

    first, rows = read(0)
    last = rows[-1].number
    assert read(last, first) == (first, [])
    assert read(last, first, backend="fast") == (first, [])
    life = _begin(engine)
    engine.submit(create("two"))
    engine.database.transact(number_committed)
    assert life.last_event == last
    for epoch, after, common in ((first, last, last), (first, 1, 1), (first, last + 9, last)):
        with pytest.raises(EpochChanged) as told:
            read(after, epoch)
        assert told.value.facts == {"epoch": life.epoch, "after": common}
    for epoch in (None, life.epoch):
        with pytest.raises(EpochChanged) as told:
            read(last + 1000, epoch)
        assert told.value.facts == {"epoch": life.epoch, "after": last}
    assert [row.kind for row in read(last, life.epoch)[1]] == ["database.new_life", "job.submitted"]


def _number(engine: Engine) -> None:
    engine.database.transact(number_committed)
    key = key_of(engine.settings, make=True)
    engine.database.transact(lambda connection: extend(connection, key, 10_000))


def _watch(settings: Settings) -> None:
    scheduler = Scheduler(settings)
    scheduler._watch_restores()
    scheduler.close()


@pytest.mark.parametrize("accepted", [False, True])
def test_a_database_found_to_be_older_goes_on_above_what_it_had_reached(
    engine: Engine, database_kind: str, tmp_path: Path, accepted: bool
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
    if accepted:
        # Somebody has taken storage over before the scheduler has looked.
        _begin(engine)
    _watch(engine.settings)
    with engine.database.read() as connection:
        assert restored.state(connection)["restored_at"] is not None
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


# -- leases on the storage ----------------------------------------------------------------


class Other(Engine):
    """The same configuration on another database: a copy of it, or an older state."""

    def __init__(self, engine: Engine, url: str) -> None:
        settings = engine.settings.model_copy(update={"database": DatabaseSettings(url=url)})
        super().__init__(settings, Database(url))

    @property
    def leases(self) -> StorageLeases:
        return self.worker.serving.leases


@pytest.fixture
def copied(engine: Engine, database_kind: str, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Copies the engine's database; the URL of the copy."""
    if database_kind == "sqlite":
        path = Path(engine.settings.database_url.removeprefix("sqlite:///"))

        def copy() -> str:
            target = tmp_path / f"copy-{uuid.uuid4().hex}.sqlite"
            _copy(path, target)
            return f"sqlite:///{target}"

        yield copy
        return
    made: list[str] = []
    url = make_url(engine.settings.database_url)

    def copy_on_server() -> str:
        name = f"{url.database}_copy{len(made)}"
        engine.database.engine.dispose()
        with _server(url) as server:
            server.execute(text(f"CREATE DATABASE {name} TEMPLATE {url.database}"))
        made.append(name)
        return url.set(database=name).render_as_string(hide_password=False)

    yield copy_on_server
    with _server(url) as server:
        for name in made:
            server.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))


@contextmanager
def _server(url: URL) -> Iterator[Connection]:
    admin = create_engine(
        url.set(database="postgres", drivername="postgresql+psycopg"),
        isolation_level="AUTOCOMMIT",
    )
    with admin.connect() as connection:
        yield connection
    admin.dispose()


@pytest.fixture
def other(engine: Engine, copied: Callable[[], str]) -> Iterator[Callable[..., Other]]:
    """Starts a worker on a copy of the database as it is now."""
    made: list[Other] = []

    def start(url: str | None = None) -> Other:
        one = Other(engine, url or copied())
        made.append(one)
        return one

    yield start
    for one in made:
        one.close()


def _error(engine: Engine, job_id: int) -> dict[str, Any]:
    found: dict[str, Any] = engine.job(job_id)["error"]
    return found


@pytest.mark.parametrize("backend", ["ram", "fast"])
def test_a_copy_of_the_database_changes_nothing_and_production_goes_on(
    engine: Engine, other: Callable[..., Other], backend: str
) -> None:
    """It was made when the number on the storage was another one."""
    engine.submit(create("a", backend=backend))
    engine.work()
    copy = other()
    _renewed(engine)
    remove, audit = (
        copy.submit(one).job_ids[0]
        for one in (act("volume.remove", "a", backend), act_on(backend, "backend.audit"))
    )
    copy.work()
    for job_id in (remove, audit):
        assert _error(copy, job_id)["code"] == "identity_mismatch"
        assert "accept_identity=true" in _error(copy, job_id)["detail"]
    ids = engine.submit(grow("a", "2M", backend), act("volume.remove", "a", backend)).job_ids
    engine.work()
    assert engine.states(ids) == ["succeeded"] * 2


def test_a_copy_that_knows_the_number_still_does_not_begin_beside_the_original(
    engine: Engine, other: Callable[..., Other]
) -> None:
    engine.submit(create("a"))
    engine.work()
    copy = other()  # its worker looks at once
    [job_id] = copy.submit(act("volume.remove", "a", max_attempts=1)).job_ids
    copy.work()
    assert copy.states([job_id]) != ["succeeded"]
    assert "a" in {facts.name for facts in _ram(copy).list_volumes()}
    _renewed(engine)
    [job_id] = copy.submit(act_on("ram", "backend.refresh")).job_ids
    copy.work()
    assert _error(copy, job_id)["code"] == "identity_mismatch"
    ids = engine.submit(grow("a", "2M")).job_ids
    engine.work()
    assert engine.states(ids) == ["succeeded"]


def test_a_database_that_was_moved_goes_on_by_itself(
    engine: Engine, copied: Callable[[], str], other: Callable[..., Other]
) -> None:
    """Its workers were stopped first; what is started again on the old one is the copy then."""
    engine.submit(create("a"))
    engine.work()
    engine.worker.serving.leases.release()
    moved = other()
    ids = moved.submit(grow("a", "2M")).job_ids
    moved.work()
    assert moved.states(ids) == ["succeeded"]
    late = engine.submit(act("volume.remove", "a")).job_ids
    engine.work()
    assert _error(engine, late[0])["code"] == "identity_mismatch"


def test_whose_holder_has_died_is_taken_over_at_once(
    engine: Engine, other: Callable[..., Other]
) -> None:
    engine.submit(create("a"))
    engine.work()
    process = subprocess.Popen(["sleep", "60"])
    leases = engine.worker.serving.leases
    leases.me = replace(leases.me, pid=process.pid, born=_born(process.pid))
    _renewed(engine)
    url = other().settings.database_url
    process.kill()
    process.wait()
    copy = other(url)
    ids = copy.submit(grow("a", "2M")).job_ids
    copy.work()
    assert copy.states(ids) == ["succeeded"]


def test_what_another_life_wrote_to_is_taken_over_only_when_told_and_when_that_has_ended(
    engine: Engine, other: Callable[..., Other]
) -> None:
    engine.submit(create("a"))
    engine.work()
    copy = other()
    _renewed(engine)
    accept = act_on("ram", "backend.verify", params={"accept_identity": True})
    [refused] = copy.submit(accept).job_ids
    copy.work()
    assert "stop that first" in _error(copy, refused)["detail"]
    with copy.database.read() as connection:
        before = lives.present(connection)
    engine.worker.serving.leases.release()
    [taken] = copy.submit(accept).job_ids
    copy.work()
    ids = copy.submit(grow("a", "2M")).job_ids
    copy.work()
    assert copy.states([taken, *ids]) == ["succeeded"] * 2
    with copy.database.read() as connection:
        assert lives.present(connection).epoch > before.epoch
    # From now on it is the first one that is foreign.
    late = engine.submit(act("volume.remove", "a")).job_ids
    engine.work()
    assert _error(engine, late[0])["code"] == "identity_mismatch"


def test_a_holder_elsewhere_is_watched_for_a_leases_time(
    engine: Engine, other: Callable[..., Other]
) -> None:
    engine.submit(create("a"))
    engine.work()
    copy = other()
    leases = engine.worker.serving.leases
    leases.me = replace(leases.me, boot="another machine's")
    _renewed(engine)
    backend_id = _id(copy, "ram")
    now = [0.0]
    copy.leases.clock = lambda: now[0]
    with pytest.raises(BackendUnavailable):
        copy.leases.take_over(backend_id, "tests")
    now[0] += copy.leases.lease_seconds - 1
    with pytest.raises(BackendUnavailable):
        copy.leases.take_over(backend_id, "tests")
    _renewed(engine)
    now[0] += 2
    with pytest.raises(BackendUnavailable):
        copy.leases.take_over(backend_id, "tests")
    now[0] += copy.leases.lease_seconds
    copy.leases.take_over(backend_id, "tests")


def test_a_worker_on_another_host_begins_once_both_are_seen_to_mean_the_same_storage(
    engine: Engine, tmp_path: Path
) -> None:
    """Where the storage is a copy, its lease stands still while the database's goes on."""
    engine.submit(create("a", backend="fast"))
    engine.work()
    fast = _id(engine, "fast")
    elsewhere = replace(this_process("there"), boot="another machine's")
    same = _leases(engine, tmp_path / "volumes", elsewhere)
    with pytest.raises(BackendUnavailable, match="same storage"):
        same.enter(fast)
    engine.worker.serving.leases.renew_due()
    same.enter(fast)
    copy = tmp_path / "rsynced"
    subprocess.run(["cp", "-a", tmp_path / "volumes", copy], check=True)
    there = _leases(engine, copy, replace(elsewhere, id="third", boot="a third machine's"))
    with pytest.raises(BackendUnavailable, match="same storage"):
        there.enter(fast)
    same.renew_due()
    with pytest.raises(IdentityMismatch):
        there.enter(fast)
    ids = engine.submit(grow("a", "2M", "fast")).job_ids
    engine.work()
    assert engine.states(ids) == ["succeeded"]


def test_renewing_by_many_workers_is_no_error(engine: Engine) -> None:
    workers = [engine.worker, *(engine.another_worker(f"worker-{n}") for n in range(2, 6))]
    ids = [_id(engine, name) for name in ("ram", "fast")]
    failures: list[BaseException] = []

    def renew(leases: StorageLeases) -> None:
        try:
            for _ in range(10):
                for backend_id in ids:
                    leases.enter(backend_id, renew=True)
                    leases.check(backend_id, (None, None))
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=renew, args=(one.serving.leases,)) for one in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_workers_that_take_over_together_begin_one_life(
    engine: Engine, other: Callable[..., Other]
) -> None:
    copy = other()
    _renewed(engine)
    engine.worker.serving.leases.release()
    with copy.database.write() as connection:
        connection.execute(update(backends).values(take_over=True))
        before = len(lives.all_of(connection))
    workers = [copy.worker, *(copy.another_worker(f"worker-{n}") for n in range(2, 5))]
    for worker in workers:
        for name in ("ram", "fast"):
            worker.serving.leases.enter(_id(copy, name))
    with copy.database.read() as connection:
        assert len(lives.all_of(connection)) == before + 1
        assert not connection.execute(select(backends.c.id).where(backends.c.take_over)).all()


def test_jobs_that_were_claimed_before_the_lease_was_renewed_go_on(engine: Engine) -> None:
    engine.submit(create("a"))
    engine.work()
    leases, ram = engine.worker.serving.leases, _id(engine, "ram")
    with engine.database.read() as connection:
        known = connection.execute(select(backends.c.lease).where(backends.c.id == ram)).scalar()
    _renewed(engine)
    for _ in range(3):
        leases.check(ram, (known, None))


def test_storage_that_lost_its_lease_is_refused(engine: Engine, tmp_path: Path) -> None:
    """It is older than it was, or not the one."""
    engine.submit(create("a", backend="fast"))
    engine.work()
    (tmp_path / "volumes" / ".orchestrator" / layout.LEASE).unlink()
    [job_id] = engine.submit(act("volume.remove", "a", "fast")).job_ids
    engine.work()
    assert _error(engine, job_id)["code"] == "identity_mismatch"


def test_two_backends_of_one_installation_do_not_share_storage(
    engine: Engine, tmp_path: Path
) -> None:
    settings = engine.settings.model_copy(
        update={
            "backends": {
                **engine.settings.backends,
                "second": BackendSettings(driver="file", path=str(tmp_path / "volumes")),
            }
        }
    )
    both = Engine(settings, Database(settings.database_url))
    accept = act_on("second", "backend.verify", params={"accept_identity": True})
    [job_id] = both.submit(accept).job_ids
    both.work()
    assert _error(both, job_id)["code"] == "conflict"
    assert "backend fast" in _error(both, job_id)["detail"]
    both.close()


def act_on(backend: str, action: str, **more: Any) -> dict[str, Any]:
    return {"action": action, "backend": backend, **more}


def _ram(engine: Engine) -> Driver:
    return engine.worker.serving.drivers[_id(engine, "ram")]


def _id(engine: Engine, name: str) -> int:
    return next(id_ for id_, known in engine.worker.serving.names.items() if known == name)


def _renewed(engine: Engine) -> None:
    """Some seconds have passed: the lease has another number."""
    with engine.database.write() as connection:
        connection.execute(update(backends).values(lease_at=None))
    engine.worker.serving.leases.renew_due()


def _leases(engine: Engine, path: Path, me: Holder) -> StorageLeases:
    fast = _id(engine, "fast")
    installation = engine.worker.serving.drivers[fast].installation
    driver = FileDriver("fast", FileOptions(path=path), installation)
    return StorageLeases(
        engine.database, {fast: driver}, {fast: "fast"}, installation=installation, me=me
    )


def _copy(source: Path, to: Path) -> None:
    with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(to)) as other:
        one.backup(other)
