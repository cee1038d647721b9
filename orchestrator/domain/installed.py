"""The drivers that are installed: entry points of the group ``orchestrator.drivers``.

Each names a `DriverSpec`, in whatever distribution; those that come with the orchestrator are
declared in its ``pyproject.toml`` the same way. What cannot be used is refused with a reason when
a backend is configured with it, and is in nobody's way otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points

from orchestrator.domain.drivers import DriverSpec
from orchestrator.domain.errors import Unsupported
from orchestrator.domain.nearest import did_you_mean

GROUP = "orchestrator.drivers"


class Installed(dict[str, DriverSpec]):
    """Drivers by the names used in the configuration."""

    def __init__(self, points: Iterable[EntryPoint]) -> None:
        super().__init__()
        #: Why others cannot be used, by their names.
        self.refused: dict[str, str] = {}
        origins: dict[str, str] = {}
        for point in sorted(points, key=lambda point: point.name):
            name, origin = point.name, _origin(point)
            if name in origins:
                self.pop(name, None)
                self.refused[name] = (
                    f"there are two drivers {name!r}, {origins[name]} and {origin}: remove one of "
                    "the two distributions"
                )
                continue
            origins[name] = origin
            try:
                self[name] = _spec(point)
            except Exception as error:
                self.refused[name] = f"the driver {name!r}, {origin}, cannot be used: {error}"

    def __missing__(self, name: str) -> DriverSpec:
        raise Unsupported(self.why_not(name))

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


DRIVERS = Installed(entry_points(group=GROUP))
