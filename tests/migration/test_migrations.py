"""Migrations: upgrade and downgrade on both databases, and a schema that is behind is told."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import CheckConstraint, func, insert, inspect, select, text

from orchestrator.domain.errors import Conflict, InvalidInput, Unavailable
from orchestrator.store import lives, migrate
from orchestrator.store.audit_views import VIEWS
from orchestrator.store.database import Database
from orchestrator.store.tables import (
    backends,
    event_commits,
    installation,
    metadata,
    snapshots,
)
from orchestrator.store.tables import lives as lives_table


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An empty one."""
    made = Database(database_url, pool_size=1)
    yield made
    made.close()


@pytest.fixture
def upgraded(migrated_url: str) -> Iterator[Database]:
    """One that was empty, and went through every migration."""
    made = Database(migrated_url, pool_size=1)
    yield made
    made.close()


def test_the_migrated_schema_is_the_one_the_code_uses(upgraded: Database) -> None:
    with upgraded.read() as transaction:
        context = MigrationContext.configure(transaction.connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_constraints_are_the_same_in_migrations_and_code(
    upgraded: Database, database_kind: str
) -> None:
    """Autogeneration does not compare checks; they hold the invariants."""
    with upgraded.read() as transaction:
        inspector = inspect(transaction.connection)
        for table in metadata.sorted_tables:
            migrated = {found["name"] for found in inspector.get_check_constraints(table.name)}
            wanted = {
                str(constraint.name)
                for constraint in table.constraints
                if isinstance(constraint, CheckConstraint)
            }
            assert migrated == wanted, table.name
            migrated_indexes = {found["name"] for found in inspector.get_indexes(table.name)}
            assert {str(index.name) for index in table.indexes} <= migrated_indexes


def test_downgrade_removes_everything_and_upgrade_brings_it_back(upgraded: Database) -> None:
    migrate.downgrade(upgraded.url, "base")
    with upgraded.read() as transaction:
        inspector = inspect(transaction.connection)
        assert set(inspector.get_table_names()) <= {"alembic_version"}
        assert inspector.get_view_names() == []
    migrate.upgrade(upgraded.url)
    assert migrate.check(upgraded.url) is None


def test_the_views_for_audits_are_those_that_may_be_granted(upgraded: Database) -> None:
    with upgraded.read() as transaction:
        assert sorted(inspect(transaction.connection).get_view_names()) == sorted(VIEWS)
    migrate.downgrade(upgraded.url, "0008")
    with upgraded.read() as transaction:
        assert inspect(transaction.connection).get_view_names() == []
    migrate.upgrade(upgraded.url)


def test_a_schema_that_is_behind_is_told_with_the_remedy(database: Database) -> None:
    assert "orchestrator db upgrade" in (migrate.check(database.url) or "")
    migrate.upgrade(database.url)
    assert migrate.check(database.url) is None


def test_a_schema_of_a_later_version_is_left_alone(upgraded: Database) -> None:
    with upgraded.write() as transaction:
        transaction.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert "at 9999, which is newer than this version knows" in (migrate.check(upgraded.url) or "")
    with pytest.raises(Conflict, match="install the version that brought it there"):
        migrate.upgrade(upgraded.url)
    with pytest.raises(Conflict, match="restore a backup"):
        migrate.downgrade(upgraded.url, "base")


@pytest.mark.parametrize("work", [migrate.upgrade, migrate.downgrade])
def test_a_revision_that_is_not_known_is_refused_by_name(
    database: Database, work: Callable[[str, str], None]
) -> None:
    with pytest.raises(InvalidInput, match=r"no revision '0099': name one of .*0001"):
        work(database.url, "0099")


@pytest.mark.either_database
@pytest.mark.parametrize("part", ["api", "worker", "scheduler"])
@pytest.mark.parametrize("revision", ["0009", "9999"])
def test_no_part_starts_on_a_schema_that_it_does_not_know(
    upgraded: Database, tmp_path: Path, broker_url: str, part: str, revision: str
) -> None:
    if revision == "9999":
        with upgraded.write() as transaction:
            transaction.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    else:
        migrate.downgrade(upgraded.url, revision)
    ended = subprocess.run(
        [sys.executable, "-m", "orchestrator", part, "--data", str(tmp_path)],
        env={
            **os.environ,
            "ORCHESTRATOR_DATABASE__URL": upgraded.url,
            "ORCHESTRATOR_BROKER__URL": broker_url,
        },
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ended.returncode == Conflict.exit_status
    [told] = ended.stderr.splitlines()
    assert told.startswith(f"error: the schema of the database is at {revision}")


def test_a_schema_that_changes_under_a_service_is_told_until_it_is_right_again(
    upgraded: Database,
) -> None:
    service = Database(upgraded.url, known_schema=True)
    count = select(func.count()).select_from(lives_table)
    assert service.look(lambda transaction: transaction.execute(count).scalar_one()) == 1
    migrate.downgrade(upgraded.url, "0009")
    for _ in range(2):
        with pytest.raises(Unavailable, match=r"at 0009, this version needs .* db upgrade"):
            service.look(lambda transaction: transaction.execute(count).scalar_one())
    migrate.upgrade(upgraded.url)
    assert service.look(lambda transaction: transaction.execute(count).scalar_one()) == 1
    service.close()


def test_upgrading_twice_keeps_the_installation(upgraded: Database) -> None:
    with upgraded.read() as transaction:
        first = transaction.execute(select(installation.c.uuid)).scalar_one()
    migrate.upgrade(upgraded.url)
    with upgraded.read() as transaction:
        assert transaction.execute(select(installation.c.uuid)).scalar_one() == first


def test_a_database_in_use_keeps_its_rows_and_goes_on_in_its_first_life(
    database: Database,
) -> None:
    migrate.upgrade(database.url, "0009")
    with database.write() as transaction:
        transaction.execute(
            text(
                "INSERT INTO backends (name, driver, state, configured, identity,"
                " identity_written, overcommit, created_at)"
                " VALUES ('b', 'memory', 'enabled', true, 'marker', true, 1.0, :now)"
            ),
            {"now": "2026-01-01 00:00:00.000000"},
        )
    migrate.upgrade(database.url)
    with database.read() as transaction:
        row = transaction.execute(select(backends)).one()
        assert (row.identity, row.identity_written) == ("marker", True)
        assert (row.lease, row.lease_next, row.lease_at, row.take_over) == (None, None, None, False)
        life = lives.present(transaction)
    assert (life.epoch, life.life, life.first_job) == (0, "", 0)
    migrate.upgrade(database.url)
    with database.read() as transaction:
        assert lives.present(transaction) == life


def test_a_new_database_begins_with_a_life_of_its_own(upgraded: Database) -> None:
    with upgraded.read() as transaction:
        life = lives.present(transaction)
    assert life.epoch > 0
    assert len(life.life) == 32


def test_snapshots_keep_the_order_they_had(upgraded: Database) -> None:
    migrate.downgrade(upgraded.url, "0010")
    now = datetime(2026, 5, 1, tzinfo=UTC)
    rows = [
        # (id, made by job, state): the first is the oldest; one was removed, one is being made.
        ("e", None, "available"), ("d", 3, "available"), ("c", 4, "removed"),
        ("b", 7, "error"), ("a", 9, "pending"),
    ]  # fmt: skip
    with upgraded.write() as transaction:
        transaction.execute(insert(backends).values(name="b", driver="memory", created_at=now))
        for volume in ("v1", "v2"):
            transaction.execute(
                text(
                    "INSERT INTO volumes (id, backend_id, name, requested_bytes, size_bytes, "
                    "state, metadata, created_at, changed_at) VALUES (:id, 1, :id, 1, 1, "
                    "'available', '{}', :now, :now)"
                ),
                {"id": volume, "now": now},
            )
            for id_, job, state in rows:
                gone = now if state == "removed" else None
                transaction.execute(
                    text(
                        "INSERT INTO snapshots (id, volume_id, name, size_bytes, state, "
                        "created_by_job, created_at, removed_at) VALUES "
                        "(:id, :volume, :name, 1, :state, :job, :now, :gone)"
                    ),
                    {
                        "id": volume + id_, "volume": volume, "name": id_, "state": state,
                        "job": job, "now": now, "gone": gone,
                    },
                )  # fmt: skip
    migrate.upgrade(upgraded.url)
    with upgraded.read() as transaction:
        for volume in ("v1", "v2"):
            query = select(snapshots.c.name, snapshots.c.position)
            found = transaction.execute(query.where(snapshots.c.volume_id == volume)).all()
            assert dict(found) == {
                "e": 1, "d": 2, "c": None, "b": 3, "a": None,
            }  # fmt: skip
    migrate.downgrade(upgraded.url, "0010")
    with upgraded.read() as transaction:
        assert transaction.execute(text("SELECT count(*) FROM snapshots")).scalar() == 10
    migrate.upgrade(upgraded.url)


def test_what_jobs_are_about_is_kept_upwards_and_downwards(database: Database) -> None:
    migrate.upgrade(database.url, "0013")
    told = (
        ("policy.create", None, "web", "p1", None, "{}"),
        ("volume.create", "vm1", "web", "p1", None, "{}"),
        ("volume.clone", "vm2", None, None, "v1", '{"source": "vm1"}'),
        ("volume.grow", "vm1", None, None, None, "{}"),
    )
    with database.write() as transaction:
        now = datetime(2026, 5, 1, tzinfo=UTC)
        transaction.execute(insert(backends).values(name="a", driver="memory", created_at=now))
        for number, (action, volume, policy, policy_id, source_id, params) in enumerate(told, 1):
            transaction.execute(
                text(
                    "INSERT INTO jobs (id, action, backend_id, volume, policy, policy_id,"
                    " source_id, params, state, queue, cost, max_attempts, submitted_by,"
                    " created_at)"
                    " VALUES (:id, :action, 1, :volume, :policy, :policy_id, :source_id, :params,"
                    " 'waiting', 'q', 1, 1, 'x', '2026-01-01 00:00:00')"
                ),
                {
                    **{"id": number, "action": action, "volume": volume, "policy": policy},
                    **{"policy_id": policy_id, "source_id": source_id, "params": params},
                },
            )
    before = _all_of(database, "SELECT id, policy, policy_id, source_id FROM jobs ORDER BY id")
    seen = _all_of(database, "SELECT job_id, policy FROM audit_jobs ORDER BY job_id")
    migrate.upgrade(database.url, "0014")
    rows = "SELECT job_id, place, role, kind, object_id, name FROM job_targets ORDER BY job_id"
    assert _all_of(database, rows) == [
        (1, 0, "subject", "policy", "p1", "web"),
        (2, 0, "assigned", "policy", "p1", "web"),
        (3, 1, "source", "volume", "v1", "vm1"),
    ]
    assert _all_of(database, "SELECT job_id, policy FROM audit_jobs ORDER BY job_id") == seen
    migrate.downgrade(database.url, "0013")
    again = _all_of(database, "SELECT id, policy, policy_id, source_id FROM jobs ORDER BY id")
    assert again == before
    assert _all_of(database, "SELECT job_id, policy FROM audit_jobs ORDER BY job_id") == seen
    migrate.upgrade(database.url)


def _all_of(database: Database, query: str) -> list[tuple[Any, ...]]:
    with database.read() as transaction:
        return [tuple(row) for row in transaction.execute(text(query)).all()]


def test_commits_that_were_numbered_late_are_found_by_an_upgrade(upgraded: Database) -> None:
    migrate.downgrade(upgraded.url, "0014")
    in_order = [10, 20, 5, 15, 30, 29]
    with upgraded.write() as transaction:
        for base, commit in enumerate(in_order):
            transaction.execute(
                text(f"INSERT INTO event_commits (id, events, base) VALUES ({commit}, 1, {base})")
            )
        transaction.execute(text("INSERT INTO event_commits (id, events) VALUES (2, 1)"))
    migrate.upgrade(upgraded.url)
    with upgraded.read() as transaction:
        found = transaction.execute(select(event_commits.c.id, event_commits.c.behind)).all()
    assert dict(found) == {10: None, 20: None, 5: 15, 15: 5, 30: None, 29: 1, 2: None}
