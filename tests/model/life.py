"""A worker's life: it goes on only when it is told to, and may end at any point.

The points are where a process can be seen from outside: before and after each transaction,
and before and after each call of a driver. Workers run one at a time, each in a thread of
its own, so whatever happens between two points of one happens at a point of the other: the
same choices lead to the same run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from orchestrator.store.database import Database
from orchestrator.store.transaction import Transaction
from tests.model.storage import Effects
from workers.backends.memory.driver import MemoryDriver


class Died(BaseException):
    """The process is gone: nothing of it happens any more, not even its clean-up."""


class Life:
    """One worker process, from its start to its death."""

    def __init__(self) -> None:
        self.dead = False
        #: The point it has come to.
        self.where = "idle"
        self._go = threading.Semaphore(0)
        self._stopped = threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self._over = False
        self._raised: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether it is in the middle of something."""
        return self._thread is not None

    def begin(self, work: Callable[[], None]) -> None:
        """Set about some work; the first step begins it."""
        assert self._thread is None

        def run() -> None:
            self._go.acquire()
            try:
                if not self.dead:
                    work()
            except Died:
                pass
            except BaseException as error:
                self._raised = error
            self._over = True
            self._stopped.release()

        self._over = False
        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def step(self) -> None:
        """Let it go on to its next point, or to the end of its work."""
        assert self._thread is not None
        self._go.release()
        self._stopped.acquire()
        if self._over:
            self._thread.join()
            self._thread, self.where = None, "idle"
            if self._raised is not None:
                raise self._raised

    def finish(self) -> None:
        """Let it come to the end of its work."""
        while self.busy:
            self.step()

    def die(self) -> None:
        """It dies where it is."""
        self.dead = True
        self.finish()

    def point(self, where: str) -> None:
        """A place to stop at, or to die at; its clocks' threads only die here."""
        if self.dead:
            raise Died
        if threading.current_thread() is self._thread:
            self.where = where
            self._stopped.release()
            self._go.acquire()
            if self.dead:
                raise Died


class WatchedDatabase(Database):
    """A worker's way to the database."""

    def __init__(self, url: str) -> None:
        super().__init__(url, pool_size=3)
        self.life = Life()

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        self.life.point("before a look into the database")
        with super().read() as transaction:
            yield transaction

    @contextmanager
    def write(self, *, may_take_long: bool = False) -> Iterator[Transaction]:
        self.life.point("before a transaction")
        with super().write(may_take_long=may_take_long) as transaction:
            yield transaction
        self.life.point("after a transaction")


class WatchedDriver(MemoryDriver):
    """A worker's way to the storage; what it changes there is noted."""

    def __init__(self, driver: MemoryDriver, life: Life, effects: Effects) -> None:
        super().__init__(driver.backend, driver.options, driver.installation)
        self.life = life
        self.effects = effects


def _looks(name: str) -> Callable[..., Any]:
    original = getattr(MemoryDriver, name)

    def look(self: WatchedDriver, *args: Any) -> Any:
        self.life.point(f"before {name}")
        return original(self, *args)

    return look


def _changes(name: str) -> Callable[..., Any]:
    original = getattr(MemoryDriver, name)

    def change(self: WatchedDriver, *args: Any, **more: Any) -> Any:
        self.life.point(f"before {name}")
        call = next(one for one in args if hasattr(one, "fence"))
        try:
            with self.effects.noted(name, call.job_id, call.fence):
                return original(self, *args, **more)
        finally:
            self.life.point(f"after {name}")

    return change


LOOKS = ("read_identity", "inspect", "list_snapshots", "devices")
CHANGES = (
    "create",
    "clone",
    "create_snapshot",
    "discard",
    "grow",
    "set_metadata",
    "rename",
    "rollback",
    "wipe",
    "remove",
    "delete_snapshot",
    "attach",
    "detach",
)
for _name in LOOKS:
    setattr(WatchedDriver, _name, _looks(_name))
for _name in CHANGES:
    setattr(WatchedDriver, _name, _changes(_name))
