"""The report of a period: what the database adds up is what one counts by hand."""

from __future__ import annotations

import random
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from statistics import quantiles
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, update

from orchestrator.contract import reports
from orchestrator.domain.errors import InvalidInput, UnknownBackend
from orchestrator.findings.report import report
from orchestrator.inventory.capacity import record_day
from orchestrator.store.tables import backends, capacity_days, findings, jobs
from tests.engine.conftest import Engine, create
from tests.engine.lively import Lively

pytestmark = pytest.mark.either_database

SINCE = datetime(2026, 1, 1, 12, tzinfo=UTC)
UNTIL = SINCE + timedelta(days=30)
FOUR_SECONDS = timedelta(seconds=4)


def made(engine: Engine, **period: Any) -> dict[str, Any]:
    return engine.database.look(lambda connection: report(connection, **period))


def write_jobs(engine: Engine, chance: random.Random) -> list[dict[str, Any]]:
    """Jobs that ended in the period, before and after it, on two backends."""
    with engine.database.read() as connection:
        ids = dict(connection.execute(select(backends.c.name, backends.c.id)).all())
    rows: list[dict[str, Any]] = []
    for number in range(1, 301):
        state = chance.choice(["succeeded", "succeeded", "failed", "canceled"])
        started = SINCE + timedelta(seconds=chance.randint(-90, 1050) * 2700)
        begun = state != "canceled" or chance.random() < 0.5
        code = chance.choice(["no_space", "backend_error", "in_use"])
        rows.append(
            {
                "id": number, "action": chance.choice(["volume.create", "volume.grow"]),
                "backend_id": ids[chance.choice(["ram", "fast"])], "volume": f"v{number}",
                "params": {}, "state": state, "queue": "q", "cost": 1, "claims": 1, "begun": begun,
                "max_attempts": 5, "fence": 1, "outcome_fence": 1, "submitted_by": "someone",
                "created_at": started, "started_at": started if begun else None,
                "finished_at": started + timedelta(microseconds=chance.randint(0, 5_000) * 1000),
                "error": {"code": code, "detail": f"<{code}>"} if state == "failed" else None,
            }
        )  # fmt: skip
    with engine.database.write() as connection:
        connection.execute(insert(jobs), rows)
    names = {id_: name for name, id_ in ids.items()}
    return [{**row, "backend": names[row["backend_id"]]} for row in rows]


def test_jobs_and_failures_are_those_of_the_period(engine: Engine) -> None:
    written = write_jobs(engine, random.Random(7))
    rows = [row for row in written if SINCE <= row["finished_at"] < UNTIL]
    assert 0 < len(rows) < len(written)
    assert_told(made(engine, since=SINCE, until=UNTIL), rows)
    of_one = [row for row in rows if row["backend"] == "ram"]
    assert_told(made(engine, since=SINCE, until=UNTIL, backend="ram"), of_one)


