from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from device_bench.documents.measurement import Sampling
from device_bench.documents.request import BenchRequest
from device_bench.documents.results import BENCH_DOCUMENT, BenchResult
from device_bench.targets.android.adb import adb_link, bench_over_adb, check_adb
from device_bench.targets.android.client import AdbRunner, Done
from device_bench.targets.android.fuel_gauge import READ
from device_bench.targets.base import Backend, Device
from runtime import ArtifactError, GpuParity, MeasurementError, UnsupportedTargetError, write_artifact
from tests.runtime.examples import FLOAT_IN, FLOAT_OUT, tiny_artifact

from .phone import FOLDER, SERIAL, XNNPACK, Phone, benchmark_text, recorded, well

NINE = Sampling.exactly(9)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "tools" / "benchmark_model"
    path.parent.mkdir()
    path.write_bytes(b"\x7fELF, or so")
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / name for name in ("a.tflite", "b.tflite")]
    for path in paths:
        path.write_bytes(path.name.encode() * 100)
    return paths


def bench(phone: Phone, program: Path | None, files: list[Path], **more: Any) -> tuple[BenchResult, ...]:
    named = {name: more.pop(name) for name in ("backends", "name", "benchmark_model_sha256") if name in more}
    device = Device(more.pop("address", "adb:"), benchmark_model=program, **named)
    told = more.pop("progress", lambda stage, done, total, note="": None)
    request = BenchRequest(tuple(files), **{"target": "adb:", "sampling": NINE, "threads": 2, **more})
    return bench_over_adb(device, request, told, runner=phone, clock=phone.clock, sleep=phone.sleep)


def one(phone: Phone, program: Path | None, files: list[Path], **more: Any) -> BenchResult:
    (result,) = bench(phone, program, files, **more)
    return result


def test_two_files_are_measured_and_every_run_is_kept(program: Path, files: list[Path], tmp_path: Path) -> None:
    phone, stages = Phone(), list[str]()
    result = one(phone, program, files, progress=lambda stage, done, total, note="": stages.append(stage))
    assert [own.file for own in result.files] == ["a.tflite", "b.tflite"]
    assert result.failures == ()
    for own, path in zip(result.files, files, strict=True):
        latency = own.latency
        assert latency is not None
        assert latency.values == pytest.approx((0.02, 0.02001, 0.02002) * 3)
        assert latency.warmup_values == pytest.approx((0.03, 0.02) * 3)
        assert latency.steady
        assert own.startup is not None
        assert own.startup.load_s == pytest.approx((0.06,) * 3)
        assert own.startup.first_run_s == pytest.approx((0.03,) * 3)
        assert own.memory.peak_rss_bytes == 60 * 2**20
        assert own.memory.rss_before_bytes == 10 * 2**20
        assert own.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert own.threads == 2
        assert own.engine == "LiteRT benchmark_model, XNNPACK"
        assert own.engine_version == f"sha256 {hashlib.sha256(program.read_bytes()).hexdigest()[:12]}"
        assert own.energy is None
        assert own.notes == ()
    assert result.target == "adb:"
    assert result.before.board == "Example Phone 7 [test]"
    assert any(note.startswith("Before: thermal status 0 (none), battery 81%") for note in result.notes)
    assert {"send", "measure", "memory"} <= set(stages)
    BENCH_DOCUMENT.write(tmp_path / "r.json", result)
    assert BENCH_DOCUMENT.read(tmp_path / "r.json") == result
    assert phone.folders == set()


def test_files_take_turns(program: Path, files: list[Path]) -> None:
    phone = Phone()
    one(phone, program, files, sampling=Sampling.exactly(30))
    ran = [line.split("--graph=")[1].split()[0] for line in phone.lines if "exec ./benchmark_model" in line][:20]
    rounds = [ran[i : i + 2] for i in range(0, 20, 2)]
    assert all(sorted(turn) == ["model-0.tflite", "model-1.tflite"] for turn in rounds)
    assert len({tuple(turn) for turn in rounds}) == 2  # not always the same one first


