"""A real file system for the backend ``fast``, to be unmounted and mounted again."""

from __future__ import annotations

import subprocess
from pathlib import Path


class Disk:
    """An image with ext4, mounted where the backend is."""

    def __init__(self, room: Path, place: Path) -> None:
        self.image, self.place = room / "disk.img", place
        with self.image.open("wb") as file:
            file.truncate(64 * 2**20)
        subprocess.run(["mkfs.ext4", "-q", str(self.image)], check=True)
        self.mount()

    def mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", str(self.image), str(self.place)], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", str(self.place)], check=True)

    def remount(self, how: str) -> None:
        """``ro`` or ``rw``."""
        subprocess.run(["mount", "-o", f"remount,{how}", str(self.place)], check=True)

    def close(self) -> None:
        if self.place.is_mount():
            subprocess.run(["umount", "-l", str(self.place)], check=True)
