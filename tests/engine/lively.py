"""A small lively history: volumes that come, change and go, locks that end in every way."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import insert, select, text, update

from orchestrator.domain.actors import Actor
from orchestrator.domain.states import Role
from orchestrator.history.events import number_committed
from orchestrator.inventory.capacity import record_day
from orchestrator.jobs import upkeep
from orchestrator.resources.volume import locks as locking
from orchestrator.store.columns import db_now
from orchestrator.store.tables import capacity_days, locks
from tests.engine.conftest import ADMIN, Engine, act, create, grow

BACKUP = Actor("backup", Role.OPERATOR)


class Lively:
    """Lives it on the backend ``ram``; ``moment`` is in the midst of it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._build()
        self.moment = self.now()
        #: What there was at that moment, as the inventory told it.
        self.held = engine.volumes()
        self._tear_down()
        self._lock_in_every_way()
        self._keep_capacity()
        engine.database.transact(number_committed)

    def now(self) -> datetime:
        with self.engine.database.read() as connection:
            found: datetime = connection.execute(select(db_now())).scalar_one()
            return found

    def do(self, *requests: dict[str, Any], actor: Actor = ADMIN) -> None:
        self.engine.submit(*requests, actor=actor)
        self.engine.work()

    def lock(self, volume: str, owner: str, **options: Any) -> None:
        given: dict[str, Any] = {"reason": None, "seconds": None, **options}
        self.engine.database.transact(
            lambda connection: locking.take(connection, "ram", volume, owner, BACKUP, **given)
        )

    def unlock(self, volume: str, owner: str | None, **options: Any) -> None:
        given: dict[str, Any] = {"force": False, "reason": None, **options}
        self.engine.database.transact(
            lambda connection: locking.release(connection, "ram", volume, owner, ADMIN, **given)
        )

    def _build(self) -> None:
        self.do(*(create(name) for name in ("vm1", "vm2", "vm3", "vm4", "vm5", "vm6")))
        self.do(
            grow("vm1", "2M", reason="full"), act("volume.rename", "vm3", params=_name("moved"))
        )
        self.do(act("volume.update", "vm1", params={"metadata": {"owner": "x"}}))
        self.do(_of_policy("policy.create", params={"rules": ["10.0.0.0/8"]}))
        self.do(act("policy.assign", "vm1", policy="web"))
        self.do(act("snapshot.create", "vm2", snapshot="s1"), actor=BACKUP)
        self.do(act("snapshot.create", "vm4", snapshot="s2"), actor=BACKUP)
        with self.engine.database.write() as connection:
            connection.execute(
                text("UPDATE volumes SET account = 'team' WHERE name IN ('vm1', 'vm2')")
            )

    def _tear_down(self) -> None:
        self.do(act("volume.restrict", "vm6"))
        self.do(act("volume.purge", "vm6", reason="over"))
        self.do(act("snapshot.delete", "vm2", snapshot="s1", reason="old"))
        self.do(act("volume.remove", "vm2", reason="customer left"))
        self.do(act("volume.forget", "moved", reason="taken away"))
        self.do(act("volume.restrict", "vm1"), act("volume.unrestrict", "vm1"))
        # It fails: what was forgotten is on the storage still.
        self.do(create("moved"))

    def _lock_in_every_way(self) -> None:
        self.lock("vm1", "released-one")
        self.unlock("vm1", "released-one", reason="done")
        self.lock("vm1", "broken-one")
        self.unlock("vm1", None, force=True, reason="host is dead")
        self.lock("vm1", "expired-one", seconds=1000)
        self._time_is_over("expired-one")
        self.engine.database.transact(upkeep.expire_locks)
        self.lock("vm1", "overtaken-one", seconds=1000)
        self._time_is_over("overtaken-one")
        self.lock("vm1", "held-one", seconds=1000)
        self.lock("vm1", "held-one", seconds=2000)  # renewed
        self.lock("vm5", "removed-one")
        self.do(act("volume.rename", "vm5", host="removed-one", params=_name("gone")))
        self.do(act("volume.remove", "gone", host="removed-one", reason="with its lock"))

    def _time_is_over(self, owner: str) -> None:
        with self.engine.database.write() as connection:
            connection.execute(
                update(locks).where(locks.c.owner == owner).values(expires_at=db_now(-1.0))
            )

    def _keep_capacity(self) -> None:
        self.engine.database.transact(record_day)
        sizes = {date(2026, 9, 29): 1, date(2026, 9, 30): 2, date(2026, 10, 31): 3}
        with self.engine.database.write() as connection:
            for day, size in sizes.items():
                at = self.moment.replace(year=day.year, month=day.month, day=day.day)
                connection.execute(
                    insert(capacity_days).values(
                        backend_id=1, day=day, at=at, total_bytes=100, free_bytes=100 - size,
                        promised_bytes=size, volumes=size, volume_bytes=size, used_bytes=size,
                        snapshots=0,
                    )
                )  # fmt: skip


def as_text(moment: datetime) -> str:
    """A moment as docs/sql.md writes it."""
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")


def filled(lively: Lively) -> dict[str, str]:
    """What the words of the examples mean here."""
    return {
        "fast": "ram",
        "2026-03-01 12:00:00.000000": as_text(lively.moment),
        "2026-10-01": as_text(lively.moment - timedelta(days=1)),
        "2026-11-01": as_text(lively.moment + timedelta(days=1)),
    }


def _name(name: str) -> dict[str, Any]:
    return {"new_name": name}


def _of_policy(action: str, **more: Any) -> dict[str, Any]:
    return {"action": action, "backend": "ram", "policy": "web", **more}
