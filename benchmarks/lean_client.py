"""A lean HTTP client: one kept connection, nothing between it and the socket but http.client.

A comfortable client would measure itself.
"""

from __future__ import annotations

import http.client
import json
import time
from typing import Any

_WAIT = 300
#: Seconds after which a server may have closed a connection that nobody used.
_KEPT_SECONDS = 2.0


class LeanClient:
    """One connection to the service, for one thread."""

    def __init__(self, address: tuple[str, int], token: str) -> None:
        self._connection = http.client.HTTPConnection(*address, timeout=_WAIT + 30)
        self._accepting = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
        }
        self._waiting = {**self._accepting, "Prefer": f"wait={_WAIT}"}
        self._used = time.monotonic()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def finish(self, path: str, body: bytes) -> bytes:
        """Submit and wait for the end; the answer, of something that succeeded."""
        status, answer = self._send("POST", path, body, self._waiting)
        if status != 200 or b'"state":"succeeded"' not in answer:
            raise RuntimeError(f"{path} was answered with {status}: {answer[:500]!r}")
        return answer

    def accept(self, path: str, body: bytes) -> bytes:
        """Submit; the answer, once it is accepted."""
        return self._wanted(202, "POST", path, body)

    def plan(self, path: str, body: bytes) -> bytes:
        """Ask what would happen; the answer."""
        return self._wanted(200, "POST", f"{path}?plan=true", body)

    def put(self, path: str, body: bytes) -> bytes:
        """Set something; the answer."""
        return self._wanted(200, "PUT", path, body)

    def _wanted(self, wanted: int, method: str, path: str, body: bytes) -> bytes:
        status, answer = self._send(method, path, body, self._accepting)
        if status != wanted:
            raise RuntimeError(f"{path} was answered with {status}: {answer[:500]!r}")
        return answer

    def get(self, path: str) -> Any:
        """Read something."""
        status, answer = self._send("GET", path, None, self._accepting)
        if status != 200:
            raise RuntimeError(f"{path} was answered with {status}: {answer[:500]!r}")
        return json.loads(answer)

    def _send(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        if time.monotonic() - self._used > _KEPT_SECONDS:
            self._connection.close()
        self._connection.request(method, path, body, headers)
        response = self._connection.getresponse()
        answer = response.read()
        self._used = time.monotonic()
        return response.status, answer
