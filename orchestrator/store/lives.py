"""Lives of a database: what tells it from copies of itself, and from what it was before a restore.

A database that is put back to an earlier state gives out numbers a second time. So each life has
an epoch, which is in the high bits of its fencing numbers: those of a later life are larger. Its
jobs and batches begin with numbers that no earlier life has had, and what they leave on storage
is marked with the life, too (`token`).
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import String, cast, insert, select, text
from sqlalchemy.dialects import sqlite

from orchestrator.store.columns import db_now
from orchestrator.store.tables import SEQUENCES, counters, lives
from orchestrator.store.transaction import Transaction

#: Fencing numbers are the epoch and, below it, a counter of so many bits: they stay below 2**53,
#: which is what JSON can tell everywhere.
COUNTER_BITS = 32
#: Numbers of jobs and batches of a new life begin with a multiple of this.
_JUMP = 1_000_000
_BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
#: So much of a life is in a token: it becomes part of names on storage.
_SHOWN = 12

#: The present life, as (first job).(life): one value, to be had along with others.
PRESENT = (
    select(cast(lives.c.first_job, String) + "." + lives.c.life)
    .order_by(lives.c.epoch.desc())
    .limit(1)
    .scalar_subquery()
)


@dataclass(frozen=True)
class Life:
    """One life of the database."""

    epoch: int
    life: str
    first_job: int
    #: The number of the last event that it has in common with the life before.
    last_event: int


@dataclass(frozen=True, kw_only=True)
class Reached:
    """How far another life came, as far as it is known: a new one begins above that."""

    epoch: int = 0
    job: int = 0
    batch: int = 0


NOTHING = Reached()


def token(job_id: int, life: str) -> str:
    """A job as no other life names any of its own; letters, digits and underscores."""
    return f"{job_id}_{life[:_SHOWN]}" if life else str(job_id)


def present(transaction: Transaction) -> Life:
    """The life that the database is in."""
    return all_of(transaction)[-1]


def all_of(transaction: Transaction) -> Sequence[Life]:
    """Its lives, the present one last."""
    columns = (lives.c.epoch, lives.c.life, lives.c.first_job, lives.c.last_event)
    return [Life(*row) for row in transaction.execute(select(*columns).order_by(lives.c.epoch))]


def restored_since(transaction: Transaction, epoch: int, why: str) -> bool:
    """Whether a life after this epoch has begun for this reason."""
    query = select(lives.c.epoch).where(lives.c.epoch > epoch, lives.c.why == why).limit(1)
    return transaction.execute(query).first() is not None


def begin(
    transaction: Transaction, why: str, *, last_event: int = 0, above: Reached = NOTHING
) -> Life:
    """Begin a new life, above all numbers of those before and of what is known of another.

    Of a database that had none before, its first: numbers of its jobs begin with 1.
    """
    earlier = _earlier(transaction)
    now = transaction.execute(select(db_now())).scalar_one()
    hours = int((now - _BEGINNING).total_seconds() // 3600)
    epoch = max([hours, 1, above.epoch + 1, *(one.epoch + 1 for one in earlier)])
    first_job = _jump(transaction, "jobs", above.job) if earlier else 0
    if earlier:
        _jump(transaction, "batches", above.batch)
    _set(transaction, "fences", (epoch << COUNTER_BITS) + 1)
    life = Life(epoch, secrets.token_hex(16), first_job, last_event)
    transaction.execute(
        insert(lives).values(
            epoch=life.epoch,
            life=life.life,
            first_job=life.first_job,
            last_event=life.last_event,
            began_at=now,
            why=why,
        )
    )
    return life


def reached(transaction: Transaction) -> Reached:
    """How far the database has come."""
    return Reached(
        epoch=present(transaction).epoch,
        job=_last(transaction, "jobs"),
        batch=_last(transaction, "batches"),
    )


def _earlier(transaction: Transaction) -> Sequence[Life]:
    if transaction.connection.dialect.name == "postgresql":
        # Two that begin one at a time; readers go on.
        transaction.execute(text("LOCK TABLE lives IN SHARE ROW EXCLUSIVE MODE"))
    return all_of(transaction)


def _jump(transaction: Transaction, name: str, above: int) -> int:
    """Have a source go on with the next multiple of `_JUMP`, which is returned."""
    first = (max(_last(transaction, name), above) // _JUMP + 1) * _JUMP
    _set(transaction, name, first)
    return first


def _last(transaction: Transaction, name: str) -> int:
    """The last number that was given out; 0: none was."""
    if transaction.connection.dialect.name == "postgresql":
        query = f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {SEQUENCES[name].name}"  # noqa: S608
        return int(transaction.execute(text(query)).scalar_one())
    found = transaction.execute(select(counters.c.value).where(counters.c.name == name))
    return int(found.scalar() or 0)


def _set(transaction: Transaction, name: str, following: int) -> None:
    """Have a source go on with this number; it never goes back."""
    if transaction.connection.dialect.name == "postgresql":
        sequence = SEQUENCES[name].name
        # What a sequence is set to stays, whatever becomes of the transaction.
        transaction.execute(
            text(
                f"SELECT setval('{sequence}', greatest(:last, last_value)) FROM {sequence}"  # noqa: S608
            ).bindparams(last=following - 1)
        )
        return
    fresh = sqlite.insert(counters).values(name=name, value=following - 1)
    transaction.execute(
        fresh.on_conflict_do_update(
            index_elements=["name"],
            set_={"value": fresh.excluded.value},
            where=counters.c.value < fresh.excluded.value,
        )
    )
