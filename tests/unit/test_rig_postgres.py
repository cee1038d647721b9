"""The PostgreSQL rig: real databases that come, survive a restart, and go with the test run."""

import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.rigs.postgres import Postgres, find_programs

OWNER = """
import sys
import psycopg
from tests.rigs.postgres import Postgres

server = Postgres()
server.start()
url = server.url("postgres").replace("+psycopg", "")
directory, = psycopg.connect(url).execute("show data_directory").fetchone()
print(directory, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def server():
    server = Postgres()
    server.start()
    yield server
    server.stop()


def query(server: Postgres, dbname: str, *statements: str) -> list[tuple[Any, ...]]:
    engine = sa.create_engine(server.url(dbname))
    try:
        with engine.begin() as connection:
            *before, last = statements
            for statement in before:
                connection.execute(sa.text(statement))
            result = connection.execute(sa.text(last))
            return [tuple(row) for row in result] if result.returns_rows else []
    finally:
        engine.dispose()


def test_it_keeps_what_is_committed(server: Postgres):
    names = ("fsync", "synchronous_commit", "max_connections", "server_encoding")
    settings = query(
        server, "postgres", f"select name, setting from pg_settings where name in {names}"
    )
    assert dict(settings) == {
        "fsync": "on",
        "synchronous_commit": "on",
        "max_connections": "200",
        "server_encoding": "UTF8",
    }


def test_a_database_survives_a_restart(server: Postgres):
    server.create_database("kept")
    query(server, "kept", "create table t (n int)", "insert into t values (42)")
    (before,) = query(server, "kept", "select pg_postmaster_start_time()")
    server.restart()
    assert query(server, "kept", "select n from t") == [(42,)]
    assert query(server, "kept", "select pg_postmaster_start_time()") != [before]


def test_a_database_in_use_can_be_dropped(server: Postgres):
    server.create_database("busy")
    engine = sa.create_engine(server.url("busy"))
    with engine.connect() as connection:
        connection.execute(sa.text("select 1"))
        server.drop_database("busy")
        with pytest.raises(sa.exc.OperationalError):
            connection.execute(sa.text("select 1"))
    engine.dispose()
    server.drop_database("busy")
    assert query(server, "postgres", "select 1 from pg_database where datname = 'busy'") == []


def test_stop_removes_the_data():
    server = Postgres()
    server.start()
    ((directory,),) = query(server, "postgres", "show data_directory")
    server.stop()
    assert not Path(directory).parent.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_it_dies_when_the_test_run_is_killed():
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        directory = Path(owner.stdout.readline().strip())
        server = os.pidfd_open(int((directory / "postmaster.pid").read_text().split()[0]))
        owner.send_signal(signal.SIGKILL)
        ended, _, _ = select.select([server], [], [], 10)
        os.close(server)
    shutil.rmtree(directory.parent)
    assert ended


def test_without_any_server_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(()))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match=r"package postgresql"):
        find_programs()


def test_each_test_gets_an_empty_database(database_url: str):
    engine = sa.create_engine(database_url)
    assert sa.inspect(engine).get_table_names() == []
    engine.dispose()
