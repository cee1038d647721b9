"""Conditions as SQLite has them."""

from __future__ import annotations

from typing import Any

from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from orchestrator.store.asking import In
from orchestrator.store.conditions import Beginning, lane_taken, needs_more
from orchestrator.store.targets import targets_of

NOW = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"

LANE_TAKEN = f"""(
    EXISTS (
        SELECT 1 FROM job_lanes AS mine JOIN job_lanes AS other ON other.lane = mine.lane
        WHERE mine.job_id = jobs.id AND other.job_id <> mine.job_id AND other.begun
    ) OR EXISTS (
        SELECT 1 FROM job_lanes AS mine
        JOIN job_lanes AS earlier ON earlier.lane = mine.lane AND earlier.job_id < mine.job_id
        JOIN jobs AS job ON job.id = earlier.job_id
        WHERE mine.job_id = jobs.id AND (job.not_before IS NULL OR job.not_before <= {NOW})
    )
)"""
NEEDS_MORE = """EXISTS (
    SELECT 1 FROM job_dependencies AS need JOIN jobs AS needed ON needed.id = need.depends_on
    WHERE need.job_id = jobs.id AND needed.state <> 'succeeded'
)"""
TARGETS = """(
    SELECT json_group_array(json_array(t.role, t.kind, t.object_id, t.name))
    FROM job_targets AS t WHERE t.job_id = jobs.id
)"""


@compiles(lane_taken, "sqlite")
def _lane_taken(_element: lane_taken, _compiler: SQLCompiler, **_kw: Any) -> str:
    return LANE_TAKEN


@compiles(needs_more, "sqlite")
def _needs_more(_element: needs_more, _compiler: SQLCompiler, **_kw: Any) -> str:
    return NEEDS_MORE


@compiles(In, "sqlite")
def _in(element: In, compiler: SQLCompiler, **kw: Any) -> str:
    column, values = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"({column} IN (SELECT value FROM json_each({values})))"


@compiles(Beginning, "sqlite")
def _beginning(element: Beginning, compiler: SQLCompiler, **kw: Any) -> str:
    name, prefix, *after = (compiler.process(clause, **kw) for clause in element.clauses)
    # It sorts by bytes: no character of a name comes after this one.
    below = f"{name} < {prefix} || char(1114111)"
    if not after:
        return f"({name} >= {prefix} AND {below})"
    # An index begins at one bound only, which might be the lower one of two.
    return f"({name} >= max({prefix}, {after[0]}) AND {name} <> {after[0]} AND {below})"


@compiles(targets_of, "sqlite")
def _targets_of(_element: targets_of, _compiler: SQLCompiler, **_kw: Any) -> str:
    return TARGETS
