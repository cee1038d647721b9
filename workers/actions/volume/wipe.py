"""Overwrite a volume, or a range of it, with zeroes."""

from __future__ import annotations

from orchestrator.actions.volume.wipe import WIPE
from orchestrator.domain.errors import Problem
from orchestrator.domain.sizes import round_up
from orchestrator.resources.volume.changes import set_volume
from workers.actions.volume.in_use import refuse_while_used
from workers.backends.base.abilities import CanWipe
from workers.backends.base.driver import driver_that
from workers.backends.base.facts import VolumeFacts
from workers.execution.handler import Handler
from workers.execution.outcomes import Become, Nothing, Part, of_volume
from workers.execution.truth import Seen
from workers.execution.work import Done, Work, recorded_volume, sizes_of

#: A wipe is written down in parts, at most this many, so that another attempt goes on behind
#: the last; a part is at least this large.
_WIPED_IN_PARTS = 64

_LEAST_PART = 2**30


def wipe(work: Work) -> Done:
    """Overwrite a volume, or a range of it, with zeroes; go on where an earlier attempt ended."""
    refuse_while_used(work)
    params = work.intent.params
    begin, length = params.get("offset_bytes", 0), params.get("length_bytes")
    size = recorded_volume(work).size_bytes
    end = size if length is None else begin + length
    part = max(_LEAST_PART, round_up(-(-(end - begin) // _WIPED_IN_PARTS), _LEAST_PART))
    work.intend("wipe", offset_bytes=begin, length_bytes=end - begin)
    facts, done = None, 0
    try:
        for offset in range(begin, end, part):
            last = offset + part >= end
            # Of a volume that has more than is recorded, all is wiped.
            much = None if last and length is None else min(part, end - offset)
            behind = min(end, offset + part)
            if last or work.intended(f"wiped to {behind}") is None:
                at = _PartialCall(work, offset - begin, end - begin)
                facts = driver_that(work.driver, CanWipe).wipe(
                    work.volume, at, offset=offset, length=much
                )
            done = behind - begin
            if not last:
                work.note(f"wiped to {behind}")
    except Problem as problem:
        raise type(problem)(
            f"{problem.detail}; of the {end - begin} bytes from {begin} on, at least the first "
            f"{done} are wiped",
            **{**problem.facts, "wiped_bytes": done},
        ) from problem
    assert facts is not None  # noqa: S101 - a range is never empty
    return Done(
        result={**sizes_of(facts), "wiped_bytes": done},
        changes=[set_volume(work.volume.id, **sizes_of(facts))],
        after={"wiped": True, "offset_bytes": begin, "length_bytes": done},
    )


class _PartialCall:
    """The `Call` of a part of long work: what it tells of its progress is added to the whole."""

    def __init__(self, work: Work, before: int, total: int) -> None:
        self._work, self._before, self._total = work, before, total
        self.job_id = work.job_id
        self.token = work.token
        self.fence = work.fence
        self.alone = work.alone
        self.checkpoint = work.checkpoint
        self.seconds_left = work.seconds_left
        self.ran = work.ran

    def progress(self, done: int, total: int, unit: str = "bytes") -> None:
        """Note how far the whole has come."""
        self._work.progress(self._before + done, self._total, unit)


def _outcome(work: Work, _facts: VolumeFacts, _seen: Seen) -> Become:
    """How far it came is in the journal, part by part."""
    begun = work.intended("wipe")
    if begun is None:
        return Nothing()
    begin, length = int(begun.detail["offset_bytes"]), int(begun.detail["length_bytes"])
    told = [step.name.removeprefix("wiped to ") for step in work.steps if step is not begun]
    done = max((int(behind) - begin for behind in told if behind.isdigit()), default=0)
    return Part(
        f"of the {length} bytes from {begin} on, at least the first {done} are wiped",
        {"wiped_bytes": done},
        stopped=True,
    )


HANDLERS = (Handler(WIPE, wipe, outcome=of_volume(_outcome)),)
