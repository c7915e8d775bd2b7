"""The names of devices, the address as a QR code, and the browser of this machine."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from device_bench.documents.request import WebOptions
from device_bench.targets.base import Device
from device_bench.targets.web import address
from device_bench.targets.web.address import invitation, qr_code
from device_bench.targets.web.browser import BROWSER, find_browser, open_browser
from device_bench.targets.web.certificate import self_signed_context
from device_bench.targets.web.facts import BrowserFacts
from runtime import ArtifactError, MeasurementError, UnsupportedTargetError, decode

from .pages import facts

LINUX = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/150.0.0.0 Safari/537.36"


def known(**changes: Any) -> BrowserFacts:
    return decode(BrowserFacts, facts(**changes), "facts")


@pytest.mark.parametrize(
    ("agent", "model", "slug", "system"),
    [
        (facts()["user_agent"], "Pixel 8", "pixel-8-chrome", "Android 14"),
        (LINUX, "", "linux-chrome", "Linux"),
        (LINUX + " Edg/150.0.0.0", "", "linux-edge", "Linux"),
        ("Mozilla/5.0 (Android 14; Mobile; rv:140.0) Gecko/140.0 Firefox/140.0", "", "android-firefox", "Android 14"),
        ("Mozilla/5.0 (Linux; Android 13) SamsungBrowser/28.0 Chrome/130.0.0.0", "", "android-samsung", "Android 13"),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 Version/18.1 Safari/604.1",
            "",
            "iphone-safari",
            "iPhone 18.1",
        ),
        ("something", "", "android-browser", "Android"),
    ],
)
def test_a_device_is_named_after_itself_and_its_browser(agent: str, model: str, slug: str, system: str) -> None:
    found = known(user_agent=agent, model=model)
    assert (found.slug, found.system) == (slug, system)
    assert known(name="../My phone!").slug == "my-phone"
    assert known(user_agent="", platform="", model="", name="//").slug == "device"


@pytest.mark.parametrize(
    "change", [{"cores": 0}, {"memory_gib": -1}, {"user_agent": "x" * 500}, {"name": "a\nb"}, {"secure": 1}]
)
def test_impossible_facts_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises((MeasurementError, ArtifactError)):
        known(**change)


def test_the_qr_code_has_the_modules_of_the_address() -> None:
    segno = pytest.importorskip("segno")
    text = "http://192.168.1.7:8000/abcdefgh/"
    matrix = [[bool(module) for module in row] for row in segno.make(text, error="l", micro=False).matrix]
    drawn = qr_code(text)
    assert drawn is not None
    dark = {"█": (0, 0), "▀": (0, 1), "▄": (1, 0), " ": (1, 1)}
    rows = [[bool(dark[letter][half]) for letter in line] for line in drawn.split("\n") for half in (0, 1)]
    assert [row[2:-2] for row in rows[2 : 2 + len(matrix)]] == matrix
    assert not any(any(row) for row in (*rows[:2], *rows[2 + len(matrix) :]))


def test_the_invitation_says_what_a_phone_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    text = invitation(WebOptions(devices=3), "192.168.1.7", 8000, "secret")
    assert "on 3 devices: http://192.168.1.7:8000/secret/" in text
    assert "adb reverse tcp:8000 tcp:8000" in text
    secure = invitation(WebOptions(https=True), "192.168.1.7", 8000, "secret")
    assert "https://192.168.1.7:8000/secret/" in secure
    assert "certificate" in secure
    monkeypatch.setattr(address, "import_module", lambda name: __import__("no_such_module"))
    assert "pip install 'pocketvit[web]'" in invitation(WebOptions(), "a", 1, "b")


@pytest.mark.parametrize("change", [{"devices": 0}, {"devices": 65}, {"port": -1}, {"port": 65536}, {"host": "a/b"}])
def test_impossible_options_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(MeasurementError):
        WebOptions(**change)


def test_a_certificate_is_for_the_address() -> None:
    context = self_signed_context("192.0.2.7")
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_machine_without_a_browser_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedTargetError, match="sudo apt install chromium"):
        find_browser({"PATH": str(tmp_path)})
    with pytest.raises(UnsupportedTargetError, match="Expected no-such-browser"):
        find_browser({"PATH": str(tmp_path), BROWSER: "no-such-browser"})
    for name in ("google-chrome", "own"):
        (tmp_path / name).write_text("#!/bin/sh\necho it broke; exit 3\n")
        (tmp_path / name).chmod(0o755)
    assert find_browser({"PATH": str(tmp_path)}) == str(tmp_path / "google-chrome")
    assert find_browser({"PATH": str(tmp_path), BROWSER: "own"}) == str(tmp_path / "own")


def test_a_browser_that_ends_by_itself_is_noticed(tmp_path: Path) -> None:
    program = tmp_path / "own"
    program.write_text("#!/bin/sh\necho it broke; exit 3\n")
    program.chmod(0o755)
    with open_browser("http://localhost/", {"PATH": str(tmp_path), BROWSER: str(program)}) as words:
        while words() is None:
            pass
        assert words() == "it broke"


def test_there_is_no_other_browser_to_start() -> None:
    from device_bench.targets.web.target import bench_in_browsers

    from .pages import web_request

    with pytest.raises(UnsupportedTargetError, match="Expected web, or web:chromium"):
        bench_in_browsers(Device("web:firefox"), web_request())
