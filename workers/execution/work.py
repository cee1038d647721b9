"""One attempt at one job: what handlers and drivers may use."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import structlog
from sqlalchemy import or_, select, union_all

from orchestrator import failpoints
from orchestrator.actions.volume.clone import own_metadata, own_parameters
from orchestrator.domain.drivers import Reach
from orchestrator.domain.errors import BackendUnavailable, IdentityMismatch, InUse, Outage
from orchestrator.domain.installed import DRIVERS
from orchestrator.domain.outlook import VolumeOutlook
from orchestrator.domain.states import SnapshotState, VolumeState
from orchestrator.jobs.claim import (
    Claim,
    Step,
    write_step,
)
from orchestrator.jobs.rates import take_allowance
from orchestrator.machine import boot_id
from orchestrator.resources.changes import Change
from orchestrator.resources.volume.changes import Attached, set_volume, settings_columns
from orchestrator.settings import AuditSettings, TransferSettings
from orchestrator.store.conditions import live
from orchestrator.store.database import Database
from orchestrator.store.tables import job_attempts, jobs, policies, workers
from workers.backends.base.call import Call
from workers.backends.base.commands import Kept, Ran
from workers.backends.base.driver import Driver
from workers.backends.base.facts import Device, SnapshotFacts, VolumeFacts
from workers.backends.base.references import PolicyRef, SnapshotRef, VolumeRef
from workers.leases import LeaseLost, Leases, RunningJob
from workers.storage_leases import StorageLeases

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a handler achieved."""

    result: dict[str, Any] = field(default_factory=dict)
    changes: Sequence[Change] = ()
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None


@dataclass(frozen=True)
class Here:
    """What all jobs of a worker process share."""

    host: str
    database: Database
    leases: Leases
    storage: StorageLeases
    #: By the backend's id; and, where there is a limit, the seconds between two attempts at
    #: an action there.
    drivers: Mapping[int, Driver]
    intervals: Mapping[int, Mapping[str, float]]
    transfer: TransferSettings
    audit: AuditSettings
    #: The backends that are known to be out of reach from here.
    away: Mapping[int, Outage]


