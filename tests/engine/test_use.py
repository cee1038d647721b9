"""The use of volumes is read beside the looks at their backend, some volumes at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

from orchestrator.store.tables import backends, installation
from tests.engine.conftest import Engine, create
from workers.backends.memory.store import Faults
from workers.execution import refresh

pytestmark = pytest.mark.either_database

KIB = 1024


def fill(engine: Engine, volume: str, much: int) -> None:
    """Write so many bytes into a volume, behind everybody's back."""
    [image] = Path(engine.settings.data, "volumes").rglob(f"{volume}~*.img")
    with image.open("r+b") as file:
        file.write(b"x" * much)


def used(engine: Engine) -> dict[str, int]:
    return {name: view["used_bytes"] for name, view in engine.volumes("fast").items()}


@pytest.mark.parametrize("by", ["a worker", "a job"])
def test_every_page_of_volumes_is_recorded(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    monkeypatch.setattr(refresh, "_PAGE", 2)
    names = [f"vm{number}" for number in range(5)]
    engine.submit(*(create(name, backend="fast") for name in names))
    engine.work()
    for place, name in enumerate(names, start=1):
        fill(engine, name, place * 64 * KIB)
    if by == "a worker":
        engine.worker.serving.read_use()
    else:
        [job_id] = engine.submit({"action": "backend.refresh", "backend": "fast"}).job_ids
        engine.work()
        assert engine.job(job_id)["result"]["volumes_found"] == len(names)
    assert used(engine) == {name: place * 64 * KIB for place, name in enumerate(names, start=1)}


def test_a_look_at_a_backend_reads_no_volumes(engine: Engine) -> None:
    with engine.database.read() as transaction:
        installed = transaction.execute(select(installation.c.uuid)).scalar_one()
    Faults("ram", installed).set(operation="list_volumes", kind="fail")
    engine.worker.serving.look_at_all()
    engine.worker.serving.read_use()
    with engine.database.read() as transaction:
        wrong = select(backends.c.error).where(backends.c.name == "ram")
        assert transaction.execute(wrong).scalar_one() is None
