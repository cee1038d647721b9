"""The product in parts and a plain Celery beside it, on a broker that the test may break."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
import redis
from celery import Celery
from sqlalchemy import Select, select

from orchestrator.actions.requests import parse_request
from orchestrator.domain.actors import Actor
from orchestrator.domain.states import Role
from orchestrator.embedded.broker import EmbeddedBroker, redis_client_url
from orchestrator.embedded.process import die_with_parent
from orchestrator.inventory.backends import configure
from orchestrator.jobs.submission import Submission
from orchestrator.jobs.submit import submit
from orchestrator.jobs.views import View, job_views
from orchestrator.jobs.wakeups import Wakeups
from orchestrator.settings import Settings
from orchestrator.store.database import Database
from orchestrator.store.tables import events, installation, jobs
from tests.broker import plain
from workers.backends.base.facts import VolumeFacts
from workers.backends.memory.driver import MemoryDriver
from workers.backends.memory.spec import MemoryOptions
from workers.backends.memory.store import Faults, erase

T = TypeVar("T")

#: Never, for what would otherwise be done from time to time.
NEVER = 3600.0
#: What waits for an event gives up then; nothing here takes that long by itself.
_DEADLINE = 60.0

_CONFIG = """\
host = "here"

[database]
url = "{database}"

[broker]
url = "{broker}"

[backends.ram]
driver = "memory"
capacity = "1T"

