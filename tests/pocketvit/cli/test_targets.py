from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from device_bench import format
from device_bench.documents.request import BenchRequest
from device_bench.documents.results import BENCH_DOCUMENT, BenchResult
from device_bench.metrics.accuracy import read_test_images
from device_bench.targets import check, fleet
from device_bench.targets.base import Device
from device_bench.targets.check import check_devices
from device_bench.targets.emulated import Lack
from device_bench.targets.finding import Finding
from device_bench.targets.fleet import Fleet
from device_bench.targets.fleet_folder import read_failures
from device_bench.timing.stats import median_interval
from pocketvit.cli.tables.fleet import bench_tables
from pocketvit.jobs.doctor import Probe, examine
from runtime import MeasurementError
from tests.device_bench.conftest import bench_result, make_run
from tests.device_bench.fleets import emulated, failure
from tests.device_bench.report_fixtures import enrich
from tests.pocketvit.conftest import Command

INVENTORY = """
[targets.kitchen]
address = "ssh:pi@kitchen"
threads = 4
cpu_family = "pi4"
notes = "with [a] fan"
ssh_config = "config"

[targets.attic]
address = "ssh:pi@attic"
"""


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    path = tmp_path / "own.toml"
    path.write_text(INVENTORY)
    return path


@pytest.fixture(scope="module")
def rich_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tmp_path_factory.mktemp("fleet") / "digits")
    enrich(run)
    return run


@pytest.fixture(scope="module")
def benched(rich_run: Path) -> BenchResult:
    return BENCH_DOCUMENT.read(rich_run / "bench" / "cpu.json")


Asked = list[tuple[Device, BenchRequest]]


@pytest.fixture
def farm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Asked]:
    """Puts made-up devices behind every address: ``kitchen`` and the emulated answer, ``attic`` is off."""
    result = bench_result(make_run(tmp_path / "run"))

    def place(outcomes: dict[str, Any]) -> Asked:
        asked: Asked = []

        def bench_device(device: Device, request: BenchRequest, *_: Any, stop: threading.Event) -> BenchResult:
            asked.append((device, request))
            outcome = outcomes[device.address]
            if isinstance(outcome, Exception):
                raise outcome
            found: BenchResult = outcome(result)
            return replace(found, target=device.address)

        monkeypatch.setattr(fleet, "bench_device", bench_device)
        return asked

    return place


OFF = MeasurementError("It is switched off")


def same(result: BenchResult) -> BenchResult:
    return result


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "digits.onnx"
    path.write_bytes(b"a model")
    return path


def test_the_inventory_is_listed(pocketvit: Command, inventory: Path) -> None:
    shown = pocketvit("targets", "list", "--inventory", inventory)
    assert shown.code == 0, shown.err
    for text in ("kitchen", "ssh:pi@attic", "pi4", "4", "with [a] fan"):
        assert text in shown.out
    document = json.loads(pocketvit("targets", "list", "--inventory", inventory, "--json").out)
    assert document["schema"] == "pocketvit.targets"
    assert document["file"] == str(inventory)
    first, second = document["targets"]
    assert (first["name"], first["threads"], first["ssh_config"]) == ("kitchen", 4, str(inventory.parent / "config"))
    assert (second["address"], second["threads"]) == ("ssh:pi@attic", None)


