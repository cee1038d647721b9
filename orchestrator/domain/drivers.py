"""What each driver can do and which options it takes, known without importing it.

A host that only serves the API has none of the drivers' libraries; it checks submissions
against this table, and against what a worker has since recorded for the backend.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.domain.sizes import Size


class DriverOptions(BaseModel):
    """The options of a backend that belong to its driver."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MemoryOptions(DriverOptions):
    """Options of the ``memory`` driver."""

    capacity: Size = Field(default=2**50, description="How much the backend pretends to hold.")
    delay: float = Field(default=0.0, ge=0, le=3600, description="Seconds each change takes.")


class FileOptions(DriverOptions):
    """Options of the ``file`` driver."""

    path: Path = Field(description="The directory that holds the images.")


@dataclass(frozen=True, kw_only=True)
class DriverSpec:
    """A driver, as far as one can know it from outside."""

    name: str
    #: ``module:Class`` below ``workers.backends``.
    target: str
    capabilities: frozenset[str]
    options: type[DriverOptions]
    #: Storage is taken as it is written, so more may be promised than there is.
    thin: bool
    #: How many times its capacity a thin backend may promise, unless configured.
    overcommit: float
    #: How many quick jobs a worker claims at once.
    group: int
    #: Attaching takes effect on the worker's own host, so the job must travel there.
    attaches_locally: bool


_EVERYTHING = frozenset(
    {
        "create",
        "clone",
        "grow",
        "metadata",
        "rename",
        "rollback",
        "wipe",
        "remove",
        "inspect",
        "snapshot",
        "attach",
    }
)

#: Every driver by the name used in the configuration.
DRIVERS: dict[str, DriverSpec] = {
    spec.name: spec
    for spec in (
        DriverSpec(
            name="memory",
            target="workers.backends.memory:MemoryDriver",
            capabilities=_EVERYTHING,
            options=MemoryOptions,
            thin=True,
            overcommit=20.0,
            group=200,
            attaches_locally=False,
        ),
        DriverSpec(
            name="file",
            target="workers.backends.file:FileDriver",
            capabilities=_EVERYTHING,
            options=FileOptions,
            thin=True,
            overcommit=20.0,
            group=25,
            attaches_locally=True,
        ),
    )
}
