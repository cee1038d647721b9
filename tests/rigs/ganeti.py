"""Ganeti's own code, unpacked and not installed, to drive providers as a cluster does."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

_PACKAGES = ("ganeti-3.0", "python3-bitarray", "python3-simplejson")
_KEPT = Path(__file__).parents[2] / "build" / "ganeti"
#: Its modules, in the order in which Debian's Python must see them.
_BEGIN = """
import json, sys, types
# Ganeti speaks HTTP with this; nothing does here.
sys.modules["pycurl"] = types.ModuleType("pycurl")
sys.path.insert(0, {ours!r})
sys.path.append({theirs!r})
from ganeti import backend, pathutils
from ganeti.storage import extstorage
given = json.loads(sys.stdin.read())
pathutils.ES_SEARCH_PATH = given["search_path"]
pathutils.LOG_ES_DIR = given["log_directory"]
told = []
"""
_END = "\nprint(json.dumps(told))\n"


@cache
def unpacked() -> Path:
    """Where Ganeti's code is. Skips the test with the reason where it cannot be had."""
    root = _KEPT / "root"
    if root.is_dir():
        return root
    for tool in ("apt-get", "dpkg", "/usr/bin/python3"):
        if shutil.which(tool) is None:
            pytest.skip(f"Ganeti's code is a Debian package, and there is no {tool} here")
    _KEPT.mkdir(parents=True, exist_ok=True)
    try:
        _run("apt-get", "download", *_PACKAGES)
        half = _KEPT / "half"
        for package in sorted(_KEPT.glob("*.deb")):
            _run("dpkg", "-x", str(package), str(half))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"Ganeti's package cannot be fetched: {error.stderr.strip()[-300:]}")
    half.rename(root)
    return root


def _run(*command: str) -> None:
    subprocess.run(command, cwd=_KEPT, check=True, capture_output=True, text=True)


def run(code: str, *, search_path: list[Path], log_directory: Path, **given: Any) -> Any:
    """Run code that appends to ``told``, with ``given`` and Ganeti's modules; what was told."""
    root = unpacked()
    begin = _BEGIN.format(
        ours=str(root / "usr/share/ganeti/3.0"), theirs=str(root / "usr/lib/python3/dist-packages")
    )
    log_directory.mkdir(parents=True, exist_ok=True)
    handed = {
        "search_path": [str(one) for one in search_path],
        "log_directory": str(log_directory),
        **given,
    }
    done = subprocess.run(
        ["/usr/bin/python3", "-c", begin + code + _END],
        input=json.dumps(handed),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