[backends.elsewhere]
driver = "memory"
capacity = "1T"
hosts = ["there"]
"""


def until(condition: Callable[[], T], what: str) -> T:
    """Wait for something to become true, however slow the machine is; what it became."""
    deadline = time.monotonic() + _DEADLINE
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"never happened: {what}")


class Process:
    """A child that ends with the test, and its log."""

    def __init__(self, arguments: Sequence[str], log: Path, **environment: str) -> None:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR")
        }
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                env={**kept, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=die_with_parent if sys.platform == "linux" else None,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has said."""
        return self._log.read_text()

    @property
    def running(self) -> bool:
        """Whether it is there."""
        return self._process.poll() is None

    def until_it_says(self, text: str) -> None:
        """Wait for a line in its log."""

        def said() -> bool:
            if not self.running:
                raise AssertionError(f"it ended:\n{self.log}")
            return text in self.log

        until(said, f"{text!r} in {self._log.name}")

    def ask_to_stop(self) -> None:
        """What a service manager does first."""
        self._process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """Ask it to stop and wait; its exit status."""
        self.ask_to_stop()
        return self._process.wait(_DEADLINE)

    def kill(self) -> None:
        """End it and its children at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


class Plain:
    """A plain Celery application; its tasks are those of `tests.broker.plain`."""

    def __init__(self, directory: Path, broker_url: str, **settings: Any) -> None:
        directory.mkdir()
        self._directory = directory
        self._settings = {"broker_url": broker_url, **settings}
        self._app = Celery("plain", set_as_current=False)
        self._app.conf.update(self._settings)
        self._workers: list[Process] = []

    def worker(self, *options: str) -> Process:
        """Start a worker process that does one task at a time; return when it is ready."""
        number = len(self._workers) + 1
        made = Process(
            [
                *("celery", "-A", "tests.broker.plain", "worker", "--loglevel", "info"),
                # They would only make the start take longer.
                *("--without-gossip", "--without-mingle"),
                *("--concurrency", "1", "--hostname", f"plain-{number}@here", *options),
            ],
            self._directory / f"worker-{number}.log",
            **{
                plain.SETTINGS: json.dumps(self._settings),
                plain.DIRECTORY: str(self._directory),
            },
        )
        self._workers.append(made)
        made.until_it_says(" ready.")
        return made

    def send(self, task: str, *arguments: str, **options: Any) -> None:
        """Publish a task, as `delay` and `apply_async` do."""
        self._app.send_task(task, arguments, **options)

    def journal(self) -> list[str]:
        """What tasks have done, in order."""
        try:
            return (self._directory / "journal").read_text().splitlines()
        except FileNotFoundError:
            return []

    def until_done(self, *names: str) -> None:
        """Wait until these tasks have come to their end."""
        wanted = {f"{name} done" for name in names}
        until(lambda: wanted <= set(self.journal()), f"{sorted(wanted)}")

    def until_started(self, name: str, times: int = 1) -> None:
        """Wait until a long task was begun, so often."""
        until(lambda: self.journal().count(f"{name} started") >= times, f"{name} started")

    def let_go(self) -> None:
        """Let the long tasks come to their end."""
        (self._directory / "let-go").touch()

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.kill()
        self._app.close()


MakePlain = Callable[..., Plain]


class Parts:
    """The product: submitting done here, workers and scheduler as processes of their own.

    ``ram`` is a memory backend that every worker serves, ``elsewhere`` one that only
    workers on the host ``there`` do.
    """

    def __init__(self, directory: Path, database_url: str, broker_url: str) -> None:
        directory.mkdir()
        self._directory = directory
        self._broker_url, self._prefix = broker_url, ""
        self._config = directory / "orchestrator.toml"
        self._config.write_text(_CONFIG.format(database=database_url, broker=broker_url))
        self._started: list[Process] = []
        settings = Settings(data=directory, **tomllib.loads(self._config.read_text()))
        self._database = Database(database_url)
        self._database.transact(lambda connection: configure(connection, settings.backends))
        self.uuid: str = self._read(select(installation.c.uuid))[0][0]
        #: What tells workers that something was submitted.
        self.wakeups = Wakeups(broker_url)

    def prefix(self, prefix: str) -> None:
        """Have this before the names of all keys from now on."""
        self._prefix = prefix
        self._tell_anew()

    def authenticate(self, user: str, password: str) -> None:
        """Have all parts that are started from now on be this user of the broker's."""
        self._broker_url += f"?username={user}&password={password}"
        self._tell_anew()

    def _tell_anew(self) -> None:
        self.wakeups.close()
        self.wakeups = Wakeups(self._broker_url, self._prefix)

    # -- processes ----------------------------------------------------------------------------

    def worker(self, **settings: Any) -> Process:
        """Start a worker, which looks for work by itself only if told; return when it is ready."""
        made = self._start("worker", **{"worker__claim_seconds": NEVER, **settings})
        made.until_it_says("worker.started")
        return made

    def scheduler(self, **settings: Any) -> Process:
        """Start a scheduler."""
        made = self._start("scheduler", **settings)
        made.until_it_says("scheduler.started")
        return made

    def _start(self, part: str, **settings: Any) -> Process:
        number = len(self._started) + 1
        made = Process(
            ["orchestrator", part, "--config", str(self._config), "--data", str(self._directory)],
            self._directory / f"{part}-{number}.log",
            **{
                f"ORCHESTRATOR_{name.upper()}": str(value)
                for name, value in {
                    "broker__url": self._broker_url,
                    "broker__prefix": self._prefix,
                    **settings,
                }.items()
            },
        )
        self._started.append(made)
        return made

    # -- jobs -----------------------------------------------------------------------------------

    def create(self, *volumes: str, backend: str = "ram", **more: Any) -> list[int]:
        """Submit the creation of volumes, as one batch if there are several; the jobs."""
        request = {"action": "volume.create", "params": {"size_bytes": "1M"}, **more}
        return self.submit(
            *({**request, "backend": backend, "volume": volume} for volume in volumes)
        )

    def submit(self, *requests: dict[str, Any]) -> list[int]:
        """Submit as the API does: one transaction, then wake-ups."""
        submission = Submission(
            requests=[parse_request(request) for request in requests],
            actor=Actor("tests", Role.ADMIN),
            batch=len(requests) > 1,
        )
        accepted = self._database.transact(
            lambda connection: submit(connection, submission, max_attempts=5)
        )
        self.wakeups.send(accepted.wake)
        return accepted.job_ids

    def job(self, job_id: int) -> View:
        """One job."""
        return self.jobs([job_id])[0]

    def jobs(self, job_ids: Sequence[int]) -> list[View]:
        """Jobs, in the order asked for."""
        with self._database.read() as connection:
            views = job_views(connection, job_ids)
        return [views[job_id] for job_id in job_ids]

    def until_states(self, job_ids: Sequence[int], state: str) -> None:
        """Wait until all of these are in a state."""
        states = select(jobs.c.state).where(jobs.c.id.in_(job_ids)).distinct()
        until(lambda: self._read(states) == [(state,)], f"{len(job_ids)} jobs {state}")

    def fences(self, job_ids: Sequence[int]) -> list[int]:
        """The fencing number of each job's latest claim."""
        query = select(jobs.c.id, jobs.c.fence).where(jobs.c.id.in_(job_ids))
        found = dict(self._read(query))
        return [found[job_id] for job_id in job_ids]

    def starts(self, job_ids: Sequence[int]) -> Counter[int]:
        """How often a worker has begun each of these, as the history tells."""
        query = select(events.c.job_id).where(events.c.kind == "job.started")
        return Counter(job_id for (job_id,) in self._read(query) if job_id in set(job_ids))

    def _read(self, query: Select[Any]) -> list[Any]:
        with self._database.read() as connection:
            return [tuple(row) for row in connection.execute(query)]

    # -- storage ----------------------------------------------------------------------------------

    @property
    def faults(self) -> Faults:
        """Tells the storage of ``ram`` to be slow or to fail."""
        return Faults("ram", self.uuid)

    def stored(self, backend: str = "ram") -> list[VolumeFacts]:
        """What the storage holds, in the order in which it was made."""
        return stored(backend, self.uuid)

    def close(self) -> None:
        """End everything, and take the storage away."""
        for process in self._started:
            process.kill()
        self.wakeups.close()
        self._database.close()
        for backend in ("ram", "elsewhere"):
            erase(backend, self.uuid)


