"""Processes that stand still in the middle of a transaction hold up nobody for long."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text

from orchestrator import failpoints
from orchestrator.domain.errors import Unavailable
from orchestrator.store.asking import Question
from orchestrator.store.database import Database
from orchestrator.store.frozen import Watch
from orchestrator.store.postgresql.pipeline import pipelined
from tests.chaos.armed import Armed
from tests.chaos.processes import until
from tests.engine.conftest import Engine

pytestmark = pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)

MIB = 2**20
_IDLE_SECONDS = 1.0
#: Long beyond every time-out here; only what is stuck for good takes it.
_PATIENCE = "SET LOCAL lock_timeout = '40s'"

#: What a child does: it changes a row and stops itself, once, at a place that is named.
_CHILD = """
import os, signal, sys
from sqlalchemy import text
from orchestrator.store.asking import Asked, Question
from orchestrator.store.database import Database
from orchestrator.store.postgresql.statements import WRITERS

url, place = sys.argv[1:]
MORE = Question(text("UPDATE counted SET value = value + 1"))
stopped = False

class Stop(Asked):
    # Asked between two statements: the first has been sent, and is being waited for by nobody.
    pass

def write_stop(_asked):
    stop()
    return b"SELECT 1", {}

WRITERS[Stop] = write_stop

def stop():
    global stopped
    if not stopped:
        stopped = True
        os.kill(os.getpid(), signal.SIGSTOP)

def work(transaction):
    if place == "between pipelines":
        transaction.ask(MORE(), MORE())
        stop()
    elif place == "in a pipeline":
        transaction.ask(MORE(), MORE(), Stop())
    elif place == "in the last pipeline":
        transaction.defer(MORE(), MORE(), Stop())
    elif place == "in many statements":
        transaction.execute(text("UPDATE counted SET value = value + :by"), [{"by": 1}, {"by": 1}])
        stop()
        transaction.execute(text("SELECT 1"))

