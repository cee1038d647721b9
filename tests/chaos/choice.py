"""Which cells a run tries: all of them, or some that a seed chooses.

``CHAOS=long`` asks for the whole matrix, ``CHAOS_PART`` for some of its cases, ``CHAOS_TESTS`` for
that many tests of it, each with a few cells. ``CHAOS_SEED`` gives the seed, and ``CHAOS_STEP`` the
one step that is tried: together with ``-k`` that is a single cell. ``CHAOS_SEEDS`` (``1-50``,
``2,7``) asks for a storm of each.
"""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Sequence

from tests.chaos.cases import CASES
from tests.chaos.faults import FAULTS, Alternating

#: What the short form tries: tests, and cells in each.
_SHORT_TESTS = 14
_SHORT_CELLS = 2
_DEFAULT_SEED = 1
#: Parts that the cases are spread over in the long form.
PARTS = 8

Test = tuple[str, str, str, str, str]


def _seeds(written: str) -> list[int]:
    found: list[int] = []
    for part in filter(None, written.split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


class Choice:
    """Says what is tried; the same for the same seed, on every machine."""

    def __init__(self) -> None:
        self.long = os.environ.get("CHAOS") == "long"
        self.seed = int(os.environ.get("CHAOS_SEED") or _DEFAULT_SEED)
        self._tests = int(os.environ.get("CHAOS_TESTS") or _SHORT_TESTS)
        #: The part that is run; None: all.
        self.part = int(os.environ["CHAOS_PART"]) if os.environ.get("CHAOS_PART") else None
        self._step = os.environ.get("CHAOS_STEP") or None
        #: The seeds of the storms; none if nobody has asked for them.
        self.storms = _seeds(os.environ.get("CHAOS_SEEDS", ""))

    @property
    def told(self) -> str:
        """One line for the head of a run's report."""
        return f"chaos: the {'long' if self.long else 'short'} form, seed {self.seed}"

    def random(self, purpose: str) -> random.Random:
        """A source of chance for one purpose."""
        return random.Random(f"{self.seed} {purpose}")

    def of_tests(self, found: Sequence[Test]) -> Sequence[Test]:
        """The tests that are tried: in the short form every fault, on a few actions."""
        if self.part is not None:
            cases = list(CASES)[self.part :: PARTS]
            found = [one for one in found if one[4] in cases]
        if self.long or self._step:
            return found
        chance = self.random("tests")
        chosen = {chance.choice([one for one in found if one[3] == fault]) for fault in FAULTS}
        while len(chosen) < min(self._tests, len(found)):
            chosen.add(chance.choice(found))
        return [one for one in found if one in chosen]

    def of_steps(
        self, steps: Sequence[str], role: str, case: str, fault: str, driver: str, database: str
    ) -> Sequence[str]:
        """The steps to try of those that a case passes."""
        if self._step:
            return [name for name in steps if name == self._step]
        here = f"{role} {case} {fault} {driver} {database}"
        if not self.long:
            return self.random(here).sample(steps, min(_SHORT_CELLS, len(steps)))
        return [name for name in steps if self._is_here(name, role, case, fault, driver, database)]

    def _is_here(
        self, step: str, role: str, case: str, fault: str, driver: str, database: str
    ) -> bool:
        """Whether the cell is for this driver and this database, where they alternate."""
        made = FAULTS[fault]
        drivers = [one for one in made.drivers if CASES[case].fits(one)]
        databases = made.databases
        number = zlib.crc32(f"{self.seed} {role} {case} {fault} {step}".encode())
        all_drivers = made.alternating is Alternating.NONE and role == "worker"
        all_databases = made.alternating is Alternating.NONE or (
            made.alternating is Alternating.DRIVERS and role == "worker"
        )
        right_driver = drivers[number % len(drivers)] == driver
        right_database = databases[number // len(drivers) % len(databases)] == database
        return (right_driver or all_drivers) and (right_database or all_databases)

    def again(self, role: str, case: str, fault: str, driver: str, database: str, step: str) -> str:
        """The command that tries one cell alone."""
        name = "-".join((database, driver, role, fault, case)).replace(" ", "_")
        return f"Alone: make chaos STEP={step} SEED={self.seed} ARGS='-k \"{name}\"'"


CHOICE = Choice()
