"""Change entries of a volume's metadata, and settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.actions.volume.update import SET_INFO, UPDATE
from orchestrator.domain.installed import DRIVERS
from orchestrator.resources.volume.changes import set_volume, settings_columns
from workers.backends.base.abilities import CanConfigure, CanSetMetadata
from workers.backends.base.driver import driver_that
from workers.backends.base.facts import VolumeFacts
from workers.execution.handler import Handler
from workers.execution.outcomes import Become, Nothing, Part, Whole, of_volume
from workers.execution.truth import Seen
from workers.execution.work import Done, Work, recorded_volume, settings_found


def update(work: Work) -> Done:
    """Change entries of the metadata, and settings."""
    changed: dict[str, str | None] = work.intent.params.get("metadata") or {}
    done = _set_metadata(work, changed) if changed else Done()
    return _configured(work, done) if work.intent.settings else done


def set_info(work: Work) -> Done:
    """Keep another system's text with the volume."""
    return _set_metadata(work, {"info": work.intent.params["info"]})


def _set_metadata(work: Work, changed: dict[str, str | None]) -> Done:
    before = recorded_volume(work).metadata
    merged = {**before, **changed}
    after = {key: text for key, text in merged.items() if text is not None}
    work.intend("set_metadata")
    driver_that(work.driver, CanSetMetadata).set_metadata(work.volume, after, work)
    return Done(
        result={"metadata": after},
        changes=[set_volume(work.volume.id, metadata=after)],
        before={"metadata": before},
        after={"metadata": after},
    )


def _configured(work: Work, done: Done) -> Done:
    """Change settings: those of the storage there, the others in the inventory alone."""
    wanted, recorded = work.intent.settings, recorded_volume(work).settings
    has = DRIVERS[work.claim.driver].settings
    native = {name: value for name, value in wanted.items() if name in has}
    work.intend("configure")
    after = {**recorded, **wanted}
    record = settings_columns(after)
    if native:
        record = settings_found(
            driver_that(work.driver, CanConfigure).configure(work.volume, native, work), after
        )
    return Done(
        result={**done.result, "settings": record["settings"]},
        changes=[*done.changes, set_volume(work.volume.id, **record)],
        before={**(done.before or {}), "settings": recorded},
        after={**(done.after or {}), "settings": record["settings"]},
    )


def _outcome(work: Work, facts: VolumeFacts, _seen: Seen) -> Become:
    """Metadata first, then settings: each is as it was, or as it was to be."""
    record, asked = recorded_volume(work), work.intent.params.get("metadata") or {}
    if work.intent.action.verb == "set_info":
        asked = {"info": work.intent.params["info"]}
    metadata = {**record.metadata, **asked}
    metadata = {key: text for key, text in metadata.items() if text is not None}
    settings = {**record.settings, **work.intent.settings}
    native = {
        name: value
        for name, value in work.intent.settings.items()
        if name in DRIVERS[work.claim.driver].settings
    }
    if asked and "metadata" in work.driver.cannot_tell:
        return Part("whether the storage has been told the new text cannot be seen: set it again")
    done = []
    if asked:
        done.append(dict(facts.metadata) == metadata)
    if work.intent.settings:
        # Others are in the inventory alone: nothing of them has happened.
        there = all(facts.settings.get(name) == value for name, value in native.items())
        done.append(there if native else done == [True])
    if not all(done):
        return _some(done, "the metadata is as asked for, and the settings are not")
    values: dict[str, Any] = {"metadata": metadata} if asked else {}
    if work.intent.settings:
        told = settings_found(facts, settings, work.intent.settings.get("junction_path"))
        values |= told if native else settings_columns(settings)
    told = {part: values[part] for part in ("metadata", "settings") if part in values}
    return Whole(Done(result=told, changes=[set_volume(record.id, **values)], after=told))


def _some(done: Sequence[bool], told: str) -> Become:
    return Part(told) if any(done) else Nothing()


HANDLERS = (
    Handler(UPDATE, update, outcome=of_volume(_outcome)),
    Handler(SET_INFO, set_info, outcome=of_volume(_outcome)),
)
