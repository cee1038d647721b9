"""Writing the provider into a directory."""

from __future__ import annotations

import json
import os
import py_compile
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.domain.errors import Conflict, InvalidInput
from orchestrator.domain.names import PROVIDER
from orchestrator.extstorage import scripts

#: What the kernel reads of a first line.
_LONGEST_LINE = 127

#: Where Ganeti keeps what the scripts say. Distributions do not make it.
LOGS = Path("/var/log/ganeti/extstorage")

_PROGRAM = "orchestrator-provider"
_MODULE = "orchestrator_scripts.py"
_MAIN = f"""\
# Written by 'orchestrator extstorage install'; the scripts are links to this.
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True

from {_MODULE.removesuffix(".py")} import main

sys.exit(main(sys.argv))
"""


def install(directory: Path, config: Mapping[str, Any]) -> None:
    """Write a whole provider; one that we wrote before is written anew.

    ``config`` is what `orchestrator.extstorage.scripts` reads: url, token, host, backend,
    parameters (help by name), seconds, patience. Raises `InvalidInput` and `Conflict`.
    """
    directory = directory.absolute()
    if not PROVIDER.fullmatch(directory.name):
        raise InvalidInput(
            f"{directory.name!r} is no name that Ganeti takes for a provider: letters, digits, "
            "'_' and '-' only",
            field="DIR",
        )
    # Isolated, and without what is installed beside: it starts sooner, and nothing that the
    # node daemon has in its environment changes what it does.
    first = f"#!{sys.executable} -IS"
    if " " in sys.executable or len(first) > _LONGEST_LINE:
        raise InvalidInput(
            f"{sys.executable} cannot stand in the first line of a script: install the "
            "orchestrator under a short path without blanks"
        )
    if directory.exists() and not (directory / _PROGRAM).exists() and any(directory.iterdir()):
        raise Conflict(f"{directory} holds something else: name a new directory, or empty this one")
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    _write(directory / scripts.CONFIG, json.dumps(dict(config), indent=1) + "\n", 0o600)
    _write(directory / _MODULE, Path(scripts.__file__).read_text(), 0o644)
    py_compile.compile(str(directory / _MODULE), doraise=True)
    _write(directory / _PROGRAM, f"{first}\n{_MAIN}", 0o755)
    _write(directory / "parameters.list", _listed(config["parameters"]), 0o644)
    for script in scripts.SCRIPTS:
        new = directory / f".{script}"
        new.unlink(missing_ok=True)
        new.symlink_to(_PROGRAM)
        new.replace(directory / script)


def make_logs(logs: Path = LOGS) -> str | None:
    """Make the directory for Ganeti's logs of the scripts; what to do if that cannot be done."""
    if logs.is_dir():
        return None
    remedy = f"no script can run until it is there: mkdir -m 0750 {logs}"
    if not logs.parent.is_dir():
        return (
            f"there is no {logs.parent}, where Ganeti keeps its logs; on a node of Ganeti {remedy}"
        )
    try:
        logs.mkdir(mode=0o750)
    except OSError as error:
        return f"{logs}, where Ganeti keeps logs, cannot be made ({error.strerror}); {remedy}"
    return None


def _listed(parameters: Mapping[str, str]) -> str:
    told = {"backend": "The backend of the orchestrator to use.", **parameters}
    # Without help text, Ganeti's own 'gnt-storage info' breaks.
    lines = (f"{name} {' '.join(help_.split()) or 'No help.'}" for name, help_ in told.items())
    return "".join(f"{line}\n" for line in lines)


def _write(path: Path, text: str, mode: int) -> None:
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
    new.replace(path)
