"""A database that was restored from a backup: noticed, and told, before rules act on it.

The scheduler keeps the newest link of the chain of events beside the database, in its data
directory, and what else must outlive a restore: how far numbers came, and which tokens were
revoked. A database that no longer has that link is older than it was; a new life of it begins.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from sqlalchemy import delete, or_, select, update

from orchestrator.domain.actors import ENGINE
from orchestrator.domain.states import EventKind
from orchestrator.history.events import Event, latest_number, record
from orchestrator.ledger import chain
from orchestrator.store import lives
from orchestrator.store.bulk import among
from orchestrator.store.columns import db_now
from orchestrator.store.lives import Life, Reached
from orchestrator.store.tables import installation, sessions, tokens
from orchestrator.store.transaction import Transaction

_FILE = "audit.head"
#: Why a new life begins where that was noticed.
RESTORED = "the database is older than it was: it was restored from a backup"
#: What to do after 'db restore'; and where it was not made with that.
AFTER_RESTORE = (
    "audit each backend, see to what differs, and run 'orchestrator audit acknowledge': until then "
    "rules repair nothing"
)
REMEDY = (
    "say that this database goes on with 'orchestrator backend verify NAME accept_identity=true' "
    f"for each backend, {AFTER_RESTORE}"
)


class Watch:
    """What a scheduler remembers of the database, on its own disk."""

    def __init__(self, data: Path) -> None:
        self._path = data / _FILE
        self._kept = _read(self._path)

    def is_older(self, transaction: Transaction) -> bool:
        """Whether the database lacks what it had when this was kept last.

        Not if a later life than the one of then has begun because just that was seen.
        """
        kept = self._kept
        if kept is None or kept["installation"] != _uuid(transaction):
            return False
        if "epoch" in kept and lives.restored_since(transaction, kept["epoch"], RESTORED):
            return False
        return not chain.has_link(transaction, kept["number"], kept["link"])

    @property
    def reached(self) -> Reached:
        """How far the database had come."""
        kept = self._kept or {}
        return Reached(
            epoch=kept.get("epoch", 0), job=kept.get("job", 0), batch=kept.get("batch", 0)
        )

    def revoked(self, transaction: Transaction) -> list[str] | None:
        """The tokens of this installation that had been revoked; None: nothing is known."""
        kept = self._kept
        if kept is None or kept["installation"] != _uuid(transaction) or "revoked" not in kept:
            return None
        return list(kept["revoked"])

    def keep(self, transaction: Transaction) -> None:
        """Remember the newest link, and the rest."""
        head = chain.head(transaction)
        if head is None:
            return
        number, link = head
        reached = lives.reached(transaction)
        told = {
            "installation": _uuid(transaction),
            "number": number,
            "link": link,
            "epoch": reached.epoch,
            "job": reached.job,
            "batch": reached.batch,
            "revoked": revoked(transaction),
        }
        if told != self._kept:
            _write(self._path, told)
            self._kept = told


def note_restored(
    transaction: Transaction, above: Reached = lives.NOTHING, gone: Sequence[str] = ()
) -> Life:
    """Note that the database is older than it was: a new life of it begins, above all numbers
    that it is known to have reached, and tokens that had been revoked are revoked again.

    Rules repair nothing until somebody has acknowledged it.
    """
    life = begin_life(transaction, RESTORED, actor=ENGINE, above=above)
    revoke(transaction, gone)
    row = transaction.execute(
        select(installation.c.restored_at, db_now().label("now")).with_for_update()
    ).one()
    if row.restored_at is None:
        transaction.execute(update(installation).values(restored_at=row.now))
        record(transaction, [Event(kind=EventKind.DATABASE_RESTORED, actor=ENGINE)], row.now)
    return life


def begin_life(
    transaction: Transaction, why: str, *, actor: str, above: Reached = lives.NOTHING
) -> Life:
    """Begin a new life of the database, and tell it in the history.

    Sessions are of the life before: one that was ended there may be among them.
    """
    transaction.execute(delete(sessions))
    life = lives.begin(transaction, why, last_event=latest_number(transaction), above=above)
    now = transaction.execute(select(db_now())).scalar_one()
    data = {"epoch": life.epoch, "first_job": life.first_job, "last_event": life.last_event}
    event = Event(kind=EventKind.DATABASE_NEW_LIFE, actor=actor, reason=why, data={"after": data})
    record(transaction, [event], now)
    return life


def revoke(transaction: Transaction, ids: Sequence[str]) -> int:
    """Revoke those of these tokens that are valid, and tell it; how many it were."""
    valid = update(tokens).where(among(tokens.c.id, ids), tokens.c.revoked_at.is_(None))
    told = (tokens.c.id, tokens.c.name, tokens.c.role)
    rows = transaction.execute(valid.values(revoked_at=db_now()).returning(*told)).all()
    now = transaction.execute(select(db_now())).scalar_one()
    happened = [
        Event(
            kind=EventKind.TOKEN_REVOKED,
            actor=ENGINE,
            reason=RESTORED,
            data={"token": row.id, "name": row.name, "role": row.role},
        )
        for row in rows
    ]
    record(transaction, happened, now)
    return len(rows)


def revoked(transaction: Transaction) -> list[str]:
    """The revoked tokens that would be valid in an older state of the database."""
    gone = select(tokens.c.id).where(
        tokens.c.revoked_at.is_not(None),
        or_(tokens.c.expires_at.is_(None), tokens.c.expires_at > db_now()),
    )
    return sorted(transaction.execute(gone).scalars())


def acknowledge(transaction: Transaction, actor: str, reason: str | None) -> dict[str, Any]:
    """Note that somebody has seen to a restored database: rules act again."""
    row = transaction.execute(
        select(installation.c.restored_at, db_now().label("now")).with_for_update()
    ).one()
    if row.restored_at is not None:
        transaction.execute(update(installation).values(restored_at=None))
        event = Event(kind=EventKind.DATABASE_ACKNOWLEDGED, actor=actor, reason=reason)
        record(transaction, [event], row.now)
    return state(transaction)


def state(transaction: Transaction) -> dict[str, Any]:
    """When the database was found to be older than it had been; None if it is not, or that
    was acknowledged."""
    return {"restored_at": transaction.execute(select(installation.c.restored_at)).scalar()}


def _uuid(transaction: Transaction) -> str:
    return str(transaction.execute(select(installation.c.uuid)).scalar_one())


def _read(path: Path) -> Mapping[str, Any] | None:
    try:
        kept = json.loads(path.read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return None
    known = isinstance(kept, dict) and {"installation", "number", "link"} <= kept.keys()
    return kept if known else None


def _write(path: Path, told: Mapping[str, Any]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{_FILE}.", encoding="ascii", delete=False
    ) as new:
        json.dump(told, new)
        new.flush()
        os.fsync(new.fileno())
    Path(new.name).replace(path)
