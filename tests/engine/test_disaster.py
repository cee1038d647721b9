"""The inventory was lost, or is older than the storage: all comes back as it was, by checksum."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator import backups
from orchestrator.findings.recording import list_findings
from orchestrator.resources.volume.views import list_snapshots, list_volumes
from orchestrator.settings import DatabaseSettings, Settings
from orchestrator.store import migrate
from orchestrator.store.database import Database
from tests.conformance.calls import Claim
from tests.engine.conftest import Engine, act, create
from workers.backends.base.abilities import CanExport
from workers.backends.base.driver import Driver, driver_that
from workers.backends.base.references import SnapshotRef, VolumeRef

pytestmark = pytest.mark.either_database

MIB = 2**20
#: How many volumes there are, with five snapshots each: the large fleet takes minutes.
FLEETS = [
    pytest.param(5, id="small"),
    pytest.param(200, id="whole", marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
]
ROUNDS = ("zulu", "alfa", "mike", "bravo", "yankee")

#: By volume: its metadata, size and checksum, and its snapshots' names and checksums in order.
State = dict[str, tuple[Any, int, str, list[tuple[str, str]]]]


def name(number: int) -> str:
    return f"vm{number:03}"


class Fleet:
    """Volumes on the backend ``fast`` with contents that are told apart, and what they hold."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.root = Path(engine.settings.data) / "volumes"

    def do(self, requests: list[dict[str, Any]]) -> None:
        accepted = self.engine.submit(*requests, batch=True)
        self.engine.work()
        ended = [self.engine.job(job_id) for job_id in accepted.job_ids]
        assert [job["error"] for job in ended if job["state"] != "succeeded"] == []

    def make(self, numbers: range) -> None:
        self.do(
            [
                create(
                    name(n),
                    backend="fast",
                    params={"size_bytes": MIB, "metadata": {"owner": f"team {n % 7}"}},
                )
                for n in numbers
            ]
        )

    def snapshots(self, numbers: range, rounds: tuple[str, ...]) -> None:
        """Write something else into each volume, and keep that."""
        for one in rounds:
            self.write(numbers, one)
            self.do([act("snapshot.create", name(n), "fast", snapshot=one) for n in numbers])

    def write(self, numbers: range, what: str) -> None:
        for n in numbers:
            [image] = self.root.glob(f"volumes/**/{name(n)}~*.img")
            descriptor = os.open(image, os.O_WRONLY)
            os.pwrite(descriptor, f"{what} of {n} ".encode() * 100, n * 64)
            os.close(descriptor)

    def driver(self) -> Driver:
        drivers = self.engine.worker.serving.drivers.values()
        return next(driver for driver in drivers if driver.backend == "fast")

    def state(self) -> State:
        """What the inventory tells, and the storage holds of that."""
        driver, told = self.driver(), {}
        with self.engine.database.read() as connection:
            found = list_volumes(connection, "fast", states=[], prefix=None, after=None, limit=1000)
            for view in found:
                volume = VolumeRef(view["id"], view["name"])
                kept = list_snapshots(connection, "fast", view["name"], after=None, limit=100)
                told[view["name"]] = (
                    view["metadata"],
                    view["size_bytes"],
                    checksum(driver, volume),
                    [
                        (one["name"], checksum(driver, SnapshotRef(one["id"], one["name"], volume)))
                        for one in kept
                    ],
                )
        return told

    def audit(self) -> list[dict[str, Any]]:
        [job_id] = self.engine.submit({"action": "backend.audit", "backend": "fast"}).job_ids
        self.engine.work()
        assert self.engine.job(job_id)["state"] == "succeeded", self.engine.job(job_id)["error"]
        with self.engine.database.read() as connection:
            found: Any = list_findings(connection, {"state": "open"}, before=None, limit=10_000)
            return [dict(row) for row in found]

    def bring_back(self) -> None:
        """What an administrator does about the findings."""
        found = self.audit()
        by_kind = {
            kind: sorted({one["volume"] for one in found if one["kind"] == kind})
            for kind in {one["kind"] for one in found}
        }
        self.do_each("volume.forget", by_kind.pop("ghost", []), {"lost": True})
        self.do_each("volume.adopt", by_kind.pop("orphan", []), {"take_over": True})
        changed = sorted({volume for some in by_kind.values() for volume in some})
        self.do_each("volume.reconcile", changed, {"what": ["snapshots", "metadata", "size"]})
        assert self.audit() == []

    def do_each(self, action: str, names: list[str], params: dict[str, Any]) -> None:
        if names:
            self.do([act(action, one, "fast", params=params) for one in names])


