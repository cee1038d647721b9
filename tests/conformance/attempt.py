"""A worker that dies: runs one call of a driver in this process, which kills itself in it.

``python -m tests.conformance.attempt DRIVER BACKEND INSTALLATION OPTIONS CALL DIE_AT``
"""

import importlib
import json
import os
import signal
import sys

from orchestrator.domain.installed import DRIVERS
from tests.conformance.calls import Claim
from workers.backends.base.references import SnapshotRef, VolumeRef


def _ref(given):
    if isinstance(given, dict) and "volume" in given:
        return SnapshotRef(given["id"], given["name"], _ref(given["volume"]))
    if isinstance(given, dict) and "id" in given:
        return VolumeRef(**given)
    return given


def main() -> None:
    kind, backend, installation, options, call, die_at = sys.argv[1:]
    module, _, name = DRIVERS[kind].target.partition(":")
    driver = getattr(importlib.import_module(module), name)(
        backend, DRIVERS[kind].options.model_validate_json(options), installation
    )
    wanted = json.loads(call)

    def die(number: int) -> None:
        if number == int(die_at):
            os.kill(os.getpid(), signal.SIGKILL)

    claim = Claim(job_id=wanted["job_id"], fence=wanted["fence"], at_checkpoint=die)
    getattr(driver, wanted["method"])(
        *map(_ref, wanted["arguments"]), claim, **wanted.get("options", {})
    )


main()
