"""Who uses an image is asked of the kernel, whatever path, device or namespace they use it by."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from orchestrator.domain.errors import Conflict, Drift, InUse, Unsupported
from tests.conformance.calls import Claim, new_snapshot, new_volume
from tests.conformance.images import (
    MIB,
    attachable,
    in_use,
    made,
    needs_program,
    needs_root,
    run,
    user_of,
)
from tests.conformance.systems import Files, XfsFiles
from workers.backends.base.facts import VolumeFacts, there
from workers.backends.base.references import SnapshotRef, VolumeRef
from workers.backends.file.driver import FileDriver

NAMESPACES = {
    "mounts": ("unshare", "-m"),
    "processes": ("unshare", "-m", "-p", "--fork", "--mount-proc"),
}


def snapped(files: Files, volume: VolumeRef, name: str = "s1") -> SnapshotRef:
    snapshot = new_snapshot(volume, name)
    files.driver.create_snapshot(snapshot, Claim())
    return snapshot


def ends(
    driver: FileDriver, volume: VolumeRef, snapshot: SnapshotRef
) -> dict[str, Callable[[], object]]:
    """What must not happen to an image while somebody uses it."""
    return {
        "rollback": lambda: driver.rollback(volume, snapshot, Claim()),
        "wipe": lambda: driver.wipe(volume, Claim()),
        "rename": lambda: driver.rename(volume, "other", Claim()),
        "attach": lambda: driver.attach(volume, Claim()),
        "detach": lambda: driver.detach(volume, Claim()),
        "delete_snapshot": lambda: driver.delete_snapshot(snapshot, Claim()),
        "remove": lambda: driver.remove(volume, Claim()),
        "remove wiped": lambda: driver.remove(volume, Claim(), wipe=True),
    }


def test_an_image_that_a_process_has_open_is_in_use(files: Files) -> None:
    driver, volume = attachable(files), made(files)
    files.write(volume, b"before")
    snapshot = snapped(files, volume)
    image = files.image(volume)
    with user_of(image):
        for what, end in ends(driver, volume, snapshot).items():
            if what == "delete_snapshot":  # nobody uses that
                end()
                continue
            with in_use() as told:
                end()
            assert "snapshots" in told.value.detail or "sh (process" in told.value.detail, what
        assert files.read(volume, 6) == b"before"
        assert files.image(volume) == image
        assert driver.grow(volume, 2 * MIB, Claim()).size_bytes == 2 * MIB
    driver.rename(volume, "other", Claim())
    assert driver.remove(volume, Claim(), wipe=True).found


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_a_user_in_another_namespace_is_one(files: Files, namespace: str) -> None:
    needs_root()
    volume = made(files)
    with (
        user_of(files.image(volume), *NAMESPACES[namespace]),
        in_use(r"sh \(process"),
    ):
        files.driver.remove(volume, Claim())
    assert files.driver.remove(volume, Claim()).found


def test_where_there_are_no_leases_the_host_s_processes_are_looked_through(files: Files) -> None:
    volume = made(files)
    image = files.image(volume)
    # The first such call on the image says which signal to send, the others ask for the lease.
    without = "error=EINVAL:when=2+"
    with user_of(image):
        done, log = run(files, Claim(), "remove", volume, only=image, fcntl=without)
        assert "EINVAL" in log
        assert "InUse" in done.stderr
        assert "sh (process" in done.stderr
    done, log = run(files, Claim(), "remove", volume, only=image, fcntl=without)
    assert "EINVAL" in log
    assert done.returncode == 0, done.stderr
    assert not image.exists()


def test_a_reader_is_a_user_too_and_one_who_only_looks_is_none(files: Files) -> None:
    driver, volume = files.driver, made(files)
    with user_of(files.image(volume), mode="<"), in_use():
        driver.remove(volume, Claim())
    looking = os.open(files.image(volume), os.O_PATH)
    try:
        driver.remove(volume, Claim())
    finally:
        os.close(looking)


@pytest.mark.parametrize("how", ["moved away", "deleted", "replaced by a copy"])
def test_a_device_whose_image_is_not_in_its_place_is_not_taken_for_none(
    files: Files, how: str, tmp_path: Path
) -> None:
    driver, volume = attachable(files), made(files)
    files.write(volume, b"what is left")
    device = driver.attach(volume, Claim()).path
    image = files.image(volume)
    away = image.rename(image.parent / ".away")
    if how == "deleted":
        away.unlink()
    elif how == "replaced by a copy":
        subprocess.run(["cp", "-a", str(away), str(image)], check=True)
    for end in (driver.detach, driver.remove):
        with pytest.raises(InUse, match=f"{device} holds an image of the volume"):
            end(volume, Claim())
    assert Path(str(device)).read_bytes()[:12] == b"what is left"
    if how != "replaced by a copy":
        assert [one.path for one in driver.devices(volume)] == [device]
    if how == "deleted":
        subprocess.run(["losetup", "--detach", str(device)], check=True)
        driver.detach(volume, Claim())
        assert driver.devices(volume) == []
        return
    away.rename(image)
    driver.detach(volume, Claim())
    assert driver.devices(volume) == []
    assert files.read(volume, 12) == b"what is left"


def test_who_opens_an_image_for_a_moment_stops_nothing(files: Files) -> None:
    volume = made(files)
    with subprocess.Popen(
        ["sh", "-c", 'exec 3<>"$0"; echo open; sleep 0.3', str(files.image(volume))],
        stdout=subprocess.PIPE,
    ) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == b"open\n"
        assert files.driver.remove(volume, Claim()).found


def test_a_volume_whose_image_is_open_stays_attached(files: Files) -> None:
    driver, volume = attachable(files), made(files)
    device = driver.attach(volume, Claim())
    uri = device.uris[0].removeprefix("kvm:file:")
    with user_of(Path(uri)):
        with in_use("process"):
            driver.detach(volume, Claim())
        assert driver.devices(volume) == [device]
        with in_use("process"):
            driver.rename(volume, "other", Claim())
        assert driver.attach(volume, Claim()) == device
    driver.rename(volume, "other", Claim())
    driver.detach(VolumeRef(volume.id, "other"), Claim())
    assert driver.devices(volume) == []


def test_what_is_attached_for_reading_only_offers_nothing_to_write_to(files: Files) -> None:
    driver, volume = attachable(files), made(files)
    device = driver.attach(volume, Claim(), read_only=True)
    assert device.read_only
    assert device.uris == ()
    assert driver.devices(volume) == [device]
    driver.detach(volume, Claim())


def test_what_is_written_through_the_file_is_not_copied_torn(files: Files) -> None:
    driver, volume = files.driver, made(files, size=16 * MIB)
    files.write(volume, b"x" * 16 * MIB)
    clone = new_volume("clone")
    takes: list[Callable[[], object]] = [
        lambda: snapped(files, volume),
        lambda: driver.clone(clone, volume, 16 * MIB, {}, Claim()),
        lambda: read(driver, volume),
    ]
    with user_of(files.image(volume)):
        for take in takes:
            if isinstance(files, XfsFiles):
                take()
            else:
                with in_use("process"):
                    take()
    if isinstance(files, XfsFiles):
        return
    assert driver.list_snapshots(volume) == []
    assert files.leftovers() == []
    with user_of(files.image(volume), mode="<"):  # who only reads changes nothing
        snapped(files, volume)


def read(driver: FileDriver, volume: VolumeRef | SnapshotRef) -> None:
    with driver.contents(volume, Claim()) as contents:
        for _ in contents.parts:
            pass


def test_who_opens_an_image_while_it_is_copied_waits_for_a_moment_only(files: Files) -> None:
    if isinstance(files, XfsFiles):
        pytest.skip("blocks are shared in one step here")
    volume = made(files, size=64 * MIB)
    files.write(volume, b"x" * 64 * MIB)
    image = files.image(volume)
    with ExitStack() as kept:

        def start(number: int) -> None:
            if number == 2:
                kept.enter_context(opening(image))

        with pytest.raises(InUse, match="opened for writing"):
            files.driver.create_snapshot(new_snapshot(volume), Claim(at_checkpoint=start))
        # It stopped at once, and let the other in; the kernel would after 45 seconds.
        began = time.monotonic()
        kept.close()
        assert time.monotonic() - began < 10
    assert files.driver.list_snapshots(volume) == []


def opening(image: Path, then: str = "") -> subprocess.Popen[str]:
    """A process that is about to open an image, and waits for whoever holds a lease on it."""
    process = subprocess.Popen(
        ["sh", "-c", f'exec 3<>"$0"; {then}', str(image)], stdout=subprocess.PIPE, text=True
    )
    wait_channel = Path(f"/proc/{process.pid}/stack")
    while process.poll() is None and "break_lease" not in wait_channel.read_text():
        pass
    return process


def test_who_opens_an_image_while_it_is_trimmed_is_let_in_before_more_is_done(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = made(files, size=4 * MIB)
    files.write(volume, bytes(4 * MIB))
    image = files.image(volume)
    before = image.stat().st_blocks
    pread, openers = os.pread, list[subprocess.Popen[str]]()

    def read(descriptor: int, length: int, offset: int) -> bytes:
        data = pread(descriptor, length, offset)
        if not openers and image.samefile(f"/proc/self/fd/{descriptor}"):
            openers.append(opening(image, 'stat -c %b "$0"'))
        return data

    monkeypatch.setattr(os, "pread", read)
    try:
        files.driver.trim(volume, Claim())
    except Unsupported as unable:
        pytest.skip(unable.detail)
    finally:
        with openers[0] as opener:
            assert opener.stdout is not None
            assert int(opener.stdout.read()) == before
    assert image.stat().st_blocks < before


def test_without_leases_nothing_is_trimmed(files: Files) -> None:
    volume = made(files)
    files.write(volume, bytes(MIB))
    image = files.image(volume)
    before = image.stat().st_blocks
    done, log = run(files, Claim(), "trim", volume, only=image, fcntl="error=EINVAL:when=2+")
    assert "EINVAL" in log
    assert "gives this worker no lease" in done.stderr
    assert image.stat().st_blocks == before


def test_who_opens_an_image_while_it_is_wiped_stops_that(files: Files) -> None:
    volume = made(files, size=16 * MIB)
    files.write(volume, b"x" * 16 * MIB)
    with ExitStack() as kept:

        def start(number: int) -> None:
            if number == 3:
                kept.enter_context(user_of(files.image(volume)))

        with in_use("process"):
            files.driver.wipe(volume, Claim(at_checkpoint=start))
    assert files.read(volume, 1, 15 * MIB) == b"x"
    files.driver.wipe(volume, Claim())
    assert files.read(volume, 16 * MIB) == bytes(16 * MIB)


def test_an_image_that_an_administrator_mounted_is_not_handed_out(
    files: Files, tmp_path: Path
) -> None:
    needs_program("mkfs.ext4")
    driver, volume = attachable(files), made(files, size=16 * MIB)
    image = files.image(volume)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    target = tmp_path / "target"
    target.mkdir()
    subprocess.run(["mount", "-o", "loop", image, target], check=True)
    try:
        for read_only in (False, True):
            with pytest.raises(Conflict):
                driver.attach(volume, Claim(), read_only=read_only)
        with pytest.raises(InUse, match="mounted on"):
            driver.attach(volume, Claim())
    finally:
        subprocess.run(["umount", target], check=True)
    device = driver.attach(volume, Claim())
    # The same through our own device: attaching again is only told, and detaching refused.
    subprocess.run(["mount", str(device.path), target], check=True)
    try:
        assert driver.attach(volume, Claim()) == device
    finally:
        subprocess.run(["umount", target], check=True)
    driver.detach(volume, Claim())


def test_a_device_mounted_in_another_namespace_is_in_use(files: Files, tmp_path: Path) -> None:
    needs_program("mkfs.ext4")
    driver, volume = attachable(files), made(files, size=16 * MIB)
    device = driver.attach(volume, Claim())
    subprocess.run(["mkfs.ext4", "-q", str(device.path)], check=True)
    target = tmp_path / "target"
    target.mkdir()
    script = f"mount {device.path} '{target}' && echo mounted && read line"
    with subprocess.Popen(
        ["unshare", "-m", "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == "mounted\n"
        with in_use():
            driver.detach(volume, Claim())
        assert driver.devices(volume) == [device]
        user.communicate("go on\n")
    driver.detach(volume, Claim())
    assert driver.devices(volume) == []


def test_every_device_of_an_image_is_looked_at_before_one_is_handed_out(files: Files) -> None:
    needs_program("losetup")
    driver, volume = attachable(files), made(files)
    driver.attach(volume, Claim())
    second = subprocess.run(
        ["losetup", "--show", "-o", "4096", "-f", files.image(volume)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    with pytest.raises(Conflict, match="in part") as told:
        driver.attach(volume, Claim())
    assert second in told.value.detail
    subprocess.run(["losetup", "-d", second], check=True)
    driver.detach(volume, Claim())


def test_a_device_that_is_another_volume_s_by_now_is_not_this_one_s(files: Files) -> None:
    needs_program("losetup")
    driver, volume, other = attachable(files), made(files), made(files, "other")
    device = driver.attach(volume, Claim())
    subprocess.run(["losetup", "-d", str(device.path)], check=True)
    subprocess.run(["losetup", str(device.path), files.image(other)], check=True)
    assert driver.devices(volume) == []
    assert [seen.path for seen in driver.devices(other)] == [device.path]
    subprocess.run(["losetup", "-d", str(device.path)], check=True)


# -- what is there is not what is recorded ------------------------------------------------------


@pytest.mark.parametrize("there_now", [MIB, 4 * MIB])
def test_an_image_of_another_size_is_told_before_anything_is_changed(
    files: Files, there_now: int
) -> None:
    driver, created = files.driver, made(files, size=2 * MIB)
    volume = VolumeRef(created.id, created.name, 2 * MIB)
    snapshot = snapped(files, volume)
    os.truncate(files.image(volume), there_now)
    before = driver.inspect(volume)
    asks: dict[str, Callable[[], object]] = {
        "grow": lambda: driver.grow(volume, 3 * MIB, Claim()),
        "set_metadata": lambda: driver.set_metadata(volume, {"k": "v"}, Claim()),
        "rename": lambda: driver.rename(volume, "other", Claim()),
        "snapshot": lambda: driver.create_snapshot(new_snapshot(volume, "s2"), Claim()),
        "clone": lambda: driver.clone(new_volume("clone"), volume, 4 * MIB, {}, Claim()),
        "rollback": lambda: driver.rollback(volume, snapshot, Claim()),
        "wipe": lambda: driver.wipe(volume, Claim()),
        "contents": lambda: read(driver, volume),
    }
    if "attach" in driver.capabilities():
        asks["attach"] = lambda: driver.attach(volume, Claim())
    for what, ask in asks.items():
        with pytest.raises(Drift) as told:
            ask()
        assert str(2 * MIB) in told.value.detail, what
        assert str(there_now) in told.value.detail, what
        assert driver.inspect(volume) == before
    assert files.leftovers() == []
    assert driver.devices(volume) == []
    # It can still go, and be recorded as it is.
    driver.fence_off(volume, Claim())
    driver.delete_snapshot(snapshot, Claim())
    assert driver.remove(volume, Claim()).found


@pytest.mark.parametrize("replaced", [False, True], ids=["cut short", "replaced"])
def test_an_image_that_changes_just_before_it_is_attached_is_not_attached(
    files: Files, replaced: bool
) -> None:
    needs_program("losetup")
    driver, volume = attachable(files), made(files, size=2 * MIB)
    image = files.image(volume)

    def change(_checkpoint: int) -> None:
        if replaced:
            image.rename(image.with_name("kept by somebody"))
            image.write_bytes(b"x" * 2 * MIB)
        else:
            os.truncate(image, MIB)

    with pytest.raises(Conflict) as told:
        driver.attach(volume, Claim(at_checkpoint=change))
    assert "nothing was attached" in told.value.detail
    assert driver.devices(volume) == []


@pytest.mark.parametrize("there_now", [MIB, 3 * MIB], ids=["cut short", "grown"])
def test_a_snapshot_of_another_size_is_told_before_anything_is_made_of_it(
    files: Files, there_now: int
) -> None:
    driver, created = files.driver, made(files, size=2 * MIB)
    volume = VolumeRef(created.id, created.name, 2 * MIB)
    files.write(volume, b"before")
    taken = snapped(files, volume)
    snapshot = SnapshotRef(taken.id, taken.name, volume, 2 * MIB)
    files.write(volume, b"behind")
    [image] = files.path.glob(f"snapshots/{volume.id}/s1~*.img")
    os.truncate(image, there_now)
    before = driver.inspect(volume)
    asks: dict[str, Callable[[], object]] = {
        "rollback": lambda: driver.rollback(volume, snapshot, Claim()),
        "clone": lambda: driver.clone(new_volume("clone"), snapshot, 4 * MIB, {}, Claim()),
        "contents": lambda: read(driver, snapshot),
    }
    for what, ask in asks.items():
        with pytest.raises(Drift) as told:
            ask()
        assert "snapshot s1 of" in told.value.detail, what
        sizes = (told.value.facts["size_bytes"], told.value.facts["recorded_bytes"])
        assert sizes == (there_now, 2 * MIB), what
        assert driver.inspect(volume) == before
    assert files.read(volume, 6) == b"behind"
    assert files.leftovers() == []
    driver.delete_snapshot(snapshot, Claim())
    assert driver.list_snapshots(volume) == []


def test_a_grow_and_a_rollback_that_were_cut_short_are_finished(files: Files) -> None:
    driver, created = files.driver, made(files)
    volume = VolumeRef(created.id, created.name, MIB)
    snapshot = snapped(files, volume)
    os.truncate(files.image(volume), 2 * MIB)  # an earlier attempt's
    assert driver.grow(volume, 2 * MIB, Claim()).size_bytes == 2 * MIB
    os.truncate(files.image(volume), MIB)
    driver.grow(volume, 3 * MIB, Claim())
    call = Claim()
    recorded = VolumeRef(created.id, created.name, 3 * MIB)
    assert driver.rollback(recorded, snapshot, call).size_bytes == MIB
    again = driver.rollback(recorded, snapshot, call.again())
    assert (again.size_bytes, again.restored_by) == (MIB, call.token)


def test_an_attached_device_is_as_large_as_is_recorded(files: Files) -> None:
    driver, created = attachable(files), made(files, size=2 * MIB)
    volume = VolumeRef(created.id, created.name, 2 * MIB)
    driver.attach(volume, Claim())
    os.truncate(files.image(volume), MIB)
    with pytest.raises(Drift):
        driver.attach(volume, Claim())
    driver.detach(volume, Claim())
    assert isinstance(there(driver.inspect(volume), volume), VolumeFacts)
