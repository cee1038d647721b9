"""Logging: one configuration for every process, as text for people or JSON for machines."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import structlog

from orchestrator.settings import LogSettings

#: Seconds between lines about what goes on failing: at first, and at most.
_AGAIN_SECONDS = 30.0
_MOST_SECONDS = 3600.0
#: Different lines that are remembered.
_MOST_KEPT = 1000


class Trouble:
    """Tells of something that fails again and again: at once, then ever less often, and its end."""

    def __init__(self, log: Any, event: str, over: str) -> None:
        self._log, self._event, self._over = log, event, over
        self._times = 0
        self._told_at = self._since = 0.0
        self._pause = _AGAIN_SECONDS

    def came(self, **facts: Any) -> None:
        """It has failed."""
        self._times += 1
        now = time.monotonic()
        if self._times == 1:
            self._since, self._pause = now, _AGAIN_SECONDS / 2
        if self._times == 1 or now - self._told_at >= self._pause:
            self._told_at, self._pause = now, min(_MOST_SECONDS, 2 * self._pause)
            self._log.warning(self._event, times=self._times, **facts)

    def went(self, **facts: Any) -> None:
        """It has not."""
        if self._times:
            lasted = round(time.monotonic() - self._since, 1)
            self._log.info(self._over, after=self._times, lasted_seconds=lasted, **facts)
            self._times = 0


class Said:
    """Tells why something is refused once, however often it is tried, until the reason changes."""

    def __init__(self, log: Any, event: str) -> None:
        self._log, self._event = log, event
        self._whys: dict[Any, str] = {}

    def refused(self, key: Any, why: str, **facts: Any) -> bool:
        """What has this key is refused; whether that is new."""
        if self._whys.get(key) == why:
            return False
        if len(self._whys) >= _MOST_KEPT:
            self._whys.clear()
        self._whys[key] = why
        self._log.warning(self._event, **facts, why=why)
        return True

    def accepted(self, key: Any) -> None:
        """It is not."""
        self._whys.pop(key, None)


_LIBRARIES = ("httpx", "httpcore", "uvicorn.error", "celery", "kombu", "amqp", "alembic")


def _is_of_library(record: logging.LogRecord) -> bool:
    return record.name.startswith(_LIBRARIES)


class Seldom(logging.Filter):
    """Lets what a library says again and again through once in a while, and counts the rest."""

    def __init__(self) -> None:
        super().__init__()
        #: By logger and message: when it was told last, and how often it was not since then.
        self._told: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is told."""
        key = (record.name, str(record.msg)[:200])
        now = time.monotonic()
        told_at, left_out = self._told.get(key, (None, 0))
        if told_at is not None and now - told_at < _AGAIN_SECONDS:
            self._told[key] = (told_at, left_out + 1)
            return False
        if len(self._told) >= _MOST_KEPT:
            self._told.clear()
        self._told[key] = (now, 0)
        if left_out:
            record.msg = f"{record.msg} (and {left_out} times more)"
        return True


def configure_logs(settings: LogSettings, process: str) -> None:
    """Send this process's log, and that of its libraries, to standard error."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor
    if settings.format == "json":
        renderer = structlog.processors.JSONRenderer()
        shared.append(structlog.processors.format_exc_info)
    else:
        # Tracebacks without local variables: those hold tokens and passwords.
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            pad_event_to=24,
            exception_formatter=structlog.dev.plain_traceback,
        )
    structlog.configure(
        processors=[
            # First: what is not told costs nothing.
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.level.upper())
    # Libraries tell each connection and request; that is noise here.
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    # A filter of a logger is not asked for what its children say: the handler's is.
    seldom = Seldom()
    handler.addFilter(lambda record: not _is_of_library(record) or seldom.filter(record))
    structlog.contextvars.clear_contextvars()
    structlog.get_logger(__name__).debug("logs.configured", process=process)
