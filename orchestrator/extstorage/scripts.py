"""The scripts of the provider: each asks the service for a job, and waits for its end.

One program under the names of all scripts, copied into the provider's directory. It stands
alone and imports little, for attach runs before nearly everything that Ganeti does: the
standard library's HTTP client alone would take longer to import than the rest takes in all. What it
must do is in ganeti-extstorage-interface(7).
"""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
import time

TYPE_CHECKING = False  # as of typing, which takes a while to import
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

CONFIG = "orchestrator.json"
_MIB = 2**20
#: Seconds that one request may hold the answer, and between tries to reach the service.
_HOLD = 30
_AGAIN = 0.5
#: Seconds for which a service that cannot be reached is tried. Where an attach fails, Ganeti takes
#: the disk for gone and forgets it when it is removed, and the volume stays.
PATIENCE = 600.0
#: What a volume that is a snapshot for an export is marked with: of which volume it is.
_SNAPSHOT_OF = "ganeti.snapshot_of"
#: Parameters that Ganeti adds.
_GANETIS_OWN = {"PROVIDER", "ACCESS"}
_GONE = ("unknown_volume", "not_attached")


class Refused(Exception):
    """It cannot be done; the message says why."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class Service:
    """The orchestrator, as the file beside the scripts names it."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._url = config["url"]
        scheme, _, rest = self._url.partition("://")
        self._secure = scheme == "https"
        self._netloc, slash, path = rest.partition("/")
        self._path = (slash + path).rstrip("/")
        self._token = config["token"]
        self._until = time.monotonic() + config["seconds"]
        self._patience = config.get("patience", PATIENCE)

    def job(self, action: str, asked: Asked, **more: Any) -> dict[str, Any]:
        """Have a job done; what it has achieved. Raises `Refused`."""
        target = {"backend": asked.backend, "volume": asked.volume, "reason": asked.reason}
        request = {"action": action, **target, **more}
        return self._ended(self._ask("POST", "/v1/jobs", request))

    def batch(self, requests: Sequence[Mapping[str, Any]]) -> None:
        """Have jobs done in their order, all accepted or none. Raises `Refused`."""
        batch = self._ask("POST", "/v1/batches", {"jobs": requests})
        self._ended(self._ask("GET", f"/v1/jobs/{batch['job_ids'][-1]}"))

    def read(self, path: str) -> dict[str, Any] | None:
        """What the service has under a path; None if there is nothing."""
        try:
            return self._ask("GET", path)
        except Refused as refused:
            if refused.code.startswith("unknown_"):
                return None
            raise

    def _ended(self, job: dict[str, Any]) -> dict[str, Any]:
        while job["finished_at"] is None:
            left = self._until - time.monotonic()
            if left <= 0:
                if not self._canceled(job["id"]):
                    job = self._ask("GET", f"/v1/jobs/{job['id']}")
                    break
                raise Refused(f"job {job['id']} ({job['action']}) did not end in time")
            seconds = max(1, min(int(left), _HOLD))
            job = self._ask("GET", f"/v1/jobs/{job['id']}/wait?timeout={seconds}")
        if job["state"] != "succeeded":
            error = job["error"] or {}
            detail, code = error.get("detail", ""), error.get("code", "")
            raise Refused(f"job {job['id']} is {job['state']}: {detail} ({code})", code)
        result: dict[str, Any] = job["result"] or {}
        return result

    def _canceled(self, job_id: int) -> bool:
        """Cancel a job, for which nobody comes back: what is being made is taken away again.

        False if it has ended meanwhile.
        """
        try:
            self._ask("POST", f"/v1/jobs/{job_id}/cancel", {})
        except Refused as refused:
            if refused.code != "job_ended":
                raise
            return False
        return True

    def _ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """One answer, however often it takes: the key makes a request that is sent again the
        same request."""
        key = os.urandom(16).hex()
        give_up = min(self._until, time.monotonic() + self._patience)
        while True:
            try:
                status, told = self._once(method, path, body, key)
            except OSError as error:
                why = f"the orchestrator at {self._url} cannot be reached: {error}"
            except ValueError as error:
                why = f"what answers at {self._url} is not the orchestrator: {error}"
            else:
                if 200 <= status < 300:
                    return told
                code = str(told.get("code", status))
                why = f"{told.get('detail', 'refused')} ({code})"
                if status != 503:
                    raise Refused(why, code)
            if time.monotonic() >= give_up:
                raise Refused(why)
            time.sleep(_AGAIN)

    def _once(self, method: str, path: str, body: object, key: str) -> tuple[int, dict[str, Any]]:
        """The status and the document of an answer. Raises `OSError`, or `ValueError` if what
        answers says something else."""
        # HTTP/1.0: the answer ends with the connection, and comes in one piece.
        head = [
            f"{method} {self._path}{path} HTTP/1.0",
            f"Host: {self._netloc}",
            f"Authorization: Bearer {self._token}",
        ]
        content = b""
        if body is not None:
            content = json.dumps(body).encode()
            head += [
                "Content-Type: application/json",
                f"Content-Length: {len(content)}",
                f"Idempotency-Key: {key}",
                f"Prefer: wait={_HOLD}",
            ]
        with self._connect() as connection:
            connection.sendall("\r\n".join([*head, "", ""]).encode() + content)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        if not answer:
            raise ConnectionResetError("it has closed the connection")
        return _parsed(answer)

    def _connect(self) -> socket.socket:
        host, colon, port = self._netloc.rpartition(":")
        if not colon or "]" in port:  # an IPv6 address without a port
            host, port = self._netloc, "443" if self._secure else "80"
        host = host.strip("[]")
        connection = socket.create_connection((host, int(port)), timeout=_HOLD + 30)
        if not self._secure:
            return connection
        import ssl  # takes a while

        return ssl.create_default_context().wrap_socket(connection, server_hostname=host)


