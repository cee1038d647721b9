"""Which cells a run tries: the same for the same seed, on every machine.

The full product is far too large. Cells are chosen so that on every storage each pair of values
of any two of the things that make a cell comes together in one cell at least: each action with
each state, each state with what each of the others does, each of these at each moment, and so on.
"""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter
from dataclasses import dataclass

from tests.data.cases import CASES
from tests.data.cell import AFTERWARDS, Cell
from tests.data.grounds import GROUNDS, Ground
from tests.data.lives import LIVES
from tests.data.moments import MOMENTS
from tests.data.others import OTHERS
from tests.data.states import STATES

_DEFAULT_SEED = 1
#: Cells that the short form tries of each storage.
_SHORT = 3
#: How many combinations are looked at for each pair of an action and what others do.
_LOOK = 12
#: Tests that the cells of a storage are spread over.
PARTS = 8


#: Actions that may strike the record of a snapshot that is not there.
_STRIKES = ("snapshot.delete", "volume.reconcile", "volume.adopt")


@dataclass(frozen=True)
class Choice:
    """What is asked for: ``DATA=long`` all, ``DATA_SEED`` the seed, ``DATA_CELL`` one cell,
    ``DATA_PART`` one part of the cells of each storage.
    """

    long: bool = os.environ.get("DATA") == "long"
    seed: int = int(os.environ.get("DATA_SEED") or _DEFAULT_SEED)
    cell: str | None = os.environ.get("DATA_CELL") or None
    part: int | None = int(os.environ["DATA_PART"]) if os.environ.get("DATA_PART") else None

    @property
    def spread(self) -> int:
        """Over how many parts the cells of a storage are spread; the short form is one."""
        return PARTS if self.long or self.cell else 1

    @property
    def parts(self) -> list[int]:
        """The parts to try."""
        return list(range(self.spread)) if self.part is None else [self.part]

    @property
    def told(self) -> str:
        """One line for the head of a run's report."""
        return f"data: the {'long' if self.long else 'short'} form, seed {self.seed}"

    def cells(self, ground: str) -> list[Cell]:
        """The cells of one storage, in the order in which they are tried."""
        found = _pairwise(GROUNDS[ground], random.Random(f"{self.seed} {ground}"))
        if self.cell is not None:
            return [one for one in found if self.cell in one.id]
        if self.long:
            return found
        return random.Random(f"{self.seed} {ground} short").sample(found, min(_SHORT, len(found)))


def excluded(ground: type[Ground]) -> Counter[str]:
    """What does not apply to a storage, and why."""
    left: Counter[str] = Counter()
    for case in CASES.values():
        if why := case.fits(ground.driver, ground.has):
            left[f"{case.id}: {why}"] += 1
    for table, what in ((STATES, "state"), (OTHERS, "others")):
        for name, one in table.items():
            if lacking := one.needs - ground.has:
                left[f"{what} {name!r}: the storage has no {', '.join(sorted(lacking))}"] += 1
    return left


def _pairwise(ground: type[Ground], chance: random.Random) -> list[Cell]:
    cases = [name for name, one in CASES.items() if one.fits(ground.driver, ground.has) is None]
    states = [name for name, one in STATES.items() if one.needs <= ground.has]
    others = [name for name, one in OTHERS.items() if one.needs <= ground.has]
    lives = [name for name in LIVES if name == "as it is" or ground.driver == "file"]
    seen: Counter[tuple[str, ...]] = Counter()
    cells: list[Cell] = []

    def choose(fixed: dict[str, str]) -> None:
        best, most = None, -1
        for _ in range(_LOOK):
            made = {
                "case": chance.choice(cases),
                "state": chance.choice(states),
                "others": chance.choice(others),
                "moment": chance.choice(list(MOMENTS)),
                # Most of what happens happens to a database that is as it is.
                "life": chance.choice(lives) if chance.random() < 0.3 else lives[0],
                "afterwards": chance.choice(list(AFTERWARDS)),
                **fixed,
            }
            if not _possible(made, ground):
                continue
            new = sum(1 for pair in _pairs(made) if not seen[pair])
            if new > most:
                best, most = made, new
        if best is not None:
            seen.update(_pairs(best))
            cells.append(Cell(ground.name, **best))

    # The widest pairs first: what is in them brings most of the others with it.
    for case, other in itertools.product(cases, others):
        choose({"case": case, "others": other})
    tables = {
        "case": cases,
        "state": states,
        "others": others,
        "moment": list(MOMENTS),
        "life": lives,
    }
    for (one, first), (two, second) in itertools.combinations(tables.items(), 2):
        for a, b in itertools.product(first, second):
            if not seen[one, a, two, b]:
                choose({one: a, two: b})
    return list(dict.fromkeys(cells))


def _pairs(made: dict[str, str]) -> list[tuple[str, ...]]:
    return [(*one, *two) for one, two in itertools.combinations(made.items(), 2)]


def _possible(made: dict[str, str], ground: type[Ground]) -> bool:
    case, others, state = CASES[made["case"]], OTHERS[made["others"]], STATES[made["state"]]
    if case.states and made["state"] not in case.states:
        return False
    if others.name == "nothing" and (made["moment"], made["afterwards"]) != ("queued", "wait"):
        return False
    if made["life"] == "copied" and made["moment"] != "queued":
        # A copy does not come as far as the storage.
        return False
    if others.writes and not state.writes:
        return False
    if others.on_snapshot and not case.snapshots:
        return False
    if others.name == "snapshot: move away" and case.action in _STRIKES:
        # Its record goes as was asked for, and what is put back then is nobody's.
        return False
    if others.moments and made["moment"] not in others.moments:
        return False
    if others.differs and "stamps" not in ground.has and made["moment"] in ("inside", "done"):
        # A provider's script is at work then, and nobody else sees what it copies.
        return False
    if others.differs and ground.driver == "extstorage" and "attach" not in ground.has:
        # What only a hypervisor can open cannot be compared with its record here.
        return False
    lies = ground.driver == "extstorage" and "honest" not in ground.has
    if lies and others.name == "move away" and case.action in ("volume.remove", "volume.purge"):
        # It says that it has removed what was not there; what comes back is seen by nobody.
        return False
    if case.action in ("volume.adopt", "volume.purge", "volume.unrestrict"):
        # A volume that is hidden, or struck from the inventory, is not attached by jobs.
        return state.name in ("plain", "attached by hand", "open by its address") or (
            state.name == "mounted in another namespace"
        )
    return True


CHOICE = Choice()
