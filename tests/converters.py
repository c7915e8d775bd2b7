"""The converters of the extra ``convert``, in a folder of the user's cache where the tests' environment has none.

They take 722 MB and must not meet the packages of the other tests, so that they are installed without what they
require, which the tests' environment has, and only the tests that need them see the folder.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from filelock import FileLock

CONVERTERS_REQUIRED = "POCKETVIT_CONVERTERS_REQUIRED"
"""Where this is set, as in CI, a machine that cannot install the converters fails their tests; elsewhere they are
skipped."""

FOLDER = "POCKETVIT_CONVERTERS"
PACKAGES = (
    "absl-py",
    "ai-edge-quantizer",
    "immutabledict",
    "jax",
    "jaxlib",
    "jstyleson",
    "litert-converter",
    "litert-torch",
    "onnx-ir",
    "onnxscript",
    "opt-einsum",
    "tabulate",
    "torchao",
)

_CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"


def pinned() -> tuple[str, ...]:
    """Returns the packages with the versions that ``constraints.txt`` gives them."""
    lines = _CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if line.split("==")[0] in PACKAGES)


def converters_folder() -> Path:
    """Returns ``$POCKETVIT_CONVERTERS``, or a folder of the user's cache for these versions; it may not exist."""
    cache_home = os.environ.get("XDG_CACHE_HOME")
    digest = hashlib.sha256("\n".join(pinned()).encode()).hexdigest()[:12]
    usual = (Path(cache_home) if cache_home else Path.home() / ".cache") / "pocketvit" / f"converters-{digest}"
    return Path(os.environ[FOLDER]) if os.environ.get(FOLDER) else usual


def installed_converters(folder: Path) -> Path:
    """Returns the folder with the converters, and installs them if they are not there; one process at a time does.

    Raises:
        CalledProcessError: they cannot be installed here.
    """
    done = folder / "installed"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not done.is_file():
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
            subprocess.run([*pip, "--upgrade", "--target", str(folder), *pinned()], check=True, capture_output=True)
            done.touch()
    return folder


@cache
def converters_or_reason() -> Path | str | None:
    """Returns the folder with the converters; None where the environment has them; or why there are none."""
    if find_spec("litert_torch") is not None and find_spec("ai_edge_quantizer") is not None:
        return None
    try:
        return installed_converters(converters_folder())
    except (OSError, subprocess.CalledProcessError) as error:
        told = (getattr(error, "stderr", None) or b"").decode()[-500:]
        return f"The converters cannot be installed here: {error} {told}".strip()


@pytest.fixture
def converters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a test and the processes that it starts import the converters; skips or fails it where there are none."""
    found = converters_or_reason()
    if isinstance(found, str):
        if os.environ.get(CONVERTERS_REQUIRED):
            pytest.fail(found, pytrace=False)
        pytest.skip(found)
    if found is not None:
        monkeypatch.setattr(sys, "path", [*sys.path, str(found)])
        paths = [os.environ.get("PYTHONPATH", ""), str(found)]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))
