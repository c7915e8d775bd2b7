"""Estimates the energy of a processor: its thermal design power (TDP) in codecarbon, times the share in use."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from device_bench.machine.state import machine_state
from runtime import MissingExtraError

from .carbon import quiet_codecarbon
from .source import CounterSource, EnergyKind, Importer, NoSource

_RESOLUTION_S = 1e-3
_VIRTUAL = (
    "The machine is virtual and shows {cores} cores of a processor that may have more: "
    "the share, and with it the energy, may be too high."
)


def find_tdp(
    root: Path = Path("/"),
    *,
    importer: Importer = import_module,
    cpu_s: Callable[[], float] = time.process_time,
    remark: str | None = None,
) -> CounterSource | NoSource:
    """Returns an estimate of the processor's energy, or the reason why there is none.

    The model is that of codecarbon for a process: power is the TDP times the process's share of the time of all cores.
    A sleeping process draws nothing, and other processes do not count.

    Args:
        root: folder in which ``proc`` is mounted.
        importer: imports codecarbon's modules.
        cpu_s: returns the CPU time of this process on all cores, s.
        remark: why there is no better source.
    """
    machine = machine_state(root)
    cores = machine.logical_cores or os.cpu_count() or 1
    cpuinfo = _cpuinfo(root)
    sockets = len(set(re.findall(r"^physical id\s*:\s*(\d+)", cpuinfo, re.MULTILINE))) or 1
    try:
        with quiet_codecarbon():
            model = machine.cpu_model or importer("codecarbon.core.util").detect_cpu_model() or ""
            watts, default_w = _look_up(model, importer)
    except ImportError:
        return NoSource(str(MissingExtraError("codecarbon", "energy")))
    except Exception as error:  # a changed library may raise anything
        return NoSource(f"codecarbon's table of processors cannot be read: {type(error).__name__}: {error}.")
    if watts is not None:
        total_w, basis = sockets * watts, f"TDP of {sockets} x {watts:g} W" if sockets > 1 else f"TDP of {watts:g} W"
    else:
        total_w = default_w * cores
        basis = f"TDP of {model or 'the processor'} unknown, {default_w:g} W a core assumed"
    remarks = [remark, _VIRTUAL.format(cores=cores) if _is_virtual(cpuinfo) and watts is not None else None]
    return CounterSource(
        f"codecarbon, {basis}, times the share of {cores} cores in use",
        lambda: total_w / cores * cpu_s(),
        tier="estimated",
        resolution_s=max(_RESOLUTION_S, time.get_clock_info("process_time").resolution),
        remark=" ".join(filter(None, remarks)) or None,
    )


def _look_up(model: str, importer: Importer) -> tuple[float | None, float]:
    """Returns the TDP of a processor by its name, W, or None, and codecarbon's default per core, W."""
    cpu = importer("codecarbon.core.cpu")
    # TDP's constructor looks at this machine and does not tell a default from a hit, so it is left out.
    found = cpu.TDP._get_cpu_power_from_registry(object.__new__(cpu.TDP), model) if model else None
    return (float(found) if found else None), float(cpu.DEFAULT_POWER_PER_CORE)


def _cpuinfo(root: Path) -> str:
    try:
        return (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _is_virtual(cpuinfo: str) -> bool:
    return re.search(r"^flags\s*:.*\bhypervisor\b", cpuinfo, re.MULTILINE) is not None


TDP = EnergyKind("cpu", "estimated", lambda own: find_tdp(own.root, importer=own.importer, remark=own.remark))
