"""Plain Celery: an empty task, Redis as broker and for results, and no other settings.

Started as ``celery -A benchmarks.celery_plain worker``; the variables below say where the
broker is, and whether tasks are acknowledged late.
"""

from __future__ import annotations

import os

from celery import Celery

BROKER_VARIABLE = "BENCHMARKS_BROKER"
LATE_VARIABLE = "BENCHMARKS_ACKS_LATE"
TASK = "benchmarks.empty"


def application(broker_url: str, *, acks_late: bool = False) -> Celery:
    """The application, for workers and for those who submit."""
    made = Celery("benchmarks", broker=broker_url, backend=broker_url, set_as_current=False)
    if acks_late:
        made.conf.task_acks_late = True

    @made.task(name=TASK, shared=False)
    def empty() -> None:
        """Do nothing."""

    return made


app = application(
    os.environ.get(BROKER_VARIABLE, ""), acks_late=bool(os.environ.get(LATE_VARIABLE))
)
