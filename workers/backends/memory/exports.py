"""What the `memory` driver keeps of volumes as a NAS filer would: settings, policies, exports.

Functions on a connection to the driver's file; whoever changes something holds a transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator.domain.errors import AlreadyExists, Conflict, InUse, UnknownPolicy
from orchestrator.domain.exports import Rule, parse_rule
from workers.backends.base.call import Call
from workers.backends.base.facts import PolicyFacts
from workers.backends.base.fences import refuse_late
from workers.backends.base.references import PolicyRef, VolumeRef, check_id

#: Tables of their own: files made before there were policies have the others already.
SCHEMA = """
CREATE TABLE IF NOT EXISTS policies (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT UNIQUE,
    name TEXT NOT NULL,
    rules TEXT NOT NULL,
    published INTEGER NOT NULL DEFAULT 0,
    fence INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX IF NOT EXISTS published_policies ON policies (name) WHERE published;
CREATE TABLE IF NOT EXISTS exports (
    volume TEXT PRIMARY KEY REFERENCES volumes (id) ON DELETE CASCADE,
    settings TEXT NOT NULL DEFAULT '{}',
    junction TEXT UNIQUE,
    policy INTEGER REFERENCES policies (n),
    restricted INTEGER NOT NULL DEFAULT 0
);
"""


def configure(db: sqlite3.Connection, volume: VolumeRef, settings: Mapping[str, Any]) -> None:
    """Change these settings of a volume. Raises `Conflict` where another has the path."""
    _known(db, volume)
    row = db.execute("SELECT settings FROM exports WHERE volume = ?", (volume.id,)).fetchone()
    merged = {**json.loads(row["settings"]), **settings}
    try:
        db.execute(
            "UPDATE exports SET settings = ?, junction = ? WHERE volume = ?",
            (json.dumps(merged, sort_keys=True), merged.get("junction_path"), volume.id),
        )
    except sqlite3.IntegrityError as error:
        raise Conflict(
            f"another volume is at the junction path {merged['junction_path']}",
            field="params.settings.junction_path",
        ) from error


def restrict(db: sqlite3.Connection, volume: VolumeRef, *, restricted: bool) -> None:
    """Keep clients from the volume, or let them have it again."""
    _known(db, volume)
    db.execute("UPDATE exports SET restricted = ? WHERE volume = ?", (restricted, volume.id))


def assign(db: sqlite3.Connection, volume: VolumeRef, policy: PolicyRef | None) -> None:
    """Give a volume a policy, or none. Raises `UnknownPolicy`."""
    n = None
    if policy is not None:
        row = db.execute(
            "SELECT n FROM policies WHERE id = ? AND published", (policy.id,)
        ).fetchone()
        if row is None:
            raise UnknownPolicy(f"there is no export policy {policy.name}")
        n = row["n"]
    _known(db, volume)
    db.execute("UPDATE exports SET policy = ? WHERE volume = ?", (n, volume.id))


def _known(db: sqlite3.Connection, volume: VolumeRef) -> None:
    db.execute("INSERT OR IGNORE INTO exports (volume) VALUES (?)", (volume.id,))


def build(db: sqlite3.Connection, policy: PolicyRef, rules: Sequence[Rule], call: Call) -> str:
    """Make a policy that is not published; its key."""
    db.execute(
        "INSERT INTO policies (id, name, rules, fence) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (id) DO NOTHING",
        (check_id(policy.id), policy.name, _written(rules), call.fence),
    )
    row = _fenced(db, policy, call)
    if not row["published"]:
        db.execute("UPDATE policies SET rules = ? WHERE n = ?", (_written(rules), row["n"]))
    return str(row["n"])


def publish(db: sqlite3.Connection, policy: PolicyRef, call: Call) -> PolicyFacts:
    """Publish what was built. Raises `AlreadyExists` where another has the name."""
    row = _fenced(db, policy, call)
    try:
        db.execute("UPDATE policies SET published = 1 WHERE n = ?", (row["n"],))
    except sqlite3.IntegrityError as error:
        raise AlreadyExists(f"there is another export policy {policy.name}") from error
    return facts_of(_row(db, policy))


def discard(db: sqlite3.Connection, policy: PolicyRef, call: Call) -> None:
    """Take away what was built and not published."""
    db.execute(
        "DELETE FROM policies WHERE id = ? AND NOT published AND fence <= ?",
        (check_id(policy.id), call.fence),
    )


def set_rules(
    db: sqlite3.Connection, policy: PolicyRef, rules: Sequence[Rule], call: Call
) -> PolicyFacts:
    """Replace the rules. Raises `UnknownPolicy`."""
    row = _fenced(db, policy, call)
    db.execute("UPDATE policies SET rules = ? WHERE n = ?", (_written(rules), row["n"]))
    return facts_of(_row(db, policy))


def remove(db: sqlite3.Connection, policy: PolicyRef, call: Call) -> None:
    """Remove a policy; nothing if it is gone. Raises `InUse`."""
    if found(db, policy) is None:
        return
    row = _fenced(db, policy, call)
    user = db.execute(
        "SELECT name FROM volumes JOIN exports ON volume = id WHERE policy = ? LIMIT 1", (row["n"],)
    ).fetchone()
    if user is not None:
        raise InUse(f"volume {user['name']} has the export policy {policy.name}")
    db.execute("DELETE FROM policies WHERE n = ?", (row["n"],))


def found(db: sqlite3.Connection, policy: PolicyRef) -> sqlite3.Row | None:
    """The policy's row."""
    row: sqlite3.Row | None = db.execute(
        "SELECT * FROM policies WHERE id = ?", (policy.id,)
    ).fetchone()
    return row


def published(db: sqlite3.Connection) -> Iterable[PolicyFacts]:
    """Every published policy."""
    return [
        facts_of(row) for row in db.execute("SELECT * FROM policies WHERE published ORDER BY n")
    ]


def facts_of(row: sqlite3.Row) -> PolicyFacts:
    """What there is of a policy."""
    return PolicyFacts(
        id=row["id"],
        name=row["name"],
        native=str(row["n"]),
        rules=tuple(parse_rule(rule) for rule in json.loads(row["rules"])),
    )


def _row(db: sqlite3.Connection, policy: PolicyRef) -> sqlite3.Row:
    row = found(db, policy)
    if row is None:
        raise UnknownPolicy(f"there is no export policy {policy.name}")
    return row


def _fenced(db: sqlite3.Connection, policy: PolicyRef, call: Call) -> sqlite3.Row:
    """The policy's row, once it is known that nobody later has changed it."""
    row = _row(db, policy)
    refuse_late(policy.name, row["fence"], call)
    db.execute("UPDATE policies SET fence = ? WHERE n = ?", (call.fence, row["n"]))
    return row


def _written(rules: Sequence[Rule]) -> str:
    return json.dumps([rule.written for rule in rules])
