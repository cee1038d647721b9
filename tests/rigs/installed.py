"""Servers of a distribution's packages that stand around the service: Redis and nginx."""

from __future__ import annotations

import functools
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from orchestrator.embedded.process import die_with_parent

_START_SECONDS = 60.0
_STOP_SECONDS = 30.0


def certificate(directory: Path) -> tuple[Path, Path]:
    """One for 127.0.0.1 that vouches for itself, and its key."""
    made, key = directory / "server.pem", directory / "server.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", key, "-out", made),
        ],
        check=True,
        capture_output=True,
    )
    return made, key


def needs(program: str, package: str) -> str:
    """Where a program is; skips the test where it is not installed."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed: apt install {package}")
    return found


class _Installed:
    """A process with a directory of its own, which `stop` removes."""

    def __init__(self, command: Sequence[str | Path], directory: Path, port: int) -> None:
        self.directory, self.port = directory, port
        with (directory / "output").open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=directory,
                start_new_session=True,
                preexec_fn=functools.partial(die_with_parent, signal.SIGTERM),
            )
        self._wait_until_it_listens()

    def _wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.01)
        told = (self.directory / "output").read_text(errors="replace")
        self.stop()
        raise RuntimeError(f"{type(self).__name__} did not start:\n{told}")

    def stop(self) -> None:
        """End it, and remove its directory."""
        self._process.terminate()
        self._process.wait(_STOP_SECONDS)
        shutil.rmtree(self.directory)


class Redis(_Installed):
    """Debian's, with TLS only, and a password for whoever has no user of his own.

    It stands in for Valkey, which Debian 12 does not have.
    """

    PASSWORD = "adminpass"

    def __init__(self, port: int) -> None:
        program = needs("redis-server", "redis-server")
        needs("openssl", "openssl")
        directory = Path(tempfile.mkdtemp(prefix="orchestrator-redis-"))
        self.certificate, key = certificate(directory)
        super().__init__(
            [
                *(program, "--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1"),
                *("--tls-cert-file", self.certificate, "--tls-key-file", key),
                *("--tls-ca-cert-file", self.certificate, "--tls-auth-clients", "no"),
                *("--requirepass", self.PASSWORD, "--save", "", "--dir", directory),
                *("--maxmemory-policy", "noeviction"),
            ],
            directory,
            port,
        )

    def url(self, user: str, password: str) -> str:
        """Its address for a user, its certificate verified."""
        authority = f"ssl_ca_certs={self.certificate}"
        return f"rediss://{user}:{password}@127.0.0.1:{self.port}/0?{authority}"

    def client(self) -> redis.Redis:
        """One that may do anything."""
        return redis.Redis.from_url(self.url("default", self.PASSWORD), decode_responses=True)


_NGINX = """\
daemon off;
pid {directory}/pid;
error_log {directory}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
{locations}
    }}
}}
"""


class Nginx(_Installed):
    """nginx with TLS and these locations."""

    def __init__(self, port: int, locations: str) -> None:
        program = needs("nginx", "nginx-light")
        needs("openssl", "openssl")
        directory = Path(tempfile.mkdtemp(prefix="orchestrator-nginx-"))
        self.certificate, key = certificate(directory)
        config = directory / "nginx.conf"
        config.write_text(
            _NGINX.format(
                directory=directory,
                port=port,
                certificate=self.certificate,
                key=key,
                locations=locations,
            )
        )
        # Its workers read what root owns.
        directory.chmod(0o755)
        user = ["-g", "user root;"] if Path("/proc/self").stat().st_uid == 0 else []
        super().__init__([program, "-p", directory, "-c", config, *user], directory, port)
