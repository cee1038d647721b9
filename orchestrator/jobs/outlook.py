"""What there will be: the inventory, with the unfinished jobs of the lanes played forward."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, func, or_, select

from orchestrator.domain.actions import ACTIONS, Action
from orchestrator.domain.errors import UnknownBackend
from orchestrator.domain.requests import MAX_ID
from orchestrator.domain.states import JobState, SnapshotState, VolumeState
from orchestrator.jobs.lanes import lanes_of
from orchestrator.store.bulk import among
from orchestrator.store.columns import db_now
from orchestrator.store.tables import (
    attachments,
    backends,
    job_lanes,
    jobs,
    locks,
    promises,
    snapshots,
    volumes,
)

#: The backends with what they have promised, and the turn of the job that is next there.
_BACKENDS = select(
    backends,
    func.coalesce(
        select(promises.c.promised_bytes)
        .where(promises.c.backend_id == backends.c.id)
        .scalar_subquery(),
        0,
    ).label("promised_bytes"),
    func.coalesce(
        select(jobs.c.turn)
        .where(jobs.c.state == JobState.QUEUED, jobs.c.queue == "backend." + backends.c.name)
        .order_by(jobs.c.priority, jobs.c.turn, jobs.c.id)
        .limit(1)
        .scalar_subquery(),
        0,
    ).label("turn"),
)


@dataclass(frozen=True)
class Intent:
    """One action on one target: what a request asks for, or a stored job."""

    action: Action
    backend: str
    volume: str | None
    snapshot: str | None
    host: str | None
    params: Mapping[str, Any]
    reason: str | None = None
    volume_id: str | None = None
    snapshot_id: str | None = None
    source_id: str | None = None


@dataclass
class SnapshotOutlook:
    """A snapshot as it will be. Later ones come later in their volume's dict."""

    id: str
    name: str
    size_bytes: int
    state: SnapshotState = SnapshotState.AVAILABLE


@dataclass
class AttachmentOutlook:
    """A host's attachment as it will be."""

    device: str | None
    boot_id: str | None
    read_only: bool
    opening: str | None


@dataclass
class VolumeOutlook:
    """A volume as it will be."""

    id: str
    name: str
    state: VolumeState
    size_bytes: int
    metadata: dict[str, str] = field(default_factory=dict)
    snapshots: dict[str, SnapshotOutlook] = field(default_factory=dict)
    attachments: dict[str, AttachmentOutlook] = field(default_factory=dict)
    lock_owner: str | None = None
    created_by_job: int | None = None


@dataclass
class BackendOutlook:
    """A backend, and the room promised on it so far."""

    id: int
    name: str
    driver: str
    state: str
    configured: bool
    capabilities: frozenset[str] | None
    total_bytes: int | None
    grain_bytes: int
    overcommit: float
    identity: str | None
    identity_written: bool
    #: Sum of live sizes and of what unfinished jobs will add, the present ones included.
    promised_bytes: int
    #: The turn that workers are at in the backend's queue.
    turn: int

    @property
    def limit_bytes(self) -> int | None:
        """The most it may promise; None: no limit is known."""
        return None if self.total_bytes is None else int(self.total_bytes * self.overcommit)


