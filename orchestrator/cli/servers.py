"""``up``, ``api``, ``worker`` and ``scheduler``: the processes of the service.

What they run is imported when they run: the other commands do without.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from orchestrator.settings import Settings

Data = Annotated[Path | None, typer.Option("--data", metavar="DIR", help="The data directory.")]
Listen = Annotated[
    str | None,
    typer.Option("--listen", metavar="HOST:PORT", help="Where to serve; 127.0.0.1:8080."),
]
Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="The settings; else ORCHESTRATOR_CONFIG."),
]


def settings_from(
    *, data: Path | None = None, listen: str | None = None, config: Path | None = None
) -> Settings:
    """The settings, with what the command line says before all else. Raises `InvalidInput`."""
    from orchestrator.settings import CONFIG_VARIABLE, load_settings

    named_by = CONFIG_VARIABLE if config is None else "--config"
    if config is not None:
        # Processes that are started from here read the same file.
        os.environ[CONFIG_VARIABLE] = str(config.absolute())
    overrides: dict[str, Any] = {}
    if data is not None:
        overrides["data"] = data.absolute()
    if listen is not None:
        overrides["api"] = {"listen": listen}
    return load_settings(named_by=named_by, **overrides)


def _trusted(settings: Settings) -> Settings:
    """The settings of a service, whose files are nobody else's. Raises `InvalidInput`."""
    from orchestrator.settings import CONFIG_VARIABLE
    from orchestrator.trust import require_trusted_config, require_trusted_data

    if config := os.environ.get(CONFIG_VARIABLE):
        require_trusted_config(Path(config))
    require_trusted_data(settings.data)
    return settings


def up(
    data: Data = None,
    listen: Listen = None,
    config: Config = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, max=256, help="Worker processes; one a processor, up to 4."
        ),
    ] = None,
) -> None:
    """Run the whole service on this machine.

    Database, broker, API, workers and scheduler. Interrupt it to stop it cleanly.
    """
    settings = _trusted(settings_from(data=data, listen=listen, config=config))
    from orchestrator.up import run

    raise typer.Exit(run(settings, workers or min(4, os.cpu_count() or 1)))


def api(data: Data = None, listen: Listen = None, config: Config = None) -> None:
    """Run the HTTP service and the console; several may run side by side."""
    from orchestrator.api.server import serve
    from orchestrator.console.app import Console

    _serve(partial(serve, room=Console), data=data, listen=listen, config=config)


def worker(data: Data = None, config: Config = None) -> None:
    """Run a worker; several may run, on many hosts."""
    from workers.main import run

    _serve(run, data=data, config=config)


def scheduler(data: Data = None, config: Config = None) -> None:
    """Run a scheduler; a second one stands by."""
    from workers.scheduler import run

    _serve(run, data=data, config=config)


def _serve(run: Callable[[Settings], None], **given: Path | str | None) -> None:
    from orchestrator.reloading import serve

    serve(lambda: _trusted(settings_from(**given)), run)  # type: ignore[arg-type]
