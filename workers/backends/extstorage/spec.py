"""What is known of the `extstorage` driver without importing it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator

from orchestrator.domain.drivers import DriverOptions, DriverSpec, Reach
from orchestrator.domain.names import PROVIDER

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


SPEC = DriverSpec(
    name="extstorage",
    target="workers.backends.extstorage.driver:ExtStorageDriver",
    capabilities=frozenset(
        {
            *("create", "import", "export", "clone", "grow", "metadata", "wipe", "remove"),
            *("inspect", "attach", "open", "diagnose"),
        }
    ),
    options=ExtStorageOptions,
    thin=False,
    overcommit=1.0,
    group=4,
    reach=Reach.HOST,
)
