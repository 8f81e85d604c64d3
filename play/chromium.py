"""Drive a headless Chromium through its DevTools protocol, with what JupyterLab brings along.

``with page() as p`` starts one and gives its page. There is no package to install: the protocol is
JSON over a web socket, and ``websocket-client`` comes with JupyterLab. Only Chromium itself may be
missing: ``find`` says where it is, ``MISSING`` how to get it.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
MISSING = "no Chromium here: apt-get install chromium, or set CHROMIUM=path/to/chrome"
QUIET = """--headless --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --disable-extensions --hide-scrollbars""".split()
# It opens our own page and our own JupyterLab, and nothing else; in a container its sandbox fails.
QUIET.append("--no-sandbox")


def find() -> str | None:
    """The path of a Chromium, or None; the variable CHROMIUM names another one."""
    named = os.environ.get("CHROMIUM")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One page of a running Chromium; ``events`` holds what it has reported, oldest first."""

    def __init__(self, address: str) -> None:
        # Chromium takes no connection that names a web site as its origin.
        self._socket = websocket.create_connection(address, suppress_origin=True, timeout=120)
        self._count = 0
        self.events: list[dict] = []
        for domain in ("Page", "Runtime", "Network", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict:
        """Call a method of the protocol; RuntimeError with what Chromium says against it."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == self._count:
                break
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited; RuntimeError if it throws."""
        options = {"awaitPromise": True, "returnByValue": True}
        answer = self.call("Runtime.evaluate", expression=expression, **options)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"].get("description", "thrown"))
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = 60) -> Any:
        """The value of an expression as soon as it is true; TimeoutError if that takes longer."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            if time.monotonic() > end:
                raise TimeoutError(f"{expression}: not true within {seconds} s")
            time.sleep(0.05)
        return value

    def open(self, address: str) -> None:
        """Go to an address; returns when its elements are there; scripts may still run."""
        self.call("Page.navigate", url=address)
        self.wait("document.readyState != 'loading'")

    def give_file(self, selector: str, path: Path) -> None:
        """Choose a file in a file input, as a user would."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def errors(self) -> list[str]:
        """The exceptions that no script has caught, and the addresses asked for on the network."""
        found = []
        for event in self.events:
            details = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                found.append(details["exceptionDetails"]["exception"].get("description", "thrown"))
            if event["method"] == "Network.requestWillBeSent":
                address = details["request"]["url"]
                found += [address[:200]] if address.startswith(("http", "ws")) else []
        return found


@contextmanager
def page(width: int = 1280, height: int = 800, *flags: str) -> Iterator[Page]:
    """Start Chromium with a fresh profile, give its page, and end it."""
    path = find()
    if path is None:
        raise FileNotFoundError(MISSING)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        own = [f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"]
        command = [path, *QUIET, *flags, *own]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, **quiet)
        try:
            opened = Page(_address(Path(profile) / "DevToolsActivePort", process))
            # A window cannot be narrower than 500 pixels; the page's metrics can.
            metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            opened.call("Emulation.setDeviceMetricsOverride", **metrics)
            opened.call("Emulation.setFocusEmulationEnabled", enabled=True)  # as if it was in front
            yield opened
        finally:
            process.terminate()
            process.wait(20)


def _address(file: Path, process: subprocess.Popen, seconds: float = 60) -> str:
    """The web socket of the first page, once Chromium has written on which port it listens."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if file.is_file() and (lines := file.read_text().split()):
            with urllib.request.urlopen(f"http://127.0.0.1:{lines[0]}/json/list") as answer:
                pages = [target for target in json.load(answer) if target["type"] == "page"]
            if pages:
                return pages[0]["webSocketDebuggerUrl"]
        time.sleep(0.05)
    raise RuntimeError(f"Chromium did not start (exit status {process.poll()})")
