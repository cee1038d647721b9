"""Snapshots that outlived their volume: nothing else leads to them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from workers.backends.file import layout
from workers.backends.file.images import Image, files, walk
from workers.backends.file.tree import Tree

_ID = re.compile(r"[0-9a-f]{32}")
_IMAGE = re.compile(r".*~([0-9a-f]{32})\.img", re.DOTALL)


def find_strays(tree: Tree) -> Iterator[tuple[str, Image]]:
    """Every image of a snapshot whose volume has none, with the volume's id."""
    # In this order: a volume is there before it has snapshots.
    without = {
        bytes.fromhex(name) for name in tree.list_names(*layout.SNAPSHOTS) if _ID.fullmatch(name)
    }
    # Twice: one that was renamed meanwhile may have been missed where it went to.
    for _ in range(2):
        if without:
            without.difference_update(map(bytes.fromhex, _volumes(tree)))
    for volume_id in sorted(without):
        for image in walk(tree, (*layout.SNAPSHOTS, volume_id.hex())):
            yield volume_id.hex(), image


def _volumes(tree: Tree) -> Iterator[str]:
    for _, _, file in files(tree, layout.VOLUMES):
        if (image := _IMAGE.fullmatch(file)) is not None:
            yield image[1]
