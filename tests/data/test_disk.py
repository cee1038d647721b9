"""A disk that fails: at each system call of the `file` driver, in each of its ways.

Each call is made again and again, the fault one system call later each time, until it comes
through without meeting it. It ends with an error of the vocabulary or well; with the fault gone
the same job completes it, or leaves nothing; nothing else has changed; and what was reported as
done is there after a power cut.
"""

from __future__ import annotations

import errno
import json
import random
import shutil
from collections.abc import Iterator

import pytest

from orchestrator.domain.errors import Problem
from tests.conformance.calls import Claim, new_snapshot
from tests.data.cases import V
from tests.data.choice import CHOICE
from tests.data.conftest import Grounds
from tests.data.deeds import DEEDS, READINGS, Deed, Shelf, filled
from tests.data.patterns import SIZE
from tests.data.site import Site
from tests.rigs.faultfs import SYNCS, TAKE_ROOM, FaultFs, available
from tests.rigs.rooms import room
from workers.backends.base.references import VolumeRef
from workers.backends.file import layout

pytestmark = pytest.mark.timeout(900)

#: What fails: the error, None for a write that writes less, and at which calls.
FAULTS: dict[str, tuple[int | None, tuple[str, ...]]] = {
    "EIO": (errno.EIO, ()),
    "ESTALE": (errno.ESTALE, ()),
    "EACCES": (errno.EACCES, ()),
    "ENOSPC": (errno.ENOSPC, (*TAKE_ROOM, *SYNCS)),
    "EDQUOT": (errno.EDQUOT, (*TAKE_ROOM, *SYNCS)),
    "short write": (None, ("write",)),
    "fsync": (errno.EIO, SYNCS),
}
#: More system calls than any call of the driver makes.
_MANY = 400
#: The short form tries a few of these, chosen by the seed.
_SHORT = 3


def _chosen(found: list[tuple[str, str]], most: int) -> list[tuple[str, str]]:
    if CHOICE.long:
        return found
    return random.Random(f"{CHOICE.seed} disk").sample(found, most)


_ALL = [(deed, fault) for deed in DEEDS for fault in FAULTS]
_LOOKS = [(look, fault) for look in READINGS for fault in ("EIO", "ESTALE", "EACCES")]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultFs]:
    if why := available():
        pytest.skip(why)
    with room("disk", tmp_path_factory) as directory:
        try:
            made = FaultFs(directory)
        except OSError as error:
            pytest.skip(str(error.strerror))
        yield made
        made.close()


class Rack:
    """A shelf on the disk that fails, with a volume beside that nothing may happen to."""

    def __init__(self, disk: FaultFs, number: int) -> None:
        self.disk = disk
        self.shelf = Shelf(disk.path / f"shelf-{number}")
        self.shelf.path.mkdir()
        self.shelf.driver.write_identity("disk")
        self.beside = self.shelf.make("beside", "beside")
        self.kept = new_snapshot(self.beside, "kept")
        self.shelf.driver.create_snapshot(self.kept, Claim())
        self._cuts = 0

    def check_beside(self, shelf: Shelf) -> None:
        """Nothing has happened to what nobody named."""
        assert shelf.held(self.beside) == filled("beside")
        assert shelf.held(self.kept) == filled("beside")

    def after_a_power_cut(self) -> Shelf:
        """What is there then."""
        self._cuts += 1
        room = self.disk.below.parent / f"cut-{self._cuts}"
        self.disk.cut(room)
        there = room / self.shelf.path.name
        # A file keeps its inode over a power cut, and what is left of it here is a copy.
        for kept in there.joinpath(*layout.STAMPS).glob("*.json"):
            stamp = json.loads(kept.read_bytes())
            for copy in there.glob(f"*/**/*~{kept.stem}.img"):
                image = self.shelf.path / copy.relative_to(there)
                if image.exists() and image.stat().st_ino == stamp.get("inode"):
                    kept.write_text(json.dumps(stamp | {"inode": copy.stat().st_ino}))
        return Shelf(there)

    def forget(self, shelf: Shelf) -> None:
        shutil.rmtree(shelf.path.parent)


@pytest.fixture
def rack(disk: FaultFs) -> Iterator[Rack]:
    number = len(list(disk.path.iterdir()))
    made = Rack(disk, number)
    yield made
    disk.heal()


@pytest.mark.parametrize(("name", "fault"), _chosen(_ALL, _SHORT))
def test_a_failing_disk_loses_nothing(rack: Rack, name: str, fault: str) -> None:
    code, calls = FAULTS[fault]
    for nth in range(1, _MANY):
        try:
            failed = _met(rack, DEEDS[name](rack.shelf), nth, code, calls)
        except BaseException as error:
            error.add_note(f"{fault} at system call {nth} of {name}")
            raise
        if failed is None:
            assert nth > 1 or fault == "short write", "the call is never made"
            return
    raise AssertionError("more system calls than expected")


