"""``audit``: whether the record can be believed."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli import options
from orchestrator.cli.output import print_json
from orchestrator.cli.servers import Config, Data, settings_from
from orchestrator.domain.errors import NotFound

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)

After = Annotated[
    int, typer.Option("--after", min=0, help="Begin behind this event, as 'audit head' tells one.")
]
Link = Annotated[
    str | None, typer.Option("--link", help="The link that the chain must have had there.")
]


@app.callback()
def audit() -> None:
    """Audits. These commands read the configured database themselves."""


@app.command()
def head(data: Data = None, config: Config = None, as_json: options.Json = False) -> None:
    """Tell the newest link of the chain of events: keep it where the database's owner cannot."""
    settings = settings_from(data=data, config=config)
    from orchestrator.audit import chain
    from orchestrator.store.database import Database

    database = Database(settings.database_url, pool_size=1)
    try:
        found = database.look(chain.head)
    finally:
        database.close()
    if found is None:
        raise NotFound("no event has a link yet: the scheduler makes them")
    if as_json:
        print_json({"number": found[0], "link": found[1]})
    else:
        print(f"event {found[0]}, link {found[1]}")


@app.command()
def verify(
    after: After = 0,
    link: Link = None,
    data: Data = None,
    config: Config = None,
    as_json: options.Json = False,
) -> None:
    """Tell whether the history is as it was written; exit status 1 if it is not.

    What was found right can be left out the next time: --after and --link take what this
    command and 'audit head' tell.
    """
    settings = settings_from(data=data, config=config)
    from orchestrator.audit import chain
    from orchestrator.store.database import Database

    key = chain.key_of(settings)
    database = Database(settings.database_url, pool_size=1)
    try:
        with database.read() as connection:
            *_, found = chain.verify(connection, key, after=after, link=link)
    finally:
        database.close()
    broken = found.broken
    if as_json:
        print_json(
            {
                "intact": broken is None,
                "events": found.events,
                "number": found.number,
                "link": found.link,
                "broken": broken and {"number": broken.number, "why": broken.why},
            }
        )
    elif broken is None:
        print(f"{found.events} events are as they were written, up to {found.number}")
        print(f"link {found.link}")
    else:
        print(f"event {broken.number}: {broken.why}")
        print(f"the {found.events} events before it are as they were written")
    if broken is not None:
        raise typer.Exit(1)