class Work:
    """One attempt. Also the `Call` that drivers receive."""

    def __init__(self, held: RunningJob, here: Here) -> None:
        self.claim: Claim = held.claim
        self.intent = held.claim.intent
        self.driver = self._watched(here.drivers[self.claim.backend_id])
        self.here = here
        self.host = here.host
        self.database = here.database
        self._held = held
        self._leases = here.leases
        self._steps = list(held.claim.steps)
        self.undo: Undo | None = None
        #: Whether the storage may have been touched on behalf of this job, ever.
        self.touched = held.claim.touched
        #: Whether this attempt may have.
        self.began = False
        self._kept = Kept()

    # -- what drivers see -----------------------------------------------------------------

    @property
    def job_id(self) -> int:
        """The job."""
        return self.claim.job_id

    @property
    def token(self) -> str:
        """The job, as no other database and no other life of this one names any of its own."""
        return self.claim.token

    @property
    def fence(self) -> int:
        """The claim's fencing number."""
        return self.claim.fence

    @property
    def alone(self) -> bool:
        """Whether it is known that no other host has done anything for this job."""
        return self.claim.claims == 1 or self.only_here(self.job_id)

    def only_here(self, job_id: int) -> bool:
        """Whether it is known that a job had its claims on this host alone."""
        # This worker may not be in the list of workers yet; others are forgotten after a while.
        ours = union_all(
            select(workers.c.id).where(workers.c.host == self.host),
            select(jobs.c.worker).where(jobs.c.id == self.job_id, jobs.c.worker.is_not(None)),
        )
        attempts = select(job_attempts.c.job_id).where(job_attempts.c.job_id == job_id)
        elsewhere = or_(job_attempts.c.worker.is_(None), job_attempts.c.worker.not_in(ours))
        with self.database.read() as transaction:
            known = transaction.execute(attempts.limit(1)).first() is not None
            return known and transaction.execute(attempts.where(elsewhere).limit(1)).first() is None

    def too_early(self) -> float:
        """Seconds until the rate of such jobs allows another attempt."""
        claim = self.claim
        interval = self.here.intervals.get(claim.backend_id, {}).get(claim.action.name)
        if interval is None:
            return 0.0
        return self.database.transact(
            lambda transaction: take_allowance(
                transaction,
                backend_id=claim.backend_id,
                action=claim.action.name,
                job_id=claim.job_id,
                interval=interval,
            )
        )

    def checkpoint(self) -> None:
        """Raise if the work must stop here."""
        self._leases.check(self._held)

    def progress(self, done: int, total: int, unit: str = "bytes") -> None:
        """Note how far it has come; the next heartbeat tells it."""
        self._held.progress = {"done": done, "total": total, "unit": unit}

    def seconds_left(self) -> float:
        """Time until the deadline."""
        return max(0.0, self._held.deadline - time.monotonic())

    def ran(self, ran: Ran) -> None:
        """Keep what a command said with the job."""
        self._kept.add(ran)

    @property
    def output(self) -> list[dict[str, Any]]:
        """What the commands of this attempt have said."""
        return self._kept.told()

    # -- the journal ----------------------------------------------------------------------

    def intend(self, name: str, **detail: Any) -> Step:
        """Commit that this is about to be done; the step of an earlier attempt if it was.

        The last safe point of a change of what exists: from here on it is finished. Raises
        `Locked` if another host has taken the volume's lock meanwhile.
        """
        self.checkpoint()
        return self.note(name, **detail)

    def note(self, name: str, **detail: Any) -> Step:
        """Commit a line of the journal, unless it was written before."""
        if (written := self.intended(name)) is not None:
            self._held.cancelable = self.claim.action.cancelable
            return written
        step = Step(len(self._steps) + 1, name, "intended", detail)
        self._write(step)
        self._steps.append(step)
        self.touched = self.began = True
        self._held.cancelable = self.claim.action.cancelable
        return step

    def heed_no_cancel(self) -> None:
        """From here on a cancel stops nothing: what has become of the job is being found out."""
        self._held.cancelable = False

    @property
    def journaled(self) -> bool:
        """Whether anything was written down for this job."""
        return bool(self._steps)

    def intended(self, name: str) -> Step | None:
        """The step of this name, if it was ever intended."""
        return next((step for step in self._steps if step.name == name), None)

    @property
    def steps(self) -> Sequence[Step]:
        """All that was written down, by earlier attempts too."""
        return self._steps

    def _write(self, step: Step) -> None:
        if not self.database.transact(
            lambda transaction: write_step(transaction, self.claim, step)
        ):
            raise LeaseLost
        failpoints.reach("journal.after_commit", action=self.claim.action.name)

    # -- what the job is about ------------------------------------------------------------

    @property
    def volume(self) -> VolumeRef:
        """The target volume."""
        assert self.intent.volume is not None and self.intent.volume_id is not None  # noqa: S101
        recorded = self.claim.volume
        if recorded is not None:
            return _ref(self.intent.volume_id, recorded)
        return VolumeRef(
            self.intent.volume_id,
            self.intent.volume,
            parameters=own_parameters(self.intent, self.claim.source),
            settings=self.intent.settings,
            policy=self.policy if self.intent.policy is not None else None,
        )

    @property
    def policy(self) -> PolicyRef:
        """The export policy: the target, or what the target is to have."""
        assert self.intent.policy is not None and self.intent.policy_id is not None  # noqa: S101
        recorded = self.claim.policy
        native = recorded.native if recorded else None
        return PolicyRef(self.intent.policy_id, self.intent.policy, native)

    @property
    def snapshot(self) -> SnapshotRef:
        """The snapshot of the target, or for a clone of its source."""
        assert self.intent.snapshot is not None and self.intent.snapshot_id is not None  # noqa: S101
        cloned = "source" in self.intent.params
        record = self.claim.source if cloned else self.claim.volume
        known = None if record is None else record.snapshots.get(self.intent.snapshot)
        size = None
        if known is not None and known.id == self.intent.snapshot_id:
            # What is being made, or was lost in the making, has the size that it was to get.
            size = known.size_bytes if known.state is SnapshotState.AVAILABLE else None
        of = self.source if cloned else self.volume
        return SnapshotRef(self.intent.snapshot_id, self.intent.snapshot, of, size)

    @property
    def source(self) -> VolumeRef:
        """The source of a clone or copy."""
        assert self.intent.source_id is not None  # noqa: S101
        recorded = self.claim.source
        if recorded is not None:
            return _ref(self.intent.source_id, recorded)
        return VolumeRef(self.intent.source_id, self.intent.params["source"])

    @property
    def source_driver(self) -> Driver:
        """The driver of the backend that the source of a copy is on, whose marker is right.

        Raises `BackendUnavailable` where this worker does not serve that backend.
        """
        backend = self.claim.source_backend
        assert backend is not None  # noqa: S101 - the rule has checked it
        driver = self.here.drivers.get(backend.id)
        if driver is None:
            raise BackendUnavailable(
                f"the worker on {self.host} that serves backend {self.intent.backend} does not "
                f"serve backend {backend.name}, so it cannot read there: have one host serve both "
                "(see 'hosts' in the configuration)"
            )
        self._refuse_away(backend.id)
        _check_identity(driver, backend.name, backend.identity, backend.identity_written)
        self.here.storage.check(backend.id, backend.leases)
        return self._watched(driver)

    def _watched(self, driver: Driver) -> Driver:
        return failpoints.watched(driver, action=self.claim.action.name)

    def check_identity(self) -> None:
        """Raise `IdentityMismatch` unless the storage bears this backend's marker, and the lease
        of this database.

        Raises `Outage` if it cannot be reached, or is known to be out of reach.
        """
        claim = self.claim
        self._refuse_away(claim.backend_id)
        _check_identity(self.driver, self.intent.backend, claim.identity, claim.identity_written)
        self.here.storage.check(claim.backend_id, claim.leases)

    def _refuse_away(self, backend_id: int) -> None:
        """Ask no storage for each job that cannot be reached."""
        if (outage := self.here.away.get(backend_id)) is not None:
            raise Outage(outage.detail)


