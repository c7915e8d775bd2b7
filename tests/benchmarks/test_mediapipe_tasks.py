"""MediaPipe Tasks, in an environment of its own, loads our files for apps and answers as we do."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from benchmarks.mediapipe_tasks import agreement, answers, app_files, as_rgb, environment
from runtime import load
from tests.conftest import MEDIAPIPE_REQUIRED
from tests.export.app.test_app_files import NAMES, made, pixels, plain_file

pytestmark = pytest.mark.slow


@cache
def mediapipe_python() -> Path | str:
    """Returns the interpreter that has mediapipe, or why there is none."""
    try:
        return environment()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"MediaPipe cannot be installed here: {error} {(getattr(error, 'stderr', None) or b'').decode()[-500:]}"


def found_python() -> Path:
    """Returns the interpreter that has mediapipe; skips the test, or fails it where it must run, if there is none."""
    found = mediapipe_python()
    if isinstance(found, str):
        if os.environ.get(MEDIAPIPE_REQUIRED):
            pytest.fail(found, pytrace=False)
        pytest.skip(found)
    return found


@pytest.fixture
def python() -> Path:
    return found_python()


@pytest.mark.parametrize("grey", [False, True], ids=["rgb", "grey"])
def test_it_answers_as_we_do(tmp_path: Path, python: Path, grey: bool) -> None:
    images = as_rgb(pixels(grey, 100))
    for precision in ("fp32", "int8", "int8-full"):
        for path in app_files(plain_file(tmp_path, precision, grey), tmp_path):
            session, theirs = load(path), answers(python, path, pixels=images)
            ours = np.stack([own.logits for own in session.predict_pixels(images)])
            found = agreement(session, theirs, ours)
            assert (found.pictures, found.same) == (100, 100), path.name
            assert found.score < 1e-5
            names = [name.replace("\n", " ") for name in NAMES]
            assert [names[index] for index, _, _ in theirs] == [name for _, name, _ in theirs]


def test_it_embeds_as_we_do(tmp_path: Path, python: Path) -> None:
    source = plain_file(tmp_path, "fp32", False, plan=None, class_names=(), output_kind="vector")
    path, _ = made(source)
    images = pixels(grey=False)
    theirs = np.asarray(answers(python, path, task="embed", pixels=images))
    assert np.abs(theirs - load(path).values(list(images))).max() < 1e-5


def test_a_file_that_is_not_for_apps_is_refused(tmp_path: Path, python: Path) -> None:
    source = plain_file(tmp_path, "fp32", grey=False)
    with pytest.raises(RuntimeError, match="NormalizationOptions"):
        answers(python, source, pixels=pixels(grey=False))
