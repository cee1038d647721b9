"""Names of the filer and names that people see are one to one."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from orchestrator.domain.errors import InvalidName
from orchestrator.domain.names import check_volume_name
from workers.backends.ontap.names import (
    MAX_VOLUME,
    native_policy,
    native_snapshot,
    native_volume,
    seen_other,
    seen_volume,
)
from workers.backends.ontap.stamps import Stamp, read_stamp

#: Many underscores and hexadecimal digits, where an escape could be misread.
NAMES = st.text(alphabet="__aF02f9Z./:+-", min_size=1, max_size=40)
NATIVE = st.text(alphabet="__aF02f9Z", min_size=1, max_size=40)


def allowed(name: str) -> bool:
    try:
        check_volume_name(name)
    except InvalidName:
        return False
    return True


@given(NAMES)
def test_every_name_comes_back_and_is_one_that_the_filer_takes(name: str) -> None:
    assume(allowed(name))
    native = native_volume(name)
    assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,202}", native)
    assert seen_volume(native) == name
    for other in (native_snapshot(name), native_policy(name)):
        assert re.fullmatch(r"[A-Za-z0-9_.-]+", other)
        assert seen_other(other) == name


@given(NATIVE, NATIVE)
def test_no_two_native_names_are_seen_as_one(one: str, other: str) -> None:
    assume(one != other)
    assert seen_volume(one) != seen_volume(other)


@given(NATIVE)
def test_what_is_seen_is_this_very_native_name_or_no_name_at_all(native: str) -> None:
    seen = seen_volume(native)
    if allowed(seen):
        assert native_volume(seen) == native


def test_plain_names_stay_as_they_are() -> None:
    for name in ("vm1", "web_2", "_x", "A_b__C", "__zz"):
        assert native_volume(name) == name
    assert native_volume("7a/b") == "__37a__2fb"
    assert native_volume("a__2f") == "a__5f_2f"
    assert native_snapshot("daily.2026-01-01") == "daily.2026-01-01"
    assert native_policy("=x".removeprefix("=")) == "x"


def test_the_names_of_the_drivers_own_objects_are_nobody_elses() -> None:
    for name in ("orchestrator_new_x", "orchestrator_marker_x", "orchestrator_rollback_1"):
        for native in (native_volume(name), native_snapshot(name), native_policy(name)):
            assert native == "__6f" + name[1:]


def test_what_does_not_fit_is_refused_and_told_why() -> None:
    assert native_volume("x" * MAX_VOLUME) == "x" * MAX_VOLUME
    with pytest.raises(InvalidName, match="needs 206 characters on an ONTAP filer"):
        native_volume("x" * 202 + "/")


@given(
    st.integers(0, 2**63),
    st.none() | st.integers(0, 2**63),
    st.none() | st.text(min_size=1, max_size=60),
)
def test_a_stamp_comes_back(fence: int, job: int | None, path: str | None) -> None:
    assume(path is None or path.isprintable())
    stamp = Stamp(
        id="0" * 32,
        fence=fence,
        restored_by=None if job is None else f"{job}_x",
        restoring=None if job is None else str(job),
        size=job,
        path=path,
    )
    assert read_stamp(stamp.written()) == stamp


@pytest.mark.parametrize(
    "comment",
    [None, "", "-", "orchestrator", "orchestrator 1 id=abc fence=1", "my orchestrator 1 id="],
)
def test_other_comments_are_no_stamps(comment: str | None) -> None:
    assert read_stamp(comment) is None
