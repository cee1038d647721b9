"""The work that a driver's call is part of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from workers.backends.base.commands import Ran


class Call(Protocol):
    """What a driver may know of the work it is part of."""

    @property
    def job_id(self) -> int:
        """The job on whose behalf this is done."""

    @property
    def token(self) -> str:
        """The job, as no other database and no other life of this one names any of its own.

        Proofs on the storage are bound to this: letters, digits and underscores.
        """

    @property
    def fence(self) -> int:
        """Grows with every claim of any job: of two callers the larger one is later."""

    @property
    def alone(self) -> bool:
        """Whether it is known that no other host has done anything for this job."""

    def checkpoint(self) -> None:
        """Raise if the work must stop here."""

    def progress(self, done: int, total: int, unit: str = "bytes") -> None:
        """Tell how far a long call has come; cheap enough to be called for each chunk."""

    def seconds_left(self) -> float:
        """Time until the deadline, for the timeouts of what the driver itself calls."""

    def ran(self, ran: Ran) -> None:
        """Keep what a command said with the job."""
