"""A disk's whole life by jobs, on providers of each shape that people run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.inventory.hosts import seen
from orchestrator.settings import BackendSettings, Settings
from tests.engine.conftest import Engine, act, create, grow
from tests.extstorage.providers import MIB, SHAPES, Provider
from workers.backends.file import loops

# What is tried is the driver and how jobs end; the database does not matter for that.
pytestmark = [
    pytest.mark.skipif(not loops.available(), reason="loop devices need root"),
    pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True),
]


@pytest.fixture(params=list(SHAPES))
def provider(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Provider]:
    made = Provider(tmp_path / "provider", SHAPES[request.param])
    yield made
    made.close()


@pytest.fixture
def settings(settings: Settings, provider: Provider) -> Settings:
    tried = BackendSettings.model_validate(
        {
            "driver": "extstorage",
            "provider": "tried",
            "search_path": [str(provider.directory.parent)],
            "path": str(provider.room / "driver"),
            "parameters": {"path": str(provider.images)},
        }
    )
    return settings.model_copy(update={"backends": {**settings.backends, "ext": tried}})


def _done(engine: Engine, *requests: dict[str, Any]) -> dict[str, Any]:
    """Do these, one after the other, which must succeed; the last of the jobs."""
    for request in requests:
        ended = _end(engine, request)
        assert ended["state"] == "succeeded", ended
    return ended


def _end(engine: Engine, request: dict[str, Any]) -> dict[str, Any]:
    engine.database.transact(
        lambda connection: seen(
            connection,
            "worker-1",
            host=engine.settings.host,
            pid=1,
            boot_id=None,
            queues=engine.worker.runner.queues,
        )
    )
    [job_id] = engine.submit({**request, "max_attempts": 1}).job_ids
    engine.work()
    return dict(engine.job(job_id))


def test_a_volume_lives_and_is_removed(
    engine: Engine, provider: Provider, request: pytest.FixtureRequest
) -> None:
    shape = request.node.callspec.params["provider"]
    here = {"host": engine.settings.host}
    attached = act("volume.attach", "vm1", "ext", **here)
    _done(engine, create("vm1", "8M", "ext"), grow("vm1", "12M", "ext"), attached)
    [attachment] = engine.volumes("ext")["vm1"]["attachments"]
    written = b"what a guest has written" * 100
    if shape == "addresses only":
        assert attachment["device"] is None
        assert attachment["uris"] == [f"kvm:rbd:pool/{engine.volumes('ext')['vm1']['id']}"]
    else:
        with Path(attachment["device"]).open("r+b", buffering=0) as device:
            device.write(written.ljust(4096, b"\0"))
    _done(
        engine,
        grow("vm1", "16M", "ext"),
        act("volume.set_info", "vm1", "ext", params={"info": "of web1"}),
    )
    detached = act("volume.detach", "vm1", "ext", **here)
    if shape == "cannot detach":
        refused = _end(engine, detached)
        assert refused["state"] == "failed"
        assert "not implemented" in refused["error"]["detail"]
        assert engine.volumes("ext")["vm1"]["attachments"] == [attachment]
        provider.replace("detach", ":")
    _done(engine, detached, act("volume.clone", "copy", "ext", params={"source": "vm1"}))
    verified = _done(engine, act("volume.verify", "vm1", "ext"))
    assert verified["result"]["agrees"]
    found = {name: view["size_bytes"] for name, view in engine.volumes("ext").items()}
    assert found == {"vm1": 16 * MIB, "copy": 16 * MIB}
    if shape != "addresses only":
        for view in engine.volumes("ext").values():
            assert provider.image(view["id"]).read_bytes().startswith(written)
    _done(engine, act("volume.remove", "vm1", "ext"), act("volume.remove", "copy", "ext"))
    assert list(provider.images.glob("*.img")) == []
    assert provider.devices() == []
