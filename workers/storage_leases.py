"""Leases on storage: whoever writes to a backend shows there that it is the database's one life.

The lease is a record on the storage with a number that only the present database knows. It is
changed every few seconds: first the next number is committed, then it replaces the other one on
the storage, compared and swapped, then it is noted. A copy of the database, or what it was
before a restore, soon knows numbers of the past only; storage that was copied shows one. All
workers of a database share the number. What they need to know comes with each claim, so that
looking costs one read of the storage.

Within the seconds in which a copy knows the number, too, the record tells which database wrote
it (`instance`) and which process: while that lives, nobody else begins.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import func, or_, select, update

from orchestrator.domain.actors import ENGINE
from orchestrator.domain.errors import BackendUnavailable, IdentityMismatch, Problem
from orchestrator.inventory.hosts import ALIVE_SECONDS
from orchestrator.ledger import restored
from orchestrator.logs import Trouble
from orchestrator.machine import boot_id
from orchestrator.store import lives
from orchestrator.store.bulk import among
from orchestrator.store.columns import db_now
from orchestrator.store.database import Database
from orchestrator.store.lives import Reached
from orchestrator.store.tables import backends, installation, workers
from orchestrator.store.transaction import Transaction
from workers.backends.base.abilities import CanHoldLease
from workers.backends.base.driver import Driver, driver_that

log = structlog.get_logger(__name__)

_FORMAT = 1
#: Seconds after which a lease gets its next number.
RENEW_SECONDS = 10.0
#: A holder whose process nobody here can see is dead once its record has not changed for so
#: many seconds of this process's own clock.
LEASE_SECONDS = 30.0
#: For so many seconds what was asked of the database holds for jobs that were claimed before.
_LEARNT_SECONDS = 1.0
#: How often a record is looked at while it is watched.
_WATCH_SECONDS = 0.5

Numbers = tuple[str | None, str | None]


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A process that writes to storage, told from every other one."""

    id: str
    host: str
    boot: str | None
    #: The namespace that the process id is of.
    pids: str | None
    pid: int
    #: When it was started, in ticks since the boot.
    born: int | None


