"""What somebody may have meant by a name that is not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

from orchestrator.domain.errors import UnknownBackend

#: How alike two names must be, from 0 to 1, for one to be suggested for the other.
_ALIKE = 0.65

#: First words of verbs that take something away. They are never suggested: people type what is
#: suggested to them.
_LOSING = frozenset(
    {"archive", "break", "cancel", "delete", "detach", "discard", "downgrade", "drain", "force"}
    | {"forget", "purge", "recreate", "release", "remove", "replace", "restore", "restrict"}
    | {"retry", "revoke", "rollback", "wipe"}
)


def nearest(written: str, known: Iterable[str]) -> str | None:
    """The known name most like ``written``.

    None if no name is like it, or if the nearest is a verb that takes something away. Names with
    a dot are compared by what comes behind it, within the same kind where the kind is known.
    """
    names = list(known)
    kind, dot, _ = written.partition(".")
    if dot and any(name.startswith(f"{kind}.") for name in names):
        names = [name for name in names if name.startswith(f"{kind}.")]
    alike = max(names, key=lambda name: _likeness(written, name), default=None)
    if alike is None or _likeness(written, alike) < _ALIKE or loses(alike):
        return None
    return alike


def did_you_mean(written: str, known: Iterable[str], otherwise: str = "") -> str:
    """``: did you mean 'fast'?`` to go behind a sentence, or ``otherwise``."""
    found = nearest(written, known)
    return otherwise if found is None else f": did you mean {found!r}?"


def no_such_backend(name: str, known: Iterable[str]) -> UnknownBackend:
    """What to raise about a backend that there is not, with the one that may have been meant."""
    shown = "; 'orchestrator backend list' shows those there are"
    return UnknownBackend(
        f"there is no backend {name!r}{did_you_mean(name, known, shown)}", field="backend"
    )


def loses(name: str) -> bool:
    """Whether a command or an action of this name takes something away."""
    verb = _folded(name).rpartition(".")[2]
    return verb.partition("_")[0] in _LOSING


def _likeness(written: str, name: str) -> float:
    one, other = _folded(written), _folded(name)
    kind = one.partition(".")[0] + "."
    if other.startswith(kind):
        one, other = one.removeprefix(kind), other.removeprefix(kind)
    if one == other:
        return 1.0
    return SequenceMatcher(None, one, other).ratio()


def _folded(name: str) -> str:
    return name.casefold().replace("-", "_")
