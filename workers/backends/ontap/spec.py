"""What is known of the `ontap` driver without importing it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from orchestrator.domain.drivers import NAS_SETTINGS, DriverOptions, DriverSpec, Reach
from orchestrator.domain.exports import ClientKind


class OntapOptions(DriverOptions):
    """Options of the ``ontap`` driver."""

    hostname: str = Field(
        pattern=r"^[A-Za-z0-9.:\[\]_-]+$", description="The cluster's or the SVM's management LIF."
    )
    port: int | None = Field(default=None, ge=1, le=65535, description="Default: 443.")
    username: str = Field(min_length=1, description="A user that may manage the SVM.")
    password: SecretStr = Field(description="Given as { env = … } or { file = … }.")
    vserver: str = Field(min_length=1, description="The SVM whose volumes these are.")
    timeout: float = Field(
        default=4.0, gt=0, le=600, description="Seconds that the filer may take to answer."
    )
    verify: bool | Path = Field(
        default=True,
        description="Whether the filer's certificate is checked; a path: against these "
        "authorities.",
    )
    scheme: Literal["https", "http"] = Field(
        default="https", description="'http' sends the password in the clear: for tests alone."
    )
    filer_address: str | None = Field(
        default=None,
        description="Where hosts mount volumes from; default: the SVM's first data LIF for NFS.",
    )
    aggregates: tuple[str, ...] = Field(
        default=(),
        description="The aggregates that new volumes may be on; default: any but aggr0*.",
    )
    poll: float = Field(
        default=0.5, gt=0, le=60, description="Seconds between looks at a job of the filer."
    )
    patience: float = Field(
        default=5.0,
        ge=0,
        le=600,
        description="Seconds for which a worker waits for a job of the filer; then it does "
        "something else and comes back.",
    )


SPEC = DriverSpec(
    name="ontap",
    target="workers.backends.ontap.driver:OntapDriver",
    capabilities=frozenset(
        {
            *("create", "clone", "grow", "metadata", "rename", "rollback", "remove"),
            *("adopt", "inspect", "snapshot", "policy", "client_locks", "absence"),
        }
    ),
    options=OntapOptions,
    thin=True,
    overcommit=20.0,
    group=4,
    reach=Reach.BACKEND,
    # REST reports the caching policy of a volume and cannot set it.
    settings=NAS_SETTINGS - {"caching_policy"} | {"autosize_enabled", "autosize_max_bytes"},
    clients=frozenset(ClientKind) - {ClientKind.PATTERN},
)
