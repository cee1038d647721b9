"""Removing volumes, and taking away what was begun: only by proof is one gone."""

from __future__ import annotations

from contextlib import suppress

from orchestrator.domain.errors import (
    BackendBusy,
    BackendError,
    Conflict,
    NoDevice,
    Problem,
    ScriptFailed,
)
from workers.backends.base.attachments import Found
from workers.backends.base.call import Call
from workers.backends.base.facts import Removed
from workers.backends.base.references import VolumeRef
from workers.backends.extstorage.asking import Asking
from workers.backends.extstorage.attaching import Attaching, facts
from workers.backends.extstorage.notes import Note, Notes, Stage, is_begun_by
from workers.backends.extstorage.writing import Writing


class Removing:
    """Removes volumes; the provider's own ``remove`` must have succeeded."""

    def __init__(
        self, asking: Asking, attaching: Attaching, writing: Writing, notes: Notes
    ) -> None:
        self._asking = asking
        self._attaching = attaching
        self._writing = writing
        self._notes = notes

    def remove(self, volume: VolumeRef, call: Call, *, wipe: bool) -> Removed:
        """Remove it, wiped before if that is asked for; what cannot be wiped is not removed."""
        self._attaching.refuse_attached(volume)
        note = self._notes.of(volume.id)
        earlier = note if note is not None and note.token == call.token else None
        if earlier is not None and earlier.stage is Stage.REMOVED:
            return Removed(found=True, wiped_bytes=earlier.size_bytes)
        # What an earlier attempt of this very job has overwritten stays so.
        wiped = earlier.size_bytes if earlier is not None and earlier.stage is Stage.WIPED else 0
        try:
            device = self._attaching.find(volume, call)
        except (ScriptFailed, NoDevice) as error:
            if wipe and not wiped:
                raise type(error)(
                    f"volume {volume.name} could not be wiped, so it was not removed: "
                    f"{error.detail}; remove it without wiping if that is right"
                ) from None
            device = None
        if device is not None and wipe and wiped != (facts(volume, device).size_bytes or None):
            with self._attaching.let_go_if_it_fails(volume, device, call):
                wiped = self._writing.overwrite(volume, device, call)
        if wiped:
            self._notes.write(volume.id, Note(Stage.WIPED, call.token, wiped))
        self._remove(volume, device, call, wiped)
        return Removed(found=device is not None or wiped > 0, wiped_bytes=wiped)

    def discard(self, made: VolumeRef, call: Call) -> None:
        """Take away what the call's job has begun, and nothing else."""
        self._attaching.refuse_attached(made)
        note = self._notes.of(made.id)
        if is_begun_by(note, made, call):
            self.take_away(made, call)
        elif note is None or note.stage is not Stage.REMOVED:
            self._refuse_unknown(made, note, call)

    def take_away(self, volume: VolumeRef, call: Call) -> None:
        """Remove what this very job has begun."""
        try:
            device = self._attaching.find(volume, call)
        except (Conflict, BackendBusy):
            raise
        except Problem:
            device = None
        self._remove(volume, device, call)

    def _remove(self, volume: VolumeRef, device: Found | None, call: Call, wiped: int = 0) -> None:
        """Detach and remove it, which has succeeded if the provider's own ``remove`` has.

        ``device`` is None where it cannot be attached; perhaps because it is gone.
        """
        # A device that is used raises. Otherwise the provider's remove has the last word: there are
        # providers whose detach fails if there is nothing to detach, or always.
        with suppress(ScriptFailed):
            self._attaching.detach(volume, device, call)
        self._asking.run("remove", volume, {}, call)
        self._attaching.attached.forget(volume.id)
        self._refuse_still_there(volume, call)
        self._notes.write(volume.id, Note(Stage.REMOVED, call.token, wiped))

    def _refuse_still_there(self, volume: VolumeRef, call: Call) -> None:
        """`ScriptFailed` if it has a device after its removal.

        That alone is proof. Anything else says neither that it is gone nor that it is not: then
        what the provider's ``remove`` ended with counts.
        """
        try:
            device = self._attaching.find(volume, call)
        except (Conflict, BackendBusy):
            raise
        except Problem:
            return
        with self._attaching.let_go_after(volume, device, call):
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
            with self._attaching.needed(volume, call) as device:
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
