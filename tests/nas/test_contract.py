"""The NAS contract, method by method, on every kind of storage.

All that names something is passed by keyword: the names of the parameters are contract.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.domain.errors import Unavailable
from orchestrator.nas import (
    DummyStorage,
    StorageBackend,
    ValidationError,
    annotate_exception,
    normalised_with,
    patch_and_diff,
)
from tests.acceptance.conftest import free_port
from tests.nas.conftest import (
    KINDS,
    OWN,
    SIZE,
    WITH_CONTENTS,
    WITH_POLICIES,
    WITH_SETTINGS,
    WITHOUT_POLICIES,
    WITHOUT_SETTINGS,
    Storages,
    at_once,
)

NETWORK, HOST_RULE = "10.0.0.0/24", "2001:db8::7(ro)"

on = pytest.mark.parametrize


def policies_needed(test: Any) -> Any:
    return on("kind", WITH_POLICIES, indirect=True)(test)


class Printed:
    """Prints as a name, and is none."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __str__(self) -> str:
        return self._name


def made(storage: StorageBackend, name: str, **fields: Any) -> dict[str, Any]:
    """A new volume, given in the one way that every kind of storage takes."""
    volume: dict[str, Any] = storage.create_volume(
        volume_name=f":/{name}", **{"name": name, "size_total": SIZE, **fields}
    )
    return volume


def listed(storage: StorageBackend, name: str) -> list[dict[str, Any]]:
    return [volume for volume in storage.volumes if volume["name"] == name]


def says(raised: pytest.ExceptionInfo[BaseException]) -> str:
    """The sentence of an error."""
    (sentence,) = raised.value.args
    assert isinstance(sentence, str)
    assert len(sentence.split()) > 3, "a sentence, not a word"
    return sentence


#: Every method that is about a volume, called for the volume ``name``.
ON_A_VOLUME: dict[str, Callable[[StorageBackend, str], Any]] = {
    "get_volume": lambda s, name: s.get_volume(volume_name=name),
    "patch_volume": lambda s, name: s.patch_volume(volume_name=name, size_total=2 * SIZE),
    "restrict_volume": lambda s, name: s.restrict_volume(volume_name=name),
    "rollback_volume": lambda s, name: s.rollback_volume(
        volume_name=name, restore_snapshot_name="snap"
    ),
    "clone_volume": lambda s, name: s.clone_volume(
        clone_volume_name=f"{name}_clone", from_volume_name=name, from_snapshot_name="snap"
    ),
    "create_snapshot": lambda s, name: s.create_snapshot(volume_name=name, snapshot_name="snap"),
    "get_snapshot": lambda s, name: s.get_snapshot(volume_name=name, snapshot_name="snap"),
    "get_snapshots": lambda s, name: s.get_snapshots(volume_name=name),
    "delete_snapshot": lambda s, name: s.delete_snapshot(volume_name=name, snapshot_name="snap"),
    "locks": lambda s, name: s.locks(volume_name=name),
    "create_lock": lambda s, name: s.create_lock(volume_name=name, host_owner="host1"),
    "remove_lock": lambda s, name: s.remove_lock(volume_name=name, host_owner="host1"),
}

#: Every method that is about an export policy, called for the policy ``name``.
ON_A_POLICY: dict[str, Callable[[StorageBackend, str], Any]] = {
    "get_policy": lambda s, name: s.get_policy(policy_name=name),
    "remove_policy": lambda s, name: s.remove_policy(policy_name=name),
    "ensure_policy_rule_present": lambda s, name: s.ensure_policy_rule_present(
        policy_name=name, rule=NETWORK
    ),
    "ensure_policy_rule_absent": lambda s, name: s.ensure_policy_rule_absent(
        policy_name=name, rule=NETWORK
    ),
}


# -- volumes ----------------------------------------------------------------------------------


def test_a_new_volume_is_returned_found_and_listed(storage: StorageBackend, name: str) -> None:
    size = SIZE + 12345
    volume = storage.create_volume(volume_name=f":/{name}", name=name, size_total=size)
    assert volume == storage.get_volume(volume_name=f":/{name}")
    assert volume == storage.get_volume(volume_name=name)
    assert listed(storage, name) == [volume]
    assert size <= volume["size_total"] <= 10 * size
    assert volume["name"] == name
    assert volume["junction_path"] == f"/{name}"


def test_a_volume_tells_at_least_what_the_contract_names(
    storage: StorageBackend, name: str
) -> None:
    volume = made(storage, name)
    assert 0 <= volume["size_used"] <= volume["size_total"]
    assert isinstance(volume["filer_address"], str)
    assert volume["filer_address"]
    assert volume["state"] == "available"
    assert parsedate_to_datetime(volume["creation_time"]).tzinfo is not None


def test_a_volume_given_by_name_has_the_path_it_was_given(
    storage: StorageBackend, name: str
) -> None:
    volume = storage.create_volume(volume_name=name, junction_path=f"/{name}", size_total=SIZE)
    assert volume == storage.get_volume(volume_name=name)
    assert volume == storage.get_volume(volume_name=f":/{name}")


def test_the_node_before_a_path_is_ignored(storage: StorageBackend, name: str) -> None:
    volume = storage.create_volume(volume_name=f"node1:/{name}", name=name, size_total=SIZE)
    assert volume == storage.get_volume(volume_name=f"node2:/{name}")
    with pytest.raises(KeyError):
        storage.create_volume(volume_name=f"node2:/{name}", name=f"{name}_2", size_total=SIZE)


def test_paths_have_slashes(storage: StorageBackend, name: str) -> None:
    volume = storage.create_volume(volume_name=f":/{name}/in/it", name=name, size_total=SIZE)
    assert volume == storage.get_volume(volume_name=f":/{name}/in/it")
    with pytest.raises(KeyError):
        storage.get_volume(volume_name=f":/{name}/in")


@on("kind", OWN, indirect=True)
def test_there_is_nothing_at_first(fresh: StorageBackend) -> None:
    assert fresh.volumes == []
    assert fresh.policies == []


