"""The drivers that are installed: entry points of the group ``orchestrator.drivers``.

Each names a `DriverSpec`, in whatever distribution; those that come with the orchestrator are
declared in its ``pyproject.toml`` the same way. What cannot be used is refused with a reason when
a backend is configured with it, and is in nobody's way otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points

from orchestrator.domain.drivers import DriverSpec
from orchestrator.domain.errors import Unsupported
from orchestrator.domain.nearest import did_you_mean

GROUP = "orchestrator.drivers"


class Installed(Mapping[str, DriverSpec]):
    """Drivers by the names used in the configuration, loaded when one is first asked for.

    ``[…]`` raises `Unsupported` for one that cannot be used.
    """

    def __init__(self, points: Callable[[], Iterable[EntryPoint]]) -> None:
        self._points = points

    @cached_property
    def _found(self) -> tuple[dict[str, DriverSpec], dict[str, str]]:
        """Those that can be used, and why others cannot, by their names."""
        usable: dict[str, DriverSpec] = {}
        refused: dict[str, str] = {}
        origins: dict[str, str] = {}
        for point in sorted(self._points(), key=lambda point: point.name):
            name, origin = point.name, _origin(point)
            if name in origins:
                usable.pop(name, None)
                refused[name] = (
                    f"there are two drivers {name!r}, {origins[name]} and {origin}: remove one of "
                    "the two distributions"
                )
                continue
            origins[name] = origin
            try:
                usable[name] = _spec(point)
            except Exception as error:
                refused[name] = f"the driver {name!r}, {origin}, cannot be used: {error}"
        return usable, refused

    def __getitem__(self, name: str) -> DriverSpec:
        try:
            return self._found[0][name]
        except KeyError:
            raise Unsupported(self.why_not(name)) from None

    def __contains__(self, name: object) -> bool:
        return name in self._found[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found[0])

    def __len__(self) -> int:
        return len(self._found[0])

    @property
    def refused(self) -> Mapping[str, str]:
        """Why others cannot be used, by their names."""
        return self._found[1]

    def why_not(self, name: str) -> str:
        """Why a driver cannot be used, as a sentence."""
        if name in self.refused:
            return self.refused[name]
        if not self:
            return "no driver is installed: this installation is older than its code; install again"
        others = f"; there are {', '.join(self)}"
        return f"there is no driver {name!r}{did_you_mean(name, self, others)}"


def _spec(point: EntryPoint) -> DriverSpec:
    spec = point.load()
    if not isinstance(spec, DriverSpec):
        raise TypeError("it is no DriverSpec")
    if spec.name != point.name:
        raise ValueError(f"its spec is that of the driver {spec.name!r}")
    return spec


def _origin(point: EntryPoint) -> str:
    distribution = "an unknown distribution" if point.dist is None else point.dist.name
    return f"{point.value} of {distribution}"


DRIVERS = Installed(lambda: entry_points(group=GROUP))
