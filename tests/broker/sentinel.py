"""Servers that take each other's place: a primary, a replica, and Sentinels that watch them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis

from orchestrator.embedded.broker import find_server_program
from orchestrator.embedded.process import die_with_parent
from tests.acceptance.conftest import free_port
from tests.broker.conftest import until

#: How the Sentinels call the primary and its replicas.
NAME = "jobs"
_SENTINELS = 3
_PASSWORD = "not/so:secret"

_SENTINEL_CONFIG = """\
port {port}
bind 127.0.0.1
dir {directory}
sentinel monitor {name} 127.0.0.1 {primary} 2
sentinel auth-pass {name} {password}
sentinel down-after-milliseconds {name} 500
sentinel failover-timeout {name} 2000
"""


class Sentinels:
    """Five processes on ports of this machine, which end with the test."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._primary, self._replica = (self._serve() for _ in range(2))
        for port in (self._primary, self._replica):
            self._until_answers(port)
        with self._client(self._replica) as replica:
            replica.replicaof("127.0.0.1", str(self._primary))
        self._sentinels = [self._watch() for _ in range(_SENTINELS)]
        until(lambda: all(map(self._knows_all, self._sentinels)), "the Sentinels know each other")

    @property
    def plain_url(self) -> str:
        """Their address as Celery writes it; the name is a transport option there."""
        login = quote(_PASSWORD, safe="")
        return ";".join(f"sentinel://:{login}@127.0.0.1:{port}/1" for port in self._sentinels)

    @property
    def url(self) -> str:
        """Their address as our settings write it."""
        return f"{self.plain_url}?master_name={NAME}"

    def primary(self) -> redis.Redis:
        """A client of the server that is the primary now."""
        return self._client(self._primary)

    def cut_off_replica(self) -> None:
        """Let the replica hear no more of what is written: replication is never a promise."""
        with self._client(self._replica) as replica, self.primary() as primary:
            replica.config_set("masterauth", "wrong")
            primary.execute_command("CLIENT", "KILL", "TYPE", "replica")
            until(lambda: primary.info("replication")["connected_slaves"] == 0, "it is cut off")

    def lose_host(self) -> None:
        """Kill the primary, and the Sentinel that is asked first; the replica will take over."""
        for port in (self._primary, self._sentinels[0]):
            self._processes[port].kill()
            self._processes[port].wait()
        self._primary = self._replica

    def until_failed_over(self) -> None:
        """Wait until the Sentinels that are left agree that the former replica has taken over."""
        left = self._sentinels[1:]
        until(lambda: all(map(self._names_replica, left)), "the replica took over")

    def close(self) -> None:
        """End them all."""
        for process in self._processes.values():
            process.kill()
            process.wait()

    def _serve(self) -> int:
        port = free_port()
        settings = {
            "port": str(port),
            "bind": "127.0.0.1",
            "save": "",
            "requirepass": _PASSWORD,
            "masterauth": _PASSWORD,
            "repl-diskless-sync-delay": "0",
        }
        words = [word for key, value in settings.items() for word in (f"--{key}", value)]
        self._launch(port, *words)
        return port

    def _watch(self) -> int:
        port = free_port()
        directory = self._directory / f"sentinel-{port}"
        directory.mkdir()
        config = directory / "sentinel.conf"
        values = {"port": port, "directory": directory, "primary": self._primary}
        config.write_text(_SENTINEL_CONFIG.format(**values, name=NAME, password=_PASSWORD))
        self._launch(port, str(config), "--sentinel")
        return port

    def _launch(self, port: int, *arguments: str) -> None:
        with (self._directory / f"{port}.log").open("ab") as log:
            self._processes[port] = subprocess.Popen(
                [find_server_program(), *arguments],
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent if sys.platform == "linux" else None,
            )

    def _client(self, port: int) -> redis.Redis:
        return redis.Redis(port=port, db=1, password=_PASSWORD, decode_responses=True)

    def _until_answers(self, port: int) -> None:
        def answers() -> bool:
            try:
                with self._client(port) as client:
                    return bool(client.ping())
            except redis.ConnectionError:
                return False

        until(answers, f"the server on port {port} answers")

    def _knows_all(self, port: int) -> bool:
        state = self._state(port)
        return state.get("num-other-sentinels") == _SENTINELS - 1 and state["num-slaves"] == 1

    def _names_replica(self, port: int) -> bool:
        state = self._state(port)
        return state.get("port") == self._replica and not state["is_sdown"]

    def _state(self, port: int) -> dict[str, Any]:
        """What a Sentinel says of the primary; empty while it does not answer."""
        try:
            with redis.Redis(port=port, decode_responses=True) as sentinel:
                state: dict[str, Any] = sentinel.sentinel_master(NAME)
                return state
        except redis.RedisError:
            return {}
