"""Output that cannot be written, or not as it is: other encodings, closed streams, a full disk, no memory."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pocketvit import output
from pocketvit.cli.streams import prepare_streams
from pocketvit.failures import system_refusal
from tests.pocketvit.conftest import command, environment


def in_shell(line: str, *arguments: object, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Runs ``line`` with the command line of ``pocketvit ARGUMENTS`` for ``$@``."""
    argv = ["sh", "-c", line, "sh", *command(*arguments)]
    return subprocess.run(argv, env={**environment(), **variables}, capture_output=True, timeout=120, check=False)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_help_and_tables_are_printed_in_any_encoding(encoding: str) -> None:
    done = in_shell('"$@"', "run", "--help", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr
    assert "--crop-pct" in done.stdout.decode(encoding)


@pytest.mark.parametrize(
    "line", ['"$@" >&-', '"$@" 2>&- >/dev/null', '"$@" >&- 2>&- </dev/null', '"$@" <&- >/dev/null']
)
def test_closed_streams_do_not_matter(line: str) -> None:
    done = in_shell(line, *("doctor",) if line.endswith(">&-") else ("run", "--help"))
    assert (done.returncode, done.stderr) == (0, b""), done.stderr


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_output_that_cannot_be_written_is_an_error(options: tuple[str, ...]) -> None:
    done = in_shell('"$@" >/dev/full', *("doctor", "--json") if options else ("run", "--help"))
    assert done.returncode == 2
    assert done.stderr.decode().startswith("error: The system refuses to read or write: No space left on device.")
    assert done.stderr.count(b"\n") == 1


def test_too_little_memory_is_said_in_one_line() -> None:
    done = in_shell('ulimit -v 1500000; "$@"', "compress", "--runs", "/nowhere")
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1), done.stderr
    assert b"There is not enough memory" in done.stderr


def test_json_loses_nothing_that_an_encoding_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii", errors="replace"))
    output.print_json("pocketvit.test", {"name": "bild-ü µs"})
    sys.stdout.flush()
    assert json.loads(written.getvalue())["name"] == "bild-ü µs"


def test_characters_that_an_encoding_lacks_are_written_in_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    prepare_streams()
    sys.stdout.write("1.09× in 12 µs ± 3, ü")  # noqa: RUF001
    sys.stdout.flush()
    assert written.getvalue() == b"1.09x in 12 us +- 3, ?"


@pytest.mark.slow
def test_a_path_with_any_character_works_under_the_plain_locale(tiny_run: Path, tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "dät Å"
    folder.mkdir()
    for file in (tiny_run / "artifacts").glob("tiny.fp32.tflite*"):
        (folder / file.name).write_bytes(file.read_bytes())
    Image.new("L", (32, 32), 90).save(folder / "bild-ü.png")
    done = in_shell('"$@"', "predict", folder / "tiny.fp32.tflite", folder / "bild-ü.png", "--json", LC_ALL="C")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["predictions"][0]["image"].endswith("bild-ü.png")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (MemoryError(), "not enough memory: MemoryError"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "not enough memory: libtorch_cpu"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 GB"),
            "not enough memory",
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "not enough memory"),
        (RuntimeError("can't start new thread"), "not enough memory"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x/y"), r"refuses to read or write \(/x/y\): No space left"),
    ],
)
def test_what_the_system_refuses_is_said(error: Exception, text: str) -> None:
    said = system_refusal(error)
    assert said is not None
    assert re.search(text, said), said


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ImportError("no module x"), ValueError("x")])
def test_a_fault_of_our_own_keeps_its_traceback(error: Exception) -> None:
    assert system_refusal(error) is None
