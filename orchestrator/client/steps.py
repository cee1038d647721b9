"""What a client method asks of whoever runs it: calls, pauses and lines of a stream.

A method is written once, as a generator of these. `drivers` runs it, blocking or not.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from orchestrator.domain.errors import InvalidName

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request; the driver sends back its `Answer`.

    A connection that fails is raised as `Unavailable` with the fact ``may_have_arrived``:
    False if the request was never sent, so that it cannot have taken effect.
    """

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    #: Sent as JSON, unless it is None.
    json: Any = None
    #: Sent as it is.
    content: bytes | None = None
    #: Seconds for which the service was asked to hold the answer back.
    held: float = 0.0
    #: Whether sending it a second time does no harm.
    repeatable: bool = False


@dataclass(frozen=True)
class Answer:
    """What the service said: the decoded body, or None where there is none."""

    status: int
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True)
class Pause:
    """Wait this many seconds."""

    seconds: float


@dataclass(frozen=True)
class Open:
    """Open a stream; the driver sends None, or raises what the service answered instead."""

    call: Request


@dataclass(frozen=True)
class NextLine:
    """The next line of the stream that is open; None once it has ended."""


@dataclass(frozen=True)
class Item(Generic[T]):
    """Something for the caller, who iterates."""

    value: T


#: A method that returns once.
Steps = Generator[Request | Pause, Any, T]
#: A method whose results are iterated.
StreamSteps = Generator[Request | Pause | Open | NextLine | Item[T], Any, None]


def path_to(*segments: str | int) -> str:
    """A path below ``/v1``, each segment percent-encoded: names may contain slashes.

    Raises `InvalidName` for an empty segment, which would name something else.
    """
    encoded = []
    for segment in segments:
        text = str(segment)
        if not text:
            raise InvalidName("a name has at least one character")
        # Clients and proxies resolve dot segments before sending; these are names.
        encoded.append(text.replace(".", "%2E") if text in (".", "..") else quote(text, safe=""))
    return "/v1/" + "/".join(encoded)


def given(**params: Any) -> dict[str, str]:
    """The parameters of a query that are not None, as text; lists joined by commas."""
    told: dict[str, str] = {}
    for name, value in params.items():
        if value is None or value == ():
            continue
        if isinstance(value, bool):
            told[name] = "true" if value else "false"
        elif isinstance(value, str | int | float):
            told[name] = str(value)
        else:
            told[name] = ",".join(str(part) for part in value)
    return told
