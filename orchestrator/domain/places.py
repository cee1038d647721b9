"""Places: where images may be read from and written to, and how people write them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, Field

from orchestrator.domain.checking import checked
from orchestrator.domain.errors import ForbiddenPlace, InvalidInput

_PORTS = {"http": 80, "https": 443}
_MOST = 4096
#: How the names of exports begin until they are whole.
UNFINISHED = ".orchestrator-"
#: As sha256sum, openssl and registries write it, with the file's name or without.
_SHA256 = re.compile(
    r"\s*(?:(?:sha-?256[:=]\s*)?(?P<digest>[0-9a-f]{64})(?:\s.*)?"
    r"|sha2?-?256\s*\(.*\)\s*=\s*(?P<tagged>[0-9a-f]{64})\s*)",
    re.ASCII | re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True)
class Below:
    """A file below a directory that is configured for this."""

    directory: Path
    #: Names of the directories on the way, and of the file.
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Places:
    """The configured directories, and the hosts (``host`` or ``host:port``) of URLs."""

    import_from: tuple[Path, ...] = ()
    export_to: tuple[Path, ...] = ()
    hosts: frozenset[str] = frozenset()

    def image(self, written: str) -> Below | SplitResult:
        """Where an image is read from: a file or a URL. Raises `ForbiddenPlace`."""
        if "://" not in written:
            return _below(written, self.import_from, "image", "transfer.import_from")
        url = urlsplit(written)
        named = {f"{url.hostname}:{url.port or _PORTS[url.scheme]}"}
        named |= {str(url.hostname)} if unusual_port(url) is None else set()
        if not named & self.hosts:
            raise ForbiddenPlace(
                f"images may not be read from {url.netloc}: an administrator can add it to "
                "transfer.hosts",
                field="params.image",
            )
        return url

    def target(self, written: str) -> Below:
        """Where an export is written to. Raises `ForbiddenPlace`."""
        if PurePosixPath(written).name.startswith(UNFINISHED):
            raise ForbiddenPlace(
                f"names that begin with {UNFINISHED} are those of exports that are not ready yet",
                field="params.target",
            )
        return _below(written, self.export_to, "target", "transfer.export_to")


def _below(written: str, allowed: Iterable[Path], param: str, setting: str) -> Below:
    path = PurePosixPath(check_path(written))
    for directory in allowed:
        if path.is_relative_to(directory) and path != PurePosixPath(directory):
            return Below(directory, path.relative_to(directory).parts)
    raise ForbiddenPlace(
        f"{written} is below none of the directories that are configured for this: an "
        f"administrator can add one to {setting}",
        field=f"params.{param}",
    )


def unusual_port(url: SplitResult) -> int | None:
    """The port of a URL, if it is not the usual one of its scheme."""
    return None if url.port == _PORTS[url.scheme] else url.port


def check_path(written: str) -> str:
    """``written`` itself, or `InvalidInput` if it is no plain absolute path."""
    parts = written.split("/")
    plain = written.startswith("/") and all(part not in ("", ".", "..") for part in parts[1:])
    if not plain or not written.isprintable() or len(written) > _MOST:
        raise InvalidInput(
            f"{written[:80]!r} is no absolute path of a file without '.', '..' and empty parts"
        )
    return written


def check_image(written: str) -> str:
    """``written`` itself, or `InvalidInput` if it is neither a path nor a URL that is taken."""
    if "://" not in written:
        return check_path(written)
    try:
        url = urlsplit(written)
        known = url.scheme in _PORTS and bool(url.hostname) and url.port != 0
    except ValueError:
        known = False
    if not known or not written.isprintable() or " " in written or len(written) > _MOST:
        raise InvalidInput(f"{written[:80]!r} is no URL that begins with http:// or https://")
    if "@" in url.netloc:
        # Jobs are shown to whoever may read them.
        raise InvalidInput("the URL of an image holds no user name and no password")
    if url.query or url.fragment:
        raise InvalidInput(
            "the URL of an image holds no '?' and no '#': what is there is often a secret, and "
            "whoever may read jobs would read it"
        )
    return written


def read_sha256(written: str) -> str:
    """The digest in small letters. Raises `InvalidInput` if it is none."""
    found = _SHA256.fullmatch(written)
    if found is None:
        raise InvalidInput(
            f"{written[:80]!r} is no SHA-256: write its 64 hexadecimal digits, as sha256sum does"
        )
    return (found["digest"] or found["tagged"]).lower()


#: Model fields.
ImagePath = Annotated[
    str,
    AfterValidator(checked(check_path)),
    Field(json_schema_extra={"pattern": r"^(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,40}){1,20}$"}),
]
ImageLocation = Annotated[
    str,
    AfterValidator(checked(check_image)),
    Field(
        json_schema_extra={
            "pattern": r"^(https?://[a-z0-9-]{1,40})?(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,40}){1,20}$"
        }
    ),
]
Sha256 = Annotated[
    str,
    AfterValidator(checked(read_sha256)),
    Field(json_schema_extra={"pattern": "^[0-9a-f]{64}$"}),
]
