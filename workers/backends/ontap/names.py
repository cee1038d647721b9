"""Native names: one to one with the names people see, by escaping alone.

What a native name may not hold is written ``__`` and two lower-case hexadecimal digits.
"""

from __future__ import annotations

import re

from orchestrator.domain.errors import InvalidName
from orchestrator.domain.names import check_volume_name

#: What ONTAP allows: of a FlexVol, of a snapshot, of an export policy.
MAX_VOLUME = 203
MAX_SNAPSHOT = 255
MAX_POLICY = 256

#: Objects of the driver's own: what is being built, the identity marker, proofs of a rollback.
NEW = "orchestrator_new_"
MARKER = "orchestrator_marker_"
ROLLBACK = "orchestrator_rollback_"

_OURS = r"^o(?=rchestrator_(?:new|marker|rollback)_)"
#: An underscore is escaped where it would be read as the beginning of an escape.
_AMBIGUOUS = r"_(?=_[0-9a-f]{2})"
_VOLUME = re.compile(rf"{_OURS}|^[0-9]|[^A-Za-z0-9_]|{_AMBIGUOUS}", re.ASCII)
_OTHER = re.compile(rf"{_OURS}|[^A-Za-z0-9_.-]|{_AMBIGUOUS}", re.ASCII)
_ESCAPED = re.compile(r"__([0-9a-f]{2})", re.ASCII)

#: What the filer takes and deletes by itself, after a schedule: nobody counts on one of these.
_SCHEDULED = re.compile(
    r"[A-Za-z0-9]+\.\d{4}-\d\d-\d\d_\d{4}|(?:5min|hourly|nightly|daily|weekly|monthly)\.\d+",
    re.ASCII,
)


def is_scheduled(native: str) -> bool:
    """Whether a snapshot of this name was taken after a schedule of the filer's own."""
    return _SCHEDULED.fullmatch(native) is not None


def native_volume(name: str) -> str:
    """The filer's name of a volume. Raises `InvalidName`."""
    return _encoded(check_volume_name(name), _VOLUME, MAX_VOLUME)


def native_snapshot(name: str) -> str:
    """The filer's name of a snapshot. Raises `InvalidName`."""
    return _encoded(check_volume_name(name), _OTHER, MAX_SNAPSHOT)


def native_policy(name: str) -> str:
    """The filer's name of an export policy, or of a marker's end. Raises `InvalidName`."""
    return _encoded(name, _OTHER, MAX_POLICY)


def seen_volume(native: str) -> str:
    """The name people see. One that we would not give so is told with ``=`` before it."""
    return _decoded(native, _VOLUME)


def seen_other(native: str) -> str:
    """The same of a snapshot or a policy."""
    return _decoded(native, _OTHER)


def _encoded(name: str, escaped: re.Pattern[str], longest: int) -> str:
    native = escaped.sub(lambda found: f"__{ord(found[0]):02x}", name)
    if len(native) > longest:
        raise InvalidName(
            f"{name[:80]!r} needs {len(native)} characters on an ONTAP filer, which takes "
            f"{longest}: characters that it does not know, such as '/' and ':', count four"
        )
    return native


def _decoded(native: str, escaped: re.Pattern[str]) -> str:
    name = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), native)
    # No name has a '=', so what is told so is never taken for another.
    try:
        ours = _encoded(check_volume_name(name), escaped, len(native)) == native
    except InvalidName:
        ours = False
    return name if ours else f"={native}"
