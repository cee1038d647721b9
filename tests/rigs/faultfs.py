"""A file system in user space whose calls fail when a test says so, and that knows what was synced.

It passes everything through to a directory. It speaks the kernel's own protocol on ``/dev/fuse``
(``include/uapi/linux/fuse.h``) and needs no library. Nothing is cached: each system call of the
product that concerns files passes through here.

A fault is "the n-th call fails with E", or "… writes half of it". A power cut is a copy of what
was on the disk: the contents that files had at their last ``fsync``, under the names that their
directories had at theirs.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
import stat
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_HEADER = struct.Struct("<IIQQIIIHH")
_OUT = struct.Struct("<IiQ")
_ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
_BUFFER = 2**20 + 2**16
_DIRECT_IO = 1

#: The requests by their numbers, named after the system calls that they come from.
CALLS = {
    1: "lookup",
    3: "stat",
    4: "truncate",
    9: "mkdir",
    10: "unlink",
    11: "rmdir",
    12: "rename",
    13: "link",
    14: "open",
    15: "read",
    16: "write",
    17: "statfs",
    20: "fsync",
    21: "setxattr",
    22: "getxattr",
    24: "removexattr",
    27: "opendir",
    28: "readdir",
    30: "fsync",
    35: "create",
    43: "fallocate",
    45: "rename",
    46: "lseek",
}
#: Those that take room.
TAKE_ROOM = ("write", "create", "mkdir", "setxattr", "fallocate", "truncate", "rename", "link")
#: Those after which it is known whether what was written is there.
SYNCS = ("fsync",)

_libc = ctypes.CDLL(None, use_errno=True)


def available() -> str | None:
    """Why it cannot be had here; None: it can."""
    if os.geteuid() != 0:
        return "mounting a file system needs root"
    if not Path("/dev/fuse").exists():
        return "this machine has no /dev/fuse"
    return None


class FaultFs:
    """The file system, mounted at ``path``, as a test sees it; it is served by a process."""

    def __init__(self, room: Path) -> None:
        self.path, self.below = room / "faulty", room / "below"
        self.path.mkdir()
        self.below.mkdir()
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
        if _libc.mount(b"faultfs", bytes(self.path), b"fuse.faultfs", 0, options.encode()):
            code = ctypes.get_errno()
            os.close(device)
            raise OSError(code, f"it cannot be mounted here: {os.strerror(code)}")
        self._line, theirs = socket.socketpair()
        command = [sys.executable, "-m", "tests.rigs.faultfs"]
        self._server = subprocess.Popen(
            [*command, str(device), str(theirs.fileno()), str(self.below)],
            pass_fds=(device, theirs.fileno()),
            cwd=Path(__file__).parents[2],
        )
        os.close(device)
        theirs.close()
        self._file = self._line.makefile("rw")
        self._ask(do="hello")

    def fail(self, nth: int, code: int | None, calls: tuple[str, ...] = ()) -> None:
        """Let the n-th call from now on fail with ``code``; None: a write writes half of it.

        ``calls``: only these count; all if empty.
        """
        self._ask(do="fail", nth=nth, code=code, calls=list(calls))

    def heal(self) -> str | None:
        """No fault any more; the call that has failed, if one has."""
        failed: str | None = self._ask(do="heal")["failed"]
        return failed

    def cut(self, directory: Path) -> None:
        """Write into a directory what a power cut would leave."""
        self._ask(do="cut", directory=str(directory))

    def settle(self) -> None:
        """Everything that is there counts as on the disk."""
        self._ask(do="settle")

    def close(self) -> None:
        _libc.umount2(bytes(self.path), 2)  # MNT_DETACH: whoever is in it holds up nobody
        self._file.close()
        self._line.close()
        try:
            self._server.wait(5)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()

    def _ask(self, **what: Any) -> Any:
        self._file.write(json.dumps(what) + "\n")
        self._file.flush()
        return json.loads(self._file.readline())


# -- the server -------------------------------------------------------------------------------


@dataclass
class _Node:
    """A file or directory that the kernel knows."""

    descriptor: int
    looked_up: int = 0

    @property
    def path(self) -> str:
        return f"/proc/self/fd/{self.descriptor}"


@dataclass
class _Disk:
    """What is on the disk: contents and attributes by inode, entries by directory's inode."""

    files: dict[int, tuple[bytes, dict[str, bytes], int]] = field(default_factory=dict)
    entries: dict[int, dict[str, int]] = field(default_factory=dict)
    #: Renames that may be half on the disk: (from, name, to, name, inode).
    renames: list[tuple[int, str, int, str, int]] = field(default_factory=list)

    def sync_file(self, path: str, *, data_only: bool = False) -> None:
        there = os.stat(path)
        with open(path, "rb") as file:
            contents = file.read()
        attributes = {name: os.getxattr(path, name) for name in os.listxattr(path)}
        if data_only and there.st_ino in self.files:
            attributes = self.files[there.st_ino][1]
        self.files[there.st_ino] = (contents, attributes, there.st_mode)

    def sync_directory(self, path: str) -> None:
        number = os.stat(path).st_ino
        with os.scandir(path) as entries:
            self.entries[number] = {one.name: one.inode() for one in entries}
        left = []
        for rename in self.renames:
            origin, old, target, new, inode = rename
            if number == target and self.entries.get(origin, {}).get(old) == inode:
                del self.entries[origin][old]
            elif number == origin:
                self.entries.setdefault(target, {})[new] = inode
            if number not in (origin, target):
                left.append(rename)
        self.renames = left

    def sync_all(self, top: str) -> None:
        for directory, _, names in os.walk(top):
            self.sync_directory(directory)
            for name in names:
                self.sync_file(f"{directory}/{name}")
        self.renames = []

    def write(self, top: str, directory: str) -> None:
        self._write(os.stat(top).st_ino, directory, {})

    def _write(self, number: int, directory: str, made: dict[int, str]) -> None:
        os.makedirs(directory, exist_ok=True)
        for name, inode in self.entries.get(number, {}).items():
            path = f"{directory}/{name}"
            if inode in self.entries:
                self._write(inode, path, made)
            elif inode in made:
                os.link(made[inode], path)
            else:
                contents, attributes, mode = self.files.get(inode, (b"", {}, 0o100600))
                with open(path, "wb") as file:
                    file.write(contents)
                os.chmod(path, stat.S_IMODE(mode))
                for attribute, value in attributes.items():
                    os.setxattr(path, attribute, value)
                made[inode] = path