def _parsed(answer: bytes) -> tuple[int, dict[str, Any]]:
    """The status and the document of an answer. Raises `ValueError`."""
    head, _, content = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
        raise ValueError("no HTTP")
    fields = {name.lower(): value for name, _, value in (line.partition(":") for line in lines)}
    if int(fields.get("content-length", len(content))) != len(content):
        raise ValueError("the answer breaks off")
    told = json.loads(content or b"{}")
    if not isinstance(told, dict):
        raise ValueError("no JSON object")
    return int(rest[:3]), told


class Asked:
    """What Ganeti has asked for, as its variables tell."""

    def __init__(
        self, config: Mapping[str, Any], environment: Mapping[str, str], arguments: Sequence[str]
    ) -> None:
        self.config = config
        self.arguments = arguments
        self._environment = environment
        self.known = ["backend", *config["parameters"]]
        known = {name.upper(): name for name in config["parameters"]}
        given = {name[5:]: value for name, value in environment.items() if name.startswith("EXTP_")}
        self.backend = given.pop("BACKEND", None) or config["backend"]
        #: Values for parameters of the backend, by name.
        self.parameters = {known[name]: given[name] for name in given if name in known}
        #: Parameters that nothing is known of; Ganeti asks no provider about these itself.
        self.unknown = sorted(set(given) - set(known) - _GANETIS_OWN)

    def text(self, name: str, default: str | None = None) -> str:
        """A variable. Raises `Refused` if it is missing."""
        value = self._environment.get(name, default)
        if value is None:
            raise Refused(f"the variable {name} is missing: is this run by Ganeti?")
        return value

    def bytes(self, name: str) -> int:
        """A size, told in MiB."""
        text = self.text(name)
        if not text.isascii() or not text.isdigit() or int(text) == 0:
            raise Refused(f"{name} is {text!r}: a size in MiB is a whole number above 0")
        return int(text) * _MIB

    @property
    def volume(self) -> str:
        """The volume's name."""
        return self.text("VOL_NAME")

    @property
    def host(self) -> str:
        """What this node is called."""
        return str(self.config["host"])

    @property
    def reason(self) -> str:
        """For whose disk Ganeti asks, for the history."""
        told = [f"Ganeti on {self.host}"]
        disk = self.text("VOL_CNAME", "") or self.text("VOL_UUID", "")
        if disk:
            told.append(f"disk {disk}")
        return "".join(c if c.isprintable() else " " for c in ", ".join(told))[:500]

    def metadata(self) -> dict[str, str]:
        """What Ganeti calls the disk, to be kept with the volume."""
        told = (("ganeti.name", "VOL_CNAME"), ("ganeti.uuid", "VOL_UUID"))
        return {key: self.text(name, "") for key, name in told if self.text(name, "")}


def create(asked: Asked, service: Service) -> None:
    """What a job that fails has begun to make, it takes away itself."""
    for name in asked.unknown:
        raise Refused(_no_parameter(name.lower(), asked))
    params = {"size_bytes": asked.bytes("VOL_SIZE"), "metadata": asked.metadata()}
    if asked.parameters:
        params["parameters"] = asked.parameters
    service.job("volume.create", asked, params=params)


def attach(asked: Asked, service: Service) -> None:
    """Print the device, then the URIs, and nothing else."""
    told = service.job("volume.attach", asked, host=asked.host)
    device, uris = told["device"] or "", told["uris"]
    if device and not stat.S_ISBLK(os.stat(device).st_mode):  # noqa: PTH116 - a slow import
        raise Refused(f"{device}, which the volume is attached as, is no block device here")
    if not device and not uris:
        raise Refused(f"backend {asked.backend} gives its volumes no device on this host")
    sys.stdout.write("".join(f"{line}\n" for line in (device, *uris)))


def detach(asked: Asked, service: Service) -> None:
    """Take it away from this node."""
    _unless_gone(service, "volume.detach", asked, host=asked.host)


def remove(asked: Asked, service: Service) -> None:
    """Remove it."""
    _unless_gone(service, "volume.remove", asked)


