"""What readers are shown of jobs, batches and events, beside what the tests of each look at."""

from __future__ import annotations

from orchestrator.jobs.views import list_batches
from tests.engine.conftest import Engine, create


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
