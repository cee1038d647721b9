"""Jobs on a backend of the `tiny` driver: run by `test_outside`, where it is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.domain.errors import Unsupported
from orchestrator.settings import Settings
from tests.engine.conftest import Engine, act, create, engine, grow

__all__ = ["engine"]


@pytest.fixture
def settings(tmp_path: Path, migrated_url: str, broker_url: str) -> Settings:
    path = tmp_path / "tiny"
    path.mkdir()
    return Settings(
        data=tmp_path,
        host="here",
        database={"url": migrated_url},
        broker={"url": broker_url},
        backends={"small": {"driver": "tiny", "path": str(path)}},
    )


def test_jobs_run_on_a_driver_of_another_distribution(engine: Engine) -> None:
    accepted = engine.submit(create("a", backend="small"), grow("a", "4M", backend="small"))
    engine.work()
    assert engine.states(accepted.job_ids) == ["succeeded", "succeeded"]
    assert engine.volumes("small")["a"]["size_bytes"] == 4 * 2**20
    removal = engine.submit(act("volume.remove", "a", "small"))
    engine.work()
    assert engine.states(removal.job_ids) == ["succeeded"]
    assert engine.volumes("small") == {}


def test_what_it_cannot_do_is_refused_at_submission(engine: Engine) -> None:
    engine.submit(create("a", backend="small"))
    engine.work()
    with pytest.raises(Unsupported, match="lacks the capability snapshot"):
        engine.submit(act("snapshot.create", "a", "small", snapshot="s"))
