"""What this machine and installation can do, what is missing, and how to get it."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_bench.targets import TARGETS
from device_bench.targets.finding import Finding
from runtime import MissingExtraError
from runtime.engines import ENGINES, EngineKind
from runtime.formats import FORMATS
from runtime.gpu.drivers import NO_DRIVER_FIX, gpu_drivers

if TYPE_CHECKING:
    from device_bench.machine.state import MachineState
    from device_bench.targets.emulated import Lack

PACKAGES = {
    "litert": {
        "numpy": "numpy",
        "ai-edge-litert": "ai_edge_litert",
        "pillow": "PIL",
        "cyclopts": "cyclopts",
        "rich": "rich",
    },
    "onnx": {"onnxruntime": "onnxruntime"},
    "compress": {
        "torch": "torch",
        "torchvision": "torchvision",
        "timm": "timm",
        "filelock": "filelock",
        "safetensors": "safetensors",
        "scikit-learn": "sklearn",
    },
    "export": {
        "onnx": "onnx",
    },
    "bench": {"jinja2": "jinja2", "matplotlib": "matplotlib"},
    "energy": {"nvidia-ml-py": "pynvml", "codecarbon": "codecarbon"},
}
"""For each extra, its packages and the name each is imported by."""

_SAME = {"onnxruntime": ("onnxruntime-gpu",)}
"""Packages that bring the same module under another name."""

_X86 = {
    "avx2": "8-bit products in 256-bit vectors, widened to 16 bits first",
    "avx512f": "vectors of 512 bits",
    "avx512_vnni": "dot products of 8-bit integers in 512-bit vectors",
    "avx_vnni": "dot products of 8-bit integers in 256-bit vectors",
    "amx_int8": "products of whole tiles of 8-bit integers",
}
_ARM = {
    "asimddp": "dot products of 8-bit integers",
    "i8mm": "products of matrices of 8-bit integers",
    "sve": "vectors of the processor's own length",
}
_DOT = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
_GPU_FIX = "Install NVIDIA's driver for the GPU, until nvidia-smi lists it"
_ORT_FIX = "pip uninstall onnxruntime && pip install onnxruntime-gpu"
_STEAL = 0.01


def output_of(command: Sequence[str]) -> str | None:
    """Returns what a program prints, or None where it is absent, fails, or takes over 10 s."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout


def version_of(package: str) -> str | None:
    """Returns the version of an installed package, or None."""
    for name in (package, *_SAME.get(package, ())):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def lacks_for_boards() -> tuple[Lack, ...]:
    """Returns what this machine lacks to run emulated boards."""
    from device_bench.targets.emulated import missing_for_boards

    return missing_for_boards()


@dataclass(frozen=True)
class Probe:
    """How the doctor looks at a machine; a test puts another machine here.

    Attributes:
        root: where ``proc`` and ``sys`` are mounted.
        which: returns where a program is, or None.
        command: runs a program and returns what it prints, or None.
        importer: imports a module by name.
        version: returns the version of an installed package, or None.
        boards: returns what is missing to run emulated boards.
    """

    root: Path = Path("/")
    which: Callable[[str], str | None] = shutil.which
    command: Callable[[Sequence[str]], str | None] = output_of
    importer: Callable[[str], Any] = import_module
    version: Callable[[str], str | None] = version_of
    boards: Callable[[], Sequence[Lack]] = lacks_for_boards


def examine(probe: Probe | None = None) -> list[Finding]:
    """Looks at the machine, its processor, its sources of energy, the engines, and every package of every extra.

    Args:
        probe: how to look; by default at this machine.
    """
    from device_bench.machine.state import machine_state

    probe = probe or Probe()
    state = machine_state(probe.root, probe.command)
    gpu = _gpu(probe)
    findings = [
        Finding("machine", "python", platform.python_version()),
        Finding("machine", "system", f"{platform.system()} {platform.release()} {platform.machine()}"),
        *([Finding("machine", "board", state.board)] if state.board else []),
        Finding("machine", "cpu", state.cpu_model or "unknown"),
        Finding("machine", "logical cores", str(state.logical_cores or "unknown")),
        *_speed(state),
        *_quiet_enough(state, probe),
        Finding("machine", "isolated environment", str(sys.prefix != sys.base_prefix).lower()),
        *_int8(probe),
        *_energy(probe),
        *_engines(probe, gpu),
        *_programs(probe),
        *_boards(probe),
        Finding("pocketvit", "version", probe.version("pocketvit"), "pip install pocketvit"),
    ]
    for extra, packages in PACKAGES.items():
        for package in packages:
            findings.append(Finding(extra, package, probe.version(package), f"pip install 'pocketvit[{extra}]'"))
    return findings


