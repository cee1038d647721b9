"""Volumes that are plainly as recorded: an audit passes over these, and over no other."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.domain.installed import DRIVERS
from orchestrator.store.queries.loading import RecordedVolume
from workers.backends.base.facts import SnapshotFacts, VolumeFacts
from workers.backends.memory.driver import MemoryDriver
from workers.backends.memory.spec import MemoryOptions
from workers.execution.auditing.plain import Sameness
from workers.execution.auditing.seen import Plain, nothing_seen

SETTING = min(DRIVERS["memory"].settings)
SAME = Plain("v", 512, {"owner": "me"}, {SETTING: 1}, "p", [["1", "a", 512], ["2", "b", 512]])
RECORD = RecordedVolume("7", "v", "available", False, json.dumps(SAME))

VOLUME = VolumeFacts(id="7", name="v", size_bytes=512, used_bytes=0)
SNAPSHOT = SnapshotFacts(id="1", name="a", size_bytes=512, used_bytes=0)


@pytest.fixture(scope="module")
def same() -> Sameness:
    options = MemoryOptions()
    return Sameness("memory", MemoryDriver("ram", options, uuid.uuid4().hex))


def test_what_is_as_recorded_is_passed_over(same: Sameness) -> None:
    assert same.holds(RECORD, SAME)


@pytest.mark.parametrize(
    "other",
    [
        {"name": "w"},
        {"size_bytes": 1024},
        {"metadata": {}},
        {"settings": {}},
        {"policy": None},
        {"snapshots": SAME.snapshots[:1]},
        {"snapshots": [*SAME.snapshots, [None, "c", 512]]},
        {"snapshots": SAME.snapshots[::-1]},
        {"snapshots": [["1", "a", 512], ["2", "b", 1024]]},
    ],
    ids=str,
)
def test_what_differs_is_not(same: Sameness, other: dict[str, Any]) -> None:
    assert not same.holds(RECORD, SAME._replace(**other))


def test_what_is_hidden_need_not_be_offered_as_recorded(same: Sameness) -> None:
    there = SAME._replace(policy=None, settings={})
    assert same.holds(RECORD._replace(state="restricted"), there)


@pytest.mark.parametrize("other", [{"state": "pending"}, {"attached": True}], ids=str)
def test_what_is_being_made_or_in_use_is_looked_into(same: Sameness, other: dict[str, Any]) -> None:
    assert not same.holds(RECORD._replace(**other), SAME)


def test_a_volume_is_matched_by_its_stamp() -> None:
    with nothing_seen() as seen:
        seen.add(VOLUME, [SNAPSHOT], ())
        seen.add(replace(VOLUME, id=None, name="w"), (), ())
        assert seen.match(["7", "8"]) == {"7": Plain("v", 512, {}, {}, None, [["1", "a", 512]])}
        assert [[one.facts.name for one in page] for page in seen.unmatched()] == [["w"]]
        [found] = seen.of(["7"])["7"]
        assert (found.facts, found.snapshots, found.devices) == (VOLUME, (SNAPSHOT,), ())


@pytest.mark.parametrize(
    ("volume", "snapshot"),
    [
        ({"attached": True}, {}),
        ({"links": 2}, {}),
        ({"owner": "7:7 0600"}, {}),
        ({"written_at": 1.0}, {}),
        ({}, {"links": 2}),
        ({}, {"owner": "7:7 0600"}),
        ({}, {"written_at": 1.0}),
    ],
    ids=str,
)
def test_what_others_may_lay_hands_on_is_looked_into(
    volume: dict[str, Any], snapshot: dict[str, Any]
) -> None:
    with nothing_seen() as seen:
        seen.add(replace(VOLUME, **volume), [replace(SNAPSHOT, **snapshot)], ())
        assert seen.match(["7"]) == {}
        assert list(seen.unmatched()) == []


def test_of_two_with_one_stamp_neither_is_passed_over() -> None:
    with nothing_seen() as seen:
        seen.add(VOLUME, (), ())
        seen.add(replace(VOLUME, name="copy"), (), ())
        assert seen.match(["7"]) == {}
        assert len(seen.of(["7"])["7"]) == 2
