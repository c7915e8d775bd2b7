from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pocketvit.jobs.doctor import PACKAGES, Finding, Probe, examine, missing_extra, output_of, version_of

X86 = "processor\t: {core}\nmodel name\t: Example Core 7\ncpu MHz\t\t: 1400.0\nflags\t\t: fpu sse2 {flags}\n\n"
ARM = "processor\t: {core}\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm {flags}\n\n"
PMIC = "3V3_SYS_A current(1)=0.5A\n3V3_SYS_V volt(9)=3.3V\n"


def put(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def cores(root: Path, count: int, governor: str, driver: str, khz: int, most: int) -> None:
    for core in range(count):
        folder = f"sys/devices/system/cpu/cpu{core}/cpufreq"
        put(root, f"{folder}/scaling_governor", f"{governor}\n")
        put(root, f"{folder}/scaling_driver", f"{driver}\n")
        put(root, f"{folder}/scaling_cur_freq", f"{khz}\n")
        put(root, f"{folder}/cpuinfo_max_freq", f"{most}\n")


def nothing(module: str) -> Any:
    raise ImportError(module)


def probe(
    root: Path,
    said: dict[str, str] | None = None,
    importer: Callable[[str], Any] = nothing,
    programs: tuple[str, ...] = (),
    versions: dict[str, str] | None = None,
) -> Probe:
    """Returns a machine where commands, by their words, say ``said``, and nothing else is there."""

    def command(words: Sequence[str]) -> str | None:
        return (said or {}).get(" ".join(words[:2]))

    def which(name: str) -> str | None:
        return f"/bin/{name}" if name in programs else None

    return Probe(root, which, command, importer, (versions or {}).get)


def found(findings: list[Finding], area: str) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings if finding.area == area}


@pytest.fixture
def laptop(tmp_path: Path) -> Path:
    put(tmp_path, "proc/cpuinfo", "".join(X86.format(core=i, flags="avx2 avx_vnni") for i in range(4)))
    put(tmp_path, "proc/stat", "cpu  1000 0 500 90000 10 0 0 0 0 0\n")
    put(tmp_path, "proc/sys/kernel/perf_event_paranoid", "4\n")
    cores(tmp_path, 4, "powersave", "intel_pstate", 1400000, 4700000)
    zone = "sys/class/powercap/intel-rapl:0"
    put(tmp_path, f"{zone}/name", "package-0\n")
    put(tmp_path, f"{zone}/energy_uj", "123456\n")
    put(tmp_path, f"{zone}/max_energy_range_uj", "262143328850\n")
    return tmp_path


def test_an_intel_laptop_on_powersave(laptop: Path) -> None:
    findings = examine(probe(laptop, programs=("ssh", "scp")))
    machine, int8, energy = (found(findings, area) for area in ("machine", "int8", "energy"))
    governor = machine["governor"].value or ""
    assert governor.startswith("powersave (intel_pstate): clocks follow the load")
    assert "cpupower frequency-set -g performance" in governor
    assert machine["clocks"].value == "1.40 GHz, at most 4.70 GHz"
    assert machine["virtual machine"].value == "no"
    assert machine["stolen time"].value == "0.0% of the core time wanted since the start went to others"
    assert machine["counters of perf"].value == "administrators alone (perf_event_paranoid 4)"
    assert (int8["pays"].value or "").startswith("yes: avx_vnni multiplies")
    assert (int8["avx_vnni"].value or "").startswith("yes: ")
    assert (int8["avx512_vnni"].value or "").startswith("no: ")
    assert energy["processor"].value == "measured by RAPL package-0"
    assert energy["NVIDIA GPU"].value is None
    assert "nvidia-ml-py" in (energy["NVIDIA GPU"].fix or "")
    assert found(findings, "devices")["ssh, for Linux boards"].value == "/bin/ssh"
    assert found(findings, "devices")["adb, for Android phones"] == Finding(
        "devices", "adb, for Android phones", None, "sudo apt install adb"
    )