def missing_extra(module: str) -> MissingExtraError | None:
    """Returns the error that says how to get ``module``, or None where it is no package of an extra."""
    for extra, packages in PACKAGES.items():
        for package, name in packages.items():
            if name == module.partition(".")[0]:
                return MissingExtraError(package, extra)
    return None


def _speed(state: MachineState) -> list[Finding]:
    """Returns the governor, the clocks, and whether the board was slowed."""
    findings = [Finding("machine", "governor", _governor(state))]
    if state.clocks_hz:
        low, high = min(state.clocks_hz) * 1e-9, max(state.clocks_hz) * 1e-9
        text = f"{low:.2f} to {high:.2f} GHz" if high - low >= 0.005 else f"{high:.2f} GHz"
        if state.max_clocks_hz:
            text += f", at most {max(state.max_clocks_hz) * 1e-9:.2f} GHz"
        findings.append(Finding("machine", "clocks", text))
    if state.throttled_bits:
        findings.append(
            Finding(
                "machine",
                "throttling",
                f"low voltage, heat or a cap slowed this board since it started (0x{state.throttled_bits:x}): "
                "use its own power supply, and a fan",
            )
        )
    return findings


def _governor(state: MachineState) -> str:
    if state.governor is None:
        return "unknown: this system does not tell what sets its clocks"
    driver = state.clock_driver
    text = f"{state.governor} ({driver})" if driver else state.governor
    if "powersave" in state.governor.split(", "):
        # the same word means a fixed least clock to all drivers but those that choose clocks themselves
        own = driver is not None and driver.split(", ")[0] in ("intel_pstate", "amd-pstate-epp", "amd_pstate_epp")
        text += ": clocks follow the load, so times wander" if own else ": clocks stay at their least"
    elif set(state.governor.split(", ")) != {"performance"}:
        text += ": clocks follow the load, so times wander"
    else:
        return f"{text}: steady"
    return f"{text}; before a bench, sudo cpupower frequency-set -g performance"


def _quiet_enough(state: MachineState, probe: Probe) -> list[Finding]:
    """Returns what else may disturb times, and whether the processor's counters can be read."""
    findings = []
    if state.virtualised is not None:
        text = "yes: other guests of the host disturb times, and it has mostly no energy counters"
        findings.append(Finding("machine", "virtual machine", text if state.virtualised else "no"))
    if state.steal_s is not None and state.busy_s is not None and state.busy_s + state.steal_s > 0:
        share = state.steal_s / (state.busy_s + state.steal_s)
        text = f"{share:.1%} of the core time wanted since the start went to others"
        loud = ": times here are not the machine's own" if share > _STEAL else ""
        findings.append(Finding("machine", "stolen time", text + loud))
    level = _read(probe.root / "proc/sys/kernel/perf_event_paranoid")
    if level is not None and re.fullmatch(r"-?\d+", level):
        allowed = int(level) <= 2
        text = f"{'own processes' if allowed else 'administrators alone'} (perf_event_paranoid {level})"
        findings.append(Finding("machine", "counters of perf", text))
    return findings


