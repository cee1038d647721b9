"""Start times and back-off: kept as messages they are doubled or lost, kept as rows they hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import redis

from tests.broker.conftest import MakePlain, Parts, until


@pytest.mark.slow
def test_a_plain_task_with_a_countdown_beyond_the_visibility_timeout_runs_more_than_once(
    make_plain: MakePlain,
) -> None:
    plain = make_plain(
        broker_transport_options={
            "visibility_timeout": 1,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
        }
    )
    plain.worker()
    plain.worker()
    plain.send("quick", "later", countdown=5)
    until(lambda: plain.journal().count("later done") > 1, "it ran more than once")


@pytest.mark.slow
def test_a_plain_task_with_a_countdown_is_gone_when_redis_is_emptied(
    make_plain: MakePlain, server: redis.Redis
) -> None:
    plain = make_plain()
    plain.send("quick", "first", countdown=0.5)
    server.flushall()
    plain.send("quick", "second", countdown=1)
    plain.worker()
    plain.until_done("second")
    assert plain.journal() == ["second done"]


@pytest.mark.slow
def test_a_start_time_outlives_an_emptied_redis_and_the_job_runs_once_and_not_before(
    parts: Parts, server: redis.Redis
) -> None:
    parts.scheduler(scheduler__relay_seconds=0.5)
    first = parts.worker()
    run_at = datetime.now(UTC) + timedelta(seconds=2)
    [job] = parts.create("later", run_at=run_at.isoformat())
    assert parts.job(job)["waiting_on"]["kind"] == "start_time"
    server.flushall()
    first.kill()
    parts.worker()
    parts.until_states([job], "succeeded")
    assert parts.job(job)["started_at"] >= run_at
    assert parts.starts([job]) == {job: 1}
    assert [volume.name for volume in parts.stored()] == ["later"]


@pytest.mark.slow
def test_a_back_off_outlives_an_emptied_redis_and_uses_one_attempt_more(
    parts: Parts, server: redis.Redis
) -> None:
    parts.scheduler(scheduler__relay_seconds=0.5)
    parts.faults.set(operation="create", kind="unavailable", times=1)
    first = parts.worker(retry__first_seconds=3)
    [job] = parts.create("tried")
    until(lambda: parts.job(job)["attempts"], "the first attempt failed")
    waiting = parts.job(job)
    assert (waiting["state"], waiting["waiting_on"]["kind"]) == ("waiting", "back_off")
    server.flushall()
    first.kill()
    parts.worker()
    parts.until_states([job], "succeeded")
    tried = parts.job(job)
    assert (tried["attempt"], len(tried["attempts"])) == (2, 1)
    assert parts.starts([job]) == {job: 2}
