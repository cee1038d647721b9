"""What there will be: the inventory, with the unfinished jobs of the lanes played forward."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from orchestrator.domain.action import Action
from orchestrator.domain.exports import Rule
from orchestrator.domain.installed import DRIVERS
from orchestrator.domain.lanes import lanes_of
from orchestrator.domain.names import MAX_ID
from orchestrator.domain.nearest import no_such_backend
from orchestrator.domain.places import Places
from orchestrator.domain.states import PolicyState, SnapshotState, VolumeState
from orchestrator.domain.targets import COLUMNS, KINDS, Target, TargetRole


@dataclass(frozen=True)
class Intent:
    """One action on its targets: what a request asks for, or a stored job."""

    action: Action
    backend: str
    volume: str | None
    snapshot: str | None
    host: str | None
    params: Mapping[str, Any]
    reason: str | None = None
    volume_id: str | None = None
    snapshot_id: str | None = None
    #: What it is about besides its volume and its snapshot, which nearly every job has.
    others: tuple[Target, ...] = ()
    #: Whose storage it makes, or adds to.
    account: str | None = None
    #: Only ``host`` can do it as things are: that one alone may write to what is read.
    only_there: bool = False

    @property
    def lanes(self) -> list[str]:
        """The lanes it holds."""
        named = self.name_of(self.action.kind)
        return lanes_of(self.action, self.backend, self.volume, named, self.params)

    def name_of(self, kind: str) -> str | None:
        """The name of what it is about of this kind, if it names one."""
        if kind in COLUMNS:
            name: str | None = getattr(self, kind)
            return name
        other = self._other(kind)
        return None if other is None else other.name

    def id_of(self, kind: str) -> str | None:
        """The id of what it is about of this kind, if that is known."""
        if kind in COLUMNS:
            id_: str | None = getattr(self, COLUMNS[kind])
            return id_
        other = self._other(kind)
        return None if other is None else other.id

    def _other(self, kind: str) -> Target | None:
        for one in self.others:
            if one.kind == kind:
                return one
        return None

    @property
    def policy(self) -> str | None:
        """The export policy that it names, if it names one."""
        return self.name_of("policy")

    @property
    def policy_id(self) -> str | None:
        """The id of that."""
        return self.id_of("policy")

    @property
    def source_id(self) -> str | None:
        """The id of the volume that is cloned or copied, if one is."""
        return next((one.id for one in self.others if one.role == TargetRole.SOURCE), None)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that it gives a volume."""
        return self.params.get("settings") or {}

    @property
    def junction(self) -> tuple[str, str] | None:
        """The backend and the junction path that it gives a volume, if it does."""
        path = self.settings.get("junction_path")
        return None if path is None else (self.backend, path)

    @property
    def export_policy(self) -> tuple[str, str] | None:
        """The backend and the name of the policy that it is about, if it is about one."""
        policy = self.policy
        return None if policy is None else (self.backend, policy)


@dataclass
class SnapshotOutlook:
    """A snapshot as it will be. Later ones come later in their volume's dict."""

    id: str
    name: str
    size_bytes: int
    state: SnapshotState = SnapshotState.AVAILABLE
    #: As the storage tells it; None where it does not, or not yet.
    position: int | None = None


@dataclass
class AttachmentOutlook:
    """A host's attachment as it will be."""

    device: str | None
    boot_id: str | None
    read_only: bool
    opening: str | None
    #: Nobody knows whether it is there: an attach may have taken effect.
    possible: bool = False


@dataclass
class PolicyOutlook:
    """An export policy as it will be."""

    #: The id that storage is stamped with; and its row's, once it has one.
    id: str
    row_id: int | None
    name: str
    rules: tuple[Rule, ...]
    state: PolicyState = PolicyState.AVAILABLE
    #: Whether its recorded rules can be read.
    readable: bool = True
    native: str | None = None
    #: Names of volumes that will have it, by id: not all, if they are very many.
    used_by: dict[str, str] = field(default_factory=dict)
    #: Unfinished jobs that will give it to volumes.
    given_by: list[int] = field(default_factory=list)


