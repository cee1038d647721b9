"""Settings: one file, overridden by ORCHESTRATOR_* variables, read in one place."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import quote, urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from orchestrator.actions.registry import ACTIONS, impossible
from orchestrator.actions.repairs import REPAIRS
from orchestrator.actions.requests import no_such_action
from orchestrator.domain.drivers import DriverOptions, DriverSpec
from orchestrator.domain.errors import InvalidInput, Unsupported
from orchestrator.domain.installed import DRIVERS
from orchestrator.domain.names import BackendName, HostName
from orchestrator.domain.nearest import did_you_mean
from orchestrator.domain.places import Places
from orchestrator.domain.states import FindingKind
from orchestrator.mistakes import problem_from, read_toml, unknown_variables

T = TypeVar("T")

CONFIG_VARIABLE = "ORCHESTRATOR_CONFIG"


def _resolve_secret(value: Any) -> Any:
    """Read ``{ env = "NAME" }`` and ``{ file = "PATH" }``; anything else is itself."""
    if isinstance(value, dict) and len(value) == 1:
        if isinstance(name := value.get("env"), str):
            if name not in os.environ:
                raise ValueError(f"the environment variable {name} is not set")
            return os.environ[name]
        if isinstance(path := value.get("file"), str):
            try:
                return Path(path).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    return value


def _hidden(value: Any) -> Any:
    """The same, as something that shows itself nowhere."""
    resolved = _resolve_secret(value)
    return resolved if resolved is value else SecretStr(resolved)


def _check_url(url: str | None) -> str | None:
    """Refuse what is no URL without repeating it: it may hold a password."""
    try:
        # Sentinels stand one after the other, each an address of its own.
        several = url is not None and url.startswith("sentinel://")
        for part in (url or "").split(";") if several else [url or ""]:
            # So may servers of PostgreSQL, within one.
            for host in _netloc(part).rpartition("@")[2].split(","):
                _ = urlsplit(f"//{host}").port
    except ValueError:
        raise ValueError(
            "this is no URL; special characters in its password must be percent-encoded"
        ) from None
    return url


def _netloc(url: str) -> str:
    """What stands between the scheme and the path.

    Several servers are no URL for `urlsplit`: since CVE-2025-0938 was mended in Python, it refuses
    an address in brackets that stands beside others.
    """
    return re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)[0]


def _with_password(url: str, password: SecretStr | None) -> str:
    """The URL with a password that was given apart, unless it has one of its own.

    Of Sentinels it stands with the first: it is the servers' that they watch.
    """
    first, *others = url.split(";")
    netloc = _netloc(first)
    user, _, hosts = netloc.rpartition("@")
    if password is None or ":" in user:
        return url
    written = quote(password.get_secret_value(), safe="")
    told = first.replace(f"://{netloc}", f"://{user}:{written}@{hosts}", 1)
    return ";".join([told, *others])


def without_secrets(url: str) -> str:
    """A URL as it may be shown: without user, password and options."""
    parts = (re.sub(r"//.*@", "//", part) for part in url.split(";"))
    return ";".join(part.partition("?")[0] for part in parts)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class DatabaseSettings(_Section):
    """Where the truth is kept."""

    url: str | None = Field(
        default=None, repr=False, description="Default: SQLite in the data directory."
    )
    password: SecretStr | None = Field(
        default=None, description="Where the URL has a user and no password: it is put in there."
    )
    pool_size: int = Field(default=10, ge=1, le=1000)
    idle_seconds: float = Field(
        default=20.0,
        ge=0.1,
        le=3600,
        description="A process that is frozen or cut off in the middle of a transaction keeps "
        "what it has locked there for so long and hardly longer: then its session is ended "
        "(PostgreSQL).",
    )

    _secret = field_validator("url", "password", mode="before")(_resolve_secret)
    _url = field_validator("url")(_check_url)

    @model_validator(mode="after")
    def _password(self) -> Self:
        if self.url is not None:
            self.url = _with_password(self.url, self.password)
        return self


class BrokerSettings(_Section):
    """Where wake-ups travel."""

    url: str | None = Field(
        default=None, repr=False, description="Default: an embedded server, with 'up' only."
    )

    password: SecretStr | None = Field(
        default=None, description="Where the URL has none: it is put in there."
    )
    prefix: str = Field(
        default="",
        max_length=64,
        pattern=r"^[!-~]*$",
        description="Before the names of all keys and channels, such as `orchestrator:`, on a "
        "server that others use, too.",
    )

    _secret = field_validator("url", "password", mode="before")(_resolve_secret)
    _url = field_validator("url")(_check_url)

    @model_validator(mode="after")
    def _password(self) -> Self:
        if self.url is not None:
            self.url = _with_password(self.url, self.password)
        return self


class WorkerSettings(_Section):
    """How a worker process works."""

    threads: int = Field(
        default=4,
        ge=1,
        le=256,
        description="Jobs it runs at the same time on each backend; one place is kept for quick "
        "ones.",
    )
    lease_seconds: float = Field(
        default=30.0, gt=0, description="A worker silent for this long has lost its jobs."
    )
    heartbeat_seconds: float = Field(default=2.0, gt=0)
    claim_seconds: float = Field(
        default=5.0, gt=0, description="It looks for work this often, even if no message came."
    )
    shutdown_seconds: float = Field(
        default=10.0, ge=0, description="Time for running jobs to reach a safe point at shutdown."
    )

    @model_validator(mode="after")
    def _beats_within_lease(self) -> WorkerSettings:
        if self.heartbeat_seconds * 3 > self.lease_seconds:
            raise ValueError("lease_seconds must be at least three times heartbeat_seconds")
        return self


class RetrySettings(_Section):
    """Exponential back-off with jitter."""

    first_seconds: float = Field(default=1.0, gt=0)
    most_seconds: float = Field(default=300.0, gt=0)
    max_attempts: int = Field(default=5, ge=1, le=100)


class SchedulerSettings(_Section):
    """How often the scheduler looks."""

    tick_seconds: float = Field(default=0.5, gt=0)
    relay_seconds: float = Field(
        default=2.0, gt=0, description="A job queued this long has its wake-up sent again."
    )
    autosize_seconds: float = Field(
        default=300.0, gt=0, description="How often it looks for volumes that shall grow."
    )
    autosize_percent: float = Field(
        default=85.0, gt=0, le=100, description="Volumes that are fuller than this grow."
    )
    host_grace_seconds: float = Field(
        default=30.0, gt=0, description="A host without a live worker for this long is down."
    )


class RetentionSettings(_Section):
    """How long things are kept."""

    idempotency_days: float = Field(default=7.0, gt=0)
    jobs_days: float | None = Field(
        default=None, gt=0, description="Ended jobs are archived after this; default: never."
    )
    events_days: float | None = Field(
        default=None, gt=0, description="Events are archived after this; default: never."
    )
    archive_days: float | None = Field(
        default=None, gt=0, description="Archive files are deleted after this; default: never."
    )
    archive: Path | None = Field(
        default=None,
        description="The scheduler's directory for archives; default: 'archive' in data.",
    )


class HooksSettings(_Section):
    """Programs that run before and after actions."""

    path: Path | None = Field(
        default=None, description="Directory of 'ACTION.pre.d' and 'ACTION.post.d'; default: none."
    )
    seconds: float = Field(default=60.0, gt=0, description="The most that one program may take.")


class TransferSettings(_Section):
    """Where images are imported from and exported to; nowhere unless configured."""

    import_from: list[Path] = Field(
        default_factory=list, description="Directories of the workers' hosts with images."
    )
    export_to: list[Path] = Field(
        default_factory=list, description="Directories of the workers' hosts for exports."
    )
    hosts: list[str] = Field(
        default_factory=list,
        description="Hosts whose URLs images are read from: 'HOST', or 'HOST:PORT' for a port "
        "that is not the usual one.",
    )
    silence_seconds: float = Field(
        default=30.0, gt=0, description="A server that sends nothing for this long is given up."
    )

    @field_validator("import_from", "export_to")
    @classmethod
    def _plain(cls, directories: list[Path]) -> list[Path]:
        for directory in directories:
            if not directory.is_absolute() or ".." in directory.parts:
                raise ValueError(f"{directory} is no absolute path without '..'")
        return directories

    @property
    def places(self) -> Places:
        """The same, for checks."""
        hosts = frozenset(host.lower() for host in self.hosts)
        return Places(tuple(self.import_from), tuple(self.export_to), hosts)


#: The prefix of IPv4 addresses that are written as IPv6 ones (RFC 4291, section 2.5.5.2).
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


def _notations(written: str) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """A network as it is, and in the other family where it means the same there."""
    network = ipaddress.ip_network(written)
    if isinstance(network, ipaddress.IPv4Network):
        within = int(_MAPPED.network_address) + int(network.network_address)
        return [network, ipaddress.IPv6Network((within, network.prefixlen + _MAPPED.prefixlen))]
    if network.subnet_of(_MAPPED):
        within = int(network.network_address) - int(_MAPPED.network_address)
        return [network, ipaddress.IPv4Network((within, network.prefixlen - _MAPPED.prefixlen))]
    return [network]


class ApiSettings(_Section):
    """The HTTP service."""

    listen: str = "127.0.0.1:8080"
    root_path: str = Field(
        default="",
        pattern=r"^(/[A-Za-z0-9._~-]+)*$",
        description="The path under which a proxy shows it: '/storage'; default: none.",
    )
    trusted_proxies: list[str] = Field(
        default_factory=list,
        description="Addresses and networks of proxies that are believed who asks, and whether by "
        "https (X-Forwarded-For, X-Forwarded-Proto); default: none.",
    )
    tls_cert: Path | None = Field(
        default=None,
        description="The certificate (PEM, with those between) to serve HTTPS with; default: HTTP.",
    )
    tls_key: Path | None = Field(default=None, description="The certificate's key (PEM).")
    max_body_bytes: int = Field(
        default=64 * 2**20, ge=1024, description="Batches that are larger are refused."
    )
    max_connections: int = Field(
        default=10_000, ge=1, description="Connections that one process serves at once."
    )
    request_seconds: float = Field(
        default=10.0,
        gt=0,
        description="Time for a request's head to arrive, and for its body, beside a second for "
        "each 16 KiB.",
    )

    access_log: bool = Field(
        default=False,
        description="A line for each request, at the level info: who asked for what from where, "
        "the answer's status, and how long it took.",
    )

    @field_validator("trusted_proxies")
    @classmethod
    def _addresses(cls, proxies: list[str]) -> list[str]:
        for proxy in proxies:
            try:
                ipaddress.ip_network(proxy)
            except ValueError:
                raise ValueError(
                    f"{proxy!r} is neither an address nor a network: write 10.0.0.1 or 10.0.0.0/24"
                ) from None
        return proxies

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of ``127.0.0.1:8080`` or ``[::1]:8080``. Raises `InvalidInput`."""
        host, _, port = self.listen.rpartition(":")
        host = host.strip("[]")
        if not host or not port.isdecimal() or not 0 <= int(port) <= 65535:
            raise InvalidInput(
                f"{self.listen!r} is no address to listen on: write HOST:PORT, such as "
                "127.0.0.1:8080",
                field="listen",
            )
        return host, int(port)

    @property
    def believed_proxies(self) -> list[str]:
        """The trusted proxies in every notation that their addresses may come in.

        An IPv4 address is mapped to IPv6 (``::ffff:10.0.0.1``) by a socket that takes both.
        """
        return [str(written) for proxy in self.trusted_proxies for written in _notations(proxy)]

    @model_validator(mode="after")
    def _both_or_none(self) -> ApiSettings:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together: give both, or none")
        return self


