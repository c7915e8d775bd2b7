"""The cores that can be emulated, and the files of their boards in ``/proc`` and ``/sys``.

The emulator passes the host's own files through; LiteRT and ONNX Runtime choose kernels by them, and crash on an x86
``/proc/cpuinfo``. Current clocks, governor and temperature are left out, since an emulated core has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from runtime import UnsupportedTargetError

CoreName = Literal["pi4", "pi5"]

MARKER = "etc/pocketvit-emulated"
"""Path from the root of a file that marks a system as emulated and names the emulator."""

CPUINFO = "usr/lib/pocketvit-board/cpuinfo"
"""Path of the file that is mounted over ``/proc/cpuinfo`` of the board."""


@dataclass(frozen=True)
class Cache:
    """One of a core's caches.

    Attributes:
        level: level of the cache; 1 is nearest to the core.
        kind: ``Data``, ``Instruction`` or ``Unified``.
        kib: size, KiB.
        shared: whether all cores share it.
    """

    level: int
    kind: str
    kib: int
    shared: bool


@dataclass(frozen=True)
class Core:
    """A board's processor.

    Attributes:
        name: part of the address after ``emu:``.
        emulator_cpu: name of the core in the emulator.
        features: features in the list of the Linux kernel on that board.
        part: the core's part number, such as ``0xd08``.
        variant: major revision of the core.
        revision: minor revision of the core.
        model: model of the board.
        revision_code: revision code of the board.
        max_khz: highest clock, kHz.
        min_khz: lowest clock, kHz.
        caches: caches of each core.
    """

    name: CoreName
    emulator_cpu: str
    features: tuple[str, ...]
    part: str
    variant: str
    revision: str
    model: str
    revision_code: str
    max_khz: int
    min_khz: int
    caches: tuple[Cache, ...]


NUMBER_OF_CORES = 4

CORES: dict[str, Core] = {
    "pi4": Core(
        name="pi4",
        emulator_cpu="cortex-a72",
        features=("fp", "asimd", "evtstrm", "crc32", "cpuid"),
        part="0xd08",
        variant="0x0",
        revision="3",
        model="Raspberry Pi 4 Model B Rev 1.4",
        revision_code="c03114",
        max_khz=1_800_000,
        min_khz=600_000,
        caches=(
            Cache(1, "Data", 32, shared=False),
            Cache(1, "Instruction", 48, shared=False),
            Cache(2, "Unified", 1024, shared=True),
        ),
    ),
    "pi5": Core(
        name="pi5",
        emulator_cpu="cortex-a76",
        features=(
            *("fp", "asimd", "evtstrm", "aes", "pmull", "sha1", "sha2", "crc32", "atomics", "fphp", "asimdhp"),
            *("cpuid", "asimdrdm", "lrcpc", "dcpop", "asimddp"),
        ),
        part="0xd0b",
        variant="0x4",
        revision="1",
        model="Raspberry Pi 5 Model B Rev 1.0",
        revision_code="d04170",
        max_khz=2_400_000,
        min_khz=1_500_000,
        caches=(
            Cache(1, "Data", 64, shared=False),
            Cache(1, "Instruction", 64, shared=False),
            Cache(2, "Unified", 512, shared=False),
            Cache(3, "Unified", 2048, shared=True),
        ),
    ),
}


def core_named(name: str) -> Core:
    """Returns the core with a name.

    Raises:
        UnsupportedTargetError: there is none.
    """
    if name not in CORES:
        raise UnsupportedTargetError("No such core can be emulated", expected=" or ".join(CORES), got=repr(name))
    return CORES[name]


def cpuinfo(core: Core) -> str:
    """Returns the board's ``/proc/cpuinfo``."""
    lines = []
    for number in range(NUMBER_OF_CORES):
        lines += [
            f"processor\t: {number}",
            "BogoMIPS\t: 108.00",
            f"Features\t: {' '.join(core.features)}",
            "CPU implementer\t: 0x41",
            "CPU architecture: 8",
            f"CPU variant\t: {core.variant}",
            f"CPU part\t: {core.part}",
            f"CPU revision\t: {core.revision}",
            "",
        ]
    lines += [f"Revision\t: {core.revision_code}", "Serial\t\t: 1000000000000000", f"Model\t\t: {core.model}", ""]
    return "\n".join(lines)


def board_files(core: Core) -> dict[str, str]:
    """Returns the content of the files that differ between boards, by path from the root."""
    files = {
        MARKER: f"qemu-user {core.emulator_cpu}\n",
        "etc/hostname": f"emulated-{core.name}\n",
        CPUINFO: cpuinfo(core),
        # on a board /proc/device-tree links here; no folder can be added to /proc
        "sys/firmware/devicetree/base/model": f"{core.model}\0",
    }
    system = "sys/devices/system/cpu"
    everyone = f"0-{NUMBER_OF_CORES - 1}"
    files |= {f"{system}/{name}": f"{everyone}\n" for name in ("possible", "present", "online")}
    files[f"{system}/kernel_max"] = "255\n"
    for number in range(NUMBER_OF_CORES):
        folder = f"{system}/cpu{number}"
        files |= {
            f"{folder}/cpufreq/cpuinfo_max_freq": f"{core.max_khz}\n",
            f"{folder}/cpufreq/cpuinfo_min_freq": f"{core.min_khz}\n",
            f"{folder}/topology/physical_package_id": "0\n",
            f"{folder}/topology/core_id": f"{number}\n",
            f"{folder}/topology/thread_siblings_list": f"{number}\n",
        }
        for name in ("core_siblings_list", "package_cpus_list", "cluster_cpus_list"):
            files[f"{folder}/topology/{name}"] = f"{everyone}\n"
        for index, cache in enumerate(core.caches):
            place = f"{folder}/cache/index{index}"
            files |= {
                f"{place}/level": f"{cache.level}\n",
                f"{place}/type": f"{cache.kind}\n",
                f"{place}/size": f"{cache.kib}K\n",
                f"{place}/coherency_line_size": "64\n",
                f"{place}/shared_cpu_list": f"{everyone if cache.shared else number}\n",
            }
    return files
