"""Sessions of people who signed in with a token: kept as a digest, renewed, ended with it."""

from __future__ import annotations

import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, select, update

from orchestrator.domain.actors import Actor
from orchestrator.domain.errors import NotAuthenticated
from orchestrator.domain.states import Role
from orchestrator.store.bulk import insert_rows
from orchestrator.store.columns import db_now
from orchestrator.store.tables import sessions, tokens
from orchestrator.store.transaction import Transaction
from orchestrator.tokens import digest_of, identify, is_valid

#: The longest that one lasts: a working day.
LONGEST = timedelta(hours=12)
#: The secret of one that is used is replaced after this.
RENEWED_AFTER = timedelta(minutes=15)
#: Seconds for which the one before is still good, for requests that were on their way.
_GRACE_SECONDS = 60.0
#: What the browser keeps: the id of a session, and its secret.
_COOKIE = re.compile(r"([0-9a-f]{32})\.([A-Za-z0-9_-]{43})")


@dataclass(frozen=True)
class Session:
    """A session that is valid: whose it is, and what its forms hold."""

    id: str
    actor: Actor
    form_token: str
    #: Its secret has been in use for long: `renew` replaces it.
    is_old: bool


def begin(transaction: Transaction, token: str) -> tuple[Session, str]:
    """Sign in with a token: the session, and the secret that stands for it from now on.

    Raises `NotAuthenticated`.
    """
    token_id, actor = identify(transaction, token)
    now = transaction.execute(select(db_now())).scalar_one()
    transaction.execute(delete(sessions).where(sessions.c.expires_at <= now))
    id_, secret, form_token = secrets.token_hex(16), secrets.token_urlsafe(32), secrets.token_hex()
    row = {
        "id": id_,
        "token_id": token_id,
        "digest": digest_of(secret),
        "form_token": form_token,
        "created_at": now,
        "renewed_at": now,
        "expires_at": now + LONGEST,
    }
    insert_rows(transaction, sessions, [row])
    return Session(id_, actor, form_token, is_old=False), f"{id_}.{secret}"


def find(transaction: Transaction, cookie: str) -> Session:
    """The session that a secret stands for. Raises `NotAuthenticated` if it has ended."""
    if (read := _COOKIE.fullmatch(cookie)) is None:
        raise NotAuthenticated("there is no such session: sign in")
    id_, secret = read.groups()
    row: Any = transaction.execute(
        select(
            *(sessions.c.digest, sessions.c.digest_before, sessions.c.form_token),
            *(tokens.c.name, tokens.c.role, tokens.c.project),
            (sessions.c.renewed_at <= db_now(-_GRACE_SECONDS)).label("settled"),
            (sessions.c.renewed_at <= db_now(-RENEWED_AFTER.total_seconds())).label("is_old"),
        )
        .join(tokens, tokens.c.id == sessions.c.token_id)
        .where(sessions.c.id == id_, sessions.c.expires_at > db_now(), is_valid())
    ).first()
    given = digest_of(secret)
    is_present = row is not None and hmac.compare_digest(row.digest, given)
    before = None if row is None or row.settled else row.digest_before
    is_before = before is not None and hmac.compare_digest(before, given)
    if not (is_present or is_before):
        raise NotAuthenticated("the session has ended: sign in again")
    actor = Actor(name=row.name, role=Role(row.role), project=row.project)
    return Session(id_, actor, row.form_token, is_old=bool(row.is_old and is_present))


def renew(transaction: Transaction, cookie: str) -> str | None:
    """Another secret for a session; None if somebody else has replaced this one, or it ended."""
    id_, _, secret = cookie.partition(".")
    new, known = secrets.token_urlsafe(32), digest_of(secret)
    changed = transaction.execute(
        update(sessions)
        .where(sessions.c.id == id_, sessions.c.digest == known)
        .values(digest=digest_of(new), digest_before=known, renewed_at=db_now())
        .returning(sessions.c.id)
    ).first()
    return None if changed is None else f"{id_}.{new}"


def end(transaction: Transaction, session: Session) -> None:
    """Sign out."""
    transaction.execute(delete(sessions).where(sessions.c.id == session.id))
