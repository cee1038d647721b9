"""What each driver can do and which options it takes, known without importing it.

A host that only serves the API has none of the drivers' libraries; it checks submissions
against this table, and against what a worker has since recorded for the backend.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from orchestrator.domain.exports import ClientKind
from orchestrator.domain.names import PROVIDER
from orchestrator.domain.sizes import Size


class DriverOptions(BaseModel):
    """The options of a backend that belong to its driver."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: The options that are names with values of the storage's own; a value may be a secret.
    of_parameters: ClassVar[frozenset[str]] = frozenset()


class MemoryOptions(DriverOptions):
    """Options of the ``memory`` driver."""

    capacity: Size = Field(default=2**50, description="How much the backend pretends to hold.")
    delay: float = Field(default=0.0, ge=0, le=3600, description="Seconds each change takes.")
    filer_address: str = Field(
        default="memory", description="Where hosts would mount its volumes from."
    )


class FileOptions(DriverOptions):
    """Options of the ``file`` driver."""

    path: Path = Field(description="The directory that holds the images.")


#: Where Ganeti looks for providers, in this order.
_PROVIDERS = (
    Path("/srv/ganeti/extstorage"),
    Path("/usr/local/lib/ganeti/extstorage"),
    Path("/usr/lib/ganeti/extstorage"),
    Path("/usr/share/ganeti/extstorage"),
)
#: Seconds that each script of a provider may take.
_SCRIPT_SECONDS = {
    "create": 900.0,
    "attach": 60.0,
    "detach": 60.0,
    "remove": 900.0,
    "grow": 900.0,
    "setinfo": 60.0,
    "verify": 60.0,
    "snapshot": 900.0,
    "open": 60.0,
    "close": 60.0,
}


class ExtStorageOptions(DriverOptions):
    """Options of the ``extstorage`` driver."""

    of_parameters = frozenset({"parameters"})

    provider: str = Field(
        pattern=f"^{PROVIDER.pattern}$", description="The name of the provider's directory."
    )
    search_path: tuple[Path, ...] = Field(
        default=_PROVIDERS,
        min_length=1,
        description="Directories that hold providers; the first that has it counts.",
    )
    path: Path = Field(
        default=Path("/var/lib/orchestrator/extstorage"),
        description="The driver's own directory on each host: logs, and what is attached there.",
    )
    # Text is text: only what is given as a secret is one.
    parameters: dict[str, Annotated[str | SecretStr, Field(union_mode="left_to_right")]] = Field(
        default_factory=dict,
        description="Values for the provider's parameters; what is kept from logs and errors is "
        "given as { env = … } or { file = … }.",
    )
    access: Literal["kernelspace", "userspace"] = Field(
        default="kernelspace", description="How the provider is told that volumes are used."
    )
    timeouts: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="Seconds that a script may take, by its name."
    )
    zero_new: bool | None = Field(
        default=None,
        description="Whether new volumes are zeroed before anybody sees them. Without it: those "
        "that have a block device. false: whoever gets one may read what its space held before, "
        "unless the provider zeroes it.",
    )

    log_days: float = Field(default=30, gt=0, description="How long the scripts' logs are kept.")

    @field_validator("timeouts")
    @classmethod
    def _scripts(cls, given: dict[str, float]) -> dict[str, float]:
        for script in given:
            if script not in _SCRIPT_SECONDS:
                raise ValueError(
                    f"there is no script {script!r}; there are {', '.join(_SCRIPT_SECONDS)}"
                )
        return given

    @property
    def values(self) -> dict[str, str]:
        """The values for the provider's parameters, secrets uncovered."""
        return {
            name: value.get_secret_value() if isinstance(value, SecretStr) else value
            for name, value in self.parameters.items()
        }

    @property
    def secrets(self) -> frozenset[str]:
        """The values that must not be shown."""
        hidden = (value for value in self.parameters.values() if isinstance(value, SecretStr))
        return frozenset(value.get_secret_value() for value in hidden)

    @property
    def seconds(self) -> dict[str, float]:
        """The most that each script may take."""
        return {**_SCRIPT_SECONDS, **self.timeouts}


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
    #: The settings of volumes that the storage has itself, besides those that all have.
    settings: frozenset[str] = frozenset()
    #: How export rules may name clients.
    clients: frozenset[ClientKind] = frozenset()


_EVERYTHING = frozenset(
    {
        "create",
        "import",
        "export",
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
        "attach_read_only",
        "open",
        # It can prove that a volume is not there.
        "absence",
    }
)

#: The settings of volumes on NAS filers.
_NAS_SETTINGS = frozenset(
    {
        "snapshot_reserve_percent",
        "compression",
        "inline_compression",
        "caching_policy",
        "junction_path",
        "aggregate",
    }
)

#: Every driver by the name used in the configuration.
DRIVERS: dict[str, DriverSpec] = {
    spec.name: spec
    for spec in (
        DriverSpec(
            name="memory",
            target="workers.backends.memory:MemoryDriver",
            capabilities=_EVERYTHING | {"adopt", "policy"},
            options=MemoryOptions,
            thin=True,
            overcommit=20.0,
            group=200,
            attaches_locally=False,
            settings=_NAS_SETTINGS,
            clients=frozenset(ClientKind),
        ),
        DriverSpec(
            name="file",
            target="workers.backends.file:FileDriver",
            capabilities=_EVERYTHING | {"adopt"},
            options=FileOptions,
            thin=True,
            overcommit=20.0,
            group=25,
            attaches_locally=True,
        ),
        DriverSpec(
            name="extstorage",
            target="workers.backends.extstorage:ExtStorageDriver",
            capabilities=_EVERYTHING
            - {"rename", "rollback", "snapshot", "attach_read_only", "absence"}
            | {"diagnose"},
            options=ExtStorageOptions,
            thin=False,
            overcommit=1.0,
            group=4,
            attaches_locally=True,
        ),
        DriverSpec(
            name="ontap",
            target="workers.backends.ontap:OntapDriver",
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
            attaches_locally=False,
            # REST tells the caching policy of a volume and cannot set it.
            settings=_NAS_SETTINGS - {"caching_policy"}
            | {"autosize_enabled", "autosize_max_bytes"},
            clients=frozenset(ClientKind) - {ClientKind.PATTERN},
        ),
    )
}
