"""A process that may not be looked at is neither dead nor idle: that is not known of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from workers.storage_leases import _born

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a /proc")

ASKING = """
import os, sys
from pathlib import Path
from workers import storage_leases as leases
from workers.backends.file.uses import _processes
pid, born = map(int, sys.argv[1:3])
me = leases.this_process("here")
def holder(pid, born):
    return leases.Holder(id="x", host="here", boot=me.boot, pids=me.pids, pid=pid, born=born)
print(leases._is_alive(holder(pid, born), me), leases._is_alive(holder(2**22 - 3, 1), me))
print(_processes(os.stat("/"), False)[1])
"""


@pytest.mark.parametrize("hidepid", [0, 1, 2])
def test_a_process_that_may_not_be_looked_at_is_not_dead(hidepid: int) -> None:
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            told = asked(process.pid, hidepid)
        finally:
            process.kill()
    alive, dead, all_seen = told
    assert dead == "False"
    assert alive == ("True" if hidepid == 0 else "None")
    assert all_seen == "False"  # without the right to look into those of others


def asked(pid: int, hidepid: int) -> list[str]:
    """Ask about a process, and about one that is not there, from where /proc is mounted so."""
    mounted = f'mount -t proc -o hidepid={hidepid} proc /proc && exec "$@"'
    unprivileged = ("setpriv", "--regid=65534", "--clear-groups", "--bounding-set=-all")
    done = subprocess.run(
        [
            "unshare",
            "-m",
            "sh",
            "-c",
            mounted,
            "sh",
            *unprivileged,
            sys.executable,
            "-c",
            ASKING,
            str(pid),
            str(_born(pid)),
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()