class AuditSettings(_Section):
    """How the history can be believed."""

    key: SecretStr | None = Field(
        default=None, description="The key of the chain; default: 'audit.key' in data, made once."
    )
    stuck_hours: float = Field(
        default=48.0, gt=0, description="A job that has not ended after this is a finding."
    )
    lock_days: float = Field(default=30.0, gt=0, description="A lock older than this is a finding.")
    grace_hours: float = Field(
        default=24.0,
        ge=0,
        description="Storage without a record is removed only this long after an audit saw it.",
    )
    rules: dict[FindingKind, str] = Field(
        default_factory=dict,
        description="Repairs that need nobody to ask for them, by kind of finding.",
    )
    most_percent: float = Field(
        default=5.0,
        gt=0,
        le=100,
        description="Rules do nothing on a backend where findings that they would repair are more "
        "than this share of its volumes.",
    )
    export_to: Path | None = Field(
        default=None,
        description="The scheduler's directory for exported events; default: 'exports' in data.",
    )

    @field_validator("rules")
    @classmethod
    def _repairs(cls, rules: dict[FindingKind, str]) -> dict[FindingKind, str]:
        for kind, repair in rules.items():
            if repair not in REPAIRS[kind]:
                raise ValueError(
                    f"there is no repair {repair!r} of a finding {kind.value!r}; there are "
                    f"{', '.join(REPAIRS[kind]) or 'none'}"
                )
        return rules

    _secret = field_validator("key", mode="before")(_resolve_secret)


