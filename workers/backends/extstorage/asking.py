"""Asking a provider: its scripts, and the variables that tell them what about."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from orchestrator.domain.errors import BackendUnavailable, Outage, Unsupported
from orchestrator.trust import why_untrusted
from workers.backends.base.call import Call
from workers.backends.base.references import VolumeRef
from workers.backends.extstorage.provider import Provider, find
from workers.backends.extstorage.running import Run, Scripts
from workers.backends.extstorage.spec import ExtStorageOptions


class Asking:
    """One backend's provider; ``room`` is the driver's own directory on this host."""

    def __init__(self, options: ExtStorageOptions, room: Path) -> None:
        self._options = options
        self._room = room
        self.scripts = Scripts(options.provider, room, options.seconds, secrets=options.secrets)

    def provider(self) -> Provider:
        """The provider, as it is now.

        Raises `Outage` if it is not there, else `BackendUnavailable` with what is wrong with it.
        """
        options = self._options
        if (why := why_untrusted(self._room)) is not None:
            raise BackendUnavailable(f"what is noted of scripts cannot be believed: {why}")
        found = find(options.provider, options.search_path)
        if found is None:
            raise Outage(
                f"there is no provider {options.provider} in "
                f"{', '.join(map(str, options.search_path))}"
            )
        if not found.usable:
            raise BackendUnavailable(f"{'; '.join(found.faults)}")
        unknown = sorted(set(options.parameters) - set(found.parameters))
        if unknown:
            raise BackendUnavailable(
                f"the provider {options.provider} has no parameter {unknown[0]!r}: it has "
                f"{', '.join(found.parameters) or 'none'}"
            )
        return found

    def environment(self, own: Mapping[str, str]) -> dict[str, str]:
        """What a script sees: nothing of the worker's own."""
        parameters = {
            "provider": self._options.provider,
            "access": self._options.access,
            **self._options.values,
            **own,
        }
        return {
            "HOME": os.path.expanduser("~"),  # noqa: PTH111 - which raises where there is none
            **{f"EXTP_{name.upper()}": value for name, value in parameters.items()},
        }

    def run(
        self,
        script: str,
        volume: VolumeRef,
        told: Mapping[str, str],
        call: Call | None,
        *,
        answers: bool = False,
    ) -> bytes:
        """Run a script about a volume. Raises `Unsupported` if the provider has none."""
        provider = self.provider()
        if script not in provider.scripts:
            raise Unsupported(f"the provider {provider.name} has no script {script!r}")
        about = {"VOL_NAME": volume.id}
        if script != "snapshot":
            about |= {"VOL_CNAME": volume.name, "VOL_UUID": str(uuid.UUID(volume.id))}
        run = Run(
            script=provider.directory / script,
            object_id=volume.id,
            environment={**self.environment(volume.parameters), **about, **told},
            answers=answers,
        )
        return self.scripts.run(run, call)
