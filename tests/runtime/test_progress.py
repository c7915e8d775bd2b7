from __future__ import annotations

import pytest

from runtime import Progress, if_long, silent


def test_silent_is_a_progress_that_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    listener: Progress = silent
    listener("train", 1, 2)
    listener("train", 2, 2, "done")
    assert capsys.readouterr() == ("", "")


def test_short_work_is_not_told_of_and_long_work_to_its_end() -> None:
    said: list[tuple[object, ...]] = []
    times = iter([0.0, 0.5, 1.0])
    short = if_long(lambda *told: said.append(told), clock=lambda: next(times))
    short("look", 1, 3)
    short("look", 2, 3)
    short("look", 3, 3, "done")
    assert said == []
    later = iter([0.0, 1.9, 2.1])
    long = if_long(lambda *told: said.append(told), clock=lambda: next(later))
    for done in (1, 2, 3, 4):
        long("look", done, 4)
    assert said == [("look", 2, 4, ""), ("look", 3, 4, ""), ("look", 4, 4, "")]