class V3Settings(_Section):
    """The NAS interface at ``/v3``.

    Members are names of tokens, 'anonymous' (whoever sends none) or 'everybody'.
    """

    enabled: bool = True
    backends: list[BackendName] | None = Field(
        default=None, description="Those that it serves; default: all."
    )
    user: list[str] | None = Field(
        default=None, description="Who has the role USER; default: whoever has a token."
    )
    admin: list[str] | None = Field(
        default=None, description="Who has the role ADMIN; default: operators and administrators."
    )
    uber_admin: list[str] | None = Field(
        default=None, description="Who has the role UBER_ADMIN; default: administrators."
    )
    open_snapshots: bool = Field(default=False, description="Anybody may make snapshots.")
    discard_newer: bool = Field(
        default=False, description="Rolling back deletes newer snapshots; it is refused otherwise."
    )
    wait_seconds: float = Field(
        default=600.0, gt=0, description="How long a request waits for the end of its jobs."
    )


class LogSettings(_Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


_RATE = re.compile(r"([1-9][0-9]{0,5})/(s|min|h|d)", re.ASCII)
_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


class BackendSettings(BaseModel):
    """One backend: what every driver has, and the driver's own options beside it."""

    model_config = ConfigDict(extra="allow", hide_input_in_errors=True)

    driver: str
    hosts: list[HostName] | None = Field(
        default=None, description="Hosts whose workers may act on it; default: any."
    )
    overcommit: float | None = Field(
        default=None, ge=1.0, description="How many times its capacity may be promised."
    )
    max_jobs: int | None = Field(
        default=None,
        ge=1,
        description="Jobs that may run on it at once, all workers together; default: no limit.",
    )
    time_limits: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict,
        description="Seconds that one attempt may take, by action; default: the action's own.",
    )
    rate_limits: dict[str, str] = Field(
        default_factory=dict,
        description="How often an attempt at an action may begin, all workers together: "
        "'10/min', in s, min, h or d; default: no limit.",
    )
    enabled: bool = True

    @field_validator("rate_limits")
    @classmethod
    def _rates(cls, limits: dict[str, str]) -> dict[str, str]:
        for written in limits.values():
            if not _RATE.fullmatch(written):
                raise ValueError(
                    f"{written!r} is no rate: write a number and s, min, h or d: 10/min"
                )
        return limits

    @property
    def intervals(self) -> dict[str, float]:
        """Seconds between attempts at an action, where there is a limit of its rate."""
        rates = {action: _RATE.fullmatch(rate) for action, rate in self.rate_limits.items()}
        return {a: _UNITS[rate[2]] / int(rate[1]) for a, rate in rates.items() if rate is not None}

    @field_validator("time_limits", "rate_limits")
    @classmethod
    def _actions(cls, limits: dict[str, T]) -> dict[str, T]:
        for action in limits:
            if action not in ACTIONS:
                raise ValueError(no_such_action(action))
        return limits

    @field_validator("driver")
    @classmethod
    def _known(cls, driver: str) -> str:
        if driver not in DRIVERS:
            raise ValueError(DRIVERS.why_not(driver))
        return driver

    @model_validator(mode="wrap")
    @classmethod
    def _check_options(cls, given: Any, check: ModelWrapValidatorHandler[Self]) -> Self:
        """Report mistakes in the driver's own options with those in what every driver has."""
        if not isinstance(given, dict):
            return check(given)
        mistakes: list[InitErrorDetails] = []
        try:
            made = check(given)
        except ValidationError as error:
            mistakes += _mistakes(error)
        driver = given.get("driver")
        if isinstance(driver, str) and driver in DRIVERS:
            own = {name: value for name, value in given.items() if name not in cls.model_fields}
            try:
                _options(driver, own)
            except ValidationError as error:
                mistakes += _mistakes(error, driver)
            except ValueError as error:  # a secret that cannot be read
                mistakes.append({"type": _invalid(str(error)), "loc": (), "input": None})
        if mistakes:
            raise ValidationError.from_exception_data(cls.__name__, mistakes)
        return made

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """What a repr shows: the driver's own options may be secrets."""
        return [("driver", self.driver)]

    @property
    def spec(self) -> DriverSpec:
        """What is known of the driver without importing it."""
        return DRIVERS[self.driver]

    @property
    def options(self) -> DriverOptions:
        """The driver's own options, validated, secrets resolved."""
        return _options(self.driver, self.model_extra or {})