def test_the_budget_ends_the_rounds(program: Path, files: list[Path]) -> None:
    sampling = Sampling(min_samples=3, max_samples=1000, seconds=1.0)
    latency = one(Phone(), program, files, sampling=sampling).files[0].latency
    assert latency is not None
    # 0.1 s a process, so ten rounds of both in the two seconds there are
    assert len(latency.values) == 30
    short = one(Phone(), program, files, sampling=Sampling.exactly(4)).files[0].latency
    assert short is not None
    assert len(short.values) == 4


def test_each_backend_has_a_result_and_says_where_it_fell_back(program: Path, files: list[Path]) -> None:
    texts = {"use_xnnpack": "cpu", "use_gpu": "gpu_part", "use_nnapi": "npu_idle"}

    def ran(phone: Phone, flags: dict[str, str]) -> Done:
        name = next(name for flag, name in texts.items() if flag in flags)
        return Done(0, recorded(f"benchmark_{name}.txt"), "")

    phone = Phone(programs={"model-0.tflite": ran})
    backends: tuple[Backend, ...] = ("cpu", "gpu", "npu")
    results = bench(phone, program, files[:1], backends=backends, name="pixel")
    assert [result.target for result in results] == ["pixel:cpu", "pixel:gpu", "pixel:npu"]
    cpu, gpu, npu = (result.files[0] for result in results)
    assert [own.engine.rpartition(" ")[2] for own in (cpu, gpu, npu)] == ["XNNPACK", "GPU", "NNAPI"]
    assert "XNNPACK runs 204 of 231 operations" in cpu.notes[0]
    assert gpu.notes[0].startswith("ONLY PARTLY ON THE GPU")
    assert npu.notes[0].startswith("NOT ON THE NPU")
    assert cpu.metrics == {}
    assert gpu.metrics == npu.metrics == {"answers": "not checked"}
    assert not any("ANSWERS" in note for note in cpu.notes)
    assert any(note.startswith("THE ANSWERS ON THE GPU WERE NOT CHECKED: benchmark_model") for note in gpu.notes)
    assert any(note.startswith("THE ANSWERS ON THE NPU WERE NOT CHECKED: benchmark_model") for note in npu.notes)
    assert cpu.latency is not None
    assert median(cpu.latency.values) == pytest.approx(0.019203)
    assert npu.memory.peak_rss_bytes is None
    assert npu.memory.reason is not None


def test_times_of_a_file_that_is_wrong_on_gpus_are_marked(program: Path, files: list[Path]) -> None:
    known = tiny_artifact(files[0], FLOAT_IN, FLOAT_OUT)
    wrong = GpuParity(driver="a", wrong="Its cosine is 0.8.")
    write_artifact(files[0], replace(known, parity=replace(known.parity, gpu=wrong)))
    phone = Phone(programs={"model-0.tflite": lambda phone, flags: Done(0, recorded("benchmark_gpu_part.txt"), "")})
    (result,) = bench(phone, program, files[:1], backends=("gpu",))
    assert any(note.startswith("WRONG ON GPUs") and "0.8" in note for note in result.files[0].notes)
    cpu = one(Phone(), program, files[:1]).files[0]
    assert not any("WRONG" in note for note in cpu.notes)


def crash(phone: Phone, flags: dict[str, str]) -> Done:
    return Done(139, "INFO: STARTING!\nINFO: Loaded model model-0.tflite", "Segmentation fault ")


def hang(phone: Phone, flags: dict[str, str]) -> Done:
    return Done(999, "", "")


def refuse(phone: Phone, flags: dict[str, str]) -> Done:
    return Done(1, recorded("benchmark_no_file.txt").replace("model-0.tflite", flags["graph"]), "")


def garble(phone: Phone, flags: dict[str, str]) -> Done:
    return Done(0, recorded("benchmark_cpu.txt")[:1000], "")


def deny(phone: Phone, flags: dict[str, str]) -> Done:
    return Done(126, "", "/system/bin/sh: ./benchmark_model: not executable: 64-bit ELF file")


