"""The `extstorage` driver's calls, put together from a provider's scripts."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import TypeVar

from orchestrator.domain.drivers import DRIVERS, DriverOptions, ExtStorageOptions
from orchestrator.domain.errors import (
    BackendBusy,
    BackendError,
    BackendUnavailable,
    Conflict,
    Drift,
    InUse,
    InvalidSize,
    NoDevice,
    Outage,
    Problem,
    ScriptFailed,
    Unsupported,
)
from orchestrator.domain.names import check_volume_name
from orchestrator.domain.sizes import round_up
from workers.backends import blockdevices
from workers.backends.extstorage.devices import Attached, Found, Holders, parse_answer
from workers.backends.extstorage.notes import Note, Notes, Stage
from workers.backends.extstorage.provider import Provider, diagnose, find
from workers.backends.extstorage.running import Run, Scripts
from workers.backends.interface import (
    Call,
    Candidate,
    Capacity,
    Contents,
    Device,
    Driver,
    Look,
    Removed,
    SnapshotFacts,
    SnapshotRef,
    VolumeFacts,
    VolumeRef,
    check_id,
)
from workers.backends.streams import CHUNK, is_zero, pour, read_parts, write_all

#: Providers count in these.
GRAIN = 2**20
#: What the text kept with a volume may have (Ganeti: VOL_METADATA), and how long it may be.
_NOT_IN_TEXT = re.compile(r"[^-A-Za-z0-9_+.]", re.ASCII)
_LONGEST_TEXT = 128
#: The entry of a volume's metadata that the provider is told.
_INFO = "info"

#: What stands for the backend as a whole where an id is needed.
_NO_VOLUME = "0" * 32

_T = TypeVar("_T")

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ExtStorageDriver(Driver):
    """Volumes of a provider of Ganeti's External Storage interface.

    A provider knows a volume by its immutable id (``VOL_NAME``): what is done late to an old
    id never meets a newer volume of the same name. ``VOL_CNAME`` is the volume's name. What
    a provider cannot tell comes from the inventory: which volumes there are, their metadata,
    and the size of those that have no block device. That one is there is known by attaching
    it. That attach fails, or names a device that is not there, proves nothing, so that none is
    ever called absent.

    A provider can bear no stamp. What a job has begun to make from nothing is known by a note on
    the host, written before the script begins; it is taken away again for that job alone, on
    that host alone. Where ``create`` or ``snapshot`` has ended with an error, as it does for what
    is there already, nothing is ever taken away, but by a removal that somebody asks for. A
    device is wiped, written and read for a copy while the kernel keeps others from it, and it is
    detached or removed only if nobody used it directly before.

    A late call is made harmless so. Each script runs in a process group of its own, which
    the next claim of the volume on the same host kills before it runs anything; and a claim
    is refused once a later one has run a script for the volume there. What it cannot fence:
    scripts of a worker that was cut off, on another host, until they have ended. A provider has
    no place for a lease either, and a lease on one host would say nothing of the others: of two
    lives of one database each is refused only what the other has begun on the same host.
    """

    cannot_tell = frozenset({"identity", "capacity", "volumes", "metadata"})

    def __init__(self, backend: str, options: DriverOptions, installation: str) -> None:
        super().__init__(backend, options, installation)
        if not isinstance(options, ExtStorageOptions):
            raise TypeError(f"extstorage takes ExtStorageOptions, not {type(options).__name__}")
        self._options = options
        self._room = options.path / backend
        self._attached = Attached(self._room)
        self._holders = Holders(self._room)
        self._notes = Notes(self._room)
        self._scripts = Scripts(
            options.provider, self._room, options.seconds, secrets=options.secrets
        )

    # -- the system as a whole ------------------------------------------------------------

    def capabilities(self) -> frozenset[str]:
        provider = self._provider()
        lacking = {
            capability
            for capability, scripts in (("clone", {"snapshot"}), ("open", {"open", "close"}))
            if not scripts <= provider.scripts
        }
        return DRIVERS["extstorage"].capabilities - lacking

    def read_identity(self) -> str | None:
        self._provider()
        return None

    def write_identity(self, identity: str, *, replace: bool = False) -> None:
        raise Unsupported("a provider has no place for an identity marker")

    def capacity(self) -> Capacity:
        self._provider()
        self._scripts.forget_logs(self._options.log_days)
        self._notes.forget_removed(self._options.log_days)
        return Capacity(total_bytes=None, free_bytes=None, grain_bytes=GRAIN)

    def parameters(self) -> dict[str, str]:
        return self._provider().parameters

    def diagnose(self) -> list[Candidate]:
        return [
            Candidate(
                name=found.name,
                path=str(found.directory),
                faults=found.faults,
                parameters=found.parameters,
            )
            for found in diagnose(self._options.search_path)
        ]

    def check(self, call: Call) -> None:
        """Let the provider's own ``verify`` look at the names of the parameters."""
        call.checkpoint()
        names = tuple(sorted(self._options.parameters))
        run = Run(
            script=self._provider().directory / "verify",
            object_id=_NO_VOLUME,
            environment=self._environment({}),
            arguments=names,
        )
        self._scripts.run(run, None)

    # -- reading --------------------------------------------------------------------------

    def list_volumes(self) -> Iterator[VolumeFacts]:
        raise Unsupported("a provider cannot tell which volumes it has")

    def inspect(self, volume: VolumeRef) -> Look:
        self._checked(volume)
        with self._needed(volume, None) as device:
            return self._facts(volume, device)

    def list_snapshots(self, volume: VolumeRef) -> list[SnapshotFacts]:
        return []

    @contextmanager
    def contents(self, of: VolumeRef | SnapshotRef, call: Call) -> Iterator[Contents]:
        if isinstance(of, SnapshotRef):
            raise Unsupported("what a provider snapshots is a volume of its own: read that")
        self._checked(of)
        with self._needed(of, call) as device:
            path = _block_device(device)
            with (
                self._holders.alone(of.id),
                self._opened(of, device, call, blockdevices.unchanged(path)) as (
                    (descriptor, check),
                    size,
                ),
            ):
                self._refuse_drift(of, path, size)
                yield Contents(size, _checked_parts(path, descriptor, size, check))

    def devices(self, volume: VolumeRef) -> list[Device]:
        found = self._attached.of(check_id(volume.id))
        return [] if found is None else [found.device]

    # -- making ---------------------------------------------------------------------------

    def create(
        self, volume: VolumeRef, size_bytes: int, metadata: Mapping[str, str], call: Call
    ) -> VolumeFacts:
        self._checked(volume)
        size = round_up(size_bytes, GRAIN)
        told = {"VOL_SIZE": _mib(size)}
        try:
            new = self._begin("create", volume, volume, told, size, call)
        except ScriptFailed as failed:
            return self._there_already(volume, size, failed, call)
        with self._made(volume, call) as device:
            there = self._as_asked(volume, device, size)
            if new:
                self._zero_new(volume, device, 0, call)
        self._done(volume, size, call)
        return there

    def load(
        self,
        volume: VolumeRef,
        size_bytes: int,
        metadata: Mapping[str, str],
        contents: Contents,
        call: Call,
    ) -> VolumeFacts:
        self._checked(volume)
        size = round_up(size_bytes, GRAIN)
        told = {"VOL_SIZE": _mib(size)}
        new = self._begin("create", volume, volume, told, size, call)
        with self._made(volume, call) as device:
            there = self._as_asked(volume, device, size)
            if new:
                self._fill(volume, device, contents, call)
        self._done(volume, size, call)
        return there

    def clone(
        self,
        volume: VolumeRef,
        source: VolumeRef | SnapshotRef,
        size_bytes: int,
        metadata: Mapping[str, str],
        call: Call,
    ) -> VolumeFacts:
        if isinstance(source, SnapshotRef):
            raise Unsupported("what a provider snapshots is a volume of its own: clone that")
        self._checked(volume)
        self._checked(source)
        size = round_up(size_bytes, GRAIN)
        with self._needed(source, call) as origin:
            least = self._facts(source, origin).size_bytes
            if origin.path:
                self._refuse_drift(source, origin.path, least)
            if size < least:
                raise InvalidSize(f"a copy of {least} bytes does not fit into {size}")
            told = {"VOL_SNAPSHOT_NAME": volume.id, "VOL_SNAPSHOT_SIZE": _mib(least)}
            new = self._begin("snapshot", volume, source, told, size, call)
        if new:
            with self._made(volume, call) as device:
                there = self._as_asked(volume, device, least)
            if there.size_bytes < size:
                self._grown(volume, there.size_bytes, size, call)
        with self._made(volume, call) as device:
            there = self._as_asked(volume, device, size)
            if new and there.size_bytes > least:
                self._zero_new(volume, device, least, call)
        self._done(volume, size, call)
        return there

    def discard(self, made: VolumeRef | SnapshotRef, call: Call) -> None:
        if isinstance(made, SnapshotRef):
            return
        self._checked(made)
        self._refuse_attached(made)
        note = self._notes.of(made.id)
        if self._is_begun_by(note, made, call):
            self._take_away(made, call)
        elif note is None or note.stage is not Stage.REMOVED:
            self._refuse_unknown(made, note, call)

    # -- changing -------------------------------------------------------------------------

    def grow(self, volume: VolumeRef, size_bytes: int, call: Call) -> VolumeFacts:
        self._checked(volume)
        wanted = round_up(size_bytes, GRAIN)
        with self._needed(volume, call) as device:
            before = device.size_bytes or volume.size_bytes
            if before is not None and before >= wanted:
                return self._facts(volume, device, size=before)
            if device.path:
                self._refuse_drift(volume, device.path, before)
            self._grown(volume, before or wanted, wanted, call)
            device = self._find(volume, call)
            after = device.size_bytes or wanted
            if after < wanted:
                raise BackendError(
                    f"the provider's grow ended with success, and {device.path} has {after} bytes, "
                    f"not the {wanted} asked for"
                )
            return self._facts(volume, device, size=after)

    def set_metadata(
        self, volume: VolumeRef, metadata: Mapping[str, str], call: Call
    ) -> VolumeFacts:
        self._checked(volume)
        text = _NOT_IN_TEXT.sub("_", metadata.get(_INFO, ""))[:_LONGEST_TEXT]
        with self._needed(volume, call) as device:
            self._run("setinfo", volume, {"VOL_METADATA": text}, call)
            return self._facts(volume, device)

    def wipe(
        self, volume: VolumeRef, call: Call, *, offset: int = 0, length: int | None = None
    ) -> VolumeFacts:
        self._checked(volume)
        self._refuse_attached(volume)
        with self._needed(volume, call) as device:
            self._overwrite(volume, device, call, offset, length)
            return self._facts(volume, device)

    def fence_off(self, changed: VolumeRef | SnapshotRef, call: Call) -> None:
        with self._scripts.claimed(check_id(changed.id), call):
            pass

    # -- removing -------------------------------------------------------------------------

    def remove(self, volume: VolumeRef, call: Call, *, wipe: bool = False) -> Removed:
        self._checked(volume)
        self._refuse_attached(volume)
        note = self._notes.of(volume.id)
        earlier = note if note is not None and note.token == call.token else None
        if earlier is not None and earlier.stage is Stage.REMOVED:
            return Removed(found=True, wiped_bytes=earlier.size_bytes)
        # What an earlier attempt of this very job has overwritten stays so.
        wiped = earlier.size_bytes if earlier is not None and earlier.stage is Stage.WIPED else 0
        try:
            device = self._find(volume, call)
        except (ScriptFailed, NoDevice) as error:
            if wipe and not wiped:
                raise type(error)(
                    f"volume {volume.name} could not be wiped, so it was not removed: "
                    f"{error.detail}; remove it without wiping if that is right"
                ) from None
            device = None
        if (
            device is not None
            and wipe
            and wiped != (self._facts(volume, device).size_bytes or None)
        ):
            with self._let_go_if_it_fails(volume, device, call):
                wiped = self._overwrite(volume, device, call)
        if wiped:
            self._notes.write(volume.id, Note(Stage.WIPED, call.token, wiped))
        self._remove(volume, device, call, wiped)
        return Removed(found=device is not None or wiped > 0, wiped_bytes=wiped)

    # -- using ----------------------------------------------------------------------------

    def attach(self, volume: VolumeRef, call: Call, *, read_only: bool = False) -> Device:
        self._checked(volume)
        if read_only:
            raise Unsupported("a provider cannot attach a volume for reading only")
        before = self._attached.of(volume.id)
        found = self._find(volume, call)
        if found.path and (volume.size_bytes or 0) > (found.size_bytes or 0):
            with self._let_go_if_it_fails(volume, found, call, before=before):
                self._refuse_drift(volume, found.path, found.size_bytes)
        self._attached.note(volume.id, found)
        return found.device

    def detach(self, volume: VolumeRef, call: Call) -> None:
        self._checked(volume)
        device = self._attached.of(volume.id)
        if device is None:
            # Perhaps attached by others: what they use is not taken from them.
            with suppress(ScriptFailed, NoDevice):
                device = self._find(volume, call)
        self._detach(volume, device, call)

    def open(self, volume: VolumeRef, call: Call, *, exclusive: bool) -> None:
        self._checked(volume)
        told = {"VOL_OPEN_EXCLUSIVE": str(exclusive)}
        self._run("open", volume, told, call)

    def close(self, volume: VolumeRef, call: Call) -> None:
        self._checked(volume)
        self._run("close", volume, {}, call)

    # -- inside -----------------------------------------------------------------------------

    def _provider(self) -> Provider:
        """The provider, as it is now.

        Raises `Outage` if it is not there, else `BackendUnavailable` with what is wrong with it.
        """
        options = self._options
        found = find(options.provider, options.search_path)
        if found is None:
            raise Outage(
                f"there is no provider {options.provider} in "
                f"{', '.join(map(str, options.search_path))}"
            )
        if not found.usable:
            raise BackendUnavailable(f"{'; '.join(found.faults)}")
        unknown = sorted(set(options.parameters) - set(found.parameters))
        if unknown:
            raise BackendUnavailable(
                f"the provider {options.provider} has no parameter {unknown[0]!r}: it has "
                f"{', '.join(found.parameters) or 'none'}"
            )
        return found

    def _checked(self, volume: VolumeRef) -> None:
        check_id(volume.id)
        check_volume_name(volume.name)

    def _environment(self, own: Mapping[str, str]) -> dict[str, str]:
        """What a script sees: nothing of the worker's own."""
        parameters = {
            "provider": self._options.provider,
            "access": self._options.access,
            **self._options.values,
            **own,
        }
        return {
            "PATH": _PATH,
            "LC_ALL": "C",
            "HOME": os.path.expanduser("~"),  # noqa: PTH111 - which raises where there is none
            **{f"EXTP_{name.upper()}": value for name, value in parameters.items()},
        }

    def _run(
        self,
        script: str,
        volume: VolumeRef,
        told: Mapping[str, str],
        call: Call | None,
        *,
        answers: bool = False,
    ) -> bytes:
        """Run a script about a volume. Raises `Unsupported` if the provider has none."""
        provider = self._provider()
        if script not in provider.scripts:
            raise Unsupported(f"the provider {provider.name} has no script {script!r}")
        about = {"VOL_NAME": volume.id}
        if script != "snapshot":
            about |= {"VOL_CNAME": volume.name, "VOL_UUID": str(uuid.UUID(volume.id))}
        run = Run(
            script=provider.directory / script,
            object_id=volume.id,
            environment={**self._environment(volume.parameters), **about, **told},
            answers=answers,
        )
        return self._scripts.run(run, call)

    def _find(self, volume: VolumeRef, call: Call | None) -> Found:
        """Attach it, which is how one finds it. `ScriptFailed` or `NoDevice` if that fails."""
        answer = self._run("attach", volume, {}, call, answers=True)
        with self._still_ours(volume, call):
            return parse_answer(answer)

    @contextmanager
    def _still_ours(self, volume: VolumeRef, call: Call | None) -> Iterator[None]:
        """What is seen here, good or bad, is what this claim's own scripts have left.

        `Conflict` if a later claim has worked on the volume by the end: the device may show
        another volume by now, or nothing.
        """
        try:
            yield
        finally:
            if call is not None:
                self._scripts.refuse_late(volume.id, call)

    @contextmanager
    def _needed(self, volume: VolumeRef, call: Call | None) -> Iterator[Found]:
        """Its device, for as long as this takes; raises what keeps it from being seen.

        One that was attached before, or that somebody uses, stays.
        """
        before = self._attached.of(volume.id)
        device = self._find(volume, call)
        with self._let_go_after(volume, device, call, before=before):
            yield device

    @contextmanager
    def _let_go_after(
        self,
        volume: VolumeRef,
        device: Found,
        call: Call | None,
        *,
        before: Found | None = None,
    ) -> Iterator[None]:
        """Detach it at the end, unless it was attached ``before`` or somebody uses it."""
        with self._let_go_if_it_fails(volume, device, call, before=before):
            yield
        if before is None:
            with suppress(InUse, BackendBusy):
                self._detach(volume, device, call)

    @contextmanager
    def _let_go_if_it_fails(
        self,
        volume: VolumeRef,
        device: Found,
        call: Call | None,
        *,
        before: Found | None = None,
    ) -> Iterator[None]:
        try:
            yield
        except BaseException:
            if before is None:
                with suppress(Problem):
                    self._detach(volume, device, call)
            raise

    def _detach(self, volume: VolumeRef, device: Found | None, call: Call | None) -> None:
        """Detach it if nobody uses it, and see that nobody has it afterwards. Raises `InUse`.

        Some providers' devices are there for as long as the volume is; they stay.
        """
        if device is None or not _is_still_there(device):
            self._run("detach", volume, {}, call)
        else:
            with self._exclusively(volume, device, call):
                pass  # up to here: a device that is held cannot be taken away
            self._run("detach", volume, {}, call)
            if _is_still_there(device):
                with self._exclusively(volume, device, call):
                    pass
        self._attached.forget(volume.id)

    @contextmanager
    def _exclusively(
        self, volume: VolumeRef, device: Found, call: Call | None, *, writable: bool = False
    ) -> Iterator[tuple[int, int]]:
        """Its device, if nobody uses it, to oneself: a descriptor and the size in bytes.

        `BackendBusy` while another call of ours has it.
        """
        kept = blockdevices.exclusively(_block_device(device), writable=writable)
        with (
            self._holders.alone(volume.id),
            self._opened(volume, device, call, kept) as (descriptor, size),
        ):
            yield descriptor, size

    @contextmanager
    def _opened(
        self,
        volume: VolumeRef,
        device: Found,
        call: Call | None,
        opening: AbstractContextManager[_T],
    ) -> Iterator[tuple[_T, int]]:
        """A device that is opened, and its size now; it is sure to be the one that was found."""
        path = _block_device(device)
        with ExitStack() as held:
            with self._still_ours(volume, call):
                opened = held.enter_context(opening)
                with blockdevices.told(path):
                    disk = blockdevices.look_at(path)
                if not device.is_still(disk):
                    raise NoDevice(
                        f"{path} shows something else now, or nothing, and was not touched: "
                        "something else on this host has detached the volume meanwhile"
                    )
            yield opened, disk.size_bytes

    def _facts(self, volume: VolumeRef, device: Found, size: int = 0) -> VolumeFacts:
        """What there is of it; ``size`` where no device tells."""
        bytes_ = device.size_bytes or size or volume.size_bytes or 0
        return VolumeFacts(id=volume.id, name=volume.name, size_bytes=bytes_, used_bytes=bytes_)

    def _refuse_drift(self, volume: VolumeRef, path: str, there: int | None) -> None:
        """`Drift` if a device is not as large as the record says."""
        if volume.size_bytes not in (None, there):
            raise Drift(
                f"volume {volume.name} is recorded with {volume.size_bytes} bytes, and {path} has "
                f"{there}: nothing was changed. 'volume.verify' compares them; find out which is "
                "right first",
                recorded_bytes=volume.size_bytes,
                found_bytes=there,
            )

    def _refuse_attached(self, volume: VolumeRef) -> None:
        for device in self.devices(volume):
            raise InUse(f"volume {volume.name} is attached here as {device.path}: detach it first")

    # -- making -----------------------------------------------------------------------------

    def _begin(
        self,
        script: str,
        volume: VolumeRef,
        about: VolumeRef,
        told: Mapping[str, str],
        size: int,
        call: Call,
    ) -> bool:
        """Have a script make the volume; False: it was made and finished before.

        What an attempt of the same job has begun and was cut off from is made anew.
        """
        if volume.size_bytes is not None:
            raise Unsupported(
                f"volume {volume.name} is recorded, and a provider cannot tell for sure that it is "
                "gone: it is not made anew"
            )
        note = self._notes.of(volume.id)
        mine = note is not None and note.token == call.token
        if note is not None and note.stage is Stage.DONE:
            return False
        if note is not None and not mine and note.stage in (Stage.BEGUN, Stage.MADE):
            raise Conflict(
                f"another job ({note.token}) has begun to make volume {volume.name} on this host, "
                "perhaps in another life of the database: nothing was changed. Look at what the "
                f"provider has of {volume.id}, then remove the volume, or forget it"
            )
        if mine and note is not None and note.stage is Stage.MADE:
            return True
        if self._is_begun_by(note, volume, call):
            self._take_away(volume, call)
            mine = False
        # What was refused once was not begun from nothing, however it ends now.
        begun = Note(Stage.BEGUN, call.token, size, refused=mine)
        self._notes.write(volume.id, begun)
        try:
            self._run(script, about, told, call)
        except ScriptFailed:
            self._notes.write(volume.id, replace(begun, stage=Stage.REFUSED, refused=True))
            raise
        self._notes.write(volume.id, replace(begun, stage=Stage.MADE))
        return True

    def _is_begun_by(self, note: Note | None, volume: VolumeRef, call: Call) -> bool:
        """Whether this job has begun the volume, on this host and from nothing."""
        begun = (Stage.BEGUN, Stage.MADE, Stage.DONE)
        return (
            note is not None
            and note.token == call.token
            and note.stage in begun
            and not note.refused
            and volume.size_bytes is None
        )

    def _done(self, volume: VolumeRef, size: int, call: Call) -> None:
        note = self._notes.of(volume.id)
        if note is not None and note.stage is Stage.MADE:
            self._notes.write(volume.id, replace(note, stage=Stage.DONE, size_bytes=size))

    @contextmanager
    def _made(self, volume: VolumeRef, call: Call) -> Iterator[Found]:
        """What was made, found by attaching it."""
        before = self._attached.of(volume.id)
        try:
            device = self._find(volume, call)
        except (ScriptFailed, NoDevice) as error:
            raise ScriptFailed(
                "the provider ended with success, and what it should have made cannot be "
                f"attached: {error.detail}"
            ) from None
        with self._let_go_after(volume, device, call, before=before):
            yield device

    def _as_asked(self, volume: VolumeRef, device: Found, size: int) -> VolumeFacts:
        """What was made, which may be larger than was asked for: providers round up, too."""
        there = self._facts(volume, device, size)
        note = self._notes.of(volume.id)
        asked = size if note is None or note.stage is not Stage.DONE else note.size_bytes
        if there.size_bytes < size or asked != size:
            raise Conflict(
                f"volume {there.name} is there with {there.size_bytes} bytes, not {size}",
                size_bytes=there.size_bytes,
            )
        return there

    def _there_already(
        self, volume: VolumeRef, size: int, failed: ScriptFailed, call: Call
    ) -> VolumeFacts:
        """What there is though ``create`` has failed, if it is empty and just as asked.

        Another host may have made it for this job. Nothing is written to it.
        """
        try:
            with self._needed(volume, call) as device:
                there = self._facts(volume, device)
                if device.path is None:
                    raise failed
                empty = self._options.zero_new is False or self._is_zeroes(volume, device, call)
        except (NoDevice, ScriptFailed):
            raise failed from None
        if there.size_bytes != size or not empty:
            raise Conflict(
                f"the provider's create failed, and there is a volume of {there.size_bytes} bytes "
                f"for {volume.name}{'' if empty else ' that holds data'}: whose it is cannot be "
                f"known, and it was not touched ({failed.detail})",
                size_bytes=there.size_bytes,
            )
        return there

    def _grown(self, volume: VolumeRef, before: int, wanted: int, call: Call) -> None:
        sizes = {"VOL_SIZE": _mib(before), "VOL_NEW_SIZE": _mib(wanted)}
        self._run("grow", volume, sizes, call)

    def _zero_new(self, volume: VolumeRef, device: Found, offset: int, call: Call) -> None:
        """Leave nothing of what a new volume's space held before, from ``offset`` on."""
        if self._options.zero_new is False:
            return
        if device.path is None:
            if self._options.zero_new:
                raise Unsupported(
                    "a volume without a block device cannot be zeroed here: set zero_new = false "
                    "if the provider does it, or if it does not matter"
                )
            return
        zeroes = bytes(CHUNK)
        path = device.path
        with self._exclusively(volume, device, call, writable=True) as (descriptor, size):
            for place in range(offset, size, CHUNK):
                call.checkpoint()
                length = min(CHUNK, size - place)
                # What is zero already stays unwritten, and thin where it is thin.
                if not is_zero(_read(path, descriptor, place, length)):
                    with self._scripts.claimed(volume.id, call), blockdevices.told(path):
                        write_all(descriptor, zeroes[:length], place)
                call.progress(place + length, size)
            _sync(path, descriptor)

    def _is_zeroes(self, volume: VolumeRef, device: Found, call: Call) -> bool:
        path = _block_device(device)
        with self._exclusively(volume, device, call) as (descriptor, size):
            for place in range(0, size, CHUNK):
                call.checkpoint()
                if not is_zero(_read(path, descriptor, place, min(CHUNK, size - place))):
                    return False
        return True

    def _fill(self, volume: VolumeRef, device: Found, contents: Contents, call: Call) -> None:
        # What a provider makes may hold what was there before.
        path = _block_device(device)

        @contextmanager
        def ours() -> Iterator[None]:
            with self._scripts.claimed(volume.id, call), blockdevices.told(path):
                yield

        with self._exclusively(volume, device, call, writable=True) as (descriptor, size):
            pour(contents, descriptor, size, call, zeroed=False, writing=ours)
            _sync(path, descriptor)

    # -- removing ---------------------------------------------------------------------------

    def _take_away(self, volume: VolumeRef, call: Call) -> None:
        """Remove what this very job has begun."""
        try:
            device = self._find(volume, call)
        except (Conflict, BackendBusy):
            raise
        except Problem:
            device = None
        self._remove(volume, device, call)

    def _remove(self, volume: VolumeRef, device: Found | None, call: Call, wiped: int = 0) -> None:
        """Detach and remove it, which has succeeded if the provider's own ``remove`` has.

        ``device`` is None where it cannot be attached; perhaps because it is gone.
        """
        if device is None:
            with suppress(ScriptFailed):
                self._detach(volume, None, call)
        else:
            self._detach(volume, device, call)
        self._run("remove", volume, {}, call)
        self._attached.forget(volume.id)
        self._refuse_still_there(volume, call)
        self._notes.write(volume.id, Note(Stage.REMOVED, call.token, wiped))

    def _refuse_still_there(self, volume: VolumeRef, call: Call) -> None:
        """`ScriptFailed` if it has a device after its removal.

        That alone is proof. Anything else says neither that it is gone nor that it is not: then
        what the provider's ``remove`` ended with counts.
        """
        try:
            device = self._find(volume, call)
        except (Conflict, BackendBusy):
            raise
        except Problem:
            return
        with self._let_go_after(volume, device, call):
            if device.path is not None:
                raise ScriptFailed(
                    "the provider's remove ended with success, and the volume can still be "
                    f"attached as {device.path}"
                )

    def _refuse_unknown(self, volume: VolumeRef, note: Note | None, call: Call) -> None:
        """Raise unless it is known that there is nothing of the volume.

        It is where the script that makes it has ended with an error, and so has cleaned up after
        itself, and where none has begun, here or by an earlier claim on another host. That it
        cannot be attached says nothing.
        """
        why: Problem
        try:
            with self._needed(volume, call) as device:
                if device.path is not None:
                    raise Conflict(
                        f"the provider has a volume for {volume.name}, and it is not known on this "
                        "host that this job has made it: it was left. Look at it, then remove the "
                        "volume"
                    )
            why = BackendError("the provider answers with addresses alone")
        except (ScriptFailed, NoDevice) as error:
            why = error
        if call.alone if note is None else note.stage is Stage.REFUSED:
            return
        raise type(why)(
            f"whether the provider has anything for volume {volume.name} is not known "
            f"({why.detail}): look at what it has of {volume.id}, then remove the volume"
        )

    # -- contents ---------------------------------------------------------------------------

    def _overwrite(
        self,
        volume: VolumeRef,
        device: Found,
        call: Call,
        offset: int = 0,
        length: int | None = None,
    ) -> int:
        """Write zeroes over a device; how many bytes, all of them on the disk.

        `Drift` if it is not as large as recorded.
        """
        zeroes, done = bytes(CHUNK), 0
        path = _block_device(device)
        with self._exclusively(volume, device, call, writable=True) as (descriptor, whole):
            self._refuse_drift(volume, path, whole)
            size = whole - offset
            size = size if length is None else min(size, length)
            while done < size:
                call.checkpoint()
                part = zeroes[: size - done]
                with self._scripts.claimed(volume.id, call), blockdevices.told(path):
                    write_all(descriptor, part, offset + done)
                done += len(part)
                call.progress(done, size)
            _sync(path, descriptor)
        return done


