"""Which jobs a worker process tries next, and when it looks at the queue."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from workers import hints
from workers.hints import LOOKED_FOR, Hints


class Queue:
    """A queue that counts how often it is looked at."""

    def __init__(self, *jobs: int) -> None:
        self.jobs = list(jobs)
        self.looks = 0

    def look(self, most: int) -> Sequence[int]:
        """What comes next."""
        self.looks += 1
        return self.jobs[:most]


@pytest.fixture(autouse=True)
def _nothing_grows_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "_FRESH_SECONDS", 3600.0)
    monkeypatch.setattr(hints, "_OLD_SECONDS", 3600.0)


def test_jobs_that_a_wake_up_names_are_tried_without_a_look() -> None:
    queue = Queue()
    made = Hints(queue.look)
    assert made.take().ids == []
    made.add([7, 8])
    assert made.take().ids == [7, 8]
    assert made.take().ids == []
    assert queue.looks == 1


def test_a_process_that_begins_looks_before_it_takes_what_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hints, "_OLD_SECONDS", 0.0)
    queue = Queue(5, 7)
    made = Hints(queue.look)
    made.add([7])
    # A claim takes them in the order of the queue.
    assert made.take().ids == [7, 5, 7]


def test_a_process_that_was_busy_looks_for_what_came_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hints, "_OLD_SECONDS", 0.0)
    queue = Queue()
    made = Hints(queue.look)
    made.take()
    made.add([7])
    first = made.take()
    made.claimed(first, first.ids, more=False)
    assert made.old
    queue.jobs = [5, 8]
    made.add([8])
    assert made.take().ids == [8, 5, 8]
    assert not made.old


def test_a_wake_up_that_names_none_has_the_queue_looked_at_once_for_many_claims() -> None:
    queue = Queue(*range(1, 1001))
    made = Hints(queue.look)
    made.add(None)
    first = made.take()
    assert (first.ids, first.fresh) == (queue.jobs[:400], True)
    # Half of them were there to be claimed: the others come again.
    assert made.claimed(first, first.ids[:200], more=True)
    second = made.take()
    assert (second.ids, second.fresh) == (queue.jobs[200:600], False)
    assert queue.looks == 1


def test_few_are_tried_where_few_can_be_claimed() -> None:
    made = Hints(Queue(*range(1, 1001)).look)
    made.add(None)
    tried = made.take()
    made.claimed(tried, tried.ids[:1], more=True)
    assert made.take().ids == list(range(2, 10))


def test_what_stands_before_the_last_job_claimed_is_taken_by_others() -> None:
    made = Hints(Queue(1, 2, 3, 4, 5).look)
    made.add(None)
    tried = made.take()
    made.claimed(tried, [3, 4], more=True)
    assert made.take().ids == [5]


def test_a_queue_with_more_than_is_looked_for_is_looked_at_again() -> None:
    queue = Queue(*range(1, LOOKED_FOR + 1))
    made = Hints(queue.look)
    made.add(None)
    seen: list[int] = []
    while len(seen) < LOOKED_FOR:
        seen += made.take().ids
    queue.jobs = [10**6]
    assert made.take().ids == [10**6]
    assert seen == list(range(1, LOOKED_FOR + 1))
    assert made.take().ids == []
    assert queue.looks == 2


def test_what_came_while_a_thread_looked_is_looked_for_again() -> None:
    queue = Queue(1)

    def look(most: int) -> Sequence[int]:
        if queue.looks == 0:
            made.add(None)
        return queue.look(most)

    made = Hints(look)
    made.add(None)
    assert made.take().ids == [1]
    queue.jobs = [2]
    assert made.take().ids == [2]


def test_old_hints_give_way_to_a_new_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "_OLD_SECONDS", 0.0)
    queue = Queue(*range(1, 1001))
    made = Hints(queue.look)
    made.add(None)
    made.take()
    queue.jobs = [5000, *queue.jobs[400:]]
    assert made.take().ids[0] == 5000


def test_too_many_names_are_no_names() -> None:
    queue = Queue(1, 2, 3)
    made = Hints(queue.look)
    made.take()
    for start in range(0, 2000, 50):
        made.add(list(range(10_000 + start, 10_050 + start)))
    assert len(made.take().ids) <= 1_000
    assert made.take().ids == [1, 2, 3]


def test_a_look_that_failed_is_made_up_for() -> None:
    queue = Queue(1)

    def look(most: int) -> Sequence[int]:
        if queue.looks == 0:
            queue.looks += 1
            raise ConnectionError
        return queue.look(most)

    made = Hints(look)
    made.add(None)
    with pytest.raises(ConnectionError):
        made.take()
    assert made.take().ids == [1]