@pytest.mark.parametrize(
    ("program_of_a", "why"),
    [
        (crash, "ended with signal SIGSEGV.*Segmentation fault"),
        (hang, "gave no result within 7 s"),
        (refuse, r"ended with status 1.*Could not open 'a\.tflite'"),
        (garble, "not whole"),
    ],
)
def test_a_file_that_fails_costs_its_own_row(program_of_a: Any, why: str, program: Path, files: list[Path]) -> None:
    phone = Phone(programs={"model-0.tflite": program_of_a})
    result = one(phone, program, files, timeout_s=7.0)
    (failure,) = result.failures
    assert failure.file == "a.tflite"
    assert re.search(why, failure.what)
    assert [own.file for own in result.files] == ["b.tflite"]
    latency = result.files[0].latency
    assert latency is not None
    assert len(latency.values) == 9


def test_a_file_that_hangs_is_ended_on_the_phone(program: Path, files: list[Path]) -> None:
    phone = Phone(programs={"model-0.tflite": hang})
    one(phone, program, files)
    assert any(f"end_all {FOLDER}" in line for line in phone.lines)


def test_a_file_that_fails_late_has_no_row(program: Path, files: list[Path]) -> None:
    turns = iter([well, well, crash])
    phone = Phone(programs={"model-0.tflite": lambda phone, flags: next(turns)(phone, flags)})
    result = one(phone, program, files)
    assert [failure.file for failure in result.failures] == ["a.tflite"]
    assert [own.file for own in result.files] == ["b.tflite"]


def test_files_of_other_kinds_are_said_and_not_sent(program: Path, files: list[Path], tmp_path: Path) -> None:
    onnx = tmp_path / "c.onnx"
    onnx.write_bytes(b"c")
    result = one(Phone(), program, [onnx, files[0]])
    (failure,) = result.failures
    assert failure.file == "c.onnx"
    assert "needs a Python on the phone" in failure.what
    only = one(Phone(), program, [onnx])
    assert only.files == ()
    with pytest.raises(ArtifactError, match="does not exist"):
        one(Phone(), program, [tmp_path / "none.tflite"])


def test_a_damaged_file_is_found_by_its_manifest(program: Path, files: list[Path]) -> None:
    Path(f"{files[0]}.json").write_text("{", encoding="utf-8")
    result = one(Phone(), program, files)
    assert [failure.file for failure in result.failures] == ["a.tflite"]
    assert [own.file for own in result.files] == ["b.tflite"]


def test_a_phone_that_cannot_run_the_program_is_said_once(program: Path, files: list[Path]) -> None:
    phone = Phone(programs={"model-0.tflite": deny, "model-1.tflite": deny})
    with pytest.raises(UnsupportedTargetError, match=r"cannot run this benchmark_model.*64-bit ELF.*abi says which"):
        one(phone, program, files)
    assert phone.folders == set()


def test_a_phone_that_goes_is_said(program: Path, files: list[Path]) -> None:
    def cut(phone: Phone, flags: dict[str, str]) -> Done:
        phone.cut = True
        return Done(1, "", "")

    phone = Phone(programs={"model-0.tflite": cut, "model-1.tflite": cut})
    with pytest.raises(MeasurementError, match=r"link to adb: was cut"):
        one(phone, program, files)
    assert phone.folders == set()
    phone = Phone(programs={"model-0.tflite": cut})
    with pytest.raises(MeasurementError, match=r"link to adb: was cut|not connected to adb"):
        one(phone, program, files)


def test_no_space_is_the_rows_of_files_and_the_end_for_the_program(program: Path, files: list[Path]) -> None:
    full = Done(1, "", "adb: error: failed to copy 'x' to 'y': remote couldn't write file: No space left on device")

    def push(local: str, remote: str) -> Done:
        return full if remote.endswith("model-0.tflite") else Done(0, "", "")

    result = one(Phone(push=push), program, files)
    (failure,) = result.failures
    assert failure.file == "a.tflite"
    assert "No space left on device" in failure.what
    with pytest.raises(UnsupportedTargetError, match=r"cannot be sent.*No space left"):
        one(Phone(push=lambda local, remote: full), program, files)


def test_a_folder_that_may_have_stayed_is_said(program: Path, files: list[Path]) -> None:
    assert any(FOLDER in note for note in one(Phone(forgetful=True), program, files).notes)
    assert not any(FOLDER in note for note in one(Phone(), program, files).notes)