def _met(rack: Rack, deed: Deed, nth: int, code: int | None, calls: tuple[str, ...]) -> str | None:
    """Make the call with its n-th system call failing; which that was, None if it has none."""
    shelf, disk = rack.shelf, rack.disk
    disk.settle()
    claim = Claim()
    disk.fail(nth, code, calls)
    problem: Problem | None = None
    try:
        deed.do(shelf, claim)
    except Problem as told:
        problem = told
    finally:
        failed = disk.heal()
    if failed is not None:
        rack.check_beside(shelf)
    if problem is None:
        _done(rack, deed)
    else:
        assert failed is not None, problem
        assert (wrong := deed.partly(shelf)) is None, f"{failed} failed ({problem}): {wrong}"
        if deed.creates and nth % 2:
            made = getattr(deed, "made", None) or deed.snapshots[-1]
            shelf.driver.discard(made, claim.again())
            assert (wrong := deed.before(shelf)) is None, f"{failed} failed, discarded: {wrong}"
        else:
            deed.do(shelf, claim.again())
            _done(rack, deed, f"{failed} failed ({problem}), then done: ")
    assert shelf.leftovers() == [], f"{failed} failed"
    deed.erase(shelf)
    return failed


def _done(rack: Rack, deed: Deed, told: str = "") -> None:
    """It is as it must be, now and after a power cut."""
    assert (wrong := deed.after(rack.shelf)) is None, f"{told}{wrong}"
    there = rack.after_a_power_cut()
    try:
        wrong = deed.after(there)
        assert wrong is None, f"{told}after a power cut {wrong}"
        rack.check_beside(there)
    finally:
        rack.forget(there)


@pytest.mark.parametrize(("name", "fault"), _chosen(_LOOKS, 3))
def test_a_look_at_a_failing_disk_says_what_is_so_or_fails(
    rack: Rack, name: str, fault: str
) -> None:
    code, calls = FAULTS[fault]
    look = READINGS[name].look

    def seen() -> object:
        return look(rack.shelf, VolumeRef(rack.beside.id, "beside"), rack.kept)

    right = seen()
    for nth in range(1, _MANY):
        rack.disk.fail(nth, code, calls)
        try:
            told = seen()
        except Problem:
            told = None
        failed = rack.disk.heal()
        if told is not None or failed is None:
            assert told == right, f"{failed} failed, and it says {told}"
        if failed is None:
            return
    raise AssertionError("more system calls than expected")


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS if CHOICE.long else ["EIO"])
def test_an_export_on_a_failing_disk_is_whole_or_not_there(
    disk: FaultFs, grounds: Grounds, fault: str
) -> None:
    code, calls = FAULTS[fault]
    number = len(list(disk.path.iterdir()))
    site = grounds.site("file on ramfs", disk.path / f"exchange-{number}")
    try:
        site.do({"action": "volume.create", "volume": V, "params": {"size_bytes": SIZE}})
        site.attach(V)
        site.write(V)
        site.detach(V)
        for nth in range(1, _MANY):
            if _exported(site, disk, nth, code, calls) is None:
                return
        raise AssertionError("more system calls than expected")
    finally:
        disk.heal()
        site.close()


def _exported(
    site: Site, disk: FaultFs, nth: int, code: int | None, calls: tuple[str, ...]
) -> str | None:
    """Export with the n-th system call failing; which that was."""
    disk.settle()
    target = site.exchange / f"out-{nth}"
    there = sorted(site.exchange.iterdir())
    request = {"action": "volume.export", "volume": V, "params": {"target": str(target)}}
    job_id = site.submit(request)
    disk.fail(nth, code, calls)
    site.work()
    failed = disk.heal()
    site.rest()
    job = site.job(job_id)
    if job["state"] == "succeeded":
        wanted = site.model.volumes[V].padded
        assert target.read_bytes() == wanted, f"{failed} failed, and the export is not whole"
        room = disk.below.parent / "cut"
        disk.cut(room)
        after = room / site.exchange.name / target.name
        assert after.exists(), f"{failed} failed, and after a power cut the export is gone"
        assert after.read_bytes() == wanted, f"{failed} failed: not whole after a power cut"
        shutil.rmtree(room)
        target.unlink()
    else:
        assert job["state"] == "failed", job
        assert job["error"]["code"] != "internal_error", job
    assert sorted(site.exchange.iterdir()) == there, f"{failed} failed, and something is left"
    return failed
