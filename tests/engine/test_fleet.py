"""The fleet that the benchmarks write in bulk is what the product would have written."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from sqlalchemy import Table, select

from benchmarks import fleet
from orchestrator.domain.actors import Actor
from orchestrator.domain.states import Role
from orchestrator.findings.recording import open_findings
from orchestrator.history.events import number_committed
from orchestrator.inventory import promises
from orchestrator.ledger import chain
from orchestrator.store import tables
from orchestrator.store.tables import installation
from tests.engine.conftest import Engine, act, grow
from workers.backends.memory.store import Store

KEY = b"a key"
#: Volumes of the fleet: its jobs fill their last batch and their last commits only partly.
VOLUMES = 42
#: The engine's own volume, and one of the fleet with the same history.
OWN, LIKE_IT = "tenant010/own", "tenant010/vol0000010"

#: Tables in which something is written of a volume, and the column with its name or its job.
WRITTEN = (
    (tables.volumes, "name"),
    (tables.volume_versions, "name"),
    (tables.snapshots, "volume_id"),
    (tables.jobs, "volume"),
    (tables.job_steps, "job_id"),
    (tables.events, "volume"),
)


@pytest.fixture
def database_kind() -> str:
    """It is written in PostgreSQL's own words."""
    return "postgresql"


@pytest.fixture
def record(engine: Engine) -> Engine:
    """A volume that went the way of the fleet's through the engine, and the fleet after it."""
    with engine.database.read() as transaction:
        uuid_ = transaction.execute(select(installation.c.uuid)).scalar_one()
    stamp = uuid.uuid4().hex
    with Store("ram", uuid_).change() as db:
        db.execute("INSERT INTO volumes (id, name, size) VALUES (?, ?, 1048576)", (stamp, OWN))
        for number in range(1, 1 + fleet.SNAPSHOTS):
            db.execute(
                "INSERT INTO snapshots (id, volume, name, size, contents)"
                " VALUES (?, ?, ?, 1048576, x'')",
                (uuid.uuid4().hex, stamp, f"daily{number}"),
            )
    changed = {
        "metadata": {"owner": "tenant010"},
        "settings": {"autosize_enabled": True, "autosize_max_bytes": "8G"},
    }
    for request in (
        act("volume.adopt", OWN, params={"take_over": True}),
        grow(OWN, "2M"),
        act("volume.update", OWN, params=changed),
    ):
        engine.submit(request, batch=True, actor=Actor("tenant010", Role.ADMIN), reason="ticket 10")
        engine.work()
    engine.database.transact(number_committed)
    fleet.write(engine.settings.database_url, KEY, VOLUMES)
    return engine


def rows(engine: Engine, table: Table, column: str, volume: str) -> list[dict[str, Any]]:
    """What a table has of a volume, in the order of its key."""
    found: Any = select(tables.volumes.c.id).where(tables.volumes.c.name == volume)
    if column == "job_id":
        found = select(tables.jobs.c.id).where(tables.jobs.c.volume == volume)
    wanted = (
        table.c[column] == volume if column in ("name", "volume") else table.c[column].in_(found)
    )
    order = [table.c.position] if table is tables.snapshots else list(table.primary_key)
    with engine.database.read() as transaction:
        asked = transaction.execute(select(table).where(wanted).order_by(*order))
        return [dict(row) for row in asked.mappings()]


def shape(value: Any) -> Any:
    """What a value is made of: columns and keys that have something, words, kinds of others."""
    if isinstance(value, dict):
        return {name: shape(one) for name, one in value.items() if one is not None}
    if isinstance(value, list):
        return [shape(one) for one in value]
    return type(value).__name__


def test_rows_are_as_the_engine_writes_them(record: Engine) -> None:
    for table, column in WRITTEN:
        own, like_it = (rows(record, table, column, volume) for volume in (OWN, LIKE_IT))
        assert [shape(row) for row in like_it] == [shape(row) for row in own]
        # Of what is the same for every volume, also the words.
        same = {"action", "kind", "state", "version", "account"} & {*own[0]}
        if table is tables.job_steps:
            same = {"seq", "name"}
        assert [{name: row[name] for name in same} for row in like_it] == [
            {name: row[name] for name in same} for row in own
        ]


def test_every_volume_has_its_rows(record: Engine) -> None:
    with record.database.read() as transaction:
        counted = {
            table.name: len(transaction.execute(select(table)).all())
            for table in (tables.volumes, tables.snapshots, tables.jobs, tables.events)
        }
    assert counted == {
        "volumes": VOLUMES + 1,
        "snapshots": (VOLUMES + 1) * fleet.SNAPSHOTS,
        "jobs": VOLUMES * 5 // 2 + 3,
        "events": VOLUMES * fleet.EVENTS + 12,
    }


def test_the_record_is_chained_to_its_end(record: Engine) -> None:
    with record.database.read() as transaction:
        *_, verified = chain.verify(transaction, KEY)
    assert verified.broken is None
    assert verified.events == VOLUMES * fleet.EVENTS + 12


def test_an_audit_finds_no_difference(record: Engine) -> None:
    [job_id] = record.submit({"action": "backend.audit", "backend": "ram"}).job_ids
    record.work()
    told = record.job(job_id)
    assert (told["state"], told["result"]["volumes_found"]) == ("succeeded", VOLUMES + 1)
    with record.database.read() as transaction:
        assert open_findings(transaction, 1) == {}


def test_the_engine_goes_on_after_it(record: Engine) -> None:
    [job_id] = record.submit(grow(LIKE_IT, "3G")).job_ids
    record.work()
    assert record.job(job_id)["state"] == "succeeded"
    record.database.transact(number_committed)
    while record.database.transact(lambda transaction: chain.extend(transaction, KEY, 100)):
        pass
    with record.database.read() as transaction:
        *_, verified = chain.verify(transaction, KEY)
        assert verified.broken is None
        of_it = tables.promises.c.backend_id == 1
        [kept] = transaction.execute(
            select(tables.promises.c.promised_bytes).where(of_it)
        ).scalars()
        assert kept == promises.counted(transaction, 1)
