"""Makes the base of emulated boards once, and keeps it in a cache."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path

from runtime import Progress, sha256_of, silent

from .base import (
    EMULATOR,
    ENGINES_PLACE,
    PLUGIN,
    RECORD,
    RECORD_DOCUMENT,
    Boards,
    Package,
    Record,
    boards_folder,
    read_boards,
    recipe_key,
)
from .board import ROOT, open_board
from .cores import CORES, board_files
from .fetch import fetch_board_wheels, fetch_debs, unpack_debs, unpack_wheels
from .once import made_once
from .steps import Steps

STAGE = "making emulated boards"
_STEPS = 6

_DROPPED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian")
_FOLDERS = ("dev/shm", "etc", "home/pi", "proc", "root", "run", "sys", "tmp", "usr/local/bin", "var/tmp")
_WRITABLE = {name: 0o1777 for name in ("tmp", "var/tmp", "dev/shm")}
_WRITABLE |= {name: 0o755 for name in ("home/pi", "run", "data/local/tmp")}
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {"dev/fd": "/proc/self/fd", "dev/stdin": "fd/0", "dev/stdout": "fd/1", "dev/stderr": "fd/2"}
_TEXTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\npi:x:1000:1000::/home/pi:/bin/sh\n",
    "etc/group": "root:x:0:\npi:x:1000:\n",
    "etc/hosts": "127.0.0.1 localhost\n",
}
# modules that a bench imports there; their compiled forms are kept, so that no start compiles them again
_WARM = (
    "import argparse, importlib.metadata, json, platform, shlex, signal, subprocess, tempfile\n"
    "import threading, venv, zipfile\n"
    "import ai_edge_litert.interpreter, numpy, numpy.random, onnxruntime\n"
    "versions = {name: importlib.metadata.version(name) for name in ('numpy', 'ai-edge-litert', 'onnxruntime')}\n"
    "print(json.dumps({'python': platform.python_version(), **versions}))\n"
)


def build_boards(cache: Path | None = None, progress: Progress = silent, steps: Steps | None = None) -> Boards:
    """Returns the base of emulated boards, and makes it if this version is not in the cache.

    Making takes about 20 s, 100 MB of downloads and 270 MB of disk. If several processes ask at once, one makes it and
    the others wait.

    Args:
        cache: folder of bases; by default ``$POCKETVIT_BOARDS`` or the user's cache folder.
        progress: reports each step.
        steps: runs the programs.

    Raises:
        MeasurementError: a step failed; the message names it, its last output and the cure.
        StorageError: there is no space, or no permission to write.
    """
    path = made_once(
        (cache or boards_folder()) / recipe_key(),
        lambda folder: _make(folder, progress, steps or Steps()),
        whole=lambda folder: read_boards(folder) is not None,
        waiting=lambda: progress(STAGE, 0, _STEPS, "waiting for another process that makes them"),
    )
    made = read_boards(path)
    assert made is not None
    return made


def _make(path: Path, progress: Progress, steps: Steps) -> None:
    here = files(__package__)
    work = path / "work"
    for name in ("work", "stage", "userland", "engines", "cores"):
        (path / name).mkdir()
    boards = Boards(path, Record(recipe_key(), (), "", {}))
    progress(STAGE, 0, _STEPS, "Debian's packages")
    debs = fetch_debs(_names(here.joinpath("debs.txt").read_text(encoding="utf-8")), work / "apt", steps)
    progress(STAGE, 1, _STEPS, "engines")
    with as_file(here.joinpath("wheels.txt")) as requirements:
        wheels = fetch_board_wheels(requirements, work / "wheels", steps)
    progress(STAGE, 2, _STEPS, "unpacking")
    _make_userland(boards.userland, debs, steps)
    unpack_wheels(wheels, boards.engines / ENGINES_PLACE)
    progress(STAGE, 3, _STEPS, "counting plugin")
    with as_file(here.joinpath("counts.c")) as source:
        compile_plugin(source, boards.userland / PLUGIN, steps)
        plugin_sha256 = sha256_of(source)
    for core in CORES.values():
        for name, text in board_files(core).items():
            _write(boards.core(core.name) / name, text)
    progress(STAGE, 4, _STEPS, "first start")
    versions = _warm(boards, steps) | {"qemu": _emulator_version(boards, steps)}
    packages = tuple(Package(file.name, sha256_of(file)) for file in (*debs, *wheels))
    progress(STAGE, 5, _STEPS, "closing")
    shutil.rmtree(work)
    for layer in ("userland", "engines", "cores"):
        close_layer(path / layer)
    RECORD_DOCUMENT.write(path / RECORD, Record(recipe_key(), packages, plugin_sha256, versions))
    progress(STAGE, _STEPS, _STEPS)


def _names(text: str) -> list[str]:
    """Returns the lines that are not comments."""
    return [line for line in text.split("\n") if line and not line.startswith("#")]


def compile_plugin(source: Path, target: Path, steps: Steps) -> None:
    """Compiles the emulator's counting plugin for this machine.

    Raises:
        MeasurementError: there is no C compiler, or it fails.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    argv = ["gcc", "-O2", "-Wall", "-Werror", "-fPIC", "-shared", "-o", str(target), str(source)]
    steps("compiling the counting plugin", argv, "Install a C compiler: apt-get install gcc libc6-dev")