def pi(root: Path, model: str, flags: str, khz: int, governor: str = "ondemand") -> Path:
    put(root, "proc/cpuinfo", "".join(ARM.format(core=i, flags=flags) for i in range(4)))
    put(root, "proc/device-tree/model", f"{model}\0")
    cores(root, 4, governor, "cpufreq-dt", khz, khz)
    return root


def test_a_pi_4_has_no_dot_product_and_no_power_chip(tmp_path: Path) -> None:
    root = pi(tmp_path, "Raspberry Pi 4 Model B Rev 1.5", "aes pmull", 1500000)
    findings = examine(probe(root, {"vcgencmd get_throttled": "throttled=0x50005\n"}))
    machine = found(findings, "machine")
    assert machine["board"].value == "Raspberry Pi 4 Model B Rev 1.5"
    assert (machine["governor"].value or "").startswith("ondemand (cpufreq-dt): clocks follow the load")
    assert "(0x50005)" in (machine["throttling"].value or "")
    assert "virtual machine" not in machine
    assert (found(findings, "int8")["pays"].value or "").startswith("not surely")
    assert "avx2" not in found(findings, "int8")
    energy = found(findings, "energy")["processor"]
    assert energy.value is None
    assert "Raspberry Pi 5" in (energy.fix or "")
    assert "codecarbon" in (energy.fix or "")


def test_a_pi_5_has_both(tmp_path: Path) -> None:
    root = pi(tmp_path, "Raspberry Pi 5 Model B Rev 1.0", "asimdhp asimddp", 2400000, "performance")
    said = {"vcgencmd get_throttled": "throttled=0x0\n", "vcgencmd pmic_read_adc": PMIC}
    findings = examine(probe(root, said))
    machine = found(findings, "machine")
    assert machine["governor"].value == "performance (cpufreq-dt): steady"
    assert "throttling" not in machine
    assert (found(findings, "int8")["pays"].value or "").startswith("yes: asimddp")
    assert (found(findings, "int8")["i8mm"].value or "").startswith("no: ")
    assert (found(findings, "energy")["processor"].value or "").startswith("measured by Raspberry Pi 5 PMIC")


def test_a_fixed_least_clock_is_told_from_one_that_follows_the_load(tmp_path: Path) -> None:
    root = pi(tmp_path, "Raspberry Pi 5", "asimddp", 1500000, "powersave")
    governor = found(examine(probe(root)), "machine")["governor"].value or ""
    assert governor.startswith("powersave (cpufreq-dt): clocks stay at their least")


def test_a_virtual_machine(tmp_path: Path) -> None:
    put(tmp_path, "proc/cpuinfo", X86.format(core=0, flags="avx2 avx512f avx512_vnni hypervisor"))
    put(tmp_path, "proc/stat", "cpu  700 0 200 5000 10 0 0 100 0 0\n")
    findings = examine(probe(tmp_path))
    machine = found(findings, "machine")
    assert (machine["virtual machine"].value or "").startswith("yes: other guests")
    assert machine["stolen time"].value == (
        "10.0% of the core time wanted since the start went to others: times here are not the machine's own"
    )
    assert (machine["governor"].value or "").startswith("unknown")
    energy = found(findings, "energy")["processor"]
    assert energy.value is None
    assert "RAPL" in (energy.fix or "")


def test_a_processor_without_dot_products(tmp_path: Path) -> None:
    put(tmp_path, "proc/cpuinfo", X86.format(core=0, flags="avx2"))
    assert (found(examine(probe(tmp_path)), "int8")["pays"].value or "").startswith("somewhat")


def test_a_system_that_lists_nothing(tmp_path: Path) -> None:
    findings = examine(probe(tmp_path))
    assert found(findings, "int8") == {
        "instruction sets": Finding("int8", "instruction sets", "unknown: this system does not list them")
    }
    for finding in findings:
        assert finding.value is not None or finding.fix, finding


