"""Notices: what has ended or got its number, published for those who wait. A hint, too."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import structlog
from redis.exceptions import RedisError

from orchestrator import broker, failpoints
from orchestrator.logs import Trouble

log = structlog.get_logger(__name__)

#: The channel of all notices.
CHANNEL = "orchestrator.notices"
#: Seconds without notices after one could not be sent.
_QUIET_SECONDS = 1.0


class Notices:
    """Publishes notices. One that cannot be sent is dropped: waiters also look by themselves."""

    def __init__(self, broker_url: str, prefix: str = "") -> None:
        """``prefix``: of the channel's name."""
        self._channel = prefix + CHANNEL
        self._quiet_until = 0.0
        self._trouble = Trouble(log, "notices.not_sent", "notices.sent_again")
        self._redis = broker.client(broker_url, socket_timeout=1.0, socket_connect_timeout=1.0)

    def ended(self, jobs: Sequence[int], batches: Sequence[int]) -> None:
        """Tell that these jobs and batches have ended."""
        if jobs or batches:
            self._publish({"jobs": list(jobs), "batches": list(batches)})

    def numbered(self, latest: int) -> None:
        """Tell that events up to ``latest`` have their numbers."""
        self._publish({"events": latest})

    def ping(self) -> None:
        """Raise `RedisError` or `OSError` if the broker does not answer."""
        self._redis.ping()

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def _publish(self, notice: dict[str, object]) -> None:
        if time.monotonic() < self._quiet_until:
            return
        try:
            with failpoints.around("notices.before_publish", "notices.after_publish"):
                self._redis.publish(self._channel, json.dumps(notice, separators=(",", ":")))
        except (RedisError, OSError) as error:
            # A broker that hangs must not hold up the work: leave it alone for a moment.
            self._quiet_until = time.monotonic() + _QUIET_SECONDS
            self._trouble.came(error=str(error))
        else:
            self._trouble.went()
