"""``python -m tests.ontap PORT STATE``: the double as a process, its state in a file."""

import pickle
import sys
import threading
from pathlib import Path

from tests.ontap.double import Double


def main() -> None:
    port, state = int(sys.argv[1]), Path(sys.argv[2])
    double = Double(port)
    keys = ("volumes", "svms", "aggregates", "interfaces", "locks")
    if state.exists():
        kept, policies = pickle.loads(state.read_bytes())
        for key, value in zip(keys, kept, strict=True):
            setattr(double.filer, key, value)
        double.filer.policies.take_up(policies)

    def keep() -> None:
        kept = [getattr(double.filer, key) for key in keys]
        new = state.with_suffix(".new")
        new.write_bytes(pickle.dumps((kept, double.filer.policies.records)))
        new.replace(state)

    double.changed = keep
    double.start()
    print(double.port, flush=True)
    threading.Event().wait()


main()