@dataclass(frozen=True, kw_only=True)
class Record:
    """What stands on the storage."""

    installation: str
    epoch: int
    life: str
    #: The number that the database knows.
    nonce: str
    #: The very database, as far as it can be told from a copy.
    instance: str
    by: Holder
    #: Its last worker has stopped: whoever knows the number may go on.
    released: bool

    def written(self) -> bytes:
        """As it stands on the storage."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, sort_keys=True).encode()


@lru_cache(maxsize=256)
def read(raw: bytes | None) -> Record | None:
    """The record; None if there is none, or none that can be read."""
    try:
        told = json.loads(raw or b"")
        if told.pop("format") == _FORMAT:
            return Record(**{**told, "by": Holder(**told["by"])})
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    return None


def this_process(host: str) -> Holder:
    """The process that this is, on the host that it goes by."""
    return Holder(
        id=secrets.token_hex(8),
        host=host,
        boot=boot_id(),
        pids=_namespace(),
        pid=os.getpid(),
        born=_born(os.getpid()),
    )


class StorageLeases:
    """The leases on the backends that a worker serves. Its threads share it."""

    def __init__(
        self,
        database: Database,
        drivers: Mapping[int, Driver],
        names: Mapping[int, str],
        *,
        installation: str,
        me: Holder,
    ) -> None:
        self._database = database
        self._drivers = drivers
        self._names = names
        self._installation = installation
        self.me = me
        self._instance = database.look(lambda transaction: transaction.instance())
        #: Backends whose storage is known to be the one that the database writes to.
        self._entered: set[int] = set()
        self._troubles: dict[int, Trouble] = {}
        #: The number that was asked for last, and when.
        self._learnt: dict[int, tuple[str, float]] = {}
        #: The record of a holder that cannot be seen, and since when it has not changed.
        self._watched: dict[int, tuple[bytes | None, float]] = {}
        self._guard = threading.Lock()
        self.lease_seconds = LEASE_SECONDS
        self.clock = time.monotonic

    # -- before each change ---------------------------------------------------------------

    def check(self, backend_id: int, known: Numbers) -> None:
        """Raise unless the storage bears a lease of this database, as ``known`` at the claim.

        `IdentityMismatch`, or `BackendUnavailable` while that cannot be said yet.
        """
        driver = self._drivers[backend_id]
        if not isinstance(driver, CanHoldLease):
            return
        if backend_id in self._entered:
            record = read(driver.read_lease())
            if record is not None and self._same(record):
                if record.nonce in known:
                    return
                # It was renewed after the claim: for the jobs that were claimed together, the
                # database is asked once.
                nonce, at = self._learnt.get(backend_id, ("", 0.0))
                if record.nonce == nonce and self.clock() - at < _LEARNT_SECONDS:
                    return
                self.enter(backend_id)
                self._learnt[backend_id] = (record.nonce, self.clock())
                return
        self.enter(backend_id)

    def _same(self, record: Record) -> bool:
        return record.instance == self._instance or record.by.id == self.me.id

    # -- beginning ------------------------------------------------------------------------

    def enter(self, backend_id: int, *, renew: bool = False) -> None:
        """Begin to write to the storage, or go on; raises what keeps us from that."""
        driver = self._drivers[backend_id]
        if not isinstance(driver, CanHoldLease):
            return
        raw, row = self._seen(backend_id)
        record = read(raw)
        if row.take_over:
            try:
                self.take_over(backend_id, restored.RESTORED)
            except IdentityMismatch:
                if self._row(backend_id).take_over:
                    raise
                raw, row = self._seen(backend_id)  # another worker was first
                record = read(raw)
            else:
                return
        if raw is None and row.lease is None:
            self._renew(backend_id)  # nobody has written here yet
            return
        if record is None or record.nonce not in (row.lease, row.lease_next):
            raise self._foreign(backend_id, record)
        if not self._same(record):
            self._instance = self._database.look(lambda transaction: transaction.instance())
        if record.by.id != self.me.id and not self._may_follow(backend_id, raw, record):
            self._entered.discard(backend_id)
            raise BackendUnavailable(
                f"the storage of backend {self._names[backend_id]} is held by {_told(record)}: "
                "this one begins once that has shown that both mean the same storage, or has been "
                f"silent for {self.lease_seconds:.0f} seconds"
            )
        with self._guard:
            self._watched.pop(backend_id, None)
        fresh = backend_id not in self._entered
        self._entered.add(backend_id)
        if fresh or renew or not self._same(record):
            self._renew(backend_id)

    def _may_follow(self, backend_id: int, raw: bytes | None, record: Record) -> bool:
        """Whether another process's record says that we may write; False: not yet known."""
        if record.released:
            return True
        alive = _is_alive(record.by, self.me)
        if alive is False:
            return True
        if self._same(record):
            # Our own database. Where the other one works on this very machine, drivers tell
            # copies of storage from the original; elsewhere it has to show that it is one.
            if alive or backend_id in self._entered or self._has_shown(backend_id, record):
                return True
            self._ask_to_renew(backend_id)
        elif alive and not self._database.is_postgresql:
            raise IdentityMismatch(
                f"the storage of backend {self._names[backend_id]} is in use by {_told(record)}, "
                "with another copy of this database. Nothing was changed. Use one of the two; to "
                "go on with this one, stop the other first"
            )
        elif self._has_shown(backend_id, record):
            # PostgreSQL has failed over: the other process is with us.
            return True
        return self._silent(backend_id, raw)

    def _has_shown(self, backend_id: int, record: Record) -> bool:
        """Whether a holder has renewed the lease here and in our database while we watched."""
        with self._guard:
            watched = self._watched.get(backend_id)
        earlier = read(watched[0]) if watched else None
        return earlier is not None and earlier.nonce != record.nonce

    def _silent(self, backend_id: int, raw: bytes | None) -> bool:
        """Whether the record has not changed for a lease's time while we watched."""
        now = self.clock()
        with self._guard:
            watched = self._watched.get(backend_id)
            if watched is None or watched[0] != raw:
                self._watched[backend_id] = (raw, now)
                return False
            return now - watched[1] >= self.lease_seconds

    def _ask_to_renew(self, backend_id: int) -> None:
        self._database.transact(
            lambda transaction: transaction.execute(
                update(backends).where(backends.c.id == backend_id).values(lease_at=None)
            )
        )

    def _foreign(self, backend_id: int, record: Record | None) -> IdentityMismatch:
        self._entered.discard(backend_id)
        name = self._names[backend_id]
        by = "" if record is None else f" ({_told(record)})"
        return IdentityMismatch(
            f"the storage of backend {name} was last written to by another life or copy of this "
            f"database{by}, or is a copy or an older state of that storage itself. Nothing was "
            "changed. If this one is to go on, stop the other and say 'orchestrator backend "
            f"verify {name} accept_identity=true'"
        )

    # -- taking over ----------------------------------------------------------------------

    def take_over(self, backend_id: int, why: str, wait: Callable[[], None] | None = None) -> None:
        """Go on with storage that another life has written to, as somebody has said.

        A new life begins. Refused with `IdentityMismatch` while the other one is at work; where
        its process cannot be seen from here, ``wait`` is called again and again for as long as
        its record is watched, and without it `BackendUnavailable` is raised meanwhile.
        """
        driver = self._drivers[backend_id]
        if not isinstance(driver, CanHoldLease):
            self._begin_life(backend_id, why, None)
            return
        raw, row = self._seen(backend_id)
        while not self._is_over(backend_id, raw):
            if wait is None:
                raise BackendUnavailable(
                    f"whether somebody else works on the storage of backend "
                    f"{self._names[backend_id]} is watched for {self.lease_seconds:.0f} seconds"
                )
            wait()
            time.sleep(_WATCH_SECONDS)
            if driver.read_lease() != raw:
                raise self._held(backend_id, read(driver.read_lease()))
        if not _is_known(raw, (row.lease, row.lease_next)):
            record = read(raw)
            self._begin_life(backend_id, why, None if record is None else record.epoch)
        self._renew(backend_id, over=(raw,))
        self._entered.add(backend_id)

    def is_ours(self, backend_id: int) -> bool:
        """Whether the storage bears a lease of this database, or has no room for one."""
        driver = self._drivers[backend_id]
        if not isinstance(driver, CanHoldLease):
            return True
        raw, row = self._seen(backend_id)
        return _is_known(raw, (row.lease, row.lease_next))

    def _is_over(self, backend_id: int, raw: bytes | None) -> bool:
        record = read(raw)
        if record is None or record.released or record.by.id == self.me.id:
            return True
        alive = _is_alive(record.by, self.me)
        if alive and not self._same(record):
            raise self._held(backend_id, record)
        return alive is not None or self._silent(backend_id, raw)

    def _held(self, backend_id: int, record: Record | None) -> IdentityMismatch:
        by = "somebody else" if record is None else _told(record)
        return IdentityMismatch(
            f"the storage of backend {self._names[backend_id]} is in use by {by}: stop that first. "
            "Nothing was changed"
        )

    def _begin_life(self, backend_id: int, why: str, epoch: int | None) -> None:
        """Begin a new life, later than ``epoch`` (None: not known), unless this one is."""
        reason = f"backend {self._names[backend_id]} was taken over: {why}"

        def work(transaction: Transaction) -> None:
            transaction.execute(select(installation.c.uuid).with_for_update())
            if epoch is None or lives.present(transaction).epoch <= epoch:
                above = Reached(epoch=epoch or 0)
                restored.begin_life(transaction, reason, actor=ENGINE, above=above)

        self._database.transact(work)

    # -- renewing -------------------------------------------------------------------------

    def renew_due(self) -> None:
        """Give the leases that are old their next numbers, whichever worker comes first."""
        due = self._database.look(self._due)
        for backend_id in due:
            trouble = self._troubles.setdefault(
                backend_id, Trouble(log, "backend.lease_not_renewed", "backend.lease_renewed_again")
            )
            name = self._names[backend_id]
            try:
                self._renew(backend_id, older_than=RENEW_SECONDS)
            except Problem as problem:
                trouble.came(backend=name, why=problem.detail)
            else:
                trouble.went(backend=name)

    def _due(self, transaction: Transaction) -> list[int]:
        old = or_(backends.c.lease_at.is_(None), backends.c.lease_at < db_now(-RENEW_SECONDS))
        query = select(backends.c.id).where(among(backends.c.id, sorted(self._entered)), old)
        return list(transaction.execute(query).scalars())

    def release(self) -> None:
        """Say on the storage that nobody writes there any more, if this was the last worker."""
        if self._database.look(_others_alive):
            return
        for backend_id in sorted(self._entered):
            try:
                self._renew(backend_id, released=True)
            except Problem as problem:
                log.warning(
                    "backend.lease_not_released",
                    backend=self._names[backend_id],
                    why=problem.detail,
                )

    def _renew(
        self,
        backend_id: int,
        *,
        older_than: float | None = None,
        released: bool = False,
        over: tuple[bytes | None] | None = None,
    ) -> None:
        """Replace the number on the storage by the next one.

        ``over``: a record of others that is replaced, if it still is this one.
        """
        driver = driver_that(self._drivers[backend_id], CanHoldLease)
        before: Numbers | None = None
        while (planned := self._planned(backend_id, older_than)) is not None:
            known, life = planned
            raw = driver.read_lease()
            if raw != over[0] if over else not _is_known(raw, known):
                if over or known == before:
                    raise self._foreign(backend_id, read(raw))
                # Another worker may have renewed it since.
                before, older_than = known, None
                continue
            assert known[1] is not None  # noqa: S101 - it was just planned
            new = Record(
                installation=self._installation,
                epoch=life.epoch,
                life=life.life,
                nonce=known[1],
                instance=self._instance,
                by=self.me,
                released=released,
            )
            try:
                driver.write_lease(new.written(), raw)
            except IdentityMismatch:
                if driver.read_lease() == raw:
                    raise
                continue
            self._database.transact(partial(_settle, backend_id=backend_id, nonce=new.nonce))
            self._entered.add(backend_id)
            return

    def _planned(
        self, backend_id: int, older_than: float | None
    ) -> tuple[Numbers, lives.Life] | None:
        return self._database.transact(
            lambda transaction: _plan(transaction, backend_id, older_than)
        )

    def _seen(self, backend_id: int) -> tuple[bytes | None, Any]:
        """The record on the storage, and the row as it was before and after it was read."""
        driver = driver_that(self._drivers[backend_id], CanHoldLease)
        row = self._row(backend_id)
        while True:
            raw = driver.read_lease()
            if (again := self._row(backend_id)) == row:
                return raw, row
            row = again

    def _row(self, backend_id: int) -> Any:
        query = select(backends.c.lease, backends.c.lease_next, backends.c.take_over).where(
            backends.c.id == backend_id
        )
        return self._database.look(lambda transaction: transaction.execute(query).one())