def checksum(driver: Driver, of: VolumeRef | SnapshotRef) -> str:
    digest, done = hashlib.sha256(), 0
    with driver_that(driver, CanExport).contents(of, Claim()) as contents:
        for offset, data in contents.parts:
            digest.update(bytes(offset - done) + data)
            done = offset + len(data)
        digest.update(bytes((contents.size_bytes or done) - done))
    return digest.hexdigest()


def is_told_apart(state: State) -> bool:
    """Whether no two of all these contents are alike but a volume and its last snapshot."""
    sums = [one for _, _, now, kept in state.values() for one in {now, *(sum_ for _, sum_ in kept)}]
    return len(sums) == len(set(sums))


@pytest.fixture
def another(
    request: pytest.FixtureRequest, engine: Engine, tmp_path: Path, database_kind: str
) -> Iterator[Callable[[], str]]:
    """Makes the URL of another, empty database."""
    made: list[str] = []

    def make() -> str:
        fresh = f"other_{uuid.uuid4().hex}"
        if database_kind == "sqlite":
            return f"sqlite:///{tmp_path / fresh}"
        server = request.getfixturevalue("postgres_server")
        server.create_database(fresh)
        made.append(fresh)
        url: str = server.url(fresh)
        return url

    yield make
    for one in made:
        request.getfixturevalue("postgres_server").drop_database(one)


@pytest.fixture
def go_on(engine: Engine) -> Iterator[Callable[[str], Fleet]]:
    """Starts the product on another database, with the same storage; the first one has ended."""
    made: list[Engine] = []

    def start(url: str) -> Fleet:
        engine.worker.serving.leases.release()
        settings: Settings = engine.settings.model_copy(
            update={"database": DatabaseSettings(url=url)}
        )
        made.append(Engine(settings, Database(url)))
        return Fleet(made[-1])

    yield start
    for one in made:
        one.close()


@pytest.mark.parametrize("count", FLEETS)
def test_what_was_forgotten_comes_back_whole(engine: Engine, count: int) -> None:
    fleet = Fleet(engine)
    fleet.make(range(count))
    fleet.snapshots(range(count), ROUNDS)
    before = fleet.state()
    assert is_told_apart(before)
    names = sorted(before)
    fleet.do_each("volume.forget", names, {})
    assert fleet.state() == {}
    fleet.do_each("volume.adopt", names, {"take_over": True})
    assert fleet.state() == before
    assert fleet.audit() == []


@pytest.mark.parametrize("count", FLEETS)
def test_a_database_from_an_hour_before_is_brought_to_the_present(
    engine: Engine,
    tmp_path: Path,
    another: Callable[[], str],
    go_on: Callable[[str], Fleet],
    count: int,
) -> None:
    fleet = Fleet(engine)
    old, new = range(count), range(count, count + max(1, count // 4))
    fleet.make(old)
    fleet.snapshots(old, ROUNDS[:2])
    backups.back_up(engine.settings.database_url, tmp_path / "backup")
    # The hour that is lost: more snapshots, more volumes, other metadata, and one that is gone.
    fleet.snapshots(old, ROUNDS[2:])
    fleet.make(new)
    fleet.snapshots(new, ROUNDS)
    fleet.do([act("volume.update", name(1), "fast", params={"metadata": {"owner": "sales"}})])
    fleet.do([act("volume.grow", name(2), "fast", params={"size_bytes": 2 * MIB})])
    fleet.do([act("snapshot.delete", name(0), "fast", snapshot=one) for one in ROUNDS])
    fleet.do([act("volume.remove", name(0), "fast")])
    before = fleet.state()
    assert is_told_apart(before)
    url = another()
    backups.restore(tmp_path / "backup", url, engine.settings.data, tokens="keep")
    restored = go_on(url)
    restored.bring_back()
    assert restored.state() == before
    # It works on: nothing is taken for done because a number comes again.
    restored.do(
        [act("volume.rollback", name(1), "fast", snapshot="mike", params={"discard_newer": True})]
    )
    kept = restored.state()[name(1)]
    assert kept[3] == before[name(1)][3][:3]
    assert kept[2] == dict(kept[3])["mike"]


@pytest.mark.parametrize("count", FLEETS)
def test_without_any_database_the_storage_is_enough(
    engine: Engine, another: Callable[[], str], go_on: Callable[[str], Fleet], count: int
) -> None:
    fleet = Fleet(engine)
    fleet.make(range(count))
    fleet.snapshots(range(count), ROUNDS)
    before = fleet.state()
    url = another()
    migrate.upgrade(url)
    fresh = go_on(url)
    accept = {"action": "backend.verify", "backend": "fast", "params": {"accept_identity": True}}
    fresh.do([accept])
    fresh.bring_back()
    assert fresh.state() == before
