"""What the engine asks of each kind of thing that jobs make and change."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Protocol

from sqlalchemy import ColumnElement, Table, select

from orchestrator.contract.answers import Answer
from orchestrator.domain.outlook import Intent, Outlook, PolicyOutlook, VolumeOutlook
from orchestrator.domain.targets import COLUMNS
from orchestrator.resources.changes import Change
from orchestrator.store.asking import Question, one_of
from orchestrator.store.transaction import Transaction


class Named(Protocol):
    """A request, as far as it names resources."""

    @property
    def backend(self) -> str:
        """The backend."""

    def name_of(self, kind: str) -> str | None:
        """The name of what it is about of this kind, if it names one."""


class Making(Protocol):
    """A claimed job that is about to make something."""

    @property
    def job_id(self) -> int:
        """The job."""

    @property
    def backend_id(self) -> int:
        """The row of its backend."""

    @property
    def intent(self) -> Intent:
        """What it is to do."""

    @property
    def account(self) -> str | None:
        """Whose storage it makes."""

    @property
    def volume(self) -> VolumeOutlook | None:
        """The volume that it is about, if that is there."""

    @property
    def source(self) -> VolumeOutlook | None:
        """The volume that is cloned or copied, if one is."""

    @property
    def policy(self) -> PolicyOutlook | None:
        """The export policy that it names, if that is there."""


class Resource(ABC):
    """One kind of thing."""

    #: The first half of the names of its actions.
    kind: ClassVar[str]
    #: The field of `Intent` that says which one is meant.
    id_name: ClassVar[str]
    #: Its rows, and their column with that id.
    table: ClassVar[Table]
    key: ClassVar[ColumnElement[Any]]
    #: What of its jobs a retry by hand is bound to, if they make one: the very objects meant
    #: by the first.
    bound: ClassVar[tuple[str, ...]] = ()
    #: Which jobs have made those with these ids.
    makers: ClassVar[Question]

    def __init_subclass__(cls) -> None:
        cls.id_name = COLUMNS.get(cls.kind, f"{cls.kind}_id")
        table, key = cls.table, cls.key
        cls.makers = Question(select(table.c.created_by_job).where(one_of(key, "ids")))

    @abstractmethod
    def named(self, outlook: Outlook, request: Named, origin: VolumeOutlook | None) -> str | None:
        """The id of the one that a request means, if there will be one.

        ``origin`` is the volume whose snapshot is meant: the request's own, or its source.
        """

    @abstractmethod
    def load(
        self,
        transaction: Transaction,
        outlook: Outlook,
        intents: Sequence[Intent],
        own_jobs: frozenset[int],
        *,
        users: bool,
    ) -> None:
        """Load what these intents need to know of it, beside their volumes.

        Those volumes, with their snapshots, are loaded first (`resources.volume.loading`). What
        ``own_jobs`` are about to make does not count as there. ``users``: also which other
        unfinished jobs will use what these intents remove.
        """

    @abstractmethod
    def pending(self, making: Making, now: datetime) -> dict[str, Any]:
        """The row of one that is about to be made."""

    @abstractmethod
    def gone(self, id_: str) -> Change:
        """That it is not there any more."""

    @abstractmethod
    def unseen(self, intent: Intent, why: str, now: datetime) -> Sequence[Change]:
        """That nobody can tell the state of what a job is about: it is in error until seen."""


class Listed(ABC):
    """One that readers find by its name, below its backend.

    The routes that read it, the methods of the client and the commands are derived from this.
    """

    #: What readers get.
    answer: ClassVar[type[Answer]]

    @abstractmethod
    def listed(
        self, transaction: Transaction, backend: str, *, after: str | None, limit: int
    ) -> Sequence[Mapping[str, Any]]:
        """Those of a backend in the order of their names, above the name ``after``.

        Raises `UnknownBackend`.
        """

    @abstractmethod
    def shown(self, transaction: Transaction, backend: str, name: str) -> Mapping[str, Any]:
        """One of them. Raises `UnknownBackend`, and `NotFound` or one of its kind."""