Database(url, idle_seconds=1.0).transact(work)
"""


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(database_url, idle_seconds=_IDLE_SECONDS)
    with made.write() as connection:
        connection.execute(text("CREATE TABLE counted AS SELECT 0 AS value"))
    yield made
    made.close()


@contextmanager
def _frozen(url: str, place: str) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(_CHILD), url, place])
    try:
        _, status = os.waitpid(child.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), status
        yield child
    finally:
        child.kill()
        child.wait()


def _libpq_url(database: Database) -> str:
    return database.engine.url.render_as_string(hide_password=False).replace("+psycopg", "")


def _waits(database: Database) -> bool:
    """Whether a session of ours waits for its process in a transaction, with something locked."""
    query = text(
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
        " AND backend_xid IS NOT NULL AND wait_event = 'ClientRead'"
    )
    return database.glance(lambda connection: connection.execute(query).scalar()) == 1


def _is_pooled(database: Database) -> bool:
    """Whether a pooler stands before the server."""
    answering = text("SELECT pg_backend_pid()")
    with database.write() as connection:
        told = connection.raw.info.backend_pid
        return bool(connection.execute(answering).scalar() != told)


def _needs_new_sessions(database: Database) -> None:
    """Skip where closing our connections closes no session: its settings are those of before."""
    if _is_pooled(database):
        pytest.skip("a pooler keeps its sessions")


def _more(database: Database) -> int:
    """Change the same row; raises if somebody holds it for ever."""
    with database.write() as connection:
        connection.execute(text(_PATIENCE))
        changed = text("UPDATE counted SET value = value + 100 RETURNING value")
        return int(connection.execute(changed).scalar_one())


@pytest.mark.parametrize(
    "place",
    ["between pipelines", "in a pipeline", "in the last pipeline", "in many statements"],
)
def test_what_a_frozen_process_has_locked_is_free_after_the_time_out(
    database: Database, database_url: str, place: str
) -> None:
    watch = Watch(database_url, idle_seconds=_IDLE_SECONDS, every=_IDLE_SECONDS / 4)
    try:
        with _frozen(database_url, place) as child:
            until(lambda: _waits(database), "it has locked the row")
            assert _more(database) == 100
            # Its session is gone: it does all of it again, and nothing twice.
            child.send_signal(signal.SIGCONT)
            # Where its commit was on its way, it cannot tell, and does not repeat it.
            lost = place == "in the last pipeline"
            assert (child.wait(60) != 0) == lost
        assert _more(database) == (200 if lost else 202)
    finally:
        watch.close()


def test_a_pipeline_leaves_the_server_its_own_time_out(
    database: Database, database_url: str
) -> None:
    """Without anybody who looks: a message behind the Sync would switch it off."""
    with _frozen(database_url, "between pipelines"):
        until(lambda: _waits(database), "it has locked the row")
        assert _more(database) == 100


@pytest.mark.parametrize("armed", [False, True])
def test_a_transaction_of_pipelines_is_one_round_trip_each(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, armed: bool
) -> None:
    """Its beginning and its commit travel along, and nothing comes behind a Sync. The same is
    sent where failpoints are armed."""
    monkeypatch.setattr(failpoints, "_directory", tmp_path if armed else None)
    points = [
        Armed(tmp_path, name, name, "pause", nth=1000)
        for name in ("lanes.before_release", "finish.before_commit", "pipeline.before_sync")
    ]
    read = Question(text("SELECT value FROM counted"))
    more = Question(text("UPDATE counted SET value = value + 1"))

    def work(transaction):
        raw = transaction.raw
        raw.pgconn.trace(traced)
        transaction.ask(read(), more())
        transaction.reach("finish.before_commit")
        transaction.defer(more(), transaction.point("lanes.before_release"), more())
        return raw

    traced = os.open(tmp_path / "trace", os.O_RDWR | os.O_CREAT)
    database.transact(work).pgconn.untrace()
    os.close(traced)
    lines = [line.split("\t") for line in (tmp_path / "trace").read_text().splitlines()]
    sent = [line[3].split(" ")[0] for line in lines if len(line) > 3 and line[1] == "F"]
    assert [name for name in sent if name in ("Sync", "Flush", "Query")] == ["Sync", "Sync"]
    assert sent[-1] == "Sync"
    # Behind a pooler the transaction has begun before, with its settings.
    assert sent.count("Execute") == (5 if _is_pooled(database) else 6)
    assert [one.passes for one in points] == [int(armed)] * 3


def test_a_large_pipeline_is_sent_to_its_end(database: Database) -> None:
    """More than a socket takes at once: the Sync is not left behind in the buffer."""
    with database.engine.connect() as connection:
        raw = connection.connection.driver_connection
        assert isinstance(raw, psycopg.Connection)
        cursors = [raw.cursor() for _ in range(40)]
        with pipelined(raw, begin=True):
            for cursor in cursors:
                cursor.execute("SELECT length(%s::text), repeat('x', 200000)", ["y" * 1_000_000])
        assert [cursor.fetchone()[0] for cursor in cursors] == [1_000_000] * 40  # type: ignore[index]


def test_nobody_elses_session_is_ended(database: Database, database_url: str) -> None:
    other = _libpq_url(database)
    watch = Watch(database_url, idle_seconds=0.2, every=0.05)
    try:
        with psycopg.connect(other, application_name="an auditor") as auditor:
            auditor.execute("SELECT value FROM counted FOR UPDATE")
            # It waits for the auditor's row: none of those that wait for their process.
            with _frozen(database_url, "in a pipeline"):
                assert auditor.execute("SELECT value FROM counted").fetchone() == (0,)
            auditor.commit()
        with _frozen(database_url, "in a pipeline"):
            until(lambda: _waits(database), "it has locked the row")
            assert _more(database) == 100
    finally:
        watch.close()


@pytest.mark.parametrize("commits", [False, True])
def test_a_server_that_takes_no_writes_is_not_asked_again(
    database: Database, database_url: str, commits: bool
) -> None:
    """Every pooled session may be on it; once it takes writes, all goes on by itself."""
    more = Question(text("UPDATE counted SET value = value + 1"))

    def work(transaction):
        if commits:
            transaction.defer(more())
        else:
            transaction.execute(more.statement)

    _needs_new_sessions(database)
    connections = [database.engine.connect() for _ in range(8)]
    for one in connections:
        one.exec_driver_sql("SET default_transaction_read_only = on")
        one.commit()
        one.close()
    # These sessions cannot write; new ones can.
    database.transact(work)
    name = database.engine.url.database
    with psycopg.connect(_libpq_url(database), autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        database.engine.dispose()
        with pytest.raises(Unavailable):
            database.transact(work)
        admin.execute("SET default_transaction_read_only = off")
        admin.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
    for _ in range(8):
        database.transact(work)
    assert _more(database) == 109


def test_a_connection_that_has_read_heeds_what_makes_the_database_read_only(
    database: Database,
) -> None:
    """However often a pooled connection reads, whether it may write is the server's to say."""

    def write(connection):
        connection.execute(text("UPDATE counted SET value = value + 1"))

    _needs_new_sessions(database)
    name = database.engine.url.database
    with psycopg.connect(_libpq_url(database), autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        database.engine.dispose()
        for read in (database.look, database.glance):
            assert read(lambda connection: connection.execute(text("SELECT 1")).scalar()) == 1
            with pytest.raises(Unavailable, match="takes no writes"):
                database.transact(write)
        admin.execute("SET default_transaction_read_only = off")
        admin.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
    database.transact(write)


@pytest.mark.parametrize("then", ["a statement", "a pipeline", "the commit"])
def test_a_session_that_was_ended_in_a_transaction_is_a_dead_connection(
    database: Database, then: str
) -> None:
    """However the driver calls the error, the transaction is repeated."""
    tries = 0
    more = Question(text("UPDATE counted SET value = value + 1"))

    def work(transaction):
        nonlocal tries
        tries += 1
        transaction.execute(more.statement)
        if tries == 1:
            pid = transaction.execute(text("SELECT pg_backend_pid()")).scalar()
            there = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid")
            until(
                lambda: database.glance(lambda c: c.execute(there, {"pid": pid}).scalar()) == 0,
                "its session is ended",
            )
        if then == "a statement":
            transaction.execute(more.statement)
        elif then == "a pipeline":
            transaction.ask(more(), more())

    database.transact(work)
    assert tries == 2
    assert _more(database) == 100 + {"a statement": 2, "a pipeline": 3, "the commit": 1}[then]


def test_a_long_read_has_no_limit_and_a_transaction_has(database: Database) -> None:
    shown = text("SHOW transaction_timeout")
    with database.read() as connection:
        if connection.connection.dialect.server_version_info < (17,):  # type: ignore[operator]
            pytest.skip("this server has no transaction_timeout")
        assert connection.execute(shown).scalar() == "0"
    assert database.transact(lambda connection: connection.execute(shown).scalar()) == "15min"
    with database.write(may_take_long=True) as connection:
        assert connection.execute(shown).scalar() == "0"
    assert database.transact(lambda connection: connection.execute(shown).scalar()) == "15min"


@pytest.mark.parametrize("sqlstate", ["25P03", "25P04", "25006", "57P01", "53300"])
def test_an_outcome_is_not_failed_because_the_connection_died(
    engine: Engine, sqlstate: str
) -> None:
    """What was done was done: it is written down as soon as that can be."""
    created = [_on("create", f"v{number}", size_bytes=MIB) for number in range(8)]
    engine.submit(*created)
    engine.work()
    removed = engine.submit(*(_on("remove", f"v{number}") for number in range(8)))
    _refuse_outcomes(engine.database, sqlstate, times=2)
    engine.work()
    assert engine.states(removed.job_ids) == ["succeeded"] * 8
    assert engine.volumes() == {}


def test_an_outcome_that_cannot_be_stored_fails_alone(engine: Engine) -> None:
    made = engine.submit(_on("create", "v", size_bytes=MIB))
    _refuse_outcomes(engine.database, "22003", times=1)
    engine.work()
    assert engine.states(made.job_ids) == ["failed"]


def _on(verb: str, volume: str, **params: object) -> dict[str, object]:
    return {"action": f"volume.{verb}", "backend": "ram", "volume": volume, "params": params}


def _refuse_outcomes(database: Database, sqlstate: str, times: int) -> None:
    """Let the server answer so the first times that a job is to be written as succeeded."""
    refuse = f"""
        CREATE SEQUENCE refused;
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.state = 'succeeded' AND nextval('refused') <= {times} THEN
                RAISE EXCEPTION 'as a test wants it' USING ERRCODE = '{sqlstate}';
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER refuse BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION refuse();
    """
    with database.write() as connection:
        connection.connection.exec_driver_sql(refuse)