def test_volumes_and_policies_are_not_to_be_assigned(storage: StorageBackend) -> None:
    for of_all in ("volumes", "policies"):
        with pytest.raises(AttributeError):
            setattr(storage, of_all, [])


@on("given", ["name", "path"])
def test_a_volume_that_is_there_is_not_made_again(
    storage: StorageBackend, name: str, given: str
) -> None:
    before = made(storage, name)
    with pytest.raises(KeyError) as raised:
        if given == "name":
            storage.create_volume(volume_name=name, junction_path=f"/{name}_2", size_total=2 * SIZE)
        else:
            storage.create_volume(volume_name=f":/{name}", name=f"{name}_2", size_total=2 * SIZE)
    assert name in says(raised)
    assert "choose another" in says(raised)
    assert storage.get_volume(volume_name=name) == before
    assert listed(storage, f"{name}_2") == []


@on("size", [-1, 0, -(2**70), 2**63, "lots", "", 1.5, float("inf"), True, [1], object()])
def test_no_volume_is_made_of_a_size_that_is_none(
    storage: StorageBackend, name: str, size: Any
) -> None:
    with pytest.raises(ValueError, match="size_total"):
        made(storage, name, size_total=size)
    with pytest.raises(KeyError):
        storage.get_volume(volume_name=name)


@on("fields", [{}, {"size_total": None}], ids=str)
def test_a_volume_needs_a_size_unless_it_costs_nothing(
    storage: StorageBackend, kind: str, name: str, fields: dict[str, Any]
) -> None:
    if kind in ("dummy", "http"):
        volume = storage.create_volume(volume_name=f":/{name}", name=name, **fields)
        assert volume["size_total"] == 2**30
        return
    with pytest.raises(ValueError, match="size_total is missing"):
        storage.create_volume(volume_name=f":/{name}", name=name, **fields)


@on(
    "fields",
    [
        {"colour": "red"},
        {"uuid": "4e205660a75d484085efcce98b4dd55d"},
        {"size_used": 1},
        {"filer_address": "10.0.0.1"},
        {"creation_time": "Sat, 21 Nov 2026 23:54:14 GMT"},
        {"state": "available"},
    ],
    ids=lambda fields: str(*fields),
)
def test_fields_that_cannot_be_written_are_refused_and_told(
    storage: StorageBackend, name: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=f"'{next(iter(fields))}' cannot be written") as raised:
        made(storage, name, **fields)
    assert "size_total" in says(raised), "what can be written is told"
    volume = made(storage, name)
    with pytest.raises(ValueError, match="cannot be written"):
        storage.patch_volume(volume_name=name, **fields)
    assert storage.get_volume(volume_name=name) == volume


def test_name_and_path_must_not_contradict_each_other(storage: StorageBackend, name: str) -> None:
    with pytest.raises(ValueError, match="leave one out"):
        storage.create_volume(
            volume_name=name, name=f"{name}_2", junction_path=f"/{name}", size_total=SIZE
        )
    with pytest.raises(ValueError, match="leave one out"):
        storage.create_volume(
            volume_name=f":/{name}", name=name, junction_path=f"/{name}_2", size_total=SIZE
        )


@on("wrong", ["", "two words", "ümlaut", "a\0b", "line\n", "..", "a/../b", "-dash", "x" * 300])
def test_names_that_are_none_are_refused(storage: StorageBackend, wrong: str) -> None:
    with pytest.raises(ValueError) as raised:
        storage.create_volume(volume_name=wrong, junction_path="/wrong", size_total=SIZE)
    says(raised)
    for missing in ("get_volume", "restrict_volume", "locks", "get_snapshots"):
        # Some of them could be names, though not of new volumes.
        with pytest.raises((KeyError, ValueError)):
            ON_A_VOLUME[missing](storage, wrong)


@on("wrong", ["", "two words", "a\0b"])
def test_a_snapshot_name_that_is_none_is_refused_by_every_method(
    storage: StorageBackend, name: str, wrong: str
) -> None:
    made(storage, name)
    clone = f"{name}_clone"
    calls: list[Callable[[], Any]] = [
        lambda: storage.create_snapshot(volume_name=name, snapshot_name=wrong),
        lambda: storage.get_snapshot(volume_name=name, snapshot_name=wrong),
        lambda: storage.delete_snapshot(volume_name=name, snapshot_name=wrong),
        lambda: storage.rollback_volume(volume_name=name, restore_snapshot_name=wrong),
        lambda: storage.clone_volume(
            clone_volume_name=clone, from_volume_name=name, from_snapshot_name=wrong
        ),
    ]
    for call in calls:
        with pytest.raises(ValueError):
            call()
    assert storage.get_snapshots(volume_name=name) == []


@on("method", ON_A_VOLUME)
def test_a_volume_that_is_not_there_is_a_key_error(
    storage: StorageBackend, name: str, method: str
) -> None:
    with pytest.raises(KeyError) as raised:
        ON_A_VOLUME[method](storage, name)
    assert name in says(raised)
    with pytest.raises(KeyError) as raised:
        ON_A_VOLUME[method](storage, f"node:/{name}")
    assert name in says(raised)


@on("method", ON_A_VOLUME)
def test_a_restricted_volume_is_as_if_it_never_existed(
    storage: StorageBackend, name: str, method: str
) -> None:
    made(storage, name)
    storage.create_snapshot(volume_name=name, snapshot_name="snap")
    storage.restrict_volume(volume_name=name)
    assert listed(storage, name) == []
    for restricted in (name, f":/{name}"):
        with pytest.raises(KeyError):
            ON_A_VOLUME[method](storage, restricted)


def test_a_volume_is_restricted_alone(storage: StorageBackend, name: str) -> None:
    made(storage, name)
    other = made(storage, f"{name}_2")
    storage.restrict_volume(volume_name=f":/{name}")
    assert listed(storage, f"{name}_2") == [other]


# -- changes ----------------------------------------------------------------------------------