def test_a_phone_without_room_for_a_folder_is_said(program: Path, files: list[Path]) -> None:
    with pytest.raises(MeasurementError, match="cannot make a folder"):
        one(Phone(greeting=f"mkdir: '{FOLDER}': Permission denied"), program, files)
    with pytest.raises(MeasurementError, match="no answer"):
        one(Phone(greeting=None), program, files)
    with pytest.raises(MeasurementError, match="not ready for adb"):
        one(Phone(greeting="error: device offline"), program, files)
    with pytest.raises(MeasurementError, match="cannot make a folder"):
        one(Phone(greeting="ready /data/local/tmp/../../system"), program, files)


HOSTILE = [
    "$(touch pwned).tflite",
    "`touch pwned`.tflite",
    "a b; touch pwned #.tflite",
    "-rf.tflite",
    "--help.tflite",
    "'quote\".tflite",
    "new\nline && touch pwned.tflite",
    "${IFS}|tee pwned&.tflite",
    "*?[a].tflite",
    "tab\tand~!.tflite",
    "ünï 漢字 🙂.tflite",
    "%s%n&&$PATH.tflite",
]


def test_hostile_names_reach_no_shell_and_come_back_as_they_were(program: Path, tmp_path: Path) -> None:
    files = [tmp_path / name for name in HOSTILE]
    for file in files:
        file.write_bytes(b"x")
    phone = Phone(programs={"model-3.tflite": refuse})
    result = one(phone, program, files)
    assert {own.file for own in result.files} | {failure.file for failure in result.failures} == set(HOSTILE)
    assert "Could not open '-rf.tflite'" in result.failures[0].what
    assert phone.pushed[f"{FOLDER}/model-0.tflite"] == str(files[0].resolve())
    assert set(phone.pushed) == {f"{FOLDER}/benchmark_model", *(f"{FOLDER}/model-{n}.tflite" for n in range(12))}
    assert all(local.startswith("/") for local in phone.pushed.values())
    for line in phone.lines:
        assert not any(mark in line for mark in ("pwned", "ünï", "-rf.tflite", "~!", "PATH"))


def test_a_name_that_no_result_may_have_is_said(program: Path, files: list[Path], tmp_path: Path) -> None:
    odd = tmp_path / "a\\b.tflite"
    odd.write_bytes(b"x")
    result = one(Phone(), program, [odd, files[0]])
    assert [failure.file for failure in result.failures] == ["a\\b.tflite"]
    assert [own.file for own in result.files] == ["a.tflite"]


def test_the_program_is_checked_before_anything_is_sent(program: Path, files: list[Path], tmp_path: Path) -> None:
    phone = Phone()
    with pytest.raises(UnsupportedTargetError, match="does not exist"):
        one(phone, tmp_path / "none", files)
    with pytest.raises(UnsupportedTargetError, match="not the one that was meant"):
        one(phone, program, files, benchmark_model_sha256="0" * 64)
    assert phone.calls == []
    with pytest.raises(UnsupportedTargetError, match=r"nothing that could measure on adb:.*targets\.toml"):
        one(phone, None, files)
    digest = hashlib.sha256(program.read_bytes()).hexdigest()
    assert one(phone, program, files, benchmark_model_sha256=digest).failures == ()


def test_what_this_way_cannot_measure_is_said(program: Path, files: list[Path], tmp_path: Path) -> None:
    images = tmp_path / "images.npz"
    images.write_bytes(b"x")
    notes = one(Phone(), program, files, images=images, throughput_s=1.0).notes
    assert "benchmark_model does not measure throughput and accuracy: use a Python on the phone." in notes


def test_a_phone_that_throttles_is_said(program: Path, files: list[Path]) -> None:
    hot = Phone(answers={"dumpsys thermalservice": recorded("thermalservice.txt")})
    assert any("2 (moderate) before and 2 (moderate) after" in note for note in one(hot, program, files).notes)


def test_energy_is_refused_on_a_charger(program: Path, files: list[Path]) -> None:
    phone = Phone(answers={"dumpsys battery": recorded("battery.txt")})
    energy = one(phone, program, files[:1], energy=True).files[0].energy
    assert energy is not None
    assert energy.tier == "unavailable"
    assert "on USB power" in str(energy.reason)


