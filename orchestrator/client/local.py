"""The local endpoint files: `up` writes where it serves and with which token, clients read it.

Two places: ``DATA/endpoint.json`` with ``DATA/token`` in the data directory, and a registry of
the user's own, ``$XDG_STATE_HOME/orchestrator/endpoints/HOST_PORT.json``. All are readable by
their owner only; files that others could have read or written are refused.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import stat
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

DATA_VARIABLE = "ORCHESTRATOR_DATA"
_TOKEN_FILE = "token"  # noqa: S105 - a file's name
_ENDPOINT_FILE = "endpoint.json"


@dataclass(frozen=True)
class LocalEndpoint:
    """A service of this machine."""

    url: str
    token: str = field(repr=False)


def write(data_dir: Path, url: str, token: str) -> None:
    """Note that the service of this data directory is at ``url`` and takes ``token``.

    A home directory that cannot be used is passed over: the data directory's files suffice.
    """
    url, data = normal_url(url), data_dir.absolute()
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write_private(data / _TOKEN_FILE, f"{token}\n")
    _write_private(data / _ENDPOINT_FILE, _json({"url": url}))
    with contextlib.suppress(OSError, RuntimeError):
        registry = _registry()
        registry.mkdir(mode=0o700, parents=True, exist_ok=True)
        registry.chmod(0o700)
        entry = {"url": url, "token": token, "data": str(data)}
        _write_private(registry / _entry_name(url), _json(entry))


def remove(data_dir: Path, url: str) -> None:
    """Note that this service has stopped.

    ``DATA/token`` stays: the token is valid as long as the database knows it.
    """
    url, data = normal_url(url), data_dir.absolute()
    with contextlib.suppress(OSError):
        (data / _ENDPOINT_FILE).unlink()
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        entry = _registry() / _entry_name(url)
        # Another data directory may serve at this address by now.
        if json.loads(entry.read_text(encoding="utf-8")).get("data") == str(data):
            entry.unlink()


def find(url: str | None = None) -> LocalEndpoint | None:
    """The service at ``url``; without one, that of ORCHESTRATOR_DATA, else the latest started."""
    wanted = normal_url(url) if url is not None else None
    if data := os.environ.get(DATA_VARIABLE):
        found = _of_data_directory(Path(data))
        if found is not None and wanted in (None, found.url):
            return found
        if wanted is None:
            return None  # another service than the one that was meant would be worse than none
    try:
        registry = _registry()
        if wanted is not None:
            found = _of_entry(registry / _entry_name(wanted))
            return found if found is not None and found.url == wanted else None
        entries = sorted(registry.glob("*.json"), key=_changed, reverse=True)
    except (OSError, RuntimeError):
        return None
    return next((found for entry in entries if (found := _of_entry(entry)) is not None), None)


def token_in(data_dir: Path) -> str | None:
    """The token in this data directory, if there is one that only its owner can read."""
    return (_read_private(data_dir / _TOKEN_FILE) or "").strip() or None


def normal_url(url: str) -> str:
    """``url`` with a scheme and without a slash at its end."""
    url = url.strip().rstrip("/")
    return url if "://" in url else f"http://{url}"


def _of_data_directory(data: Path) -> LocalEndpoint | None:
    told = _object(_read_private(data / _ENDPOINT_FILE))
    token, url = token_in(data), told.get("url")
    return LocalEndpoint(url, token) if isinstance(url, str) and token else None


def _of_entry(path: Path) -> LocalEndpoint | None:
    told = _object(_read_private(path))
    url, token = told.get("url"), told.get("token")
    if not isinstance(url, str) or not isinstance(token, str):
        return None
    return LocalEndpoint(url, token)


def _registry() -> Path:
    """Raises `RuntimeError` where the user has no home directory."""
    state = os.environ.get("XDG_STATE_HOME")
    # The specification of base directories: a relative path is to be ignored.
    base = Path(state) if state and Path(state).is_absolute() else Path.home() / ".local" / "state"
    return base / "orchestrator" / "endpoints"


def _entry_name(url: str) -> str:
    place = urlsplit(url).netloc.rpartition("@")[2] or url
    return re.sub(r"[^A-Za-z0-9.-]", "_", place) + ".json"


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _json(values: dict[str, str]) -> str:
    return json.dumps(values, indent=1) + "\n"


def _object(text: str | None) -> dict[str, Any]:
    try:
        told = json.loads(text or "{}")
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _write_private(path: Path, text: str) -> None:
    """Replace a file in one step; at no moment can anyone else read it."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _read_private(path: Path) -> str | None:
    """The text of a file that only its owner, who we are, can read; None if there is none."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(handle, encoding="utf-8") as file:
        # Asked of the open file, which cannot be exchanged for another in between.
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            return None
        if status.st_uid != os.geteuid():
            why = "it belongs to another user"
        elif status.st_mode & 0o077:
            why = f"others may read it (mode {stat.S_IMODE(status.st_mode):04o}): chmod 600 it"
        else:
            try:
                return file.read()
            except (OSError, UnicodeDecodeError):
                return None
    warnings.warn(f"{path} is not used: {why}", stacklevel=2)
    return None
