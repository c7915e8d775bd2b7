"""A small server that answers what ``huggingface_hub`` asks the Hub for."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_secret"


@dataclass
class FakeHub:
    """The repositories that are served.

    Attributes:
        endpoint: address of the server, for ``HF_ENDPOINT``.
        repos: folder of each repository by ``OWNER/NAME``.
        private: repositories that ask for the token.
        gated: repositories whose licence nobody accepted.
        asked: names of the files that were asked for.
    """

    endpoint: str
    repos: dict[str, Path]
    private: tuple[str, ...] = ()
    gated: tuple[str, ...] = ()
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str, token: str | None) -> tuple[int, str, bytes]:
        """Returns the status, the error code and the content for the path of a request."""
        parts = unquote(path).strip("/").split("/")
        repo, action, revision, name = "/".join(parts[:2]), parts[2], parts[3], "/".join(parts[4:])
        if repo not in self.repos or action != "resolve" or (repo in self.private and token != f"Bearer {TOKEN}"):
            return 401, "RepoNotFound", b""
        if repo in self.gated:
            return 403, "GatedRepo", b""
        if revision not in ("main", COMMIT):
            return 404, "RevisionNotFound", b""
        self.asked.append(name)
        file = self.repos[repo] / name
        return (200, "", file.read_bytes()) if file.is_file() else (404, "EntryNotFound", b"")


@contextmanager
def serving(repos: dict[str, Path], private: tuple[str, ...] = (), gated: tuple[str, ...] = ()) -> Iterator[FakeHub]:
    """Serves repositories on this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.reply(body=False)

        def do_GET(self) -> None:
            self.reply(body=True)

        def reply(self, body: bool) -> None:
            status, code, content = hub.answer(self.path, self.headers.get("Authorization"))
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha1(content, usedforsecurity=False).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            if code:
                self.send_header("X-Error-Code", code)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = FakeHub(f"http://127.0.0.1:{server.server_address[1]}", repos, private, gated)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
