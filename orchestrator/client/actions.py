"""What there is of each kind of resource, and what can be done to it, as methods of the client.

This module is made from the declarations by `make docs`; a test keeps it current.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Self, TypedDict, Unpack

from orchestrator.client.binding import listing, operation
from orchestrator.client.kinds import Kind
from orchestrator.client.listings import Query
from orchestrator.client.methods import Methods
from orchestrator.client.rooms import C, Room
from orchestrator.client.steps import Steps, path_to

if TYPE_CHECKING:
    from orchestrator.contract.inventory import Backend, Policy, Snapshot, Volume
    from orchestrator.contract.jobs import Job


class Options(TypedDict, total=False):
    """What may be said of any job, whatever its action."""

    #: -20 is first, 19 last.
    priority: int
    #: Not before this time (RFC 3339, with its zone).
    run_at: datetime | str | None
    #: Ids of jobs, or refs of the same batch, that must succeed first.
    depends_on: Sequence[int | str]
    #: It begins only once an administrator has approved it. Some actions always need that.
    approval: bool | None
    #: Attempts before a temporary error ends the job.
    max_attempts: int | None
    #: Why; kept in the history.
    reason: str | None
    #: Whether a destructive job runs only if the unfinished jobs before it on the volume
    #: succeed, or in any case once they have ended.
    after: Literal["success", "end"]
    #: Seconds to wait for the end of the job; it is returned as it is by then.
    wait: float | None
    #: The same key again submits nothing; without one, each call has its own.
    idempotency_key: str | None


class NewVolumeSettings(TypedDict, total=False):
    """The same of a volume to be made."""

    #: Whether the volume grows automatically as it fills.
    autosize_enabled: bool | None
    #: The largest size it may grow to; required for it to grow.
    autosize_max_bytes: int | str | None
    #: How much of the volume is reserved for its snapshots.
    snapshot_reserve_percent: int | None
    #: Compress data already written.
    compression: bool | None
    #: Compress data being written.
    inline_compression: bool | None
    #: How the storage caches it, in the storage's own terms.
    caching_policy: str | None
    #: Where it is mounted in the backend's name space.
    junction_path: str | None
    #: The aggregate to create it on; the emptiest if absent.
    aggregate: str | None


class VolumeSettings(TypedDict, total=False):
    """How a volume behaves, and where it is found; what is absent stays as it is."""

    #: Whether the volume grows automatically as it fills.
    autosize_enabled: bool | None
    #: The largest size it may grow to; required for it to grow.
    autosize_max_bytes: int | str | None
    #: How much of the volume is reserved for its snapshots.
    snapshot_reserve_percent: int | None
    #: Compress data already written.
    compression: bool | None
    #: Compress data being written.
    inline_compression: bool | None
    #: How the storage caches it, in the storage's own terms.
    caching_policy: str | None
    #: Where it is mounted in the backend's name space.
    junction_path: str | None


class VolumeActions(Room[C]):
    """Read a volume, or act on it: each action submits a job."""

    @operation
    def get(self, backend: str, name: str) -> Steps[Volume]:
        """Read a volume. Raises `UnknownVolume`."""
        return self._get(Kind("inventory", "Volume"), path_to("backends", backend, "volumes", name))

    @operation
    def create(
        self,
        backend: str,
        name: str,
        *,
        policy: str | None = None,
        host: str | None = None,
        size: int | str,
        metadata: Mapping[str, str] | None = None,
        parameters: Mapping[str, str] | None = None,
        settings: NewVolumeSettings | None = None,
        **options: Unpack[Options],
    ) -> Steps[Job]:
        """Create an empty volume.

        ``size``: size of the volume; rounded up to the backend's grain.
        ``metadata``: texts by key, stored with the volume.
        ``parameters``: the volume's own values for parameters of the backend ('backend show' lists
            them).
        ``settings``: settings that differ from the defaults.
        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "volume.create",
            {"backend": backend, "volume": name, "policy": policy, "host": host},
            {"size": size, "metadata": metadata, "parameters": parameters, "settings": settings},
            options,
        )

    @operation
    def clone(
        self,
        backend: str,
        name: str,
        *,
        snapshot: str | None = None,
        host: str | None = None,
        source: str,
        size: int | str | None = None,
        metadata: Mapping[str, str] | None = None,
        parameters: Mapping[str, str] | None = None,
        **options: Unpack[Options],
    ) -> Steps[Job]:
        """Create a volume with the contents of another, or of one of its snapshots.

        ``source``: the volume to clone.
        ``size``: size of the clone, at least the source's; the source's if absent.
        ``metadata``: texts by key; the source's if absent, none with {}.
        ``parameters``: the volume's own values for parameters of the backend ('backend show' lists
            them); the source's if absent.
        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "volume.clone",
            {"backend": backend, "volume": name, "snapshot": snapshot, "host": host},
            {"source": source, "size": size, "metadata": metadata, "parameters": parameters},
            options,
        )

    @operation
    def copy(
        self,
        backend: str,
        name: str,
        *,
        snapshot: str | None = None,
        host: str | None = None,
        source: str,
        source_backend: str,
        size: int | str | None = None,
        metadata: Mapping[str, str] | None = None,
        parameters: Mapping[str, str] | None = None,
        **options: Unpack[Options],
    ) -> Steps[Job]:
        """Create a volume with the contents of one on another backend.

        ``source``: the volume to copy.
        ``source_backend``: the backend that has it.
        ``size``: size of the copy, at least the source's; the source's if absent.
        ``metadata``: texts by key; the source's if absent, none with {}.
        ``parameters``: the volume's own values for parameters of the backend ('backend show' lists
            them).
        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "volume.copy",
            {"backend": backend, "volume": name, "snapshot": snapshot, "host": host},
            {
                "source": source,
                "source_backend": source_backend,
                "size": size,
                "metadata": metadata,
                "parameters": parameters,
            },
            options,
        )

    @operation
    def import_(
        self,
        backend: str,
        name: str,
        *,
        host: str | None = None,
        image: str,
        size: int | str | None = None,
        sha256: str | None = None,
        format: Literal["raw"] | None = None,
        metadata: Mapping[str, str] | None = None,
        parameters: Mapping[str, str] | None = None,
        **options: Unpack[Options],
    ) -> Steps[Job]:
        """Create a volume with the contents of an image in a file or at a URL.

        ``image``: path of a file on the worker's host, or a URL (http, https), within what
            'transfer' in the configuration allows.
        ``size``: size of the volume, at least the image's, padded with zeroes; the image's if
            absent.
        ``sha256``: the expected SHA-256 of the image; otherwise the volume is not created. Any
            notation of checksum files: in capitals, after 'sha256:', before the file name.
        ``format``: 'raw': take the bytes as they are, even if they are in another format (qcow2,
            VMDK …), compressed, an archive, text or empty, which is refused otherwise.
        ``metadata``: texts by key, stored with the volume.
        ``parameters``: the volume's own values for parameters of the backend ('backend show' lists
            them).
        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "volume.import",
            {"backend": backend, "volume": name, "host": host},
            {
                "image": image,
                "size": size,
                "sha256": sha256,
                "format": format,
                "metadata": metadata,
                "parameters": parameters,
            },
            options,
        )

    @operation
    def export(
        self,
        backend: str,
        name: str,
        *,
        snapshot: str | None = None,
        host: str | None = None,
        target: str,
        **options: Unpack[Options],
    ) -> Steps[Job]:
        """Write the contents of a volume, or of one of its snapshots, to a new file.

        ``target``: path of the new file on the worker's host, within what 'transfer' in the
            configuration allows. Nothing is overwritten.
        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "volume.export",
            {"backend": backend, "volume": name, "snapshot": snapshot, "host": host},
            {"target": target},
            options,
        )

    @operation
    def grow(
        self,
        backend: str,
        name: str,
        *,
        host: str | None = None,
        size: int | str,
        **options: Unpack[Options],
    ) -> Steps[Job]:
        """Grow a volume.

        ``size``: the new size, never a difference; above the current size.
        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "volume.grow",
            {"backend": backend, "volume": name, "host": host},
            {"size": size},
            options,
        )

    @operation
    def update(
        self,
        backend: str,
        name: str,
        *,
        host: str | None = None,
        metadata: Mapping[str, str | None] | None = None,
        settings: VolumeSettings | None = None,
        **options: Unpack[Options],
    ) -> Steps[Job]:
        """Change a volume's metadata or settings.

        ``metadata``: entries to set; null removes an entry.
        ``settings``: settings to change.
        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "volume.update",
            {"backend": backend, "volume": name, "host": host},
            {"metadata": metadata, "settings": settings},
            options,
        )

    @operation
    def set_info(
        self,
        backend: str,
        name: str,
        *,
        host: str | None = None,
        info: str,
        **options: Unpack[Options],
    ) -> Steps[Job]:
        """Store a text with a volume on behalf of another system.

        ``info``: kept in the volume's metadata under 'info' (Ganeti: VOL_METADATA).
        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "volume.set_info",
            {"backend": backend, "volume": name, "host": host},
            {"info": info},
            options,
        )

    @operation
    def rename(
        self,
        backend: str,
        name: str,
        *,
        host: str | None = None,
        new_name: str,
        **options: Unpack[Options],
    ) -> Steps[Job]:
        """Rename a volume.

        ``new_name``: the new name, which must be free.
        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "volume.rename",
            {"backend": backend, "volume": name, "host": host},
            {"new_name": new_name},
            options,
        )

    @operation
    def rollback(
        self,
        backend: str,
        name: str,
        snapshot: str,
        *,
        host: str | None = None,
        discard_newer: bool = False,
        **options: Unpack[Options],
    ) -> Steps[Job]:
        """Roll a volume back to a snapshot.

        ``discard_newer``: also delete the snapshots that are newer than this one.
        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "volume.rollback",
            {"backend": backend, "volume": name, "snapshot": snapshot, "host": host},
            {"discard_newer": discard_newer},
            options,
        )

    @operation
    def wipe(
        self,
        backend: str,
        name: str,
        *,
        host: str | None = None,
        offset: int | str = 0,
        length: int | str | None = None,
        **options: Unpack[Options],
    ) -> Steps[Job]:
        """Overwrite a volume, or a part of it, with zeroes.

        ``offset``: where to begin.
        ``length``: how much to overwrite; everything up to the end if absent.
        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "volume.wipe",
            {"backend": backend, "volume": name, "host": host},
            {"offset": offset, "length": length},
            options,
        )

    @operation
    def trim(
        self, backend: str, name: str, *, host: str | None = None, **options: Unpack[Options]
    ) -> Steps[Job]:
        """Give blocks that hold only zeroes back to the storage; the contents stay the same.

        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "volume.trim", {"backend": backend, "volume": name, "host": host}, {}, options
        )

    @operation
    def restrict(
        self, backend: str, name: str, *, host: str | None = None, **options: Unpack[Options]
    ) -> Steps[Job]:
        """Hide a volume and keep its data.

        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "volume.restrict", {"backend": backend, "volume": name, "host": host}, {}, options
        )

    @operation
    def unrestrict(
        self, backend: str, name: str, *, host: str | None = None, **options: Unpack[Options]
    ) -> Steps[Job]:
        """Make a hidden volume visible again.

        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "volume.unrestrict", {"backend": backend, "volume": name, "host": host}, {}, options
        )

    @operation
    def remove(
        self,
        backend: str,
        name: str,
        *,
        host: str | None = None,
        wipe: bool = False,
        **options: Unpack[Options],
    ) -> Steps[Job]:
        """Remove a volume and its data.

        ``wipe``: overwrite the data with zeroes first.
        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "volume.remove",
            {"backend": backend, "volume": name, "host": host},
            {"wipe": wipe},
            options,
        )

    @operation
    def purge(
        self,
        backend: str,
        name: str,
        *,
        host: str | None = None,
        wipe: bool = False,
        **options: Unpack[Options],
    ) -> Steps[Job]:
        """Remove a restricted volume and its data.

        ``wipe``: overwrite the data with zeroes first.
        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "volume.purge",
            {"backend": backend, "volume": name, "host": host},
            {"wipe": wipe},
            options,
        )

    @operation
    def forget(
        self,
        backend: str,
        name: str,
        *,
        host: str | None = None,
        lost: bool = False,
        force: bool = False,
        **options: Unpack[Options],
    ) -> Steps[Job]:
        """Delete a volume's record without touching the storage.

        ``lost``: only if the volume is proved to be gone; refused if it is there, or if this kind
            of storage cannot prove it.
        ``force``: even while it is attached: the device stays, without a record.
        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "volume.forget",
            {"backend": backend, "volume": name, "host": host},
            {"lost": lost, "force": force},
            options,
        )

    @operation
    def adopt(
        self,
        backend: str,
        name: str,
        *,
        host: str | None = None,
        take_over: bool = False,
        **options: Unpack[Options],
    ) -> Steps[Job]:
        """Take a foreign volume on the storage into the inventory.

        ``take_over``: even if it bears a stamp of ours that belongs to no volume of the inventory:
            it was forgotten, or the inventory was lost.
        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "volume.adopt",
            {"backend": backend, "volume": name, "host": host},
            {"take_over": take_over},
            options,
        )

    @operation
    def reconcile(
        self,
        backend: str,
        name: str,
        *,
        host: str | None = None,
        what: Sequence[Literal["size", "metadata", "settings", "policy", "snapshots"]],
        **options: Unpack[Options],
    ) -> Steps[Job]:
        """Update a volume's record to what the storage has.

        ``what``: 'size', 'metadata', 'settings', 'policy' (the assigned one), 'snapshots' (drop the
            records of missing ones, record those that bear a stamp of ours).
        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "volume.reconcile",
            {"backend": backend, "volume": name, "host": host},
            {"what": what},
            options,
        )

    @operation
    def recreate(
        self, backend: str, name: str, *, host: str | None = None, **options: Unpack[Options]
    ) -> Steps[Job]:
        """Recreate, empty, a volume whose storage is lost; drop its snapshots' records.

        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "volume.recreate", {"backend": backend, "volume": name, "host": host}, {}, options
        )

    @operation
    def remove_orphan(
        self,
        backend: str,
        name: str,
        *,
        host: str | None = None,
        finding: int,
        **options: Unpack[Options],
    ) -> Steps[Job]:
        """Remove what is left on the storage of a volume that the inventory has removed.

        ``finding``: the number of an open finding of the kind 'orphan', older than the grace time,
            about a volume that the inventory had removed.
        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "volume.remove_orphan",
            {"backend": backend, "volume": name, "host": host},
            {"finding": finding},
            options,
        )

    @operation
    def break_lock(
        self,
        backend: str,
        name: str,
        *,
        host: str | None = None,
        owner: str | None = None,
        taken_at: str | None = None,
        **options: Unpack[Options],
    ) -> Steps[Job]:
        """Break the lock on a volume, whoever holds it.

        ``owner``: the host that holds it; any host, if absent.
        ``taken_at``: when it was taken, as 'lock show' prints it.
        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "volume.break_lock",
            {"backend": backend, "volume": name, "host": host},
            {"owner": owner, "taken_at": taken_at},
            options,
        )

    @operation
    def verify(
        self, backend: str, name: str, *, host: str | None = None, **options: Unpack[Options]
    ) -> Steps[Job]:
        """Compare a volume's record with the storage; one in error may become available again.

        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "volume.verify", {"backend": backend, "volume": name, "host": host}, {}, options
        )

    @operation
    def attach(
        self,
        backend: str,
        name: str,
        *,
        host: str,
        read_only: bool = False,
        **options: Unpack[Options],
    ) -> Steps[Job]:
        """Attach a volume to a host.

        ``read_only``: refuse writes through this attachment.
        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "volume.attach",
            {"backend": backend, "volume": name, "host": host},
            {"read_only": read_only},
            options,
        )

    @operation
    def detach(
        self,
        backend: str,
        name: str,
        *,
        host: str,
        force: bool = False,
        fenced: bool = False,
        **options: Unpack[Options],
    ) -> Steps[Job]:
        """Detach a volume from a host.

        ``force``: forget the attachment of a host that is dead; needs a reason and 'fenced'.
        ``fenced``: confirms that the dead host can no longer write.
        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "volume.detach",
            {"backend": backend, "volume": name, "host": host},
            {"force": force, "fenced": fenced},
            options,
        )

    @operation
    def open(
        self,
        backend: str,
        name: str,
        *,
        host: str,
        exclusive: bool = False,
        **options: Unpack[Options],
    ) -> Steps[Job]:
        """Let a host use an attached volume.

        ``exclusive``: no other host may have it open at the same time.
        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "volume.open",
            {"backend": backend, "volume": name, "host": host},
            {"exclusive": exclusive},
            options,
        )

    @operation
    def close(
        self, backend: str, name: str, *, host: str, **options: Unpack[Options]
    ) -> Steps[Job]:
        """End a host's use of an attached volume.

        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "volume.close", {"backend": backend, "volume": name, "host": host}, {}, options
        )

    @operation
    def client_locks(
        self, backend: str, name: str, *, host: str | None = None, **options: Unpack[Options]
    ) -> Steps[Job]:
        """List the locks that the storage's clients hold in a volume.

        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "volume.client_locks", {"backend": backend, "volume": name, "host": host}, {}, options
        )


class SnapshotActions(Room[C]):
    """Read a snapshot, or act on it: each action submits a job."""

    @operation
    def get(self, backend: str, volume: str, name: str) -> Steps[Snapshot]:
        """Read a snapshot. Raises `UnknownSnapshot`."""
        return self._get(
            Kind("inventory", "Snapshot"),
            path_to("backends", backend, "volumes", volume, "snapshots", name),
        )

    @operation
    def create(
        self,
        backend: str,
        volume: str,
        name: str,
        *,
        host: str | None = None,
        **options: Unpack[Options],
    ) -> Steps[Job]:
        """Snapshot the current contents of a volume.

        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "snapshot.create",
            {"backend": backend, "volume": volume, "snapshot": name, "host": host},
            {},
            options,
        )

    @operation
    def delete(
        self,
        backend: str,
        volume: str,
        name: str,
        *,
        host: str | None = None,
        **options: Unpack[Options],
    ) -> Steps[Job]:
        """Delete a snapshot.

        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "snapshot.delete",
            {"backend": backend, "volume": volume, "snapshot": name, "host": host},
            {},
            options,
        )


class PolicyActions(Room[C]):
    """Read an export policy, or act on it: each action submits a job."""

    @operation
    def get(self, backend: str, name: str) -> Steps[Policy]:
        """Read an export policy. Raises `UnknownPolicy`."""
        return self._get(
            Kind("inventory", "Policy"), path_to("backends", backend, "policies", name)
        )

    @operation
    def create(
        self,
        backend: str,
        name: str,
        *,
        host: str | None = None,
        rules: Sequence[str] | None = None,
        **options: Unpack[Options],
    ) -> Steps[Job]:
        """Create an export policy.

        ``rules``: the rules in order; without any, nobody is admitted.
        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "policy.create",
            {"backend": backend, "policy": name, "host": host},
            {"rules": rules},
            options,
        )

    @operation
    def remove(
        self, backend: str, name: str, *, host: str | None = None, **options: Unpack[Options]
    ) -> Steps[Job]:
        """Remove an export policy that no volume has.

        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "policy.remove", {"backend": backend, "policy": name, "host": host}, {}, options
        )

    @operation
    def add_rule(
        self,
        backend: str,
        name: str,
        *,
        host: str | None = None,
        rule: str,
        **options: Unpack[Options],
    ) -> Steps[Job]:
        """Add a rule at the end of an export policy, unless it is there.

        ``rule``: a client (address, network, host name if the backend supports it), followed by
            '(ro)' if it may only read.
        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "policy.add_rule",
            {"backend": backend, "policy": name, "host": host},
            {"rule": rule},
            options,
        )

    @operation
    def remove_rule(
        self,
        backend: str,
        name: str,
        *,
        host: str | None = None,
        rule: str,
        **options: Unpack[Options],
    ) -> Steps[Job]:
        """Remove a rule from an export policy, if it is there.

        ``rule``: a client (address, network, host name if the backend supports it), followed by
            '(ro)' if it may only read.
        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "policy.remove_rule",
            {"backend": backend, "policy": name, "host": host},
            {"rule": rule},
            options,
        )

    @operation
    def set_rules(
        self,
        backend: str,
        name: str,
        *,
        host: str | None = None,
        rules: Sequence[str],
        **options: Unpack[Options],
    ) -> Steps[Job]:
        """Replace the rules of an export policy.

        ``rules``: the rules in order; without any, nobody is admitted.
        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "policy.set_rules",
            {"backend": backend, "policy": name, "host": host},
            {"rules": rules},
            options,
        )

    @operation
    def assign(
        self,
        backend: str,
        volume: str,
        name: str | None = None,
        *,
        host: str | None = None,
        **options: Unpack[Options],
    ) -> Steps[Job]:
        """Assign an export policy to a volume, or remove its own if none is named.

        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "policy.assign",
            {"backend": backend, "volume": volume, "policy": name, "host": host},
            {},
            options,
        )

    @operation
    def reapply(
        self, backend: str, name: str, *, host: str | None = None, **options: Unpack[Options]
    ) -> Steps[Job]:
        """Write the recorded rules of an export policy to the storage again.

        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "policy.reapply", {"backend": backend, "policy": name, "host": host}, {}, options
        )

    @operation
    def verify(
        self, backend: str, name: str, *, host: str | None = None, **options: Unpack[Options]
    ) -> Steps[Job]:
        """Compare an export policy with the storage; one in error takes the storage's rules.

        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "policy.verify", {"backend": backend, "policy": name, "host": host}, {}, options
        )


class BackendActions(Room[C]):
    """Read a backend, or act on it: each action submits a job."""

    @operation
    def get(self, name: str) -> Steps[Backend]:
        """Read a backend. Raises `UnknownBackend`."""
        return self._get(Kind("inventory", "Backend"), path_to("backends", name))

    @operation
    def refresh(
        self, name: str, *, host: str | None = None, **options: Unpack[Options]
    ) -> Steps[Job]:
        """Read the capacity of a backend and the usage of its volumes again.

        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit("backend.refresh", {"backend": name, "host": host}, {}, options)

    @operation
    def verify(
        self,
        name: str,
        *,
        host: str | None = None,
        accept_identity: bool = False,
        **options: Unpack[Options],
    ) -> Steps[Job]:
        """Check that a backend is reachable and bears its identity marker.

        ``accept_identity``: accept the existing marker as this backend's own, or write one if there
            is none. Only after you have made sure that it is the right storage.
        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit(
            "backend.verify",
            {"backend": name, "host": host},
            {"accept_identity": accept_identity},
            options,
        )

    @operation
    def audit(
        self, name: str, *, host: str | None = None, **options: Unpack[Options]
    ) -> Steps[Job]:
        """Compare the storage of a backend with the inventory; write findings.

        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit("backend.audit", {"backend": name, "host": host}, {}, options)

    @operation
    def recount(
        self, name: str, *, host: str | None = None, **options: Unpack[Options]
    ) -> Steps[Job]:
        """Recount what a backend has promised.

        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit("backend.recount", {"backend": name, "host": host}, {}, options)

    @operation
    def diagnose(
        self, name: str, *, host: str | None = None, **options: Unpack[Options]
    ) -> Steps[Job]:
        """Report for everything that could serve a backend whether it can, and why not.

        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit("backend.diagnose", {"backend": name, "host": host}, {}, options)

    @operation
    def drain(
        self, name: str, *, host: str | None = None, **options: Unpack[Options]
    ) -> Steps[Job]:
        """Drain a backend: finish running jobs, start no others.

        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit("backend.drain", {"backend": name, "host": host}, {}, options)

    @operation
    def resume(
        self, name: str, *, host: str | None = None, **options: Unpack[Options]
    ) -> Steps[Job]:
        """Resume a draining backend.

        ``host``: the host on which, or on whose behalf, it is done.
        """
        return self._submit("backend.resume", {"backend": name, "host": host}, {}, options)


class ResourceMethods(Methods):
    """The methods of each kind of resource, and those that list resources."""

    @cached_property
    def volume(self) -> VolumeActions[Self]:
        """Read a volume, or act on it."""
        return VolumeActions(self)

    @cached_property
    def snapshot(self) -> SnapshotActions[Self]:
        """Read a snapshot, or act on it."""
        return SnapshotActions(self)

    @cached_property
    def policy(self) -> PolicyActions[Self]:
        """Read an export policy, or act on it."""
        return PolicyActions(self)

    @cached_property
    def backend(self) -> BackendActions[Self]:
        """Read a backend, or act on it."""
        return BackendActions(self)

    @listing
    def policies(self, backend: str) -> Query[Policy]:
        """A backend's export policies by name."""
        return Query(Kind("inventory", "Policy"), path_to("backends", backend, "policies"))
