"""URLs of databases: what is taken, and what is refused with what to write instead."""

from __future__ import annotations

import pytest

from orchestrator.domain.errors import InvalidInput
from orchestrator.settings import Settings
from orchestrator.store.urls import parse, prepares, without_ours


def _arguments(url: str) -> dict[str, object]:
    """What the driver is called with."""
    from sqlalchemy.dialects.postgresql.psycopg import dialect

    arguments: dict[str, object] = dialect().create_connect_args(without_ours(parse(url)))[1]
    return arguments


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_every_name_of_postgresql_is_taken(scheme: str) -> None:
    url = f"{scheme}://me:p%40ss@db.example:5433/store?sslmode=verify-full"
    assert _arguments(url) == {
        "host": "db.example",
        "port": 5433,
        "user": "me",
        "password": "p@ss",
        "dbname": "store",
        "sslmode": "verify-full",
    }


def test_several_servers_are_tried_for_one_that_takes_writes() -> None:
    url = "postgresql://me:p%40ss@one:5432,[2001:db8::2]:5433,three/store"
    assert _arguments(url) == {
        "host": "one,2001:db8::2,three",
        "port": "5432,5433,",
        "user": "me",
        "password": "p@ss",
        "dbname": "store",
        "target_session_attrs": "read-write",
    }
    assert Settings(database={"url": url}).database_url == url


def test_what_the_url_says_of_the_server_holds() -> None:
    arguments = _arguments("postgresql://one,two/store?target_session_attrs=primary")
    assert arguments["target_session_attrs"] == "primary"


@pytest.mark.parametrize("value", ["0", "none", "None"])
def test_prepared_statements_can_be_turned_off(value: str) -> None:
    parsed = parse(f"postgresql://one/store?prepare_threshold={value}")
    assert not prepares(parsed)
    assert "prepare_threshold" not in without_ours(parsed).query
    assert prepares(parse("postgresql://one/store"))


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("mysql://me:s3cret@db/store", "'mysql' are not supported: write sqlite:///PATH or post"),
        ("db.example:5432/s3cret", "no URL of a database: write"),
        ("postgresql://me:s3cret@db:port/store", "percent-encoded, ports be numbers"),
        ("postgresql://me:s3cret@db/store?sslmod=require", "'sslmod': did you mean 'sslmode'?"),
        ("postgresql://me:s3cret@db/store?pool_size=3", "unknown option 'pool_size'"),
        ("postgresql://me:s3cret@db/store?pgbouncer=true", "'pgbouncer', which is another"),
        ("postgresql://me:s3cret@db/store?prepare_threshold=5", "turned off, with prepare_thresh"),
        ("sqlite://", "SQLite needs a file"),
        ("sqlite:///:memory:", "SQLite needs a file"),
        ("sqlite:///a.db?mode=ro", "without options"),
        ("sqlite://a/b.db", "four slashes"),
    ],
)
def test_what_is_refused_says_what_to_write_and_no_password(url: str, told: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse(url)
    assert told in refused.value.detail
    assert refused.value.field == "database.url"
    assert "s3c" not in refused.value.detail
