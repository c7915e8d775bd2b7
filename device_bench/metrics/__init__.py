"""The registry of metrics: everything that a bench measures of a file.

A further metric is one module with a ``Metric`` and one line here, or ``METRICS.register`` in a plug-in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.errors import MeasurementError
from runtime.registry import Registry

if TYPE_CHECKING:  # listing the names imports nothing else
    from .base import Metric

METRICS: Registry[Metric] = Registry(
    "metric",
    {
        "latency": "device_bench.metrics.latency:LATENCY",
        "instructions": "device_bench.metrics.counts:INSTRUCTIONS",
        "size": "device_bench.metrics.counts:SIZE",
        "memory": "device_bench.metrics.memory:MEMORY",
        "startup": "device_bench.metrics.startup:STARTUP",
        "throughput": "device_bench.metrics.throughput:THROUGHPUT",
        "arithmetic": "device_bench.metrics.peaks:ARITHMETIC_RATE",
        "energy": "device_bench.metrics.energy:ENERGY",
        "answers": "device_bench.metrics.answers:ANSWERS",
        "accuracy": "device_bench.metrics.accuracy:ACCURACY",
    },
    error=MeasurementError,
)
"""Every metric by name, in the order in which they are measured and shown."""
