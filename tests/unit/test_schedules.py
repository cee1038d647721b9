"""Cron expressions, what may be scheduled, and the rule of retention."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.actions.schedules import (
    SCHEDULABLE,
    ScheduleSpec,
    beginnings,
    check_schedule,
    fitting,
    on_volumes,
)
from orchestrator.domain.action import Need
from orchestrator.domain.cron import check_cron, following, latest
from orchestrator.domain.errors import InvalidInput, MissingField, Problem, UnknownAction
from orchestrator.domain.keeping import Keep, Made, surplus

START = datetime(2026, 1, 1, tzinfo=UTC)

crons = st.sampled_from(
    ["* * * * *", "0 * * * *", "*/7 3-5 * * *", "30 2 1,15 * *", "0 0 29 2 *", "15 4 13 * FRI"]
)
moments = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC))


@pytest.mark.parametrize(
    "written",
    [
        *("", "* * * *", "* * * * * *", "60 * * * *", "0 0 30 2 *", "@daily", "a b c d e"),
        *("0 0 * * 8", "*/0 * * * *", "5-1 * * * *", "0 0 L-1 * *", "\0 * * * *", "²L * * * *"),
    ],
)
def test_what_is_no_time_is_refused(written: str) -> None:
    with pytest.raises(InvalidInput):
        check_cron(written)


def test_a_cron_expression_is_kept_with_single_blanks() -> None:
    assert check_cron(" 0   2 *  * MON-FRI ") == "0 2 * * MON-FRI"


@given(crons, moments)
def test_no_time_lies_between_the_latest_and_the_following(cron: str, moment: datetime) -> None:
    before, after = latest(cron, moment), following(cron, moment)
    assert before <= moment < after
    assert following(cron, before) == after
    assert latest(cron, after) == after
    assert latest(cron, after - timedelta(microseconds=1)) == before


def test_everything_that_is_declared_schedulable_can_be_asked_for() -> None:
    assert SCHEDULABLE, "there are some"
    for name, action in SCHEDULABLE.items():
        assert Need.REQUIRED not in (action.needs["policy"], action.host), name
        assert action.needs["snapshot"] is not Need.REQUIRED or action.made == "snapshot", name
        volumes = ["*"] if on_volumes(action) else None
        spec = ScheduleSpec(cron="0 * * * *", action=name, backend="fast", volumes=volumes)
        assert check_schedule(spec).action == name
        assert set(action.by_hand) <= set(action.params.model_fields)


@pytest.mark.parametrize(
    ("changed", "kind", "field"),
    [
        ({"action": "volume.explode"}, UnknownAction, "action"),
        ({"action": "volume.remove"}, InvalidInput, "action"),
        ({"backend": None}, MissingField, "backend"),
        ({"volumes": None}, MissingField, "volumes"),
        ({"params": {"size": 1}}, Problem, "params.size"),
        ({"action": "backend.refresh"}, InvalidInput, "volumes"),
        ({"action": "volume.verify", "keep": {"last": 1}}, InvalidInput, "keep"),
        ({"action": "events.export"}, InvalidInput, "backend"),
        (
            {"action": "backend.verify", "volumes": None, "params": {"accept_identity": True}},
            InvalidInput,
            "params.accept_identity",
        ),
    ],
)
def test_what_cannot_be_scheduled_is_told_with_its_field(
    changed: dict[str, Any], kind: type[Problem], field: str
) -> None:
    wanted = {"action": "snapshot.create", "backend": "fast", "volumes": ["vm*"]} | changed
    with pytest.raises(kind) as refused:
        check_schedule(ScheduleSpec(cron="0 * * * *", **wanted))
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["*"], [""]),
        (["vm1", "vm2"], ["vm1", "vm2"]),
        (["vm1*", "vm", "db/[ab]*", "db/x?"], ["db/", "vm"]),
        (["a-b*", "a*", "ab"], ["a"]),
    ],
)
def test_names_that_fit_begin_like_the_patterns(patterns: list[str], expected: list[str]) -> None:
    assert beginnings(patterns) == expected


def test_patterns_fit_whole_names() -> None:
    fits = fitting(["vm?", "db/*", "[ab]1"])
    assert [n for n in ("vm1", "vm12", "xvm1", "db/a/b", "a1", "c1") if fits.fullmatch(n)] == [
        *("vm1", "db/a/b", "a1")
    ]


# -- retention ------------------------------------------------------------------------------

keeps = (
    st.tuples(*[st.integers(0, 5)] * 4)
    .filter(any)
    .map(lambda counts: Keep(last=counts[0], hourly=counts[1], daily=counts[2], weekly=counts[3]))
)
#: Hours between one snapshot and the next.
steps = st.lists(st.floats(0.01, 200), max_size=60)


def made(hours: list[float]) -> list[Made]:
    due, found = START, []
    for job_id, step in enumerate(hours, start=1):
        due += timedelta(hours=step)
        found.append(Made(id=f"s{job_id}", job_id=job_id, due=due))
    return found


def kept(keep: Keep, there: list[Made]) -> list[Made]:
    gone = {one.id for one in surplus(keep, there)}
    return [one for one in there if one.id not in gone]


@given(keeps, steps)
def test_kept_is_what_any_of_the_four_keeps(keep: Keep, hours: list[float]) -> None:
    there = made(hours)
    wanted = {one.id for one in there[max(0, len(there) - keep.last) :]}
    for count, bucket in (
        (keep.hourly, "%Y-%m-%d %H"),
        (keep.daily, "%Y-%m-%d"),
        (keep.weekly, "%G-%V"),
    ):
        newest = {one.due.strftime(bucket): one.id for one in there}
        wanted |= set(list(newest.values())[len(newest) - min(count, len(newest)) :])
    assert {one.id for one in kept(keep, there)} == wanted


@given(keeps, steps)
def test_pruning_each_time_keeps_what_pruning_at_the_end_does(
    keep: Keep, hours: list[float]
) -> None:
    there: list[Made] = []
    for one in made(hours):
        there = kept(keep, [*there, one])
        assert there[-1] == one, "the newest is always kept"
    assert there == kept(keep, made(hours))
    assert surplus(keep, there) == []


@given(keeps, steps, st.randoms(use_true_random=False))
def test_a_clock_that_jumps_never_costs_the_newest(
    keep: Keep, hours: list[float], chance: Any
) -> None:
    """Whatever times they stand for, the newest are those that were made last."""
    times = [one.due for one in made(hours)]
    chance.shuffle(times)
    there = [Made(id=f"s{n}", job_id=n, due=due) for n, due in enumerate(times, start=1)]
    left = kept(keep, there)
    assert (
        left[len(left) - min(keep.last or 1, len(left)) :]
        == (there[len(there) - min(keep.last or 1, len(there)) :])
    )


def test_keeping_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="keep at least one"):
        Keep()
