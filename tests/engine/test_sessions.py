"""Sessions: begun with a token, found by their secret, renewed, and ended."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from orchestrator import sessions, tokens
from orchestrator.domain.errors import NotAuthenticated
from orchestrator.domain.states import Role
from orchestrator.ledger import restored
from orchestrator.sessions import Session
from orchestrator.store import tables
from orchestrator.store.database import Database
from tests.engine.conftest import Engine


@pytest.fixture
def database(engine: Engine) -> Database:
    return engine.database


@pytest.fixture
def token(database: Database) -> tuple[str, str]:
    """The id of a token of an operator, and the token."""
    made, token = database.transact(
        lambda t: tokens.create(t, "someone", Role.OPERATOR, "tests", days=1, project="web")
    )
    return made["id"], token


def _find(database: Database, secret: str) -> Session | None:
    try:
        return database.look(lambda t: sessions.find(t, secret))
    except NotAuthenticated:
        return None


def _age(database: Database, by: timedelta, *names: str) -> None:
    """Move times of all sessions into the past."""

    def work(transaction: Any) -> None:
        for row in transaction.execute(select(tables.sessions)).mappings().all():
            changed = {name: row[name] - by for name in names}
            mine = tables.sessions.c.id == row["id"]
            transaction.execute(update(tables.sessions).where(mine).values(**changed))

    database.transact(work)


def test_a_session_is_whose_its_token_is(database: Database, token: tuple[str, str]) -> None:
    begun, secret = database.transact(lambda t: sessions.begin(t, token[1]))
    found = _find(database, secret)
    assert found == begun
    assert found is not None
    assert (found.actor.name, found.actor.role, found.actor.project) == (
        "someone",
        Role.OPERATOR,
        "web",
    )
    with pytest.raises(NotAuthenticated):
        database.transact(lambda t: sessions.begin(t, token[1] + "x"))


def test_what_is_kept_signs_nobody_in(database: Database, token: tuple[str, str]) -> None:
    _, secret = database.transact(lambda t: sessions.begin(t, token[1]))
    with database.read() as transaction:
        row = transaction.execute(select(tables.sessions)).mappings().one()
    assert secret.partition(".")[2] not in str(dict(row))
    for guess in ("", row["digest"], row["form_token"], token[1], "None"):
        assert _find(database, f"{row['id']}.{guess}") is None
        assert _find(database, guess) is None


def test_two_sessions_have_nothing_in_common(database: Database, token: tuple[str, str]) -> None:
    (one, first), (two, second) = (
        database.transact(lambda t: sessions.begin(t, token[1])) for _ in range(2)
    )
    assert len({one.id, two.id}) == len({one.form_token, two.form_token}) == 2
    database.transact(lambda t: sessions.end(t, one))
    assert _find(database, first) is None
    assert _find(database, second) is not None


def test_a_new_secret_takes_the_place_of_an_old_one(
    database: Database, token: tuple[str, str]
) -> None:
    begun, first = database.transact(lambda t: sessions.begin(t, token[1]))
    assert not begun.is_old
    _age(database, sessions.RENEWED_AFTER, "renewed_at")
    found = _find(database, first)
    assert found is not None and found.is_old
    second = database.transact(lambda t: sessions.renew(t, first))
    assert second is not None
    # Of two requests that come at once, one renews it.
    assert database.transact(lambda t: sessions.renew(t, first)) is None
    for secret in (first, second):
        found = _find(database, secret)
        assert found is not None and not found.is_old
        assert found.form_token == begun.form_token
    _age(database, timedelta(minutes=1), "renewed_at")
    assert _find(database, first) is None
    assert _find(database, second) is not None


def test_a_session_ends_with_its_time_or_with_its_token(
    database: Database, token: tuple[str, str]
) -> None:
    _, first = database.transact(lambda t: sessions.begin(t, token[1]))
    _age(database, sessions.LONGEST, "expires_at")
    assert _find(database, first) is None
    _, second = database.transact(lambda t: sessions.begin(t, token[1]))
    with database.read() as transaction:
        assert len(transaction.execute(select(tables.sessions)).all()) == 1  # the first has gone
    past = update(tables.tokens).values(expires_at=tables.tokens.c.created_at)
    database.transact(lambda t: t.execute(past))
    assert _find(database, second) is None


def test_who_revokes_a_token_ends_its_sessions(database: Database, token: tuple[str, str]) -> None:
    _, secret = database.transact(lambda t: sessions.begin(t, token[1]))
    database.transact(lambda t: tokens.revoke(t, token[0], "tests"))
    assert _find(database, secret) is None
    with database.read() as transaction:
        assert transaction.execute(select(tables.sessions)).all() == []


def test_no_session_outlives_the_database_that_it_began_in(
    database: Database, token: tuple[str, str]
) -> None:
    """One that was ended would be there again where an older state is restored."""
    _, secret = database.transact(lambda t: sessions.begin(t, token[1]))
    database.transact(lambda t: restored.begin_life(t, "tests", actor="tests"))
    assert _find(database, secret) is None
    assert database.look(lambda t: tokens.authenticate(t, token[1])).name == "someone"
