"""How block devices of this host are used, as the kernel tells."""

from __future__ import annotations

from pathlib import Path

from orchestrator.domain.errors import InUse


def refuse_used(path: str, entry: Path) -> None:
    """`InUse` if a device is used; ``entry`` is the kernel's directory of it."""
    if (use := use_of(path, entry)) is not None:
        raise InUse(f"{path} is {use}, then detach")


def use_of(path: str, entry: Path) -> str | None:
    """How a device is used, and what to do: mounted, swapped to, or part of another."""
    parts = [entry, *(part.parent for part in entry.glob("*/partition"))]
    numbers = {(part / "dev").read_text().strip() for part in parts}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split(" ")
        if words[2] in numbers:
            return f"mounted on {words[4]}: unmount it"
    for line in Path("/proc/swaps").read_text().splitlines()[1:]:
        if line.split()[0].startswith(path):
            return "swapped to: swapoff it"
    holders = [holder.name for part in parts for holder in part.glob("holders/*")]
    if holders:
        return f"part of {', '.join(holders)}: stop that"
    return None
