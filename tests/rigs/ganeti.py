"""Ganeti's own code, unpacked and not installed, to drive providers as a cluster does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

_KEPT = Path(__file__).parents[2] / "build"
#: Its modules, in the order in which Debian's Python must see them.
_BEGIN = """
import json, os, sys, types
# Ganeti speaks HTTP with this; nothing does here.
sys.modules["pycurl"] = types.ModuleType("pycurl")
sys.path.insert(0, {ours!r})
sys.path.append({theirs!r})
"""
#: A node of a cluster, and its daemon.
_NODE = """
from ganeti import backend, constants, http, objects, pathutils, serializer, utils
from ganeti.server import noded
from ganeti.storage import extstorage
given = json.loads(sys.stdin.read())
pathutils.ES_SEARCH_PATH = given["search_path"]
# An installation makes these.
for made in (pathutils.LOG_ES_DIR, pathutils.BDEV_CACHE_DIR, pathutils.DISK_LINKS_DIR):
    utils.Makedirs(made)
told = []

def ask(call, *params):
    # As the node daemon answers its master: JSON in, whether it succeeded and JSON out.
    asked = serializer.DumpJson(params)
    request = http.server._HttpServerRequest(http.HTTP_POST, "/" + call, {}, asked, None)
    return serializer.LoadJson(noded.NodeRequestHandler().HandleRequest(request))
"""
_END = "\nprint(json.dumps(told))\n"


@cache
def unpacked() -> Path:
    """Where Ganeti's code is. Skips the test with the reason where it cannot be had."""
    return _fetched("ganeti", "ganeti-3.0", "python3-bitarray", "python3-simplejson")


def environment_of_xfs() -> dict[str, str]:
    """What a process needs in its environment to find mkfs.xfs, installed or not."""
    if shutil.which("mkfs.xfs") is not None:
        return {}
    root = _fetched("xfsprogs", "xfsprogs", "libinih1", "liburcu8")
    libraries = [str(found) for found in root.glob("usr/lib/*-linux-gnu*")]
    return {
        "PATH": os.pathsep.join([os.environ["PATH"], str(root / "sbin"), str(root / "usr/sbin")]),
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
    }


def _fetched(name: str, *packages: str) -> Path:
    """Debian's packages, unpacked. Skips the test with the reason where they cannot be had."""
    root = _KEPT / name / "root"
    if root.is_dir():
        return root
    for tool in ("apt-get", "dpkg", "/usr/bin/python3"):
        if shutil.which(tool) is None:
            pytest.skip(f"{name} comes as a Debian package, and there is no {tool} here")
    root.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=root.parent) as room:
        half = Path(room) / "root"
        try:
            _run(room, "apt-get", "download", *packages)
            for package in sorted(Path(room).glob("*.deb")):
                _run(room, "dpkg", "-x", str(package), str(half))
        except subprocess.CalledProcessError as error:
            pytest.skip(f"the package of {name} cannot be fetched: {error.stderr.strip()[-300:]}")
        try:
            half.rename(root)
        except OSError:
            # Another run of the tests was faster.
            if not root.is_dir():
                raise
    return root


def _run(directory: str, *command: str) -> None:
    subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True)


def run(code: str, *, search_path: list[Path], node: Path, **given: Any) -> Any:
    """Run code that appends to ``told``, with ``given`` and Ganeti's modules; what was told.

    ``node`` is where Ganeti keeps all files of the node that the code runs on, which is called
    as the directory is: the root of one of its virtual clusters, so that it needs no installation.
    The code can ``ask`` the node daemon for one of its calls.
    """
    root = unpacked()
    begin = _BEGIN.format(
        ours=str(root / "usr/share/ganeti/3.0"), theirs=str(root / "usr/lib/python3/dist-packages")
    )
    handed = {"search_path": [str(one) for one in search_path], **given}
    done = subprocess.run(
        ["/usr/bin/python3", "-c", begin + _NODE + code + _END],
        input=json.dumps(handed),
        env={**os.environ, "GANETI_ROOTDIR": str(node), "GANETI_HOSTNAME": node.name},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
