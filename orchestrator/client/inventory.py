"""The client's methods for what there is: backends, volumes, snapshots, attachments, locks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.client.binding import listing, operation
from orchestrator.client.kinds import ATTACHMENT, BACKEND, HELD_LOCK, LOCK, SNAPSHOT, VOLUME
from orchestrator.client.listings import Query
from orchestrator.client.methods import Methods
from orchestrator.client.steps import Request, Steps, given, path_to

if TYPE_CHECKING:
    from orchestrator.contract.inventory import (
        Attachment,
        Backend,
        HeldLock,
        Lock,
        Snapshot,
        Volume,
    )


class InventoryMethods(Methods):
    """Read from the database of the service, never from the storage itself."""

    @listing
    def backends(self) -> Query[Backend]:
        """The configured backends."""
        return Query(BACKEND, "/v1/backends", paged=False)

    @listing
    def volumes(
        self,
        backend: str,
        *,
        state: str | Sequence[str] = (),
        prefix: str | None = None,
        junction_path: str | None = None,
    ) -> Query[Volume]:
        """A backend's volumes by name; ``prefix``: those whose names begin so.

        ``junction_path``: the one that is mounted there.
        """
        return Query(
            VOLUME,
            path_to("backends", backend, "volumes"),
            given(state=state or None, prefix=prefix, junction_path=junction_path),
        )

    @listing
    def snapshots(self, backend: str, volume: str) -> Query[Snapshot]:
        """A volume's snapshots, oldest first."""
        return Query(SNAPSHOT, _volume(backend, volume, "snapshots"))

    @listing
    def attachments(self, backend: str, volume: str) -> Query[Attachment]:
        """The hosts a volume is attached to."""
        return Query(ATTACHMENT, _volume(backend, volume, "attachments"), paged=False)

    @operation
    def attachment(self, backend: str, volume: str, host: str) -> Steps[Attachment]:
        """How a volume is attached to a host. Raises `NotAttached`."""
        answer = yield _get(_volume(backend, volume, "attachments", host))
        return self._read(ATTACHMENT, answer.body)

    @listing
    def locks(
        self, *, backend: str | None = None, volume: str | None = None, owner: str | None = None
    ) -> Query[HeldLock]:
        """The locks that are held, by backend and volume; ``owner``: by this host."""
        return Query(HELD_LOCK, "/v1/locks", given(backend=backend, volume=volume, owner=owner))

    @operation
    def lock(self, backend: str, volume: str) -> Steps[Lock]:
        """The lock on a volume. Raises `NotFound` if there is none."""
        answer = yield _get(_volume(backend, volume, "lock"))
        return self._read(LOCK, answer.body)

    @operation
    def take_lock(
        self,
        backend: str,
        volume: str,
        owner: str,
        *,
        seconds: float | None = None,
        reason: str | None = None,
    ) -> Steps[Lock]:
        """Take the lock on a volume for host ``owner``, or renew it; at once.

        It expires after ``seconds``; without, never. Raises `Locked` if another host has it.
        """
        wanted = {"owner": owner, "seconds": seconds, "reason": reason}
        answer = yield Request(
            method="PUT",
            path=_volume(backend, volume, "lock"),
            json={name: value for name, value in wanted.items() if value is not None},
            repeatable=True,
        )
        return self._read(LOCK, answer.body)

    @operation
    def release_lock(self, backend: str, volume: str, owner: str) -> Steps[None]:
        """Release the lock of host ``owner``, at once; nothing happens if there is none.

        Raises `Locked` if another host has it.
        """
        yield Request(
            method="DELETE",
            path=_volume(backend, volume, "lock"),
            params=given(owner=owner),
            repeatable=True,
        )

    @operation
    def break_lock(self, backend: str, volume: str, reason: str) -> Steps[None]:
        """Break the lock on a volume, whoever has it. Needs the role admin.

        Never sent twice: by then another host may have the lock.
        """
        yield Request(
            method="DELETE",
            path=_volume(backend, volume, "lock"),
            params=given(force=True, reason=reason),
        )


def _volume(backend: str, volume: str, *further: str) -> str:
    return path_to("backends", backend, "volumes", volume, *further)


def _get(path: str) -> Request:
    return Request(method="GET", path=path, repeatable=True)
