"""``audit``: whether the storage and the record agree, and whether the record can be believed."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli import archives, options, tables
from orchestrator.cli.connection import connect
from orchestrator.cli.failures import say
from orchestrator.cli.groups import group
from orchestrator.cli.listing import show_list
from orchestrator.cli.output import Columns, print_details, print_json, print_table, when
from orchestrator.cli.report import report
from orchestrator.cli.servers import Config, Data, settings_from
from orchestrator.cli.waiting import exit_as_job, wait_for_job
from orchestrator.domain.errors import NotFound

app = group()
app.command()(report)

After = Annotated[
    int, typer.Option("--after", min=0, help="Begin after this event; 'audit head' prints one.")
]
FindingId = Annotated[int, typer.Argument(metavar="FINDING", min=1, help="Its number.")]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds to wait for each audit.")]
Link = Annotated[
    str | None, typer.Option("--link", help="The link that the chain must have there.")
]

Archive = Annotated[
    Path | None,
    typer.Option("--archive", help="Where the archives are; as configured, if absent."),
]
NoArchives = Annotated[
    bool, typer.Option("--no-archives", help="Skip the archives: verify the database alone.")
]

app.command("read")(archives.read)


class FindingState(StrEnum):
    """Which findings are listed."""

    OPEN = "open"
    CLOSED = "closed"
    ALL = "all"


_FINDINGS: Columns = {
    "id": lambda finding: finding["id"],
    "kind": lambda finding: finding["kind"],
    "backend": lambda finding: finding["backend"],
    "what": lambda finding: finding["text"],
    "first seen (UTC)": lambda finding: when(finding["first_seen_at"]),
    "repairs": lambda finding: [one["name"] for one in finding["repairs"]],
}
_REPAIRS: Columns = {
    "repair": lambda repair: repair["name"],
    "what it does": lambda repair: repair["summary"],
    "job": lambda repair: repair["job"]["action"],
    "approval": lambda repair: "needed" if repair["approval"] else None,
}


@app.callback()
def audit() -> None:
    """Audits: what differs, how it is repaired, and whether the history is as it was written.

    'head' and 'verify' read the configured database themselves.
    """


@app.command()
def run(
    backend: Annotated[
        list[str] | None,
        typer.Option("--backend", help="Name of a backend; repeatable; all, if absent."),
    ] = None,
    host: options.HostIfAny = None,
    timeout: Timeout = 3600.0,
    idempotency_key: options.IdempotencyKey = None,
    reason: options.Reason = None,
    as_json: options.Json = False,
) -> None:
    """Compare what backends really have with the inventory, and show the open findings.

    Attachments are seen on the host that does it. Exit status 1 if a backend could not be read
    whole: then nothing was concluded about it.
    """
    with connect() as client:
        names = backend or [one["name"] for one in client.backends()]
        accepted = [
            client.backend.audit(
                name,
                host=host,
                reason=reason,
                idempotency_key=_key_of(idempotency_key, name, len(names)),
            )
            for name in names
        ]
        jobs: list[Any] = [wait_for_job(client, job["id"], timeout) for job in accepted]
        found: list[Any] = [
            one for name in names for one in client.findings(backend=name, state="open")
        ]
    if as_json:
        print_json({"jobs": jobs, "findings": found})
    else:
        for name, job in zip(names, jobs, strict=True):
            say(f"{name}: {_told(job)}")
        print_table(found, _FINDINGS)
    for job in jobs:
        if job["state"] != "succeeded":
            exit_as_job(job)


def _key_of(key: str | None, backend: str, backends: int) -> str | None:
    """The key of one audit: several under one key are several jobs."""
    return key if key is None or backends == 1 else f"{key} {backend}".replace(" ", "/")[:255]


def _told(job: Any) -> str:
    """How an audit went, in one line."""
    result = job["result"] or {}
    if job["state"] != "succeeded":
        return f"could not be audited: {(job['error'] or {}).get('detail', job['state'])}"
    counts = ", ".join(f"{count} {kind}" for kind, count in result["findings"].items())
    volumes = result.get("not_compared") or (
        f"{result['volumes_recorded']} volumes recorded, {result['volumes_found']} found, "
        f"{result['volumes_busy']} left out because jobs were changing them"
    )
    return f"{volumes}; findings: {counts or 'none'}"


@app.command()
def findings(
    backend: options.BackendIfAny = None,
    kind: Annotated[str | None, typer.Option("--kind", help="orphan, ghost, size …")] = None,
    state: Annotated[
        FindingState, typer.Option("--state", help="Which findings.")
    ] = FindingState.OPEN,
    limit: options.Limit = 100,
    cursor: options.Cursor = None,
    as_json: options.Json = False,
) -> None:
    """List findings, newest first."""
    wanted = None if state is FindingState.ALL else state.value
    with connect() as client:
        listed = client.findings(backend=backend, kind=kind, state=wanted)
        show_list(listed, _FINDINGS, limit=limit, cursor=cursor, as_json=as_json)


@app.command()
def show(finding: FindingId, as_json: options.Json = False) -> None:
    """Show a finding with the repairs that are possible."""
    with connect() as client:
        found: Any = client.finding(finding)
    if as_json:
        print_json(found)
        return
    print_details(
        {
            "finding": found["id"],
            "kind": found["kind"],
            "backend": found["backend"],
            "state": found["state"],
            "what": found["text"],
            "recorded": found["detail"].get("recorded"),
            "found": found["detail"].get("found"),
            "first seen": when(found["first_seen_at"]),
            "last seen": when(found["last_seen_at"]),
            "closed": when(found["closed_at"]),
            "repair by job": found["repair_job"],
            "repair refused": found["detail"].get("repair_refused"),
        }
    )
    print_table(found["repairs"], _REPAIRS)


@app.command()
def repair(
    finding: FindingId,
    name: Annotated[str, typer.Argument(metavar="REPAIR", help="As 'audit show' lists them.")],
    plan: Annotated[bool, typer.Option("--plan", help="Show what would be done.")] = False,
    approval: options.Approval = False,
    wait: options.Wait = False,
    timeout: options.Timeout = 60.0,
    idempotency_key: options.IdempotencyKey = None,
    reason: options.Reason = None,
    as_json: options.Json = False,
) -> None:
    """Submit the job that repairs a finding.

    The next audit closes the finding if it no longer applies.
    """
    with connect() as client:
        if plan:
            planned = client.plan_repair(finding, name)
            if as_json:
                print_json(planned)
            else:
                tables.show_plan(planned)
            return
        job: Any = client.repair(
            finding, name, approval=approval, reason=reason, idempotency_key=idempotency_key
        )
        if wait:
            job = wait_for_job(client, job["id"], timeout, as_json=as_json, known=job)
    tables.show_job(job, as_json=as_json)
    if wait:
        exit_as_job(job)


@app.command()
def acknowledge(reason: options.Reason = None, as_json: options.Json = False) -> None:
    """Let repair rules act again after the database was restored from a backup."""
    with connect() as client:
        found = client.acknowledge_restored(reason=reason)
    if as_json:
        print_json(found)
    else:
        print("rules may repair findings")


@app.command()
def head(data: Data = None, config: Config = None, as_json: options.Json = False) -> None:
    """Print the newest link of the chain: store it where the database's owner cannot change it."""
    settings = settings_from(data=data, config=config)
    from orchestrator.ledger import chain
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
    archive: Archive = None,
    no_archives: NoArchives = False,
    data: Data = None,
    config: Config = None,
    as_json: options.Json = False,
) -> None:
    """Verify that the history is as it was written; exit status 1 if it is not.

    That is what has left for archives, from the beginning, and then what the database has.

    What was found right can be left out the next time: --after and --link take what this
    command and 'audit head' tell.
    """
    settings = settings_from(data=data, config=config)
    from orchestrator.ledger import chain, verification
    from orchestrator.store.database import Database

    key = chain.key_of(settings)
    directory = None if no_archives else archive or settings.archive
    database = Database(settings.database_url, pool_size=1)
    try:
        with database.read() as transaction:
            *_, found = verification.verify(transaction, key, directory, after=after, link=link)
            unread = verification.unread(transaction, directory, after)
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
                "not_verified": unread,
            }
        )
    elif broken is None:
        print(f"{found.events} events are unchanged since they were chained, up to {found.number}")
        print(f"link {found.link}")
    else:
        print(f"event {broken.number}: {broken.why}")
        print(f"the {found.events} events before it are unchanged since they were chained")
    if not as_json:
        for told in unread:
            print(f"not verified: {told}")
    if broken is not None:
        raise typer.Exit(1)
