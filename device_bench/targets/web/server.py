"""The HTTP server of a bench: a fixed list of things to fetch and of messages to take, for who knows the token."""

from __future__ import annotations

import hmac
import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files as resource_files
from pathlib import Path
from typing import Any

from runtime import MeasurementError

from .gather import Gathering, OutOfStepError
from .limits import RateLimit
from .messages import MESSAGES, read_message
from .packages import served_packages

MOST_BODY = 2**20
"""Largest message, bytes; a larger one is refused before it is read."""

PICTURES_AT_ONCE = 16
"""Pictures in one answer."""

MOST_CONNECTIONS = 96
_IDLE_S = 20.0
_CHUNK = 2**18
_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "mjs": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "wasm": "application/wasm",
    "json": "application/json",
}
_PAGE = (
    "index.html",
    "style.css",
    "main.js",
    "outbox.js",
    "view.js",
    "worker.js",
    "engines.js",
    "measure.js",
    "sha256.js",
)
_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'wasm-unsafe-eval' blob:; "
    "worker-src 'self' blob:; img-src 'self' data:; form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
}


@dataclass(frozen=True)
class Site:
    """What a server offers.

    Attributes:
        token: the first part of every path.
        gathering: takes the messages, and knows the files.
        job: what the page is asked to do, as JSON.
        packages: the folder of ``packages.web_packages``.
    """

    token: str
    gathering: Gathering
    job: Mapping[str, Any]
    packages: Path


