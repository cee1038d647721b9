"""The calls that must survive whatever happens in the middle of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

from orchestrator.domain.errors import BackendError
from orchestrator.domain.exports import parse_rules
from tests.conformance.calls import Claim, new_snapshot, new_volume
from tests.ontap.conftest import leftovers
from tests.ontap.double import Double
from workers.backends.base.facts import Absent, there
from workers.backends.base.references import PolicyRef, SnapshotRef, VolumeRef
from workers.backends.ontap.driver import OntapDriver

SIZE = 20 * 2**20


class Scene(ABC):
    """One call, what has to be there before it, and what must be so afterwards."""

    method: ClassVar[str]
    #: Whether it makes something that `discard` takes away.
    makes = False
    #: The numbers of the filer's jobs without which the call succeeds all the same.
    dispensable: frozenset[int] = frozenset()
    arguments: tuple[Any, ...]

    @abstractmethod
    def prepare(self, double: Double, driver: OntapDriver) -> None:
        """Make what is needed, and ``arguments``."""

    @abstractmethod
    def check(self, double: Double, driver: OntapDriver) -> None:
        """Everything is as the call says, once."""

    def call(self, driver: OntapDriver, claim: Claim) -> Any:
        return getattr(driver, self.method)(*self.arguments, claim)

    def again(self, driver: OntapDriver, claim: Claim) -> Any:
        """The next attempt at a call that broke off."""
        return self.call(driver, claim)

    def meanwhile(self, double: Double) -> None:  # noqa: B027 - for those where it matters
        """What a client may do between the call that broke off and the next."""

    def discard(self, driver: OntapDriver, claim: Claim) -> None:
        driver.discard(self.arguments[0], claim)

    def check_discarded(self, double: Double, driver: OntapDriver) -> None:
        assert leftovers(double) == []
        assert driver.inspect(self.arguments[0]) == Absent()


class Create(Scene):
    method = "create"
    makes = True

    def prepare(self, double: Double, driver: OntapDriver) -> None:
        settings = {"junction_path": "/new", "snapshot_reserve_percent": 7}
        self.volume = VolumeRef(new_volume().id, "a/new", settings=settings)
        self.arguments = (self.volume, SIZE, {})

    def check(self, double: Double, driver: OntapDriver) -> None:
        (facts,) = driver.list_volumes()
        assert (facts.id, facts.name, facts.size_bytes) == (self.volume.id, "a/new", SIZE)
        assert facts.settings["junction_path"] == "/new"
        assert facts.settings["snapshot_reserve_percent"] == 7
        assert leftovers(double) == []


class Clone(Scene):
    method = "clone"
    makes = True
    of_snapshot = False

    def prepare(self, double: Double, driver: OntapDriver) -> None:
        self.source = new_volume("source")
        driver.create(self.source, SIZE, {}, Claim())
        double.filer.write(double.filer.bearing(self.source.id), b"wanted")
        self.snapshot = new_snapshot(self.source)
        driver.create_snapshot(self.snapshot, Claim())
        if self.of_snapshot:
            double.filer.write(double.filer.bearing(self.source.id), b"later!")
        of: VolumeRef | SnapshotRef = self.snapshot if self.of_snapshot else self.source
        self.volume = new_volume("copy")
        self.arguments = (self.volume, of, 2 * SIZE, {})

    def check(self, double: Double, driver: OntapDriver) -> None:
        facts = {one.name: one for one in driver.list_volumes()}
        assert sorted(facts) == ["copy", "source"]
        assert (facts["copy"].id, facts["copy"].size_bytes) == (self.volume.id, 2 * SIZE)
        record = double.filer.bearing(self.volume.id)
        assert record["_contents"] == b"wanted"
        assert not record["clone"]["is_flexclone"]
        assert driver.list_snapshots(self.volume) == []
        assert [one.id for one in driver.list_snapshots(self.source)] == [self.snapshot.id]
        assert leftovers(double) == []


class CloneOfSnapshot(Clone):
    of_snapshot = True


class Snapshot(Scene):
    method = "create_snapshot"
    makes = True

    def prepare(self, double: Double, driver: OntapDriver) -> None:
        self.volume = new_volume("vm1")
        driver.create(self.volume, SIZE, {}, Claim())
        self.arguments = (new_snapshot(self.volume),)

    def check(self, double: Double, driver: OntapDriver) -> None:
        (facts,) = driver.list_snapshots(self.volume)
        assert (facts.id, facts.size_bytes) == (self.arguments[0].id, SIZE)

    def check_discarded(self, double: Double, driver: OntapDriver) -> None:
        assert driver.list_snapshots(self.volume) == []


class Rollback(Scene):
    method = "rollback"
    # Which job does it, which is known from its end, too; the size, which the filer may refuse.
    dispensable = frozenset({4, 5})

    def prepare(self, double: Double, driver: OntapDriver) -> None:
        self.volume = new_volume("vm1")
        driver.create(self.volume, SIZE, {}, Claim())
        double.filer.write(double.filer.bearing(self.volume.id), b"before")
        snapshot = new_snapshot(self.volume)
        driver.create_snapshot(snapshot, Claim())
        double.filer.write(double.filer.bearing(self.volume.id), b"after!")
        driver.grow(self.volume, 3 * SIZE, Claim())
        self.arguments = (self.volume, snapshot)
        self.wanted = b"before"
        self.known = True

    def again(self, driver: OntapDriver, claim: Claim) -> Any:
        try:
            return self.call(driver, claim)
        except BackendError as error:
            assert "cannot be known" in error.detail
            # The answer was lost, and somebody has written since.
            assert self.wanted == b"newest"
            self.known = False

    def meanwhile(self, double: Double) -> None:
        record = double.filer.bearing(self.volume.id)
        if record["_contents"] == b"before":
            # Whoever mounts it writes on; a second rollback would lose that.
            double.filer.write(record, b"newest")
            self.wanted = b"newest"

    def check(self, double: Double, driver: OntapDriver) -> None:
        assert double.filer.bearing(self.volume.id)["_contents"] == self.wanted
        facts = there(driver.inspect(self.volume), self.volume)
        assert facts.size_bytes == (SIZE if self.known else 3 * SIZE)
        assert [one.id for one in driver.list_snapshots(self.volume)] == [self.arguments[1].id]
        assert leftovers(double) == []


class Remove(Scene):
    method = "remove"

    def prepare(self, double: Double, driver: OntapDriver) -> None:
        volume = VolumeRef(new_volume().id, "vm1", settings={"junction_path": "/vm1"})
        driver.create(volume, SIZE, {}, Claim())
        self.arguments = (volume,)

    def check(self, double: Double, driver: OntapDriver) -> None:
        assert list(driver.list_volumes()) == []
        assert leftovers(double) == []


class Rename(Scene):
    method = "rename"

    def prepare(self, double: Double, driver: OntapDriver) -> None:
        volume = new_volume("vm1")
        driver.create(volume, SIZE, {}, Claim())
        self.arguments = (volume, "a/b")

    def check(self, double: Double, driver: OntapDriver) -> None:
        assert [one.name for one in driver.list_volumes()] == ["a/b"]


class Restrict(Scene):
    method = "restrict"

    def prepare(self, double: Double, driver: OntapDriver) -> None:
        self.volume = VolumeRef(new_volume().id, "vm1", settings={"junction_path": "/a b"})
        driver.create(self.volume, SIZE, {}, Claim())
        self.arguments = (self.volume,)

    def check(self, double: Double, driver: OntapDriver) -> None:
        assert double.filer.bearing(self.volume.id)["state"] == "restricted"
        driver.unrestrict(VolumeRef(self.volume.id, "vm1"), Claim())
        facts = there(driver.inspect(self.volume), self.volume)
        assert facts is not None
        assert facts.settings["junction_path"] == "/a b"


class Unrestrict(Restrict):
    method = "unrestrict"

    def prepare(self, double: Double, driver: OntapDriver) -> None:
        super().prepare(double, driver)
        driver.restrict(self.volume, Claim())

    def check(self, double: Double, driver: OntapDriver) -> None:
        record = double.filer.bearing(self.volume.id)
        assert (record["state"], record["nas"]["path"]) == ("online", "/a b")


class BuildPolicy(Scene):
    method = "build_policy"
    makes = True
    written = ("10.0.0.7", "2001:db8::/32(ro)")

    def prepare(self, double: Double, driver: OntapDriver) -> None:
        self.policy = PolicyRef(new_volume().id, "a/web")
        self.arguments = (self.policy, parse_rules(self.written))

    def discard(self, driver: OntapDriver, claim: Claim) -> None:
        driver.discard_policy(self.policy, claim)

    def check(self, double: Double, driver: OntapDriver) -> None:
        assert leftovers(double) == [f"orchestrator_new_{self.policy.id}"]
        facts = driver.inspect_policy(self.policy)
        assert facts is not None
        assert facts.rules == parse_rules(self.written)

    def check_discarded(self, double: Double, driver: OntapDriver) -> None:
        assert leftovers(double) == []


class PublishPolicy(BuildPolicy):
    method = "publish_policy"
    makes = False

    def prepare(self, double: Double, driver: OntapDriver) -> None:
        super().prepare(double, driver)
        native = driver.build_policy(self.policy, parse_rules(self.written), Claim())
        self.policy = replace(self.policy, native=native)
        self.arguments = (self.policy,)

    def check(self, double: Double, driver: OntapDriver) -> None:
        names = [one.name for one in driver.list_policies()]
        assert sorted(names) == ["a/web", "default"]
        assert leftovers(double) == []


class SetRules(PublishPolicy):
    method = "set_rules"

    def prepare(self, double: Double, driver: OntapDriver) -> None:
        super().prepare(double, driver)
        driver.publish_policy(self.policy, Claim())
        self.wanted = parse_rules(["10.0.0.9", "10.0.0.7(ro)", "10.0.0.8"])
        self.arguments = (*self.arguments, self.wanted)

    def check(self, double: Double, driver: OntapDriver) -> None:
        facts = driver.inspect_policy(self.arguments[0])
        assert facts is not None
        assert facts.rules == self.wanted


class RemovePolicy(PublishPolicy):
    method = "remove_policy"

    def prepare(self, double: Double, driver: OntapDriver) -> None:
        super().prepare(double, driver)
        driver.publish_policy(self.policy, Claim())

    def check(self, double: Double, driver: OntapDriver) -> None:
        assert [one.name for one in driver.list_policies()] == ["default"]


SCENES: dict[str, type[Scene]] = {
    scene.__name__: scene
    for scene in (
        *(Create, Clone, CloneOfSnapshot, Snapshot, Rollback, Remove, Rename, Restrict),
        *(Unrestrict, BuildPolicy, PublishPolicy, SetRules, RemovePolicy),
    )
}