def _make_userland(root: Path, debs: Sequence[Path], steps: Steps) -> None:
    unpack_debs(debs, root, steps)
    for name in _DROPPED:
        shutil.rmtree(root / name, ignore_errors=True)
    for emulator in (root / EMULATOR).parent.glob("qemu-*"):
        if emulator.name != Path(EMULATOR).name:
            emulator.unlink()
    for name in _FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in _DEVICES:
        (root / "dev" / name).touch()
    for name, target in _LINKS.items():
        (root / name).symlink_to(target)
    for name, text in _TEXTS.items():
        _write(root / name, text)
    listed = steps("asking busybox what it can do", _emulated(root, root / "bin/busybox", "--list"), "Try again")
    for name in listed.split():
        link = root / "usr/bin" / name
        if not link.exists() and not (root / "bin" / name).exists():
            link.symlink_to("../../bin/busybox")


def _emulated(root: Path, program: Path, *arguments: str) -> list[str | Path]:
    """Returns the command that runs an arm64 program without a board, with the emulator's libraries."""
    libraries = ":".join(str(root / name / "x86_64-linux-gnu") for name in ("lib", "usr/lib"))
    loader = root / "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
    return [loader, "--library-path", libraries, root / EMULATOR, "-L", root, program, *arguments]


def _emulator_version(boards: Boards, steps: Steps) -> str:
    argv = _emulated(boards.userland, Path("--version"))
    del argv[-3:-1]
    return steps("asking the emulator's version", argv, "Try again").split("\n")[0]


def _warm(boards: Boards, steps: Steps) -> dict[str, str]:
    """Starts a board, loads the engines there, keeps the compiled Python files, and returns the versions."""
    with open_board(boards, "pi5", account=ROOT) as board:
        argv = board.argv(["/usr/bin/python3.11", "-c", _WARM])
        output = steps("starting the engines on a board", argv, "Remove the folder of emulated boards and try again")
        for layer in (boards.userland, boards.engines):
            for source in (board.root / "usr").rglob("__pycache__"):
                folder = layer / source.relative_to(board.root).parent
                if folder.is_dir():
                    shutil.copytree(source, folder / "__pycache__", dirs_exist_ok=True)
    versions: dict[str, str] = json.loads(output.splitlines()[-1])
    return versions


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def close_layer(layer: Path) -> None:
    """Removes the permission to write from all files but those that a board's users may change."""
    for folder, _, names in os.walk(layer):
        for path in (Path(folder), *(Path(folder) / name for name in names)):
            if not path.is_symlink():
                path.chmod(stat.S_IMODE(path.stat().st_mode) & 0o555 | 0o444)
    for name, mode in _WRITABLE.items():
        if (layer / name).is_dir():
            (layer / name).chmod(mode)
