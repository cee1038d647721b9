"""The `tiny` driver for the conformance suite."""

from __future__ import annotations

from pathlib import Path

from tests.conformance.systems import INSTALLATION, System
from workers.backends.base.driver import Driver
from workers.backends.base.references import VolumeRef

from .driver import TinyDriver
from .spec import TinyOptions


class Tiny(System):
    kind = "tiny"
    driver: TinyDriver

    def start(self, room: Path, backend: str) -> None:
        self.room = room
        self.driver = self._driver("tiny")
        self.driver.write_identity("conformance-marker")

    def stop(self) -> None:
        pass

    def _driver(self, name: str) -> TinyDriver:
        (self.room / name).mkdir(exist_ok=True)
        return TinyDriver(name, TinyOptions(path=self.room / name), INSTALLATION)

    def options(self) -> TinyOptions:
        return TinyOptions(path=self.driver.path)

    def unmarked(self) -> Driver:
        return self._driver("unmarked")

    def absent(self) -> Driver | None:
        return TinyDriver("absent", TinyOptions(path=self.room / "not"), INSTALLATION)

    def write(self, volume: VolumeRef, data: bytes, offset: int = 0) -> None:
        with self.driver._file(volume.id).open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def read(self, volume: VolumeRef, length: int, offset: int = 0) -> bytes:
        with self.driver._file(volume.id).open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def plant_foreign(self, label: str) -> str:
        with self.driver._change() as index:
            index["volumes"][f"foreign {label}"] = {"name": label, "size": 4096, "metadata": {}}
        return label

    def leftovers(self) -> list[str]:
        known = self.driver._read()["volumes"]
        return [one.name for one in self.driver.path.glob("*.img") if one.stem not in known]
