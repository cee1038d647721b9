"""What ``doctor`` says of a machine: what is well, what is wrong, and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import select

from orchestrator.cli.root import run
from orchestrator.embedded.broker import redis_client_url
from orchestrator.history.events import Event, number_committed, record
from orchestrator.ledger import chain
from orchestrator.settings import CONFIG_VARIABLE
from orchestrator.store import migrate
from orchestrator.store.columns import db_now
from orchestrator.store.database import Database

Found = dict[str, list[dict[str, Any]]]
Doctor = Callable[..., Found]


@pytest.fixture
def doctor(
    tmp_path: Path,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Doctor:
    """Examines a machine with data, a migrated database and a backend; what it says, by thing."""
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "volumes").mkdir(mode=0o700)
    config = tmp_path / "orchestrator.toml"
    config.write_text(
        f'data = "{tmp_path / "data"}"\n'
        f'[database]\nurl = "{database_url}"\n'
        f'[backends.fast]\ndriver = "file"\npath = "{tmp_path / "volumes"}"\n'
    )
    monkeypatch.setenv(CONFIG_VARIABLE, str(config))
    assert run(["db", "upgrade"]) == 0
    capsys.readouterr()

    def examined(more: str = "", *, status: int = 0) -> Found:
        config.write_text(config.read_text() + more)
        assert run(["doctor", "--json"]) == status
        told = json.loads(capsys.readouterr().out)
        assert told["well"] is (status == 0)
        found: Found = {}
        for one in told["findings"]:
            found.setdefault(one["what"], []).append(one)
        return found

    return examined


def verdicts(found: Found) -> dict[str, set[str]]:
    return {what: {one["verdict"] for one in ones} for what, ones in found.items()}


def test_a_fresh_machine_is_well_and_is_told_what_is_not_there_yet(doctor: Doctor) -> None:
    found = verdicts(doctor())
    assert found["data directory"] <= {"ok", "warning"}
    assert found["database"] == found["clock"] == found["broker"] == {"ok"}
    assert found["key of the chain"] == {"warning"}
    assert "error" not in found["backend fast"]
    details = " ".join(one["detail"] for one in doctor()["backend fast"])
    assert "no worker is alive" in details
    assert "bears no marker yet" in details


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_what_is_wrong_is_told_with_what_to_do(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "data").chmod(0o777)
    (tmp_path / "data" / "audit.key").write_text("k" * 64)
    (tmp_path / "data" / "audit.key").chmod(0o644)
    (tmp_path / "volumes").rmdir()
    hook = tmp_path / "hooks" / "any.pre.d" / "check"
    hook.parent.mkdir(parents=True)
    hook.touch()
    hook.chmod(0o777)
    more = f'[broker]\nurl = "redis://u:secret@127.0.0.1:1/0"\n[hooks]\npath = "{tmp_path}/hooks"\n'
    found = doctor(more, status=1)
    assert verdicts(found)["broker"] == {"error"}
    assert "secret" not in json.dumps(found)
    for what, remedy in (
        ("data directory", "chmod go-w"),
        ("key of the chain", "cannot be trusted"),
        ("hooks", "chmod go-w"),
    ):
        told = [
            f"{one['detail']} {one['remedy']}" for one in found[what] if one["verdict"] == "error"
        ]
        assert any(remedy in sentence for sentence in told), what
    assert any("there is no directory" in one["detail"] for one in found["backend fast"])


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_schema_that_is_behind_is_an_error(doctor: Doctor, tmp_path: Path) -> None:
    migrate.downgrade(f"sqlite:///{tmp_path / 'orchestrator.sqlite'}", "0005")
    found = doctor(status=1)["database"]
    assert found[0]["verdict"] == "error"
    assert "orchestrator db upgrade" in found[0]["remedy"]


def test_a_key_that_is_not_the_one_of_the_history_is_an_error(
    doctor: Doctor, database_url: str, tmp_path: Path
) -> None:
    database = Database(database_url, pool_size=1)
    told = Event(kind="queue.drained", actor="somebody")
    try:
        for _ in range(2):
            database.transact(lambda c: record(c, [told], c.execute(select(db_now())).scalar_one()))
        database.transact(number_committed)
        database.transact(lambda connection: chain.extend(connection, b"right", 100))
    finally:
        database.close()
    key = tmp_path / "data" / "audit.key"
    key.touch(mode=0o600)
    key.write_text("right")
    assert verdicts(doctor())["key of the chain"] == {"ok"}
    key.write_text("wrong")
    assert verdicts(doctor(status=1))["key of the chain"] == {"ok", "error"}


@pytest.fixture
def evicting(broker_url: str) -> Iterator[str]:
    with redis.Redis.from_url(redis_client_url(broker_url)) as client:
        before = client.config_get("maxmemory-policy")
        client.config_set("maxmemory", "512mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
        yield broker_url
        client.config_set("maxmemory", "0")
        client.config_set("maxmemory-policy", before["maxmemory-policy"])


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_broker_that_throws_keys_away_is_warned_of(doctor: Doctor, evicting: str) -> None:
    found = doctor(f'[broker]\nurl = "{evicting}"\n')["broker"]
    assert [one["verdict"] for one in found] == ["ok", "warning"]
    assert found[1]["remedy"] == "set it to noeviction"
