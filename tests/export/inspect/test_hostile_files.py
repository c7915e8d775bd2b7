"""Damaged and hostile files: a clear error or a sound answer, and never the end of the process."""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from export.inspect import inspection
from export.inspect import sandbox as sandbox_module
from export.inspect.check_file import verify_file
from export.inspect.inspection import inspect_file
from export.inspect.sandbox import Sandbox
from runtime import ArtifactError, manifest_path
from tests.export.small import LEAST, small_file

pytestmark = pytest.mark.slow

SILENCE_S = 10.0
MUTANTS = {"tflite": 300, "onnx": 200}


def flip_bits(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice([1, 2, 8, 32])):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def truncate(data: bytearray, chance: random.Random) -> None:
    del data[chance.choice([chance.randrange(len(data)), chance.randrange(100), len(data) - 1]) :]


def replace_run(data: bytearray, chance: random.Random) -> None:
    start, length = chance.randrange(len(data)), chance.choice([1, 4, 16, 64, 512])
    fill = chance.choice([b"\x00", b"\xff", None])
    run = data[start : start + length]
    data[start : start + length] = chance.randbytes(len(run)) if fill is None else fill * len(run)


def blow_up_length(data: bytearray, chance: random.Random) -> None:
    """Small numbers of four bytes, and of one (ONNX's lengths), become huge ones."""
    huge = chance.choice(
        [b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x40", b"\xff\xff\xff\xff\x0f", b"\xfe"]
    )
    small = [i for i in range(0, len(data) - 8, 4) if 0 < int.from_bytes(data[i : i + 4], "little") < 4096]
    for _ in range(chance.choice([1, 1, 3])):
        place = chance.choice(small) if small and chance.random() < 0.8 else chance.randrange(len(data) - 8)
        data[place : place + len(huge)] = huge


MUTATIONS: list[Callable[[bytearray, random.Random], None]] = [flip_bits, truncate, replace_run, blow_up_length]


@pytest.fixture(scope="module", params=sorted(MUTANTS))
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_file(tmp_path_factory.mktemp("hostile") / f"model.{request.param}", LEAST)


TRICKS = """
import os, signal, time
from export.inspect import sandbox_child
sandbox_child._JOBS.update(
    die=lambda path, reporter: os.kill(os.getpid(), signal.SIGSEGV),
    sleep=lambda path, reporter: time.sleep(60),
    flood=lambda path, reporter: len(bytearray(2**36)),
    fail=lambda path, reporter: {}["no such tensor"],
)
raise SystemExit(sandbox_child.main())
"""


@pytest.fixture
def tricks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives the child process jobs that do what hostile files may do to it."""
    monkeypatch.setattr(sandbox_module, "_COMMAND", (sys.executable, "-P", "-c", TRICKS))


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(SILENCE_S) as sandbox:
        yield sandbox


def mutants(original: Path) -> Iterator[bytes]:
    whole = original.read_bytes()
    for seed in range(MUTANTS[original.suffix[1:]]):
        chance, data = random.Random(seed), bytearray(whole)
        MUTATIONS[seed % len(MUTATIONS)](data, chance)
        yield bytes(data)


def outcome(path: Path, sandbox: Sandbox) -> str:
    """Returns how inspecting a file ended; any end but an answer or a clear error is raised."""
    try:
        inspect_file(path, sandbox=sandbox)
    except ArtifactError as error:
        if path.name not in str(error):
            raise
        return "crashed" if "crashed" in str(error) else "refused"
    return "inspected"


def test_no_mutant_ends_the_process(
    original: Path, tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "TIME_BUDGET_S", 0.0)
    outcomes: Counter[str] = Counter()
    path = tmp_path / original.name
    manifest_path(path).write_bytes(manifest_path(original).read_bytes())
    assert verify_file(original, images=1, sandbox=sandbox).passed
    for data in mutants(original):
        path.write_bytes(data)
        begin = time.monotonic()
        outcomes[outcome(path, sandbox)] += 1
        assert time.monotonic() - begin < 3 * SILENCE_S
        checked = verify_file(path, images=1, sandbox=sandbox)
        # a mutation may have changed nothing, or bytes that nothing reads: the hash knows
        assert checked.passed == (data == original.read_bytes())
    assert outcomes["refused"] > 50, outcomes
    assert outcomes["inspected"] > 10, outcomes
    # and the process still does what it should
    assert inspect_file(original, time=False, sandbox=sandbox).contents.ops


@pytest.mark.parametrize("name", ["x.tflite", "x.onnx"])
@pytest.mark.parametrize("data", [b"", b"\x00", b"TFL3" * 100, b"\x1c\x00\x00\x00TFL3", b"\xff" * 1000, b"<html>" * 99])
def test_what_is_no_model_is_refused_by_name(tmp_path: Path, sandbox: Sandbox, name: str, data: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=name):
        inspect_file(path, sandbox=sandbox)


@pytest.mark.usefixtures("tricks")
def test_a_crash_is_an_error_and_the_next_job_has_a_new_process(tmp_path: Path) -> None:
    file = small_file(tmp_path / "m.tflite", LEAST)
    with Sandbox(SILENCE_S) as sandbox:
        assert sandbox.run("contents", file)["ops"]
        with pytest.raises(ArtifactError, match=r"crashed while reading .*m\.tflite.*signal SIG"):
            sandbox.run("die", file)
        assert sandbox.run("contents", file)["ops"]


@pytest.mark.usefixtures("tricks")
def test_silence_is_ended(tmp_path: Path) -> None:
    file = small_file(tmp_path / "m.tflite", LEAST)
    with Sandbox(1.0) as sandbox, pytest.raises(ArtifactError, match="hung while reading"):
        sandbox.run("sleep", file)


@pytest.mark.usefixtures("tricks")
def test_a_flood_of_memory_is_refused(tmp_path: Path) -> None:
    file = small_file(tmp_path / "m.tflite", LEAST)
    with Sandbox(SILENCE_S) as sandbox, pytest.raises(ArtifactError, match="more memory"):
        sandbox.run("flood", file)


@pytest.mark.usefixtures("tricks")
def test_an_exception_of_a_parser_names_the_file(tmp_path: Path) -> None:
    file = small_file(tmp_path / "m.tflite", LEAST)
    with Sandbox(SILENCE_S) as sandbox, pytest.raises(ArtifactError, match=r"m\.tflite is damaged.*no such tensor"):
        sandbox.run("fail", file)


def test_a_manifest_that_is_damaged_is_a_reason_to_inspect_and_an_error_to_verify(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    file = small_file(tmp_path / "m.tflite", LEAST)
    manifest_path(file).write_text(json.dumps({"schema": "pocketvit.artifact", "schema_version": 1}))
    found = inspect_file(file, time=False, sandbox=sandbox)
    assert found.widths is None
    assert found.widths_reason is not None
    assert "lacks the field" in found.widths_reason
    with pytest.raises(ArtifactError, match="lacks the field"):
        verify_file(file, sandbox=sandbox)