def test_without_an_inventory_it_is_said_how_one_is_written(
    pocketvit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    answer = pocketvit("targets", "list")
    assert answer.code == 0
    assert "[targets.my-pi]" in answer.out
    assert json.loads(pocketvit("targets", "list", "--json").out)["targets"] == []
    missing = pocketvit("targets", "check")
    assert missing.code == 2
    assert "[targets.NAME]" in missing.err


def test_a_check_names_what_is_missing_and_its_cure(
    pocketvit: Command, inventory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(device: Device) -> tuple[Finding, ...]:
        engine = "2.1" if device.label == "kitchen" else None
        return Finding(device.label, "link", "Linux 6.1"), Finding(device.label, "LiteRT", engine, "pip install it")

    monkeypatch.setattr(check, "check_devices", partial(check_devices, check=look))
    good = pocketvit("targets", "check", "kitchen", "--inventory", inventory)
    assert (good.code, good.err) == (0, "")
    bad = pocketvit("targets", "check", "--inventory", inventory)
    assert bad.code == 1
    assert "pip install it" in bad.out
    assert "Not ready for a bench: attic." in bad.err
    document = json.loads(pocketvit("targets", "check", "kitchen,attic", "--inventory", inventory, "--json").out)
    assert [own["value"] for own in document["findings"]] == ["Linux 6.1", "2.1", "Linux 6.1", None]


def test_a_damaged_inventory_is_a_paragraph(pocketvit: Command, inventory: Path, file: Path) -> None:
    inventory.write_text(INVENTORY.replace("threads", "treads"))
    for arguments in (("targets", "list"), ("targets", "check"), ("bench", file, "--target", "kitchen")):
        answer = pocketvit(*arguments, "--inventory", inventory)
        assert answer.code == 2
        said = " ".join(answer.err.split())
        assert "[targets.kitchen]" in said
        assert "Did you mean threads?" in said
        assert "Traceback" not in said


def test_a_fleet_is_one_table_and_a_folder_of_results(
    pocketvit: Command, inventory: Path, file: Path, farm: Callable[..., Asked], tmp_path: Path
) -> None:
    asked = farm({"ssh:pi@kitchen": same, "emu:pi4": emulated, "ssh:pi@attic": OFF})
    answer = pocketvit(
        "bench", file, "--target", "kitchen,emu:pi4", "--target", "attic", "--inventory", inventory,
        "--json", tmp_path / "results", "--bootstrap",
    )  # fmt: skip
    assert answer.code == 1
    assert "Not measured: attic: It is switched off." in answer.err
    assert "kitchen" in answer.out
    assert "emu:pi4 is emulated" in answer.out
    assert "NOT MEASURED: attic: It is switched off." in answer.out
    names = sorted(str(path.relative_to(tmp_path / "results")) for path in (tmp_path / "results").rglob("*.json"))
    assert names == ["emu-pi4.json", "failed/attic.json", "kitchen.json"]
    assert BENCH_DOCUMENT.read(tmp_path / "results" / "kitchen.json").target == "kitchen"
    assert read_failures(tmp_path / "results")[0].what == "It is switched off."
    assert {device.label: device.threads for device, _ in asked} == {"kitchen": 4, "emu:pi4": None, "attic": None}
    assert all(request.bootstrap for _, request in asked)


def test_a_fleet_can_be_printed_as_one_document(
    pocketvit: Command, inventory: Path, file: Path, farm: Callable[..., Asked]
) -> None:
    farm({"ssh:pi@kitchen": same, "ssh:pi@attic": OFF})
    answer = pocketvit("bench", file, "--target", "all", "--inventory", inventory, "--json", "-")
    document = json.loads(answer.out)
    assert (document["schema"], answer.code) == ("pocketvit.fleet", 1)
    assert [own["target"] for own in document["results"]] == ["kitchen"]
    assert [own["target"] for own in document["failures"]] == ["attic"]


def test_where_nothing_could_be_measured_the_code_is_2(
    pocketvit: Command, inventory: Path, file: Path, farm: Callable[..., Asked], tmp_path: Path
) -> None:
    farm({"ssh:pi@kitchen": OFF, "ssh:pi@attic": OFF})
    kept = tmp_path / "one.json"
    alone = pocketvit("bench", file, "--target", "attic", "--inventory", inventory, "--json", kept)
    assert (alone.code, alone.out) == (2, "")
    assert "attic: It is switched off." in alone.err
    assert not kept.exists()
    both = pocketvit("bench", file, "--target", "all", "--inventory", inventory)
    assert both.code == 2
    assert "kitchen: It is switched off. attic: It is switched off." in both.err


def test_one_target_keeps_one_file_unless_a_folder_is_there(
    pocketvit: Command, inventory: Path, file: Path, farm: Callable[..., Asked], tmp_path: Path
) -> None:
    farm({"ssh:pi@kitchen": same})
    arguments = ("bench", file, "--target", "kitchen", "--inventory", inventory, "--json")
    assert pocketvit(*arguments, tmp_path / "own.json").code == 0
    assert BENCH_DOCUMENT.read(tmp_path / "own.json").target == "kitchen"
    (tmp_path / "folder").mkdir()
    assert pocketvit(*arguments, tmp_path / "folder").code == 0
    assert BENCH_DOCUMENT.read(tmp_path / "folder" / "kitchen.json").target == "kitchen"


def test_several_results_are_not_measured_for_one_file(
    pocketvit: Command, inventory: Path, file: Path, farm: Callable[..., Asked], tmp_path: Path
) -> None:
    asked = farm({})
    (tmp_path / "there").write_text("")
    for place in (tmp_path / "new.json", tmp_path / "there"):
        answer = pocketvit("bench", file, "--target", "all", "--inventory", inventory, "--json", place)
        assert answer.code == 2
        assert "a folder after --json" in answer.err
    assert asked == []


def test_a_file_that_is_not_there_is_said_once_and_not_by_every_device(
    pocketvit: Command, inventory: Path, farm: Callable[..., Asked], tmp_path: Path
) -> None:
    asked = farm({})
    answer = pocketvit("bench", tmp_path / "no.onnx", "--target", "all", "--inventory", inventory)
    assert answer.code == 2
    assert answer.err.count("does not exist") == 1
    assert asked == []


def test_this_machine_is_said_to_work_alone(
    pocketvit: Command, inventory: Path, file: Path, farm: Callable[..., Asked]
) -> None:
    asked = farm({"ssh:pi@kitchen": same, "cpu": same})
    answer = pocketvit("bench", file, "--target", "kitchen,cpu", "--inventory", inventory)
    assert answer.code == 0, answer.err
    assert [device.label for device, _ in asked] == ["cpu", "kitchen"]
    assert "First cpu alone" in answer.err


def test_accuracy_answers_so_many_images_of_every_class(pocketvit: Command, tiny_run: Path, tmp_path: Path) -> None:
    images, kept = tiny_run / "bench" / "test-images.npz", tmp_path / "b.json"
    file = tiny_run / "artifacts" / "tiny.onnx"
    arguments = ("bench", file, "--samples", 3, "--throughput", 0, "--json", kept)
    answer = pocketvit(*arguments, "--images", images, "--accuracy", 30)
    assert answer.code == 0, answer.err
    accuracy = BENCH_DOCUMENT.read(kept).files[0].accuracy
    assert accuracy is not None
    assert [sum(row) for row in accuracy.confusion] == [3] * 10
    there = len(read_test_images(images).labels)
    refused = pocketvit(*arguments, "--images", images, "--accuracy", there + 1)
    assert refused.code == 2
    assert f"1 to {there}" in refused.err
    alone = pocketvit(*arguments, "--accuracy", 30)
    assert alone.code == 2
    assert "--images" in alone.err


def test_a_folder_in_a_run_makes_columns_of_its_report(
    pocketvit: Command, farm: Callable[..., Asked], file: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    farm({"ssh:a": same, "emu:pi4": emulated, "ssh:b": OFF})
    shutil.copy(run / "artifacts" / "digits.onnx", file)
    assert pocketvit("bench", file, "--target", "ssh:a,emu:pi4,ssh:b", "--json", run / "bench").code == 1
    shown = pocketvit("report", run)
    assert shown.code == 0, shown.err
    assert "on emu:pi4" in shown.out
    text = (run / "report.md").read_text()
    assert "| File | cpu | ssh:a | emu:pi4 (emulated: no time) |" in text
    assert "| every file | ssh:b | It is switched off." in text


def printed(fleet: Fleet, width: int) -> str:
    console = Console(width=width, highlight=False, color_system=None)
    with console.capture() as capture:
        console.print(bench_tables(fleet))
    return capture.get()


@pytest.mark.parametrize("width", [60, 80, 120, 400])
def test_no_figure_of_a_fleet_is_broken_at_any_width(benched: BenchResult, width: int) -> None:
    fleet = Fleet((replace(benched, target="kitchen"), emulated(benched, "emu:pi4"), benched), (failure("attic"),))
    text = printed(fleet, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for figure in (" kitchen ", " emu:pi4 ", "instructions", "6.00 G", "60.0 %", "900 M", "is of 500 images"):
        assert figure in text
    for file in benched.files:
        assert file.accuracy
        assert file.latency
        value, _, interval = format.seconds_interval(median_interval(file.latency.values)).partition(" [")
        assert text.count(value) == text.count(f"[{interval}") == 2
        assert text.count(format.percent(file.accuracy.top1)) >= 3
    assert "NOT MEASURED: attic: it is switched off" in text
    assert "no kernel for" in " ".join(text.split())
    assert "emu:pi4 is emulated: no time" in text


def test_a_targets_columns_stay_together_where_they_fit(benched: BenchResult) -> None:
    names = ("kitchen", "attic", "cellar")
    fleet = Fleet(tuple(replace(benched, target=name) for name in names))
    heads = [line for line in printed(fleet, 80).splitlines() if line.startswith("┃") and any(n in line for n in names)]
    assert [[name in line for name in names] for line in heads] == [
        [True, False, False],
        [False, True, False],
        [False, False, True],
    ]
    assert printed(fleet, 80).count("┏") == 3
    assert printed(fleet, 400).count("┏") == 1


def doubtful(result: BenchResult) -> BenchResult:
    return replace(result, files=tuple(replace(own, metrics={"answers": "not checked"}) for own in result.files))


def test_unchecked_answers_are_a_column_of_every_table_and_of_the_report(
    benched: BenchResult, pocketvit: Command, farm: Callable[..., Asked], file: Path, tmp_path: Path
) -> None:
    gpu = replace(doubtful(benched), target="pixel:gpu")
    alone, beside = printed(Fleet((gpu,)), 400), printed(Fleet((benched, gpu)), 400)
    assert alone.count("not checked") == beside.count("not checked") == len(benched.files)
    assert "Answers" not in printed(Fleet((benched,)), 400)
    run = tmp_path / "run"
    farm({"ssh:a": doubtful})
    shutil.copy(run / "artifacts" / "digits.onnx", file)
    assert pocketvit("bench", file, "--target", "ssh:a", "--json", run / "bench").code == 0
    assert pocketvit("report", run).code == 0
    assert "not checked" in (run / "report.md").read_text()


def test_an_emulated_target_alone_shows_counts_and_no_column_of_times(benched: BenchResult) -> None:
    text = printed(Fleet((emulated(benched),)), 160)
    for heading in ("instructions", "SIMD", "dot products", "top-1"):
        assert heading in text
    for heading in ("median", "memory", "energy", "load"):
        assert heading not in text


@pytest.mark.parametrize(
    ("lacks", "names", "value"),
    [
        ((), ["emulated boards"], "can run here: --target emu:pi4 or emu:pi5"),
        ((Lack("gcc", "sudo apt install gcc"),), ["emulated boards: gcc"], None),
    ],
)
def test_the_doctor_knows_whether_emulated_boards_can_run(
    tmp_path: Path, lacks: Sequence[Lack], names: list[str], value: str | None
) -> None:
    def nothing(module: str) -> Any:
        raise ImportError(module)

    probe = Probe(tmp_path, lambda _: None, lambda _: None, nothing, lambda _: None, boards=lambda: lacks)
    found = [own for own in examine(probe) if own.name.startswith("emulated boards")]
    assert [own.name for own in found] == names
    assert [(own.value, own.fix) for own in found] == [(value, lacks[0].fix if lacks else None)]