class BenchServer(ThreadingHTTPServer):
    """Serves one site, with a thread for each connection and a limit on their number."""

    daemon_threads = True
    request_queue_size = 32

    def __init__(self, host: str, port: int, site: Site, context: ssl.SSLContext | None = None) -> None:
        self.site, self.context = site, context
        self.asked, self.guessed = RateLimit(per_s=100, burst=600), RateLimit(per_s=1, burst=20)
        self._free = threading.BoundedSemaphore(MOST_CONNECTIONS)
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise MeasurementError(
                f"The bench cannot listen on {host}, port {port}",
                got=error.strerror or error,
                fix="Give another port with --web-port, or none to take any free one",
            ) from error

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Starts a thread for a connection, or closes it where there are too many."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serves one connection, and frees its place."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of a connection that was cut."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "PocketViT", ""
    timeout = _IDLE_S
    server: BenchServer

    def setup(self) -> None:
        """Does the handshake of https in the connection's own thread."""
        if self.server.context is not None:
            self.request.settimeout(_IDLE_S)
            self.request = self.server.context.wrap_socket(self.request, server_side=True)
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def finish(self) -> None:
        """Closes the connection; the server closes it itself where there is no https."""
        super().finish()
        if self.server.context is not None:
            self.request.close()

    def log_message(self, format: str, *args: Any) -> None:
        """Writes no log."""

    def do_GET(self) -> None:
        """Serves a file of the fixed list."""
        rest = self._rest()
        if rest is None:
            return
        for pattern, serve in _GETS:
            if found := pattern.fullmatch(rest):
                serve(self, *found.groups())
                return
        self._refuse(HTTPStatus.NOT_FOUND, "There is no such thing here.")

    def do_HEAD(self) -> None:
        """Answers as to GET, without the body."""
        self.do_GET()

    def do_POST(self) -> None:
        """Takes a message."""
        rest = self._rest()
        if rest is None:
            return
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"\d{1,12}", length):
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "A message needs a length.")
        elif int(length) > MOST_BODY:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A message has at most {MOST_BODY} bytes.")
        elif rest not in MESSAGES:
            self._refuse(HTTPStatus.NOT_FOUND, "There is no such message.")
        else:
            self._take(rest, self.rfile.read(int(length)), int(length))

    def _take(self, kind: str, body: bytes, length: int) -> None:
        if len(body) != length:
            self.close_connection = True
            return
        try:
            answer = self.server.site.gathering.take(read_message(kind, body))
        except OutOfStepError as error:
            self._json(HTTPStatus.CONFLICT, {"error": str(error)})
        except MeasurementError as error:
            self._json(HTTPStatus.BAD_REQUEST, {"error": str(error)})
        else:
            self._json(HTTPStatus.OK, answer)

    def _rest(self) -> str | None:
        """Returns the path after the token, without a query; answers itself where the request is refused."""
        client = self.client_address[0]
        if not self.server.asked.allows(client):
            self._refuse(HTTPStatus.TOO_MANY_REQUESTS, "Ask less often.", {"Retry-After": "1"})
            return None
        path = self.path.partition("?")[0]
        _, _, after = path.partition("/")
        token, slash, rest = after.partition("/")
        if hmac.compare_digest(token.encode(), self.server.site.token.encode()) and slash:
            return rest
        allowed = self.server.guessed.allows(client)
        status = HTTPStatus.NOT_FOUND if allowed else HTTPStatus.TOO_MANY_REQUESTS
        self._refuse(status, "There is nothing here: open the whole address that the bench printed.")
        return None

    def _page(self, name: str) -> None:
        name = name or "index.html"
        if name not in _PAGE:
            self._refuse(HTTPStatus.NOT_FOUND, "There is no such file.")
            return
        self._send(resource_files(__package__).joinpath("page", name).read_bytes(), name, "no-store")

    def _package(self, path: str) -> None:
        if path not in served_packages():
            self._refuse(HTTPStatus.NOT_FOUND, "There is no such file.")
            return
        self._stream(self.server.site.packages / path, path, "private, max-age=86400")

    def _job(self) -> None:
        self._json(HTTPStatus.OK, self.server.site.job)

    def _file(self, number: str) -> None:
        files = self.server.site.gathering.files
        if int(number) >= len(files):
            self._refuse(HTTPStatus.NOT_FOUND, "There is no such file.")
            return
        self._stream(files[int(number)].path, "model.bin", "no-store")

    def _pictures(self, number: str, first: str) -> None:
        files = self.server.site.gathering.files
        if int(number) >= len(files) or int(first) >= len(files[int(number)].pictures):
            self._refuse(HTTPStatus.NOT_FOUND, "There is no such picture.")
            return
        pictures = files[int(number)].pictures[int(first) :][:PICTURES_AT_ONCE]
        self._send(pictures.tobytes(), "pictures.bin", "no-store")

    def _stream(self, path: Path, name: str, cache: str) -> None:
        """Sends a file in pieces; one that was cut short meanwhile ends the connection."""
        try:
            opened = path.open("rb")
        except OSError:
            self._refuse(HTTPStatus.GONE, "The file is gone.")
            return
        with opened as file:
            size = path.stat().st_size
            self._start(HTTPStatus.OK, name, size, {"Cache-Control": cache})
            while self.command != "HEAD" and size > 0 and (chunk := file.read(min(_CHUNK, size))):
                self.wfile.write(chunk)
                size -= len(chunk)
            if size and self.command != "HEAD":
                self.close_connection = True

    def _json(self, status: HTTPStatus, body: Mapping[str, Any]) -> None:
        self._send(json.dumps(body, allow_nan=False).encode(), "answer.json", "no-store", status)

    def _send(self, data: bytes, name: str, cache: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._start(status, name, len(data), {"Cache-Control": cache})
        if self.command != "HEAD":
            self.wfile.write(data)

    def _refuse(self, status: HTTPStatus, why: str, more: Mapping[str, str] | None = None) -> None:
        """Refuses a request, and closes the connection, since its body was not read."""
        data = json.dumps({"error": why}).encode()
        self._start(
            status, "answer.json", len(data), {"Connection": "close", "Cache-Control": "no-store", **(more or {})}
        )
        if self.command != "HEAD":
            self.wfile.write(data)
        self.close_connection = True

    def _start(self, status: HTTPStatus, name: str, size: int, more: Mapping[str, str]) -> None:
        self.send_response(status)
        kind = _TYPES.get(name.rpartition(".")[2], "application/octet-stream")
        for header, value in {"Content-Type": kind, "Content-Length": str(size), **_HEADERS, **more}.items():
            self.send_header(header, value)
        self.end_headers()


_GETS: tuple[tuple[re.Pattern[str], Callable[..., None]], ...] = (
    (re.compile(r"([a-z0-9.]*)"), _Handler._page),
    (re.compile(r"packages/([\w./-]+)", re.ASCII), _Handler._package),
    (re.compile(r"bench/job"), _Handler._job),
    (re.compile(r"bench/files/([0-9]{1,4})"), _Handler._file),
    (re.compile(r"bench/pictures/([0-9]{1,4})/([0-9]{1,7})"), _Handler._pictures),
)