@on(
    "change",
    [
        {"autosize_enabled": True},
        {"max_autosize": 10 * SIZE},
        {"max_autosize": 2**64},
        {"max_autosize": 2**100 + 1},
        {"autosize_enabled": True, "max_autosize": 3 * SIZE},
        {"size_total": 2 * SIZE},
        {"size_total": 3 * SIZE, "autosize_enabled": True, "max_autosize": 2**65},
    ],
    ids=str,
)
def test_what_is_patched_reads_back(
    storage: StorageBackend, name: str, change: dict[str, Any]
) -> None:
    before = made(storage, name)
    after = storage.patch_volume(volume_name=f":/{name}", **change)
    assert after == storage.get_volume(volume_name=name)
    assert listed(storage, name) == [after]
    assert {field: after[field] for field in change} == change
    untouched = before.keys() - change.keys() - {"max_autosize", "size_used"}
    assert {f: after[f] for f in untouched} == {f: before[f] for f in untouched}


def test_autosize_is_turned_off_again(storage: StorageBackend, name: str) -> None:
    volume = made(storage, name, autosize_enabled=True, max_autosize=2 * SIZE)
    assert (volume["autosize_enabled"], volume["max_autosize"]) == (True, 2 * SIZE)
    volume = storage.patch_volume(volume_name=name, autosize_enabled=False)
    assert (volume["autosize_enabled"], volume["max_autosize"]) == (False, 2 * SIZE)


@on("size", [SIZE, "20M"])
def test_a_volume_that_grows_by_itself_may_grow_beyond_its_size(
    storage: StorageBackend, name: str, size: Any
) -> None:
    volume = made(storage, name, size_total=size, autosize_enabled=True)
    assert volume["autosize_enabled"] is True
    assert volume["max_autosize"] > volume["size_total"] == SIZE


@on(
    ("change", "field"),
    [
        ({"size_total": -1}, "size_total"),
        ({"size_total": 0}, "size_total"),
        ({"size_total": "lots"}, "size_total"),
        ({"size_total": 2**63}, "size_total"),
        ({"max_autosize": -1}, "max_autosize"),
        ({"max_autosize": 2**200}, "max_autosize"),
        ({"autosize_enabled": "perhaps"}, "autosize_enabled"),
        ({"size_total": 2 * SIZE, "max_autosize": -1}, "max_autosize"),
        ({"size_total": -1, "autosize_enabled": True}, "size_total"),
    ],
    ids=str,
)
def test_a_change_that_makes_no_sense_changes_nothing(
    storage: StorageBackend, name: str, change: dict[str, Any], field: str
) -> None:
    before = made(storage, name)
    with pytest.raises(ValueError, match=field):
        storage.patch_volume(volume_name=name, **change)
    assert storage.get_volume(volume_name=name) == before


def test_a_volume_is_not_made_smaller(storage: StorageBackend, name: str) -> None:
    before = made(storage, name, size_total=2 * SIZE)
    with pytest.raises(ValueError, match="smaller") as raised:
        storage.patch_volume(volume_name=name, size_total=SIZE)
    assert str(2 * SIZE) in says(raised), "the size it has is told"
    assert storage.get_volume(volume_name=name) == before


@on("kind", WITH_SETTINGS, indirect=True)
def test_settings_of_filers_read_back(storage: StorageBackend, kind: str, name: str) -> None:
    first: dict[str, Any] = {
        "percentage_snapshot_reserve": 10,
        "compression_enabled": True,
        "inline_compression": False,
    }
    then: dict[str, Any] = {"percentage_snapshot_reserve": 0, "inline_compression": True}
    if kind != "ontap":  # whose REST interface tells caching policies and cannot set them
        first["caching_policy"], then["caching_policy"] = "auto", "none"
    volume = made(storage, name, **first)
    assert {field: volume[field] for field in first} == first
    volume = storage.patch_volume(volume_name=name, **then)
    assert {field: volume[field] for field in first} == {**first, **then}
    for wrong in (-1, 101, "half"):
        with pytest.raises(ValueError, match="percentage_snapshot_reserve"):
            storage.patch_volume(volume_name=name, percentage_snapshot_reserve=wrong)


@on("kind", WITHOUT_SETTINGS, indirect=True)
@on(
    "setting",
    [
        {"percentage_snapshot_reserve": 10},
        {"compression_enabled": True},
        {"inline_compression": True},
        {"caching_policy": "auto"},
    ],
    ids=lambda setting: str(*setting),
)
def test_settings_that_the_storage_does_not_have_are_refused(
    storage: StorageBackend, name: str, setting: dict[str, Any]
) -> None:
    (field,) = setting
    with pytest.raises(ValueError, match=f"no setting '{field}'"):
        made(storage, name, **setting)
    before = made(storage, name)
    with pytest.raises(ValueError, match=f"no setting '{field}'"):
        storage.patch_volume(volume_name=name, **setting)
    assert storage.get_volume(volume_name=name) == before


# -- snapshots --------------------------------------------------------------------------------


def test_a_new_snapshot_is_returned_found_and_listed(storage: StorageBackend, name: str) -> None:
    made(storage, name)
    assert storage.get_snapshots(volume_name=name) == []
    first = storage.create_snapshot(volume_name=name, snapshot_name="first")
    second = storage.create_snapshot(volume_name=f":/{name}", snapshot_name="second")
    assert [first["name"], second["name"]] == ["first", "second"]
    assert all(isinstance(one["size_kbytes"], int) for one in (first, second))
    assert storage.get_snapshot(volume_name=name, snapshot_name="first") == first
    assert storage.get_snapshots(volume_name=f":/{name}") == [first, second]


def test_a_snapshot_that_is_there_is_not_made_again(storage: StorageBackend, name: str) -> None:
    made(storage, name)
    before = storage.create_snapshot(volume_name=name, snapshot_name="snap")
    with pytest.raises(ValueError, match="'snap'") as raised:
        storage.create_snapshot(volume_name=name, snapshot_name="snap")
    assert "choose another name" in says(raised)
    assert storage.get_snapshots(volume_name=name) == [before]


