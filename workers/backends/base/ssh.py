"""Running commands on another host, by the OpenSSH client.

A connection is kept for a while and shared. What a command is, is quoted for the other host's
shell in one place, `_line`; its user must have a POSIX shell. There, GNU coreutils' ``timeout``
ends it, with all of its process group: also when the connection is lost, or the worker.

The other host says that it is ready before it is given the word to begin. Until then nothing
has happened there; once the word is sent, a connection that breaks leaves the outcome unknown.
"""

from __future__ import annotations

import secrets
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from orchestrator.domain.errors import BackendError, Outage, TimedOut
from workers.backends.base.call import Call
from workers.backends.base.commands import ENVIRONMENT, Command, Ran, last_lines
from workers.backends.base.running import OutputHeld, Running, start

#: Seconds that a connection stays open without use, and that one takes to be called lost.
_PERSIST_SECONDS = 60
_ALIVE_SECONDS, _ALIVE_TIMES = 5, 3
#: Seconds beyond a command's limit until its answer is no longer waited for.
_SLACK_SECONDS = 10.0
#: Seconds between the request to end and the end by force, on the other host.
_KILL_AFTER_SECONDS = 2
#: What ``timeout`` ends with when the time was over, and ``ssh`` when the connection broke; and
#: the command itself, if it likes.
_TIME_OVER = (124, 137)
_BROKEN = 255
#: As much fits into a pipe at once.
_MOST_STDIN = 32 * 1024

_REMOTE_GATE = 'echo "$0"; read -r go && exec "$@"'


@dataclass(frozen=True, kw_only=True)
class Ssh:
    """A host that commands are run on."""

    host: str
    user: str
    port: int = 22
    #: The private key, which must need no password.
    key: Path
    #: The keys of hosts that are believed, and no others.
    known_hosts: Path
    #: A directory of the worker's own for the sockets of connections: a short path, because those
    #: of sockets have at most 107 bytes.
    control: Path
    connect_seconds: float = 10.0

    def run(self, command: Command, call: Call) -> Ran:
        """Run a command (`Place.run`).

        ``umask`` and ``directory`` are this host's affair. A command that itself ends with status
        255, or 124 or 137, counts as one whose end is not known, or as one that took too long.
        """
        if len(command.stdin) > _MOST_STDIN:
            raise ValueError("what a command on another host reads must be short")
        call.checkpoint()
        self._connect()
        greeting = f"ready-{secrets.token_hex(8)}"
        running = Running(
            subprocess.Popen(
                # Through the connection that is there; where it went away, by one of its own.
                [*self._ssh("-T", "-o", "ControlMaster=no"), _line(greeting, command)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=ENVIRONMENT,
                start_new_session=True,
            ),
            command,
            host=self.host,
            go=b"go\n" + command.stdin,
        )
        if not running.greeted(f"{greeting}\n".encode(), self.connect_seconds):
            running.stop()
            raise self._outage(running.end_of_said())
        try:
            ran = running.wait(call, seconds=command.seconds + _SLACK_SECONDS)
        except (TimeoutError, OutputHeld):
            raise self._unknown(command, "no answer came") from None
        if ran.status in _TIME_OVER and ran.seconds >= command.seconds:
            raise TimedOut(
                f"'{command}' on {self.host} did not end within {command.seconds:g} s and was "
                "killed"
            )
        if ran.status == _BROKEN or ran.status < 0:
            raise self._unknown(command, last_lines(ran.said))
        return ran

    def close(self) -> None:
        """End the connection, if there is one."""
        self._local("-O", "exit")

    def _connect(self) -> None:
        """Have a connection. Raises `Outage`."""
        if self._local("-O", "check").status == 0:
            return
        connected = self._local("-M", "-N", "-f", "-o", f"ControlPersist={_PERSIST_SECONDS}")
        if connected.status != 0 and self._local("-O", "check").status != 0:
            raise self._outage(connected.said)

    def _local(self, *options: str) -> Ran:
        """Run the client for its own sake. A connection keeps its output open: it is a file."""
        command = Command(argv=tuple(self._ssh(*options)), seconds=self.connect_seconds + 5)
        with TemporaryFile() as said:
            try:
                return start(command, log=said, answers=False).wait(None)
            except FileNotFoundError:
                raise BackendError(
                    "ssh is not installed on this host: install the OpenSSH client"
                ) from None
            except TimeoutError:
                raise self._outage(b"no answer came in time") from None

    def _ssh(self, *options: str) -> Sequence[str]:
        settings = {
            "BatchMode": "yes",
            "ConnectTimeout": str(max(1, round(self.connect_seconds))),
            "ControlPath": f"{self.control}/%C",
            "IdentitiesOnly": "yes",
            "IdentityFile": str(self.key),
            "Port": str(self.port),
            "ServerAliveCountMax": str(_ALIVE_TIMES),
            "ServerAliveInterval": str(_ALIVE_SECONDS),
            "StrictHostKeyChecking": "yes",
            "User": self.user,
            "UserKnownHostsFile": str(self.known_hosts),
        }
        chosen = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
        return ["ssh", "-F", "none", *options, *chosen, "--", self.host]

    def _outage(self, said: bytes) -> Outage:
        return Outage(f"commands cannot be run on {self.host} as {self.user}: {last_lines(said)}")

    def _unknown(self, command: Command, why: str) -> TimedOut:
        return TimedOut(
            f"whether '{command}' took effect on {self.host} is not known: the connection broke "
            f"after it was begun ({why}); what became of it is found out before anything else is "
            "done"
        )


def _line(greeting: str, command: Command) -> str:
    """The line for the other host's shell: it runs the very arguments of a command there."""
    return shlex.join(
        [
            *("/bin/sh", "-c", _REMOTE_GATE, greeting),
            *("timeout", f"--kill-after={_KILL_AFTER_SECONDS}", f"{command.seconds:g}"),
            *("env", "-i", *(f"{name}={value}" for name, value in command.variables.items())),
            *command.argv,
        ]
    )
