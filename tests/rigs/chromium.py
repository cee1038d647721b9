"""Chromium without a screen, driven through its pipe: what people see, and what it asks for."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

#: Nothing but what a page asks for leaves the process.
_OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--no-first-run",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip


def chromium() -> str | None:
    """The program, if this machine has it."""
    return shutil.which("chromium")


class Chromium:
    """One process, with its own empty profile."""

    def __init__(self, program: str, profile: Path) -> None:
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()

        def as_three_and_four() -> None:
            # First out of the way of each other.
            first, second = os.dup(theirs_in), os.dup(theirs_out)
            os.dup2(first, 3)
            os.dup2(second, 4)

        self.process = subprocess.Popen(
            [program, *_OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=as_three_and_four,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._read, self._write = os.fdopen(ours_in, "rb"), os.fdopen(ours_out, "wb")
        self._number = 0
        self._buffer = b""
        #: What it reported, in its order: (session, method, parameters).
        self.events: list[tuple[str | None, str, dict[str, Any]]] = []

    def close(self) -> None:
        """End it."""
        self._write.close()
        self.process.kill()
        self.process.wait()
        self._read.close()

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        self._write.write(json.dumps(message).encode() + b"\0")
        self._write.flush()
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            piece = os.read(self._read.fileno(), 65536)
            assert piece, "Chromium has ended"
            self._buffer += piece
        one, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(one)
        if "method" in message:
            told = (message.get("sessionId"), message["method"], message["params"])
            self.events.append(told)
        return message

    def tab(self) -> Tab:
        """Open a tab in a window of its own, so that several are seen at once."""
        target = self.call("Target.createTarget", url="about:blank", newWindow=True)["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        return Tab(self, attached["sessionId"])


class Tab:
    """One tab of it."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser, self._session = browser, session
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol in this tab."""
        return self._browser.call(method, self._session, **parameters)

    def open(self, url: str) -> None:
        """Go to an address, and wait until the page is there."""
        before = len(self._browser.events)
        self.call("Page.navigate", url=url)
        self._loaded(before)

    def submit(self, script: str) -> None:
        """Do what leads to another page, and wait until it is there."""
        before = len(self._browser.events)
        self.see(script)
        self._loaded(before)

    def _loaded(self, before: int) -> None:
        mine = (self._session, "Page.loadEventFired")
        while not any((one, what) == mine for one, what, _ in self._browser.events[before:]):
            self._browser._next()

    def see(self, script: str) -> Any:
        """What a script finds; promises are waited for."""
        found = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until a script finds something, looking whenever the page has changed."""
        self.see(
            "new Promise(found => { const look = () => { if (" + script + ") found(true); };"
            " new MutationObserver(look).observe(document, {subtree: true, childList: true,"
            " attributes: true, characterData: true}); look(); })"
        )

    def key(self, key: str, code: int) -> None:
        """Press a key."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code)

    def picture(self, file: Path, *, width: int = 1280, scheme: str = "light") -> None:
        """Take a picture of the whole page, as wide as a screen, in light or dark."""
        self.shown(width, scheme)
        taken = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(taken["data"]))

    def shown(self, width: int, scheme: str) -> None:
        """Show it so wide, in light or dark."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip

    def told(self, method: str) -> list[dict[str, Any]]:
        """What the tab has reported of a kind."""
        self.see("0")  # what has come until now
        mine = (self._session, method)
        return [told for one, what, told in self._browser.events if (one, what) == mine]
