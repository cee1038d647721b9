"""Images are known by their contents: raw disks are taken, whatever is on them, others named."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from workers.execution.formats import HEAD, TAIL, named_by_head, named_by_tail

DATA = random.Random(1).randbytes(100_000)


def named(file: bytes) -> str | None:
    return named_by_head(file[:HEAD]) or named_by_tail(file[-TAIL:])


def tarred(kind: Literal[0, 1, 2]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=kind) as archive:
        member = tarfile.TarInfo("disk.vmdk")
        member.size = len(DATA)
        archive.addfile(member, io.BytesIO(DATA))
    return packed.getvalue()


def zipped() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("disk.raw", DATA)
    return packed.getvalue()


@pytest.mark.parametrize(
    ("file", "what"),
    [
        (b"", "empty"),
        (tarred(tarfile.USTAR_FORMAT), "tar archive"),
        (tarred(tarfile.GNU_FORMAT), "tar archive"),
        (tarred(tarfile.PAX_FORMAT), "tar archive"),
        (zipped(), "zip archive"),
        (gzip.compress(DATA), "gzip"),
        (bz2.compress(DATA), "bzip2"),
        (lzma.compress(DATA), "xz"),
        (lzma.compress(DATA, lzma.FORMAT_ALONE), "lzma"),
        (DATA + b"conectix" + bytes(504), "a fixed VHD"),
        (DATA + b"conectix" + bytes(503), "a fixed VHD"),
        (DATA + b"koly" + bytes(508), "a DMG"),
        (b"\n<!DOCTYPE html>\n<html><title>404 Not Found</title></html>\n", "an HTML page"),
        (b"\xef\xbb\xbf<HTML><body>\xff", "an HTML page"),
        (b'{"error": "not found"}', "text"),
        (("ä" * HEAD).encode()[1:][:HEAD], None),
        (("a" + "ä" * HEAD).encode(), "text"),  # cut in the middle of a letter
        (b"hello world\r\n", "text"),
        (b"hello\x00world\r\n", None),
    ],
)
def test_files_that_are_no_raw_disk_are_named(file: bytes, what: str | None) -> None:
    told = named(file)
    assert told == what if what is None else what in str(told)


@pytest.mark.parametrize(
    ("tool", "command", "what"),
    [
        *(
            ("qemu-img", f"qemu-img create -q -f {kind} made 4M", what)
            for kind, what in {
                "qcow2": "qcow2",
                "qcow": "qcow",
                "qed": "QED",
                "parallels": "Parallels",
                "vdi": "VDI",
                "vmdk": "VMDK",
                "vhdx": "VHDX",
                "vpc": "VHD",
            }.items()
        ),
        (
            "qemu-img",
            "qemu-img create -q -f vpc -o subformat=fixed,force_size=on made 4M",
            "a fixed VHD",
        ),
        ("7z", "7z a -bd -si made.7z <data && mv made.7z made", "7z"),
        ("lz4", "lz4 -q -c data >made", "lz4"),
        ("lz4", "lz4 -l -q -c data >made", "lz4"),
        ("lzop", "lzop -c <data >made", "lzop"),
        ("lzip", "lzip -c <data >made", "lzip"),
        ("zstd", "zstd -q -c data >made", "Zstandard"),
        ("compress", "compress -c <data >made || true", "compress"),
        ("cpio", "echo data | cpio -o -H newc >made", "cpio"),
        ("ar", "ar rc made data", "an ar archive"),
        ("img2simg", "truncate -s 4M data && img2simg data made", "Android sparse"),
    ],
)
def test_what_the_tools_make_is_named(tmp_path: Path, tool: str, command: str, what: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not there")
    (tmp_path / "data").write_bytes(b"x" * 1000 + DATA)
    subprocess.run(command, shell=True, cwd=tmp_path, check=True, capture_output=True)
    assert what in str(named((tmp_path / "made").read_bytes()))


def mbr(path: Path, kind: int = 0x83) -> None:
    """A boot loader, one partition, and the mark of a boot sector."""
    entry = bytes([0x80, 0, 2, 0, kind, 0, 2, 0]) + (2048).to_bytes(4, "little") * 2
    sector = (b"\xeb\x63\x90" + DATA)[:446] + entry + bytes(48) + b"\x55\xaa"
    path.write_bytes(sector + bytes(2**20))


def gpt(path: Path) -> None:
    mbr(path, kind=0xEE)
    with path.open("r+b") as file:
        file.seek(512)
        file.write(b"EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")


def run(path: Path, *command: str | Path, size: int = 64) -> None:
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"{command[0]} is not there")
    if not path.exists():
        with path.open("wb") as file:
            file.truncate(size * 2**20)
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.parametrize(
    "make",
    [
        gpt,
        mbr,
        lambda path: run(path, "mkfs.ext4", "-q", "-F", path),
        lambda path: run(path, "mkfs.vfat", path),
        lambda path: run(path, "mkfs.ntfs", "-F", "-Q", path),
        lambda path: run(path, "mkswap", path),
        lambda path: run(path, "mkfs.xfs", path, size=300),
        lambda path: run(path, "mkfs.btrfs", path, size=300),
        lambda path: path.write_bytes(bytes(HEAD)),
        lambda path: path.write_bytes(DATA),
        lambda path: path.write_bytes(b"\0"),
    ],
)
def test_raw_disks_are_taken(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "disk")
    size = (tmp_path / "disk").stat().st_size
    with (tmp_path / "disk").open("rb") as file:
        head = file.read(HEAD)
        file.seek(max(0, size - TAIL))
        assert (named_by_head(head), named_by_tail(file.read())) == (None, None)


def test_what_is_encrypted_looks_like_nothing() -> None:
    chance = random.Random(2)
    taken = [named(chance.randbytes(HEAD)) for _ in range(20_000)]
    # Two bytes and a few bits begin what `compress` makes: the only ones so short.
    assert sum(what is not None for what in taken) <= 2
