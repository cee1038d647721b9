"""The faults, and what is done for each while a process is at a step."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tests.chaos.steps import AFTER_THE_END, IN_DRIVER, WHILE_OUTCOMES_ARE_WRITTEN

ROLES = ("worker", "api", "scheduler")
DRIVERS = ("memory", "file")
DATABASES = ("sqlite", "postgresql")


class Alternating(StrEnum):
    """On which drivers and databases each action is tried with a fault at each step."""

    NONE = "on all drivers and databases"
    DRIVERS = "on all databases, drivers alternating"
    BOTH = "drivers and databases alternating"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something bad. ``deed`` is what the failpoint does, ``summary`` what the table says."""

    name: str
    summary: str
    deed: str
    roles: tuple[str, ...] = ROLES
    drivers: tuple[str, ...] = DRIVERS
    databases: tuple[str, ...] = DATABASES
    #: Others take over while the process waits there, before it continues.
    late: bool = False
    #: What it worked on is removed and recreated before it continues.
    recreated: bool = False
    #: Jobs may fail, if the inventory says what is there.
    may_fail: bool = False
    #: Needs small file systems, to fill them.
    small: bool = False
    #: What alternates from cell to cell on a worker. On an API or a scheduler, which never access
    #: the storage, drivers always alternate.
    alternating: Alternating = Alternating.BOTH
    #: The points at which it makes sense; all if empty.
    points: frozenset[str] = frozenset()
    but_not: frozenset[str] = frozenset()

    def fits(self, role: str, driver: str, database: str) -> bool:
        """Whether it can happen to this kind of process with this driver and database."""
        return role in self.roles and driver in self.drivers and database in self.databases

    def at(self, point: str) -> bool:
        """Whether it makes sense at this point."""
        return (not self.points or point in self.points) and point not in self.but_not


FAULTS: dict[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault(
            name="killed",
            summary="the process gets SIGKILL",
            deed="crash",
            alternating=Alternating.NONE,
        ),
        Fault(
            name="frozen",
            summary="SIGSTOP, its lease expires, others take over, SIGCONT",
            deed="stop",
            alternating=Alternating.DRIVERS,
            late=True,
        ),
        Fault(
            name="frozen-recreated",
            summary="the same, and the volume or the export policy is removed and recreated "
            "before SIGCONT",
            deed="stop",
            alternating=Alternating.DRIVERS,
            late=True,
            recreated=True,
            roles=("worker",),
        ),
        Fault(
            name="cut",
            summary="its connection to PostgreSQL breaks in mid-transaction; outside of one, "
            "the error of a broken connection is raised",
            deed="drop",
            databases=("postgresql",),
            alternating=Alternating.DRIVERS,
            # There is no database in the middle of a driver.
            but_not=frozenset({"driver.before_publish", "driver.after_publish"}),
        ),
        Fault(
            name="error",
            summary="an unexpected error is raised",
            deed="error",
            but_not=WHILE_OUTCOMES_ARE_WRITTEN,
        ),
        Fault(
            name="clock",
            summary="the clock jumps an hour: its lease expires, others take over while it works",
            deed="pause",
            late=True,
            but_not=IN_DRIVER,
        ),
        Fault(
            name="hanging",
            summary="the driver hangs beyond the lease, others take over, then it returns",
            deed="pause",
            alternating=Alternating.DRIVERS,
            late=True,
            roles=("worker",),
            points=IN_DRIVER,
        ),
        Fault(
            name="doubled",
            summary="its wake-up is delivered to a second worker while it waits there, "
            "and again an hour later",
            deed="pause",
            roles=("worker",),
        ),
        Fault(
            name="broker-killed",
            summary="the broker gets SIGKILL and is restarted, empty",
            deed="pause",
        ),
        Fault(
            name="broker-frozen",
            summary="the broker gets SIGSTOP while the process goes on, then SIGCONT",
            deed="pause",
            # A scheduler only waits for it; the whole product is tried with it frozen.
            roles=("worker", "api"),
            # From here on a silent broker costs time and nothing else.
            but_not=AFTER_THE_END,
        ),
        Fault(
            name="database-restarted",
            summary="PostgreSQL is restarted, fast",
            deed="pause",
            databases=("postgresql",),
        ),
        Fault(
            name="database-crashed",
            summary="PostgreSQL is stopped (immediate) and recovers",
            deed="pause",
            databases=("postgresql",),
        ),
        Fault(
            name="storage-full",
            summary="the backend's file system is full, then has room again",
            deed="pause",
            roles=("worker",),
            drivers=("file",),
            may_fail=True,
            small=True,
        ),
        Fault(
            name="database-full",
            summary="the database's file system is full, then has room again",
            deed="pause",
            databases=("sqlite",),
            may_fail=True,
            small=True,
        ),
    )
}
