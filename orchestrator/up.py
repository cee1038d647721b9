"""Everything on one machine: migrate, broker, workers, scheduler, API; and down again."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import IO

import httpx
import structlog
from sqlalchemy import select

from orchestrator import tokens
from orchestrator.client import local
from orchestrator.domain.actors import ENGINE
from orchestrator.domain.errors import InvalidInput, NotAuthenticated, Unavailable
from orchestrator.domain.states import Role
from orchestrator.embedded.broker import BrokerStartError, EmbeddedBroker
from orchestrator.embedded.process import die_with_parent
from orchestrator.logs import Trouble, configure_logs
from orchestrator.reloading import has_terminal, leave_terminal
from orchestrator.settings import ApiSettings, Settings
from orchestrator.store import migrate
from orchestrator.store.database import Database
from orchestrator.store.tables import backends
from orchestrator.store.tables import tokens as token_rows
from orchestrator.store.transaction import Transaction
from orchestrator.trust import require_trusted_data

log = structlog.get_logger(__name__)

#: The token that `up` makes for the command line on this machine.
LOCAL_TOKEN = "local"  # noqa: S105 - its name, not a secret

#: The backend there is where none is configured: files in the data directory.
_DEFAULT_BACKEND = "fast"

#: Seconds for parts to begin, for backends to be looked at, and for parts to stop.
_START_SECONDS = 60.0
_LOOK_SECONDS = 15.0
_STOP_SECONDS = 30.0
#: Seconds between looks whether the local token is valid, and for the last of them to end.
_TOKEN_SECONDS = 2.0
_KEEPER_SECONDS = 5.0
#: A part that dies is started again at once; one that dies each time before it has lived so
#: long, ever more slowly.
_SETTLED_SECONDS = 10.0
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0
#: Deaths so early before there is a pause: also the machine's fault, or somebody's who tries.
_AT_ONCE = 2


#: What takes the service down in order; SIGHUP, where it is a terminal that was closed.
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Stop(BaseException):
    """One of these signals has come."""


@dataclass
class _Part:
    """A child process that is kept running."""

    name: str
    arguments: list[str]
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    #: How often in a row it has died early.
    early_deaths: int = 0
    started: float = 0.0
    due: float = field(default=0.0)

    def start(self) -> None:
        """Start it in a session of its own: a Ctrl-C reaches only us, and we stop it in order."""
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", *self.arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with_parent if sys.platform == "linux" else None,
        )

    def look(self) -> None:
        """Start it again if it has died: at once, unless it keeps dying early."""
        if self.process is not None and (status := self.process.poll()) is not None:
            settled = time.monotonic() - self.started > _SETTLED_SECONDS
            self.early_deaths = 0 if settled else self.early_deaths + 1
            pause = self._pause()
            log.warning("up.part_died", part=self.name, status=status, again_in=pause)
            self.process, self.due = None, time.monotonic() + pause
        if self.process is None and time.monotonic() >= self.due:
            self.start()

    def _pause(self) -> float:
        """Seconds before it is started again."""
        if self.early_deaths <= _AT_ONCE:
            return 0.0
        return min(_FIRST_PAUSE * 2.0 ** (self.early_deaths - _AT_ONCE - 1), _LONGEST_PAUSE)

    def reload(self) -> None:
        """Have it read the configuration again."""
        if self.process is not None:
            self.process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """Ask it to stop."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def wait(self, until: float) -> None:
        """Wait for its end; after ``until`` it is killed."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("up.part_killed", part=self.name)
            self.process.kill()
            self.process.wait()


def run(settings: Settings, workers: int) -> int:
    """Bring everything up, keep it up, and take it down at SIGINT or SIGTERM.

    SIGHUP takes it down where it is a terminal that was closed; where there is none, it has the
    parts read the configuration again. Raises the `Problem` that keeps it from starting.
    """
    configure_logs(settings.log, "up")
    product = _Product(settings, workers)
    hangs_up = has_terminal()

    def stop(number: int, _frame: object) -> None:
        if number == signal.SIGHUP and not hangs_up:
            product.reload()
            return
        # Further signals find us already stopping.
        for each in _ENDING:
            signal.signal(each, signal.SIG_IGN)
        if number == signal.SIGHUP:
            leave_terminal()
        raise _Stop

    for number in _ENDING:
        # What 'nohup' has ignored goes on being ignored.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        product.start()
        product.watch()
    except _Stop:
        pass
    finally:
        product.stop()
    return 0


class _Product:
    """All parts of one data directory."""

    def __init__(self, settings: Settings, workers: int) -> None:
        self._settings = settings
        self._workers = workers
        self._data = settings.data.absolute()
        self._lock: IO[str] | None = None
        self._broker: EmbeddedBroker | None = None
        self._parts: list[_Part] = []
        self._url: str | None = None
        self._stopping = threading.Event()
        self._keeper: threading.Thread | None = None

    def start(self) -> None:
        """Start every part; return when requests are served."""
        self._claim_directory()
        listen = _free_address(self._settings.api)
        broker_url = self._settings.broker.url or self._start_broker()
        environment = self._environment(listen, broker_url)
        migrate.upgrade(self._settings.database_url)
        token = self._local_token()
        self._parts = [
            _Part("scheduler", ["scheduler"], environment),
            *(_Part(f"worker-{n}", ["worker"], environment) for n in range(1, self._workers + 1)),
        ]
        for part in self._parts:
            part.start()
        self._wait_for_backends()
        api = _Part("api", ["api"], environment)
        self._parts.append(api)
        api.start()
        url = f"{'http' if self._settings.api.tls_cert is None else 'https'}://{listen}"
        _wait_until_ready(url, api)
        # Set first: as soon as the file is there, somebody may stop this process.
        self._url = url
        local.write(self._data, url, token)
        self._keeper = threading.Thread(target=self._keep_token, args=(url, token), daemon=True)
        self._keeper.start()
        print(f"orchestrator is ready at {url} (data in {self._data})", file=sys.stderr, flush=True)

    def watch(self) -> None:
        """Keep every part running, for ever."""
        while True:
            time.sleep(0.2)
            for part in self._parts:
                part.look()
            if self._broker is not None and not self._broker.running:
                log.warning("up.broker_died")
                self._broker.stop()
                try:
                    self._broker.start()
                except BrokerStartError as error:
                    log.error("up.broker_not_started", why=str(error))
                    time.sleep(_FIRST_PAUSE)

    def reload(self) -> None:
        """Have every part read the configuration again."""
        for part in self._parts:
            part.reload()

    def stop(self) -> None:
        """Stop every part; workers hand back what they are doing."""
        self._stopping.set()
        if self._keeper is not None:
            self._keeper.join(_KEEPER_SECONDS)
        if self._url is not None:
            local.remove(self._data, self._url)
        for part in self._parts:
            part.stop()
        until = time.monotonic() + _STOP_SECONDS
        for part in self._parts:
            part.wait(until)
        if self._broker is not None:
            self._broker.stop()
        if self._lock is not None:
            self._lock.close()

    def _claim_directory(self) -> None:
        try:
            self._data.mkdir(mode=0o700, parents=True, exist_ok=True)
            require_trusted_data(self._data)  # somebody else may have made it in between
            self._lock = (self._data / "up.lock").open("w")
        except OSError as error:
            raise InvalidInput(
                f"the data directory {self._data} cannot be used: {error.strerror}", field="data"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidInput(
                f"another 'orchestrator up' is using {self._data}: stop it, or give another --data",
                field="data",
            ) from None

    def _start_broker(self) -> str:
        self._broker = EmbeddedBroker(self._data / "broker")
        try:
            self._broker.start()
        except BrokerStartError as error:
            raise Unavailable(str(error)) from None
        return self._broker.url

    def _environment(self, listen: str, broker_url: str) -> dict[str, str]:
        environment = {
            **os.environ,
            "ORCHESTRATOR_DATA": str(self._data),
            "ORCHESTRATOR_DATABASE__URL": self._settings.database_url,
            "ORCHESTRATOR_BROKER__URL": broker_url,
            "ORCHESTRATOR_API__LISTEN": listen,
        }
        if not self._settings.backends:
            path = self._data / "volumes"
            path.mkdir(mode=0o700, exist_ok=True)
            environment["ORCHESTRATOR_BACKENDS"] = json.dumps(
                {_DEFAULT_BACKEND: {"driver": "file", "path": str(path)}}
            )
        return environment

    def _local_token(self) -> str:
        """The token for this machine: the last start's while it is valid, else a new one."""
        kept = local.token_in(self._data)

        def renew(transaction: Transaction) -> str:
            if kept is not None and _is_valid(kept, transaction):
                return kept
            old = transaction.execute(
                select(token_rows.c.id).where(
                    token_rows.c.name == LOCAL_TOKEN, token_rows.c.revoked_at.is_(None)
                )
            ).scalar()
            if old is not None:
                tokens.revoke(transaction, old, ENGINE)
            return _new_local_token(transaction)

        database = Database(self._settings.database_url, pool_size=1)
        try:
            return database.transact(renew)
        finally:
            database.close()

    def _keep_token(self, url: str, token: str) -> None:
        """Make another token for this machine when its own is revoked, which stays refused.

        Whoever owns the data directory could have one by starting the service again.
        """
        trouble = Trouble(log, "up.no_local_token", "up.local_token_made")
        database = Database(self._settings.database_url, pool_size=1)
        while not self._stopping.wait(_TOKEN_SECONDS):
            try:
                if not database.look(partial(_is_valid, token)):
                    # It takes nobody's token away: another's may be called so by now.
                    token = database.transact(_new_local_token)
                    log.warning("up.local_token_renewed")
                if local.token_in(self._data) != token:
                    local.write(self._data, url, token)
                trouble.went()
            except Exception as error:
                trouble.came(why=str(error))
        database.close()

    def _wait_for_backends(self) -> None:
        """Let the workers look first, so that the first submission is checked against facts."""
        database = Database(self._settings.database_url, pool_size=1)
        wanted = set(self._settings.served_backends()) or {_DEFAULT_BACKEND}
        begun = datetime.now(UTC)
        until = time.monotonic() + _LOOK_SECONDS
        try:
            while time.monotonic() < until:
                # The database is new or on this machine's clock; a slow one only costs time.
                looked = select(backends.c.name).where(backends.c.refreshed_at >= begun)
                with database.read() as transaction:
                    found = set(transaction.execute(looked).scalars())
                if wanted <= found:
                    return
                self._look_for_early_death()
                time.sleep(0.05)
        finally:
            database.close()
        log.warning("up.backends_not_looked_at", backends=sorted(wanted))

    def _look_for_early_death(self) -> None:
        for part in self._parts:
            if part.process is not None and part.process.poll() is not None:
                raise Unavailable(
                    f"{part.name} ended with status {part.process.returncode} while starting; "
                    "its messages are above"
                )


def _is_valid(token: str, transaction: Transaction) -> bool:
    try:
        tokens.authenticate(transaction, token)
    except NotAuthenticated:
        return False
    return True


def _new_local_token(transaction: Transaction) -> str:
    return tokens.create(transaction, LOCAL_TOKEN, Role.ADMIN, ENGINE)[1]


def _free_address(api: ApiSettings) -> str:
    """The address with its port, a free one if it says 0. Raises `InvalidInput` if taken."""
    host, port = api.address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InvalidInput(
                f"cannot listen on {api.listen}: {error.strerror}; give another --listen HOST:PORT",
                field="listen",
            ) from None
        port = probe.getsockname()[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _wait_until_ready(url: str, api: _Part) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        assert api.process is not None  # noqa: S101 - it was started just now
        if api.process.poll() is not None:
            raise Unavailable(
                f"the API ended with status {api.process.returncode}; its messages are above"
            )
        try:
            # Its certificate may be for another name: nothing is entrusted to it here.
            if httpx.get(f"{url}/readyz", timeout=5, verify=False).status_code == 200:  # noqa: S501
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.05)
    raise Unavailable(f"the API did not become ready within {_START_SECONDS:.0f} s")
