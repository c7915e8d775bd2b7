"""The server of a bench, by plain requests: who knows the token gets a fixed list of things, and nothing else."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from device_bench.targets.web import server as server_module
from device_bench.targets.web.limits import RateLimit
from device_bench.targets.web.packages import served_packages
from device_bench.targets.web.target import RunningBench, serve_bench

from .pages import FLOAT, FakePage, facts, offered, web_request

MB = 1_000_000


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[RunningBench]:
    for name in served_packages():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"// {name}")
    with serve_bench(web_request(), offered(), tmp_path, local=True) as running:
        yield running


def ask(
    bench: RunningBench, path: str, body: bytes | None = None, *, raw: bool = False
) -> tuple[int, dict[str, str], bytes]:
    """Returns status, headers and body of one request; the path comes after the token unless it is raw."""
    token = urlsplit(bench.address).path
    connection = http.client.HTTPConnection("127.0.0.1", bench.server.port, timeout=30)
    try:
        connection.request("GET" if body is None else "POST", path if raw else token + path, body)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def test_the_page_and_everything_it_names_is_there(bench: RunningBench) -> None:
    status, headers, page = ask(bench, "")
    assert status == 200
    assert b"PocketViT bench" in page
    # without these two there are no threads
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-embedder-policy"] == "require-corp"
    for name in ("style.css", "main.js", "outbox.js", "view.js", "worker.js", "engines.js", "measure.js", "sha256.js"):
        assert ask(bench, name)[0] == 200, name
    assert ask(bench, "packages/ort/ort-wasm-simd-threaded.wasm")[1]["content-type"] == "application/wasm"
    job = json.loads(ask(bench, "bench/job")[2])
    assert [own["name"] for own in job["files"]] == ["whole.fp32.tflite", "whole.onnx"]
    assert ask(bench, "bench/files/0")[2] == FLOAT.read_bytes()
    assert len(ask(bench, "bench/pictures/0/3")[2]) == 5 * 32 * 32


def test_messages_are_taken(bench: RunningBench) -> None:
    hello = {"visit": "0" * 32, "backends": ["wasm"], "facts": facts()}
    status, _, body = ask(bench, "hello", json.dumps(hello).encode())
    assert (status, json.loads(body)["label"]) == (200, "pixel-8-chrome")
    assert ask(bench, "sign", json.dumps({"visit": "1" * 32}).encode())[0] == 409
    for wrong in (b"", b"{", b"[]", b"\xff", b'{"visit": 1}', b"[" * 100_000, json.dumps(hello | {"x": 1}).encode()):
        assert ask(bench, "hello", wrong)[0] == 400
    assert len(bench.gathering.visits()) == 1


@pytest.mark.parametrize(
    "path", ["/", "/x/", "/x/bench/job", "/bench/job", "/{token}", "/{token}x/bench/job", "/{half}/"]
)
def test_who_has_not_the_token_gets_nothing(path: str, bench: RunningBench) -> None:
    token = bench.server.site.token
    asked = path.format(token=token, half=token[:-1])
    status, _, body = ask(bench, asked, raw=True)
    assert status == 404
    assert token.encode() not in body
    assert ask(bench, asked + "hello", b"{}", raw=True)[0] == 404


@pytest.mark.parametrize(
    "path",
    [
        "../../etc/passwd",
        "packages/../../../etc/passwd",
        "packages//etc/passwd",
        "packages/..%2f..%2fetc/passwd",
        "packages/litert/../litert/index.js",
        "bench/files/../job",
        "bench/files/99",
        "bench/files/-1",
        "bench/files/0/",
        "bench/files/whole.fp32.tflite",
        "bench/pictures/0/99",
        "..",
        "__init__.py",
        "target.py",
        "page/index.html",
        "main.js/",
    ],
)
def test_nothing_outside_the_list_is_served(path: str, bench: RunningBench) -> None:
    assert ask(bench, path)[0] == 404


def test_a_large_message_is_refused_before_it_is_read(bench: RunningBench) -> None:
    token = urlsplit(bench.address).path
    with socket.create_connection(("127.0.0.1", bench.server.port), timeout=30) as connection:
        connection.sendall(f"POST {token}times HTTP/1.1\r\nHost: a\r\nContent-Length: {30 * MB}\r\n\r\n".encode())
        # the answer comes although not one byte of the body was sent
        assert connection.recv(1000).startswith(b"HTTP/1.1 413")
    assert ask(bench, "bench/job")[0] == 200


@pytest.mark.parametrize(
    "length", ["", "Content-Length: -1\r\n", "Content-Length: a\r\n", "Transfer-Encoding: chunked\r\n"]
)
def test_a_message_without_a_length_is_refused(length: str, bench: RunningBench) -> None:
    token = urlsplit(bench.address).path
    with socket.create_connection(("127.0.0.1", bench.server.port), timeout=30) as connection:
        connection.sendall(f"POST {token}hello HTTP/1.1\r\nHost: a\r\n{length}\r\n".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 411")


def test_a_message_that_is_cut_off_changes_nothing(bench: RunningBench) -> None:
    token = urlsplit(bench.address).path
    with socket.create_connection(("127.0.0.1", bench.server.port), timeout=30) as connection:
        connection.sendall(f"POST {token}hello HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\n{{".encode())
    assert ask(bench, "bench/job")[0] == 200
    assert bench.gathering.visits() == ()


def test_guessing_is_slow_and_asking_too_often_is_refused(bench: RunningBench) -> None:
    statuses = {ask(bench, f"/{number}/", raw=True)[0] for number in range(40)}
    assert statuses == {404, 429}
    bench.server.asked = RateLimit(per_s=0.001, burst=3)
    assert [ask(bench, "bench/job")[0] for _ in range(5)] == [200, 200, 200, 429, 429]


def test_connections_that_say_nothing_take_no_more_than_their_places(bench: RunningBench) -> None:
    idle = [socket.create_connection(("127.0.0.1", bench.server.port)) for _ in range(server_module.MOST_CONNECTIONS)]
    until = time.monotonic() + 20
    while bench.server._free._value and time.monotonic() < until:  # type: ignore[attr-defined]
        time.sleep(0.01)
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        ask(bench, "bench/job")
    for connection in idle:
        connection.close()
    while not bench.server._free._value and time.monotonic() < until:  # type: ignore[attr-defined]
        time.sleep(0.01)
    assert ask(bench, "bench/job")[0] == 200


def test_a_rate_is_so_many_at_once_and_so_many_a_second() -> None:
    now = [0.0]
    limit = RateLimit(per_s=2, burst=3, clock=lambda: now[0])
    assert [limit.allows("a") for _ in range(4)] == [True, True, True, False]
    assert limit.allows("b")
    now[0] = 0.6
    assert [limit.allows("a") for _ in range(2)] == [True, False]


def test_many_pages_at_once_are_not_mixed_up(bench: RunningBench) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def one(number: int) -> None:
        page = FakePage(bench.gathering, number)
        page.hello()
        for file in (0, 1):
            page.measure(file, float(number))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(1, 25)))
    visits = bench.gathering.visits()
    assert len({visit.label for visit in visits}) == 24
    assert {part.series(warmup=False) for visit in visits for part in visit.parts.values()} == {
        (float(number),) for number in range(1, 25)
    }
