"""What jobs are about besides their volume and their snapshot, read with their rows."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.sql.functions import FunctionElement

from orchestrator.store.columns import Json
from orchestrator.store.tables import job_targets, jobs


class targets_of(FunctionElement[Any]):
    """A list of [role, kind, id, name] of `jobs`' row; null or empty for most."""

    type = Json
    inherit_cache = True


TARGETS = targets_of().label("targets")
#: What to select where a job is read as a whole.
JOB = (*jobs.c, TARGETS)


def names(kind: str, name: str, id_: str | None = None) -> ColumnElement[bool]:
    """Whether a job names this object; with ``id_``, only the very one."""
    conditions = [job_targets.c.kind == kind, job_targets.c.name == name]
    if id_ is not None:
        conditions.append(job_targets.c.object_id == id_)
    return jobs.c.id.in_(select(job_targets.c.job_id).where(*conditions))
