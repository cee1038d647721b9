"""How the threads of a process share its interpreter."""

from __future__ import annotations

import sys

#: Seconds a busy thread may keep the interpreter while another waits for it. Threads that
#: talk to the database give it up at every round trip, and would wait for Python's usual
#: 5 ms each time to get it back.
_SWITCH_SECONDS = 0.0005


def share_fairly() -> None:
    """Let threads that wait for input take their turn soon, beside one that computes."""
    sys.setswitchinterval(_SWITCH_SECONDS)
