"""Providers of Ganeti's interface that behave as those do which people run.

Each is a few lines of shell over image files and loop devices, written into a directory of the
test's own. What its scripts were called for, and in which order, is in ``calls``.
"""

from __future__ import annotations

import errno
import os
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from workers.backends.extstorage.driver import ExtStorageDriver
from workers.backends.extstorage.spec import ExtStorageOptions

MIB = 2**20

_COMMON = """
set -eu
export PATH="$PATH:/usr/sbin:/sbin"
cd "$EXTP_PATH"
image="$EXTP_PATH/$VOL_NAME.img"
link="$EXTP_PATH/dev/$VOL_NAME"
echo "${0##*/} $VOL_NAME" >>"$EXTP_PATH/../calls"
device_of() { losetup --noheadings --output NAME --associated "$image" | sed -n 1p; }
fail() { echo "$*" >&2; exit 1; }
"""

#: One loop device while it is attached: what rbd, iSCSI and the like do.
MAPPED = {
    "create": '[ ! -e "$image" ] || fail "$image is there already"\n'
    'truncate -s "${VOL_SIZE}M" "$image"',
    "attach": '[ -e "$image" ] || fail "there is no $image"\n'
    'device=$(device_of); [ -n "$device" ] || device=$(losetup --find --show "$image")\n'
    'echo "$device"',
    "detach": 'device=$(device_of); [ -z "$device" ] || losetup --detach "$device"',
    "remove": 'rm -f "$image"',
    "grow": 'truncate -s "${VOL_NEW_SIZE}M" "$image"\n'
    'device=$(device_of); [ -z "$device" ] || losetup --set-capacity "$device"',
    "setinfo": ":",
    "verify": ":",
    "snapshot": 'cp --sparse=always "$image" "$EXTP_PATH/$VOL_SNAPSHOT_NAME.img"',
}
#: The device is there as long as the volume is, at a path made of its name, and attach prints
#: that path whether it is there or not: LVM, ZFS.
STANDING = {
    **MAPPED,
    "create": '[ ! -e "$image" ] || fail "$image is there already"\n'
    'truncate -s "${VOL_SIZE}M" "$image"\nmkdir -p dev\n'
    'ln -s "$(losetup --find --show "$image")" "$link"',
    "attach": 'echo "$link"',
    "detach": ":",
    "remove": 'device=$(device_of); [ -z "$device" ] || losetup --detach "$device"\n'
    'rm -f "$link" "$image"',
    "snapshot": 'cp --sparse=always "$image" "$EXTP_PATH/$VOL_SNAPSHOT_NAME.img"\n'
    'ln -s "$(losetup --find --show "$EXTP_PATH/$VOL_SNAPSHOT_NAME.img")" '
    '"$EXTP_PATH/dev/$VOL_SNAPSHOT_NAME"',
}

MANNERS: dict[str, dict[str, str]] = {
    "mapped": MAPPED,
    "standing": STANDING,
    # Only a hypervisor can use it; attach looks at nothing.
    "addresses only": {**MAPPED, "attach": 'printf "\\nkvm:rbd:pool/%s\\n" "$VOL_NAME"'},
    "both": {**MAPPED, "attach": MAPPED["attach"] + '\necho "kvm:file:$image"'},
    "extents of 4 MiB": {
        **STANDING,
        "create": STANDING["create"].replace(
            '"${VOL_SIZE}M" "$image"', '"$(( (VOL_SIZE + 3) / 4 * 4 ))M" "$image"'
        ),
    },
    "named by VOL_CNAME": {
        script: 'image="$EXTP_PATH/$VOL_CNAME.img"\n' + body
        for script, body in MAPPED.items()
        if script != "snapshot"
    },
    "chatters": {**MAPPED, "create": "echo Creating it now\n" + MAPPED["create"]},
    "no newline": {**MAPPED, "attach": MAPPED["attach"].replace("echo", "printf %s")},
    "finds what it made": {
        **MAPPED,
        "create": '[ -e "$image" ] || truncate -s "${VOL_SIZE}M" "$image"',
    },
    # Its devices stand as long as their volumes, and remove takes them away.
    "cannot detach": {**STANDING, "detach": "fail detach is not implemented"},
    "fails to detach or remove twice": {
        **MAPPED,
        "detach": '[ -n "$(device_of)" ] || fail "it is not attached"\n' + MAPPED["detach"],
        "remove": '[ -e "$image" ] || fail "there is no $image"\n' + MAPPED["remove"],
    },
}


#: The shapes in which providers come that people run.
SHAPES = {
    "prints a path that is not there": MANNERS["standing"],
    "addresses only": MANNERS["addresses only"],
    "chatters": MANNERS["chatters"],
    "cannot detach": MANNERS["cannot detach"],
    "ordinary": MANNERS["mapped"],
}


@dataclass
class Provider:
    """A provider in a directory of its own, whose scripts can be replaced."""

    room: Path
    scripts: dict[str, str]
    #: Options of the driver besides those that are needed.
    options: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.images = self.room / "images"
        self.images.mkdir(parents=True)
        self.directory = self.room / "providers" / "tried"
        self.directory.mkdir(parents=True)
        (self.directory / "parameters.list").write_text("path Where the images are\n")
        for script, body in self.scripts.items():
            self.replace(script, body)

    def replace(self, script: str, body: str) -> None:
        path = self.directory / script
        path.write_text(f"#!/bin/sh{_COMMON}{body}\n")
        path.chmod(0o755)

    def mend(self, script: str) -> None:
        self.replace(script, self.scripts[script])

    def driver(self, host: str = "here") -> ExtStorageDriver:
        """The driver on a host, which is known by its own directory."""
        given: dict[str, object] = {
            "provider": "tried",
            "search_path": [self.directory.parent],
            "path": self.room / host,
            "parameters": {"path": str(self.images)},
            **self.options,
        }
        return ExtStorageDriver("tried", ExtStorageOptions.model_validate(given), "tests")

    def image(self, volume_id: str) -> Path:
        return self.images / f"{volume_id}.img"

    @property
    def calls(self) -> list[str]:
        """The scripts that ran, in their order."""
        try:
            lines = (self.room / "calls").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [line.split()[0] for line in lines]

    def devices(self) -> list[str]:
        """The loop devices that show its images."""
        found = []
        for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
            with suppress(OSError):  # others' come and go
                if backing.read_text().startswith(f"{self.images}/"):
                    found.append(f"/dev/{backing.parent.parent.name}")
        return found

    def held(self) -> bool:
        """Whether somebody has one of these devices to himself."""
        for device in self.devices():
            try:
                os.close(os.open(device, os.O_RDONLY | os.O_EXCL))
            except OSError as error:
                if error.errno == errno.EBUSY:
                    return True
        return False

    def is_running(self) -> bool:
        """Whether one of its scripts runs."""
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (entry / "cwd").readlink() == self.directory:
                    return True
        return False

    def close(self) -> None:
        for device in self.devices():
            subprocess.run(["losetup", "--detach", device], check=True)
