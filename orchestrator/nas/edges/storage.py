"""The contract's classes: `StorageBackend` on any backend, and its two well-known kinds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, cast

import structlog

from orchestrator.domain.errors import AlreadyExists, NotFound, Problem, UnknownPolicy
from orchestrator.nas import contract
from orchestrator.nas.fields import place_of, told
from orchestrator.nas.gateways import Gateway, Remote
from orchestrator.nas.returned import normalised_with

if TYPE_CHECKING:
    from orchestrator.nas.edges.private import PrivateEngine
    from orchestrator.nas.edges.v3 import NasApp

T = TypeVar("T")

log = structlog.get_logger(__name__)

#: Problems with a status below this are the caller's to mend.
_OURS = 500


def _named(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields, with the name that a policy prints as."""
    policy = fields.get("active_policy_name")
    return {**fields, **({} if policy is None else {"active_policy_name": str(policy)})}


class Policy(NamedTuple):
    """An export policy: a pair of its name and its rules, and a mapping with these two keys."""

    name: str
    rules: list[str]

    def keys(self) -> tuple[str, ...]:
        """The keys of the mapping."""
        return self._fields

    def __getitem__(self, key: Any) -> Any:
        """By place, or by key. Raises `KeyError` for a key that there is not."""
        if not isinstance(key, str):
            return tuple.__getitem__(self, key)
        if key not in self._fields:
            raise KeyError(key)
        return getattr(self, key)


