"""TLS: the certificate that the service shows, read again when it is renewed."""

from __future__ import annotations

import ssl
from pathlib import Path

import structlog

from orchestrator.domain.errors import InvalidInput
from orchestrator.settings import ApiSettings

log = structlog.get_logger(__name__)


class Certificate:
    """A certificate and its key in two files (PEM)."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises `InvalidInput` for what cannot be used."""
        self._certificate, self._key = certificate, key
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            self._seen = self._fingerprint()
            self._load()
        except OSError as error:  # those of TLS are among them
            raise InvalidInput(
                f"{certificate} and {key} cannot be used for TLS: {error.strerror or error}; they "
                "are a certificate and its key in PEM, readable for the service",
                field="api.tls_cert",
            ) from None

    def renew(self) -> None:
        """Read the files again, if they have changed. What cannot be used changes nothing."""
        try:
            seen = self._fingerprint()
            if seen == self._seen:
                return
            self._load()
        except OSError as error:
            # Perhaps one of the two is written, and the other not yet.
            log.warning("api.tls_not_renewed", error=str(error.strerror or error))
            return
        self._seen = seen
        log.info("api.tls_renewed", certificate=str(self._certificate))

    def _fingerprint(self) -> tuple[int, ...]:
        stats = [self._certificate.stat(), self._key.stat()]
        return tuple(number for stat in stats for number in (stat.st_mtime_ns, stat.st_ino))

    def _load(self) -> None:
        # Tried first: one that is read half would be shown from then on.
        for context in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), self.context):
            # A key with a password would be asked for on the terminal.
            context.load_cert_chain(self._certificate, self._key, password=_no_password)


def _no_password() -> str:
    raise OSError("the key has a password: write it without one")


def certificate_of(settings: ApiSettings) -> Certificate | None:
    """The configured certificate, if there is one."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return Certificate(settings.tls_cert, settings.tls_key)
