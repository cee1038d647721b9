"""How a server process uses its interpreter."""

from __future__ import annotations

import gc
import sys

#: Seconds a busy thread may keep the interpreter while another waits for it. Threads that
#: talk to the database give it up at every round trip, and would wait for Python's usual
#: 5 ms each time to get it back.
_SWITCH_SECONDS = 0.0005
#: How many more objects there must be before Python looks for garbage that only refers to
#: itself. A batch of thousands of jobs is all alive: with the usual 700, looking takes a
#: third of the time of accepting one.
_GARBAGE = (20_000, 20, 50)


def tune() -> None:
    """Set this process up; to be called once all is imported."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GARBAGE)