class StorageBackend:
    """A storage system, as the NAS contract has it: every method waits until it is done.

    Names may be any objects that print as their names. What is not found raises `KeyError`,
    what is invalid or in the way `ValueError`; both say in a sentence what to do. What
    nobody here can mend (the service is away, the storage is full) is a `Problem` of
    `orchestrator.domain.errors`. A volume is named by its name, or ``node:/junction/path``.
    """

    def __init__(
        self,
        backend: str,
        *,
        url: str | None = None,
        token: str | None = None,
        wait_seconds: float = 600.0,
        discard_newer: bool = False,
    ) -> None:
        """Use a backend of an orchestrator.

        ``url``, ``token``: of its service, found as `orchestrator.client.Client` finds them.
        ``wait_seconds``: how long a call waits for its jobs; they go on after that.
        ``discard_newer``: rolling back deletes newer snapshots, which it refuses otherwise.
        """
        self._begin(Remote(backend, url, token, wait_seconds=wait_seconds), discard_newer)

    def _begin(self, gateway: Gateway, discard_newer: bool) -> None:
        self.gateway = gateway
        self._discard_newer = discard_newer

    def _do(
        self,
        operation: contract.Operation[T],
        *,
        keys: tuple[type[Problem], ...] = (NotFound,),
        values: tuple[type[Problem], ...] = (),
    ) -> T:
        """Do it; ``keys``: what is a `KeyError`, unless it is one of ``values``."""
        try:
            return contract.perform(operation, self.gateway)
        except Problem as problem:
            if isinstance(problem, keys) and not isinstance(problem, values):
                raise KeyError(told(problem)) from problem
            if problem.status < _OURS:
                raise ValueError(told(problem)) from problem
            raise

    # -- volumes --------------------------------------------------------------------------

    @property
    @normalised_with("volume", as_list=True)
    def volumes(self) -> Any:
        """All volumes that can be used, as `get_volume` returns them."""
        return self._do(contract.volumes())

    @normalised_with("volume")
    def get_volume(self, volume_name: object) -> Any:
        """A volume: ``name``, ``size_used``, ``size_total`` (bytes), ``filer_address`` and more."""
        return self._do(contract.get_volume(str(volume_name)))

    @normalised_with("volume")
    def create_volume(self, volume_name: object, **fields: Any) -> Any:
        """Make a volume and return it. ``size_total`` (bytes) is needed, but in RAM (1 GiB).

        Raises `KeyError` if it exists, `ValueError` if the fields make no sense.
        """
        return self._do(
            contract.create_volume(str(volume_name), _named(fields)),
            keys=(NotFound, AlreadyExists),
            values=(UnknownPolicy,),
        )

    @normalised_with("volume")
    def patch_volume(self, volume_name: object, **data: Any) -> Any:
        """Change a volume and return it. Sizes only grow."""
        changing = contract.patch_volume(str(volume_name), _named(data))
        return self._do(changing, values=(UnknownPolicy,))

    def restrict_volume(self, volume_name: object) -> None:
        """Hide a volume, as if it never existed; its data is kept for an administrator."""
        self._do(contract.restrict_volume(str(volume_name)))

    @normalised_with("volume")
    def clone_volume(
        self, clone_volume_name: object, from_volume_name: object, from_snapshot_name: object
    ) -> Any:
        """Make a volume with what a snapshot holds and return it."""
        return self._do(
            contract.clone_volume(
                str(clone_volume_name), str(from_volume_name), str(from_snapshot_name)
            )
        )

    def rollback_volume(self, volume_name: object, restore_snapshot_name: object) -> None:
        """Put a volume back to a snapshot. `ValueError` where newer ones would be lost."""
        self._do(
            contract.rollback_volume(
                str(volume_name), str(restore_snapshot_name), discard_newer=self._discard_newer
            )
        )

    # -- snapshots ------------------------------------------------------------------------

    @normalised_with("snapshot", as_list=True)
    def get_snapshots(self, volume_name: object) -> Any:
        """The snapshots of a volume, oldest first."""
        return self._do(contract.get_snapshots(str(volume_name)))

    @normalised_with("snapshot")
    def get_snapshot(self, volume_name: object, snapshot_name: object) -> Any:
        """A snapshot: ``name`` and ``size_kbytes``."""
        return self._do(contract.get_snapshot(str(volume_name), str(snapshot_name)))

    @normalised_with("snapshot")
    def create_snapshot(self, volume_name: object, snapshot_name: object) -> Any:
        """Make a snapshot and return it. Raises `ValueError` if there is one of this name."""
        return self._do(contract.create_snapshot(str(volume_name), str(snapshot_name)))

    def delete_snapshot(self, volume_name: object, snapshot_name: object) -> None:
        """Delete a snapshot."""
        self._do(contract.delete_snapshot(str(volume_name), str(snapshot_name)))

    # -- locks ----------------------------------------------------------------------------

    def locks(self, volume_name: object) -> str | None:
        """The host that holds the lock on a volume; None: nobody."""
        return self._do(contract.locks(str(volume_name)))

    def create_lock(self, volume_name: object, host_owner: object) -> None:
        """Lock a volume for a host, which may hold it already.

        Raises `ValueError` if another host does.
        """
        self._do(contract.create_lock(str(volume_name), str(host_owner)))

    def remove_lock(self, volume_name: object, host_owner: object) -> None:
        """End a host's lock; nothing happens if it holds none."""
        self._do(contract.remove_lock(str(volume_name), str(host_owner)))

    # -- export policies ------------------------------------------------------------------

    @property
    def policies(self) -> list[Policy]:
        """All export policies: pairs of name and rules."""
        return [Policy(name, rules) for name, rules in self._do(contract.policies())]

    def get_policy(self, policy_name: object) -> list[str]:
        """The rules of a policy; none admit nobody."""
        return self._do(contract.get_policy(str(policy_name)))

    def create_policy(self, policy_name: object, rules: Iterable[object]) -> None:
        """Make a policy. Raises `ValueError` if there is one of this name."""
        self._do(contract.create_policy(str(policy_name), rules))

    def remove_policy(self, policy_name: object) -> None:
        """Remove a policy. Raises `ValueError` while a volume has it."""
        self._do(contract.remove_policy(str(policy_name)))

    def set_policy(self, volume_name: object, policy_name: object | None) -> None:
        """Give a volume a policy; None: none. Raises `ValueError` if there is no such policy."""
        policy = None if policy_name is None else str(policy_name)
        self._do(contract.set_policy(str(volume_name), policy), values=(UnknownPolicy,))

    def ensure_policy_rule_present(self, policy_name: object, rule: object) -> None:
        """Add a rule to a policy, unless it is there."""
        self._do(contract.ensure_rule_present(str(policy_name), str(rule)))

    def ensure_policy_rule_absent(self, policy_name: object, rule: object) -> None:
        """Take a rule out of a policy, if it is there."""
        self._do(contract.ensure_rule_absent(str(policy_name), str(rule)))

    def close(self) -> None:
        """Let go of the connections, and of what lives in RAM with this object."""
        self.gateway.close()

    # -- HTTP -----------------------------------------------------------------------------

    def init_app(self, app: NasApp | FlaskLike, endpoint: str) -> None:
        """Make this storage known to an application, under a name.

        A `NasApp` serves it below ``/{endpoint}``. A Flask application has it as
        ``app.extensions[endpoint]``, for views of its own. Raises `ValueError` if that is taken.
        """
        extensions = getattr(app, "extensions", None)
        if extensions is None:
            cast("NasApp", app).add(endpoint, self)
        elif extensions.setdefault(endpoint, self) is not self:
            raise ValueError(f"the application has an extension called {endpoint!r} already")


