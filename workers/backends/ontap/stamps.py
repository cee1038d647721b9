"""The stamp: what we write into the comment of a volume or a snapshot that is ours.

``orchestrator 1 id=<32 hexadecimal digits> fence=<n>``, and behind it what there is of
``restored_by=<token>``, ``restoring=<token>``, ``restoring_to=<uuid>``, ``restoring_by=<uuid>``,
``size=<bytes>``, ``path=<junction path>``, ``was=<the comment before>``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

_STAMP = re.compile(r"orchestrator 1 id=([0-9a-f]{32}) fence=([0-9]+)((?: [a-z_]+=\S+)*)", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """What a comment says, if it is a stamp."""

    id: str
    #: The claim that changed the object last.
    fence: int
    #: The token of the job whose rollback made the present contents.
    restored_by: str | None = None
    #: That of the job that is rolling back; to which snapshot, and which job of the filer does it,
    #: both by the filer's uuid.
    restoring: str | None = None
    restoring_to: str | None = None
    restoring_by: str | None = None
    #: Of a snapshot: the volume's size then, which ONTAP does not keep.
    size: int | None = None
    #: Where a restricted volume was mounted, which ONTAP forgets.
    path: str | None = None
    #: Of what was adopted: its comment before that.
    was: str | None = None

    def written(self) -> str:
        """The comment."""
        told = {
            "restored_by": self.restored_by,
            "restoring": self.restoring,
            "restoring_to": self.restoring_to,
            "restoring_by": self.restoring_by,
            "size": self.size,
            "path": None if self.path is None else quote(self.path),
            "was": None if self.was is None else quote(self.was, safe=""),
        }
        more = (f" {key}={value}" for key, value in told.items() if value is not None)
        return f"orchestrator 1 id={self.id} fence={self.fence}{''.join(more)}"


def read_stamp(comment: str | None) -> Stamp | None:
    """What a comment says; None: the object is not ours."""
    found = _STAMP.fullmatch(comment or "")
    if found is None:
        return None
    told = dict(entry.split("=", 1) for entry in found[3].split())

    def number(key: str) -> int | None:
        return int(told[key]) if told.get(key, "").isdecimal() else None

    return Stamp(
        id=found[1],
        fence=int(found[2]),
        restored_by=told.get("restored_by"),
        restoring=told.get("restoring"),
        restoring_to=told.get("restoring_to"),
        restoring_by=told.get("restoring_by"),
        size=number("size"),
        path=unquote(told["path"]) if "path" in told else None,
        was=unquote(told["was"]) if "was" in told else None,
    )