class _Server:
    """Answers the kernel."""

    def __init__(self, device: int, line: int, below: str) -> None:
        self._device = device
        self._line = socket.socket(fileno=line)
        self._below = below
        root = os.open(below, os.O_PATH | os.O_DIRECTORY)
        self._nodes: dict[int, _Node] = {1: _Node(root, 1)}
        self._numbers: dict[int, int] = {os.fstat(root).st_ino: 1}
        self._next = 2
        self._disk = _Disk()
        self._disk.sync_all(below)
        self._nth, self._code, self._calls = 0, None, frozenset[str]()
        self._failed: str | None = None
        self.counted: Counter[str] = Counter()
        self._answers: dict[int, Callable[[int, bytes], bytes | None]] = {
            1: self._lookup,
            3: lambda node, _: self._attr_out(self._nodes[node].path),
            4: self._setattr,
            9: self._mkdir,
            10: self._unlink,
            11: self._rmdir,
            12: self._rename,
            13: self._link,
            14: self._open,
            15: self._read,
            16: self._write,
            17: self._statfs,
            18: self._release,
            20: self._fsync,
            21: self._setxattr,
            22: self._getxattr,
            23: self._listxattr,
            24: self._removexattr,
            25: lambda _node, _body: b"",
            26: self._init,
            27: self._opendir,
            28: self._readdir,
            29: self._release,
            30: self._fsyncdir,
            35: self._create,
            43: self._fallocate,
            45: self._rename2,
            46: self._lseek,
        }

    def serve(self) -> None:
        import select

        commands = self._line.makefile("rw")
        poll = select.poll()
        poll.register(self._device, select.POLLIN)
        poll.register(self._line, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == self._device:
                    try:
                        request = os.read(self._device, _BUFFER)
                    except OSError as error:
                        if error.errno in (errno.EINTR, errno.ENOENT):
                            continue
                        return  # unmounted
                    self._serve(request)
                else:
                    line = commands.readline()
                    if not line:
                        return
                    commands.write(json.dumps(self._obey(json.loads(line))) + "\n")
                    commands.flush()

    def _obey(self, what: dict[str, Any]) -> dict[str, Any]:
        told: dict[str, Any] = {}
        match what["do"]:
            case "fail":
                self._nth, self._code = what["nth"], what["code"]
                self._calls, self._failed = frozenset(what["calls"]), None
            case "heal":
                told["failed"] = self._failed
                self._nth = 0
            case "cut":
                self._disk.write(self._below, what["directory"])
            case "settle":
                self._disk.sync_all(self._below)
        return told

    def _serve(self, request: bytes) -> None:
        _, opcode, unique, node, *_ = _HEADER.unpack_from(request)
        body = request[_HEADER.size :]
        if opcode in (2, 42, 36):  # forget, several of them, interrupt: nobody waits for an answer
            if opcode == 2:
                self._forget(node, struct.unpack_from("<Q", body)[0])
            elif opcode == 42:
                count = struct.unpack_from("<I", body)[0]
                for place in range(count):
                    self._forget(*struct.unpack_from("<QQ", body, 8 + 16 * place))
            return
        try:
            if opcode not in self._answers:
                raise OSError(errno.ENOSYS, "")
            body = self._disturb(opcode, body)
            answer = self._answers[opcode](node, body) or b""
            code = 0
        except OSError as error:
            answer, code = b"", -(error.errno or errno.EIO)
        except KeyError:
            answer, code = b"", -errno.ESTALE
        try:
            os.write(self._device, _OUT.pack(_OUT.size + len(answer), code, unique) + answer)
        except OSError as error:
            if error.errno != errno.ENOENT:  # whoever asked was interrupted
                raise

    def _disturb(self, opcode: int, body: bytes) -> bytes:
        """What comes of the call if it is the one that shall fail."""
        call = CALLS.get(opcode)
        if call is None or not self._nth or (self._calls and call not in self._calls):
            return body
        self._nth -= 1
        if self._nth:
            return body
        self._failed = call
        if self._code is not None:
            raise OSError(self._code, "")
        handle, offset, size = struct.unpack_from("<QQI", body)
        half = size // 2
        return struct.pack("<QQI", handle, offset, half) + body[20:40] + body[40 : 40 + half]

    # -- nodes ----------------------------------------------------------------------------

    def _entry(self, parent: int, name: str) -> bytes:
        directory = self._nodes[parent].descriptor
        descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=directory)
        there = os.fstat(descriptor)
        number = self._numbers.get(there.st_ino)
        if number is None:
            number = self._numbers[there.st_ino] = self._next
            self._next += 1
            self._nodes[number] = _Node(descriptor)
        else:
            os.close(descriptor)
        self._nodes[number].looked_up += 1
        return struct.pack("<QQQQII", number, 0, 0, 0, 0, 0) + _attr(there)

    def _forget(self, number: int, times: int) -> None:
        node = self._nodes.get(number)
        if node is None or number == 1:
            return
        node.looked_up -= times
        if node.looked_up <= 0:
            self._numbers.pop(os.fstat(node.descriptor).st_ino, None)
            os.close(node.descriptor)
            del self._nodes[number]

    def _at(self, node: int) -> int:
        return self._nodes[node].descriptor

    def _attr_out(self, path: str) -> bytes:
        return struct.pack("<QII", 0, 0, 0) + _attr(os.stat(path))

    # -- requests -------------------------------------------------------------------------

    def _init(self, _node: int, body: bytes) -> bytes:
        major, minor = struct.unpack_from("<II", body)
        # No flag is asked for but large writes: locks stay with the kernel.
        big_writes = 1 << 5
        return struct.pack(
            "<IIIIHHIIHHI7I",
            major,
            min(minor, 31),
            0,
            big_writes,
            12,
            9,
            2**17,
            1,
            0,
            0,
            0,
            *[0] * 7,
        )

    def _lookup(self, node: int, body: bytes) -> bytes:
        return self._entry(node, _name(body))

    def _setattr(self, node: int, body: bytes) -> bytes:
        valid, _, _, size = struct.unpack_from("<IIQQ", body)
        mode, _, uid, gid = struct.unpack_from("<IIII", body, 68)
        path = self._nodes[node].path
        if valid & 1:
            os.chmod(path, stat.S_IMODE(mode))
        if valid & 6:
            os.chown(path, uid if valid & 2 else -1, gid if valid & 4 else -1)
        if valid & 8:
            os.truncate(path, size)
        return self._attr_out(path)

    def _mkdir(self, node: int, body: bytes) -> bytes:
        mode, _ = struct.unpack_from("<II", body)
        os.mkdir(_name(body[8:]), mode, dir_fd=self._at(node))
        return self._entry(node, _name(body[8:]))

    def _unlink(self, node: int, body: bytes) -> None:
        os.unlink(_name(body), dir_fd=self._at(node))

    def _rmdir(self, node: int, body: bytes) -> None:
        os.rmdir(_name(body), dir_fd=self._at(node))

    def _rename(self, node: int, body: bytes) -> None:
        [target] = struct.unpack_from("<Q", body)
        self._move(node, target, 0, body[8:])

    def _rename2(self, node: int, body: bytes) -> None:
        target, flags, _ = struct.unpack_from("<QII", body)
        self._move(node, target, flags, body[16:])

    def _move(self, node: int, target: int, flags: int, names: bytes) -> None:
        old, new, _ = (part.decode(errors="surrogateescape") for part in names.split(b"\0", 2))
        origin, to = self._at(node), self._at(target)
        inode = os.stat(old, dir_fd=origin, follow_symlinks=False).st_ino
        if _libc.renameat2(origin, os.fsencode(old), to, os.fsencode(new), flags):
            code = ctypes.get_errno()
            raise OSError(code, "")
        if node != target:
            self._disk.renames.append(
                (os.fstat(origin).st_ino, old, os.fstat(to).st_ino, new, inode)
            )

    def _link(self, node: int, body: bytes) -> bytes:
        [old] = struct.unpack_from("<Q", body)
        name = _name(body[8:])
        os.link(self._nodes[old].path, name, dst_dir_fd=self._at(node), follow_symlinks=True)
        return self._entry(node, name)

    def _open(self, node: int, body: bytes) -> bytes:
        flags, _ = struct.unpack_from("<II", body)
        kept = flags & ~(os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | 0x8000)
        handle = os.open(self._nodes[node].path, kept | os.O_CLOEXEC)
        return struct.pack("<QII", handle, _DIRECT_IO, 0)

    def _opendir(self, node: int, _body: bytes) -> bytes:
        handle = os.open(self._nodes[node].path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return struct.pack("<QII", handle, 0, 0)

    def _create(self, node: int, body: bytes) -> bytes:
        flags, mode, _, _ = struct.unpack_from("<IIII", body)
        name = _name(body[16:])
        kept = (flags | os.O_CREAT) & ~0x8000
        handle = os.open(name, kept | os.O_CLOEXEC, mode & 0o7777, dir_fd=self._at(node))
        try:
            return self._entry(node, name) + struct.pack("<QII", handle, _DIRECT_IO, 0)
        except OSError:
            os.close(handle)
            raise

    def _read(self, _node: int, body: bytes) -> bytes:
        handle, offset, size = struct.unpack_from("<QQI", body)
        return os.pread(handle, size, offset)

    def _write(self, _node: int, body: bytes) -> bytes:
        handle, offset, size = struct.unpack_from("<QQI", body)
        return struct.pack("<II", os.pwrite(handle, body[40 : 40 + size], offset), 0)

    def _statfs(self, node: int, _body: bytes) -> bytes:
        told = os.statvfs(self._nodes[node].path)
        blocks = (told.f_blocks, told.f_bfree, told.f_bavail, told.f_files, told.f_ffree)
        return struct.pack("<5Q4I6I", *blocks, told.f_bsize, 255, told.f_frsize, 0, *[0] * 6)

    def _release(self, _node: int, body: bytes) -> None:
        os.close(struct.unpack_from("<Q", body)[0])

    def _fsync(self, node: int, body: bytes) -> None:
        handle, flags = struct.unpack_from("<QI", body)
        os.fsync(handle)
        self._disk.sync_file(f"/proc/self/fd/{handle}", data_only=bool(flags & 1))

    def _fsyncdir(self, node: int, _body: bytes) -> None:
        self._disk.sync_directory(self._nodes[node].path)

    def _setxattr(self, node: int, body: bytes) -> None:
        size, flags = struct.unpack_from("<II", body)
        name, value = body[8:].split(b"\0", 1)
        os.setxattr(self._nodes[node].path, name, value[:size], flags)

    def _getxattr(self, node: int, body: bytes) -> bytes:
        [size] = struct.unpack_from("<I", body)
        return _sized(os.getxattr(self._nodes[node].path, _name(body[8:])), size)

    def _listxattr(self, node: int, body: bytes) -> bytes:
        [size] = struct.unpack_from("<I", body)
        names = os.listxattr(self._nodes[node].path)
        return _sized(b"".join(os.fsencode(name) + b"\0" for name in names), size)

    def _removexattr(self, node: int, body: bytes) -> None:
        os.removexattr(self._nodes[node].path, _name(body))

    def _readdir(self, node: int, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        with os.scandir(self._nodes[node].path) as entries:
            found = sorted(
                (one.name, one.inode(), one.is_dir(follow_symlinks=False)) for one in entries
            )
        written = bytearray()
        for place, (name, inode, directory) in list(enumerate(found, 1))[offset:]:
            raw = os.fsencode(name)
            entry = struct.pack("<QQII", inode, place, len(raw), 4 if directory else 8) + raw
            entry += bytes(-len(entry) % 8)
            if len(written) + len(entry) > size:
                break
            written += entry
        return bytes(written)

    def _fallocate(self, _node: int, body: bytes) -> None:
        handle, offset, length, mode = struct.unpack_from("<QQQI", body)
        if mode:
            raise OSError(errno.EOPNOTSUPP, "")
        os.posix_fallocate(handle, offset, length)

    def _lseek(self, _node: int, body: bytes) -> bytes:
        handle, offset, whence = struct.unpack_from("<QQI", body)
        return struct.pack("<Q", os.lseek(handle, offset, whence))


def _attr(there: os.stat_result) -> bytes:
    times = (there.st_atime_ns, there.st_mtime_ns, there.st_ctime_ns)
    return _ATTR.pack(
        there.st_ino,
        there.st_size,
        there.st_blocks,
        *(time // 10**9 for time in times),
        *(time % 10**9 for time in times),
        there.st_mode,
        there.st_nlink,
        there.st_uid,
        there.st_gid,
        0,
        4096,
        0,
    )


def _name(raw: bytes) -> str:
    return os.fsdecode(raw.split(b"\0", 1)[0])


def _sized(value: bytes, size: int) -> bytes:
    if size == 0:
        return struct.pack("<II", len(value), 0)
    if len(value) > size:
        raise OSError(errno.ERANGE, "")
    return value


if __name__ == "__main__":
    _Server(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]).serve()
