"""``docker-compose.yml`` itself: each service's command, with its environment, as a process."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml  # type: ignore[import-untyped]
from psycopg import sql

from orchestrator.embedded.broker import find_server_program
from tests.acceptance.conftest import START_SECONDS, free_port
from tests.rigs.postgres import Postgres

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
#: What an administrator might choose: it has to get through URLs and shells.
GIVEN = {"DATABASE_PASSWORD": "d@t/a:b%se", "BROKER_PASSWORD": "br@k/e:r%"}
VARIABLE = re.compile(r"\$\$|\$\{(?P<name>[A-Z_]+)(?::(?P<kind>[-?])(?P<word>[^}]*))?\}")


def interpolated(node: Any) -> Any:
    """What Compose makes of ``${NAME:-default}``, ``${NAME:?sentence}`` and ``$$``."""
    if isinstance(node, dict):
        return {name: interpolated(value) for name, value in node.items()}
    if isinstance(node, list):
        return [interpolated(value) for value in node]
    return VARIABLE.sub(_value, node) if isinstance(node, str) else node


def _value(match: re.Match[str]) -> str:
    if match[0] == "$$":
        return "$"
    if match["name"] in GIVEN:
        return GIVEN[match["name"]]
    assert match["kind"] == "-", f"{match['name']} has to be set: {match['word']}"
    return match["word"]


class Composed:
    """The services of the file, at free ports of this machine instead of in a network."""

    def __init__(self, directory: Path) -> None:
        self.services = interpolated(yaml.safe_load(FILE.read_text()))["services"]
        self.directory = directory
        self.ports = {name: free_port() for name in ("redis", "api")}
        self.processes: list[subprocess.Popen[bytes]] = []
        self.postgres = Postgres()

    def start_servers(self) -> None:
        """PostgreSQL as its image would set it up, and the broker by its own command."""
        told = self.services["postgres"]["environment"]
        self.postgres.start()
        # As the image does for whoever comes over the network: the password is asked for.
        access = self.postgres.home / "data" / "pg_hba.conf"
        access.write_text("local all postgres trust\nlocal all all scram-sha-256\n")
        user, database = told["POSTGRES_USER"], told["POSTGRES_DB"]
        self.postgres.execute("SELECT pg_reload_conf()")
        self.postgres.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                sql.Identifier(user), sql.Literal(told["POSTGRES_PASSWORD"])
            )
        )
        self.postgres.execute(
            sql.SQL("CREATE DATABASE {} OWNER {}").format(
                sql.Identifier(database), sql.Identifier(user)
            )
        )
        programs = self.directory / "bin"
        programs.mkdir()
        (programs / "valkey-server").symlink_to(find_server_program())
        broker = self.services["redis"]
        *shell, script = broker["command"]
        port = f" --port {self.ports['redis']} --bind 127.0.0.1 --dir {self.directory}"
        path = f"{programs}:{os.environ['PATH']}"
        self._start([*shell, script + port], {**broker["environment"], "PATH": path}, "redis")

    def environment(self, service: str) -> dict[str, str]:
        """What a service is given, with addresses and paths of this machine."""
        told: dict[str, str] = dict(self.services[service]["environment"])
        for name in told:
            place = f"127.0.0.1:{self.ports['redis']}"
            told[name] = re.sub(r"(?<=[@/])redis:6379/", f"{place}/", told[name])
            told[name] = re.sub(r"@postgres(/.*)", rf"@\1?host={self.postgres.home}", told[name])
        mounted = dict(volume.split(":")[1::-1] for volume in self.services[service]["volumes"])
        settings = (ROOT / mounted[told["ORCHESTRATOR_CONFIG"]]).read_text()
        config = self.directory / "orchestrator.toml"
        config.write_text(settings.replace("/srv/volumes", str(self.directory / "volumes")))
        home = self.directory / f"home-{service}"
        home.mkdir(exist_ok=True)
        told["ORCHESTRATOR_CONFIG"] = str(config)
        return {**told, "HOME": str(home), "PATH": os.environ["PATH"]}

    def command(self, words: list[str]) -> list[str]:
        """A command of the image's entry point."""
        placed = [word.replace("0.0.0.0:8080", self.address) for word in words]
        return [sys.executable, "-m", "orchestrator", *placed]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.ports['api']}"

    def run(self, service: str, words: list[str]) -> subprocess.CompletedProcess[str]:
        """Run something with the environment of a service, to its end."""
        return subprocess.run(
            words,
            env=self.environment(service),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def start(self, service: str) -> None:
        """Start a service."""
        words = self.command(self.services[service]["command"])
        self._start(words, self.environment(service), service)

    def is_healthy(self, service: str) -> bool:
        """Whether its health check says so."""
        kind, program, *words = self.services[service]["healthcheck"]["test"]
        assert kind == "CMD"
        here = {
            "python": [sys.executable],
            "orchestrator": [sys.executable, "-m", "orchestrator"],
        }
        words = [word.replace("127.0.0.1:8080", self.address) for word in words]
        return self.run(service, [*here[program], *words]).returncode == 0

    def _start(self, words: list[str], environment: dict[str, str], service: str) -> None:
        with (self.directory / f"{service}.log").open("wb") as log:
            self.processes.append(
                subprocess.Popen(words, env=environment, cwd=ROOT, stdout=log, stderr=log)
            )

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            process.wait(60)
        self.postgres.stop()


@pytest.fixture
def composed(tmp_path: Path) -> Iterator[Composed]:
    (tmp_path / "volumes").mkdir()
    made = Composed(tmp_path)
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(tmp_path, ignore_errors=True)


def until(holds: Any, what: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@pytest.mark.slow
def test_the_services_of_the_file_work_together(composed: Composed) -> None:
    composed.start_servers()
    broker = redis.Redis(port=composed.ports["redis"], password=GIVEN["BROKER_PASSWORD"])
    until(lambda: _answers(broker), "the broker did not answer with its password")
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=composed.ports["redis"]).ping()

    migrated = composed.run("migrate", composed.command(composed.services["migrate"]["command"]))
    assert migrated.returncode == 0, migrated.stderr
    for service in ("scheduler", "worker", "api"):
        composed.start(service)
    for service in ("api", "worker", "scheduler"):
        until(lambda s=service: composed.is_healthy(s), f"{service} did not become healthy")

    # The first token, as the head of the file says.
    told = FILE.read_text()
    asked = re.search(r"docker compose run --rm (\w+) (token .*?)(?:  +#.*)?$", told, re.MULTILINE)
    assert asked is not None
    made = composed.run(asked[1], composed.command(asked[2].split()))
    assert made.returncode == 0, made.stderr
    client = {
        "ORCHESTRATOR_URL": f"http://{composed.address}",
        "ORCHESTRATOR_TOKEN": made.stdout.strip(),
        "PATH": os.environ["PATH"],
    }
    form = "submit volume.create --backend fast --volume vm1 size=1M --wait --timeout 60 --json"
    done = subprocess.run(
        composed.command(form.split()), env=client, capture_output=True, text=True, check=False
    )
    assert json.loads(done.stdout)["state"] == "succeeded", done.stderr
    for log in composed.directory.glob("*.log"):
        told = log.read_text()
        assert not [secret for secret in GIVEN.values() if secret in told], log.name


def _answers(broker: redis.Redis) -> bool:
    try:
        return bool(broker.ping())
    except redis.ConnectionError:
        return False


def test_every_image_can_be_pinned_and_every_password_has_to_be_set() -> None:
    text = FILE.read_text()
    images = re.findall(r"^ +image: (.*)$", text, re.MULTILINE)
    assert images
    assert all(re.fullmatch(r"\$\{[A-Z]+_IMAGE:-[^}]+\}", image) for image in images)
    assert not re.search(r"PASSWORD:-", text), "no password has a default"
    example = (ROOT / "deploy" / "compose.env").read_text()
    for name in {match["name"] for match in VARIABLE.finditer(text) if match["name"]}:
        assert re.search(rf"^#?{name}=", example, re.MULTILINE), name