def modules(cuda: bool, providers: Sequence[str]) -> Callable[[str], Any]:
    known = {
        "torch": SimpleNamespace(
            __version__="9.1",
            cuda=SimpleNamespace(is_available=lambda: cuda),
            version=SimpleNamespace(cuda="13.0"),
        ),
        "onnxruntime": SimpleNamespace(__version__="1.99", get_available_providers=lambda: list(providers)),
    }

    def importer(name: str) -> Any:
        if name not in known:
            raise ImportError(name)
        return known[name]

    return importer


GPU = {"nvidia-smi --query-gpu=name,driver_version": "Example GPU 9000, 999.01\n"}


def test_engines_on_a_gpu(tmp_path: Path) -> None:
    importer = modules(True, ["CUDAExecutionProvider", "CPUExecutionProvider"])
    engines = found(examine(probe(tmp_path, GPU, importer, versions={"torch": "9.1"})), "engines")
    assert engines["NVIDIA GPU"].value == "Example GPU 9000, 999.01"
    assert engines["ONNX Runtime (.onnx)"].value == "1.99, with CUDAExecutionProvider, CPUExecutionProvider"
    assert engines["ONNX Runtime on CUDA"].value == "yes, not tried"
    assert engines["ONNX Runtime on TensorRT"].value is None
    assert "onnxruntime-gpu" in (engines["ONNX Runtime on TensorRT"].fix or "")
    assert engines["torch on CUDA"].value == "yes, CUDA 13.0"
    assert engines["torch (.pt2)"].value == "9.1"
    assert engines["LiteRT (.tflite)"] == Finding(
        "engines", "LiteRT (.tflite)", None, "pip install 'pocketvit[litert]'"
    )


def test_a_gpu_that_torch_does_not_reach(tmp_path: Path) -> None:
    engines = found(examine(probe(tmp_path, GPU, modules(False, []))), "engines")
    assert engines["torch on CUDA"].value is None
    assert "torch 9.1 reaches none" in (engines["torch on CUDA"].fix or "")
    engines = found(examine(probe(tmp_path, GPU)), "engines")
    assert engines["torch on CUDA"].fix == "pip install 'pocketvit[compress]'"


def test_without_a_gpu_torch_is_not_even_imported(tmp_path: Path) -> None:
    def importer(name: str) -> Any:
        assert name != "torch"
        raise ImportError(name)

    engines = found(examine(probe(tmp_path, importer=importer, versions={"torch": "9.1"})), "engines")
    assert engines["torch on CUDA"].value is None
    assert "nvidia-smi" in (engines["torch on CUDA"].fix or "")
    assert engines["ONNX Runtime on CUDA"].fix == engines["torch on CUDA"].fix


def test_every_package_of_every_extra_is_looked_for(tmp_path: Path) -> None:
    findings = examine(probe(tmp_path, versions={"onnx": "1.2"}))
    for extra, packages in PACKAGES.items():
        for package in packages:
            value = "1.2" if package == "onnx" else None
            assert found(findings, extra)[package] == Finding(
                extra, package, value, f"pip install 'pocketvit[{extra}]'"
            )


def test_this_machine_answers() -> None:
    findings = examine()
    assert found(findings, "litert")["numpy"].value
    assert found(findings, "engines")["ONNX Runtime (.onnx)"].value
    assert {finding.area for finding in findings} >= {"machine", "int8", "energy", "engines", "devices", *PACKAGES}


def test_looking_does_not_import_torch() -> None:
    code = (
        "import sys; from pocketvit.jobs.doctor import Probe, examine\n"
        "examine(Probe(command=lambda _: None)); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"


def test_programs_that_fail_or_are_not_there_say_nothing() -> None:
    assert output_of((sys.executable, "-c", "print('x')")) == "x\n"
    assert output_of((sys.executable, "-c", "print('x'); raise SystemExit(1)")) is None
    assert output_of(("no-such-program-here",)) is None


def test_a_module_is_known_by_its_extra() -> None:
    missing = missing_extra("sklearn.metrics")
    assert missing is not None
    assert (missing.package, missing.extra) == ("scikit-learn", "compress")
    assert missing_extra("pynvml") is not None
    assert missing_extra("antigravity") is None
    assert version_of("no-such-package-here") is None
    assert version_of("numpy")