class FlaskLike(Protocol):
    """What is asked of an application of Flask's, which need not be installed."""

    extensions: dict[str, Any]


class _Private(StorageBackend):
    """One with an engine of its own, in this process."""

    def __init__(self, engine: PrivateEngine) -> None:
        self._engine = engine
        self._begin(engine, discard_newer=False)


class DummyStorage(_Private):
    """Storage for tests: it is there at once, lives in RAM, and is gone with the object."""

    def __init__(self) -> None:
        from orchestrator.nas.edges.private import PrivateEngine  # brings the whole engine along

        super().__init__(PrivateEngine({"driver": "memory"}))

    def raise_if_volume_absent(self, volume_name: object) -> None:
        """Raise a `KeyError` that says so if there is no such volume."""
        self.get_volume(volume_name)

    def raise_if_snapshot_absent(self, volume_name: object, snapshot_name: object) -> None:
        """Raise a `KeyError` that says so if there is no such volume, or no such snapshot."""
        self.get_snapshot(volume_name, snapshot_name)


class NetappStorage(_Private):
    """A NetApp filer, spoken to over REST. Restricted volumes and those on aggr0 are hidden.

    What it has made it remembers in ``data``, a directory (default: one in the user's data
    directory for each filer and SVM), so that the next process goes on where this one was.
    What others have made is not to be seen until `adopt_volumes` has taken it over.
    """

    def __init__(
        self,
        hostname: str,
        username: str,
        password: str,
        vserver: str,
        timeout_s: float = 4,
        *,
        data: Path | None = None,
        accept_identity: bool = False,
        **options: Any,
    ) -> None:
        """``timeout_s``: how long the filer may take for an answer; ``options``: as in the
        configuration of an ``ontap`` backend.

        ``accept_identity``: take over an SVM that another installation has marked as its own.
        Raises `IdentityMismatch` for such a one otherwise.
        """
        from orchestrator.nas.edges.private import PrivateEngine, data_for

        configured: Mapping[str, Any] = {
            "driver": "ontap",
            "hostname": hostname,
            "username": username,
            "password": password,
            "vserver": vserver,
            "timeout": timeout_s,
            **options,
        }
        place = data or data_for(hostname, vserver)
        super().__init__(PrivateEngine(configured, place, accept_identity=accept_identity))

    def adopt_volumes(self, *, take_over: bool = False) -> list[str]:
        """Take over the volumes that others have made, snapshots included; their names.

        Each is marked as ours in its comment, whose text is kept; nothing else changes. With
        ``take_over`` also those that bear a mark of ours which nobody here knows any more. One
        that cannot be adopted is left, and the log says why.
        """
        adopted = []
        for name in self._engine.unknown():
            params = {"take_over": take_over}
            try:
                self.gateway.run([{"action": "volume.adopt", "volume": name, "params": params}])
            except Problem as problem:
                log.warning("nas.not_adopted", volume=name, why=problem.detail)
            else:
                adopted.append(name)
        return adopted

    def name_from_path(self, junction_path: str) -> str:
        """The name of the volume at a junction path. Raises `KeyError`."""
        found: str = self.get_volume(f":{junction_path}")["name"]
        return found

    def node_junction_path(self, volume_name: object) -> tuple[str | None, str]:
        """The node and the junction path that a name stands for; without a node it is None."""
        text = str(volume_name)
        return place_of(text) or (None, text)

    def parse_volume_name(self, volume_name_or_node_path: object) -> str:
        """The unique name of a volume given by its name or by ``node:/junction/path``."""
        text = str(volume_name_or_node_path)
        place = place_of(text)
        return text if place is None else self.name_from_path(place[1])