def _int8(probe: Probe) -> list[Finding]:
    """Returns the instruction sets that decide whether 8-bit integers are faster than floats."""
    cpuinfo = _read(probe.root / "proc/cpuinfo") or ""
    listed = re.search(r"^(flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    if listed is None:
        return [Finding("int8", "instruction sets", "unknown: this system does not list them")]
    has = set(listed[2].split())
    known = _X86 if listed[1] == "flags" else _ARM
    dots = [name for name in _DOT if name in has and name in known]
    if dots:
        pays = f"yes: {', '.join(dots)} multiplies and adds several 8-bit products in one instruction"
    elif "avx2" in has:
        pays = "somewhat: no dot product of 8-bit integers, but wide vectors; measure dynamic against static int8"
    else:
        pays = "not surely: without dot products, files that are int8 throughout may be slower than float32; measure"
    meaning = [Finding("int8", name, f"{'yes' if name in has else 'no'}: {what}") for name, what in known.items()]
    return [Finding("int8", "pays", pays), *meaning]


def _energy(probe: Probe) -> list[Finding]:
    """Returns the best source of energy of the processor and of a GPU, or why there is none."""
    from device_bench.energy.measure import find_source
    from device_bench.energy.source import NoSource, SourceError, Surroundings

    def command(words: Sequence[str]) -> str:
        said = probe.command(words)
        if said is None:
            raise SourceError(f"{words[0]} does not answer")
        return said

    findings = []
    for name, target in (("processor", "cpu"), ("NVIDIA GPU", "cuda")):
        found = find_source(target, Surroundings(probe.root, probe.importer, command))
        if isinstance(found, NoSource):
            findings.append(Finding("energy", name, None, found.reason))
        else:
            remark = f". {found.remark}" if found.remark else ""
            findings.append(Finding("energy", name, f"{found.tier} by {found.name}{remark}"))
    return findings


def _gpu(probe: Probe) -> str | None:
    """Returns what ``nvidia-smi`` says of the GPUs, or None."""
    said = probe.command(("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"))
    lines = [line.strip() for line in (said or "").splitlines() if line.strip()]
    return "; ".join(lines) or None


def _engines(probe: Probe, gpu: str | None) -> list[Finding]:
    """Returns which engines run, and on what."""
    runtime = _import(probe, "onnxruntime")
    providers: list[str] = list(runtime.get_available_providers()) if runtime is not None else []
    findings = [*map(partial(_engine, probe), ENGINES.values()), Finding("engines", "NVIDIA GPU", gpu, _GPU_FIX)]
    for name, provider in (("CUDA", "CUDAExecutionProvider"), ("TensorRT", "TensorrtExecutionProvider")):
        there = provider in providers and gpu is not None
        fix = _GPU_FIX if gpu is None else _ORT_FIX
        findings.append(Finding("engines", f"ONNX Runtime on {name}", "yes, not tried" if there else None, fix))
    return [*findings, Finding("engines", "torch on CUDA", *_torch_cuda(probe, gpu))]


def _engine(probe: Probe, kind: EngineKind) -> Finding:
    """Returns the version of an engine and what it can compute with."""
    name = f"{kind.title} ({', '.join(FORMATS[form].suffix for form in kind.formats)})"
    if kind.devices == ("gpu",):
        drivers = "; ".join(driver.title for driver in gpu_drivers(root=probe.root))
        return Finding("engines", name, f"{drivers}, not tried" if drivers else None, NO_DRIVER_FIX)
    if not kind.package:
        return Finding("engines", name, "registered by a plug-in")
    if kind.describe is None:
        return Finding("engines", name, probe.version(kind.package), kind.fix)
    module = _import(probe, kind.module)
    found = None if module is None else f"{module.__version__}, {kind.describe(module)}"
    return Finding("engines", name, found, kind.fix)


def _torch_cuda(probe: Probe, gpu: str | None) -> tuple[str | None, str]:
    if gpu is None:  # torch takes seconds to import, and has nothing to say
        return None, _GPU_FIX
    torch = _import(probe, "torch")
    if torch is None:
        return None, "pip install 'pocketvit[compress]'"
    if not torch.cuda.is_available():
        return None, f"Install a build of torch for CUDA that the driver serves; torch {torch.__version__} reaches none"
    return f"yes, CUDA {torch.version.cuda}", ""


def _programs(probe: Probe) -> list[Finding]:
    """Returns the programs that targets need on this machine."""
    return [
        Finding("devices", f"{name}, for {target.title}", probe.which(name), fix)
        for target in TARGETS.values()
        for name, fix in target.programs.items()
    ]


def _boards(probe: Probe) -> list[Finding]:
    """Returns whether emulated boards can run here, or each thing they lack."""
    lacks = [Finding("devices", f"emulated boards: {lack.what}", None, lack.fix) for lack in probe.boards()]
    return lacks or [Finding("devices", "emulated boards", "can run here: --target emu:pi4 or emu:pi5")]


def _import(probe: Probe, module: str) -> Any | None:
    from runtime import quiet

    try:
        with quiet():
            return probe.importer(module)
    except ImportError:
        return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None
