"""The whole way to devices: real ssh to two emulated boards and real adb to a third, from the command line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_bench.documents.results import BENCH_DOCUMENT, BenchResult
from device_bench.metrics.accuracy import read_test_images, write_test_images
from device_bench.metrics.chosen_images import choose_images
from device_bench.targets.bench import bench
from device_bench.targets.emulated import Boards, emulated_board
from tests.boards.adb import Phone
from tests.boards.sshd import ssh_server
from tests.boards.tools import Tools
from tests.pocketvit.conftest import Command

pytestmark = pytest.mark.boards

IMAGES = 200
KINDS = ("fp32.tflite", "int8.tflite", "int8-full.tflite", "onnx")


@pytest.fixture
def inventory(
    boards: Boards, board_tools: Tools, adb_phone: Phone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A Raspberry Pi 4 and a 5 that ssh reaches, and what adb takes for a phone."""
    monkeypatch.setenv("PATH", f"{adb_phone.adb.parent}{os.pathsep}{os.environ['PATH']}")
    layers = (board_tools.ssh_layer,)
    with (
        emulated_board("pi4", boards=boards, layers=layers) as four,
        emulated_board("pi5", boards=boards, layers=layers) as five,
        ssh_server(four, board_tools, tmp_path / "four", "four") as pi4,
        ssh_server(five, board_tools, tmp_path / "five", "five") as pi5,
    ):
        path = tmp_path / "targets.toml"
        path.write_text(
            f'[targets.pi4]\naddress = "ssh:four"\nssh_config = "{pi4.config}"\n'
            f'[targets.pi5]\naddress = "ssh:five"\nssh_config = "{pi5.config}"\n'
            f'[targets.phone]\naddress = "adb:{adb_phone.serial}"\n'
        )
        yield path


@pytest.fixture
def here(tiny_run: Path, tmp_path: Path) -> BenchResult:
    """The same files and images on this machine."""
    images = choose_images(read_test_images(tiny_run / "bench" / "test-images.npz"), IMAGES)
    write_test_images(tmp_path / "images.npz", images)
    return bench(files_of(tiny_run), images=tmp_path / "images.npz", startup=False, peaks=False)


def files_of(run: Path) -> list[Path]:
    return [run / "artifacts" / f"tiny.{kind}" for kind in KINDS]


def test_every_kind_of_file_answers_on_every_board_as_it_does_here(
    tiny_run: Path, inventory: Path, here: BenchResult, pocketvit: Command, tmp_path: Path
) -> None:
    images = tiny_run / "bench" / "test-images.npz"
    found = pocketvit(
        *("bench", *files_of(tiny_run), "--target", "all", "--inventory", inventory),
        *("--images", images, "--accuracy", IMAGES, "--json", tmp_path / "bench"),
    )
    assert found.code == 0, found.err
    assert sorted(path.name for path in (tmp_path / "bench").iterdir()) == ["phone.json", "pi4.json", "pi5.json"]
    for name in ("pi4", "pi5", "phone"):
        there = BENCH_DOCUMENT.read(tmp_path / "bench" / f"{name}.json")
        assert (there.target, there.emulated, there.failures) == (name, True, ())
        assert [one.file for one in there.files] == [file.name for file in files_of(tiny_run)]
        for one in there.files:
            own = here.of(one.file)
            assert own is not None
            assert own.accuracy is not None
            assert one.accuracy is not None
            assert one.accuracy.images == IMAGES
            agreement = one.accuracy.agreement(own.accuracy)
            assert agreement is not None
            if one.precision == "fp32":
                assert one.accuracy.answers == own.accuracy.answers, (name, one.file)
            else:
                assert agreement >= 0.99, (name, one.file)
    assert "emulated: no time" in found.out + found.err


def test_a_check_of_all_finds_nothing_missing(inventory: Path, pocketvit: Command) -> None:
    found = pocketvit("targets", "check", "--inventory", inventory)
    assert found.code == 0, found.out + found.err
    for name in ("pi4", "pi5", "phone"):
        assert name in found.out


def test_a_missing_engine_is_found_by_a_check(
    boards: Boards, board_tools: Tools, tmp_path: Path, pocketvit: Command
) -> None:
    with (
        emulated_board("pi4", boards=boards, layers=(board_tools.ssh_layer,), engines=False) as board,
        ssh_server(board, board_tools, tmp_path / "bare", "bare") as server,
    ):
        path = tmp_path / "targets.toml"
        path.write_text(f'[targets.bare]\naddress = "ssh:bare"\nssh_config = "{server.config}"\n')
        found = pocketvit("targets", "check", "--inventory", path, "--json")
    assert found.code == 1
    assert "pip install ai-edge-litert" in found.out
    assert "bare" in found.err


def test_the_gate_counts_instructions_in_place_of_time(tiny_run: Path, pocketvit: Command, tmp_path: Path) -> None:
    base, larger = (tiny_run / "artifacts" / f"{name}.fp32.tflite" for name in ("tiny", "baseline"))
    same = pocketvit("gate", base, base, "--target", "emu:pi4")
    assert same.code == 0, same.err
    assert "SIMD instructions" in same.out
    assert "latency" not in same.out
    stored = tmp_path / "facts.json"
    assert pocketvit("gate", base, "--baseline", stored, "--update-baseline", "--target", "emu:pi4").code == 0
    larger_one = tmp_path / "tiny.fp32.tflite"
    larger_one.write_bytes(larger.read_bytes())
    worse = pocketvit("gate", larger_one, "--baseline", stored, "--target", "emu:pi4")
    assert worse.code == 1
    assert "SIMD instructions" in worse.err
    other = pocketvit("gate", base, "--baseline", stored, "--target", "emu:pi5")
    assert other.code == 2
    assert "not of the same core" in other.err


@pytest.mark.parametrize("target", ["emu:pi9", "cpu", "ssh:pi@board"])
def test_a_gate_refuses_other_targets(tiny_run: Path, pocketvit: Command, target: str) -> None:
    file = tiny_run / "artifacts" / "tiny.fp32.tflite"
    found = pocketvit("gate", file, file, "--target", target)
    assert found.code == 2
    assert "emu:pi4, emu:pi5, or no --target" in found.err