def _unless_gone(service: Service, action: str, asked: Asked, **more: Any) -> None:
    """Do it; that there is nothing left to do is success, since Ganeti asks again."""
    try:
        service.job(action, asked, **more)
    except Refused as refused:
        if refused.code not in _GONE:
            raise


def grow(asked: Asked, service: Service) -> None:
    """Make it larger."""
    wanted = asked.bytes("VOL_NEW_SIZE")
    try:
        service.job("volume.grow", asked, params={"size_bytes": wanted})
    except Refused as refused:
        # Asked again for what was done before: it is as large already.
        if refused.code != "shrink_refused" or _size(asked, service) < wanted:
            raise


def _size(asked: Asked, service: Service) -> int:
    found = service.read(_path(asked.backend, asked.volume))
    return 0 if found is None else int(found["size_bytes"])


def setinfo(asked: Asked, service: Service) -> None:
    """Keep a text with it."""
    service.job("volume.set_info", asked, params={"info": asked.text("VOL_METADATA")})


def open_(asked: Asked, service: Service) -> None:
    """Let this node use it."""
    exclusive = asked.text("VOL_OPEN_EXCLUSIVE", "False") == "True"
    service.job("volume.open", asked, host=asked.host, params={"exclusive": exclusive})


def close(asked: Asked, service: Service) -> None:
    """End that use."""
    _unless_gone(service, "volume.close", asked, host=asked.host)


def snapshot(asked: Asked, service: Service) -> None:
    """Make a copy that is a volume of its own, as Ganeti wants it."""
    name = asked.text("VOL_SNAPSHOT_NAME", f"{asked.volume}.snap")
    params: dict[str, Any] = {
        "source": asked.volume,
        "metadata": {_SNAPSHOT_OF: asked.volume},
    }
    if asked.text("VOL_SNAPSHOT_SIZE", ""):
        # Ganeti tells the size it knows, which a grow may have left behind.
        size = asked.bytes("VOL_SNAPSHOT_SIZE")
        if size > _size(asked, service):
            params["size_bytes"] = size
    jobs = [{"action": "volume.clone", "backend": asked.backend, "volume": name, "params": params}]
    left = service.read(_path(asked.backend, name))
    if left is not None:
        if left["metadata"].get(_SNAPSHOT_OF) != asked.volume or left["attachments"]:
            raise Refused(
                f"there is a volume {name} on backend {asked.backend} already, and it is no unused "
                f"snapshot of {asked.volume}: rename or remove it"
            )
        # It no longer is what the volume holds.
        sys.stderr.write(f"replacing {name}, which an earlier export has left\n")
        jobs.insert(0, {"action": "volume.remove", "backend": asked.backend, "volume": name})
    service.batch([{**job, "reason": asked.reason} for job in jobs])


def verify(asked: Asked, service: Service) -> None:
    """Check the names of parameters that are given as arguments, and the backend."""
    for name in asked.arguments:
        if name not in asked.known:
            raise Refused(_no_parameter(name, asked))
    if service.read(f"/v1/backends/{_quoted(asked.backend)}") is None:
        raise Refused(f"the orchestrator has no backend {asked.backend!r}")


def _no_parameter(name: str, asked: Asked) -> str:
    return f"there is no parameter {name!r}: there are {', '.join(asked.known)}"


def _path(backend: str, volume: str) -> str:
    return f"/v1/backends/{_quoted(backend)}/volumes/{_quoted(volume)}"


def _quoted(name: str) -> str:
    """A name as a part of a path."""
    plain = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~"
    return "".join(chr(byte) if byte in plain else f"%{byte:02X}" for byte in name.encode())


SCRIPTS: dict[str, Callable[[Asked, Service], None]] = {
    "create": create,
    "attach": attach,
    "detach": detach,
    "remove": remove,
    "grow": grow,
    "setinfo": setinfo,
    "verify": verify,
    "snapshot": snapshot,
    "open": open_,
    "close": close,
}


def main(words: Sequence[str]) -> int:
    """Run the script that the program was called as; its exit status."""
    directory, _, name = os.path.abspath(words[0]).rpartition("/")  # noqa: PTH100 - a slow import
    try:
        config = _config(directory)
        SCRIPTS[name](Asked(config, os.environ, words[1:]), Service(config))
        sys.stdout.flush()
    except (Refused, OSError) as error:
        sys.stderr.write(f"orchestrator: {error}\n")
        return 1
    return 0


def _config(directory: str) -> dict[str, Any]:
    try:
        with open(f"{directory}/{CONFIG}", encoding="utf-8") as file:  # noqa: PTH123
            config: dict[str, Any] = json.load(file)
    except (OSError, ValueError) as error:
        raise Refused(
            f"{directory}/{CONFIG} cannot be read ({error}): it is written by "
            f"'orchestrator extstorage install {directory}', and read by root alone"
        ) from None
    return config
