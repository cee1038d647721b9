"""A device that somebody uses, however and wherever, is neither written to nor taken away."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from orchestrator.domain.errors import BackendBusy, BackendError, Conflict, InUse, NoDevice
from tests.conformance.calls import Claim, new_volume
from tests.conformance.images import in_use
from tests.extstorage.conftest import Make
from tests.extstorage.providers import MAPPED, MIB, STANDING, Provider
from workers.backends.base import blockdevices
from workers.backends.base.references import VolumeRef
from workers.backends.extstorage.driver import ExtStorageDriver

#: The least that btrfs takes.
SIZE = 112 * MIB


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout.strip()


@contextmanager
def mounted(device: str, room: Path, kind: str) -> Iterator[str]:
    if shutil.which(f"mkfs.{kind}") is None:
        pytest.skip(f"mkfs.{kind} is not installed")
    run(f"mkfs.{kind}", "-q", device)
    place = room / "mnt"
    place.mkdir()
    run("mount", device, str(place))
    try:
        yield f"mounted on {place}"
    finally:
        run("umount", str(place))


def btrfs(device: str, room: Path) -> Iterator[str]:
    """Its mounts show a device number of the file system's own."""
    with mounted(device, room, "btrfs") as told:
        yield told


def ext4(device: str, room: Path) -> Iterator[str]:
    with mounted(device, room, "ext4") as told:
        yield told


def elsewhere(device: str, room: Path) -> Iterator[str]:
    """In a mount namespace of another process."""
    run("mkfs.ext4", "-q", device)
    place = room / "mnt"
    place.mkdir()
    mount = f"mount {device} {place} && echo mounted && exec sleep 1000"
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"mounted\n"
        assert not place.is_mount()
        try:
            yield f"mounted on {place} where process {process.pid} "
        finally:
            process.kill()


def another_node(device: str, room: Path) -> Iterator[str]:
    """Held open without a claim, through a device node that has another name."""
    node = room / "node"
    os.mknod(node, 0o60600, Path(device).stat().st_rdev)
    with node.open("rb") as opened:
        process = subprocess.Popen(["sleep", "1000"], stdin=opened)
    try:
        yield f"held open by process {process.pid} "
    finally:
        process.kill()
        process.wait()


def loop(device: str, room: Path) -> Iterator[str]:
    """Shown by another loop device, which claims nothing."""
    upper = run("losetup", "--find", "--show", device)
    try:
        yield f"part of {Path(upper).name}"
    finally:
        run("losetup", "--detach", upper)


def swap(device: str, room: Path) -> Iterator[str]:
    run("mkswap", "--quiet", device)
    run("swapon", device)
    try:
        yield "swapped to"
    finally:
        run("swapoff", device)


USES: dict[str, Callable[[str, Path], Iterator[str]]] = {
    use.__name__: use for use in (btrfs, ext4, elsewhere, another_node, loop, swap)
}


#: What a worker sees whose /dev is that of a container: the one device, and null.
_IN_CONTAINER = """
set -e
mkdir "$2/dev"
cp -a /dev/null "$1" "$2/dev"
mount --bind "$2/dev" /dev
exec "$3" -c "$4" "$1"
"""
_CLAIM = """
import sys
from workers.backends.base.blockdevices import exclusively
with exclusively(sys.argv[1]):
    print("nobody uses it")
"""


@pytest.mark.parametrize("upper", [False, True], ids=["unused", "shown by another"])
def test_a_user_without_a_device_node_is_one(upper: bool, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(MIB))
    device = run("losetup", "--find", "--show", str(image))
    above = run("losetup", "--find", "--show", device) if upper else None
    with TemporaryFile(dir="/dev/shm") as file:
        file.truncate(MIB)
        beside = run("losetup", "--find", "--show", f"/proc/{os.getpid()}/fd/{file.fileno()}")
    try:
        command = ["unshare", "--mount", "sh", "-c", _IN_CONTAINER, "sh", device, str(tmp_path)]
        done = subprocess.run(
            [*command, sys.executable, _CLAIM], capture_output=True, text=True, check=False
        )
    finally:
        for one in filter(None, (above, device, beside)):
            run("losetup", "--detach", one)
    if above is None:
        assert done.stdout == "nobody uses it\n", done.stderr
    else:
        assert f"InUse: {device} is part of {Path(above).name}" in done.stderr


@pytest.fixture
def provider(make: Make) -> Provider:
    return make(MAPPED)


