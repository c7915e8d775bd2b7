"""Where a graphics driver is required, as in CI, a test on the GPU path fails without one; elsewhere it is skipped."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import conftest

ROOT = Path(__file__).resolve().parents[2]


def marked(name: str) -> Any:
    return SimpleNamespace(get_closest_marker=lambda marker: marker if marker == name else None)


@pytest.fixture(autouse=True)
def no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("why_no_gpu", "why_no_boards"):
        monkeypatch.setattr(conftest, name, lambda: "There is none.")
    for name in (conftest.REQUIRED, conftest.GPU_REQUIRED):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("name", "required"), [("gpu", conftest.GPU_REQUIRED), ("gpu", conftest.REQUIRED)])
def test_a_check_that_cannot_run_is_a_failure_in_ci_alone(
    name: str, required: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(pytest.skip.Exception, match="There is none"):
        conftest.pytest_runtest_setup(marked(name))
    monkeypatch.setenv(required, "1")
    with pytest.raises(pytest.fail.Exception, match="There is none"):
        conftest.pytest_runtest_setup(marked(name))
    conftest.pytest_runtest_setup(marked("slow"))


def test_boards_are_not_required_with_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(conftest.GPU_REQUIRED, "1")
    with pytest.raises(pytest.skip.Exception, match="There is none"):
        conftest.pytest_runtest_setup(marked("boards"))


def test_ci_requires_the_gpu_path() -> None:
    assert f"export {conftest.GPU_REQUIRED}=1" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
