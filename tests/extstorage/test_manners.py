"""Providers of many manners do with us what they do with Ganeti."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.domain.errors import (
    BackendError,
    BackendUnavailable,
    Conflict,
    Drift,
    ScriptFailed,
    TimedOut,
    Unsupported,
)
from tests.conformance.calls import Claim, LeaseLost, new_volume, stopped_in_work
from tests.extstorage.conftest import Make
from tests.extstorage.providers import MANNERS, MAPPED, MIB, SHAPES, STANDING
from workers.backends.base.facts import Contents, Removed, there
from workers.backends.base.references import VolumeRef

SIZE = 8 * MIB


@pytest.mark.parametrize("manner", MANNERS)
def test_a_volume_of_any_provider_lives_and_is_removed(make: Make, manner: str) -> None:
    provider = make(MANNERS[manner])
    driver, volume = provider.driver(), new_volume("vm1")
    made = driver.create(volume, 6 * MIB, {}, Claim())
    assert provider.calls[:2] == ["create", "attach"]
    assert made.size_bytes == (8 if "extents" in manner else 6) * MIB
    volume = replace(volume, size_bytes=made.size_bytes)
    assert driver.grow(volume, 12 * MIB, Claim()).size_bytes == 12 * MIB
    volume = replace(volume, size_bytes=12 * MIB)
    device = driver.attach(volume, Claim())
    assert driver.devices(volume) == [device]
    assert there(driver.inspect(volume), volume).size_bytes == 12 * MIB
    if "snapshot" in MANNERS[manner]:
        copy = new_volume("copy")
        assert driver.clone(copy, volume, 12 * MIB, {}, Claim()).size_bytes == 12 * MIB
        assert driver.remove(copy, Claim()) == Removed(found=True)
    if manner == "cannot detach":
        with pytest.raises(ScriptFailed, match="not implemented"):
            driver.detach(volume, Claim())
        assert driver.devices(volume) == [device]
        provider.replace("detach", ":")
    driver.detach(volume, Claim())
    assert driver.devices(volume) == []
    removed = driver.remove(volume, Claim())
    assert removed == Removed(found=True)
    assert [path for path in provider.images.iterdir() if path.name != "dev"] == []
    assert provider.devices() == []


@pytest.mark.parametrize("manner", [name for name in MANNERS if name != "addresses only"])
def test_what_is_wiped_is_all_of_it_and_told(make: Make, manner: str) -> None:
    provider = make(MANNERS[manner])
    driver, volume = provider.driver(), new_volume("vm1")
    size = driver.create(volume, 8 * MIB, {}, Claim()).size_bytes
    assert driver.remove(volume, Claim(), wipe=True) == Removed(found=True, wiped_bytes=size)
    assert list(provider.images.glob("*.img")) == []


def test_what_cannot_be_wiped_is_not_removed(make: Make) -> None:
    for scripts, kind in ((MANNERS["addresses only"], Unsupported), (MAPPED, ScriptFailed)):
        provider = make(scripts)
        driver, volume = provider.driver(), new_volume("vm1")
        driver.create(volume, SIZE, {}, Claim())
        if kind is ScriptFailed:
            provider.replace("attach", "fail the array does not answer")
        with pytest.raises(kind):
            driver.remove(volume, Claim(), wipe=True)
        assert provider.image(volume.id).exists()
        assert "remove" not in provider.calls
        assert driver.remove(volume, Claim()).wiped_bytes == 0
        assert not provider.image(volume.id).exists()


@pytest.mark.parametrize("part", ["", "create", "parameters.list"])
def test_a_provider_that_others_could_exchange_is_not_run(make: Make, part: str) -> None:
    provider = make(MANNERS["standing"])
    driver, volume, claim = provider.driver(), new_volume("vm1"), Claim()
    place = provider.directory / part
    before = place.stat().st_mode
    for spoil, mend, remedy in (
        (lambda: place.chmod(0o777), lambda: place.chmod(before), "chmod go-w"),
        (lambda: os.chown(place, 65534, -1), lambda: os.chown(place, 0, -1), "chown root"),
    ):
        spoil()
        with pytest.raises(BackendUnavailable) as refused:
            driver.create(volume, SIZE, {}, claim)
        assert refused.value.detail == refused.value.detail.rpartition("; ")[2]  # told once
        assert f"'{remedy} {place}'" in refused.value.detail
        assert [one.faults for one in driver.diagnose()] == [(refused.value.detail,)]
        assert provider.calls == []
        mend()
    driver.create(volume, SIZE, {}, claim)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_create_that_fails_is_told_and_what_is_there_can_be_removed(
    make: Make, shape: str
) -> None:
    """Where it cannot be attached at first; nothing but the provider's remove is asked for then."""
    provider = make(SHAPES[shape])
    driver, volume = provider.driver(), new_volume("vm1")
    provider.replace("attach", "echo /dev/no-such-volume")
    with pytest.raises(ScriptFailed, match="no-such-volume', which is not there"):
        driver.create(volume, SIZE, {}, Claim())
    assert provider.calls[:2] == ["create", "attach"]
    assert driver.remove(volume, Claim()) == Removed(found=False)
    assert provider.images.exists()
    assert list(provider.images.glob("*.img")) == []


