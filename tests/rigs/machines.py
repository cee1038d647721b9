"""Machines of a few seconds: this one's files under a systemd of their own, changed in RAM only.

Each is a container that systemd-nspawn boots from the file system this test runs on. Units, users
and packages are those of the distribution; whatever is written to them is gone with the machine.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from orchestrator.embedded.process import die_with_parent

_BOOT_SECONDS = 120.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: What programs need to know here to reach package servers.
_PASSED_ON = ("PIP_", "SSL_CERT_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http", "no_proxy")
#: Where control groups are, of either version or both.
_CONTROL = [Path("/sys/fs/cgroup/systemd"), Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")]
#: Whoever calls this gets to be in the machine's control groups and sees its root at the path $0,
#: as one cannot boot the root itself.
_BOOT = """
while [ "$1" != -- ]; do echo $$ > "$1/cgroup.procs"; shift; done; shift
mount --bind / "$0" && exec systemd-nspawn --directory="$0" "$@"
"""


def machines_are_possible() -> None:
    """Skip the test where none can be booted, and say why."""
    if os.geteuid() != 0:
        pytest.skip("only root can boot a machine")
    for program, package in (
        ("systemd-nspawn", "systemd-container"),
        ("/usr/lib/systemd/systemd", "systemd"),
        ("nsenter", "util-linux"),
        ("ip", "iproute2"),
    ):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: apt install {package}")


class CannotBoot(Exception):
    """No machine can be booted here; what was printed."""


class Network:
    """A network that machines share: one loopback device, and nobody else on it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep infinity"],
            stdout=subprocess.PIPE,
            preexec_fn=functools.partial(die_with_parent, signal.SIGKILL),
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"up\n", "there is no loopback device"
        self.path = Path(f"/proc/{self._process.pid}/ns/net")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Machine:
    """One machine; ``shared`` maps paths on it to directories of this test."""

    def __init__(
        self,
        name: str,
        network: Network,
        shared: Mapping[str, Path],
        masked: Sequence[str] = (),
    ) -> None:
        """``masked``: units of installed packages that are not started on it."""
        self.name = name
        self._directory = Path(tempfile.mkdtemp(prefix=f"machine-{name}-"))
        root = self._directory / "root"
        root.mkdir()
        # Each systemd takes the groups below its own for itself.
        self._groups = [
            there / self._directory.name for there in _CONTROL if (there / "cgroup.procs").exists()
        ]
        for group in self._groups:
            group.mkdir()
        command: list[str | Path] = [
            *("unshare", "--mount", "--propagation", "private", "bash", "-c", _BOOT, root),
            *self._groups,
            "--",
            *("--quiet", "--volatile=overlay", "--register=no", "--keep-unit", "--console=pipe"),
            *("--link-journal=no", "--boot", f"--machine=orchestrator-{name}"),
            f"--network-namespace-path={network.path}",
            *(f"--bind={there}:{path}" for path, there in shared.items()),
            f"systemd.hostname={name}",
            *(f"systemd.mask={unit}.service" for unit in masked),
        ]
        with (self._directory / "console").open("wb") as console:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                preexec_fn=functools.partial(die_with_parent, signal.SIGKILL),
            )
        try:
            self._wait_until_it_has_booted()
        except BaseException:
            self.stop()
            raise

    def run(self, script: str, *, online: bool = False) -> str:
        """Execute a script as root; what it printed. ``online``: with the network of this test.

        Raises `AssertionError` with all that it printed if it fails.
        """
        environment = {"HOME": "/root", "PATH": _PATH, "DEBIAN_FRONTEND": "noninteractive"}
        if online:
            environment |= {k: v for k, v in os.environ.items() if k.startswith(_PASSED_ON)}
        namespaces = ["--mount", "--uts", "--ipc", "--pid", *([] if online else ["--net"])]
        shell = ["bash", "-euo", "pipefail", "-c"]
        inside = [
            *("nsenter", "--target", str(self._leader), *namespaces),
            *("env", "-i", *(f"{name}={value}" for name, value in environment.items())),
        ]
        done = _run([*inside, *shell, f"cd\n{script}"])
        if done.returncode != 0:
            journal = _run([*inside, "journalctl", "--no-pager", "--lines=40"]).stdout
            raise AssertionError(
                f"on {self.name}, with status {done.returncode}:\n{script}\n"
                f"{done.stdout}{done.stderr}\n{journal}"
            )
        return done.stdout

    def write(self, path: str, text: str) -> None:
        """Write a file, over what is there; its owner and mode stay."""
        self.run(f"cat > {path} <<'END OF FILE'\n{text}\nEND OF FILE")

    def stop(self) -> None:
        """Cut its power."""
        with suppress(AttributeError, ProcessLookupError):
            os.kill(self._leader, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        self._process.kill()
        self._process.wait()
        for group in self._groups:
            for below, _, _ in os.walk(group, topdown=False):
                with suppress(OSError):
                    Path(below).rmdir()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _wait_until_it_has_booted(self) -> None:
        deadline = time.monotonic() + _BOOT_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            if (leader := self._first_process()) is not None:
                self._leader = leader
                # "degraded" if a unit has failed that only a real machine can run.
                state = self.run("systemctl is-system-running 2>/dev/null || true").strip()
                if state in ("running", "degraded"):
                    return
            time.sleep(0.05)
        told = (self._directory / "console").read_text(errors="replace")
        raise CannotBoot(f"the machine {self.name} did not boot: {told}")

    def _first_process(self) -> int | None:
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        with suppress(OSError):
            for pid in children.read_text().split():
                if Path(f"/proc/{pid}/comm").read_text() == "systemd\n":
                    return int(pid)
        return None


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
