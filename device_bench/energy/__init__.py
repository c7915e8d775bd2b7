"""What an inference draws: the registry of energy sources of this machine.

A further source is one module with an ``EnergyKind`` and one line here, or ``SOURCES.register`` in a plug-in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.errors import MeasurementError
from runtime.registry import Registry

if TYPE_CHECKING:  # listing the names imports nothing else
    from .source import EnergyKind

SOURCES: Registry[EnergyKind] = Registry(
    "energy source",
    {
        "pmic": "device_bench.energy.pmic:PMIC",
        "rapl": "device_bench.energy.rapl:RAPL",
        "nvml": "device_bench.energy.nvml:NVML",
        "tdp": "device_bench.energy.tdp:TDP",
    },
    error=MeasurementError,
)
"""Energy sources by name: the first that is found is used, those that measure before those that estimate."""