@pytest.fixture
def driver(provider: Provider) -> ExtStorageDriver:
    return provider.driver()


@pytest.fixture
def volume(driver: ExtStorageDriver) -> VolumeRef:
    made = new_volume("vm1")
    driver.create(made, SIZE, {}, Claim())
    return made


@pytest.mark.parametrize("noted", [True, False], ids=["attached by us", "attached by others"])
@pytest.mark.parametrize("use", USES)
def test_what_is_used_is_left_in_peace(
    provider: Provider,
    driver: ExtStorageDriver,
    volume: VolumeRef,
    use: str,
    noted: bool,
    tmp_path: Path,
) -> None:
    if noted:
        device = str(driver.attach(volume, Claim()).path)
    else:
        device = run("losetup", "--find", "--show", str(provider.image(volume.id)))
    using = contextmanager(USES[use])
    with using(device, tmp_path) as told:
        provider.image(volume.id).stat()
        before = len(provider.calls)
        calls: tuple[Callable[[], object], ...] = (
            lambda: driver.detach(volume, Claim()),
            lambda: driver.wipe(volume, Claim()),
            lambda: driver.remove(volume, Claim()),
            lambda: driver.remove(volume, Claim(), wipe=True),
        )
        for call in calls:
            with in_use(None if noted and call is not calls[0] else told):
                call()
        with pytest.raises(Conflict):
            driver.discard(volume, Claim())
        driver.inspect(volume)
        assert set(provider.calls[before:]) == {"attach"}
        assert provider.devices() == [device]
    driver.detach(volume, Claim())
    assert provider.devices() == []
    driver.remove(volume, Claim(), wipe=True)


def test_a_device_that_cannot_be_looked_at_is_not_gone(make: Make) -> None:
    """Its path is a symbolic link, which leads nowhere for a moment."""
    provider = make(STANDING)
    driver, volume = provider.driver(), new_volume("vm1")
    driver.create(volume, MIB, {}, Claim())
    link = Path(str(driver.attach(volume, Claim()).path))
    device = link.readlink()
    link.unlink()
    link.symlink_to(link)
    before = len(provider.calls)
    for call in (driver.detach, driver.remove):
        with pytest.raises(BackendError, match="symbolic links"):
            call(volume, Claim())
    assert "detach" not in provider.calls[before:]
    link.unlink()
    link.symlink_to(device)
    assert driver.devices(volume)
    driver.detach(volume, Claim())
    assert driver.devices(volume) == []


def test_a_partition_of_it_counts(provider: Provider, volume: VolumeRef, tmp_path: Path) -> None:
    device = run("losetup", "--find", "--show", "--partscan", str(provider.image(volume.id)))
    run("addpart", device, "1", "2048", "65536")
    part = Path(f"/sys/class/block/{Path(device).name}p1/dev").read_text().split(":")
    node = tmp_path / "partition"
    os.mknod(node, 0o60600, os.makedev(int(part[0]), int(part[1])))
    with (
        node.open("rb"),
        pytest.raises(InUse, match=f"held open by process {os.getpid()}"),
        blockdevices.exclusively(device),
    ):
        pass
    run("mkfs.ext4", "-q", str(node))
    place = tmp_path / "mnt"
    place.mkdir()
    run("mount", str(node), str(place))
    try:
        with (
            pytest.raises(InUse, match=f"mounted on {place}"),
            blockdevices.exclusively(device),
        ):
            pass
    finally:
        run("umount", str(place))


def test_who_has_it_exclusively_keeps_others_from_mounting_it(
    driver: ExtStorageDriver, volume: VolumeRef, tmp_path: Path
) -> None:
    device = str(driver.attach(volume, Claim()).path)
    run("mkfs.ext4", "-q", device)
    with blockdevices.exclusively(device):
        refused = subprocess.run(["mount", device, str(tmp_path)], capture_output=True, check=False)
        assert refused.returncode != 0
    run("mount", device, str(tmp_path))
    run("umount", str(tmp_path))