def _ref(id_: str, recorded: VolumeOutlook) -> VolumeRef:
    """What drivers are told of a recorded volume."""
    return VolumeRef(
        id_, recorded.name, recorded.size_bytes, recorded.parameters, recorded.settings
    )


def _check_identity(driver: Driver, backend: str, wanted: str | None, written: bool) -> None:
    """Raise `IdentityMismatch` unless the storage bears the marker that is known of a backend.

    Raises `Outage` where it bears none: what should be mounted there is not. Of storage that can
    bear none it is only seen that it is there.
    """
    found = driver.read_identity()
    if "identity" in driver.cannot_tell:
        if not written:
            # What is undone, and what is not, is decided by whether it was ever set up.
            raise BackendUnavailable(f"backend {backend} is being set up just now")
        return
    if found is None and (wanted is None or not written):
        raise Outage(
            f"backend {backend} has not been set up yet: 'orchestrator backend show {backend}' "
            "says what is wrong with it; its jobs wait"
        )
    if found is None:
        raise Outage(
            f"the storage of backend {backend} bears no identity marker: make sure that it is "
            "mounted. If it is new, an administrator can say so with 'orchestrator backend "
            f"verify {backend} accept_identity=true'"
        )
    if found != wanted:
        raise IdentityMismatch(
            f"the storage of backend {backend} bears the marker of another backend: is the right "
            "one mounted? Nothing was changed. If it is the right storage, an administrator can "
            f"say so with 'orchestrator backend verify {backend} accept_identity=true'"
        )
    if not written:
        raise BackendUnavailable(f"backend {backend} is being set up just now; it is tried again")


def sizes_of(facts: VolumeFacts) -> dict[str, Any]:
    """What results, records and history say of a volume's size."""
    return {"size_bytes": facts.size_bytes, "used_bytes": facts.used_bytes}


def positions(found: Sequence[SnapshotFacts]) -> list[int]:
    """What the record keeps of the order of a volume's snapshots, which are all of them.

    Storage that gives them no order of its own lists them oldest first.
    """
    orders = [one.order for one in found]
    return orders if all(orders) else [*range(1, len(orders) + 1)]


