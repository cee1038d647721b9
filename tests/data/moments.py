"""When others do something: a place in the life of a job at which the test is called.

Nothing waits: the job runs in this process, reaches the place, and what others do is done there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator import failpoints
from workers.execution.work import Work

#: The moments, and what the table says of them.
MOMENTS = {
    "queued": "between submission and execution",
    "begun": "after the last look at the storage, right before the driver is asked to change it",
    "inside": "inside of that call, at one of its checkpoints",
    "done": "when that call has returned, before the outcome is recorded",
}
#: Calls that only look; what an action does before it begins.
_LOOKS = frozenset({"read_identity", "capacity", "capabilities", "inspect", "devices", "check"})
_READS = frozenset({"contents", "list_volumes", "list_snapshots", "client_locks"})


class Moment:
    """Calls ``what`` the first time that a job of ``action`` reaches it."""

    def __init__(self, name: str, action: str, what: Callable[[], None], nth: int = 1) -> None:
        self._name, self._action, self._what, self._nth = name, action, what, nth
        self._inside: str | None = None
        self._passed = 0
        self.met = False

    def point(self, _where: Path, name: str, _connection: Any, facts: dict[str, Any]) -> None:
        """A failpoint was passed."""
        if facts.get("action") != self._action:
            return
        operation = facts.get("operation", "")
        counts = operation not in _LOOKS
        if self._action in ("volume.verify", "volume.reconcile", "backend.refresh"):
            counts = operation in _LOOKS | _READS and operation != "read_identity"
        if name == "driver.before_call" and counts:
            self._inside = operation
            self._come("begun")
        elif name == "driver.after_call" and operation == self._inside:
            # What is read is read when the call has returned.
            if operation not in _READS:
                self._inside = None
            self._come("done")

    def checkpoint(self, work: Work) -> None:
        """The job was asked whether it may go on."""
        if work.claim.action.name == self._action and self._inside is not None:
            self._passed += 1
            if self._passed >= self._nth:
                self._come("inside")

    def _come(self, name: str) -> None:
        if name == self._name and not self.met:
            self.met = True
            self._what()


@contextmanager
def at(moment: Moment) -> Iterator[None]:
    """Let jobs of this process reach a moment during the block."""
    before = failpoints._directory, failpoints._pass, Work.checkpoint

    def checkpoint(self: Work) -> None:
        moment.checkpoint(self)
        before[2](self)

    failpoints._directory = Path("/in/this/process")
    failpoints._pass = moment.point  # type: ignore[assignment]
    Work.checkpoint = checkpoint  # type: ignore[method-assign]
    try:
        yield
    finally:
        failpoints._directory, failpoints._pass = before[0], before[1]
        Work.checkpoint = before[2]  # type: ignore[method-assign]
