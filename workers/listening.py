"""How a worker listens: Celery reads wake-ups over a transport that no message can break.

A wake-up says no more than the queue it stands in and, perhaps, ids of jobs to look for there, so
that nothing else of a message is believed: what is none of ours is dropped and counted, whatever is
in it, and what is one is handed on as it would have been written here. The transport takes its
connections from `orchestrator.broker`: the broker's address means the same here as in every other
part.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from queue import Empty
from typing import Any

import structlog
from celery import Celery
from kombu.transport import TRANSPORT_ALIASES, redis
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from orchestrator import broker
from orchestrator.jobs.wakeups import Messages, celery_app, is_wakeup, jobs_named
from orchestrator.logs import Trouble

log = structlog.get_logger(__name__)

#: Seconds before a queue is read again that the broker does not let be read.
_PAUSE_SECONDS = 1.0
#: Seconds before listening again after it has come to an end: twice this at first, and at most.
_FIRST_SECONDS = 0.5
_MOST_SECONDS = 30.0


class _Dropped:
    """What was read and was no wake-up."""

    def __init__(self) -> None:
        self.count = 0
        self._trouble = Trouble(log, "worker.messages_dropped", "worker.messages_understood")

    def one(self, queue: str | None, why: str) -> None:
        """Another one."""
        self.count += 1
        self._trouble.came(queue=queue, why=why)


class _Channel(redis.Channel):
    """Reads wake-ups; what it does not let through harms nobody."""

    from_transport_options: Any = (
        *redis.Channel.from_transport_options,
        *("broker_url", "unreadable"),
    )
    broker_url: str
    unreadable: Trouble

    def _get_pool(self, asynchronous: bool = False) -> Any:
        self.keyprefix_fanout = self.keyprefix_fanout.format(db=0)
        pool = broker.client(
            self.broker_url,
            socket_timeout=self.socket_timeout,
            socket_connect_timeout=self.socket_connect_timeout,
            health_check_interval=self.health_check_interval,
        ).connection_pool
        if asynchronous:
            pool.connection_class = _polled(pool.connection_class, self)
        return pool

    def _queue_bind(self, *_: Any) -> None:
        """Wake-ups are put into their queue directly: no exchange need know it."""

    def _size(self, _queue: str) -> int:
        """Asked when a queue is declared, and of no use."""
        return 0

    def _brpop_read(self, **options: Any) -> Any:
        try:
            found = super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except ResponseError as error:
            time.sleep(_PAUSE_SECONDS)
            if not isinstance(error, NoPermissionError) and not str(error).startswith("WRONGTYPE"):
                raise
            # Another application's key, or no right to read: to connect anew would change nothing.
            self.unreadable.came(error=str(error))
            raise Empty from None
        except (RedisError, OSError, Empty):
            raise
        except Exception as error:
            self.connection.dropped.one(None, f"it cannot be read ({type(error).__name__})")
            return True
        self.unreadable.went()
        return found


def _polled(kind: type, channel: _Channel) -> type:
    """A connection that is no longer polled once it is closed."""

    class Polled(kind):
        def disconnect(self, *arguments: Any, **options: Any) -> None:
            super().disconnect(*arguments, **options)
            if channel._registered:
                channel._on_connection_disconnect(self)  # type: ignore[no-untyped-call]

    return Polled


class Transport(redis.Transport):
    """Hands on wake-ups, and nothing else."""

    Channel = _Channel

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)  # type: ignore[no-untyped-call]
        client: Any = self.client
        told = client.transport_options
        self.dropped: _Dropped = told["dropped"]
        self._messages: Messages = told["messages"]

    def _deliver(self, message: Any, queue: str) -> None:
        if queue not in self._callbacks or not is_wakeup(message):
            self.dropped.one(queue, "it is no wake-up")
        else:
            # Parsed for each delivery, because the receiver may change it.
            wakeup = json.loads(self._messages.text(queue, jobs_named(message)))
            super()._deliver(wakeup, queue)  # type: ignore[no-untyped-call]


#: Celery finds a transport by the scheme of its address.
_SCHEME = "wakeups"
TRANSPORT_ALIASES[_SCHEME] = f"{__name__}:{Transport.__name__}"


class Listening:
    """Runs Celery workers, one after the other, until the process is asked to stop."""

    def __init__(self, broker_url: str, prefix: str) -> None:
        self.app: Celery = celery_app()
        self._dropped = _Dropped()
        self.app.conf.broker_url = f"{_SCHEME}://broker"
        self.app.conf.broker_transport_options = {
            **self.app.conf.broker_transport_options,
            "broker_url": broker_url,
            "global_keyprefix": prefix,
            "dropped": self._dropped,
            "messages": Messages(self.app),
            "unreadable": Trouble(log, "worker.queues_not_read", "worker.queues_read_again"),
        }

    @property
    def dropped(self) -> int:
        """How many messages were read that were no wake-ups."""
        return self._dropped.count

    def until_stopped(self, start: Callable[[], None], stopping: threading.Event) -> None:
        """Listen with ``start``, again and again should that come to an end by itself.

        Nothing hangs on it: work is also found by looking, from time to time.
        """
        pause = _FIRST_SECONDS
        while True:
            began = time.monotonic()
            try:
                start()
            except (Exception, SystemExit) as error:
                why = f"{type(error).__name__}: {error}"
            else:
                why = "Celery has ended"
            if stopping.is_set():
                return
            pause = min(_MOST_SECONDS, 2 * pause)
            if time.monotonic() - began > _MOST_SECONDS:
                pause = 2 * _FIRST_SECONDS
            log.error("worker.not_listening", why=why, again_in_seconds=pause)
            if stopping.wait(pause):
                return