def test_snapshots_of_two_volumes_may_have_the_same_name(
    storage: StorageBackend, name: str
) -> None:
    for volume in (name, f"{name}_2"):
        made(storage, volume)
        storage.create_snapshot(volume_name=volume, snapshot_name="snap")
    storage.delete_snapshot(volume_name=name, snapshot_name="snap")
    assert storage.get_snapshots(volume_name=name) == []
    assert len(storage.get_snapshots(volume_name=f"{name}_2")) == 1


def test_a_deleted_snapshot_is_gone_and_its_name_is_free(
    storage: StorageBackend, name: str
) -> None:
    made(storage, name)
    storage.create_snapshot(volume_name=name, snapshot_name="snap")
    storage.delete_snapshot(volume_name=name, snapshot_name="snap")
    assert storage.get_snapshots(volume_name=name) == []
    storage.create_snapshot(volume_name=name, snapshot_name="snap")
    assert len(storage.get_snapshots(volume_name=name)) == 1


@on("method", ["get_snapshot", "delete_snapshot", "rollback_volume", "clone_volume"])
def test_a_snapshot_that_is_not_there_is_a_key_error(
    storage: StorageBackend, name: str, method: str
) -> None:
    made(storage, name)
    storage.create_snapshot(volume_name=name, snapshot_name="another")
    with pytest.raises(KeyError, match="no snapshot 'snap'"):
        ON_A_VOLUME[method](storage, name)
    assert listed(storage, f"{name}_clone") == []


# -- clones and rolling back ------------------------------------------------------------------


def cloned(storage: StorageBackend, name: str) -> dict[str, Any]:
    """A clone of the volume, which is made too."""
    made(storage, name)
    storage.create_snapshot(volume_name=name, snapshot_name="snap")
    clone: dict[str, Any] = ON_A_VOLUME["clone_volume"](storage, name)
    return clone


def test_a_clone_is_a_volume_under_its_own_name(storage: StorageBackend, name: str) -> None:
    clone = cloned(storage, name)
    source = storage.get_volume(volume_name=name)
    assert clone["name"] == f"{name}_clone"
    assert clone["uuid"] != source["uuid"]
    assert clone["size_total"] == source["size_total"]
    assert clone == storage.get_volume(volume_name=f"{name}_clone")
    assert listed(storage, f"{name}_clone") == [clone]
    assert listed(storage, name) == [source]


def test_a_clone_shares_no_state_with_its_source(storage: StorageBackend, name: str) -> None:
    clone = cloned(storage, name)
    source = storage.get_volume(volume_name=name)
    storage.patch_volume(
        volume_name=clone["name"], size_total=3 * SIZE, autosize_enabled=True, max_autosize=2**70
    )
    storage.create_lock(volume_name=clone["name"], host_owner="host1")
    storage.create_snapshot(volume_name=clone["name"], snapshot_name="of_the_clone")
    assert storage.get_volume(volume_name=name) == source
    assert storage.locks(volume_name=name) is None
    assert [one["name"] for one in storage.get_snapshots(volume_name=name)] == ["snap"]
    assert [one["name"] for one in storage.get_snapshots(volume_name=clone["name"])] == [
        "of_the_clone"
    ]
    changed = storage.get_volume(volume_name=clone["name"])
    storage.patch_volume(volume_name=name, size_total=2 * SIZE)
    assert storage.get_volume(volume_name=clone["name"]) == changed


def test_a_clone_outlives_its_source(storage: StorageBackend, name: str) -> None:
    clone = cloned(storage, name)
    storage.restrict_volume(volume_name=name)
    assert storage.get_volume(volume_name=clone["name"]) == clone


def test_a_name_in_use_is_not_given_to_a_clone(storage: StorageBackend, name: str) -> None:
    clone = cloned(storage, name)
    for taken in (clone["name"], name):
        with pytest.raises(ValueError, match="in use"):
            storage.clone_volume(
                clone_volume_name=taken, from_volume_name=name, from_snapshot_name="snap"
            )
    assert storage.get_volume(volume_name=clone["name"]) == clone


def test_there_is_no_clone_of_nothing(storage: StorageBackend, name: str) -> None:
    with pytest.raises(KeyError, match="No such volume"):
        ON_A_VOLUME["clone_volume"](storage, name)
    made(storage, name)
    storage.create_snapshot(volume_name=name, snapshot_name="snap")
    with pytest.raises(ValueError, match="two words"):
        storage.clone_volume(
            clone_volume_name="two words", from_volume_name=name, from_snapshot_name="snap"
        )


@on("kind", WITH_CONTENTS, indirect=True)
def test_rolling_back_restores_what_was_and_leaves_clones_alone(
    storage: StorageBackend, kind: str, name: str
) -> None:
    write, read = KINDS[kind].write, KINDS[kind].read
    assert write is not None
    assert read is not None
    source = made(storage, name)["uuid"]
    write(storage, source, b"first")
    storage.create_snapshot(volume_name=name, snapshot_name="snap")
    write(storage, source, b"later")
    clone = ON_A_VOLUME["clone_volume"](storage, name)["uuid"]
    assert (read(storage, source, 5), read(storage, clone, 5)) == (b"later", b"first")
    write(storage, clone, b"other")
    assert read(storage, source, 5) == b"later"
    storage.rollback_volume(volume_name=name, restore_snapshot_name="snap")
    assert (read(storage, source, 5), read(storage, clone, 5)) == (b"first", b"other")
    assert [one["name"] for one in storage.get_snapshots(volume_name=name)] == ["snap"]


def test_rolling_back_does_not_silently_lose_newer_snapshots(
    storage: StorageBackend, name: str
) -> None:
    made(storage, name)
    for snapshot in ("old", "new"):
        storage.create_snapshot(volume_name=name, snapshot_name=snapshot)
    with pytest.raises(ValueError, match="new"):
        storage.rollback_volume(volume_name=name, restore_snapshot_name="old")
    assert len(storage.get_snapshots(volume_name=name)) == 2
    storage.delete_snapshot(volume_name=name, snapshot_name="new")
    storage.rollback_volume(volume_name=f":/{name}", restore_snapshot_name="old")


