"""Wake-ups: messages that tell workers to look into the database, perhaps for certain jobs.

A wake-up that is lost, doubled or late harms nothing: the rows in state ``queued`` are the
outbox, the scheduler sends wake-ups for those that stay, and workers look by themselves
from time to time.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from celery import Celery
from kombu.entity import Exchange, Queue
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, ResponseError
from redis.retry import Retry

from orchestrator import broker, failpoints
from orchestrator.domain.names import MAX_ID
from orchestrator.domain.queues import CONTROL_QUEUE, GROUP_BUDGET
from orchestrator.jobs.queued import MOST_NAMED, Wake, together
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
#: What stands in a message for the ids until it is sent.
_PLACE = [0]
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


def wakeup(app: Celery, name: str, jobs: Sequence[int] | None = None) -> dict[str, Any]:
    """A wake-up for a queue: a task message in the envelope that Celery's Redis transport has.

    ``jobs``: ids of jobs that may be there; None: any.
    """
    named = None if jobs is None else list(jobs)
    task = app.amqp.as_task_v2(str(uuid.uuid4()), WAKE_TASK, (name, named), {})
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


class Messages:
    """The wake-ups for each queue: one text, as Celery writes it, but for the jobs it names."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._texts: dict[str, str] = {}

    def text(self, name: str, jobs: Sequence[int] | None) -> str:
        """What `wakeup` returns, as JSON."""
        if name not in self._texts:
            self._texts[name] = json.dumps(wakeup(self._app, name, _PLACE))
        return self._texts[name].replace(json.dumps(_PLACE), json.dumps(jobs))


def is_wakeup(message: Any) -> bool:
    """Whether what was read from a queue is a wake-up."""
    headers = message.get("headers") if isinstance(message, dict) else None
    return isinstance(headers, dict) and headers.get("task") == WAKE_TASK


def jobs_named(message: Mapping[str, Any]) -> list[int] | None:
    """The jobs that a wake-up names, as far as it can be read; None: it names none."""
    try:
        [_, named], *_ = json.loads(message["body"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    if not isinstance(named, list) or len(named) > MOST_NAMED:
        return None
    return named if all(type(one) is int and 0 < one <= MAX_ID for one in named) else None


class Wakeups:
    """Sends wake-ups from a thread of its own, so that no request waits for the broker.

    Requests for the same queue that come together are sent as one. What cannot be sent is
    dropped: the scheduler sees the queued rows.
    """

    def __init__(self, broker_url: str, prefix: str = "") -> None:
        """``prefix``: of the names of all keys."""
        self._publisher = Publisher(broker_url, prefix)
        self._trouble = Trouble(log, "wakeups.not_sent", "wakeups.sent_again")
        #: What wake-ups were asked for.
        self._wanted: Wake = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="wakeups", daemon=True)
        self._thread.start()

    def send(self, wake: Wake) -> None:
        """Ask for wake-ups for what was queued."""
        if not wake:
            return
        with self._changed:
            self._wanted = together(self._wanted, wake)
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
                if not wanted and self._stopping:
                    return
            try:
                self._publisher.publish(wanted)
                self._trouble.went()
                # What is asked for meanwhile is sent as one.
                asked = sum(one.count for one in wanted.values())
                time.sleep(min(_LONGEST_PAUSE, asked * _PAUSE_EACH))
            except Exception as error:
                self._trouble.came(queues=sorted(wanted), error=str(error))


class Publisher:
    """Sends wake-ups, and keeps those that nobody fetches from filling the broker.

    When as many wait as may, the newest one stands for all jobs.
    """

    def __init__(self, broker_url: str, prefix: str = "") -> None:
        self._messages = Messages(celery_app())
        self._prefix = prefix
        self._redis = broker.client(
            broker_url,
            socket_timeout=_SOCKET_TIMEOUT,
            socket_connect_timeout=_CONNECT_TIMEOUT,
            # A connection that has died meanwhile is made anew; then it is the scheduler that
            # sends again.
            retry=Retry(NoBackoff(), 1),
        )
        #: The most messages that each queue can have by now.
        self._lengths: dict[str, int] = {}

    def publish(self, wanted: Wake) -> None:
        """Send wake-ups now: as many as there are groups of jobs that can be claimed.

        Raises what the broker's library raises.

        A queue that the broker refuses (another application has a key of that name) keeps no
        other from its wake-ups.
        """
        refused: ResponseError | None = None
        for name, queued in wanted.items():
            try:
                self._publish(name, min(_MOST_AT_ONCE, -(-queued.cost // GROUP_BUDGET)), queued.ids)
            except ResponseError as error:
                refused = error
        if refused is not None:
            raise refused

    def _publish(self, name: str, count: int, ids: Sequence[int] | None) -> None:
        key, text = self._prefix + name, self._messages.text(name, ids)
        length = self._lengths.get(name, 0)
        if length + count > _MOST_WAITING:
            length = int(self._redis.llen(key))
        sent = max(0, min(count, _MOST_WAITING - length))
        self._lengths[name] = length + sent
        for _ in range(sent):
            failpoints.reach("wakeups.before_publish", queue=name)
            self._redis.lpush(key, text)
            failpoints.reach("wakeups.after_publish", queue=name)
        if not sent:
            self._generalize(key, name)

    def _generalize(self, key: str, name: str) -> None:
        """Have the newest wake-up that waits stand for all jobs, those left out among them."""
        text = self._messages.text(name, None)
        try:
            self._redis.lset(key, 0, text)
        except NoPermissionError:
            # The scheduler sends a wake-up for what nobody takes.
            return
        except ResponseError as error:
            if "no such key" not in str(error):
                raise
            # They have all been read meanwhile.
            self._redis.lpush(key, text)

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()
