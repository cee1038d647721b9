"""Who uses a block device: mounts in any namespace, swap, other devices, processes.

The kernel knows a device by its number, whatever nodes lead to it. Who holds it is found among the
mounts and the open files of all processes, and among the host's loop devices.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from contextlib import suppress
from pathlib import Path

from orchestrator.domain.errors import AccessDenied

_MOST_NAMED = 5
#: Below /dev, and no place for nodes: a file system for files, mounted ``nodev``.
_FILES = "/dev/shm"  # noqa: S108
#: <linux/loop.h>
_LOOP_GET_STATUS64 = 0x4C05
_LOOP_STATUS = struct.Struct("=5Q4I64s64s32s2Q")


def entry_of(number: int) -> Path:
    """The kernel's directory of a block device."""
    return Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")


def numbers_of(entry: Path) -> set[int]:
    """The numbers of a device and its partitions."""
    found = set()
    for part in (entry, *(part.parent for part in entry.glob("*/partition"))):
        with suppress(FileNotFoundError):
            major, minor = (part / "dev").read_text().split(":")
            found.add(os.makedev(int(major), int(minor)))
    return found


def claimed_by(path: str, numbers: set[int]) -> str | None:
    """How the kernel uses a device, and what to do: mounted, swapped to, part of another."""
    if (mounted := _mounted(numbers)) is not None:
        return mounted
    for line in Path("/proc/swaps").read_text().splitlines()[1:]:
        name = line.split()[0]
        with suppress(OSError):
            if name.startswith(path) or Path(name).stat().st_rdev in numbers:
                return "swapped to: swapoff it"
    holders = [
        holder.name for number in numbers for holder in entry_of(number).glob("holders/*")
    ] + loops_on(numbers)
    if holders:
        return f"part of {', '.join(sorted(set(holders))[:_MOST_NAMED])}: stop that"
    return None


def _mounted(numbers: set[int]) -> str | None:
    """Where a device is mounted, in any mount namespace that a process is in.

    Some file systems (btrfs) have a device number of their own: what was mounted tells.
    """
    own = os.readlink("/proc/self/ns/mnt")  # noqa: PTH115 - no path
    looked_at = set()
    for process in (Path("/proc/self"), *Path("/proc").glob("[0-9]*")):
        # Processes end meanwhile, and kernel threads have no namespace to be read.
        with suppress(OSError):
            namespace = os.readlink(process / "ns" / "mnt")  # noqa: PTH115
            if namespace in looked_at:
                continue
            looked_at.add(namespace)
            for line in (process / "mountinfo").read_text().splitlines():
                if not _is_mount_of(line, process, numbers):
                    continue
                where = f"mounted on {line.split(' ')[4]}"
                if namespace == own:
                    return f"{where}: unmount it"
                name = (process / "comm").read_text().strip()
                return f"{where} where process {process.name} ({name}) sees it: unmount it there"
    return None


def _is_mount_of(line: str, process: Path, numbers: set[int]) -> bool:
    """Whether a line of mountinfo is about one of these devices."""
    words = line.split(" ")
    major, minor = words[2].split(":")
    if os.makedev(int(major), int(minor)) in numbers:
        return True
    source = words[words.index("-") + 2]
    if not source.startswith("/") or major != "0":
        return False
    with suppress(OSError):
        found = Path(f"{process}/root{source}").stat()
        return stat.S_ISBLK(found.st_mode) and found.st_rdev in numbers
    return False


def openers(numbers: set[int], own: int) -> dict[int, str]:
    """The processes that have one of these devices open, by whatever node, but for ``own``.

    Raises `AccessDenied` where that may not be seen.
    """
    found: dict[int, str] = {}
    me = os.getpid()
    for entry in Path("/proc").glob("[0-9]*"):
        pid = int(entry.name)
        try:
            descriptors = os.listdir(entry / "fd")  # noqa: PTH208 - there may be very many
        except PermissionError:
            raise AccessDenied(
                f"the open files of process {pid} may not be looked at, so it is not known whether "
                "it uses a device: run the worker as root, or with CAP_SYS_PTRACE"
            ) from None
        except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
            continue
        for descriptor in descriptors:
            if pid == me and int(descriptor) == own:
                continue
            with suppress(OSError):
                opened = os.stat(entry / "fd" / descriptor)  # noqa: PTH116
                if stat.S_ISBLK(opened.st_mode) and opened.st_rdev in numbers:
                    found[pid] = (entry / "comm").read_text().strip()
                    break
    return found


def loops_on(numbers: set[int]) -> list[str]:
    """The loop devices that show one of these devices. Raises `AccessDenied` where one may."""
    return [
        backing.parent.parent.name
        for backing in Path("/sys/block").glob("loop*/loop/backing_file")
        if _shown(backing) in numbers
    ]


def _shown(backing: Path) -> int | None:
    """The number of the device that a loop device shows; None if it shows none."""
    name = backing.parent.parent.name
    try:
        loop = os.open(f"/dev/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, PermissionError):
        return _shown_from_afar(name, backing)
    except OSError:  # being taken away just now
        return None
    try:
        status = bytearray(_LOOP_STATUS.size)
        with suppress(OSError):  # taken away just now
            fcntl.ioctl(loop, _LOOP_GET_STATUS64, status)
        return _number_of_kernel(_LOOP_STATUS.unpack(status)[2])
    finally:
        os.close(loop)


def _shown_from_afar(name: str, backing: Path) -> int | None:
    """The same for a loop device without a node here, or one that may not be opened."""
    try:
        shown = Path(backing.read_text().rstrip("\n"))
    except FileNotFoundError:  # taken away just now
        return None
    with suppress(FileNotFoundError, PermissionError):
        found = shown.stat()
        return found.st_rdev if stat.S_ISBLK(found.st_mode) else None
    if not shown.is_relative_to("/dev") or shown.is_relative_to(_FILES):
        return None
    raise AccessDenied(
        f"/dev/{name} shows {shown}, and neither may be looked at, so it is not known whether a "
        "device is in use: run the worker as root, where /dev is complete"
    )


def _number_of_kernel(number: int) -> int:
    """A device number as the loop driver tells it (<linux/kdev_t.h>: new_encode_dev)."""
    return os.makedev((number & 0xFFF00) >> 8, (number & 0xFF) | ((number >> 12) & 0xFFF00))