# -- locks ------------------------------------------------------------------------------------


def test_a_lock_is_held_by_one_host_which_may_take_it_again(
    storage: StorageBackend, name: str
) -> None:
    made(storage, name)
    assert storage.locks(volume_name=name) is None
    for _ in range(2):
        storage.create_lock(volume_name=name, host_owner="host1.example.com")
        assert storage.locks(volume_name=f":/{name}") == "host1.example.com"


def test_a_lock_is_not_taken_from_another_host(storage: StorageBackend, name: str) -> None:
    made(storage, name)
    storage.create_lock(volume_name=name, host_owner="host1")
    with pytest.raises(ValueError, match="host1") as raised:
        storage.create_lock(volume_name=name, host_owner="host2")
    assert "release" in says(raised)
    assert storage.locks(volume_name=name) == "host1"


def test_a_lock_ends_by_its_own_host_alone(storage: StorageBackend, name: str) -> None:
    made(storage, name)
    storage.remove_lock(volume_name=name, host_owner="host1")
    storage.create_lock(volume_name=name, host_owner="host1")
    storage.remove_lock(volume_name=name, host_owner="host2")
    assert storage.locks(volume_name=name) == "host1"
    storage.remove_lock(volume_name=name, host_owner="host1")
    assert storage.locks(volume_name=name) is None
    storage.create_lock(volume_name=name, host_owner="host2")
    assert storage.locks(volume_name=name) == "host2"


def test_a_lock_is_of_one_volume(storage: StorageBackend, name: str) -> None:
    for volume, host in ((name, "host1"), (f"{name}_2", "host2")):
        made(storage, volume)
        storage.create_lock(volume_name=volume, host_owner=host)
    assert storage.locks(volume_name=name) == "host1"


@on("wrong", ["", "two words", "a\0b", "ümlaut"])
def test_hosts_have_names(storage: StorageBackend, name: str, wrong: str) -> None:
    made(storage, name)
    with pytest.raises(ValueError, match="host"):
        storage.create_lock(volume_name=name, host_owner=wrong)
    assert storage.locks(volume_name=name) is None


def test_of_hosts_that_lock_at_once_one_wins(storage: StorageBackend, name: str) -> None:
    made(storage, name)

    def take(place: int) -> str | None:
        try:
            storage.create_lock(volume_name=name, host_owner=f"host{place}")
        except ValueError as refused:
            return str(refused)
        return None

    answers = at_once(16, take)
    (winner,) = [place for place, refused in enumerate(answers) if refused is None]
    assert storage.locks(volume_name=name) == f"host{winner}"
    refused = [refused for refused in answers if refused is not None]
    assert all(f"host host{winner} holds the lock" in sentence for sentence in refused)


# -- export policies --------------------------------------------------------------------------


def rules_of(storage: StorageBackend, policy: str) -> list[list[str]]:
    """The rules as the list of all policies has them; nothing if it has no such policy."""
    return [rules for name, rules in storage.policies if name == policy]


@policies_needed
def test_a_policy_keeps_its_rules_in_their_order(storage: StorageBackend, name: str) -> None:
    rules = ["10.1.0.0/16", "10.0.0.7", NETWORK, HOST_RULE]
    storage.create_policy(policy_name=name, rules=rules)
    assert storage.get_policy(policy_name=name) == rules
    assert (name, rules) in storage.policies


@policies_needed
def test_names_of_policies_have_slashes(storage: StorageBackend, name: str) -> None:
    policy = f"{name}/of/it"
    storage.create_policy(policy_name=policy, rules=[NETWORK])
    storage.ensure_policy_rule_present(policy_name=policy, rule="10.2.0.0/16")
    storage.ensure_policy_rule_absent(policy_name=policy, rule=NETWORK)
    assert storage.get_policy(policy_name=policy) == ["10.2.0.0/16"]
    storage.remove_policy(policy_name=policy)
    assert rules_of(storage, policy) == []


@policies_needed
def test_rules_are_added_at_the_end_and_once(storage: StorageBackend, name: str) -> None:
    storage.create_policy(policy_name=name, rules=["10.0.0.7"])
    for _ in range(2):
        storage.ensure_policy_rule_present(policy_name=name, rule=NETWORK)
    storage.ensure_policy_rule_present(policy_name=name, rule="10.0.0.7")
    assert storage.get_policy(policy_name=name) == ["10.0.0.7", NETWORK]


@policies_needed
def test_rules_are_removed_once_and_the_others_stay(storage: StorageBackend, name: str) -> None:
    storage.create_policy(policy_name=name, rules=["10.0.0.7", NETWORK, HOST_RULE])
    for _ in range(2):
        storage.ensure_policy_rule_absent(policy_name=name, rule=NETWORK)
    storage.ensure_policy_rule_absent(policy_name=name, rule="192.0.2.1")
    assert storage.get_policy(policy_name=name) == ["10.0.0.7", HOST_RULE]


@policies_needed
def test_a_policy_with_no_rules_is_a_policy(storage: StorageBackend, name: str) -> None:
    assert rules_of(storage, name) == []
    storage.create_policy(policy_name=name, rules=[])
    assert storage.get_policy(policy_name=name) == []
    assert rules_of(storage, name) == [[]]
    storage.ensure_policy_rule_present(policy_name=name, rule=NETWORK)
    storage.ensure_policy_rule_absent(policy_name=name, rule=NETWORK)
    assert rules_of(storage, name) == [[]]


@policies_needed
def test_a_policy_that_is_there_is_not_made_again(storage: StorageBackend, name: str) -> None:
    storage.create_policy(policy_name=name, rules=[NETWORK])
    with pytest.raises(ValueError, match=name) as raised:
        storage.create_policy(policy_name=name, rules=[])
    assert "choose another name" in says(raised)
    assert storage.get_policy(policy_name=name) == [NETWORK]


