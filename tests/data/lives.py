"""What has become of the database: as it is, put back to an older state, or copied."""

from __future__ import annotations

from typing import ClassVar

from tests.data.cases import V
from tests.data.model import Volume
from tests.data.patterns import SIZE
from tests.data.site import Site


class Life:
    """The one database that there is."""

    name: ClassVar[str] = "as it is"
    summary: ClassVar[str] = "the one that there is"

    def begin(self, site: Site) -> None:
        """Production has done its work so far; what becomes of the database then."""

    def worker(self, site: Site) -> Site:
        """Through which installation the action is tried."""
        return site

    def end(self) -> None:
        """Production alone goes on."""


class Restored(Life):
    name = "restored"
    summary = "put back to an older state, before its last changes"

    def begin(self, site: Site) -> None:
        room = site.directory / "kept"
        room.mkdir()
        kept = site.save(room)
        before = {name: list(one.snapshots) for name, one in site.model.volumes.items()}
        if "snapshots" in site.ground.has:
            site.do({"action": "snapshot.create", "volume": V, "snapshot": "late"})
        site.do({"action": "volume.create", "volume": "late", "params": {"size_bytes": SIZE}})
        site.remember()
        site.restore(kept)
        site.see_to_a_restore()
        late: Volume = site.model.volumes.pop("late")
        site.model.forgotten.append(late)
        volume = site.model.volumes[V]
        site.model.unrecorded |= {name for name in volume.snapshots if name not in before[V]}


class Copied(Life):
    name = "copied"
    summary = "a copy of the data directory acts beside production"

    def __init__(self) -> None:
        self._copy: Site | None = None

    def worker(self, site: Site) -> Site:
        room = site.directory / "copy"
        room.mkdir()
        self._copy = site.another(room)
        return self._copy

    def end(self) -> None:
        if self._copy is not None:
            self._copy.end()
            self._copy.databases.drop(self._copy.database_url)
            self._copy = None


LIVES: dict[str, type[Life]] = {life.name: life for life in (Life, Restored, Copied)}