def test_what_others_could_have_noted_of_scripts_is_not_believed(make: Make) -> None:
    provider = make(MANNERS["standing"])
    driver, volume, claim = provider.driver(), new_volume("vm1"), Claim()
    driver.create(volume, SIZE, {}, claim)
    for place in (provider.room / "here", provider.room / "here" / "tried"):
        place.chmod(0o777)  # anybody could name a process group there that is to be killed
        with pytest.raises(BackendUnavailable) as refused:
            driver.inspect(volume)
        assert f"'chmod go-w {place}'" in refused.value.detail
        place.chmod(0o700)
    driver.inspect(volume)


def test_a_failing_attach_is_no_absence(make: Make) -> None:
    provider = make(MAPPED)
    driver, volume = provider.driver(), new_volume("vm1")
    driver.create(volume, SIZE, {}, Claim())
    assert "absence" not in driver.capabilities()
    for body in ("fail the array does not answer", "echo /dev/no-such", "echo chatter"):
        provider.replace("attach", body)
        with pytest.raises(BackendError):
            driver.inspect(volume)
    provider.mend("attach")
    assert there(driver.inspect(volume), volume).size_bytes == SIZE


def test_scripts_that_all_fail_remove_nothing_and_say_so(make: Make) -> None:
    provider = make(MAPPED)
    driver, volume = provider.driver(), new_volume("vm1")
    driver.create(volume, SIZE, {}, Claim())
    for script in MAPPED:
        provider.replace(script, "fail the array does not answer")
    for wipe in (False, True):
        with pytest.raises(ScriptFailed):
            driver.remove(volume, Claim(), wipe=wipe)
        with pytest.raises(ScriptFailed):
            driver.inspect(volume)
    assert provider.image(volume.id).stat().st_size == SIZE


@pytest.mark.parametrize("manner", ["mapped", "standing"])
def test_a_create_that_says_that_it_is_there_destroys_nothing(make: Make, manner: str) -> None:
    """What is there under the id is another life's, or another host's: who knows."""
    provider = make(MANNERS[manner])
    elsewhere, volume = provider.driver("other host"), new_volume("vm1")
    elsewhere.create(volume, SIZE, {}, Claim())
    with _contents(provider.image(volume.id)):
        driver, call = provider.driver(), Claim()
        with pytest.raises(Conflict, match="not touched"):
            driver.create(volume, SIZE, {}, call)
        contents = Contents(4, iter([(0, b"mine")]))
        with pytest.raises(ScriptFailed, match="is there already"):
            driver.load(volume, SIZE, {}, contents, call.again())
        with pytest.raises(Conflict, match="was left"):
            driver.discard(volume, call.again())
        # Nor does a later attempt that is cut off.
        provider.replace("create", "sleep 1000")
        slow = provider.driver()
        scripts = slow._asking.scripts
        scripts._seconds = {**scripts._seconds, "create": 0.2}
        with pytest.raises(TimedOut):
            slow.create(volume, SIZE, {}, call.again())
        with pytest.raises(Conflict, match="was left"):
            driver.discard(volume, call.again())
        assert "remove" not in provider.calls
    driver.remove(volume, Claim())
    assert not provider.image(volume.id).exists()


def test_what_is_recorded_is_never_made_anew(make: Make) -> None:
    provider = make(MANNERS["finds what it made"])
    driver, volume = provider.driver(), new_volume("vm1")
    driver.create(volume, SIZE, {}, Claim())
    with _contents(provider.image(volume.id)), pytest.raises(Unsupported):
        driver.create(replace(volume, size_bytes=SIZE), SIZE, {}, Claim())


