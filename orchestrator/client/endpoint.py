"""Where the service is and with which token: arguments, environment, local files, in this order."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from orchestrator.client import local
from orchestrator.domain.errors import InvalidInput

URL_VARIABLE = "ORCHESTRATOR_URL"
TOKEN_VARIABLE = "ORCHESTRATOR_TOKEN"  # noqa: S105 - the name of a variable
#: Called where nothing says otherwise: what `orchestrator up` listens on.
DEFAULT_URL = "http://127.0.0.1:8080"


@dataclass(frozen=True)
class Endpoint:
    """An address, and a token if one is known."""

    url: str
    token: str | None = field(default=None, repr=False)


def endpoint_for(url: str | None = None, token: str | None = None) -> Endpoint:
    """The endpoint to call.

    A token from local files is taken only with the address it was written for, so that it
    is never sent to another service. Raises `InvalidInput` for what is no address or no token.
    """
    url = url or os.environ.get(URL_VARIABLE) or None
    token = token or os.environ.get(TOKEN_VARIABLE) or None
    _check(url, token)
    if url is None or token is None:
        found = local.find(url)
        if found is not None:
            # A token that was given explicitly goes before the one of the file.
            return Endpoint(url=found.url, token=token or found.token)
    return Endpoint(url=local.normal_url(url or DEFAULT_URL), token=token)


def _check(url: str | None, token: str | None) -> None:
    try:
        _ = urlsplit(url or "").port
        (url or "").encode()
    except ValueError as error:
        raise InvalidInput(
            f"the service's address is no URL ({error}): set {URL_VARIABLE} to one such as "
            f"{DEFAULT_URL}",
            field="url",
        ) from None
    if token is not None and not (token.isascii() and token.isprintable()):
        raise InvalidInput(
            f"the token holds what no token has: set {TOKEN_VARIABLE} to what 'token create' told",
            field="token",
        )
