"""An OpenSSH server of a test's own, and what a client needs to be let in."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from workers.backends.base.ssh import Ssh


@dataclass
class Server:
    """A server that can be stopped and started again on its port."""

    room: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        sshd = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
        assert sshd is not None
        with (self.room / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sshd, "-D", "-e", "-f", str(self.room / "sshd_config")],
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        end = time.monotonic() + 10
        while not self._listens():
            assert self.process.poll() is None, (self.room / "log").read_text()
            assert time.monotonic() < end, "sshd does not listen"
            time.sleep(0.02)

    def _listens(self) -> bool:
        with socket.socket() as trying:
            return trying.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None

    def sessions(self) -> list[int]:
        """The processes of the server that serve connections."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def client(self, **changed: object) -> Ssh:
        values: dict[str, object] = {
            "host": "127.0.0.1",
            "user": getpass.getuser(),
            "port": self.port,
            "key": self.room / "id",
            "known_hosts": self.room / "known_hosts",
            "control": self.room,
            "connect_seconds": 5.0,
        }
        return Ssh(**{**values, **changed})  # type: ignore[arg-type]


@contextmanager
def serving() -> Iterator[Server]:
    """Skips the test with the reason where there is no server."""
    if shutil.which("sshd", path="/usr/sbin:/usr/local/sbin") is None:
        pytest.skip("sshd is not installed: apt install openssh-server")
    if shutil.which("ssh") is None:
        pytest.skip("ssh is not installed: apt install openssh-client")
    if os.geteuid() != 0:
        pytest.skip("a server that lets its user in needs root")
    # Sockets of connections must have short paths.
    with TemporaryDirectory(prefix="ssh-") as name:
        room = Path(name)
        for key in ("id", "host_key"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(room / key)], check=True
            )
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
        (room / "authorized_keys").write_text((room / "id.pub").read_text())
        host_key = (room / "host_key.pub").read_text()
        (room / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
        (room / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{port}\nHostKey {room}/host_key\nPidFile none\n"
            f"AuthorizedKeysFile {room}/authorized_keys\nStrictModes no\nUsePAM no\n"
            "PermitRootLogin prohibit-password\nPasswordAuthentication no\n"
        )
        if not Path("/run/sshd").exists():
            Path("/run/sshd").mkdir(mode=0o755)
        server = Server(room, port)
        try:
            server.start()
            yield server
        finally:
            server.client().close()
            server.stop()