def test_what_another_life_of_the_database_has_begun_here_is_left(make: Make) -> None:
    provider = make({**MAPPED, "attach": "fail not now"})
    driver, volume = provider.driver(), new_volume("vm1")
    with pytest.raises(ScriptFailed, match="cannot be attached"):
        driver.create(volume, SIZE, {}, Claim())
    provider.mend("attach")
    provider.replace("attach", MAPPED["attach"])
    with pytest.raises(Conflict, match="another life"):
        driver.create(volume, SIZE, {}, Claim())
    with pytest.raises(Conflict, match="was left"):
        driver.discard(volume, Claim())
    assert provider.image(volume.id).exists()


def test_what_this_job_has_begun_is_taken_up_or_away(make: Make) -> None:
    provider = make({**MAPPED, "create": MAPPED["create"] + "\nsleep 1000"}, timeouts={"create": 1})
    driver, volume, call = provider.driver(), new_volume("vm1"), Claim()
    with pytest.raises(TimedOut):
        driver.create(volume, SIZE, {}, call)
    assert provider.image(volume.id).exists()
    provider.replace("create", MAPPED["create"])
    assert driver.create(volume, SIZE, {}, call.again()).size_bytes == SIZE
    driver.discard(volume, call.again())
    assert not provider.image(volume.id).exists()
    # Canceled in the middle.
    other = new_volume("vm2")
    late = stopped_in_work()
    with pytest.raises(LeaseLost):
        driver.create(other, SIZE, {}, late)
    assert provider.image(other.id).exists()
    driver.discard(other, late.again())
    assert list(provider.images.iterdir()) == []


def test_what_could_not_be_taken_away_is_not_taken_for_gone(make: Make) -> None:
    """Half of it is there; nothing attaches or removes it, and another job looks again later."""
    half = MAPPED["create"] + "\nsleep 1000"
    provider = make({**MAPPED, "create": half}, timeouts={"create": 1})
    driver, volume, call = provider.driver(), new_volume("vm1"), Claim()
    with pytest.raises(TimedOut):
        driver.create(volume, SIZE, {}, call)
    for script in ("attach", "remove"):
        provider.replace(script, "fail the array does not answer")
    for looking in (call.again(), Claim(alone=False)):
        with pytest.raises(ScriptFailed, match="does not answer"):
            driver.discard(volume, looking)
        # On another host nothing at all is known.
        with pytest.raises(ScriptFailed, match="not known"):
            provider.driver("other host").discard(volume, looking)
    assert provider.image(volume.id).exists()
    for script in ("attach", "remove"):
        provider.mend(script)
    driver.discard(volume, call.again())
    assert not provider.image(volume.id).exists()
    driver.discard(volume, Claim(alone=False))


def test_where_nothing_was_begun_nothing_is_left(make: Make) -> None:
    provider = make({**MAPPED, "create": "fail the pool is full"})
    driver, volume = provider.driver(), new_volume("vm1")
    driver.discard(volume, Claim())  # a hook has refused it
    refused = Claim()
    with pytest.raises(ScriptFailed, match="the pool is full"):
        driver.create(volume, SIZE, {}, refused)
    driver.discard(volume, refused)
    driver.discard(volume, refused.again())
    assert "remove" not in provider.calls
    # Begun once more and cut off, it may be half made.
    provider.replace("create", MAPPED["create"] + "\nsleep 1000")
    slow = provider.driver()
    scripts = slow._asking.scripts
    scripts._seconds = {**scripts._seconds, "create": 1}
    with pytest.raises(TimedOut):
        slow.create(volume, SIZE, {}, refused.again())
    provider.replace("attach", "fail the array does not answer")
    with pytest.raises(ScriptFailed, match="not known"):
        driver.discard(volume, refused.again())
    assert "remove" not in provider.calls


def test_an_address_alone_proves_nothing(make: Make) -> None:
    half = MAPPED["create"] + "\nsleep 1000"
    provider = make({**MANNERS["addresses only"], "create": half}, timeouts={"create": 1})
    driver, volume, call = provider.driver(), new_volume("vm1"), Claim()
    with pytest.raises(TimedOut):
        driver.create(volume, SIZE, {}, call)
    with pytest.raises(BackendError, match="not known"):
        driver.discard(volume, Claim(alone=False))
    driver.discard(volume, call.again())
    assert not provider.image(volume.id).exists()


def test_a_create_whose_failure_is_hidden_is_told_and_leaves_nothing(make: Make) -> None:
    provider = make({**STANDING, "create": "false || true", "remove": "true"})
    driver, volume, call = provider.driver(), new_volume("vm1"), Claim()
    with pytest.raises(ScriptFailed, match="which is not there"):
        driver.create(volume, SIZE, {}, call)
    driver.discard(volume, call.again())


