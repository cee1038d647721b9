"""The steps: failpoints at their first and their last pass, and what a process holds there."""

from __future__ import annotations

from dataclasses import dataclass

#: Passed in a transaction of the database: whoever stops there holds rows, on SQLite everything.
IN_TRANSACTION = frozenset(
    {
        "submit.before_commit",
        "claim.before_commit",
        "journal.before_commit",
        "finish.before_commit",
        "lanes.before_release",
        "due.before_commit",
        "reclaim.before_commit",
        "events.before_commit",
    }
)
#: Passed in a transaction of the `memory` driver, whose storage has one writer.
IN_MEMORY = frozenset({"driver.before_publish"})
#: Passed in the middle of a call of the driver.
IN_DRIVER = frozenset(
    {
        "driver.before_call",
        "driver.before_publish",
        "driver.after_publish",
        "driver.after_call",
    }
)
#: Passed by a thread beside the one that works, which may be anywhere meanwhile.
IN_A_THREAD = frozenset(
    {
        "wakeups.before_publish",
        "wakeups.after_publish",
        "lease.before_renewal",
        "lease.after_renewal",
    }
)
#: An outcome that raises while it is written counts as one that cannot be stored.
WHILE_OUTCOMES_ARE_WRITTEN = frozenset(
    {
        "finish.before_commit",
        "lanes.before_release",
    }
)
#: Where the outcome is in the database, and only telling others is left.
AFTER_THE_END = frozenset(
    {
        "finish.after_commit",
        "notices.before_publish",
        "notices.after_publish",
        "wakeups.before_publish",
        "wakeups.after_publish",
        "waiters.heard",
        "api.before_answer",
    }
)


@dataclass(frozen=True)
class Step:
    """A point, and at which of its passes in one job's life."""

    point: str
    last: bool = False

    @property
    def id(self) -> str:
        return f"{self.point}:last" if self.last else self.point


def holds_name(point: str, driver: str) -> bool:
    """Whether nobody can assign the volume's name again while a process waits at this point."""
    return driver == "file" and point in ("driver.before_publish", "driver.after_publish")


def must_let_go(point: str, database: str) -> bool:
    """Whether others go on for sure while a process stands at this point: PostgreSQL ends its
    transaction, and it holds nothing else."""
    return database == "postgresql" and point in IN_TRANSACTION


def holds_everything(point: str, driver: str, database: str, *, frozen: bool) -> bool:
    """Whether those who would take over can do nothing while a process stands at this point.

    ``frozen``: all of it stands, and not only the thread that passes the point. On PostgreSQL its
    session is ended before long, wherever it stands in a transaction.
    """
    return (
        (database == "sqlite" and point in IN_TRANSACTION)
        or (driver == "memory" and point in IN_MEMORY)
        or (frozen and point in IN_A_THREAD)
    )
