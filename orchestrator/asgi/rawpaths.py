"""Routing by the path as it was sent."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class RawPaths:
    """Routes by the path as it was sent, so that ``a%2Fb`` stays one segment.

    Names in paths are decoded where they are validated.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Replace the decoded path by the raw one."""
        if scope["type"] == "http" and scope.get("raw_path"):
            raw = scope["raw_path"].partition(b"?")[0]
            scope = {**scope, "path": raw.decode("latin-1")}
        await self.app(scope, receive, send)