def test_a_removal_after_which_it_is_there_is_none(make: Make) -> None:
    provider = make({**STANDING, "remove": "true"})
    driver, volume = provider.driver(), new_volume("vm1")
    driver.create(volume, SIZE, {}, Claim())
    with pytest.raises(ScriptFailed, match="can still be attached"):
        driver.remove(volume, Claim())


def test_a_removal_that_timed_out_and_took_effect_is_found_out(make: Make) -> None:
    scripts = MANNERS["fails to detach or remove twice"]
    provider = make(
        {**scripts, "remove": scripts["remove"] + "\nsleep 1000"}, timeouts={"remove": 1}
    )
    driver, volume = provider.driver(), new_volume("vm1")
    driver.create(volume, SIZE, {}, Claim())
    call = Claim()
    with pytest.raises(TimedOut):
        driver.remove(volume, call, wipe=True)
    provider.replace("remove", MAPPED["remove"])
    # It was wiped, though it cannot be seen any more.
    again = call.again()
    assert driver.remove(volume, again, wipe=True) == Removed(found=True, wiped_bytes=SIZE)
    provider.mend("remove")
    assert driver.remove(volume, again.again(), wipe=True).wiped_bytes == SIZE


@pytest.mark.parametrize("found", [4, 16])
def test_what_is_not_as_large_as_recorded_is_not_changed(make: Make, found: int) -> None:
    provider = make(MAPPED)
    driver, volume = provider.driver(), new_volume("vm1")
    driver.create(volume, found * MIB, {}, Claim())
    recorded = VolumeRef(volume.id, "vm1", size_bytes=SIZE)
    with _contents(provider.image(volume.id)):
        for change in (
            lambda: driver.grow(recorded, 24 * MIB, Claim()),
            lambda: driver.wipe(recorded, Claim()),
            lambda: driver.remove(recorded, Claim(), wipe=True),
            lambda: driver.clone(new_volume(), recorded, 32 * MIB, {}, Claim()),
        ):
            with pytest.raises(Drift, match=f"{SIZE} bytes.*{found * MIB}"):
                change()
        if found * MIB < SIZE:
            with pytest.raises(Drift):
                driver.attach(recorded, Claim())
    assert provider.devices() == []


REUSED = 'yes tenant | head -c "${VOL_SIZE}M" >"$image"'


def test_new_volumes_are_zeroed_unless_configured_otherwise(make: Make) -> None:
    for zero_new, wanted in ((None, False), (True, False), (False, True)):
        provider = make({**MAPPED, "create": REUSED}, zero_new=zero_new)
        volume = new_volume("vm1")
        provider.driver().create(volume, SIZE, {}, Claim())
        held = provider.image(volume.id).read_bytes()
        assert (b"tenant" in held, len(held)) == (wanted, SIZE)


def test_what_cannot_be_zeroed_is_refused_where_that_was_asked_for(make: Make) -> None:
    provider = make(MANNERS["addresses only"], zero_new=True)
    with pytest.raises(Unsupported, match="zero_new"):
        provider.driver().create(new_volume(), SIZE, {}, Claim())


def test_zeroing_that_was_cut_off_is_done_again(make: Make) -> None:
    provider = make({**MAPPED, "create": REUSED})
    driver, volume, late = provider.driver(), new_volume("vm1"), stopped_in_work()
    with pytest.raises(LeaseLost):
        driver.create(volume, SIZE, {}, late)
    assert b"tenant" in provider.image(volume.id).read_bytes()
    driver.create(volume, SIZE, {}, late.again())
    assert provider.image(volume.id).read_bytes() == bytes(SIZE)


def test_what_a_clone_has_behind_its_source_is_zeroes(make: Make) -> None:
    grow = 'yes tenant | head -c "$((VOL_NEW_SIZE - VOL_SIZE))M" >>"$image"'
    provider = make({**MAPPED, "grow": grow})
    driver, source, clone = provider.driver(), new_volume("a"), new_volume("b")
    driver.create(source, SIZE, {}, Claim())
    provider.image(source.id).write_bytes(b"wanted".ljust(SIZE, b"\0"))
    driver.clone(clone, source, 2 * SIZE, {}, Claim())
    assert provider.image(clone.id).read_bytes() == b"wanted".ljust(2 * SIZE, b"\0")


@contextmanager
def _contents(image: Path) -> Iterator[None]:
    """What is in an image stays what it is meanwhile."""
    size = image.stat().st_size
    held = b"precious" + bytes(size - 16) + b"precious"
    image.write_bytes(held)
    yield
    assert image.read_bytes() == held
