"""A browser of Chromium's kind that is told what to do over a pipe, by its DevTools protocol."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from device_bench.targets.web.browser import find_browser

_FLAGS = ("--headless=new", "--no-first-run", "--disable-dev-shm-usage", "--enable-unsafe-webgpu", "--hide-scrollbars")


class Pipe:
    """A running browser with one tab.

    Args:
        send: end of the pipe that the browser reads.
        receive: end of the pipe that it writes.
    """

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive = os.fdopen(send, "wb", buffering=0), os.fdopen(receive, "rb")
        self._answers: dict[int, dict[str, Any]] = {}
        self._came, self._number, self._session = threading.Condition(), 0, ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def attach(self) -> None:
        """Opens a new tab, which all further commands are for."""
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def close(self) -> None:
        """Closes the pipe of a browser that has ended."""
        self._reader.join()
        self._send.close()
        self._receive.close()

    def close_tab(self) -> None:
        """Closes the tab, as a user does."""
        self("Page.close")
        self._session = ""

    def __call__(self, method: str, *, timeout_s: float = 60.0, **parameters: Any) -> dict[str, Any]:
        """Sends a command and returns its result."""
        with self._came:
            self._number += 1
            number = self._number
            message = {"id": number, "method": method, "params": parameters}
            if self._session:
                message["sessionId"] = self._session
            self._send.write(json.dumps(message).encode() + b"\0")
            if not self._came.wait_for(lambda: number in self._answers, timeout_s):
                raise TimeoutError(method)
            answer = self._answers.pop(number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def evaluate(self, script: str) -> Any:
        """Returns the value of a script in the page."""
        answer = self("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        return answer["result"].get("value")

    def wait_for(self, script: str, timeout_s: float = 60.0) -> None:
        """Waits until a script in the page is true."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            if self.evaluate(script):
                return
            time.sleep(0.1)
        raise TimeoutError(f"{script}: {self.evaluate('document.body.innerText')}")

    def screenshot(self, path: Path, width: int, height: int, *, mobile: bool = False, dark: bool = False) -> None:
        """Writes a picture of the whole page at a width, as PNG."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 2 if mobile else 1, "mobile": mobile}
        self("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setEmulatedMedia", features=[scheme])
        time.sleep(0.5)
        data = self("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def _read(self) -> None:
        rest = b""
        while chunk := os.read(self._receive.fileno(), 65536):
            *messages, rest = (rest + chunk).split(b"\0")
            with self._came:
                for message in map(json.loads, messages):
                    if "id" in message:
                        self._answers[message["id"]] = message
                self._came.notify_all()


@contextmanager
def piped_browser(arguments: Sequence[str] = ()) -> Iterator[Pipe]:
    """Runs a browser without a window for as long as the block lasts, with one empty tab."""
    theirs_in, send = os.pipe()
    receive, theirs_out = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [find_browser(), *_FLAGS, "--no-sandbox", "--remote-debugging-pipe", f"--user-data-dir={folder}"]
        process = subprocess.Popen(
            [*command, *arguments],
            pass_fds=(3, 4),
            preexec_fn=lambda: _place(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        pipe = Pipe(send, receive)
        try:
            pipe.attach()
            yield pipe
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            pipe.close()


def _place(read: int, write: int) -> None:
    """Puts the ends of the pipes where Chromium looks for them: it reads descriptor 3 and writes to 4."""
    read, write = (fcntl.fcntl(own, fcntl.F_DUPFD, 10) for own in (read, write))
    os.dup2(read, 3)
    os.dup2(write, 4)
