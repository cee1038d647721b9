"""Imported by every Python process that finds it first: switches a guard off where one is named.

The product has no such switch. This directory is on the path of a test's own product only.
"""

import os
import sys

if (guard := os.environ.get("CHAOS_WITHOUT")) and "orchestrator" in sys.orig_argv:
    from tests.chaos import without

    without.switch_off(guard)
