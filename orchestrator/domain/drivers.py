"""What is known of a driver without importing it: what it can do, and which options it takes.

A host that only serves the API has none of the drivers' libraries; it checks submissions
against the drivers' specs, and against what a worker has since recorded for the backend.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from orchestrator.domain.exports import ClientKind

#: The settings of volumes on NAS filers.
NAS_SETTINGS = frozenset(
    {
        "snapshot_reserve_percent",
        "compression",
        "inline_compression",
        "caching_policy",
        "junction_path",
        "aggregate",
    }
)


class DriverOptions(BaseModel):
    """The options of a backend that belong to its driver."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: The options that are names with values of the storage's own; a value may be a secret.
    of_parameters: ClassVar[frozenset[str]] = frozenset()


class Reach(Enum):
    """On which hosts a volume can be used once a worker has attached it."""

    #: On every host of the backend: any of its workers may attach it for any of them.
    BACKEND = "backend"
    #: On the worker's own host alone, so the job must travel there.
    HOST = "host"


@dataclass(frozen=True, kw_only=True)
class DriverSpec:
    """A driver, as far as one can know it from outside."""

    #: As it is used in the configuration.
    name: str
    #: Its class, a subclass of `workers.backends.base.driver.Driver`: ``module:Class``.
    target: str
    #: Those that its class has: what inherits an ability has its capability.
    capabilities: frozenset[str]
    options: type[DriverOptions]
    #: Storage is taken as it is written, so more may be promised than there is.
    thin: bool
    #: How many times its capacity a thin backend may promise, unless configured.
    overcommit: float
    #: How many quick jobs a worker claims at once.
    group: int
    reach: Reach
    #: The settings of volumes that the storage has itself, besides those that all have.
    settings: frozenset[str] = frozenset()
    #: How export rules may name clients.
    clients: frozenset[ClientKind] = frozenset()
