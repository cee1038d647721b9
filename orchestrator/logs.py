"""Logging: one configuration for every process, as text for people or JSON for machines."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import structlog

from orchestrator.settings import LogSettings

#: Seconds between lines about what goes on failing.
_AGAIN_SECONDS = 30.0


class Trouble:
    """Tells of something that fails again and again: at once, then now and then, and its end."""

    def __init__(self, log: Any, event: str, over: str) -> None:
        self._log, self._event, self._over = log, event, over
        self._times = 0
        self._told_at = 0.0

    def came(self, **facts: Any) -> None:
        """It has failed."""
        self._times += 1
        now = time.monotonic()
        if self._times == 1 or now - self._told_at >= _AGAIN_SECONDS:
            self._told_at = now
            self._log.warning(self._event, times=self._times, **facts)

    def went(self) -> None:
        """It has not."""
        if self._times:
            self._log.info(self._over, after=self._times)
            self._times = 0


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
    for name in ("httpx", "httpcore", "uvicorn.error", "celery", "kombu", "amqp", "alembic"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    structlog.contextvars.clear_contextvars()
    structlog.get_logger(__name__).debug("logs.configured", process=process)
