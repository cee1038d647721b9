"""docs/operations.md, followed as it stands: from bare machines to a service that was upgraded.

The machines are Debian's with a systemd of their own; the units are those of ``deploy/``.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from tests.chaos.processes import until
from tests.rigs.installed import needs
from tests.rigs.machines import CannotBoot, Machine, Network, machines_are_possible
from tests.rigs.postgres import DEBIAN

pytestmark = pytest.mark.timeout(1200)

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text()
NAMES = ("db.example.net", "broker.example.net", "storage.example.net")
#: What an administrator might choose: it has to get through URLs, files and shells.
DATABASE_PASSWORD, BROKER_PASSWORD = "d@t/a:b%se#", "br@k/e:r%#"
#: Where the source is on machines, and where what they share is.
SOURCE, SHARED = "/usr/src/orchestrator", "/backup"
_SERVERS = ("postgresql", "pgbouncer", "redis-server", "nginx")
_LIBRARY = Path("/etc/ssl/certs/ca-certificates.crt")


def section(heading: str) -> str:
    """What stands below a heading of the page."""
    parts = re.split(r"^## ", PAGE, flags=re.M)
    [found] = [part for part in parts if part.startswith(f"{heading}\n")]
    return found


def blocks(heading: str, kind: str = "sh") -> list[str]:
    """The blocks of one kind below a heading."""
    return re.findall(rf"```{kind}\n(.*?)```", section(heading), re.S)


def lines_of(block: str, pattern: str) -> str:
    """Those lines of a block that are for this machine: they match the pattern."""
    found = [line for line in block.splitlines() if re.search(pattern, line)]
    assert found, pattern
    return "\n".join(found)


class Site:
    """A database host that has the broker, too, and two storage hosts."""

    def __init__(self, directory: Path) -> None:
        self.source = directory / "source"
        self.shared = directory / "shared"
        self.shared.mkdir(mode=0o755)
        ignored = shutil.ignore_patterns(".*", "build", "tests", "benchmarks", "__pycache__")
        shutil.copytree(ROOT, self.source, ignore=ignored)
        self.certificate, self.key = _certificate(directory)
        self.network = Network()
        self.machines: list[Machine] = []
        self.database = self._machine("database", masked=["nginx"])
        self.a = self._machine("a", masked=_SERVERS)
        self.b = self._machine("b", masked=_SERVERS)

    def _machine(self, name: str, masked: tuple[str, ...] | list[str]) -> Machine:
        shared = {SOURCE: self.source, SHARED: self.shared}
        machine = Machine(name, self.network, shared, masked)
        self.machines.append(machine)
        machine.run(f"echo '127.0.0.1 localhost {name} {' '.join(NAMES)}' > /etc/hosts")
        machine.write("/usr/local/share/ca-certificates/site.crt", self.certificate.read_text())
        machine.run("update-ca-certificates")
        machine.run("echo 'APT::Get::Assume-Yes \"true\";' > /etc/apt/apt.conf.d/99yes")
        return machine

    def stop(self) -> None:
        for machine in self.machines:
            machine.stop()
        self.network.close()


def _certificate(directory: Path) -> tuple[Path, Path]:
    made, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=example.net", "-keyout", key, "-out", made),
            *("-addext", f"subjectAltName={','.join(f'DNS:{name}' for name in NAMES)}"),
        ],
        check=True,
        capture_output=True,
    )
    return made, key


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    machines_are_possible()
    if not (DEBIAN / "postgres").exists():
        pytest.skip("Debian's PostgreSQL 15 is not installed: apt install postgresql-15")
    for program in ("pgbouncer", "redis-server", "openssl", "update-ca-certificates"):
        needs(program, "ca-certificates" if program.startswith("update") else program)
    try:
        made = Site(tmp_path)
    except CannotBoot as error:
        pytest.skip(str(error))
    try:
        yield made
    finally:
        made.stop()


def test_who_follows_the_page_has_a_service_that_is_backed_up_and_upgraded(site: Site) -> None:
    _set_up_the_database(site)
    _set_up_the_broker(site)
    for machine in (site.a, site.b):
        _install(machine)
        _configure(site, machine)
    _start(site)
    token = _first_token(site)
    for backend, machine, other in (("a", site.a, site.b), ("b", site.b, site.a)):
        _client(site, token, _submit("volume.create", backend, "vm1", "size=8M"))
        images = "find /srv/volumes -name '*.img' -user orchestrator"
        assert machine.run(images).count("\n") == 1
        _client(site, token, _submit("snapshot.create", backend, "vm1", "--snapshot before"))
        assert other.run(f"{images} | wc -l") == ("0\n" if backend == "a" else "2\n")
    _back_up_and_restore(site, token)
    _restore_elsewhere(site)
    _upgrade(site, token)
    for backend in ("a", "b"):
        _client(site, token, _submit("volume.rollback", backend, "vm1", "--snapshot before"))
        _client(site, token, _submit("volume.create", backend, "vm2", "size=1M"))
    assert "succeeded" in _client(site, token, "orchestrator audit verify; echo succeeded")


def _submit(action: str, backend: str, volume: str, more: str) -> str:
    return (
        f"orchestrator submit {action} --backend {backend} --volume {volume} {more}"
        " --wait --timeout 120"
    )


def _set_up_the_database(site: Site) -> None:
    database = site.database
    database.run("systemctl start postgresql")
    [statements] = blocks("Database", "sql")
    database.write("/tmp/database.sql", statements.replace("…", DATABASE_PASSWORD))
    database.run("runuser -u postgres -- psql -v ON_ERROR_STOP=1 -f /tmp/database.sql")
    [pooler] = blocks("Database", "ini")
    database.write("/etc/pgbouncer/pgbouncer.ini", pooler)
    database.write("/etc/pgbouncer/userlist.txt", f'"orchestrator" "{DATABASE_PASSWORD}"')
    database.run("systemctl restart pgbouncer")


def _set_up_the_broker(site: Site) -> None:
    broker = site.database
    broker.run("install -d -m 0750 -o redis -g redis /etc/redis/tls")
    broker.write("/etc/redis/tls/cert.pem", site.certificate.read_text())
    broker.write("/etc/redis/tls/key.pem", site.key.read_text())
    broker.run(
        "chown redis /etc/redis/tls/*; cat >> /etc/redis/redis.conf <<'END'\n"
        "port 0\ntls-port 6379\ntls-cert-file /etc/redis/tls/cert.pem\n"
        "tls-key-file /etc/redis/tls/key.pem\ntls-auth-clients no\n"
        'tls-ca-cert-file /etc/redis/tls/cert.pem\nmaxmemory-policy noeviction\nsave ""\n'
        "END\nsystemctl restart redis-server"
    )
    [allow] = blocks("Broker")
    # As the page says of Redis before 7.2.
    allow = allow.replace("'+client|setinfo' ", "").replace("PASSWORD", BROKER_PASSWORD)
    secure = f'redis-cli() {{ command redis-cli -h {NAMES[1]} --tls --cacert {_LIBRARY} "$@"; }}'
    assert "OK" in broker.run(f"{secure}\n{allow}")


def _install(machine: Machine) -> None:
    if machine.name == "b":
        # Another host has other users, and ours is another one there.
        machine.run("useradd --system somebody")
    [commands] = blocks("Install")
    machine.run(commands.replace("SOURCE", SOURCE), online=True)


def _configure(site: Site, machine: Machine) -> None:
    passwords, directory = blocks("Settings")
    machine.run(passwords)
    machine.run(
        f"printf %s '{DATABASE_PASSWORD}' > /etc/orchestrator/database-password\n"
        f"printf %s '{BROKER_PASSWORD}' > /etc/orchestrator/broker-password"
    )
    for name, source in (("cert.pem", site.certificate), ("key.pem", site.key)):
        machine.write(f"/etc/orchestrator/tls/{name}", source.read_text())
    [settings] = blocks("Settings", "toml")
    machine.write("/etc/orchestrator/orchestrator.toml", settings)
    machine.run(directory)


def _as() -> str:
    """How the page executes something as the service's user."""
    return lines_of(blocks("Start")[0], r"^(export|as\(\))")