def test_energy_is_of_whole_windows_of_runs(program: Path, files: list[Path]) -> None:
    class Gauged(Phone):
        def shell(self, line: str, seconds: float) -> Done:
            if line != READ:
                return super().shell(line, seconds)
            return Done(0, f"Discharging {-500000 - self.now_ns // 10**9 % 2 * 1000} 4000000\n", "")

    energy = one(Gauged(), program, files[:1], energy=True).files[0].energy
    assert energy is not None
    assert energy.tier == "measured"
    assert "fuel gauge, whole phone, current in µA" in str(energy.source)
    assert len(energy.joules) == 3
    # 1.2 windows of 20 s, at 20 ms a run, and the one run before them
    assert energy.images == (1201,) * 3
    for joules, seconds in zip(energy.joules, energy.window_s, strict=True):
        assert joules / seconds == pytest.approx(2.0, abs=0.005)
    assert energy.idle_w == pytest.approx(2.0, abs=0.005)


def test_a_gauge_that_is_lost_costs_the_energy_alone(program: Path, files: list[Path]) -> None:
    own = one(Phone(), program, files[:1], energy=True).files[0]
    assert own.latency is not None
    assert own.energy is not None
    assert "The fuel gauge of this phone cannot be read" in str(own.energy.reason)


def test_an_emulated_phone_has_no_times(program: Path, files: list[Path]) -> None:
    phone = Phone(answers={"test -e /etc/pocketvit-emulated && echo yes": "yes\n"}, programs={"model-1.tflite": crash})
    result = one(phone, program, files, energy=True)
    assert result.emulated
    (own,) = result.files
    assert (own.measurements, own.startup, own.energy, own.memory.peak_rss_bytes) == ((), None, None, None)
    assert [failure.file for failure in result.failures] == ["b.tflite"]


def test_an_unsettled_warm_up_is_said(program: Path, files: list[Path]) -> None:
    def slow(phone: Phone, flags: dict[str, str]) -> Done:
        return Done(0, benchmark_text([20000, 20000, 20000], [40000, 30000], extra=XNNPACK), "")

    own = one(Phone(programs={"model-0.tflite": slow}), program, files).files[0]
    assert own.latency is not None
    assert not own.latency.steady
    assert any("before the times had settled" in note for note in own.notes)


def test_checking_a_phone_tells_what_is_there_and_what_is_not(program: Path) -> None:
    found = check_adb(Device("adb:", benchmark_model=program), runner=Phone())
    assert [finding.name for finding in found] == ["adb", "phone", "heat and battery", "benchmark_model"]
    assert found[1].value == "Example Phone 7 [test], Android 14, arm64-v8a"
    assert found[3].value is not None
    assert found[3].value.startswith(str(program))
    missing = check_adb(Device("adb:"), runner=Phone())[-1]
    assert (missing.value, missing.name) == (None, "benchmark_model")
    assert "targets.toml" in str(missing.fix)
    (absent,) = check_adb(Device("adb:"), runner=Phone(has_adb=False))
    assert (absent.name, absent.value) == ("adb", None)
    assert "apt install adb" in str(absent.fix)
    unready = check_adb(Device("adb:"), runner=Phone(devices=f"List of devices attached\n{SERIAL}\tunauthorized\n"))
    assert [finding.name for finding in unready] == ["adb", "phone"]
    assert "unlock the phone" in str(unready[1].fix).lower()


def test_a_link_to_a_phone_with_python_passes_bytes_as_they_are() -> None:
    runner: AdbRunner = Phone()
    link = adb_link(Device(f"adb:{SERIAL}", name="termux"), runner)
    home = '[ -w "$HOME" ] || export HOME=/data/local/tmp; '
    assert link.argv("exec sh") == ["/usr/bin/adb", "-s", SERIAL, "shell", "-T", f"{home}exec sh"]
    assert adb_link(Device("adb:"), runner).argv("x") == ["/usr/bin/adb", "shell", "-T", f"{home}x"]
    assert link.label == "termux"
    error = link.explain(1, "error: device 'R3' not found\n")
    assert isinstance(error, MeasurementError)
    assert "termux is not connected" in str(error)
    assert link.explain(1, "Traceback: ValueError\n") is None
    with pytest.raises(UnsupportedTargetError, match="adb is not installed"):
        adb_link(Device("adb:"), Phone(has_adb=False))
