"""One rival, in its own environment: starts its workers, then obeys lines on standard input.

Each line is a number of jobs; the answer is what the rival's function returns for it, as JSON: the
seconds of all together (``seconds_for``), or of each one (``latencies``). It begins with ``ready``.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import threading
from typing import Any

_WARM_UP = {"seconds_for": 300, "latencies": 30}


def main() -> None:
    """Serve the rival that the first argument names by the function that the second one names."""
    _, name, function = sys.argv
    rival: Any = importlib.import_module(f"benchmarks.queues.on_{name}")
    measure = getattr(rival, function)
    rival.install()
    started = [
        subprocess.Popen(
            [sys.executable, "-m", *words], stdin=subprocess.DEVNULL, stdout=sys.stderr
        )
        for words in rival.workers(one_at_a_time=function == "latencies")
    ]
    stopping = threading.Event()
    for process in started:
        threading.Thread(target=_watch, args=(process, stopping), daemon=True).start()
    try:
        measure(_WARM_UP[function])
        print("ready", flush=True)
        for line in sys.stdin:
            print(json.dumps(measure(int(line))), flush=True)
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
