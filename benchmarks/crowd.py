"""Many clients at once: threads of this process, each with a connection of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

#: Does one job and waits for its end.
Act = Callable[[], None]


def finished_per_second(arrive: Callable[[], Act], *, clients: int, each: int) -> float:
    """Jobs a second that ``clients`` finish, each doing ``each`` of them one after the other.

    ``arrive`` is called once in each client's thread; the clock starts when every client has
    done one job that does not count.
    """
    ready = threading.Barrier(clients + 1)

    def client() -> float:
        act = arrive()
        act()
        ready.wait(60)
        for _ in range(each):
            act()
        return time.perf_counter()

    with ThreadPoolExecutor(clients) as threads:
        futures = [threads.submit(client) for _ in range(clients)]
        try:
            ready.wait(60)
        except threading.BrokenBarrierError:
            for future in futures:
                future.result()
            raise
        begun = time.perf_counter()
        ended = max(future.result() for future in futures)
    return clients * each / (ended - begun)