@policies_needed
def test_a_removed_policy_can_be_made_anew(storage: StorageBackend, name: str) -> None:
    storage.create_policy(policy_name=name, rules=[NETWORK])
    storage.remove_policy(policy_name=name)
    assert rules_of(storage, name) == []
    storage.create_policy(policy_name=name, rules=["10.0.0.7"])
    assert storage.get_policy(policy_name=name) == ["10.0.0.7"]


@policies_needed
@on("method", ON_A_POLICY)
def test_a_policy_that_is_not_there_is_a_key_error(
    storage: StorageBackend, name: str, method: str
) -> None:
    with pytest.raises(KeyError, match=f"no export policy '{name}'"):
        ON_A_POLICY[method](storage, name)


@policies_needed
def test_a_volume_has_the_policy_it_was_given(storage: StorageBackend, name: str) -> None:
    made(storage, name)
    for policy in (f"{name}/a", f"{name}/b"):
        storage.create_policy(policy_name=policy, rules=[NETWORK])
        storage.set_policy(volume_name=f":/{name}", policy_name=policy)
        assert storage.get_volume(volume_name=name)["active_policy_name"] == policy
    patched = storage.patch_volume(volume_name=name, active_policy_name=f"{name}/a")
    assert patched["active_policy_name"] == f"{name}/a"
    other = made(storage, f"{name}_2", active_policy_name=f"{name}/b")
    assert other["active_policy_name"] == f"{name}/b"


@policies_needed
def test_a_policy_must_be_there_to_be_set(storage: StorageBackend, name: str) -> None:
    with pytest.raises(ValueError, match=f"no export policy '{name}'"):
        made(storage, name, active_policy_name=name)
    before = made(storage, name)
    with pytest.raises(ValueError, match=f"no export policy '{name}'"):
        storage.set_policy(volume_name=name, policy_name=name)
    with pytest.raises(ValueError, match=f"no export policy '{name}'"):
        storage.patch_volume(volume_name=name, size_total=2 * SIZE, active_policy_name=name)
    assert storage.get_volume(volume_name=name) == before


@policies_needed
def test_a_volume_must_be_there_to_be_given_a_policy(storage: StorageBackend, name: str) -> None:
    storage.create_policy(policy_name=name, rules=[])
    for policy in (name, f"{name}_2"):
        with pytest.raises(KeyError, match=f"no volume '{name}'"):
            storage.set_policy(volume_name=name, policy_name=policy)


@policies_needed
def test_a_policy_in_use_is_not_removed(storage: StorageBackend, name: str) -> None:
    storage.create_policy(policy_name=name, rules=[NETWORK])
    made(storage, name, active_policy_name=name)
    with pytest.raises(ValueError, match=name) as raised:
        storage.remove_policy(policy_name=name)
    assert "first" in says(raised), "what to do first is told"
    assert storage.get_policy(policy_name=name) == [NETWORK]
    storage.set_policy(volume_name=name, policy_name=None)
    storage.remove_policy(policy_name=name)
    assert storage.get_volume(volume_name=name)["active_policy_name"] is None


@policies_needed
@on("rule", ["", " ", "10.0.0.300", "10.0.0.0/33", "two words", "a\0b", "10.0.0.1(root)"])
def test_rules_that_are_none_are_refused(storage: StorageBackend, name: str, rule: str) -> None:
    with pytest.raises(ValueError):
        storage.create_policy(policy_name=name, rules=[NETWORK, rule])
    assert rules_of(storage, name) == []
    storage.create_policy(policy_name=name, rules=[])
    with pytest.raises(ValueError):
        storage.ensure_policy_rule_present(policy_name=name, rule=rule)
    assert rules_of(storage, name) == [[]]


@policies_needed
@on("rules", [NETWORK, None, 7])
def test_rules_are_a_list(storage: StorageBackend, name: str, rules: Any) -> None:
    with pytest.raises(ValueError, match="list"):
        storage.create_policy(policy_name=name, rules=rules)


@policies_needed
def test_policies_have_names(storage: StorageBackend) -> None:
    for wrong in ("", "two words", "a\0b"):
        with pytest.raises(ValueError):
            storage.create_policy(policy_name=wrong, rules=[])
        for method in ON_A_POLICY.values():
            with pytest.raises(ValueError):
                method(storage, wrong)


@on("kind", WITHOUT_POLICIES, indirect=True)
def test_storage_without_policies_says_so(storage: StorageBackend, name: str) -> None:
    before = made(storage, name)
    calls: list[Callable[[], Any]] = [
        lambda: storage.create_policy(policy_name=name, rules=[NETWORK]),
        lambda: storage.remove_policy(policy_name=name),
        lambda: storage.ensure_policy_rule_present(policy_name=name, rule=NETWORK),
        lambda: storage.ensure_policy_rule_absent(policy_name=name, rule=NETWORK),
        lambda: storage.set_policy(volume_name=name, policy_name=name),
        lambda: storage.patch_volume(volume_name=name, active_policy_name=name),
        lambda: made(storage, f"{name}_2", active_policy_name=name),
    ]
    said = []
    for call in calls:
        with pytest.raises(ValueError) as raised:
            call()
        said.append(says(raised))
    assert [sentence for sentence in said if "polic" not in sentence] == []
    assert storage.policies == []
    assert storage.get_volume(volume_name=name) == before
    assert listed(storage, f"{name}_2") == []


# -- names ------------------------------------------------------------------------------------


