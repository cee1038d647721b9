"""What an image is, by its contents: raw, or in a format of its own that a volume cannot hold.

Only what is certain is named: a raw disk may begin with anything. Signatures are long enough
not to occur by chance, and come from the formats' own descriptions; archives and compressed
files without one are judged by the standard library's readers.
"""

from __future__ import annotations

import lzma
import tarfile
from contextlib import suppress

#: How many bytes of the beginning, and of the end, must be seen.
HEAD = 4096
TAIL = 512

#: Offset, bytes, what such a file is.
_HEADS = (
    # disks of virtual machines
    (0, b"QFI\xfb", "a qcow or qcow2 image"),
    (0, b"QED\x00", "a QED image"),
    (0, b"KDMV", "a VMDK image"),
    (0, b"COWD", "a VMDK image"),
    (0, b"# Disk DescriptorFile", "a VMDK descriptor"),
    (0, b"vhdxfile", "a VHDX image"),
    (0, b"conectix", "a VHD image"),
    (64, b"\x7f\x10\xda\xbe", "a VDI image"),
    (0, b"WithoutFreeSpace", "a Parallels image"),
    (0, b"WithouFreSpacExt", "a Parallels image"),
    (0, b"Bochs Virtual HD Image", "a Bochs image"),
    (0, b"encrcdsa", "an encrypted DMG image"),
    (0, b"sprs", "a sparse image of macOS"),
    (0, b"\x3a\xff\x26\xed", "an Android sparse image"),
    (0, b"MSWIM\x00\x00\x00", "a WIM image"),
    (0, b"VMA\x00", "a VMA backup"),
    (0, b"EVF\x09\x0d\x0a\xff\x00", "an EnCase image"),
    (0, b"partclone-image", "a partclone image"),
    # streams of storage systems
    (0, b"rbd image v2\n", "an export of rbd"),
    (0, b"rbd diff v", "a difference exported from rbd"),
    (0, b"btrfs-stream\x00", "a stream of btrfs send"),
    (8, b"\xac\xcb\xba\xf5\x02\x00\x00\x00", "a stream of zfs send"),
    (0, b"xFSdump0", "a dump of xfsdump"),
    # archives
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"PK\x05\x06", "a zip archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"Rar!\x1a\x07", "a rar archive"),
    (0, b"MSCF\x00\x00\x00\x00", "a cabinet archive"),
    (0, b"!<arch>\n", "an ar archive"),
    (0, b"070701", "a cpio archive"),
    (0, b"070702", "a cpio archive"),
    (0, b"070707", "a cpio archive"),
    (0, b"\xed\xab\xee\xdb", "an rpm package"),
    # compressed
    (0, b"\x1f\x8b\x08", "compressed with gzip"),
    (0, b"\xfd7zXZ\x00", "compressed with xz"),
    (0, b"BZh", "compressed with bzip2"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with Zstandard"),
    (0, b"\x04\x22\x4d\x18", "compressed with lz4"),
    (0, b"\x02\x21\x4c\x18", "compressed with lz4"),
    (0, b"\x89LZO\x00\x0d\x0a\x1a\x0a", "compressed with lzop"),
    (0, b"LZIP\x01", "compressed with lzip"),
    (0, b"LRZI\x00", "compressed with lrzip"),
    (0, b"\xff\x06\x00\x00sNaPpY", "compressed with Snappy"),
    # other files
    (0, b"%PDF-", "a PDF document"),
    (0, b"\x7fELF", "a program"),
    (0, b"\x89PNG\x0d\x0a\x1a\x0a", "a picture"),
    (0, b"SQLite format 3\x00", "a SQLite database"),
    (0, b"PGDMP", "a dump of PostgreSQL"),
)
#: The same, counted from the end: disks with a footer.
_TAILS = (
    (512, b"conectix", "a fixed VHD image"),
    (511, b"conectix", "a fixed VHD image"),
    (512, b"koly", "a DMG image"),
)
#: How text begins that is worth a name of its own; in small letters, behind white space.
_TEXTS = (
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<?xml", "an XML document"),
    (b"-----begin ", "a key or a certificate"),
)
_WHITE = b"\xef\xbb\xbf \t\r\n"
#: What text has besides letters: white space, bells and escape sequences of terminals.
_CONTROLS = frozenset(b"\a\b\t\n\f\r\x1b")


def named_by_head(head: bytes) -> str | None:
    """What a file is that begins like this (`HEAD` bytes, or all of them); None: perhaps raw."""
    if not head:
        return "empty"
    for place, signature, what in _HEADS:
        if head.startswith(signature, place):
            return what
    if _is_tar(head):
        return "a tar archive (an OVA is one)"
    if _is_compress(head):
        return "compressed with compress"
    if _is_lzma(head):
        return "compressed with lzma"
    return _text(head)


def named_by_tail(tail: bytes) -> str | None:
    """What a file is that ends like this (`TAIL` bytes, or all of them); None: perhaps raw."""
    for place, signature, what in _TAILS:
        if tail[-place:].startswith(signature) and len(tail) >= place:
            return what
    return None


def _is_tar(head: bytes) -> bool:
    """Whether the first block is a member's head, whose checksum fits."""
    with suppress(tarfile.HeaderError):
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
        return True
    return False


def _is_compress(head: bytes) -> bool:
    """Two bytes, and a third with the number of bits (9 to 16) and no unknown flag."""
    return (
        head[:2] == b"\x1f\x9d"
        and len(head) > 2
        and not head[2] & 0x60
        and (9 <= head[2] & 0x1F <= 16)
    )


def _is_lzma(head: bytes) -> bool:
    """What xz writes as .lzma begins so, and can be unpacked; there is no signature."""
    if not head.startswith(b"\x5d\x00\x00"):
        return False
    try:
        return bool(lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(head, max_length=1))
    except lzma.LZMAError:
        return False


def _text(head: bytes) -> str | None:
    """What kind of text it is, if all of the beginning is text."""
    begins = head.lstrip(_WHITE).lower()
    for beginning, what in _TEXTS:
        if begins.startswith(beginning):
            return what
    # A letter of several bytes may be cut off at the end.
    for end in range(len(head), max(len(head) - 4, 0), -1):
        with suppress(UnicodeDecodeError):
            letters = head[:end].decode()
            plain = all(ord(one) >= 0x20 or ord(one) in _CONTROLS for one in letters)
            return "text" if plain and "\x7f" not in letters else None
    return None
