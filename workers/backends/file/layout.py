"""Where things lie below the directory of a `file` backend; names to paths and back, no I/O.

```
.orchestrator/identity.json              the marker
.orchestrator/lease.json                 who writes here
.orchestrator/tmp/<id>.<fence>.<what>    what is being built
.orchestrator/stamps/<id>.json           stamps that extended attributes cannot hold
.orchestrator/locks/<lane>               held while names are compared and given
volumes/<lane>/<name>~<id>.img
snapshots/<volume id>/<name>~<id>.img
```

The id in the path is what makes a late call harmless: it never meets a newer volume of the
same name. A lane is one of 256 directories, chosen by the name, so that whether a name is
taken is known from a short listing however many volumes there are.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

from orchestrator.domain.errors import InvalidName
from orchestrator.domain.names import check_volume_name
from workers.backends.base.references import check_id

OWN = ".orchestrator"
MARKER = "identity.json"
LEASE = "lease.json"
TEMPORARY = (OWN, "tmp")
STAMPS = (OWN, "stamps")
LOCKS = (OWN, "locks")
VOLUMES = ("volumes",)
SNAPSHOTS = ("snapshots",)
#: Made when the backend is set up, and never removed.
ALWAYS = (TEMPORARY, STAMPS, LOCKS, VOLUMES, SNAPSHOTS)

#: The longest part of a name that fits in one path component beside ``~<id>.img``
#: (file systems allow 255 bytes; 200 leaves room for those that allow a little less).
CHUNK = 200
#: Ends the directories of a split name. It appears in no name, so nothing collides with it.
CONTINUED = "~"
_LANE = re.compile(r"[0-9a-f]{2}")
_IMAGE = re.compile(r"([^~]{1,200})~([0-9a-f]{32})\.img", re.DOTALL)
_ESCAPED = re.compile(r"%([0-9A-F]{2})")
#: Colons are escaped for file systems and tools that give them a meaning.
_NEEDS_ESCAPE = re.compile(r"[/:]|^\.")


@dataclass(frozen=True)
class Place:
    """Where an image belongs."""

    #: Directories from the backend's own down to the image's.
    directory: tuple[str, ...]
    #: What the file's name begins with, up to and with the ``~`` before the id.
    prefix: str
    id: str

    @property
    def file(self) -> str:
        return f"{self.prefix}{self.id}.img"


def volume_place(name: str, volume_id: str) -> Place:
    """Where the image of a volume belongs; `InvalidName` if it could not be one's name."""
    check_volume_name(name)
    return _place((*VOLUMES, lane_of(name)), name, volume_id)


def snapshot_place(name: str, snapshot_id: str, volume_id: str) -> Place:
    """Where the image of a snapshot belongs."""
    check_volume_name(name)
    return _place((*SNAPSHOTS, check_id(volume_id)), name, snapshot_id)


def lane_of(name: str) -> str:
    """Two hexadecimal digits, evenly spread over names and the same everywhere."""
    return f"{zlib.crc32(name.encode()) & 0xFF:02x}"


def lane_of_directory(directory: tuple[str, ...]) -> str:
    """The name of the lock that guards names in a directory of images."""
    return lane_of("/".join(directory[:2]))


def permanent(directory: tuple[str, ...]) -> int:
    """How many directories down to an image's stay when they become empty."""
    return 2 if directory[:1] == VOLUMES else 1


def escape(name: str) -> str:
    """``name`` without slashes, colons and a leading dot; no two names give the same."""
    return _NEEDS_ESCAPE.sub(lambda found: f"%{ord(found[0]):02X}", name)


def unescape(text: str) -> str | None:
    """The name that `escape` made ``text`` of; None if it made no such text."""
    name = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
    try:
        check_volume_name(name)
    except InvalidName:
        return None
    return name if escape(name) == text else None


def is_lane(directory: str) -> bool:
    """Whether a directory below the volumes holds some of them."""
    return _LANE.fullmatch(directory) is not None


def holds_volumes(directory: tuple[str, ...]) -> bool:
    """Whether the files of a directory are listed as volumes."""
    below = directory[1:]
    return (
        directory[:1] == VOLUMES
        and (not below or is_lane(below[0]) or is_continued(below[0]))
        and all(is_continued(part) for part in below[1:])
    )


def is_continued(directory: str) -> bool:
    """Whether a directory holds the rest of long names."""
    return len(directory) == CHUNK + 1 and directory.endswith(CONTINUED)


def read_place(chunks: tuple[str, ...], file: str) -> tuple[str, str] | None:
    """The name and id in a path below a fixed directory; None if it is none of ours."""
    match = _IMAGE.fullmatch(file)
    if match is None:
        return None
    text = "".join(chunk.removesuffix(CONTINUED) for chunk in chunks) + match[1]
    name = unescape(text)
    return None if name is None else (name, match[2])


def _place(fixed: tuple[str, ...], name: str, object_id: str) -> Place:
    text = escape(name)
    chunks = [text[start : start + CHUNK] for start in range(0, len(text), CHUNK)]
    return Place(
        directory=(*fixed, *(chunk + CONTINUED for chunk in chunks[:-1])),
        prefix=chunks[-1] + "~",
        id=check_id(object_id),
    )
