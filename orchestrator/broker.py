"""The broker's address and what it means: one server, or Sentinels that know it.

Sentinels are written as Celery does, ``sentinel://HOST:PORT;sentinel://HOST:PORT/DB``. User,
password and database are those of the servers they watch and may stand with any of them, as may
``?master_name=NAME`` (default: ``mymaster``) and ``&sentinel_password=PASSWORD``, the
Sentinels' own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import redis
import redis.asyncio as aioredis
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.exceptions import RedisError
from redis.sentinel import Sentinel

from orchestrator.domain.errors import InvalidInput
from orchestrator.domain.nearest import did_you_mean
from orchestrator.embedded.broker import redis_client_url

_SCHEME = "sentinel://"
_PORT = 26379
_MASTER_NAME = "mymaster"
#: Seconds a Sentinel may take to accept a connection and to answer: there are others to ask.
_SENTINEL_TIMEOUT = 1.0


@dataclass(frozen=True, kw_only=True)
class _Sentinels:
    """Where they are, and which servers are meant."""

    places: list[tuple[str, int]]
    master_name: str
    #: For the connections to the Sentinels, and to the server they name.
    sentinel: dict[str, Any]
    server: dict[str, Any]


#: What a broker's address may begin with.
SCHEMES = ("redis", "rediss", "valkey", "valkeys", "unix", "redis+socket", "sentinel")

#: Those with the number of the database in the path.
_IN_PATH = ("redis", "rediss", "valkey", "valkeys")


def check(url: str) -> None:
    """Raise `InvalidInput` for an address that no connection could be made with.

    Whether anybody answers there is not asked.
    """
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES:
        raise InvalidInput(
            f"a broker's address begins with {', '.join(f'{one}://' for one in SCHEMES)}"
            f"{did_you_mean(scheme, SCHEMES, '')}",
            field="broker.url",
        )
    try:
        if scheme in _IN_PATH:
            # redis-py would take another database for one that is no number.
            int(urlsplit(url).path.strip("/") or 0)
        with client(url) as made:
            made.connection_pool.make_connection()
    except (ValueError, TypeError, RedisError) as error:
        # What was given may hold a password: of what the library says only names are told.
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        what = f"has no option {unknown[1]!r}" if unknown else "has a wrong database or option"
        raise InvalidInput(f"the broker's address {what}", field="broker.url") from None


def client(url: str, **options: Any) -> redis.Redis:
    """A client of the broker; behind Sentinels, of the server that is the primary at the time."""
    found = _sentinels(url)
    if found is None:
        return redis.Redis.from_url(redis_client_url(url), **options)
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        found.places, sentinel_kwargs=found.sentinel
    )
    made: redis.Redis = sentinel.master_for(  # type: ignore[no-untyped-call]
        found.master_name, **found.server, **options
    )
    return made


def async_client(url: str, **options: Any) -> aioredis.Redis:
    """The same for asyncio."""
    found = _sentinels(url)
    if found is None:
        return aioredis.Redis.from_url(redis_client_url(url), **options)
    sentinel = AsyncSentinel(  # type: ignore[no-untyped-call]
        found.places, sentinel_kwargs=found.sentinel
    )
    made: aioredis.Redis = sentinel.master_for(found.master_name, **found.server, **options)
    return made


def _sentinels(url: str) -> _Sentinels | None:
    if not url.startswith(_SCHEME):
        return None
    parts = [urlsplit(_SCHEME + part.removeprefix(_SCHEME)) for part in url.split(";") if part]
    options = dict(pair for part in parts for pair in parse_qsl(part.query))
    # One that does not answer is not asked again for seconds, as it would be by default.
    asking = {
        "socket_timeout": _SENTINEL_TIMEOUT,
        "socket_connect_timeout": _SENTINEL_TIMEOUT,
        "retry": None,
    }
    return _Sentinels(
        places=[(part.hostname or "localhost", part.port or _PORT) for part in parts],
        master_name=options.get("master_name", _MASTER_NAME),
        sentinel={**asking, "password": options.get("sentinel_password")},
        server={
            "username": _first(part.username for part in parts),
            "password": _first(part.password for part in parts),
            "db": int(_first(part.path.strip("/") for part in parts) or 0),
        },
    )


def _first(values: Any) -> str | None:
    return next((unquote(value) for value in values if value), None)
