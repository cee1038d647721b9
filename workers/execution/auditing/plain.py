"""Volumes that are plainly as recorded: most are, and these are not loaded any further."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from orchestrator.domain.installed import DRIVERS
from orchestrator.domain.states import VolumeState
from orchestrator.store.queries.loading import RecordedVolume, VolumesRecorded
from orchestrator.store.transaction import Transaction
from workers.backends.base.driver import Driver
from workers.execution.auditing.seen import PAGE, Plain


def recorded(transaction: Transaction, backend_id: int) -> Iterator[Sequence[RecordedVolume]]:
    """The volumes of a backend by name, in pages."""
    after = ""
    while rows := transaction.ask(VolumesRecorded(backend_id, after, PAGE))[0]:
        after = rows[-1].name
        yield rows


class Sameness:
    """Compares volumes of one backend with their records."""

    def __init__(self, driver_name: str, driver: Driver) -> None:
        self._settings = DRIVERS[driver_name].settings
        self._has_metadata = "metadata" not in driver.cannot_tell
        self._has_policies = "policy" in driver.capabilities()

    def holds(self, record: RecordedVolume, there: Plain) -> bool:
        """Whether `comparing` would surely find no difference."""
        if record.attached or record.state == VolumeState.PENDING:
            return False
        kept = Plain(*json.loads(record.written))
        if (
            kept.name != there.name
            or kept.size_bytes != there.size_bytes
            or kept.snapshots != there.snapshots
            or (self._has_metadata and kept.metadata != there.metadata)
        ):
            return False
        return record.state == VolumeState.RESTRICTED or (
            not (self._has_policies and kept.policy != there.policy)
            and all(
                kept.settings[name] == there.settings.get(name)
                for name in self._settings & kept.settings.keys()
            )
        )
