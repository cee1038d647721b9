"""The embedded broker: it starts, serves Celery and redis-py, and never outlives its owner."""

import os
import select
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import celery
import pytest
import redis

from orchestrator.embedded import broker as broker_module
from orchestrator.embedded.broker import (
    BrokerStartError,
    EmbeddedBroker,
    find_server_program,
    redis_client_url,
)

OWNER = """
import sys
from pathlib import Path
import redis
from orchestrator.embedded.broker import EmbeddedBroker, redis_client_url

broker = EmbeddedBroker(Path(sys.argv[1]))
broker.start()
print(redis.Redis.from_url(redis_client_url(broker.url)).info("server")["process_id"], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def broker(tmp_path: Path):
    broker = EmbeddedBroker(tmp_path / "broker")
    yield broker
    broker.stop()


def connect(broker: EmbeddedBroker) -> redis.Redis:
    return redis.Redis.from_url(redis_client_url(broker.url))


def test_it_answers_on_a_socket_that_is_closed_to_others(broker: EmbeddedBroker, tmp_path: Path):
    broker.start()
    with connect(broker) as client:
        assert client.ping()
        assert client.info("server")["tcp_port"] == 0
    assert stat.S_IMODE((tmp_path / "broker").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "broker" / "broker.sock").stat().st_mode) == 0o700


def test_celery_and_redis_py_reach_the_same_database_through_it(broker: EmbeddedBroker):
    broker.start()
    url = broker.url + "?virtual_host=3"
    app = celery.Celery(broker=url)
    app.send_task("wake", queue="hints")
    app.close()
    with redis.Redis.from_url(redis_client_url(url)) as client:
        assert client.llen("hints") == 1


def test_a_long_or_unusual_directory_name_is_no_obstacle(tmp_path: Path):
    for name in ("x" * 120, "a b;c+d%é"):
        broker = EmbeddedBroker(tmp_path / name)
        broker.start()
        with connect(broker) as client:
            assert client.ping()
        app = celery.Celery(broker=broker.url)
        app.send_task("wake")
        app.close()
        broker.stop()


def test_a_long_path_keeps_its_address_when_the_server_dies(tmp_path: Path):
    broker = EmbeddedBroker(tmp_path / ("x" * 120))
    broker.start()
    url = broker.url
    with connect(broker) as client:
        os.kill(client.info("server")["process_id"], signal.SIGKILL)
        broker.stop()
        broker.start()
        # Whoever has the address reaches the next one.
        assert broker.url == url
        assert client.ping()
    broker.stop()


def test_a_long_path_is_refused_where_somebody_else_has_made_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with tempfile.TemporaryDirectory() as short:
        monkeypatch.setattr("tempfile.tempdir", short)
        broker = EmbeddedBroker(tmp_path / ("x" * 120))
        broker.start()
        place = Path(broker.url.removeprefix("redis+socket://")).parent
        broker.stop()
        assert place.parent == Path(short)
        place.mkdir()
        place.chmod(0o777)
        with pytest.raises(BrokerStartError, match="open to others"):
            broker.start()


def test_stop_leaves_nothing_running_and_start_works_again(broker: EmbeddedBroker, tmp_path: Path):
    broker.start()
    assert broker.running
    broker.stop()
    assert not broker.running
    assert {path.name for path in (tmp_path / "broker").iterdir()} == {"broker.log", "broker.lock"}
    broker.start()
    with connect(broker) as client:
        assert client.ping()


def test_a_second_broker_in_the_same_directory_is_refused(broker: EmbeddedBroker, tmp_path: Path):
    broker.start()
    with pytest.raises(BrokerStartError, match="Another process"):
        EmbeddedBroker(tmp_path / "broker").start()
    with connect(broker) as client:
        assert client.ping()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_it_dies_when_its_parent_is_killed_and_another_can_take_its_place(
    broker: EmbeddedBroker, tmp_path: Path
):
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, tmp_path / "broker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as owner:
        assert owner.stdout is not None
        server = os.pidfd_open(int(owner.stdout.readline()))
        owner.send_signal(signal.SIGKILL)
        ended, _, _ = select.select([server], [], [], 10)
        os.close(server)
    assert ended
    assert (tmp_path / "broker" / "broker.sock").exists()
    broker.start()
    with connect(broker) as client:
        assert client.ping()


def test_a_server_that_ends_at_once_is_reported_with_its_last_words(
    broker: EmbeddedBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    broken = tmp_path / "valkey-server"
    broken.write_text("#!/bin/sh\necho no room today\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(broker_module, "find_server_program", lambda: broken)
    with pytest.raises(BrokerStartError, match=r"ended with 3(.|\n)*no room today"):
        broker.start()
    assert not broker.running


def test_without_any_server_the_error_says_what_to_install_or_set(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BrokerStartError) as error:
        find_server_program()
    assert "valkey-server" in str(error.value)
    assert "redis-server" in str(error.value)
    assert "[broker] url" in str(error.value)


def test_a_server_on_the_path_serves_where_the_wheel_does_not_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bundled = find_server_program()
    (tmp_path / "redis-server").symlink_to(bundled)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server_program() == tmp_path / "redis-server"


@pytest.mark.parametrize(
    ("celery_url", "client_url"),
    [
        ("redis://example.net:6379/2", "redis://example.net:6379/2"),
        ("rediss://:secret@example.net/0", "rediss://:secret@example.net/0"),
        ("redis+socket:///run/broker.sock", "unix:///run/broker.sock"),
        ("redis+socket:///run/b%20c.sock?virtual_host=2", "unix:///run/b%20c.sock?db=2"),
        ("redis+socket://:secret@/run/b.sock", "unix://:secret@/run/b.sock"),
    ],
)
def test_an_address_is_rewritten_for_redis_py(celery_url: str, client_url: str):
    assert redis_client_url(celery_url) == client_url
