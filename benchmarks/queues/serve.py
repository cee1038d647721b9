"""One rival, in its own environment: starts its workers, then obeys lines on standard input.

Each line is a number of jobs; the answer is the seconds they took. It begins with ``ready``.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
from typing import Any

_WARM_UP = 300


def main() -> None:
    """Serve the rival that the first argument names."""
    rival: Any = importlib.import_module(f"benchmarks.queues.on_{sys.argv[1]}")
    rival.install()
    started = [
        subprocess.Popen(
            [sys.executable, "-m", *words], stdin=subprocess.DEVNULL, stdout=sys.stderr
        )
        for words in rival.workers()
    ]
    stopping = threading.Event()
    for process in started:
        threading.Thread(target=_watch, args=(process, stopping), daemon=True).start()
    try:
        rival.seconds_for(_WARM_UP)
        print("ready", flush=True)
        for line in sys.stdin:
            print(rival.seconds_for(int(line)), flush=True)
    finally:
        stopping.set()
        for process in started:
            process.terminate()
        for process in started:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def _watch(process: subprocess.Popen[bytes], stopping: threading.Event) -> None:
    """End at once if a worker does: its jobs would be waited for in vain."""
    status = process.wait()
    if not stopping.is_set():
        print(f"a worker ended with {status}", file=sys.stderr, flush=True)
        os._exit(1)


if __name__ == "__main__":
    main()
