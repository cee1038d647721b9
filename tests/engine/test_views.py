"""What readers are shown of jobs, batches and events, beside what the tests of each look at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import select

from orchestrator.domain.states import JobState
from orchestrator.history.events import number_committed, read_newest
from orchestrator.jobs.views import ended_lately, failures_of_batch, list_batches
from orchestrator.store.tables import installation
from tests.engine.conftest import Engine, create
from workers.backends.memory.store import Faults


@pytest.fixture
def faults(engine: Engine) -> Iterator[Faults]:
    """What tells the backend ``ram`` to fail."""
    with engine.database.read() as transaction:
        uuid = transaction.execute(select(installation.c.uuid)).scalar_one()
    made = Faults("ram", uuid)
    yield made
    made.clear()


def _batch(engine: Engine, *names: str) -> int:
    accepted = engine.submit(*(create(name) for name in names), batch=True)
    assert accepted.batch_id is not None
    return accepted.batch_id


def test_batches_are_listed_newest_first_in_pages(engine: Engine) -> None:
    ids = [_batch(engine, f"a{number}", f"b{number}") for number in range(3)]
    with engine.database.read() as transaction:
        first = list_batches(transaction, before=None, limit=2)
        second = list_batches(transaction, before=first[-1]["id"], limit=2)
    assert [one["id"] for one in (*first, *second)] == ids[::-1]
    assert first[0] == engine.batch(ids[-1])


def test_failures_of_a_batch_are_told_by_cause(engine: Engine, faults: Faults) -> None:
    faults.set(kind="fail", operation="create", name_pattern="full*", code="no_space")
    faults.set(kind="fail", operation="create", name_pattern="odd*", code="conflict")
    first = _batch(engine, "odd1", "full1", "good1", "full2", "full3")
    other = _batch(engine, "full4", "good2")
    engine.work()
    with engine.database.read() as transaction:
        causes = failures_of_batch(transaction, first)
        assert [(one["code"], one["jobs"]) for one in causes] == [("no_space", 3), ("conflict", 1)]
        assert engine.job(causes[0]["job"])["volume"] == "full1"
        assert causes[0]["detail"] == engine.job(causes[0]["job"])["error"]["detail"]
        [only] = failures_of_batch(transaction, other)
        assert (only["code"], only["jobs"]) == ("no_space", 1)
        # No more are read than that, however many there are.
        [one] = failures_of_batch(transaction, first, most=1)
        assert one["jobs"] == 1


def test_what_ended_lately_is_counted_by_minute(engine: Engine, faults: Faults) -> None:
    faults.set(kind="fail", operation="create", name_pattern="full*", code="no_space")
    engine.submit(create("a"), create("b"), create("full"))
    engine.submit(create("later", run_at="2999-01-01T00:00:00Z"))
    engine.work()
    with engine.database.read() as transaction:
        found = ended_lately(transaction, 30)
        few = ended_lately(transaction, 30, most=2)
    assert len(found.minutes) == 30
    # A minute may have ended meanwhile.
    ended = {s: found.minutes[-1][s] + found.minutes[-2][s] for s in found.minutes[-1]}
    assert ended == {JobState.SUCCEEDED: 2, JobState.FAILED: 1, JobState.CANCELED: 0}
    assert all(not sum(minute.values()) for minute in found.minutes[:-2])
    assert (found.at_least, few.at_least) == (False, True)


def test_events_are_read_backwards_in_pages(engine: Engine) -> None:
    engine.submit(*(create(f"vm{number}") for number in range(5)))
    engine.work()
    while engine.database.transact(number_committed):
        pass
    with engine.database.read() as transaction:
        _, every, _ = read_newest(transaction, 1000, {})
        numbers = [row.number for row in every]
        read: list[int] = []
        before = None
        while True:
            _, rows, _ = read_newest(transaction, 3, {}, before=before)
            if not rows:
                break
            read = [row.number for row in rows] + read
            before = rows[0].number
    assert read == numbers
    assert numbers == list(range(1, len(numbers) + 1))
