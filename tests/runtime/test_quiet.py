from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import pytest

from runtime import quiet


def test_nothing_gets_out_whoever_writes_it(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet():
        sys.stdout.write("python out")
        sys.stderr.write("python err")
        os.write(1, b"native out")
        os.write(2, b"native err")
        warnings.warn("noise", stacklevel=1)
    sys.stdout.write("after")
    os.write(2, b"after too")
    out, err = capfd.readouterr()
    assert (out, err) == ("after", "after too")


def test_what_was_written_comes_with_the_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="broken") as caught:
        fail_quietly()
    (note,) = caught.value.__notes__
    assert note.endswith("the reason; the native reason")
    assert len(note) <= 1500
    assert capfd.readouterr() == ("", "")


@quiet()
def fail_quietly() -> None:
    sys.stdout.write("x" * 3000 + "the reason")
    sys.stdout.flush()
    os.write(2, b"; the native reason")
    raise ValueError("broken")


def test_descriptors_are_given_back() -> None:
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0
    for _ in range(20):
        with quiet():
            pass
    after = len(list(Path("/proc/self/fd").iterdir())) if before else 0
    assert after == before