def recorded_volume(work: Work) -> VolumeOutlook:
    """The target as the inventory has it; the rules made sure that there is one."""
    assert work.claim.volume is not None  # noqa: S101
    return work.claim.volume


def recorded_source(work: Work) -> VolumeOutlook:
    """The source of a clone or copy as the inventory has it; the rules made sure of it, too."""
    assert work.claim.source is not None  # noqa: S101
    return work.claim.source


def built_policy(work: Work) -> PolicyRef:
    """The policy that the job makes, with the key that the storage has given it."""
    step = work.intended("built")
    return replace(work.policy, native=step.detail.get("native") if step else None)


def settings_found(
    facts: VolumeFacts, settings: Mapping[str, Any], asked: str | None = None
) -> dict[str, Any]:
    """What records say of a volume's settings and export: ``settings`` and what was found.

    A junction path that is neither recorded nor ``asked`` for was given to it by others, who may
    have taken it from a volume of ours: that is not recorded here.
    """
    if not settings and not facts.settings:
        return {} if facts.address is None else {"address": facts.address}
    found = {**settings, **facts.settings}
    recorded = settings.get("junction_path")
    if found.get("junction_path") not in (recorded, asked):
        found["junction_path"] = recorded
    return {
        **settings_columns({name: value for name, value in found.items() if value is not None}),
        "address": facts.address,
        "snapshot_reserve_used_percent": facts.snapshot_reserve_used_percent,
    }


def made(work: Work, facts: VolumeFacts) -> Done:
    """The target volume was made, and is like this."""
    volume, sizes = work.volume, sizes_of(facts)
    result = {"id": volume.id, **sizes}
    record = {**sizes, **settings_found(facts, volume.settings)}
    return Done(
        result=result,
        changes=[set_volume(volume.id, state=VolumeState.AVAILABLE, **record)],
        after={"state": VolumeState.AVAILABLE, **result},
    )


def made_of_source(work: Work, facts: VolumeFacts) -> Done:
    """The same of a clone or copy: also what it has of its source, and what it has not."""
    done, source = made(work, facts), recorded_source(work)
    told = {
        "metadata": own_metadata(work.intent, work.claim.source),
        "snapshots_not_copied": [*source.snapshots],
        # Some storage passes its own settings on to clones.
        "settings_not_copied": sorted(
            name for name, value in source.settings.items() if facts.settings.get(name) != value
        ),
        "policy_not_copied": None if facts.policy == source.policy else source.policy,
    }
    return replace(
        done,
        result={**done.result, **told},
        before={"metadata": source.metadata, "snapshots": [*source.snapshots]},
        after={**(done.after or {}), **told, "snapshots": []},
    )


def refuse_written_elsewhere(work: Work, volume: VolumeOutlook) -> None:
    """Raise `InUse` if another host may write to what is read here, which only it could see."""
    if work.intent.snapshot is not None and work.intent.action.kind != "snapshot":
        return
    if DRIVERS[work.claim.driver].reach is not Reach.HOST:
        return
    for host, attachment in sorted(volume.attachments.items()):
        if host != work.host and not attachment.read_only:
            raise InUse(
                f"volume {volume.name!r} is attached to {host}, which may write to it meanwhile, "
                f"and this worker runs on {work.host}: detach it first",
                hosts=[host],
            )


#: Takes away what an attempt has made.
Undo = Callable[[Work, Call], None]


def discard_volume(work: Work, call: Call) -> None:
    """Take away the volume that the job has made."""
    work.driver.discard(work.volume, call)


def attached_as(volume_id: str, host: str, device: Device) -> Attached:
    """The record of an attachment, as found on the host that this is."""
    told = {
        "device": device.path,
        "uris": list(device.uris),
        "read_only": device.read_only,
        "boot_id": boot_id(),
    }
    return Attached(volume_id, host, told)


def policy_named(work: Work, name: str) -> int | None:
    """The row of the export policy that the inventory has under this name on the backend."""
    with work.database.read() as transaction:
        found: int | None = transaction.execute(
            select(policies.c.id).where(
                policies.c.backend_id == work.claim.backend_id,
                policies.c.name == name,
                live(policies),
            )
        ).scalar()
    return found