def _start(site: Site) -> None:
    [commands] = blocks("Start")
    before, doctor = commands.split("as orchestrator doctor")
    site.a.run(before)
    _wait_until_ready(site)
    site.a.run(f"{_as()}\nas orchestrator doctor{doctor}")
    site.b.run("systemctl enable --now orchestrator-worker")
    site.b.run(f"{_as()}\nas orchestrator doctor")


def _wait_until_ready(site: Site) -> None:
    ready = f"curl --silent --fail https://{NAMES[2]}:8443/readyz || true"
    until(lambda: "ok" in site.a.run(ready), "the service is ready")


def _first_token(site: Site) -> str:
    made, use = blocks("First token")
    token = site.a.run(f"{_as()}\n{made}").strip()
    told = site.a.run(use.replace("…", token))
    assert re.search(r"\ba\b.*\n.*\bb\b", told), told
    return token


def _client(site: Site, token: str, command: str) -> str:
    """A command of a user's, on a machine that has no rights but his token."""
    [setting] = [line for line in blocks("First token")[1].splitlines() if "export" in line]
    user = f"runuser -u nobody -- env HOME=/nonexistent bash -c '{setting}; {command}'"
    return site.b.run(user.replace("…", token))


def _back_up_and_restore(site: Site, token: str) -> None:
    backup, restore = blocks("Backup and restore")
    site.a.run(f"{_as()}\n{backup}")
    _client(site, token, _submit("volume.create", "a", "late", "size=1M"))
    stop, rest = restore.split("as orchestrator", 1)
    for machine in (site.a, site.b):
        machine.run(_existing(machine, stop))
    back, start, after = re.split(r"^(systemctl start.*\n)", f"as orchestrator{rest}", flags=re.M)
    site.a.run(f"{_as()}\n{back.replace('2026-11-29', date.today().isoformat())}")
    for machine in (site.a, site.b):
        machine.run(_existing(machine, start))
    _wait_until_ready(site)
    _client(site, token, lines_of(after, "audit run").partition("#")[0])
    found = json.loads(_client(site, token, "orchestrator audit findings --backend a --json"))
    assert [one["kind"] for one in found["items"]] == ["orphan"]
    _client(site, token, lines_of(after, "acknowledge"))


