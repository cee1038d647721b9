"""The `extstorage` driver's calls, put together from a provider's scripts."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial

from orchestrator.domain.drivers import DRIVERS, DriverOptions, ExtStorageOptions
from orchestrator.domain.errors import (
    BackendError,
    BackendUnavailable,
    Conflict,
    InUse,
    InvalidSize,
    NotFound,
    Problem,
    ScriptFailed,
    Unsupported,
)
from orchestrator.domain.names import check_volume_name
from orchestrator.domain.sizes import round_up
from workers.backends.extstorage.devices import Attached, parse_answer, refuse_used, size_of, use_of
from workers.backends.extstorage.provider import Provider, diagnose, find
from workers.backends.extstorage.room import made
from workers.backends.extstorage.running import Run, Scripts
from workers.backends.interface import (
    Absent,
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
from workers.backends.streams import CHUNK, pour, read_parts

#: Providers count in these.
GRAIN = 2**20
#: What the text kept with a volume may have (Ganeti: VOL_METADATA), and how long it may be.
_NOT_IN_TEXT = re.compile(r"[^-A-Za-z0-9_+.]", re.ASCII)
_LONGEST_TEXT = 128
#: The entry of a volume's metadata that the provider is told.
_INFO = "info"

#: What stands for the backend as a whole where an id is needed.
_NO_VOLUME = "0" * 32

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ExtStorageDriver(Driver):
    """Volumes of a provider of Ganeti's External Storage interface.

    A provider knows a volume by its immutable id (``VOL_NAME``): what is done late to an old
    id never meets a newer volume of the same name. ``VOL_CNAME`` is the volume's name. What
    a provider cannot tell comes from the inventory: which volumes there are, their metadata,
    and the size of those that have no block device. That one is there is known by attaching
    it: an attach that fails means that there is none.

    A late call is made harmless so. Each script runs in a process group of its own, which
    the next claim of the volume on the same host kills before it runs anything; and a claim
    is refused once a later one has run a script for the volume there. What it cannot fence:
    scripts of a worker that was cut off, on another host, until they have ended.
    """

    cannot_tell = frozenset({"identity", "capacity", "volumes", "metadata"})

    def __init__(self, backend: str, options: DriverOptions, installation: str) -> None:
        super().__init__(backend, options, installation)
        if not isinstance(options, ExtStorageOptions):
            raise TypeError(f"extstorage takes ExtStorageOptions, not {type(options).__name__}")
        self._options = options
        self._room = options.path / backend
        self._attached = Attached(self._room)
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
        try:
            with self._needed(volume, None) as device:
                return self._facts(volume, device)
        except NotFound:
            return Absent()

    def list_snapshots(self, volume: VolumeRef) -> list[SnapshotFacts]:
        return []

    @contextmanager
    def contents(self, of: VolumeRef | SnapshotRef, call: Call) -> Iterator[Contents]:
        if isinstance(of, SnapshotRef):
            raise Unsupported("what a provider snapshots is a volume of its own: read that")
        self._checked(of)
        with self._needed(of, call) as device, _opened(device, os.O_RDONLY) as descriptor:
            size = size_of(str(device.path))
            yield Contents(size, read_parts(descriptor, size))

    def devices(self, volume: VolumeRef) -> list[Device]:
        device = self._attached.of(check_id(volume.id))
        return [] if device is None else [device]

    # -- making ---------------------------------------------------------------------------

    def create(
        self, volume: VolumeRef, size_bytes: int, metadata: Mapping[str, str], call: Call
    ) -> VolumeFacts:
        self._checked(volume)
        size = round_up(size_bytes, GRAIN)
        with self._making(volume, call):
            there = self._there(volume, call)
            if there is None:
                self._run("create", volume, {"VOL_SIZE": _mib(size)}, call)
                there = self._made(volume, call, size)
        return self._as_asked(there, size)

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
        if self._there(volume, call) is not None:
            # An earlier attempt's, perhaps on another host: how far it came is not known here.
            self._take_away(volume, call)
        with self._making(volume, call):
            self._run("create", volume, {"VOL_SIZE": _mib(size)}, call)
            there = self._as_asked(self._made(volume, call, size), size)
            with self._needed(volume, call) as device:
                self._fill(volume, device, contents, size, call)
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
        with self._needed(source, call) as origin, self._making(volume, call):
            least = self._facts(source, origin).size_bytes
            if size < least:
                raise InvalidSize(f"a copy of {least} bytes does not fit into {size}")
            there = self._there(volume, call)
            if there is None:
                named = {"VOL_SNAPSHOT_NAME": volume.id, "VOL_SNAPSHOT_SIZE": _mib(least)}
                self._run("snapshot", source, named, call)
                there = self._made(volume, call, least)
                if there.size_bytes < size:
                    there = self.grow(volume, size, call)
        return self._as_asked(there, size)

    def discard(self, made: VolumeRef | SnapshotRef, call: Call) -> None:
        if isinstance(made, VolumeRef):
            self._checked(made)
            self._refuse_attached(made)
            self._take_away(made, call)

    # -- changing -------------------------------------------------------------------------

    def grow(self, volume: VolumeRef, size_bytes: int, call: Call) -> VolumeFacts:
        self._checked(volume)
        wanted = round_up(size_bytes, GRAIN)
        with self._needed(volume, call) as device:
            before = size_of(device.path) if device.path else volume.size_bytes
            if before is not None and before >= wanted:
                return self._facts(volume, device, size=before)
            sizes = {"VOL_SIZE": _mib(before or wanted), "VOL_NEW_SIZE": _mib(wanted)}
            self._run("grow", volume, sizes, call)
            device = self._find(volume, call)
            after = size_of(device.path) if device.path else wanted
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
        found, wiped = True, 0
        try:
            device = self._find(volume, call)
        except NotFound:
            found, wipe = False, False
        else:
            # Whoever attached it.
            if device.path:
                refuse_used(device.path)
        if wipe:
            wiped = self.wipe(volume, call).size_bytes
        self._take_away(volume, call)
        return Removed(found, wiped)

    # -- using ----------------------------------------------------------------------------

    def attach(self, volume: VolumeRef, call: Call, *, read_only: bool = False) -> Device:
        self._checked(volume)
        if read_only:
            raise Unsupported("a provider cannot attach a volume for reading only")
        device = self._find(volume, call)
        self._attached.note(volume.id, device)
        return device

    def detach(self, volume: VolumeRef, call: Call) -> None:
        self._checked(volume)
        device = self._attached.of(volume.id)
        if device is not None and device.path:
            refuse_used(device.path)
        self._run("detach", volume, {}, call)
        self._attached.forget(volume.id)

    def open(self, volume: VolumeRef, call: Call, *, exclusive: bool) -> None:
        self._checked(volume)
        told = {"VOL_OPEN_EXCLUSIVE": str(exclusive)}
        self._run("open", volume, told, call)

    def close(self, volume: VolumeRef, call: Call) -> None:
        self._checked(volume)
        self._run("close", volume, {}, call)

    # -- inside -----------------------------------------------------------------------------

    def _provider(self) -> Provider:
        """The provider, as it is now. Raises `BackendUnavailable` with what is wrong with it."""
        options = self._options
        found = find(options.provider, options.search_path)
        if found is None:
            raise BackendUnavailable(
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

    def _find(self, volume: VolumeRef, call: Call | None) -> Device:
        """Attach it, which is how one finds it. `NotFound` if the provider cannot."""
        try:
            return parse_answer(self._run("attach", volume, {}, call, answers=True))
        except ScriptFailed as error:
            raise NotFound(error.detail) from None

    @contextmanager
    def _needed(self, volume: VolumeRef, call: Call | None) -> Iterator[Device]:
        """Its device, for as long as this takes. `NotFound` if there is none.

        One that was attached before, or that somebody uses, stays.
        """
        before = self._attached.of(volume.id)
        device = self._find(volume, call)
        try:
            yield device
        except BaseException:
            with suppress(Problem):
                self._let_go(volume, device, before, call)
            raise
        self._let_go(volume, device, before, call)

    def _let_go(
        self, volume: VolumeRef, device: Device, before: Device | None, call: Call | None
    ) -> None:
        if before is None and not (device.path and use_of(device.path)):
            self._run("detach", volume, {}, call)

    def _there(self, volume: VolumeRef, call: Call) -> VolumeFacts | None:
        try:
            with self._needed(volume, call) as device:
                return self._facts(volume, device)
        except NotFound:
            return None

    def _facts(self, volume: VolumeRef, device: Device, size: int = 0) -> VolumeFacts:
        """What there is of it; ``size`` where no device tells."""
        bytes_ = size_of(device.path) if device.path else size or volume.size_bytes or 0
        return VolumeFacts(id=volume.id, name=volume.name, size_bytes=bytes_, used_bytes=bytes_)

    def _as_asked(self, there: VolumeFacts, size: int) -> VolumeFacts:
        if there.size_bytes != size:
            raise Conflict(
                f"volume {there.name} is there with {there.size_bytes} bytes, not {size}"
            )
        return there

    @contextmanager
    def _making(self, volume: VolumeRef, call: Call) -> Iterator[None]:
        """Make a volume, and take away what an earlier attempt or this one has left of it."""
        note = made(self._room / "making") / volume.id
        if note.exists():
            self._take_away(volume, call)
        note.touch()
        try:
            yield
        except ScriptFailed as failed:
            self._clean_up(volume, call, failed)
            raise
        note.unlink()

    def _clean_up(self, volume: VolumeRef, call: Call, failed: ScriptFailed) -> None:
        try:
            self._take_away(volume, call)
        except Problem as problem:
            raise ScriptFailed(
                f"{failed.detail}; and what it had begun could not be removed: {problem.detail}"
            ) from failed

    def _made(self, volume: VolumeRef, call: Call, size: int) -> VolumeFacts:
        """What was made, found by attaching it."""
        try:
            with self._needed(volume, call) as device:
                return self._facts(volume, device, size)
        except (NotFound, BackendError) as error:
            raise ScriptFailed(
                "the provider ended with success, and what it should have made cannot be "
                f"attached: {error.detail}"
            ) from None

    def _take_away(self, volume: VolumeRef, call: Call) -> None:
        """Remove it, and see that it cannot be attached any more."""
        # An attempt that was broken off may have left it attached.
        self._run("detach", volume, {}, call)
        self._run("remove", volume, {}, call)
        self._attached.forget(volume.id)
        with suppress(FileNotFoundError):
            (self._room / "making" / volume.id).unlink()
        try:
            with self._needed(volume, call) as device:
                path = device.path or ", ".join(device.uris)
        except Problem:
            return  # as it should be
        raise ScriptFailed(
            f"the provider's remove ended with success, and the volume can still be attached as "
            f"{path}"
        )

    def _refuse_attached(self, volume: VolumeRef) -> None:
        for device in self.devices(volume):
            raise InUse(f"volume {volume.name} is attached here as {device.path}: detach it first")

    def _fill(
        self, volume: VolumeRef, device: Device, contents: Contents, size: int, call: Call
    ) -> None:
        # What a provider makes may hold what was there before.
        with _opened(device, os.O_WRONLY) as descriptor:
            ours = partial(self._scripts.claimed, volume.id, call)
            pour(contents, descriptor, size, call, zeroed=False, writing=ours)
            os.fsync(descriptor)

    def _overwrite(
        self, volume: VolumeRef, device: Device, call: Call, offset: int, length: int | None
    ) -> None:
        size, done = size_of(str(device.path)) - offset, 0
        size = size if length is None else min(size, length)
        zeroes = bytes(CHUNK)
        with _opened(device, os.O_WRONLY) as descriptor:
            while done < size:
                call.checkpoint()
                with self._scripts.claimed(volume.id, call):
                    done += os.pwrite(descriptor, zeroes[: size - done], offset + done)
                call.progress(done, size)
            os.fsync(descriptor)


@contextmanager
def _opened(device: Device, flags: int) -> Iterator[int]:
    """A descriptor of a volume's device, which nobody else may use meanwhile."""
    if device.path is None:
        raise Unsupported("a volume without a block device cannot be read or written here")
    refuse_used(device.path)
    descriptor = os.open(device.path, flags | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _mib(size: int) -> str:
    return str(-(-size // GRAIN))
