"""Bearer tokens: made, told once, kept as a digest, checked in constant time."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, or_, select, update

from orchestrator.domain.actors import Actor
from orchestrator.domain.errors import AlreadyExists, InvalidInput, NotAuthenticated, NotFound
from orchestrator.domain.states import EventKind, Role
from orchestrator.history.events import Event, record
from orchestrator.store.bulk import insert_rows
from orchestrator.store.columns import db_now
from orchestrator.store.tables import idempotency_keys, sessions, tokens
from orchestrator.store.transaction import Transaction

#: Every token begins so, which lets secret scanners find one that was leaked.
_PREFIX = "orc"
#: Who acts without a token, in the history and in the configuration: no token is called so.
RESERVED = frozenset({"orchestrator", "anonymous", "everybody", "command-line"})


def digest_of(secret: str) -> str:
    """What is kept of a secret. It has 256 random bits, so one round of SHA-256 is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


def create(
    transaction: Transaction,
    name: str,
    role: Role,
    actor: str,
    *,
    days: float | None = None,
    project: str | None = None,
) -> tuple[dict[str, Any], str]:
    """Make a token; its description, and the token itself, which is told only now.

    Raises `AlreadyExists` if a valid token has this name, `InvalidInput` if none may have it.
    """
    if name.casefold() in RESERVED:
        raise InvalidInput(
            f"the name {name!r} is kept for what acts here without a token: choose another",
            field="name",
        )
    taken = transaction.execute(
        select(tokens.c.id, (tokens.c.expires_at <= db_now()).label("expired")).where(
            tokens.c.name == name, tokens.c.revoked_at.is_(None)
        )
    ).first()
    if taken is not None and taken.expired:
        revoke(transaction, taken.id, actor)
    elif taken is not None:
        raise AlreadyExists(
            f"there is a token named {name!r} already: revoke it first", field="name"
        )
    now: datetime = transaction.execute(select(db_now())).scalar_one()
    id_, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    row = {
        "id": id_,
        "name": name,
        "role": role,
        "project": project,
        "digest": digest_of(secret),
        "created_at": now,
        "expires_at": now + timedelta(days=days) if days is not None else None,
    }
    insert_rows(transaction, tokens, [row])
    # Whoever had the name before is somebody else: what its keys stand for is not answered.
    transaction.execute(delete(idempotency_keys).where(idempotency_keys.c.owner == name))
    record(transaction, [Event(kind=EventKind.TOKEN_CREATED, actor=actor, data=_told(row))], now)
    return describe(row), f"{_PREFIX}_{id_}_{secret}"


def revoke(transaction: Transaction, id_: str, actor: str) -> None:
    """Make a token invalid. Raises `NotFound`."""
    now: datetime = transaction.execute(select(db_now())).scalar_one()
    row = (
        transaction.execute(
            update(tokens)
            .where(tokens.c.id == id_, tokens.c.revoked_at.is_(None))
            .values(revoked_at=now)
            .returning(tokens)
        )
        .mappings()
        .first()
    )
    if row is None:
        raise NotFound(
            f"there is no valid token {id_[:64]!r}: 'orchestrator token list' shows their ids",
            field="token",
        )
    transaction.execute(delete(sessions).where(sessions.c.token_id == id_))
    record(transaction, [Event(kind=EventKind.TOKEN_REVOKED, actor=actor, data=_told(row))], now)


def is_valid() -> ColumnElement[bool]:
    """The condition that a token is neither revoked nor expired."""
    not_expired = or_(tokens.c.expires_at.is_(None), tokens.c.expires_at > db_now())
    return tokens.c.revoked_at.is_(None) & not_expired


def valid_tokens(transaction: Transaction) -> list[dict[str, Any]]:
    """Tokens that are neither revoked nor expired, by name; never their secrets."""
    rows = transaction.execute(select(tokens).where(is_valid()).order_by(tokens.c.name)).mappings()
    return [describe(row) for row in rows]


def authenticate(transaction: Transaction, token: str) -> Actor:
    """Whose token this is. Raises `NotAuthenticated`, which does not tell what was wrong."""
    return identify(transaction, token)[1]


def identify(transaction: Transaction, token: str) -> tuple[str, Actor]:
    """The id of a token, and whose it is. Raises `NotAuthenticated`."""
    prefix, _, rest = token.partition("_")
    id_, _, secret = rest.partition("_")
    row = transaction.execute(
        select(tokens.c.name, tokens.c.role, tokens.c.project, tokens.c.digest).where(
            tokens.c.id == id_, is_valid()
        )
    ).first()
    # Compared even where there is no such token, so that timing tells nothing.
    expected = row.digest if row is not None else digest_of("")
    matches = hmac.compare_digest(expected, digest_of(secret))
    if row is None or not matches or prefix != _PREFIX:
        raise NotAuthenticated(
            "the token is not valid: it may have been revoked or expired. An administrator makes "
            "another ('orchestrator token create'); 'orchestrator up' replaces its own within "
            "seconds: try again"
        )
    return id_, Actor(name=row.name, role=Role(row.role), project=row.project)


def describe(row: Any) -> dict[str, Any]:
    """A token as it may be shown."""
    told = ("id", "name", "role", "project", "created_at", "expires_at")
    return {name: row[name] for name in told}


def _told(row: Any) -> dict[str, Any]:
    told = {"token": row["id"], "name": row["name"], "role": str(row["role"])}
    return told if row["project"] is None else {**told, "project": row["project"]}