def _existing(machine: Machine, command: str) -> str:
    """Of the units that are named, those that this machine has been given."""
    units = {"a": ("api", "scheduler", "worker"), "b": ("worker",)}[machine.name]
    command = command.partition("#")[0]
    words = [w for w in command.split() if not w.startswith("orchestrator-") or w[13:] in units]
    return " ".join(words)


def _restore_elsewhere(site: Site) -> None:
    [statements] = blocks("Database", "sql")
    create = lines_of(statements, "CREATE DATABASE").replace(
        "DATABASE orchestrator", "DATABASE two"
    )
    site.database.write("/tmp/two.sql", create)
    site.database.run("runuser -u postgres -- psql -v ON_ERROR_STOP=1 -f /tmp/two.sql")
    url = f"postgresql://orchestrator@{NAMES[0]}:5432/two"
    kept = f"{SHARED}/orchestrator-{date.today().isoformat()}.db"
    site.b.run(
        f"cp {kept} /var/tmp/kept.db; chown orchestrator /var/tmp/kept.db\n{_as()}\n"
        f"as env ORCHESTRATOR_DATABASE__URL={url}"
        " orchestrator db restore /var/tmp/kept.db --keep-tokens"
    )
    told = site.b.run(f"{_as()}\nas env ORCHESTRATOR_DATABASE__URL={url} orchestrator db check")
    assert told


def _upgrade(site: Site, token: str) -> None:
    steps = [
        step.replace("\n   ", " ") for step in re.split(r"^\d\. ", section("Upgrade"), flags=re.M)
    ]
    drain, stop, backup, install, upgrade, start = [re.findall("`([^`]*)`", s) for s in steps[1:]]
    _client(site, token, drain[0])
    until(
        lambda: not json.loads(_client(site, token, f"{drain[1]} --json"))["unfinished"]["running"],
        "nothing is running",
    )
    for machine in (site.a, site.b):
        machine.run(_existing(machine, stop[0]))
    site.a.run(f"{_as()}\n{backup[0]}")
    for machine in (site.a, site.b):
        machine.run(install[0])
        [again] = blocks("Install")
        commands = lines_of(again, r"^(python3|cd|/opt|install)")
        machine.run(commands.replace("SOURCE", SOURCE), online=True)
    site.a.run(f"{_as()}\n{upgrade[0]}")
    for machine in (site.a, site.b):
        machine.run("systemctl daemon-reload")
        machine.run(_existing(machine, stop[0]).replace("stop", "start"))
    _wait_until_ready(site)
    for machine in (site.a, site.b):
        machine.run(f"{_as()}\nas {start[0]}")
    _client(site, token, start[1])
