"""Providers of the shapes that people run do under Ganeti's own code what they do under ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.extstorage.providers import SHAPES, Provider
from tests.rigs import ganeti
from workers.backends.file import loops

pytestmark = pytest.mark.slow

_LIFE = """
device = extstorage.ExtStorageDevice
params = {"path": given["path"]}
names = dict(name="disk0", uuid="7ad1d1de-5d1f-4f2b-9d5b-6a9e5c1d3e4f")

def note(disk):
    told.append([disk.attached, disk.dev_path, disk.uris])

made = device.Create(("tried", "vol"), [], 8, None, params, False, {}, **names)
note(made)
made.SetInfo("originstname+web1")
made.Grow(4, False, True, False)
made.Attach()
note(made)
_, snap = made.Snapshot(snap_name=None, snap_size=None)
copy = device(("tried", snap), [], 12, params, {}, **names)
note(copy)
for disk in (copy, made):
    for step in ("Shutdown", "Remove"):
        try:
            getattr(disk, step)()
        except errors.BlockDeviceError as error:
            told.append(str(error))
"""


@pytest.fixture
def provider(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Provider]:
    if not loops.available():
        pytest.skip("loop devices need root, and a kernel that has them")
    made = Provider(tmp_path / "provider", SHAPES[request.param])
    yield made
    made.close()


@pytest.mark.parametrize("provider", SHAPES, indirect=True, ids=SHAPES.keys())
def test_a_disk_lives_its_whole_life(
    provider: Provider, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    shape = request.node.callspec.id
    told: list[Any] = ganeti.run(
        f"from ganeti import errors\n{_LIFE}",
        search_path=[provider.directory.parent],
        node=tmp_path / "node",
        path=str(provider.images),
    )
    (attached, path, uris), grown, copy, *failed = told
    assert provider.calls[:2] == ["create", "attach"]
    # Ganeti takes the end of the last line for one more, without anything.
    addresses = shape == "addresses only"
    assert (attached, bool(path), any(uris)) == (True, not addresses, addresses)
    assert grown == [attached, path, uris]
    assert copy[0]
    if shape == "cannot detach":
        # Nor is it removed then; the orchestrator asks the kernel, and goes on.
        assert len(failed) == 4
        assert all("not implemented" in one for one in failed)
        assert len(list(provider.images.glob("*.img"))) == 2
        return
    assert failed == []
    assert list(provider.images.glob("*.img")) == []
    assert provider.devices() == []


def test_what_prints_a_path_that_is_not_there_is_not_attached(tmp_path: Path) -> None:
    """As `NoDevice` is with us: it neither proves that a volume is there nor that it is gone."""
    made = Provider(tmp_path / "provider", SHAPES["prints a path that is not there"])
    told = ganeti.run(
        """
made = extstorage.ExtStorageDevice(("tried", "no"), [], 8, {"path": given["path"]}, {}, name="d",
                                   uuid="u")
told.append([made.attached, made.dev_path])
made.Remove()
""",
        search_path=[made.directory.parent],
        node=tmp_path / "node",
        path=str(made.images),
    )
    assert told[0][0] is False
    assert made.calls == ["attach", "attach"]
