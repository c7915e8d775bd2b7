from __future__ import annotations

import pytest

from runtime import Progress, silent


def test_silent_is_a_progress_that_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    listener: Progress = silent
    listener("train", 1, 2)
    listener("train", 2, 2, "done")
    assert capsys.readouterr() == ("", "")
