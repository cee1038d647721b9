"""Lines of a server-sent event stream as its bytes arrive."""

from __future__ import annotations

from collections.abc import Iterator


class LineBuffer:
    """Splits at line feeds only: JSON may hold the other characters that Unicode calls ends."""

    def __init__(self) -> None:
        self._begun = b""

    def feed(self, chunk: bytes) -> Iterator[str]:
        """The lines that this chunk completes."""
        *complete, self._begun = (self._begun + chunk).split(b"\n")
        for line in complete:
            yield line.removesuffix(b"\r").decode(errors="replace")