def test_a_wipe_keeps_others_out_for_as_long_as_it_lasts(
    provider: Provider, driver: ExtStorageDriver, volume: VolumeRef
) -> None:
    tried: list[bool] = []

    def try_to_open(_number: int) -> None:
        if call.reported:
            tried.append(provider.held())

    call = Claim(at_checkpoint=try_to_open)
    driver.wipe(volume, call)
    # At each chunk but the first; what follows the last is the provider's detach.
    assert tried[: len(call.reported) - 1] == [True] * (SIZE // (4 * MIB) - 1)


def test_a_detach_that_leaves_a_device_that_is_used_is_none(make: Make, tmp_path: Path) -> None:
    """Between the look and the provider's own detach somebody may come."""
    holder = tmp_path / "holder"
    provider = make(
        {
            **STANDING,
            "detach": f'sleep 1000 <"$link" >/dev/null 2>&1 & echo $! >{holder}',
        }
    )
    driver, volume = provider.driver(), new_volume("vm1")
    driver.create(volume, 4 * MIB, {}, Claim())
    os.kill(int(holder.read_text()), 9)
    driver.attach(volume, Claim())
    try:
        with pytest.raises(InUse, match="held open"):
            driver.detach(volume, Claim())
        assert driver.devices(volume) != []
    finally:
        os.kill(int(holder.read_text()), 9)
        provider.mend("detach")
        provider.replace("detach", ":")


def test_an_export_that_somebody_writes_into_is_refused(
    driver: ExtStorageDriver, volume: VolumeRef
) -> None:
    device = str(driver.attach(volume, Claim()).path)
    with driver.contents(volume, Claim()) as contents:
        assert sum(len(data) for _, data in contents.parts) <= SIZE
    # Whoever reads learns of it at the end of what is read, before use is made of that; and once
    # more who does not read to the end.
    with pytest.raises(InUse), driver.contents(volume, Claim()) as contents:
        next(contents.parts)
        with Path(device).open("r+b") as disk:
            disk.seek(SIZE - MIB)
            disk.write(b"written meanwhile")
        with pytest.raises(InUse, match="was written to while it was read"):
            list(contents.parts)
    driver.detach(volume, Claim())


def test_an_export_where_writes_are_not_counted_needs_it_unused(
    driver: ExtStorageDriver, volume: VolumeRef
) -> None:
    device = Path(str(driver.attach(volume, Claim()).path))
    counting = Path(f"/sys/block/{device.name}/queue/iostats")
    counting.write_text("0")
    try:
        with driver.contents(volume, Claim()) as contents:
            list(contents.parts)
        with (
            device.open("rb"),
            pytest.raises(InUse, match="held open"),
            driver.contents(volume, Claim()),
        ):
            pass
    finally:
        counting.write_text("1")


def test_an_attachment_whose_device_shows_something_else_is_none(
    provider: Provider, driver: ExtStorageDriver, volume: VolumeRef, tmp_path: Path
) -> None:
    # Not one of the devices that others on this host take when they are free.
    device = f"/dev/loop{3000 + os.getpid() % 1000}"
    provider.replace("attach", f'losetup {device} "$image"\necho {device}')
    driver.attach(volume, Claim())
    run("losetup", "--detach", device)
    other = tmp_path / "other"
    other.write_bytes(bytes(SIZE))
    run("losetup", device, str(other))
    try:
        assert driver.devices(volume) == []
    finally:
        run("losetup", "--detach", device)


@contextmanager
def stuck(driver: ExtStorageDriver, volume: VolumeRef, when: Callable[[], bool]) -> Iterator[None]:
    """A worker that wipes and stands still as soon as something is so, until the block ends.

    Then it is refused.
    """
    there, go = threading.Event(), threading.Event()

    def stand(_number: int) -> None:
        if not there.is_set() and when():
            there.set()
            go.wait(60)

    def late() -> None:
        with pytest.raises(Conflict, match="a later claim"):
            driver.wipe(volume, Claim(at_checkpoint=stand))
        refused.append(True)

    refused: list[bool] = []
    wipe = threading.Thread(target=late)
    wipe.start()
    try:
        assert there.wait(60)
        yield
    finally:
        go.set()
        wipe.join()
    assert refused


def test_a_worker_that_is_stuck_in_it_is_waited_for(
    provider: Provider, driver: ExtStorageDriver, volume: VolumeRef
) -> None:
    """Its call is refused as soon as it goes on; whoever comes later tries again then."""
    with (
        stuck(driver, volume, provider.held),
        pytest.raises(BackendBusy, match="an earlier attempt has not ended"),
    ):
        driver.wipe(volume, Claim())
    driver.wipe(volume, Claim())


@pytest.mark.parametrize("then", ["nothing", "another volume"])
def test_a_worker_that_was_stuck_before_it_believes_nothing_of_the_device(
    provider: Provider, driver: ExtStorageDriver, volume: VolumeRef, tmp_path: Path, then: str
) -> None:
    """The later one has detached it: its path shows nothing now, or another volume."""
    other, wait = tmp_path / "other", tmp_path / "wait"
    other.write_bytes(b"precious".ljust(SIZE, b"!"))
    wait.touch()
    # Not one of the devices that others on this host take when they are free.
    device = f"/dev/loop{3000 + os.getpid() % 1000}"
    attach = MAPPED["attach"].replace("--find --show", device).replace("echo", f"echo {device} #")
    provider.replace("attach", f"{attach}\nwhile [ -e {wait} ]; do sleep 0.02; done")
    with stuck(driver, volume, lambda: device in provider.devices()):
        wait.unlink()
        while provider.is_running():
            pass
        driver.wipe(volume, Claim())
        assert provider.devices() == []
        if then == "another volume":
            run("losetup", device, str(other))
    if then == "another volume":
        run("losetup", "--detach", device)
    assert other.read_bytes() == b"precious".ljust(SIZE, b"!")


def test_a_device_that_shows_something_else_once_it_is_opened_is_left(
    provider: Provider,
    driver: ExtStorageDriver,
    volume: VolumeRef,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"precious".ljust(SIZE, b"!"))
    device = f"/dev/loop{3000 + os.getpid() % 1000}"
    attach = MAPPED["attach"].replace("--find --show", device).replace("echo", f"echo {device} #")
    provider.replace("attach", attach)
    exclusively = blockdevices.exclusively

    @contextmanager
    def late(path: str, *, writable: bool = False) -> Iterator[int]:
        if writable:
            run("losetup", "--detach", device)
            run("losetup", device, str(other))
        with exclusively(path, writable=writable) as descriptor:
            yield descriptor

    monkeypatch.setattr(blockdevices, "exclusively", late)
    try:
        with pytest.raises(BackendBusy, match="shows something else now"):
            driver.wipe(volume, Claim())
    finally:
        run("losetup", "--detach", device)
    assert other.read_bytes() == b"precious".ljust(SIZE, b"!")


def test_a_device_that_is_just_going_is_asked_for_once_more(
    provider: Provider, driver: ExtStorageDriver, volume: VolumeRef
) -> None:
    """Somebody has looked at it while it was detached by hand, and ends that a moment after attach
    has found it."""
    device = run("losetup", "--find", "--show", str(provider.image(volume.id)))
    with Path(device).open("rb") as opened:
        script = "trap 'sleep 0.2; exit' TERM; echo ready; while :; do sleep 0.1; done"
        looker = subprocess.Popen(["sh", "-c", script], stdin=opened, stdout=subprocess.PIPE)
    with looker.stdout as said:  # type: ignore[union-attr]
        assert said.readline() == b"ready\n"
    try:
        run("losetup", "--detach", device)
        assert provider.devices() == [device]
        found = MAPPED["attach"].rpartition("echo")[0]
        ended = f"kill {looker.pid} || :\n"
        provider.replace("attach", f'{found}{ended}echo "$device"')
        attached = driver.attach(volume, Claim())
        assert provider.devices() == [attached.path]
        assert provider.calls[-2:] == ["attach", "attach"]
    finally:
        looker.kill()
        looker.wait()
    driver.detach(volume, Claim())


def test_a_device_of_no_bytes_is_no_device(
    provider: Provider, driver: ExtStorageDriver, volume: VolumeRef
) -> None:
    device = f"/dev/loop{3000 + os.getpid() % 1000}"
    run("losetup", device, str(provider.image(volume.id)))
    run("losetup", "--detach", device)
    provider.replace("attach", f"echo {device}")
    for call in (
        lambda: driver.attach(volume, Claim()),
        lambda: driver.wipe(volume, Claim()),
        lambda: driver.inspect(volume),
    ):
        with pytest.raises(NoDevice, match="of no bytes"):
            call()


def test_what_the_kernel_says_of_a_failing_device_is_told(
    provider: Provider, driver: ExtStorageDriver, tmp_path: Path
) -> None:
    """The file system below the image is full, which a loop device tells as an I/O error."""
    run("mount", "-t", "tmpfs", "-o", "size=6m", "none", str(provider.images))
    try:
        volume = new_volume("vm2")
        driver.create(volume, 16 * MIB, {}, Claim())
        with pytest.raises(BackendError, match="Input/output error: the device failed"):
            driver.wipe(volume, Claim())
        assert provider.devices() == []
    finally:
        run("umount", str(provider.images))