@dataclass
class VolumeOutlook:
    """A volume as it will be."""

    id: str
    name: str
    state: VolumeState
    size_bytes: int
    metadata: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    #: The name of its export policy.
    policy: str | None = None
    snapshots: dict[str, SnapshotOutlook] = field(default_factory=dict)
    attachments: dict[str, AttachmentOutlook] = field(default_factory=dict)
    lock_owner: str | None = None
    created_by_job: int | None = None
    #: Whose it is.
    account: str | None = None


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
    #: The lease on its storage, and the one that is about to follow.
    leases: tuple[str | None, str | None]
    #: Sum of live sizes and of what unfinished jobs will add, the present ones included.
    promised_bytes: int
    #: How many of its jobs may run at once; None: as many as workers have places for.
    max_jobs: int | None = None
    #: What its volumes may have values of their own for; None: not known yet.
    parameters: frozenset[str] | None = None

    @property
    def known_capabilities(self) -> frozenset[str]:
        """What a worker found it can do, or what its driver can at best."""
        return DRIVERS[self.driver].capabilities if self.capabilities is None else self.capabilities

    @property
    def limit_bytes(self) -> int | None:
        """The most it may promise; None: no limit is known."""
        return None if self.total_bytes is None else int(self.total_bytes * self.overcommit)


@dataclass
class QuotaOutlook:
    """The most that an account may have on a backend, and what it will have.

    All three by what is counted: ``bytes``, ``volumes``, ``snapshots``.
    """

    limits: Mapping[str, int]
    #: What there is.
    used: Mapping[str, int]
    #: What unfinished jobs will add, the present ones included.
    promised: dict[str, int]


class Outlook:
    """Backends and volumes, by name, as they will be when the jobs ahead have succeeded.

    `orchestrator.jobs.loading` fills it, `orchestrator.actions.rules` plays jobs forward on it.
    """

    def __init__(self) -> None:
        #: All that are configured, to name the one that may have been meant.
        self.names_of_backends: Callable[[], Iterable[str]] = tuple
        self.backends: dict[str, BackendOutlook] = {}
        #: Whether new jobs are taken.
        self.accepting = True
        self.volumes: dict[tuple[str, str], VolumeOutlook] = {}
        #: What there will be of kinds that are no part of volumes, by kind, backend and name.
        self.named: dict[str, dict[tuple[str, str], Any]] = {kind: {} for kind in KINDS}
        #: Which volume (id) is at a junction path, of those paths that were asked for.
        self.junctions: dict[tuple[str, str], str] = {}
        #: Whether anybody has a quota; and those that these jobs may touch, by account and backend.
        self.quotas_set = False
        self.quotas: dict[tuple[str, str], QuotaOutlook] = {}
        #: Ids of unfinished jobs that block their lane, by lane, in order.
        self.ahead: dict[str, list[int]] = defaultdict(list)
        #: The last of them that itself runs only if all before it succeed.
        self.gates: dict[str, int] = {}
        #: Where images may be read from and written to; None: that is not for us to check.
        self.places: Places | None = None
        #: Jobs with a start time ahead, by lane.
        self.later: dict[str, list[tuple[datetime, int, Intent]]] = defaultdict(list)

    @property
    def policies(self) -> dict[tuple[str, str], PolicyOutlook]:
        """The export policies, by backend and name."""
        return self.named["policy"]

    def backend(self, name: str) -> BackendOutlook:
        """The backend. Raises `UnknownBackend`."""
        found = self.backends.get(name)
        if found is None or not found.configured:
            raise no_such_backend(name, self.names_of_backends())
        return found

    def volume(self, backend: str, name: str) -> VolumeOutlook | None:
        """The live volume of this name, if there will be one."""
        return self.volumes.get((backend, name))

    def add_later(self, lanes: Iterable[str], moment: datetime, intent: Intent) -> None:
        """Note a job of the present submission that will begin at ``moment``."""
        for lane in lanes:
            self.later[lane].append((moment, MAX_ID, intent))

    def keep(self, volumes: Iterable[tuple[str, str]]) -> Callable[[], None]:
        """What puts these volumes, and all that are no part of one, back to what they are now."""
        kept = {key: deepcopy(self.volumes.get(key)) for key in volumes}
        named = deepcopy(self.named)
        junctions = dict(self.junctions)

        def restore() -> None:
            for key, volume in kept.items():
                if volume is None:
                    self.volumes.pop(key, None)
                else:
                    self.volumes[key] = volume
            self.named, self.junctions = named, junctions

        return restore

    def due_by(self, lanes: Iterable[str], moment: datetime) -> list[Intent]:
        """The jobs of these lanes that will begin by ``moment``, in the order of their times."""
        found = [entry for lane in lanes for entry in self.later[lane] if entry[0] <= moment]
        unique = {id(intent): (when, job_id, intent) for when, job_id, intent in found}
        return [
            intent
            for _, _, intent in sorted(unique.values(), key=lambda entry: (entry[0], entry[1]))
        ]