def _options(driver: str, written: dict[str, Any]) -> DriverOptions:
    """A driver's own options. Raises `ValueError`, also for a secret that cannot be read."""
    kind = DRIVERS[driver].options
    given: dict[str, Any] = {}
    for name, value in written.items():
        if name in kind.of_parameters and isinstance(value, dict):
            given[name] = {own: _hidden(each) for own, each in value.items()}
        else:
            given[name] = _resolve_secret(value)
    return kind.model_validate(given)


def _mistakes(error: ValidationError, driver: str | None = None) -> list[InitErrorDetails]:
    """The mistakes of an error, naming what may have been meant by an option a driver lacks."""
    found: list[InitErrorDetails] = []
    for one in error.errors(include_url=False):
        kind: str | PydanticCustomError = one["type"]
        if driver is not None and kind == "extra_forbidden" and len(one["loc"]) == 1:
            name = str(one["loc"][0])
            known = [*BackendSettings.model_fields, *DRIVERS[driver].options.model_fields]
            kind = PydanticCustomError(
                "unknown_option",
                "{why}",
                {"why": f"the driver {driver!r} has no option {name!r}{did_you_mean(name, known)}"},
            )
        elif kind not in ("missing", "extra_forbidden"):
            kind = _invalid(one["msg"])
        found.append({"type": kind, "loc": one["loc"], "input": None})
    return found


