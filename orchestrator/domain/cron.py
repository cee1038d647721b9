"""Cron expressions: five fields, in UTC, meant as Debian's cron means them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, Field

from orchestrator.domain.checking import checked
from orchestrator.domain.errors import InvalidInput

_FIELDS = 5
_SECOND = timedelta(seconds=1)


def check_cron(written: str) -> str:
    """``written`` with single blanks, or `InvalidInput`."""
    fields = written.split()
    if len(fields) != _FIELDS:
        raise InvalidInput(
            "a cron expression has five fields: minute, hour, day of the month, month, day of the "
            f"week, as in '0 2 * * *'; this one has {len(fields)}"
        )
    cron = " ".join(fields)
    try:
        found = next(CronSim(cron, datetime(2000, 1, 1)), None)
    except CronSimError as error:
        raise InvalidInput(f"this is no cron expression such as '0 2 * * *': {error}") from None
    if found is None:
        raise InvalidInput("the time of this cron expression never comes")
    return cron


CronText = Annotated[
    str,
    Field(
        max_length=128,
        description="Minute, hour, day of the month, month, day of the week; UTC.",
        examples=["0 * * * *"],
    ),
    AfterValidator(checked(check_cron)),
]


def latest(cron: str, moment: datetime) -> datetime:
    """The last time of ``cron`` up to ``moment``, that one included."""
    return next(CronSim(cron, moment.replace(microsecond=0) + _SECOND, reverse=True))


def following(cron: str, moment: datetime) -> datetime:
    """The first time of ``cron`` after ``moment``."""
    return next(CronSim(cron, moment))
