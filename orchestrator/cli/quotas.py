"""``quota``: the most that an account may have on a backend, and what it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from orchestrator.cli import options
from orchestrator.cli.connection import connect
from orchestrator.cli.groups import group
from orchestrator.cli.listing import show_list
from orchestrator.cli.output import Columns, print_json, print_table, size, when

app = group()

Account = Annotated[
    str,
    typer.Argument(metavar="ACCOUNT", help="A project, or the name of a token without one."),
]


def _of(counted: str) -> Callable[[Any], object]:
    """What there is, is promised and may be, of what is counted."""
    tell = size if counted == "bytes" else str

    def told(quota: Any) -> object:
        used, promised, limit = quota["used"], quota["promised"], quota[f"max_{counted}"]
        if used[counted] is None:
            return None
        text = tell(used[counted])
        if promised is not None and promised[counted]:
            text += f" + {tell(promised[counted])}"
        return text if limit is None else f"{text} of {tell(limit)}"

    return told


_USED: Columns = {
    "backend": lambda quota: quota["backend"],
    **{counted: _of(counted) for counted in ("bytes", "volumes", "snapshots")},
}
_QUOTAS: Columns = {
    "account": lambda quota: quota["account"],
    **_USED,
    "set by": lambda quota: quota["set_by"],
    "at (UTC)": lambda quota: when(quota["set_at"]),
}
_ENTRIES: Columns = {
    "backend": lambda entry: entry["backend"],
    "volume": lambda entry: entry["volume"],
    "size": lambda entry: size(entry["bytes"]),
    "snapshots": lambda entry: entry["snapshots"],
    "what": lambda entry: entry["action"] or entry["state"],
    "job": lambda entry: entry["job"],
    "since (UTC)": lambda entry: when(entry["since"]),
    "id": lambda entry: entry["volume_id"],
}


@app.callback()
def quotas() -> None:
    """Quotas: how much accounts may have, have, and have been promised."""


@app.command("list")
def list_quotas(
    account: Annotated[str | None, typer.Option("--account", help="Only of this account.")] = None,
    backend: options.BackendIfAny = None,
    limit: options.Limit = 1000,
    cursor: options.Cursor = None,
    as_json: options.Json = False,
) -> None:
    """List the quotas by account: used '+' promised 'of' the limit."""
    with connect() as client:
        listed = client.quotas(account=account, backend=backend)
        show_list(listed, _QUOTAS, limit=limit, cursor=cursor, as_json=as_json)


@app.command()
def show(
    account: Account,
    backend: options.BackendIfAny = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="Usage at this time: 2030-01-31T02:00:00Z."),
    ] = None,
    limit: options.Limit = 1000,
    cursor: options.Cursor = None,
    as_json: options.Json = False,
) -> None:
    """Explain what counts for an account, row by row: volumes, then unfinished jobs."""
    with connect() as client:
        found: Any = None
        entries: list[Any] = []
        while found is None or (cursor is not None and len(entries) < limit):
            most = min(limit - len(entries), 1000)
            found = client.account(account, backend=backend, at=at, limit=most, cursor=cursor)
            entries += found["entries"]["items"]
            cursor = found["entries"]["cursor"]
    found["entries"] = {"items": entries, "cursor": cursor}
    if as_json:
        print_json(found)
        return
    print_table(found["backends"], _USED)
    if entries:
        print()
        print_table(entries, _ENTRIES)
    if cursor is not None:
        print(f"there are more: --cursor {cursor}")


@app.command("set")
def set_quota(
    account: Account,
    backend: options.Backend,
    max_bytes: Annotated[
        str | None, typer.Option("--bytes", metavar="SIZE", help="Sizes of volumes, such as 10T.")
    ] = None,
    max_volumes: Annotated[
        int | None, typer.Option("--volumes", min=0, help="How many volumes.")
    ] = None,
    max_snapshots: Annotated[
        int | None, typer.Option("--snapshots", min=0, help="How many snapshots in all.")
    ] = None,
    reason: options.Reason = None,
    as_json: options.Json = False,
) -> None:
    """Limit what an account may have on a backend; what is not given has no limit."""
    with connect() as client:
        made = client.set_quota(
            account,
            backend,
            max_bytes=max_bytes,
            max_volumes=max_volumes,
            max_snapshots=max_snapshots,
            reason=reason,
        )
    if as_json:
        print_json(made)
    else:
        print_table([made], _QUOTAS)


@app.command()
def remove(
    account: Account,
    backend: options.Backend,
    reason: options.Reason = None,
    as_json: options.Json = False,
) -> None:
    """Remove an account's quota on a backend."""
    with connect() as client:
        client.remove_quota(account, backend, reason=reason)
    if as_json:
        print_json({"account": account, "backend": backend, "removed": True})
    else:
        print(f"account {account} has no quota on backend {backend} any more")