def _invalid(why: str) -> PydanticCustomError:
    return PydanticCustomError("invalid_input", "{why}", {"why": why})


#: Where those have their data who have no home directory.
_SYSTEM_DATA = Path("/var/lib/orchestrator")


def default_data() -> Path:
    """The data directory, unless one is configured. It need not be there if nothing uses it."""
    if base := os.environ.get("XDG_DATA_HOME"):
        return Path(base) / "orchestrator"
    try:
        home = Path.home()
    except RuntimeError:  # a user without an entry in passwd, and no HOME
        return _SYSTEM_DATA
    return _SYSTEM_DATA if home == Path("/") else home / ".local" / "share" / "orchestrator"


def _secret_files(given: Any) -> Iterator[Path]:
    """The files that are named as secrets, ``{ file = "PATH" }``, anywhere in what is read."""
    if isinstance(given, dict):
        if given.keys() == {"file"} and isinstance(given["file"], str):
            yield Path(given["file"])
        for value in given.values():
            yield from _secret_files(value)


def _lies_in(path: Path, directory: Path) -> bool:
    """Whether a path is a directory or below it, by whatever links and mounts it is reached."""
    own = path.resolve()
    return any(_is_same(step, directory.resolve()) for step in (own, *own.parents))


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one == other or one.samefile(other)
    except OSError:
        return False  # not there, or not to be seen by us


