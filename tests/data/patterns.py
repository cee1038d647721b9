"""Contents that tell whose they are: each block names its volume, its generation and its place.

A volume of the matrix is a small file system, so that it can be mounted; behind it are two pieces
of a pattern, a hole before each, so that copies are made in several steps. Where a copy is torn,
the generations of its blocks differ; where something is shown to whom it does not belong, a block
names another volume.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

MIB = 2**20
BLOCK = 4096
SIZE = 2 * MIB
#: The file system at the beginning of a volume.
SYSTEM = MIB
#: Where the pieces of the pattern begin and end.
PIECES = ((5 * MIB // 4, 3 * MIB // 2), (7 * MIB // 4, 2 * MIB))
ZERO = bytes(BLOCK)
_MAKE = ("mkfs.ext4", "-q", "-F", "-b", "1024", "-O", "^has_journal")


def pattern(owner: str, generation: int) -> bytes:
    """What a person has written into a volume."""
    data = bytearray(file_system().ljust(SIZE, b"\0"))
    for start, end in PIECES:
        for offset in range(start, end, BLOCK):
            data[offset : offset + BLOCK] = block(owner, generation, offset)
    return bytes(data)


def written() -> list[tuple[int, int]]:
    """Where a person writes: the rest of a volume is left as it was made."""
    return [(0, SYSTEM), *PIECES]


@cache
def block(owner: str, generation: int, offset: int) -> bytes:
    """One block of a pattern."""
    made = hashlib.sha256(f"{owner} {generation} {offset}".encode()).digest() * (BLOCK // 32)
    _OWNERS[made] = owner
    return made


#: Whose each block is that was ever written.
_OWNERS: dict[bytes, str] = {}


def owners(held: bytes) -> set[str]:
    """Whose blocks these contents have."""
    blocks = (held[offset : offset + BLOCK] for offset in range(SYSTEM, len(held), BLOCK))
    return {_OWNERS[one] for one in blocks if one in _OWNERS}


@cache
def file_system() -> bytes:
    """A file system with a file in it, the same for all volumes; zeroes where none can be made."""
    if shutil.which("mkfs.ext4") is None:
        return bytes(SYSTEM)
    with tempfile.TemporaryDirectory() as room:
        (Path(room) / "files").mkdir()
        (Path(room) / "files" / "letter").write_bytes(b"somebody needs this" * 50)
        image = Path(room) / "image"
        image.write_bytes(bytes(SYSTEM))
        subprocess.run(
            [*_MAKE, "-d", str(Path(room) / "files"), str(image)],
            check=True,
            capture_output=True,
        )
        return image.read_bytes()


def differing(held: bytes, wanted: bytes) -> str:
    """Where the first difference is, and how many blocks differ, for people."""
    if len(held) != len(wanted):
        beginning = held[: len(wanted)] == wanted[: len(held)]
        return f"{len(held)} bytes instead of {len(wanted)}" + ("" if beginning else ", others")
    places = [
        offset
        for offset in range(0, len(wanted), BLOCK)
        if held[offset : offset + BLOCK] != wanted[offset : offset + BLOCK]
    ]
    zero = sum(held[offset : offset + BLOCK] == ZERO for offset in places)
    return f"{len(places)} blocks differ from {places[0] if places else 0} on, {zero} are zeroes"
