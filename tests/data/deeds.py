"""What the `file` driver does to a disk that fails: each call, what is there before, and after."""

from __future__ import annotations

import hashlib
from abc import ABC
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.domain.errors import NotFound
from tests.conformance.calls import Claim, new_snapshot, new_volume
from workers.backends.base.facts import Absent, Contents, Look, VolumeFacts
from workers.backends.base.references import SnapshotRef, VolumeRef
from workers.backends.file.driver import FileDriver
from workers.backends.file.spec import FileOptions

SIZE = 64 * 1024
INSTALLATION = "disk"


def filled(seed: str, size: int = SIZE) -> bytes:
    """Contents that nothing else has; the second quarter is a hole."""
    held = (hashlib.sha256(seed.encode()).digest() * (size // 32))[:size]
    return held[: size // 4] + bytes(size // 4) + held[size // 2 :]


class Shelf:
    """A `file` backend in a directory, looked at through a driver and by its files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.driver = FileDriver("disk", FileOptions(path=path), INSTALLATION)

    def image(self, ref: VolumeRef | SnapshotRef) -> Path | None:
        below = f"snapshots/{ref.volume.id}" if isinstance(ref, SnapshotRef) else "volumes"
        return next(self.path.glob(f"{below}/**/*~{ref.id}.img"), None)

    def held(self, ref: VolumeRef | SnapshotRef) -> bytes | None:
        """The contents, read from the file; None: there is none."""
        path = self.image(ref)
        return None if path is None else path.read_bytes()

    def leftovers(self) -> list[str]:
        """What was begun and never taken away."""
        return [path.name for path in (self.path / ".orchestrator" / "tmp").iterdir()]

    def make(self, name: str, seed: str) -> VolumeRef:
        """A volume with contents."""
        volume = new_volume(name)
        self.driver.create(volume, SIZE, {"owner": "a"}, Claim())
        self.write(volume, seed)
        return volume

    def write(self, volume: VolumeRef, seed: str) -> None:
        """A user writes into it."""
        path = self.image(volume)
        assert path is not None
        held = filled(seed)
        with path.open("r+b") as file:
            for start, end in ((0, SIZE // 4), (SIZE // 2, SIZE)):
                file.seek(start)
                file.write(held[start:end])

    def keep(self, volume: VolumeRef, name: str) -> SnapshotRef:
        """A snapshot of it."""
        snapshot = new_snapshot(volume, name)
        self.driver.create_snapshot(snapshot, Claim())
        return snapshot

    def erase(self, volume: VolumeRef, *snapshots: SnapshotRef) -> None:
        """Away with them."""
        for snapshot in snapshots:
            with suppress(NotFound):
                self.driver.delete_snapshot(snapshot, Claim())
        with suppress(NotFound):
            self.driver.remove(volume, Claim())


class Deed(ABC):
    """One call. The objects are new ones for each try."""

    name: str
    #: Takes away again what it has left, where it is not done to its end.
    creates = False

    def __init__(self, shelf: Shelf) -> None:
        self.prepare(shelf)

    def prepare(self, shelf: Shelf) -> None:
        """What is there before."""
        self.volume = shelf.make("v", "first")
        self.snapshots: list[SnapshotRef] = []

    def do(self, shelf: Shelf, claim: Claim) -> Any:
        """The call."""
        raise NotImplementedError

    def after(self, shelf: Shelf) -> str | None:
        """What is not as it must be after it was done; None: all is."""
        raise NotImplementedError

    def before(self, shelf: Shelf) -> str | None:
        """What is not as it was before it was done; None: all is."""
        return _holds(shelf, self.volume, filled("first"), name="v", metadata={"owner": "a"})

    def partly(self, shelf: Shelf) -> str | None:
        """What is neither as before nor as after; None: that cannot be."""
        was = self.before(shelf)
        return was and (self.after(shelf) and was)

    def erase(self, shelf: Shelf) -> None:
        shelf.erase(self.volume, *self.snapshots)


def _holds(
    shelf: Shelf,
    ref: VolumeRef,
    wanted: bytes,
    *,
    name: str | None = None,
    metadata: dict[str, str] | None = None,
) -> str | None:
    facts: Look = shelf.driver.inspect(ref)
    held = shelf.held(ref)
    if not isinstance(facts, VolumeFacts) or held is None:
        return f"{ref.name} is {facts}"
    if held != wanted:
        places = [
            at for at in range(0, len(wanted), 4096) if held[at:][:4096] != wanted[at:][:4096]
        ]
        return f"{ref.name} has {len(held)} bytes, not as they must be at {places}"
    if facts.size_bytes != len(wanted):
        return f"{ref.name} is told with {facts.size_bytes} bytes"
    if name is not None and facts.name != name:
        return f"{ref.name} is told as {facts.name}"
    if metadata is not None and dict(facts.metadata) != metadata:
        return f"{ref.name} is told with {facts.metadata}"
    return None


def _keeps(shelf: Shelf, snapshots: list[SnapshotRef], wanted: dict[str, bytes]) -> str | None:
    of = snapshots[0].volume
    told = [(one.id, one.name) for one in shelf.driver.list_snapshots(of)]
    right = [(one.id, one.name) for one in snapshots if one.name in wanted]
    if told != right:
        return f"{of.name} has the snapshots {told} and not {right}"
    for one in snapshots:
        if one.name in wanted and shelf.held(one) != wanted[one.name]:
            return f"snapshot {one.name} of {of.name} does not hold what it must"
    return None


class _Makes(Deed):
    creates = True
    contents = bytes(SIZE)

    def prepare(self, shelf: Shelf) -> None:
        super().prepare(shelf)
        self.made = new_volume("new")

    def before(self, shelf: Shelf) -> str | None:
        if shelf.driver.inspect(self.made) != Absent() or shelf.held(self.made) is not None:
            return "the new volume is there"
        return super().before(shelf)

    def after(self, shelf: Shelf) -> str | None:
        return _holds(shelf, self.made, self.contents, metadata={"b": "c"}) or super().before(shelf)

    def erase(self, shelf: Shelf) -> None:
        shelf.erase(self.made)
        super().erase(shelf)


class Create(_Makes):
    name = "create"

    def do(self, shelf: Shelf, claim: Claim) -> Any:
        return shelf.driver.create(self.made, SIZE, {"b": "c"}, claim)


class Load(_Makes):
    name = "load"
    contents = filled("loaded")

    def do(self, shelf: Shelf, claim: Claim) -> Any:
        parts = [(at, self.contents[at : at + 8192]) for at in range(0, SIZE, 8192)]
        return shelf.driver.load(self.made, SIZE, {"b": "c"}, Contents(SIZE, iter(parts)), claim)


class Clone(_Makes):
    name = "clone"
    contents = filled("first")

    def do(self, shelf: Shelf, claim: Claim) -> Any:
        return shelf.driver.clone(self.made, self.volume, SIZE, {"b": "c"}, claim)


class Copied(_Makes):
    name = "copy: contents, then load"
    contents = filled("first")

    def do(self, shelf: Shelf, claim: Claim) -> Any:
        with shelf.driver.contents(self.volume, claim) as contents:
            return shelf.driver.load(self.made, SIZE, {"b": "c"}, contents, claim)


class Snapshot(Deed):
    name = "create_snapshot"
    creates = True

    def prepare(self, shelf: Shelf) -> None:
        super().prepare(shelf)
        self.snapshots = [shelf.keep(self.volume, "s1")]
        shelf.write(self.volume, "second")
        self.snapshots.append(new_snapshot(self.volume, "s2"))
        self.kept = {"s1": filled("first")}

    def do(self, shelf: Shelf, claim: Claim) -> Any:
        return shelf.driver.create_snapshot(self.snapshots[1], claim)

    def before(self, shelf: Shelf) -> str | None:
        return _holds(shelf, self.volume, filled("second")) or _keeps(
            shelf, self.snapshots, self.kept
        )

    def after(self, shelf: Shelf) -> str | None:
        return _holds(shelf, self.volume, filled("second")) or _keeps(
            shelf, self.snapshots, self.kept | {"s2": filled("second")}
        )


class _WithSnapshots(Deed):
    def prepare(self, shelf: Shelf) -> None:
        super().prepare(shelf)
        self.snapshots = [shelf.keep(self.volume, "s1")]
        shelf.write(self.volume, "second")
        self.snapshots.append(shelf.keep(self.volume, "s2"))
        shelf.write(self.volume, "third")
        self.kept = {"s1": filled("first"), "s2": filled("second")}

    def before(self, shelf: Shelf) -> str | None:
        return _holds(shelf, self.volume, filled("third")) or _keeps(
            shelf, self.snapshots, self.kept
        )


class Rollback(_WithSnapshots):
    name = "rollback"
    claimed = "none"

    def do(self, shelf: Shelf, claim: Claim) -> Any:
        self.claimed = claim.token
        return shelf.driver.rollback(self.volume, self.snapshots[1], claim)

    def after(self, shelf: Shelf) -> str | None:
        facts = shelf.driver.inspect(self.volume)
        if not isinstance(facts, VolumeFacts) or facts.restored_by != self.claimed:
            return "it does not say which job has rolled it back"
        return _holds(shelf, self.volume, filled("second")) or _keeps(
            shelf, self.snapshots, self.kept
        )


class DeleteSnapshot(_WithSnapshots):
    name = "delete_snapshot"

    def do(self, shelf: Shelf, claim: Claim) -> Any:
        return shelf.driver.delete_snapshot(self.snapshots[0], claim)

    def after(self, shelf: Shelf) -> str | None:
        return _holds(shelf, self.volume, filled("third")) or _keeps(
            shelf, self.snapshots, {"s2": self.kept["s2"]}
        )


class Grow(Deed):
    name = "grow"

    def do(self, shelf: Shelf, claim: Claim) -> Any:
        return shelf.driver.grow(self.volume, 2 * SIZE, claim)

    def after(self, shelf: Shelf) -> str | None:
        return _holds(shelf, self.volume, filled("first").ljust(2 * SIZE, b"\0"))


class SetMetadata(Deed):
    name = "set_metadata"

    def do(self, shelf: Shelf, claim: Claim) -> Any:
        return shelf.driver.set_metadata(self.volume, {"owner": "b"}, claim)

    def after(self, shelf: Shelf) -> str | None:
        return _holds(shelf, self.volume, filled("first"), metadata={"owner": "b"})


class Rename(Deed):
    name = "rename"

    def do(self, shelf: Shelf, claim: Claim) -> Any:
        return shelf.driver.rename(self.volume, "renamed", claim)

    def after(self, shelf: Shelf) -> str | None:
        return _holds(shelf, self.volume, filled("first"), name="renamed")


class Wipe(Deed):
    name = "wipe"

    def do(self, shelf: Shelf, claim: Claim) -> Any:
        return shelf.driver.wipe(self.volume, claim)

    def after(self, shelf: Shelf) -> str | None:
        return _holds(shelf, self.volume, bytes(SIZE))

    def partly(self, shelf: Shelf) -> str | None:
        held, was = shelf.held(self.volume), filled("first")
        if held is None or len(held) != SIZE:
            return "the volume is gone, or cut"
        blocks = range(0, SIZE, 512)
        if all(held[at : at + 512] in (was[at : at + 512], bytes(512)) for at in blocks):
            return None
        return "the volume holds neither what it did nor zeroes"


class Remove(Deed):
    name = "remove"
    wipe = False

    def do(self, shelf: Shelf, claim: Claim) -> Any:
        return shelf.driver.remove(self.volume, claim, wipe=self.wipe)

    def after(self, shelf: Shelf) -> str | None:
        if shelf.driver.inspect(self.volume) != Absent() or shelf.held(self.volume) is not None:
            return "the volume is there"
        return None


class RemoveWiped(Remove):
    name = "remove with wipe"
    wipe = True

    def partly(self, shelf: Shelf) -> str | None:
        return Wipe.partly(self, shelf) and self.after(shelf)  # type: ignore[arg-type]


class Adopt(_WithSnapshots):
    name = "adopt"

    def prepare(self, shelf: Shelf) -> None:
        super().prepare(shelf)
        self.old, self.kept_by_old = self.volume, self.snapshots
        self.new = new_volume("v")
        self.taken = False

    def do(self, shelf: Shelf, claim: Claim) -> Any:
        return shelf.driver.adopt(self.new, claim, instead_of=self.old.id)

    def after(self, shelf: Shelf) -> str | None:
        told = shelf.driver.list_snapshots(self.new)
        names = [one.name for one in told]
        if names != ["s1", "s2"]:
            return f"the adopted volume has the snapshots {names}"
        refs = [SnapshotRef(one.id or "", one.name, self.new) for one in told]
        return _holds(shelf, self.new, filled("third")) or _keeps(shelf, refs, self.kept)

    def before(self, shelf: Shelf) -> str | None:
        return super().before(shelf)

    def partly(self, shelf: Shelf) -> str | None:
        # Half of it may bear the new stamps; every byte is there.
        images = [path.read_bytes() for path in shelf.path.glob("*/**/*~*.img")]
        wanted = [filled("third"), *self.kept.values()]
        lost = [number for number, one in enumerate(wanted) if one not in images]
        return f"contents {lost} are gone" if lost else None

    def erase(self, shelf: Shelf) -> None:
        for volume in (self.new, self.old):
            refs = [
                SnapshotRef(one.id, one.name, volume)
                for one in shelf.driver.list_snapshots(volume)
                if one.id is not None
            ]
            shelf.erase(volume, *refs)


DEEDS: dict[str, type[Deed]] = {
    deed.name: deed
    for deed in (
        Create,
        Load,
        Clone,
        Copied,
        Snapshot,
        Rollback,
        DeleteSnapshot,
        Grow,
        SetMetadata,
        Rename,
        Wipe,
        Remove,
        RemoveWiped,
        Adopt,
    )
}


@dataclass(frozen=True)
class Reading:
    """A call that only looks: on a disk that fails it says what is so, or that it cannot see."""

    name: str
    look: Callable[[Shelf, VolumeRef, SnapshotRef], Any]


def _contents(shelf: Shelf, volume: VolumeRef, snapshot: SnapshotRef) -> Any:
    held = bytearray(SIZE)
    with shelf.driver.contents(snapshot, Claim()) as contents:
        for offset, part in contents.parts:
            held[offset : offset + len(part)] = part
    return bytes(held)


READINGS: dict[str, Reading] = {
    reading.name: reading
    for reading in (
        Reading("inspect", lambda shelf, volume, _: _steady(shelf.driver.inspect(volume))),
        Reading(
            "inspect another name",
            lambda shelf, volume, _: _steady(
                shelf.driver.inspect(VolumeRef(volume.id, "called-otherwise"))
            ),
        ),
        Reading(
            "list_volumes",
            lambda shelf, _volume, _snapshot: sorted(
                (one.id, one.name, one.size_bytes) for one in shelf.driver.list_volumes()
            ),
        ),
        Reading(
            "list_snapshots",
            lambda shelf, volume, _: [
                (one.id, one.name, one.order) for one in shelf.driver.list_snapshots(volume)
            ],
        ),
        Reading("contents", _contents),
        Reading("read_identity", lambda shelf, _volume, _snapshot: shelf.driver.read_identity()),
    )
}


def _steady(look: Look) -> Any:
    """What does not change by itself of what a look shows."""
    if isinstance(look, VolumeFacts):
        return (look.id, look.name, look.size_bytes, dict(look.metadata))
    return look
