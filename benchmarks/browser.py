"""A headless Chromium driven through its debugging pipe, which needs no package and no network."""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_QUIET = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]

_START = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
for end, wanted in zip(ends, (3, 4)):
    os.dup2(end, wanted)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Page:
    """An open page. `requests` are the addresses that it asked for, `errors` what its console shows of errors."""

    def __init__(self, read_fd: int, write_fd: int, deadline: float) -> None:
        self._read_fd, self._write_fd, self._deadline = read_fd, write_fd, deadline
        self._buffer, self._number, self._session = b"", 0, ""
        self.requests: list[str] = []
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a command of the debugging protocol."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": params}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._write_fd, json.dumps(command).encode() + b"\0")
        while True:
            message = self._message()
            if message.get("id") == self._number:
                assert "error" not in message, (method, message)
                return message["result"]

    def resize(self, width: int, height: int) -> None:
        """The width and height of the window, as a phone or a desktop has them."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def before_scripts(self, code: str) -> None:
        """JavaScript that runs before the scripts of each page."""
        self.call("Page.addScriptToEvaluateOnNewDocument", source=code)

    def open(self, page: Path | str) -> None:
        """Load the file or the address, and wait until its load event."""
        address = page.as_uri() if isinstance(page, Path) else page
        self.call("Page.navigate", url=address)
        self.wait_for("document.readyState === 'complete' && location.protocol !== 'about:'")

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression, or of the promise that it returns."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Return when this JavaScript expression is true."""
        while not self.value(condition):
            time.sleep(0.05)

    def press(self, key: str, *, modifiers: int = 0, code: int = 0, text: str = "") -> None:
        """Press a key of the keyboard."""
        pressed = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **pressed)
        self.call("Input.dispatchKeyEvent", type="keyUp", **pressed)

    def type(self, text: str) -> None:
        """Insert text where the focus is."""
        self.call("Input.insertText", text=text)

    def choose(self, element_id: str, *paths: Path) -> None:
        """Choose these files, or a folder, in a file input."""
        found = self.call("Runtime.evaluate", expression=f"document.getElementById('{element_id}')")["result"]
        self.call("DOM.setFileInputFiles", files=list(map(str, paths)), objectId=found["objectId"])

    def drop(self, *paths: Path) -> None:
        """Drag these files or folders to the middle of the window, and drop them."""
        x, y = self.value("[innerWidth / 2, innerHeight / 2]")
        data = {"items": [], "files": list(map(str, paths)), "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def controls(self) -> dict[str, list[str]]:
        """The names, as a screen reader says them, of everything that takes the focus or has a role of a control."""
        roles = {"button", "textbox", "spinbutton", "combobox", "slider", "link", "checkbox"}
        found: dict[str, list[str]] = {}
        for node in self.call("Accessibility.getFullAXTree")["nodes"]:
            role = node.get("role", {}).get("value")
            if role in roles and not node.get("ignored"):
                found.setdefault(role, []).append(node.get("name", {}).get("value", ""))
        return found

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG, also what is below the window's end."""
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(picture["data"]))

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            left = self._deadline - time.monotonic()
            assert left > 0, "the browser does not answer in time"
            assert select.select([self._read_fd], [], [], left)[0], "the browser does not answer in time"
            part = os.read(self._read_fd, 2**20)
            assert part, "the browser has ended"
            self._buffer += part
        first, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(first)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method: str | None, params: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.errors.append(json.dumps(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(json.dumps(params["entry"]))


@contextmanager
def browser(profile: Path, *flags: str, timeout_s: float = 180) -> Iterator[Page]:
    """A page in a browser of its own, which ends with the block."""
    to_browser, ours_out = os.pipe()
    ours_in, from_browser = os.pipe()
    options = [*_QUIET, f"--user-data-dir={profile}", "--remote-debugging-pipe", *flags]
    # The browser reads commands from descriptor 3 and writes answers to 4; a shell numbers only descriptors below 10.
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", _START, str(to_browser), str(from_browser), str(CHROMIUM), *options],
        pass_fds=(to_browser, from_browser),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser)
    os.close(from_browser)
    try:
        yield Page(ours_in, ours_out, time.monotonic() + timeout_s)
    finally:
        os.close(ours_in)
        os.close(ours_out)
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