def _plan(
    transaction: Transaction, backend_id: int, older_than: float | None
) -> tuple[Numbers, lives.Life] | None:
    """The present number and the next one, committed before it is used; None: it is not due."""
    row = transaction.execute(
        select(
            backends.c.lease,
            backends.c.lease_next,
            func.coalesce(backends.c.lease_at > db_now(-(older_than or 0)), False).label("fresh"),
        )
        .where(backends.c.id == backend_id)
        .with_for_update()
    ).one()
    if older_than is not None and row.fresh:
        return None
    following = row.lease_next or secrets.token_hex(16)
    transaction.execute(
        update(backends)
        .where(backends.c.id == backend_id)
        .values(lease_next=following, lease_at=db_now())
    )
    return (row.lease, following), lives.present(transaction)


def _is_known(raw: bytes | None, known: Numbers) -> bool:
    """Whether a database that knows these numbers has written this."""
    record = read(raw)
    return (raw is None and known[0] is None) or (record is not None and record.nonce in known)


def _settle(transaction: Transaction, *, backend_id: int, nonce: str) -> None:
    transaction.execute(
        update(backends)
        .where(backends.c.id == backend_id, backends.c.lease_next == nonce)
        .values(lease=nonce, lease_next=None, take_over=False)
    )


def _others_alive(transaction: Transaction) -> bool:
    alive = select(workers.c.id).where(workers.c.seen_at > db_now(-ALIVE_SECONDS)).limit(1)
    return transaction.execute(alive).first() is not None


def _told(record: Record) -> str:
    by = record.by
    return f"process {by.pid} on host {by.host}, life {record.life[:12] or 'the first'}"


# -- which database, which process --------------------------------------------------------


def _is_alive(holder: Holder, me: Holder) -> bool | None:
    """Whether the process is there; None where that cannot be seen from here."""
    if holder.boot is None or (holder.boot, holder.pids) != (me.boot, me.pids):
        return None
    born = _born(holder.pid)
    if born is None and _is_there(holder.pid):
        return None  # /proc hides it, or does not let it be looked at
    return born == holder.born


def _born(pid: int) -> int | None:
    try:
        told = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    # Behind the name, which may have anything in it; a zombie is dead.
    state, *rest = told.rpartition(")")[2].split()
    return None if state in "ZX" else int(rest[18])


def _is_there(pid: int) -> bool:
    """Whether a process has this number, and is no zombie as far as can be seen."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not os.access(f"/proc/{pid}/stat", os.R_OK)


def _namespace() -> str | None:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None
