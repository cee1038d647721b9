"""``config``: whether the settings can be read, before anything is started with them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from orchestrator.cli import options
from orchestrator.cli.groups import group
from orchestrator.cli.output import print_details, print_json
from orchestrator.cli.servers import Config, Data, settings_from

if TYPE_CHECKING:
    from orchestrator.settings import Settings

app = group()


@app.callback()
def configuration() -> None:
    """The settings: from the file, overridden by variables."""


@app.command()
def check(data: Data = None, config: Config = None, as_json: options.Json = False) -> None:
    """Report everything that is wrong with the settings, or summarize them; exit status 2 or 0.

    It opens no connection and reads no directory: 'doctor' does that.
    """
    settings = settings_from(data=data, config=config)
    from orchestrator.settings import CONFIG_VARIABLE, without_secrets

    _check_addresses(settings)

    broker = settings.broker.url
    found: dict[str, Any] = {
        "file": os.environ.get(CONFIG_VARIABLE),
        "host": settings.host,
        "data": str(settings.data),
        "database": without_secrets(settings.database_url),
        "broker": without_secrets(broker) if broker else None,
        "listen": settings.api.listen,
        "backends": {name: backend.driver for name, backend in settings.backends.items()},
        "served_here": sorted(settings.served_backends()),
    }
    if as_json:
        print_json(found)
        return
    print_details(
        {
            "file": found["file"] or "none: defaults and variables only",
            "this host": found["host"],
            "data": found["data"],
            "database": found["database"],
            "broker": found["broker"] or "embedded, with 'up' only",
            "listen": found["listen"],
            "backends": found["backends"] or "none",
            "served on this host": found["served_here"] or "none",
        }
    )


def _check_addresses(settings: Settings) -> None:
    """Raise the `Problem` of each address that no server can have."""
    from orchestrator import broker
    from orchestrator.store import urls

    urls.parse(settings.database_url)
    if settings.broker.url is not None:
        broker.check(settings.broker.url)
    _ = settings.api.address
