"""What an action is: its declaration, and the rule that goes with it.

The actions themselves are in `orchestrator.actions`, a module for each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import AliasChoices, ConfigDict
from pydantic.fields import FieldInfo

from orchestrator.domain.exact import Exact
from orchestrator.domain.states import Role

if TYPE_CHECKING:
    from orchestrator.domain.outlook import Intent, Outlook


class Need(StrEnum):
    """Whether an action names a thing of this kind."""

    NO = "no"
    OPTIONAL = "optional"
    REQUIRED = "required"


class Params(Exact):
    """The parameters of an action; one that is not declared is refused."""

    model_config = ConfigDict(frozen=True)


class NoParams(Params):
    """This action takes no parameters."""


def written_names(own_name: str, info: FieldInfo) -> tuple[str, ...]:
    """The names under which a parameter may be written, shortest first."""
    alias = info.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    names = {own_name, *(choice for choice in choices if isinstance(choice, str))}
    return tuple(sorted(names, key=len))


class Lane(StrEnum):
    """Which names an action must have to itself while it runs."""

    VOLUME = "volume"
    SOURCE = "source"  # params.source, on params.source_backend if there is that
    NEW_NAME = "new_name"  # params.new_name
    JUNCTION = "junction"  # params.settings.junction_path, if there is one
    POLICY = "policy"
    BACKEND = "backend"  # the backend's own state
    AUDIT = "audit"  # what audits of the backend write


def source_of(backend: str, params: Mapping[str, Any]) -> tuple[str, str] | None:
    """The backend and the name of the volume that is cloned or copied, if one is."""
    name = params.get("source")
    return None if name is None else (params.get("source_backend", backend), name)


Check = Callable[["Outlook", "Intent"], None]


def nothing(_outlook: Outlook, _intent: Intent) -> None:
    """For actions that need nothing more, or leave nothing behind."""


@dataclass(frozen=True, kw_only=True)
class Checks:
    """What one action needs, what it leaves, and how much room it will take.

    A check raises the `Problem` that names the field at fault and the remedy; it runs at
    submission against the outlook, and again at execution against what is there. An effect
    plays a successful job forward on the outlook.
    """

    check: Check = nothing
    effect: Check = nothing
    #: The bytes that it will take up; None: it takes up none.
    room: Callable[[Outlook, Intent], int] | None = None
    #: What somebody who reads a plan would not expect.
    notes: Callable[[Outlook, Intent], list[str]] = lambda _outlook, _intent: []


@dataclass(frozen=True, kw_only=True)
class Action:
    """One thing that can be done to storage."""

    name: str
    #: Where help and documents list it: numbers go up, and no two actions have the same.
    order: int
    #: One line for the command line's help and the API's pages.
    summary: str
    #: What history says of it once done; formatted with the job's fields.
    audit: str
    checks: Checks
    params: type[Params] = NoParams
    role: Role = Role.OPERATOR
    volume: Need = Need.REQUIRED
    snapshot: Need = Need.NO
    policy: Need = Need.NO
    host: Need = Need.NO
    #: The names held while the job is unfinished; an action without lanes only reads.
    lanes: tuple[Lane, ...] = (Lane.VOLUME,)
    #: What the driver must be able to do; None: the inventory alone is concerned.
    capability: str | None = None
    #: Refused while another host holds the volume's lock.
    respects_lock: bool = False
    #: Runs only if the unfinished jobs before it in its lane succeed.
    destructive: bool = False
    #: Makes something new, which is taken away again if the job fails or is canceled.
    creates: bool = False
    #: Takes into the inventory what is on the storage; that stays, whatever becomes of the job.
    adopts: bool = False
    #: What it is about is not in the inventory any more once it is done.
    removes: bool = False
    #: The volume may no longer have its export policy and its junction path once it is done.
    frees: bool = False
    #: Can be stopped anywhere: what was done until then stays, and is told.
    stoppable: bool = False
    #: Must run on the job's host.
    on_host: bool = False
    #: A person has to approve each job before it begins.
    approval: bool = False
    #: Leaves files on the host, whatever the backend: it is done on one host from the beginning.
    leaves_files: bool = False
    #: Reads a volume that may be in use (of a clone its source): where another host may write to
    #: it meanwhile, only that one can read it whole.
    reads_in_use: bool = False
    #: May take long even on a quick backend: claimed alone, not in a group.
    slow: bool = False
    #: Seconds that one attempt may take.
    time_limit: float = 3600.0
    #: Runs whatever the backend's state, on the queue that every worker serves.
    administrative: bool = False
    #: A schedule may have it done, with any parameters except those that only a person may give.
    schedulable: bool = False
    by_hand: tuple[str, ...] = ()
    #: The storage is asked, so its marker is checked first; one that does not need it concerns
    #: the inventory alone, or checks the marker in its own way.
    needs_storage: bool = True
    #: Writes down what it is about to change before it does; one that does not reads, or changes
    #: the inventory alone.
    journaled: bool = True
    #: Method and path below ``/v1/backends/{backend}``.
    route: tuple[str, str]

    @cached_property
    def kind(self) -> str:
        """``volume``, ``snapshot``, ``policy`` or ``backend``."""
        return self.name.partition(".")[0]

    @cached_property
    def subject(self) -> str:
        """The kind of what it makes, or else changes: a volume before its export policy."""
        if self.creates:
            return self.kind
        if self.volume is not Need.NO:
            return "volume"
        return "backend" if self.policy is Need.NO else "policy"

    @cached_property
    def makes_volume(self) -> bool:
        """Whether there is a volume more once it is done."""
        return self.kind == "volume" and (self.creates or self.adopts)

    @cached_property
    def makes_snapshot(self) -> bool:
        """Whether there is a snapshot more once it is done."""
        return self.kind == "snapshot" and self.creates

    @cached_property
    def adds(self) -> bool:
        """Whether an account may have more of anything once it is done."""
        return self.makes_volume or self.makes_snapshot or self.checks.room is not None

    @cached_property
    def gives_policy(self) -> bool:
        """Whether a volume may have the export policy that it names once it is done."""
        return self.volume is not Need.NO and self.policy is not Need.NO

    @property
    def cancelable(self) -> bool:
        """Whether it may be canceled at any safe point, also once storage was touched."""
        return self.creates or self.stoppable

    @cached_property
    def verb(self) -> str:
        """The part after the dot."""
        return self.name.partition(".")[2]
