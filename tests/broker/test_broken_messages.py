"""What anybody may write into a broker: it ends no worker, and holds up no job."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import redis

from orchestrator.api.waiters import Waiters
from orchestrator.embedded.broker import EmbeddedBroker
from orchestrator.history.events import latest_number, number_committed
from orchestrator.jobs.notices import CHANNEL, Notices
from orchestrator.jobs.wakeups import WAKE_TASK, celery_app, wakeup
from orchestrator.store.database import Database
from tests.broker.conftest import Parts, Process, until
from workers.listening import Listening

_QUEUES = ("backend.ram", "control", "host.here")


def _altered(**changes: Any) -> str:
    """A wake-up with other contents."""
    return json.dumps({**wakeup(celery_app(), "backend.ram"), **changes})


def _headed(**changes: Any) -> str:
    headers = wakeup(celery_app(), "backend.ram")["headers"]
    return _altered(headers={**headers, **changes})


def _body(body: Any) -> str:
    return _altered(body=body if isinstance(body, str) else json.dumps(body))


_BROKEN: dict[str, str | bytes] = {
    "a letter": "x",
    "nothing": "",
    "null": "null",
    "a number": "5",
    "a list": "[]",
    "an empty object": "{}",
    "half of an object": '{"body": "',
    "no text": b"\xff\xfe\x00",
    "a pickle": b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00\x8c\x08builtins\x94.",
    "too deep": "[" * 100_000,
    "a number of ten thousand digits": "9" * 10_000,
    "not a number": "NaN",
    "a type that is decoded": '{"__type__": "uuid", "__value__": 5}',
    "a type that is not known": '{"__type__": "nothing", "__value__": {}}',
    "much of it": json.dumps({"body": "x" * 2**20}),
    "no headers": _altered(headers=None),
    "headers that are a list": _altered(headers=["task", WAKE_TASK]),
    "no properties": _altered(properties=None),
    "no delivery tag": _altered(properties={"delivery_info": {}}),
    "another task": _headed(task="somebody.elses"),
    "a task that is a list": _headed(task=[WAKE_TASK]),
    "a time that is none": _headed(eta="yesterday"),
    "an end that is past": _headed(expires="1999-01-01T00:00:00"),
    "limits that are texts": _headed(timelimit=["a", "b"]),
    "a body that is no JSON": _body("x"),
    "a body with too many words": _body([["a", "b", "c"], {"d": 1}, {}]),
    "a body that is too deep": _body("[" * 100_000),
    "jobs that are texts": _body([["backend.ram", ["1"]], {}, {}]),
    "jobs with numbers that there are not": _body([["backend.ram", [True, -1, 2**80]], {}, {}]),
    "too many jobs": _body([["backend.ram", [1] * 100_000], {}, {}]),
    "jobs of another queue": _body([["backend.ram", list(range(1, 50))], {}, {}]),
    "another encoding": _altered(
        body=base64.b64encode(b"\x80\x04N.").decode(),
        **{"content-type": "application/x-python-serialize", "content-encoding": "binary"},
    ),
}


def test_broken_messages_end_no_worker_and_hold_up_no_batch(
    parts: Parts, server: redis.Redis
) -> None:
    workers = [parts.worker(), parts.worker()]
    jobs = parts.create(*(f"vm-{n}" for n in range(1000)))
    for message in _BROKEN.values():
        for queue in _QUEUES:
            server.lpush(queue, message)
    parts.until_states(jobs, "succeeded")
    until(lambda: not any(server.exists(queue) for queue in _QUEUES), "everything was read")
    # They still listen: none of them looks by itself.
    parts.until_states(parts.create("after"), "succeeded")
    assert [worker.running for worker in workers] == [True, True]
    assert [worker.stop() for worker in workers] == [0, 0]
    # Those that name our task are believed to be wake-ups, whatever else is in them.
    readable = sum(WAKE_TASK in str(text) and "[" not in str(text)[:1] for text in _BROKEN.values())
    assert sum(map(_dropped, workers)) >= len(_QUEUES) * (len(_BROKEN) - readable)
    assert all("Traceback" not in worker.log for worker in workers)
    assert all(worker.log.count("messages_dropped") <= 2 for worker in workers)


def _dropped(worker: Process) -> int:
    return int(worker.log.rpartition("dropped_messages=")[2].split()[0])


def test_a_key_of_another_kind_holds_up_no_other_queue(parts: Parts, server: redis.Redis) -> None:
    server.set("backend.ram", "another application's")
    worker = parts.worker(worker__claim_seconds=0.5)
    worker.until_it_says("queues_not_read")
    parts.until_states(parts.create("a"), "succeeded")  # found by looking
    assert server.get("backend.ram") == "another application's"
    server.delete("backend.ram")
    parts.until_states(parts.create("b"), "succeeded")
    worker.until_it_says("queues_read_again")
    assert worker.log.count("queues_not_read") == 1
    assert worker.stop() == 0


@pytest.mark.parametrize("prefix", ["", "orchestrator:"])
def test_all_keys_and_channels_have_the_prefix(
    parts: Parts, server: redis.Redis, prefix: str
) -> None:
    parts.prefix(prefix)
    worker = parts.worker()
    parts.until_states(parts.create("a"), "succeeded")
    assert all(key.startswith(prefix) for key in server.scan_iter("*"))
    assert worker.stop() == 0


def _documented() -> list[str]:
    """The rules of the user that the documentation tells to make."""
    text = Path(__file__, "../../../docs/configuration.md").resolve().read_text()
    [line] = [line for line in text.splitlines() if line.startswith("ACL SETUSER")]
    return [rule for rule in line.split()[3:] if rule != ">PASSWORD"]


def test_these_rights_suffice(parts: Parts, server: redis.Redis) -> None:
    parts.prefix("orchestrator:")
    server.acl_setuser("restricted", enabled=True, passwords=["+secret"])
    server.execute_command("ACL", "SETUSER", "restricted", *_documented())
    parts.authenticate("restricted", "secret")
    worker, scheduler = parts.worker(), parts.scheduler()
    parts.until_states(parts.create("a"), "succeeded")
    assert (worker.stop(), scheduler.stop()) == (0, 0)
    refused = [
        entry for entry in server.acl_log() if entry["username"] == "restricted"
    ]  # fmt: skip
    assert refused == []
    assert "not_sent" not in worker.log + scheduler.log


def test_a_broker_that_is_down_is_told_once_by_each(parts: Parts, broker: EmbeddedBroker) -> None:
    quick = {"scheduler__tick_seconds": 0.1, "scheduler__relay_seconds": 0.1}
    processes = [parts.worker(worker__claim_seconds=0.2), parts.scheduler(**quick)]
    parts.until_states(parts.create("before"), "succeeded")
    broker.stop()
    for n in range(20):
        parts.until_states(parts.create(f"during-{n}"), "succeeded")
    broker.start()
    parts.until_states(parts.create("after"), "succeeded")
    for process in processes:
        lines = [
            line for line in process.log.splitlines() if "[warning" in line or "[error" in line
        ]
        said = Counter(re.sub(r".*?\]\s+", "", line).split()[0] for line in lines)
        assert len(lines) <= 8, said
        assert process.stop() == 0


def test_a_worker_that_has_ended_listening_begins_anew(broker: EmbeddedBroker) -> None:
    listening, stopping = Listening(broker.url, ""), threading.Event()
    ends: list[int] = []

    def start() -> None:
        ends.append(len(ends))
        if len(ends) == 1:
            raise SystemExit(0)
        if len(ends) == 3:
            stopping.set()

    listening.until_stopped(start, stopping)
    assert ends == [0, 1, 2]


_FORGED = (
    *('{"events": 1e15}', '{"events": 1e999}', '{"events": "many"}', '{"jobs": 5}', "[1]", "x"),
    *('{"jobs": [1, 2, 999999999999999999999]}', '{"batches": [null]}', "null", "[" * 100_000),
)


def test_forged_notices_move_no_reader(
    parts: Parts, server: redis.Redis, broker: EmbeddedBroker, migrated_url: str
) -> None:
    database = Database(migrated_url)
    notices = Notices(broker.url)

    def number() -> int:
        database.transact(number_committed)
        with database.read() as connection:
            return latest_number(connection)

    async def read() -> tuple[int, int]:
        waiters = Waiters(database, broker.url, "", lambda _kind, _view: b"")
        await waiters.start()
        await asyncio.to_thread(
            until, lambda: server.pubsub_numsub(CHANNEL)[0][1] > 0, "the reader listens"
        )
        told = asyncio.create_task(waiters.events_after(before, 60.0))
        for text in _FORGED:
            await asyncio.to_thread(server.publish, CHANNEL, text)
        parts.create("a")
        now = await asyncio.to_thread(number)
        notices.numbered(now)
        found = await told
        await waiters.stop()
        return found, now

    try:
        before = number()
        found, now = asyncio.run(read())
        assert before < found <= now
    finally:
        notices.close()
        database.close()