class Outlook:
    """Backends and volumes, by name, as they will be when the jobs ahead have succeeded."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.backends: dict[str, BackendOutlook] = {}
        self.volumes: dict[tuple[str, str], VolumeOutlook] = {}
        #: Ids of unfinished jobs that block their lane, by lane, in order.
        self.ahead: dict[str, list[int]] = defaultdict(list)
        #: The last of them that itself runs only if all before it succeed.
        self.gates: dict[str, int] = {}
        #: Jobs with a start time ahead, by lane.
        self._later: dict[str, list[tuple[datetime, int, Intent]]] = defaultdict(list)

    # -- reading --------------------------------------------------------------------------

    def backend(self, name: str) -> BackendOutlook:
        """The backend. Raises `UnknownBackend`."""
        found = self.backends.get(name)
        if found is None or not found.configured:
            raise UnknownBackend(
                f"there is no backend {name!r}; 'orchestrator backend list' shows those there are",
                field="backend",
            )
        return found

    def volume(self, backend: str, name: str) -> VolumeOutlook | None:
        """The live volume of this name, if there will be one."""
        return self.volumes.get((backend, name))

    # -- loading --------------------------------------------------------------------------

    def load_backends(self, names: Iterable[str]) -> None:
        """Read the backends of these names that are not read yet."""
        wanted = set(names) - self.backends.keys()
        if wanted:
            self._load_backends(backends.c.name.in_(wanted))

    def load_backends_by_id(self, ids: Iterable[int]) -> None:
        """Read the backends with these ids."""
        self._load_backends(backends.c.id.in_(set(ids)))

    def _load_backends(self, condition: ColumnElement[bool]) -> None:
        for row in self._connection.execute(_BACKENDS.where(condition)).mappings():
            known = row["capabilities"]
            self.backends[row["name"]] = BackendOutlook(
                id=row["id"],
                name=row["name"],
                driver=row["driver"],
                state=row["state"],
                configured=row["configured"],
                capabilities=None if known is None else frozenset(known),
                total_bytes=row["total_bytes"],
                grain_bytes=row["grain_bytes"] or 1,
                overcommit=row["overcommit"],
                identity=row["identity"],
                identity_written=row["identity_written"],
                promised_bytes=row["promised_bytes"],
                turn=row["turn"],
            )

    def load_volumes(
        self, targets: Iterable[tuple[str, str]], *, own_jobs: frozenset[int] = frozenset()
    ) -> None:
        """Read the live volumes of these (backend, name) pairs as they are now.

        Volumes and snapshots that ``own_jobs`` are about to make do not count as there.
        """
        names: dict[int, set[str]] = defaultdict(set)
        for in_backend, name in targets:
            if in_backend in self.backends:
                names[self.backends[in_backend].id].add(name)
        if not names:
            return
        backend_names = {backend.id: backend.name for backend in self.backends.values()}
        by_id: dict[str, VolumeOutlook] = {}
        for row in self._connection.execute(
            select(
                *(volumes.c.backend_id, volumes.c.id, volumes.c.name, volumes.c.state),
                *(volumes.c.size_bytes, volumes.c.metadata, volumes.c.created_by_job),
            ).where(
                or_(
                    *(
                        and_(
                            volumes.c.backend_id == backend_id,
                            among(self._connection, volumes.c.name, sorted(wanted)),
                        )
                        for backend_id, wanted in names.items()
                    )
                ),
                volumes.c.state != VolumeState.REMOVED,
            )
        ):
            if row.state == VolumeState.PENDING and row.created_by_job in own_jobs:
                continue
            self.volumes[backend_names[row.backend_id], row.name] = by_id[row.id] = VolumeOutlook(
                id=row.id,
                name=row.name,
                state=VolumeState(row.state),
                size_bytes=row.size_bytes,
                metadata=dict(row.metadata),
                created_by_job=row.created_by_job,
            )
        if by_id:
            self._load_parts(by_id, own_jobs)

    def _load_parts(self, by_id: dict[str, VolumeOutlook], own_jobs: frozenset[int]) -> None:
        ids = list(by_id)
        here = self._connection
        for row in here.execute(
            select(snapshots)
            .where(among(here, snapshots.c.volume_id, ids), snapshots.c.removed_at.is_(None))
            .order_by(snapshots.c.created_at, snapshots.c.id)
        ).mappings():
            if row["state"] == "pending" and row["created_by_job"] in own_jobs:
                continue
            by_id[row["volume_id"]].snapshots[row["name"]] = SnapshotOutlook(
                id=row["id"],
                name=row["name"],
                size_bytes=row["size_bytes"],
                state=SnapshotState(row["state"]),
            )
        for row in here.execute(
            select(attachments).where(among(here, attachments.c.volume_id, ids))
        ).mappings():
            by_id[row["volume_id"]].attachments[row["host"]] = AttachmentOutlook(
                device=row["device"],
                boot_id=row["boot_id"],
                read_only=row["read_only"],
                opening=row["opening"],
            )
        for row in here.execute(
            select(locks).where(
                among(here, locks.c.volume_id, ids),
                or_(locks.c.expires_at.is_(None), locks.c.expires_at > db_now()),
            )
        ).mappings():
            by_id[row["volume_id"]].lock_owner = row["owner"]

    def load_ahead(self, lanes: Iterable[str]) -> list[tuple[int, Intent]]:
        """The unfinished jobs of these lanes in the order they will run.

        Also those of the lanes that these jobs hold besides, and so on: what comes of a clone
        or a rename depends on them. Jobs that block nobody (not begun, start time ahead) are
        kept for `due_by`.
        """
        found: dict[int, Intent] = {}
        late: set[int] = set()
        loaded: set[str] = set()
        wanted = set(lanes)
        while wanted:
            intents = self._load_lanes(sorted(wanted), found, late)
            loaded |= wanted
            wanted = {
                lane
                for one in intents
                for lane in lanes_of(one.action, one.backend, one.volume, one.params)
            } - loaded
        return [(job_id, found[job_id]) for job_id in sorted(found) if job_id not in late]

    def forget_ahead(self) -> None:
        """Drop what `load_ahead` has read, to read it again."""
        self.ahead.clear()
        self.gates.clear()
        self._later.clear()

    def _load_lanes(
        self, lanes: list[str], found: dict[int, Intent], late: set[int]
    ) -> list[Intent]:
        """Read the jobs of some lanes; those that were not known before."""
        here = self._connection
        rows = here.execute(
            select(
                job_lanes.c.lane,
                jobs,
                or_(jobs.c.begun, jobs.c.not_before.is_(None), jobs.c.not_before <= db_now()).label(
                    "blocks"
                ),
            )
            .join(jobs, jobs.c.id == job_lanes.c.job_id)
            .where(among(here, job_lanes.c.lane, lanes))
            .order_by(jobs.c.id)
        ).mappings()
        names = {backend.id: backend.name for backend in self.backends.values()}
        new: list[Intent] = []
        for row in rows:
            job_id = row["id"]
            if job_id not in found:
                found[job_id] = intent_of(row, names.get(row["backend_id"], ""))
                new.append(found[job_id])
            if row["blocks"]:
                self.ahead[row["lane"]].append(job_id)
                if row["after"] == "success" and found[job_id].action.destructive:
                    self.gates[row["lane"]] = job_id
            else:
                late.add(job_id)
                self._later[row["lane"]].append((row["not_before"], job_id, found[job_id]))
        return new

    def add_later(self, lanes: Iterable[str], moment: datetime, intent: Intent) -> None:
        """Note a job of the present submission that will begin at ``moment``."""
        for lane in lanes:
            self._later[lane].append((moment, MAX_ID, intent))

    def restore(self, kept: Mapping[tuple[str, str], VolumeOutlook | None]) -> None:
        """Put volumes back to what they were before jobs were played forward."""
        for key, volume in kept.items():
            if volume is None:
                self.volumes.pop(key, None)
            else:
                self.volumes[key] = volume

    def due_by(self, lanes: Iterable[str], moment: datetime) -> list[Intent]:
        """The jobs of these lanes that will begin by ``moment``, in the order of their times."""
        found = [entry for lane in lanes for entry in self._later[lane] if entry[0] <= moment]
        unique = {id(intent): (when, job_id, intent) for when, job_id, intent in found}
        return [
            intent
            for _, _, intent in sorted(unique.values(), key=lambda entry: (entry[0], entry[1]))
        ]


def intent_of(row: RowMapping, backend: str) -> Intent:
    """The intent of a stored job; ``row`` has the columns of `jobs`."""
    return Intent(
        action=ACTIONS[row["action"]],
        backend=backend,
        volume=row["volume"],
        snapshot=row["snapshot"],
        host=row["host"],
        params=row["params"],
        reason=row["reason"],
        volume_id=row["volume_id"],
        snapshot_id=row["snapshot_id"],
        source_id=row["source_id"],
    )
