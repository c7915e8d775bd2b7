"""A headless browser that runs JavaScript programs with the packages of npm that they name."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import tempfile
import threading
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

BROWSER_REQUIRED = "POCKETVIT_BROWSER_REQUIRED"
"""Where this is set, a machine without Chromium or npm fails the tests in a browser; elsewhere they are skipped."""

PACKAGES = (
    "@litertjs/core@2.5.3",
    "@litertjs/wasm-utils@2.5.3",
    "onnxruntime-web@1.30.0",
    "@mediapipe/tasks-vision@1.1.0",
)
IMPORTS = {
    "@litertjs/core": "/node_modules/@litertjs/core/dist/index.js",
    "@litertjs/wasm-utils": "/node_modules/@litertjs/wasm-utils/dist/index.js",
    "onnxruntime-web": "/node_modules/onnxruntime-web/dist/ort.bundle.min.mjs",
    "@mediapipe/tasks-vision": "/node_modules/@mediapipe/tasks-vision/vision_bundle.mjs",
}
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
PAGE = """<!doctype html><script type="module">
const answers = {{}};
for (const name of {names}) {{
  const frame = Object.assign(document.createElement("iframe"), {{ src: `frame.html#${{name}}` }});
  const answered = new Promise((done) => addEventListener("message", (event) => done(event.data), {{ once: true }}));
  document.body.append(frame);
  answers[name] = await answered;
  frame.remove();
}}
await fetch("answers", {{ method: "POST", body: JSON.stringify(answers) }});
</script><body></body>"""
FRAME = """<!doctype html><script type="importmap">{imports}</script><script type="module">
let answer;
try {{
  const {{ classify }} = await import(`./${{location.hash.slice(1)}}.mjs`);
  answer = await classify(await createImageBitmap(await (await fetch("picture.png")).blob()));
}} catch (error) {{ answer = {{ error: `${{error}}` }}; }}
parent.postMessage(answer);
</script>"""
"""A program has a frame of its own, since LiteRT.js is loaded once into a page."""


@cache
def node_modules() -> Path | str:
    """Returns the folder of the packages, fetched once, or why it is not to be had."""
    if not any(map(shutil.which, PROGRAMS)) or shutil.which("npm") is None:
        return "There is no Chromium, or no npm, to run JavaScript in a browser"
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache_home / "pocketvit" / "-".join(["js", *(name.rpartition("@")[2] for name in PACKAGES)])
    if not (folder / "done").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder), *PACKAGES]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"npm cannot fetch the packages: {done.stderr[-300:]}"
        (folder / "done").touch()
    return folder / "node_modules"


def answers_of(folder: Path, names: list[str], packages: Path, seconds: float = 120) -> dict[str, Any]:
    """Returns what ``classify`` of each ``NAME.mjs`` in a folder answers to its ``picture.png``.

    Args:
        folder: with the programs and their files.
        names: of the programs.
        packages: the folder ``node_modules``.
        seconds: after which there is no answer.
    """
    (folder / "index.html").write_text(PAGE.format(names=json.dumps(names)), encoding="utf-8")
    (folder / "frame.html").write_text(FRAME.format(imports=json.dumps({"imports": IMPORTS})), encoding="utf-8")
    (folder / "node_modules").symlink_to(packages)
    found: dict[str, Any] = {}
    arrived = threading.Event()

    class Handler(http.server.SimpleHTTPRequestHandler):
        extensions_map: ClassVar = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}

        def do_POST(self) -> None:
            found.update(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()
            arrived.set()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    program = next(filter(None, map(shutil.which, PROGRAMS)))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            f"--user-data-dir={profile}",
        ]
        address = f"http://127.0.0.1:{server.server_address[1]}/index.html"
        browser = subprocess.Popen(
            [program, *flags, address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            arrived.wait(seconds)
        finally:
            os.killpg(browser.pid, 9)
            browser.wait()
            server.shutdown()
            server.server_close()
    return found
