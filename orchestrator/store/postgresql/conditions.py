"""Conditions as PostgreSQL has them.

The tables of lanes and dependencies are empty most of the time. PostgreSQL, once it has seen
them so, expects any index to be as good as another, and reads all of it for each job. So the
conditions ask for a first row in an order that only the right index has.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from orchestrator.store.asking import In
from orchestrator.store.conditions import Beginning, lane_taken, needs_more
from orchestrator.store.targets import targets_of

LANE_TAKEN = """EXISTS (
    SELECT 1 FROM (
        SELECT lane FROM job_lanes WHERE job_id >= jobs.id AND job_id <= jobs.id
        ORDER BY job_id LIMIT 10
    ) AS mine
    WHERE (
        SELECT 1 FROM job_lanes AS earlier JOIN jobs AS job ON job.id = earlier.job_id
        WHERE earlier.lane >= mine.lane AND earlier.lane <= mine.lane
          AND earlier.job_id < jobs.id
          AND (job.not_before IS NULL OR job.not_before <= clock_timestamp())
        ORDER BY earlier.lane, earlier.job_id LIMIT 1
    ) IS NOT NULL OR (
        SELECT 1 FROM job_lanes AS other
        WHERE other.lane >= mine.lane AND other.lane <= mine.lane
          AND other.begun AND other.job_id <> jobs.id
        ORDER BY other.lane LIMIT 1
    ) IS NOT NULL
)"""
NEEDS_MORE = """(
    SELECT 1 FROM job_dependencies AS need JOIN jobs AS job ON job.id = need.depends_on
    WHERE need.job_id >= jobs.id AND need.job_id <= jobs.id AND job.state <> 'succeeded'
    ORDER BY need.job_id LIMIT 1
) IS NOT NULL"""
TARGETS = """(
    SELECT jsonb_agg(jsonb_build_array(t.role, t.kind, t.object_id, t.name) ORDER BY t.place)
    FROM job_targets AS t WHERE t.job_id = jobs.id
)"""


@compiles(lane_taken, "postgresql")
def _lane_taken(_element: lane_taken, _compiler: SQLCompiler, **_kw: Any) -> str:
    return LANE_TAKEN


@compiles(needs_more, "postgresql")
def _needs_more(_element: needs_more, _compiler: SQLCompiler, **_kw: Any) -> str:
    return NEEDS_MORE


@compiles(In, "postgresql")
def _in(element: In, compiler: SQLCompiler, **kw: Any) -> str:
    column, values = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"({column} = ANY ({values}))"


@compiles(Beginning, "postgresql")
def _beginning(element: Beginning, compiler: SQLCompiler, **kw: Any) -> str:
    name, prefix, *after = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"({name} ^@ {prefix} AND {name} > {after[0]})" if after else f"({name} ^@ {prefix})"


@compiles(targets_of, "postgresql")
def _targets_of(_element: targets_of, _compiler: SQLCompiler, **_kw: Any) -> str:
    return TARGETS
