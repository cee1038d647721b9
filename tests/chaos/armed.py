"""Failpoints armed from outside, and whether they have fired."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Armed:
    """One failpoint in a directory that children look into."""

    def __init__(
        self,
        directory: Path,
        name: str,
        point: str,
        deed: str,
        *,
        nth: int = 1,
        where: dict[str, Any] | None = None,
    ) -> None:
        self._path = directory / f"{name}.json"
        written = {"point": point, "do": deed, "nth": nth, "times": 1, "where": where or {}}
        # In one step, so that nobody reads half of it.
        building = self._path.with_suffix(".new")
        building.write_text(json.dumps(written))
        building.rename(self._path)

    @property
    def fired(self) -> bool:
        return self._path.with_suffix(".fired").exists()

    @property
    def victims(self) -> list[int]:
        """The processes that it has acted on."""
        try:
            return [int(pid) for pid in self._path.with_suffix(".fired").read_text().split()]
        except FileNotFoundError:
            return []

    @property
    def passes(self) -> int:
        """How often the point was passed."""
        try:
            return self._path.with_suffix(".passes").stat().st_size
        except FileNotFoundError:
            return 0

    def release(self) -> None:
        """Disarm it, and let go whoever pauses there."""
        self._path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Leave nothing of it."""
        for ending in (".json", ".fired", ".passes"):
            self._path.with_suffix(ending).unlink(missing_ok=True)