class Settings(BaseSettings):
    """Everything that can be configured. See ``docs/configuration.md``."""

    model_config = SettingsConfigDict(
        env_prefix="ORCHESTRATOR_",
        env_nested_delimiter="__",
        extra="forbid",
        hide_input_in_errors=True,
    )

    data: Path = Field(default_factory=default_data, description="The data directory.")
    host: HostName = Field(default_factory=socket.gethostname, description="This machine's name.")
    database: DatabaseSettings = DatabaseSettings()
    broker: BrokerSettings = BrokerSettings()
    backends: dict[BackendName, BackendSettings] = Field(default_factory=dict)
    api: ApiSettings = ApiSettings()
    worker: WorkerSettings = WorkerSettings()
    retry: RetrySettings = RetrySettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    retention: RetentionSettings = RetentionSettings()
    hooks: HooksSettings = HooksSettings()
    transfer: TransferSettings = TransferSettings()
    audit: AuditSettings = AuditSettings()
    v3: V3Settings = V3Settings()
    log: LogSettings = LogSettings()
    # What the client reads; named here so that they are not taken for misspelt settings.
    url: str | None = None
    token: str | None = Field(default=None, repr=False)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments before the environment before the file."""
        sources = [init_settings, env_settings]
        if path := os.environ.get(CONFIG_VARIABLE):
            sources.append(TomlConfigSettingsSource(settings_cls, toml_file=path))
        return tuple(sources)

    @model_validator(mode="wrap")
    @classmethod
    def _apart(cls, given: Any, read: ModelWrapValidatorHandler[Settings]) -> Settings:
        """Images come and go where nothing of ours is: nobody reads or writes that that way."""
        settings = read(given)
        images = (*settings.transfer.import_from, *settings.transfer.export_to)
        for what, path in settings._ours(given) if images else ():
            for directory in images:
                if _lies_in(path, directory) or _lies_in(directory, path):
                    raise ValueError(
                        f"transfer: {directory} and {what}, {path}, lie one in the other: what is "
                        "there could be read or written as an image. Name a directory that is apart"
                    )
        return settings

    def _ours(self, given: Any) -> Iterator[tuple[str, Path]]:
        """What is nobody's but ours: what each is, and where."""
        yield "the data directory", self.data
        if path := os.environ.get(CONFIG_VARIABLE):
            yield "the configuration file", Path(path)
        for secret in _secret_files(given):
            yield "the file of a secret", secret
        if self.database.url is not None and self.database.url.startswith("sqlite"):
            from orchestrator.store.urls import file_of  # others need not load its libraries

            if (file := file_of(self.database.url)) is not None:
                yield "the database", file
        others = {
            "the hooks": self.hooks.path,
            "the archive": self.retention.archive,
            "the directory of exported events": self.audit.export_to,
            "the certificate's key": self.api.tls_key,
        }
        yield from ((what, path) for what, path in others.items() if path is not None)
        for name, backend in self.backends.items():
            for _, value in backend.options:
                if isinstance(value, Path):
                    yield f"the directory of backend {name}", value
                elif isinstance(value, tuple):
                    # Where programs are searched for: most are not there.
                    found = (path for path in value if isinstance(path, Path) and path.exists())
                    yield from ((f"a directory of programs of backend {name}", p) for p in found)

    @property
    def database_url(self) -> str:
        """The configured database, or SQLite in the data directory."""
        return self.database.url or f"sqlite:///{self.data.absolute() / 'orchestrator.db'}"

    @property
    def archive(self) -> Path:
        """The directory for archived jobs and events."""
        return self.retention.archive or self.data.absolute() / "archive"

    @property
    def exports(self) -> Path:
        """The directory for exported events."""
        return self.audit.export_to or self.data.absolute() / "exports"

    @property
    def broker_url(self) -> str:
        """The configured broker. Raises `InvalidInput` if there is none, or never could be one."""
        if self.broker.url is None:
            raise InvalidInput(
                "no broker is configured: set [broker] url, or ORCHESTRATOR_BROKER__URL, "
                "to a Redis server such as redis://localhost:6379/0",
                field="broker.url",
            )
        from orchestrator import broker  # what only reads settings need not load its libraries

        broker.check(self.broker.url)
        return self.broker.url

    def served_backends(self) -> dict[str, BackendSettings]:
        """The backends that workers of this host may act on."""
        return {
            name: backend
            for name, backend in self.backends.items()
            if backend.hosts is None or self.host in backend.hosts
        }


def load_settings(*, named_by: str = CONFIG_VARIABLE, **overrides: Any) -> Settings:
    """Read the settings; ``named_by`` is what to blame for a file that cannot be read.

    Raises `InvalidInput` with every mistake: the setting, where it was given, what is wrong; and
    `Unsupported` if no driver can do one of the actions, so that no service starts then.
    """
    _refuse_impossible()
    path = Path(os.environ[CONFIG_VARIABLE]) if os.environ.get(CONFIG_VARIABLE) else None
    text = read_toml(path, named_by) if path is not None else ""
    if unknown := unknown_variables(Settings, os.environ):
        errors = [{"field": "config", "detail": detail} for detail in unknown]
        raise InvalidInput(unknown[0], field="config", errors=errors)
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise problem_from(error, Settings, path, text) from None
    except SettingsError as error:
        # What a variable says of a whole section: its message names the field, and never the value.
        named = re.search(r'field "(\w+)"', str(error))
        variable = f"ORCHESTRATOR_{named[1].upper()}" if named else "a variable ORCHESTRATOR_*"
        raise InvalidInput(
            f'{variable} is no JSON: write it as {{"name": "value"}}, or set '
            "ORCHESTRATOR_SECTION__NAME for each setting",
            field=named[1] if named else "config",
        ) from None


def _refuse_impossible() -> None:
    known = {capability for spec in DRIVERS.values() for capability in spec.capabilities}
    if not known:
        raise Unsupported(DRIVERS.why_not(""))
    for action in impossible(known):
        why = "".join(f"; {refused}" for refused in DRIVERS.refused.values())
        raise Unsupported(
            f"no driver that is installed can do {action.name}, which needs the capability "
            f"{action.capability}{why}"
        )