def assert_told(told: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """The report tells of exactly these jobs, counted here one by one."""
    kinds: dict[tuple[str, str], list[float | None]] = defaultdict(list)
    for row in rows:
        lasted = row["started_at"] and (row["finished_at"] - row["started_at"]).total_seconds()
        kinds[row["action"], row["state"]].append(lasted)
    assert [(row["action"], row["state"]) for row in told["jobs"]] == sorted(kinds)
    for row in told["jobs"]:
        lasted = kinds[row["action"], row["state"]]
        timed = [seconds for seconds in lasted if seconds is not None]
        percentiles = quantiles(timed, n=100, method="inclusive")
        assert row["jobs"] == len(lasted)
        assert row["median_seconds"] == pytest.approx(percentiles[49])
        assert row["p95_seconds"] == pytest.approx(percentiles[94])
        assert row["longest_seconds"] == pytest.approx(max(timed))
    causes: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        if row["state"] == "failed":
            causes[row["error"]["code"]].append(row)
    assert [row["failures"] for row in told["failures"]] == sorted(
        map(len, causes.values()), reverse=True
    )
    for row in told["failures"]:
        failed = causes[row["code"]]
        latest = max(failed, key=lambda job: (job["finished_at"], job["id"]))
        assert row["failures"] == len(failed)
        assert row["latest"]["job_id"] == latest["id"]
        assert row["latest"]["finished_at"] == latest["finished_at"]
        assert row["latest"]["error_detail"] == latest["error"]["detail"]


def test_few_jobs_have_percentiles_too(engine: Engine) -> None:
    rows = write_jobs(engine, random.Random(1))
    succeeded = [row["id"] for row in rows if row["state"] == "succeeded"]
    for jobs_there in (2, 1, 0):
        with engine.database.write() as connection:
            connection.execute(delete(jobs).where(jobs.c.id.not_in(succeeded[:jobs_there])))
            connection.execute(
                update(jobs).values(
                    action="volume.wipe", started_at=SINCE, finished_at=SINCE + FOUR_SECONDS
                )
            )
        told = made(engine, since=SINCE, until=UNTIL)["jobs"]
        assert [row["jobs"] for row in told] == [jobs_there][: len(told)]
        assert len(told) == min(1, jobs_there)
        for row in told:
            assert (row["median_seconds"], row["p95_seconds"]) == (4.0, 4.0)


def test_what_went_is_told_with_who_and_why(engine: Engine) -> None:
    Lively(engine)
    told = made(engine)["removals"]
    assert told["total"] == 5
    assert [(row["kind"], row["actor"], row["reason"]) for row in told["items"]] == [
        ("volume.remove", "tests", "with its lock"),
        ("volume.forget", "tests", "taken away"),
        ("volume.remove", "tests", "customer left"),
        ("snapshot.delete", "tests", "old"),
        ("volume.purge", "tests", "over"),
    ]
    assert made(engine, backend="fast")["removals"] == {"total": 0, "items": []}
    capacity = made(engine)["capacity"]
    today = capacity[-1]["days"][-1]["at"].date()
    assert [one["backend"] for one in capacity] == ["fast", "ram"]
    assert [day["day"] for day in capacity[-1]["days"]][-1:] == [today]


def test_a_report_up_to_now_ends_with_the_present(engine: Engine) -> None:
    def ram(**period: datetime) -> dict[str, Any]:
        found = {one["backend"]: one["days"] for one in made(engine, **period)["capacity"]}
        days = found["ram"]
        assert len({day["day"] for day in days}) == len(days)
        return dict(days[-1])

    before = ram()
    engine.submit(create("present", "3M"))
    engine.work()
    after = ram()
    for counted, more in (
        ("volumes", 1),
        ("volume_bytes", 3 * 2**20),
        ("promised_bytes", 3 * 2**20),
    ):
        assert after[counted] == before[counted] + more
    assert after["at"] > before["at"]
    # The end of today, as a date on the command line means it, is not over either.
    assert ram(until=after["at"] + timedelta(days=1))["volumes"] == after["volumes"]
    # A period that is over has what was seen then, which nothing changes.
    engine.database.transact(record_day)
    engine.submit(create("later"))
    engine.work()
    assert ram(until=after["at"] + timedelta(milliseconds=1))["volumes"] == after["volumes"]
    assert ram()["volumes"] == after["volumes"] + 1


def test_capacity_of_a_long_period_is_that_of_the_last_day_of_every_few(engine: Engine) -> None:
    days = [date(2020, 1, 1) + timedelta(days=n) for n in range(1000)]
    with engine.database.write() as connection:
        connection.execute(
            insert(capacity_days),
            [
                {
                    "backend_id": 1, "day": day, "at": SINCE, "promised_bytes": n, "volumes": n,
                    "volume_bytes": n, "used_bytes": n, "snapshots": 0,
                }
                for n, day in enumerate(days)
            ],
        )  # fmt: skip
    since = datetime(2020, 1, 1, tzinfo=UTC)
    [told] = made(engine, since=since, until=since + timedelta(days=1000))["capacity"]
    assert [day["day"] for day in told["days"]] == [*days[2::3], days[-1]]
    [told] = made(engine, since=since, until=since + timedelta(days=3))["capacity"]
    assert [day["day"] for day in told["days"]] == days[:3]
    assert len(days) / 3 < reports.MOST_DAYS


def test_findings_are_counted_by_kind(engine: Engine) -> None:
    before, within, after = SINCE - timedelta(days=1), SINCE, UNTIL
    seen = [
        ("ghost", before, None),
        ("ghost", within, None),
        ("ghost", within, within),
        ("orphan", before, within),
        ("orphan", before, after),
    ]
    with engine.database.write() as connection:
        connection.execute(
            insert(findings),
            [
                {
                    "id": id_, "backend_id": 1, "kind": kind, "subject": f"s{id_}", "text": "t",
                    "detail": {}, "state": "closed" if closed else "open",
                    "first_seen_at": first, "last_seen_at": first, "last_seen_by": 1,
                    "closed_at": closed,
                }
                for id_, (kind, first, closed) in enumerate(seen, start=1)
            ],
        )  # fmt: skip
    assert made(engine, since=SINCE, until=UNTIL)["findings"] == [
        {"kind": "ghost", "opened": 2, "closed": 1, "open_now": 2},
        {"kind": "orphan", "opened": 0, "closed": 1, "open_now": 0},
    ]


def test_a_period_that_is_none_and_a_backend_that_never_was_are_refused(engine: Engine) -> None:
    with pytest.raises(InvalidInput) as refused:
        made(engine, since=UNTIL, until=SINCE)
    assert refused.value.field == "from"
    with pytest.raises(InvalidInput):
        made(engine, until=datetime(1, 1, 2, tzinfo=UTC))
    with pytest.raises(UnknownBackend):
        made(engine, backend="nowhere")
