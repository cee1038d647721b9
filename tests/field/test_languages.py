"""A server that speaks another language: what its errors mean is read off their codes."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from orchestrator.store import verdicts
from orchestrator.store.reasons import reason
from tests.rigs.postgres import Postgres, debian_postgres

_LOCALE = "de_DE.UTF-8"


@pytest.fixture(scope="module")
def german() -> Iterator[Postgres]:
    """A server whose messages are German."""
    # Below the temporary directory itself: the server's user may not enter those of pytest.
    locales = Path(tempfile.mkdtemp(prefix="locales-"))
    locales.chmod(0o755)
    server = debian_postgres(lc_messages=_LOCALE)
    made = subprocess.run(
        ["localedef", "-i", "de_DE", "-f", "UTF-8", str(locales / _LOCALE)],
        capture_output=True,
    )
    try:
        if made.returncode != 0:
            pytest.skip("the German locale cannot be generated: apt install locales")
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("LOCPATH", str(locales))
            server.start()
            yield server
            server.stop()
    finally:
        shutil.rmtree(locales)


_LIMIT = "CREATE TEMP TABLE t (n int CONSTRAINT ck_promises_limit CHECK (n < 1)); "
_ROLE = "CREATE ROLE guest; CREATE TABLE secret (); SET ROLE guest; "
_CASES: dict[str, tuple[str, Callable[[DBAPIError], bool]]] = {
    "a value": ("SELECT 1/0", verdicts.is_of_the_rows),
    "a table": ("SELECT * FROM nothing", verdicts.is_of_the_schema),
    "a column": ("SELECT nothing FROM pg_class", verdicts.is_of_the_schema),
    "the limit": (_LIMIT + "INSERT INTO t VALUES (1)", verdicts.is_repeatable),
    "a right": (_ROLE + "SELECT * FROM secret", verdicts.lacks_a_right),
    "read-only": ("SET TRANSACTION READ ONLY; CREATE TABLE t ()", verdicts.was_not_committed),
    "its end": ("SELECT pg_terminate_backend(pg_backend_pid())", verdicts.is_away),
}


@pytest.mark.parametrize("case", _CASES)
def test_an_error_means_the_same_in_every_language(german: Postgres, case: str) -> None:
    statement, means = _CASES[case]
    engine = create_engine(german.url("postgres"))
    try:
        with engine.connect() as connection, pytest.raises(DBAPIError) as refused:
            connection.execute(text(statement))
    finally:
        engine.dispose()
    assert means(refused.value), refused.value


def test_so_does_its_reason(german: Postgres) -> None:
    with (
        psycopg.connect(german.url("postgres").replace("+psycopg", "")) as connection,
        pytest.raises(psycopg.Error) as refused,
    ):
        connection.execute("SET statement_timeout = 1; SELECT pg_sleep(60)")
    message = str(refused.value)
    assert "Zeit" in message, "the server speaks German"
    assert "gave a statement up" in reason(refused.value.sqlstate, message)
