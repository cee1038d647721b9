"""The one place where what goes wrong with a filer becomes an error of ours."""

from __future__ import annotations

import re
from typing import Any

import requests
from urllib3.exceptions import ConnectTimeoutError, MaxRetryError, NewConnectionError

from orchestrator.domain.errors import (
    AccessDenied,
    AlreadyExists,
    BackendBusy,
    BackendError,
    BackendUnavailable,
    InUse,
    NoSpace,
    NotFound,
    Outage,
    Problem,
    TimedOut,
    UnknownPolicy,
    UnknownSnapshot,
    UnknownVolume,
)

#: What ONTAP's answers mean: by its code, by the HTTP status, or else by the words. The first
#: row that fits counts. Codes differ between releases and between a request's answer and the
#: end of its job, the words hardly do.
_MEANINGS: tuple[tuple[type[Problem], frozenset[str], frozenset[int], str], ...] = (
    (
        Outage,
        frozenset({"2621462"}),
        frozenset({502, 503, 504}),
        r"^(svm|vserver) \S* ?does not exist",
    ),
    (
        BackendBusy,
        frozenset(),
        frozenset({429}),
        "try again|another .*in progress|being (split|moved)",
    ),
    (UnknownPolicy, frozenset({"1703954"}), frozenset(), ""),
    (UnknownSnapshot, frozenset({"1638600"}), frozenset(), ""),
    (NotFound, frozenset({"4", "917927", "918235"}), frozenset({404}), ""),
    (AlreadyExists, frozenset({"1"}), frozenset(), "already (exists|being created)|duplicate"),
    (
        InUse,
        frozenset({"524615", "1638543"}),
        frozenset(),
        "in use|has an owner|is busy|one or more clones",
    ),
    (
        NoSpace,
        frozenset(),
        frozenset({507}),
        "(no|not enough|insufficient) (free |available )?space|is full",
    ),
)
#: The user's role does not allow it, whatever the status is.
_NOT_AUTHORIZED = frozenset({"6", "6691623"})
#: What is not there, by the last part of the request's path that tells.
_MISSING = (("snapshots", UnknownSnapshot), ("export-policies", UnknownPolicy))


def refused(where: str, user: str, path: str, status: int, code: str, message: str) -> Problem:
    """The error for an answer of the filer, or for a job of it that failed."""
    if status in (401, 403):
        return _denied(where, user, code, message)
    if code in _NOT_AUTHORIZED or re.search(r"\bnot authorized\b", message, re.IGNORECASE):
        return _denied(where, user, code, message)
    said = f"the filer {where} says: {message or f'HTTP status {status}'} (code {code or 'none'})"
    for kind, codes, statuses, words in _MEANINGS:
        if (
            code in codes
            or status in statuses
            or (words and re.search(words, message, re.IGNORECASE))
        ):
            if kind is NotFound:
                kind = next((one for part, one in _MISSING if part in path), UnknownVolume)
            return kind(said, ontap_code=code)
    return BackendError(said, ontap_code=code)


def _denied(where: str, user: str, code: str, message: str) -> Problem:
    return AccessDenied(
        f"the filer {where} does not let the user {user} do this ({message}): check the "
        "backend's username and password, and the user's role on the filer",
        ontap_code=code,
    )


def unanswered(where: str, error: Exception, changing: bool) -> Problem:
    """The error for a request that has had no answer."""
    if isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE" in str(error):
        return BackendError(
            f"the certificate of the filer {where} is not trusted: give the authorities that "
            "signed it as the backend's option 'verify', or let the filer have another one"
        )
    why = _reason(error)
    if _never_sent(error):
        return Outage(f"the filer {where} cannot be reached: {why}")
    if not changing:
        return BackendUnavailable(f"the filer {where} does not answer: {why}")
    return TimedOut(
        f"the filer {where} was asked for a change and did not answer: {why}; whether it was "
        "made is found out before anything else is done"
    )


def _never_sent(error: Exception) -> bool:
    cause: Any = error.args[0] if error.args else None
    if isinstance(cause, MaxRetryError):
        cause = cause.reason
    return isinstance(error, requests.exceptions.ConnectTimeout) or isinstance(
        cause, NewConnectionError | ConnectTimeoutError
    )


def _reason(error: Exception) -> str:
    if isinstance(error, requests.exceptions.Timeout):
        return "the time is over"
    cause: Any = error.args[0] if error.args else error
    cause = getattr(cause, "reason", cause)
    # The text of these errors holds an object's address in memory.
    return re.sub(r"<[^>]*>:? ?", "", str(cause))[:200] or type(error).__name__
