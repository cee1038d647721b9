"""Making volumes with a provider's scripts, and growing them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from orchestrator.domain.errors import (
    BackendError,
    Conflict,
    InvalidSize,
    NoDevice,
    ScriptFailed,
    Unsupported,
)
from orchestrator.domain.sizes import round_up
from workers.backends.base.attachments import Found
from workers.backends.base.call import Call
from workers.backends.base.facts import Contents, VolumeFacts
from workers.backends.base.references import VolumeRef
from workers.backends.extstorage.asking import Asking
from workers.backends.extstorage.attaching import Attaching, facts, refuse_drift
from workers.backends.extstorage.notes import Note, Notes, Stage, is_begun_by
from workers.backends.extstorage.removing import Removing
from workers.backends.extstorage.spec import ExtStorageOptions
from workers.backends.extstorage.writing import Writing

#: Providers count in these.
GRAIN = 2**20


class Making:
    """Makes volumes; what was begun is noted before, and found again by that."""

    def __init__(
        self,
        options: ExtStorageOptions,
        asking: Asking,
        attaching: Attaching,
        writing: Writing,
        removing: Removing,
        notes: Notes,
    ) -> None:
        self._options = options
        self._asking = asking
        self._attaching = attaching
        self._writing = writing
        self._removing = removing
        self._notes = notes

    def create(self, volume: VolumeRef, size_bytes: int, call: Call) -> VolumeFacts:
        """An empty one; rounded up."""
        size = round_up(size_bytes, GRAIN)
        told = {"VOL_SIZE": _mib(size)}
        try:
            new = self._begin("create", volume, volume, told, size, call)
        except ScriptFailed as failed:
            return self._there_already(volume, size, failed, call)
        with self._made(volume, call) as device:
            there = self._as_asked(volume, device, size)
            if new:
                self._writing.zero_new(volume, device, 0, call)
        self._done(volume, size, call)
        return there

    def load(
        self, volume: VolumeRef, size_bytes: int, contents: Contents, call: Call
    ) -> VolumeFacts:
        """One with contents that come from elsewhere."""
        size = round_up(size_bytes, GRAIN)
        told = {"VOL_SIZE": _mib(size)}
        new = self._begin("create", volume, volume, told, size, call)
        with self._made(volume, call) as device:
            there = self._as_asked(volume, device, size)
            if new:
                self._writing.fill(volume, device, contents, call)
        self._done(volume, size, call)
        return there

    def clone(
        self, volume: VolumeRef, source: VolumeRef, size_bytes: int, call: Call
    ) -> VolumeFacts:
        """One with the present contents of another, by the provider's ``snapshot``."""
        size = round_up(size_bytes, GRAIN)
        with self._attaching.needed(source, call) as origin:
            least = facts(source, origin).size_bytes
            if origin.path:
                refuse_drift(source, origin.path, least)
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
                self._writing.zero_new(volume, device, least, call)
        self._done(volume, size, call)
        return there

    def grow(self, volume: VolumeRef, size_bytes: int, call: Call) -> VolumeFacts:
        """Make it at least this large, and see that it is."""
        wanted = round_up(size_bytes, GRAIN)
        with self._attaching.needed(volume, call) as device:
            before = device.size_bytes or volume.size_bytes
            if before is not None and before >= wanted:
                return facts(volume, device, size=before)
            if device.path:
                refuse_drift(volume, device.path, before)
            self._grown(volume, before or wanted, wanted, call)
            device = self._attaching.find(volume, call)
            after = device.size_bytes or wanted
            if after < wanted:
                raise BackendError(
                    f"the provider's grow ended with success, and {device.path} has {after} bytes, "
                    f"not the {wanted} asked for"
                )
            return facts(volume, device, size=after)

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
        if is_begun_by(note, volume, call):
            self._removing.take_away(volume, call)
            mine = False
        # What was refused once was not begun from nothing, however it ends now.
        begun = Note(Stage.BEGUN, call.token, size, refused=mine)
        self._notes.write(volume.id, begun)
        try:
            self._asking.run(script, about, told, call)
        except ScriptFailed:
            self._notes.write(volume.id, replace(begun, stage=Stage.REFUSED, refused=True))
            raise
        self._notes.write(volume.id, replace(begun, stage=Stage.MADE))
        return True

    def _done(self, volume: VolumeRef, size: int, call: Call) -> None:
        note = self._notes.of(volume.id)
        if note is not None and note.stage is Stage.MADE:
            self._notes.write(volume.id, replace(note, stage=Stage.DONE, size_bytes=size))

    @contextmanager
    def _made(self, volume: VolumeRef, call: Call) -> Iterator[Found]:
        """What was made, found by attaching it."""
        before = self._attaching.attached.of(volume.id)
        try:
            device = self._attaching.find(volume, call)
        except (ScriptFailed, NoDevice) as error:
            raise ScriptFailed(
                "the provider ended with success, and what it should have made cannot be "
                f"attached: {error.detail}"
            ) from None
        with self._attaching.let_go_after(volume, device, call, before=before):
            yield device

    def _as_asked(self, volume: VolumeRef, device: Found, size: int) -> VolumeFacts:
        """What was made, which may be larger than was asked for: providers round up, too."""
        there = facts(volume, device, size)
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
            with self._attaching.needed(volume, call) as device:
                there = facts(volume, device)
                if device.path is None:
                    raise failed
                empty = self._options.zero_new is False or self._writing.is_zeroes(
                    volume, device, call
                )
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
        self._asking.run("grow", volume, sizes, call)


def _mib(size: int) -> str:
    return str(-(-size // GRAIN))
