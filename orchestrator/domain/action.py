"""What an action is: its declaration, and the rule that goes with it.

The actions themselves are in `orchestrator.actions`, a module for each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import AliasChoices, ConfigDict
from pydantic.fields import FieldInfo

from orchestrator.domain.exact import Exact
from orchestrator.domain.states import Role
from orchestrator.domain.targets import COLUMNS, TargetRole

if TYPE_CHECKING:
    from orchestrator.domain.outlook import Intent, Outlook


class Need(StrEnum):
    """Whether an action names a thing of this kind."""

    NO = "no"
    OPTIONAL = "optional"
    REQUIRED = "required"


@dataclass(frozen=True)
class Takes:
    """That an action names an object of this kind, in this role."""

    kind: str
    need: Need = Need.REQUIRED
    role: TargetRole = TargetRole.SUBJECT


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
    NAMED = "named"  # the object of the action's kind, if that is no volume
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


#: The kinds whose number quotas limit.
_COUNTED = ("volume", "snapshot")


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
    #: What it names: first what it changes, unless that is what it makes.
    takes: tuple[Takes, ...] = (Takes("volume"),)
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
        """The kind of object that its name begins with; ``backend`` for a backend itself."""
        return self.name.partition(".")[0]

    @cached_property
    def subject(self) -> str:
        """The kind of what it makes, or else changes: a volume before its export policy."""
        if self.creates or not self.takes:
            return self.kind
        return self.takes[0].kind

    @cached_property
    def needs(self) -> Mapping[str, Need]:
        """Whether a request names an object of a kind, or a host, by the field for it."""
        needs = {one.kind: one.need for one in self.takes}
        return defaultdict(lambda: Need.NO, needs, host=self.host)

    @cached_property
    def others(self) -> tuple[Takes, ...]:
        """What it names besides a volume and a snapshot."""
        return tuple(one for one in self.takes if one.kind not in COLUMNS)

    @cached_property
    def assigned(self) -> tuple[str, ...]:
        """The kinds of what it gives a volume."""
        return tuple(one.kind for one in self.takes if one.role is TargetRole.ASSIGNED)

    @cached_property
    def roles(self) -> Mapping[str, TargetRole]:
        """The role of what it names, by kind."""
        return {one.kind: one.role for one in self.takes}

    @cached_property
    def made(self) -> str | None:
        """The kind of object of which there is one more once it is done, if there is."""
        return self.kind if self.creates or self.adopts else None

    @cached_property
    def adds(self) -> bool:
        """Whether an account may have more of anything once it is done."""
        return self.made in _COUNTED or self.checks.room is not None

    @property
    def cancelable(self) -> bool:
        """Whether it may be canceled at any safe point, also once storage was touched."""
        return self.creates or self.stoppable

    @cached_property
    def verb(self) -> str:
        """The part after the dot."""
        return self.name.partition(".")[2]
