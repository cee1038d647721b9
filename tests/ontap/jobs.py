"""The jobs of the double: work that it has taken on and finishes later."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.ontap.records import Refused


@dataclass
class Job:
    """Work that the filer has taken on."""

    record: dict[str, Any]
    effect: Callable[[], None]
    due: float
    reserves: str | None = None
    fails: tuple[int, str] | None = None
    undo: Callable[[], None] = lambda: None


@dataclass
class Jobs:
    """How the filer works its jobs off, as a test wants it."""

    #: How long each takes.
    seconds: float = 0.0
    #: How long a clone takes to be split.
    split_seconds: float = 0.0
    #: None is finished while this is set.
    held: bool = False
    #: Which of those to come fail, by their number: code and message.
    failing: dict[int, tuple[int, str]] = field(default_factory=dict)
    #: How many there were.
    count: int = 0
    _jobs: dict[str, Job] = field(default_factory=dict)

    def start(
        self,
        description: str,
        effect: Callable[[], None],
        *,
        seconds: float | None = None,
        reserves: str | None = None,
        undo: Callable[[], None] = lambda: None,
    ) -> dict[str, Any]:
        """Take work on; what the answer to the request says of it."""
        for known in self._jobs.values():
            if reserves is not None and known.reserves == reserves and known.due:
                raise Refused(409, 917536, f'Volume name "{reserves}" is already being created')
        self.count += 1
        takes = self.seconds if seconds is None else seconds
        job = Job(
            {
                "uuid": str(uuid.uuid4()),
                "description": description,
                "state": "running",
                "message": "working",
                "code": 0,
            },
            effect,
            time.monotonic() + takes,
            reserves,
            self.failing.pop(self.count, None),
            undo,
        )
        self._jobs[job.record["uuid"]] = job
        self.advance()
        return {"job": {"uuid": job.record["uuid"]}}

    def advance(self) -> None:
        """Finish the jobs whose time has come."""
        if self.held:
            return
        for job in list(self._jobs.values()):
            if job.due and job.due <= time.monotonic():
                job.due = 0.0
                self._finish(job)

    def _finish(self, job: Job) -> None:
        try:
            if job.fails is not None:
                raise Refused(500, *job.fails)
            job.effect()
        except Refused as refused:
            job.undo()
            job.record |= {"state": "failure", "code": refused.code, "message": refused.message}
            job.record["error"] = {"code": str(refused.code), "message": refused.message}
        else:
            job.record |= {"state": "success", "message": "success"}

    def records(self) -> list[dict[str, Any]]:
        return [job.record for job in self._jobs.values()]
