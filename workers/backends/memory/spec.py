"""What is known of the `memory` driver without importing it."""

from __future__ import annotations

from pydantic import Field

from orchestrator.domain.drivers import NAS_SETTINGS, DriverOptions, DriverSpec, Reach
from orchestrator.domain.exports import ClientKind
from orchestrator.domain.sizes import Size


class MemoryOptions(DriverOptions):
    """Options of the ``memory`` driver."""

    capacity: Size = Field(default=2**50, description="How much the backend pretends to hold.")
    delay: float = Field(default=0.0, ge=0, le=3600, description="Seconds each change takes.")
    filer_address: str = Field(
        default="memory", description="Where hosts would mount its volumes from."
    )


SPEC = DriverSpec(
    name="memory",
    target="workers.backends.memory.driver:MemoryDriver",
    capabilities=frozenset(
        {
            *("create", "import", "export", "clone", "grow", "metadata", "rename", "rollback"),
            *("wipe", "remove", "inspect", "snapshot", "attach", "attach_read_only", "open"),
            *("adopt", "trim", "policy", "absence"),
        }
    ),
    options=MemoryOptions,
    thin=True,
    overcommit=20.0,
    group=200,
    reach=Reach.BACKEND,
    settings=NAS_SETTINGS,
    clients=frozenset(ClientKind),
)