def stored(backend: str, installation_id: str) -> list[VolumeFacts]:
    """What a memory backend holds, in the order in which it was made."""
    return list(MemoryDriver(backend, MemoryOptions(), installation_id).list_volumes())


def calls(server: redis.Redis, command: str) -> int:
    """How often the broker was asked this."""
    stats: dict[str, Any] = server.info("commandstats")
    asked: int = stats.get(f"cmdstat_{command}", {}).get("calls", 0)
    return asked


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    """A broker of this test's own, which it may break."""
    made = EmbeddedBroker(tmp_path / "broker")
    made.start()
    yield made
    made.stop()


@pytest.fixture
def server(broker: EmbeddedBroker) -> Iterator[redis.Redis]:
    """A client of the broker's, as its administrator has."""
    with redis.Redis.from_url(redis_client_url(broker.url), decode_responses=True) as client:
        yield client


@pytest.fixture(params=["sqlite"])
def database_kind(request: pytest.FixtureRequest) -> str:
    """What the broker does is the same for both databases."""
    kind: str = request.param
    return kind


@pytest.fixture
def make_plain(tmp_path: Path, broker: EmbeddedBroker) -> Iterator[MakePlain]:
    """Makes a plain Celery application with these settings."""
    made: list[Plain] = []

    def make(**settings: Any) -> Plain:
        made.append(Plain(tmp_path / f"plain-{len(made)}", broker.url, **settings))
        return made[-1]

    yield make
    for one in made:
        one.close()


MakeParts = Callable[[str], Parts]


@pytest.fixture
def make_parts(tmp_path: Path, migrated_url: str) -> Iterator[MakeParts]:
    """Makes the product on a broker with this address; nothing of it is started yet."""
    made: list[Parts] = []

    def make(broker_url: str) -> Parts:
        made.append(Parts(tmp_path / f"product-{len(made)}", migrated_url, broker_url))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def parts(make_parts: MakeParts, broker: EmbeddedBroker) -> Parts:
    """The product, no worker and no scheduler of it started yet."""
    return make_parts(broker.url)