def test_names_may_be_anything_that_prints_as_one(storage: StorageBackend, name: str) -> None:
    volume, snapshot, host = Printed(name), Printed("snap"), Printed("host1")
    clone = Printed(f"{name}_clone")
    storage.create_volume(volume_name=Printed(f":/{name}"), name=volume, size_total=SIZE)
    assert storage.get_volume(volume_name=volume)["name"] == name
    storage.patch_volume(volume_name=volume, autosize_enabled=True, max_autosize=2 * SIZE)
    storage.create_snapshot(volume_name=volume, snapshot_name=snapshot)
    assert storage.get_snapshot(volume_name=volume, snapshot_name=snapshot)["name"] == "snap"
    assert len(storage.get_snapshots(volume_name=volume)) == 1
    storage.clone_volume(
        clone_volume_name=clone, from_volume_name=volume, from_snapshot_name=snapshot
    )
    storage.rollback_volume(volume_name=volume, restore_snapshot_name=snapshot)
    storage.create_lock(volume_name=volume, host_owner=host)
    assert storage.locks(volume_name=volume) == "host1"
    storage.remove_lock(volume_name=volume, host_owner=host)
    assert storage.locks(volume_name=volume) is None
    storage.restrict_volume(volume_name=clone)
    assert listed(storage, f"{name}_clone") == []


@policies_needed
def test_names_of_policies_and_rules_may_be_anything_that_prints(
    storage: StorageBackend, name: str
) -> None:
    policy, rule = Printed(name), Printed(NETWORK)
    storage.create_policy(policy_name=policy, rules=[rule])
    storage.ensure_policy_rule_present(policy_name=policy, rule=Printed("10.0.0.7"))
    storage.ensure_policy_rule_absent(policy_name=policy, rule=rule)
    assert storage.get_policy(policy_name=policy) == ["10.0.0.7"]
    made(storage, name)
    storage.set_policy(volume_name=Printed(name), policy_name=policy)
    assert storage.get_volume(volume_name=name)["active_policy_name"] == name
    assert made(storage, f"{name}_2", active_policy_name=policy)["active_policy_name"] == name
    storage.set_policy(volume_name=name, policy_name=None)
    storage.set_policy(volume_name=f"{name}_2", policy_name=None)
    storage.remove_policy(policy_name=policy)


def sentence_of(refused: Exception) -> str:
    (sentence,) = refused.args
    assert isinstance(sentence, str)
    assert len(sentence.split()) > 3
    return sentence


@pytest.fixture(scope="package")
def dummy(storages: Storages) -> StorageBackend:
    """One that examples share: what one of them has made is there for the next."""
    return storages.fresh("dummy")


few = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
NAMES = st.text(string.ascii_letters + string.digits + ":/_.-", max_size=40)


@few
@given(text=NAMES)
def test_any_name_is_taken_and_found_again_or_refused(dummy: StorageBackend, text: str) -> None:
    there = {volume["name"] for volume in dummy.volumes}
    try:
        volume = dummy.create_volume(volume_name=text, size_total=SIZE)
    except KeyError as refused:
        sentence_of(refused)
        assert dummy.get_volume(volume_name=text)["name"] in there
        return
    except ValueError as refused:
        sentence_of(refused)
        assert {volume["name"] for volume in dummy.volumes} == there
        return
    assert volume["name"] == text
    assert volume == dummy.get_volume(volume_name=text)
    assert volume in dummy.volumes
    snapshot = dummy.create_snapshot(volume_name=text, snapshot_name=text)
    assert dummy.get_snapshots(volume_name=text) == [snapshot]
    dummy.create_lock(volume_name=text, host_owner=text)
    assert dummy.locks(volume_name=text) == text


RULES = st.lists(
    st.one_of(
        st.ip_addresses().map(str),
        st.builds(
            lambda address, bits: f"{address}/{bits}", st.ip_addresses(v=4), st.integers(1, 31)
        ),
        st.builds(
            lambda address, bits: f"{address}/{bits}", st.ip_addresses(v=6), st.integers(1, 127)
        ),
        st.from_regex(r"[a-z][a-z0-9]{0,8}(\.[a-z]{2,5}){0,2}", fullmatch=True),
    ),
    unique=True,
    max_size=4,
)


@few
@given(rules=RULES)
def test_rules_keep_their_order_whatever_they_are(dummy: StorageBackend, rules: list[str]) -> None:
    dummy.create_policy(policy_name="web/1", rules=[])
    try:
        for rule in rules:
            dummy.ensure_policy_rule_present(policy_name="web/1", rule=rule)
        kept = dummy.get_policy(policy_name="web/1")
        # Two ways to write one client are one rule.
        assert kept == [rule for rule in rules if rule in kept]
        assert kept[:1] == rules[:1]
        dummy.create_policy(policy_name="web/2", rules=rules)
        assert dummy.get_policy(policy_name="web/2") == kept
        dummy.remove_policy(policy_name="web/2")
        for place, rule in enumerate(kept):
            dummy.ensure_policy_rule_absent(policy_name="web/1", rule=rule)
            assert dummy.get_policy(policy_name="web/1") == kept[place + 1 :]
    finally:
        dummy.remove_policy(policy_name="web/1")


# -- of single kinds --------------------------------------------------------------------------


def test_two_dummies_have_nothing_in_common(storages: Storages, name: str) -> None:
    one, other = storages.fresh("dummy"), storages.fresh("dummy")
    made(one, name)
    assert other.volumes == []
    assert len(one.volumes) == 1


def test_a_dummy_needs_no_path_and_no_second_name(storages: Storages, name: str) -> None:
    dummy = storages.shared("dummy")
    assert dummy.create_volume(volume_name=name, size_total=SIZE)["name"] == name
    placed = dummy.create_volume(volume_name=f":/{name}_2", size_total=SIZE)
    assert placed["name"] == f":/{name}_2"
    assert placed == dummy.get_volume(volume_name=f"node:/{name}_2")


def test_a_dummy_tells_what_is_absent(storages: Storages, name: str) -> None:
    dummy = storages.shared("dummy")
    assert isinstance(dummy, DummyStorage)
    with pytest.raises(KeyError, match=name):
        dummy.raise_if_volume_absent(volume_name=name)
    with pytest.raises(KeyError, match=f"no volume '{name}'"):
        dummy.raise_if_snapshot_absent(volume_name=name, snapshot_name="snap")
    made(dummy, name)
    dummy.raise_if_volume_absent(volume_name=name)
    with pytest.raises(KeyError, match="no snapshot 'snap'"):
        dummy.raise_if_snapshot_absent(volume_name=name, snapshot_name="snap")
    dummy.create_snapshot(volume_name=name, snapshot_name="snap")
    dummy.raise_if_snapshot_absent(volume_name=name, snapshot_name="snap")


