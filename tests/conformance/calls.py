"""Calls to give to drivers: what a worker would, in the hands of a test."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from workers.backends.base.commands import Ran
from workers.backends.base.references import SnapshotRef, VolumeRef

_fences = itertools.count(1)
_jobs = itertools.count(1)


class LeaseLost(Exception):
    """Raised at the checkpoints of a claim that has been taken over."""


@dataclass
class Claim:
    """One claim of one job. ``at_checkpoint`` is told the number of each checkpoint."""

    job_id: int = field(default_factory=lambda: next(_jobs))
    fence: int = field(default_factory=lambda: next(_fences))
    at_checkpoint: Callable[[int], None] | None = None
    checkpoints: int = 0
    #: No other host has done anything for the job.
    alone: bool = True
    reported: list[tuple[int, int]] = field(default_factory=list)
    commands: list[Ran] = field(default_factory=list)

    @property
    def token(self) -> str:
        return f"{self.job_id}_tests"

    def checkpoint(self) -> None:
        self.checkpoints += 1
        if self.at_checkpoint is not None:
            self.at_checkpoint(self.checkpoints)

    def progress(self, done: int, total: int, unit: str = "bytes") -> None:
        self.reported.append((done, total))

    def seconds_left(self) -> float:
        return 60.0

    def ran(self, ran: Ran) -> None:
        self.commands.append(ran)

    def again(self) -> Claim:
        """The next claim of the same job."""
        return Claim(job_id=self.job_id, alone=False)


def overtaken(at: int, successor: Callable[[], None], job_id: int | None = None) -> Claim:
    """A claim that is held up right behind its ``at``-th checkpoint.

    Meanwhile ``successor`` runs; from the next checkpoint on the lease is known to be lost.
    """

    def held_up(number: int) -> None:
        if number == at:
            successor()
        elif number > at:
            raise LeaseLost

    claim = Claim(at_checkpoint=held_up)
    return claim if job_id is None else replace(claim, job_id=job_id)


def stopped(at: int) -> Claim:
    """A claim that is canceled at its ``at``-th checkpoint."""

    def stop(number: int) -> None:
        if number >= at:
            raise LeaseLost

    return Claim(at_checkpoint=stop)


def stopped_in_work() -> Claim:
    """A claim that is canceled as soon as a part of the work is done, and told of."""

    def stop(_number: int) -> None:
        if claim.reported:
            raise LeaseLost

    claim = Claim(at_checkpoint=stop)
    return claim


def new_volume(name: str = "vm1") -> VolumeRef:
    """A volume that is not there yet."""
    return VolumeRef(uuid.uuid4().hex, name)


def new_snapshot(volume: VolumeRef, name: str = "s1") -> SnapshotRef:
    """A snapshot that is not there yet."""
    return SnapshotRef(uuid.uuid4().hex, name, volume)