def _block_device(device: Found) -> str:
    """The path of a volume's device. Raises `Unsupported` where it has none."""
    if device.path is None:
        raise Unsupported("a volume without a block device cannot be read or written here")
    return device.path


def _is_still_there(device: Found) -> bool:
    """Whether there is a device that shows just now what it did."""
    if device.path is None:
        return False
    try:
        return device.is_still(blockdevices.look_at(device.path))
    except (OSError, BackendError):
        return False


def _checked_parts(
    path: str, descriptor: int, size: int, check: Callable[[], None]
) -> Iterator[tuple[int, bytes]]:
    """The parts of a device; whoever reads to the end learns of what was written meanwhile."""
    parts = read_parts(descriptor, size)
    while True:
        with blockdevices.told(path):
            part = next(parts, None)
        if part is None:
            break
        yield part
    check()


def _read(path: str, descriptor: int, offset: int, length: int) -> bytes:
    data = b""
    while len(data) < length:
        with blockdevices.told(path):
            part = os.pread(descriptor, length - len(data), offset + len(data))
        if not part:
            raise BackendError(f"{path} ends before its end")
        data += part
    return data


def _sync(path: str, descriptor: int) -> None:
    with blockdevices.told(path):
        os.fsync(descriptor)


def _mib(size: int) -> str:
    return str(-(-size // GRAIN))