def test_rolling_back_deletes_newer_snapshots_where_that_was_asked_for(
    storages: Storages, name: str
) -> None:
    running = storages.product()
    storage = StorageBackend(
        backend="ram", url=running.url, token=running.token, discard_newer=True
    )
    try:
        made(storage, name)
        for snapshot in ("old", "new"):
            storage.create_snapshot(volume_name=name, snapshot_name=snapshot)
        storage.rollback_volume(volume_name=name, restore_snapshot_name="old")
        assert [one["name"] for one in storage.get_snapshots(volume_name=name)] == ["old"]
    finally:
        storage.gateway.close()


def test_a_service_that_is_away_is_neither_a_key_error_nor_a_value_error(name: str) -> None:
    storage = StorageBackend(backend="ram", url=f"http://127.0.0.1:{free_port()}", token="none")
    for call in (lambda: storage.volumes, lambda: made(storage, name)):
        with pytest.raises(Unavailable, match="cannot be reached"):
            call()


def test_a_token_that_is_none_is_a_value_error(storages: Storages) -> None:
    storage = StorageBackend(backend="ram", url=storages.product().url, token="none")
    try:
        with pytest.raises(ValueError, match="token"):
            storage.get_volume(volume_name="vol")
    finally:
        storage.gateway.close()


def test_a_backend_that_is_not_there_is_a_key_error(storages: Storages, name: str) -> None:
    running = storages.product()
    storage = StorageBackend(backend="nowhere", url=running.url, token=running.token)
    calls: list[Callable[[], Any]] = [
        lambda: storage.volumes,
        lambda: storage.policies,
        lambda: storage.get_volume(volume_name=name),
        lambda: made(storage, name),
        lambda: storage.create_policy(policy_name=name, rules=[]),
    ]
    try:
        for call in calls:
            with pytest.raises(KeyError, match="nowhere"):
                call()
    finally:
        storage.gateway.close()


# -- what is returned, and what helps those who implement it ------------------------------------

VOLUME = {"name": "vol", "size_used": 1, "size_total": 2, "filer_address": "here"}


def test_what_is_returned_is_brought_into_its_form() -> None:
    @normalised_with("volume")
    def volume(name: str) -> dict[str, Any]:
        """Tell of a volume."""
        return {**VOLUME, "name": name}

    told = volume(name="other")
    assert told["name"] == "other"
    assert {**told, **VOLUME, "name": "other"} == told
    assert told["uuid"] is None, "absent fields are None"
    assert (volume.__name__, volume.__doc__) == ("volume", "Tell of a volume.")


@on(
    ("schema", "wrong", "field"),
    [
        ("volume", {**VOLUME, "size_total": "2"}, "size_total"),
        ("volume", {**VOLUME, "size_used": -1}, "size_used"),
        ("volume", {"name": "vol"}, "filer_address"),
        ("volume", {**VOLUME, "colour": "red"}, "colour"),
        ("snapshot", {"name": "snap"}, "size_kbytes"),
        ("snapshot", {"name": None, "size_kbytes": 1}, "name"),
        ("policy", {"name": "web", "rules": "10.0.0.1"}, "rules"),
        ("policy", {"name": "web", "rules": [1]}, "rules"),
        ("lock", {}, "host"),
    ],
)
def test_what_is_returned_in_another_form_is_an_error_that_names_the_field(
    schema: str, wrong: dict[str, Any], field: str
) -> None:
    with pytest.raises(ValidationError, match=field):
        normalised_with(schema_name=schema)(lambda: wrong)()


def test_unknown_fields_are_let_through_where_that_was_said() -> None:
    more = {**VOLUME, "colour": "red"}
    told = normalised_with("volume", allow_unknown=True)(lambda: more)()
    assert told["colour"] == "red"
    assert told["state"] is None
    with pytest.raises(ValidationError):
        normalised_with("volume", allow_unknown=True)(lambda: {"colour": "red"})()


def test_of_a_list_each_entry_is_checked() -> None:
    snapshots = [{"name": "one", "size_kbytes": 1}, {"name": "two", "size_kbytes": 2}]
    told = normalised_with("snapshot", as_list=True)(lambda: snapshots)()
    assert told == [{**one, "creation_time": None} for one in snapshots]
    assert normalised_with("snapshot", as_list=True)(list)() == []
    with pytest.raises(ValidationError, match="size_kbytes"):
        normalised_with("snapshot", as_list=True)(lambda: [*snapshots, {"name": "three"}])()


def test_an_exception_is_annotated_with_what_it_means() -> None:
    with (
        pytest.raises(KeyError, match="no such item") as raised,
        annotate_exception(KeyError, "no such item!"),
    ):
        dict[str, int]()["key"]
    assert isinstance(raised.value.__cause__, KeyError), "the first one is kept"


def test_other_exceptions_are_left_as_they_are() -> None:
    with pytest.raises(ZeroDivisionError), annotate_exception(KeyError, "no such item!"):
        1 / 0  # noqa: B018
    with annotate_exception(KeyError, "no such item!"):
        pass


def test_a_patch_tells_what_it_changed() -> None:
    previous = {"a": 1, "b": 2, "c": 3}
    changed, updated = patch_and_diff(previous=previous, new={"a": 1, "b": 5, "c": 6})
    assert sorted(changed) == ["b", "c"]
    assert updated == {"a": 1, "b": 5, "c": 6}
    assert patch_and_diff(previous=updated, new={}) == ([], updated)
    assert patch_and_diff(previous=updated, new=updated) == ([], updated)


def test_a_patch_replaces_what_there_is_and_adds_nothing() -> None:
    changed, updated = patch_and_diff(previous={"a": 1}, new={"a": 2, "b": 3})
    assert (changed, updated) == (["a"], {"a": 2})
