"""Wake-ups: messages that tell workers to look into the database. They carry no job.

A wake-up that is lost, doubled or late harms nothing: the rows in state ``queued`` are the
outbox, the scheduler sends wake-ups for those that stay, and workers look by themselves
from time to time.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import structlog
from celery import Celery
from kombu.entity import Exchange, Queue
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError
from redis.retry import Retry

from orchestrator import broker, failpoints
from orchestrator.domain.queues import CONTROL_QUEUE, GROUP_BUDGET
from orchestrator.logs import Trouble

log = structlog.get_logger(__name__)

#: The task that every worker has.
WAKE_TASK = "orchestrator.wake"

#: Wake-ups sent at once for one queue; workers call for more while there is work.
_MOST_AT_ONCE = 4
#: Seconds without wake-ups after a round, for each job that asked for one, and at most: one
#: that comes alone is told at once; of many that come, a worker takes some together.
_PAUSE_EACH = 0.002
_LONGEST_PAUSE = 0.02
#: Messages that may wait in the broker for one queue: more would tell nothing new.
_MOST_WAITING = 16
#: Seconds a broker may take to accept a connection or a message.
_CONNECT_TIMEOUT = 2
_SOCKET_TIMEOUT = 5


def celery_app() -> Celery:
    """The Celery application, with the settings that a broker which is only a hint needs."""
    app = Celery("orchestrator", set_as_current=False)
    app.conf.update(
        # A message is a hint, and not acknowledged at all (`queue`): what is lost with a worker
        # is sent again by the scheduler, and nothing can be delivered again while it is done.
        task_acks_late=False,
        # A broker that is full refuses writes, which passes: no reason to end.
        broker_channel_error_retry=True,
        # Results, times and retries live in the database.
        task_ignore_result=True,
        result_backend=None,
        worker_prefetch_multiplier=1,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_pool_limit=4,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_enable_remote_control=False,
        task_default_queue=CONTROL_QUEUE,
        broker_transport_options={
            # Nothing to keep, nothing to look through for what was kept too long.
            "ack_emulation": False,
            # Sending is tried once: it is the scheduler that sends again.
            "max_retries": 0,
            "socket_timeout": _SOCKET_TIMEOUT,
            "socket_connect_timeout": _CONNECT_TIMEOUT,
            "socket_keepalive": True,
            # All wake-ups are alike.
            "priority_steps": [0],
        },
    )
    return app


def queue(name: str) -> Queue:
    """The Celery queue of this name."""
    exchange = Exchange(name, type="direct")  # type: ignore[no-untyped-call]
    return Queue(name, exchange, routing_key=name, no_ack=True)  # type: ignore[no-untyped-call]


def wakeup(app: Celery, name: str) -> dict[str, Any]:
    """A wake-up for a queue: a task message in the envelope that Celery's Redis transport has."""
    task = app.amqp.as_task_v2(str(uuid.uuid4()), WAKE_TASK, (name,), {})
    return {
        "body": json.dumps(task.body),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": task.headers,
        "properties": {
            **task.properties,
            "delivery_tag": str(uuid.uuid4()),
            "delivery_info": {"exchange": "", "routing_key": name},
            "priority": 0,
        },
    }


def is_wakeup(message: Any) -> bool:
    """Whether what was read from a queue is a wake-up."""
    headers = message.get("headers") if isinstance(message, dict) else None
    return isinstance(headers, dict) and headers.get("task") == WAKE_TASK


class Wakeups:
    """Sends wake-ups from a thread of its own, so that no request waits for the broker.

    Requests for the same queue that come together are sent as one. What cannot be sent is
    dropped: the scheduler sees the queued rows.
    """

    def __init__(self, broker_url: str, prefix: str = "") -> None:
        """``prefix``: of the names of all keys."""
        self._publisher = Publisher(broker_url, prefix)
        self._trouble = Trouble(log, "wakeups.not_sent", "wakeups.sent_again")
        #: What the work costs that wake-ups were asked for, by queue; and its jobs.
        self._wanted: dict[str, int] = {}
        self._asked = 0
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="wakeups", daemon=True)
        self._thread.start()

    def send(self, queues: Mapping[str, int] | Iterable[str], *, jobs: int = 1) -> None:
        """Ask for wake-ups: by queue what the work there costs, or queues with one each.

        ``jobs``: how many jobs the work is, as far as that is known.
        """
        costs = queues if isinstance(queues, Mapping) else dict.fromkeys(queues, GROUP_BUDGET)
        if not costs:
            return
        with self._changed:
            for name, cost in costs.items():
                self._wanted[name] = self._wanted.get(name, 0) + cost
            self._asked += jobs
            self._changed.notify()

    def close(self) -> None:
        """Send what is wanted, if the broker answers, and stop."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout=_CONNECT_TIMEOUT + _SOCKET_TIMEOUT)
        self._publisher.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._wanted and not self._stopping:
                    self._changed.wait()
                wanted, self._wanted = self._wanted, {}
                asked, self._asked = self._asked, 0
                if not wanted and self._stopping:
                    return
            try:
                self._publisher.publish(
                    {
                        # As many as there are groups of jobs that can be claimed.
                        name: min(_MOST_AT_ONCE, -(-cost // GROUP_BUDGET))
                        for name, cost in wanted.items()
                    }
                )
                self._trouble.went()
                # What is asked for meanwhile is sent as one.
                time.sleep(min(_LONGEST_PAUSE, asked * _PAUSE_EACH))
            except Exception as error:
                self._trouble.came(queues=sorted(wanted), error=str(error))


class Publisher:
    """Sends wake-ups, and keeps those that nobody fetches from filling the broker.

    All wake-ups of a queue are one and the same message, written once, as Celery writes it.
    """

    def __init__(self, broker_url: str, prefix: str = "") -> None:
        self._app = celery_app()
        self._prefix = prefix
        self._redis = broker.client(
            broker_url,
            socket_timeout=_SOCKET_TIMEOUT,
            socket_connect_timeout=_CONNECT_TIMEOUT,
            # A connection that has died meanwhile is made anew; then it is the scheduler that
            # sends again.
            retry=Retry(NoBackoff(), 1),
        )
        self._messages: dict[str, str] = {}
        #: The most messages that each queue can have by now.
        self._lengths: dict[str, int] = {}

    def publish(self, wanted: Mapping[str, int]) -> None:
        """Send wake-ups now. Raises what the broker's library raises.

        A queue that the broker refuses (another application has a key of that name) keeps no
        other from its wake-ups.
        """
        refused: ResponseError | None = None
        for name, count in wanted.items():
            try:
                self._publish(name, count)
            except ResponseError as error:
                refused = error
        if refused is not None:
            raise refused

    def _publish(self, name: str, count: int) -> None:
        key = self._prefix + name
        length = self._lengths.get(name, 0)
        if length + count > _MOST_WAITING:
            length = int(self._redis.llen(key))
        sent = max(0, min(count, _MOST_WAITING - length))
        self._lengths[name] = length + sent
        for _ in range(sent):
            failpoints.reach("wakeups.before_publish", queue=name)
            self._redis.lpush(key, self._message(name))
            failpoints.reach("wakeups.after_publish", queue=name)

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def _message(self, name: str) -> str:
        if name not in self._messages:
            self._messages[name] = json.dumps(wakeup(self._app, name))
        return self._messages[name]
