"""Exported files measured on a target, kept as raw values, and told as a report. Needs numpy and one engine."""

from .apart import bench_apart, time_apart
from .figures import Accuracy, Arithmetic, Energy, EnergyTier, Failure, MemoryUse, Peak, Startup, Throughput, confusion
from .machine import MachineState, machine_state
from .measure import Measurement, Sampling, measure_interleaved
from .profile import Conditions, fit_table, parts_to_time, random_plans, wholes_to_time
from .report import write_report
from .results import BenchResult, FileResult, read_result, write_result
from .stats import Interval, bootstrap_percentile, median_interval, p90_interval, percentile, ratio_of_medians
from .summary import Model, RunSummary, SummaryRow, Timing, summarise
from .targets import TARGETS, bench

__all__ = [
    "TARGETS",
    "Accuracy",
    "Arithmetic",
    "BenchResult",
    "Conditions",
    "Energy",
    "EnergyTier",
    "Failure",
    "FileResult",
    "Interval",
    "MachineState",
    "Measurement",
    "MemoryUse",
    "Model",
    "Peak",
    "RunSummary",
    "Sampling",
    "Startup",
    "SummaryRow",
    "Throughput",
    "Timing",
    "bench",
    "bench_apart",
    "bootstrap_percentile",
    "confusion",
    "fit_table",
    "machine_state",
    "measure_interleaved",
    "median_interval",
    "p90_interval",
    "parts_to_time",
    "percentile",
    "random_plans",
    "ratio_of_medians",
    "read_result",
    "summarise",
    "time_apart",
    "wholes_to_time",
    "write_report",
    "write_result",
]
