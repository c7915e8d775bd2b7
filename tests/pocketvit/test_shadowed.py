"""A folder of the user's own that has the name of one of our packages is named, wherever it comes from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("runtime", "compress", "export", "device_bench", "pocketvit")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder as an installation leaves it, which stands last in the path."""
    site = tmp_path / "site"
    site.mkdir()
    for name in PACKAGES:
        (site / name).symlink_to(ROOT / name)
    return site


@pytest.fixture
def work(tmp_path: Path) -> Path:
    work = tmp_path / "work"
    work.mkdir()
    return work


def python(work: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    keep = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    return subprocess.run(
        [sys.executable, *arguments], cwd=work, env=keep, capture_output=True, text=True, timeout=60, check=False
    )


def script(work: Path, text: str) -> str:
    (work / "mine.py").write_text(f"import sys; sys.path.insert(1, sys.argv.pop())\n{text}\n")
    return str(work / "mine.py")


@pytest.mark.parametrize("name", ["runtime", "compress", "export", "device_bench"])
def test_a_package_beside_the_script_is_named(site: Path, work: Path, name: str) -> None:
    (work / name).mkdir()
    (work / name / "__init__.py").write_text("")
    done = python(work, script(work, "import pocketvit"), str(site))
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("pocketvit.shadowed.ShadowedPackageError: ")
    assert f"'{name}' is hidden by {work / name}" in last
    assert "Rename that folder or file" in last


def test_a_module_that_was_imported_before_is_named(site: Path, work: Path) -> None:
    (work / "export.py").write_text("")
    text = "import export\ntry:\n    import pocketvit\nexcept ImportError as error:\n    print(error.name, error.path)"
    done = python(work, script(work, text), str(site))
    assert done.stdout.split() == ["export", str(work / "export.py")], done.stderr


def test_a_folder_without_code_hides_nothing(site: Path, work: Path) -> None:
    for name in PACKAGES[:-1]:
        (work / name).mkdir()
        (work / name / "picture.png").write_bytes(b"")
    done = python(work, script(work, "import pocketvit; print(pocketvit.PocketVitError.__module__)"), str(site))
    assert done.stdout.strip() == "runtime.errors", done.stderr


def test_the_command_line_says_it_without_a_traceback(site: Path, work: Path) -> None:
    (work / "runtime").mkdir()
    (work / "runtime" / "__init__.py").write_text("")
    run = (
        "import runpy, sys; sys.path.insert(1, sys.argv.pop()); sys.argv = ['-m', '--version']; "
        "runpy.run_module('pocketvit', run_name='__main__', alter_sys=True)"
    )
    done = python(work, "-c", run, str(site))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: PocketViT's package 'runtime' is hidden by ")
    assert done.stdout == ""


def test_nothing_is_said_where_nothing_is_hidden(site: Path, work: Path) -> None:
    text = "import pocketvit, sys; print(sorted({'numpy', 'torch', 'runtime'} & set(sys.modules)))"
    done = python(work, script(work, text), str(site))
    assert done.stdout.strip() == "[]", done.stderr
