"""Serves the application with uvicorn."""

from __future__ import annotations

import ipaddress
import resource
import socket
import sys
from collections.abc import Callable

import structlog
import uvicorn

from orchestrator.api.app import create_app, served
from orchestrator.api.connections import limited
from orchestrator.api.door import Room
from orchestrator.api.service import Service
from orchestrator.api.tls import Certificate, certificate_of
from orchestrator.api.waiters import Waiters
from orchestrator.interpreter import tune
from orchestrator.inventory.backends import configure
from orchestrator.logs import configure_logs
from orchestrator.settings import Settings
from orchestrator.store import migrate

log = structlog.get_logger(__name__)

#: How long a client may keep a connection it does not use: longer than people pause.
_KEEP_ALIVE_SECONDS = 75
#: How often a renewed certificate is looked for, in tenths of a second.
_TICKS_OF_CERTIFICATE = 20
#: Open files that are no connections of clients: the database, the broker, the log.
_OTHER_FILES = 128


def serve(settings: Settings, *, room: Callable[[Service], Room]) -> None:
    """Serve the application, and a room beside it, until SIGINT or SIGTERM."""
    configure_logs(settings.log, "api")
    tune()
    host, port = settings.api.address
    most = min(settings.api.max_connections, _allowed_connections())
    migrate.refuse_unknown(settings.database_url)
    certificate = certificate_of(settings.api)
    if certificate is None and not settings.api.trusted_proxies and not _is_loopback(host):
        log.warning(
            "api.no_tls",
            listen=settings.api.listen,
            why="tokens can be read on their way: set api.tls_cert and api.tls_key, or name the "
            "proxies that encrypt in api.trusted_proxies",
        )
    service = Service(settings)
    service.write(lambda transaction: configure(transaction, settings.backends))
    config = uvicorn.Config(
        served(create_app(service), service, room(service)),
        host=host,
        port=port,
        http=limited(most, settings.api.request_seconds),
        ws="none",
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=5,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        server_header=False,
        proxy_headers=bool(settings.api.trusted_proxies),
        forwarded_allow_ips=settings.api.believed_proxies,
        ssl_context_factory=None if certificate is None else lambda *_: certificate.context,
    )
    _Server(config, service.waiters, certificate).run()


class _Server(uvicorn.Server):
    """Lets waiting requests go at shutdown, rather than have them waited for."""

    def __init__(
        self, config: uvicorn.Config, waiters: Waiters, certificate: Certificate | None
    ) -> None:
        super().__init__(config)
        self._waiters = waiters
        self._certificate = certificate

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second; now and then the certificate is looked at."""
        if self._certificate is not None and counter % _TICKS_OF_CERTIFICATE == 0:
            self._certificate.renew()
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        if self.started:
            log.info("api.started", host=self.config.host, port=self.config.port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer those who wait as if their time were over; then close as usual."""
        self._waiters.release()
        await super().shutdown(sockets)
        log.info("api.stopped")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _allowed_connections() -> int:
    """Raise the limit of open files to what the system allows; how many can be connections."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if most == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(1, most - _OTHER_FILES)
