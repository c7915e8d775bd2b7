"""Exported files measured on a target, kept as raw values, and told as a report. Needs numpy and one engine."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .accuracy import TestImages, accuracy_of, read_test_images, write_test_images
    from .apart import bench_apart, samples_apart, time_apart
    from .carbon import Grid, find_grid, with_grid
    from .compare import Comparison, compare_results
    from .cuda import bench_files_on_cuda
    from .energy import find_source, measure_energy
    from .energy_source import EnergySource, NoSource, SourceError
    from .facts import Baseline, Facts, baseline_of, read_baseline, write_baseline
    from .figures import (
        Accuracy,
        Arithmetic,
        Energy,
        EnergyTier,
        Failure,
        MemoryUse,
        Peak,
        Startup,
        Throughput,
        confusion,
        dense,
        without_zeros,
    )
    from .gate import Check, Gate, Limits, duel_json, gate_json, judge, read_limits
    from .gate_report import change_text, junit, markdown, value_text, verdict_of
    from .in_turns import Duel, Round, Rules, duel
    from .machine import MachineState, machine_state
    from .measure import Measurement, Sampling, measure_interleaved
    from .op_times_document import OpTimes, TimeRow, read_times, times_path, write_times
    from .peaks import measure_peaks
    from .profile_files import Timed, part_depth, parts_to_time, random_plans, wholes_to_time
    from .profile_fit import Conditions, fit_table
    from .report import write_report
    from .request import BenchRequest
    from .results import BenchResult, FileResult, read_result, write_result
    from .signs import detectable, evidence, ratio_interval, shown_above, shown_below
    from .sparsity_document import LayerZeros, Zeros, read_zeros, write_zeros, zeros_path
    from .startup import Starts, measure_starts
    from .stats import Interval, bootstrap_percentile, median_interval, p90_interval, percentile, ratio_of_medians
    from .steadiness import machine_notes, series_notes
    from .summary import REFUSED_BEFORE, Model, RunSummary, SummaryRow, Timing, summarise
    from .targets import TARGETS, bench, run_request
    from .throughput import measure_throughput

__all__ = [
    "REFUSED_BEFORE",
    "TARGETS",
    "Accuracy",
    "Arithmetic",
    "Baseline",
    "BenchRequest",
    "BenchResult",
    "Check",
    "Comparison",
    "Conditions",
    "Duel",
    "Energy",
    "EnergySource",
    "EnergyTier",
    "Facts",
    "Failure",
    "FileResult",
    "Gate",
    "Grid",
    "Interval",
    "LayerZeros",
    "Limits",
    "MachineState",
    "Measurement",
    "MemoryUse",
    "Model",
    "NoSource",
    "OpTimes",
    "Peak",
    "Round",
    "Rules",
    "RunSummary",
    "Sampling",
    "SourceError",
    "Starts",
    "Startup",
    "SummaryRow",
    "TestImages",
    "Throughput",
    "TimeRow",
    "Timed",
    "Timing",
    "Zeros",
    "accuracy_of",
    "baseline_of",
    "bench",
    "bench_apart",
    "bench_files_on_cuda",
    "bootstrap_percentile",
    "change_text",
    "compare_results",
    "confusion",
    "dense",
    "detectable",
    "duel",
    "duel_json",
    "evidence",
    "find_grid",
    "find_source",
    "fit_table",
    "gate_json",
    "judge",
    "junit",
    "machine_notes",
    "machine_state",
    "markdown",
    "measure_energy",
    "measure_interleaved",
    "measure_peaks",
    "measure_starts",
    "measure_throughput",
    "median_interval",
    "p90_interval",
    "part_depth",
    "parts_to_time",
    "percentile",
    "random_plans",
    "ratio_interval",
    "ratio_of_medians",
    "read_baseline",
    "read_limits",
    "read_result",
    "read_test_images",
    "read_times",
    "read_zeros",
    "run_request",
    "samples_apart",
    "series_notes",
    "shown_above",
    "shown_below",
    "summarise",
    "time_apart",
    "times_path",
    "value_text",
    "verdict_of",
    "wholes_to_time",
    "with_grid",
    "without_zeros",
    "write_baseline",
    "write_report",
    "write_result",
    "write_test_images",
    "write_times",
    "write_zeros",
    "zeros_path",
]

_WHERE = {
    "accuracy": "TestImages accuracy_of read_test_images write_test_images",
    "apart": "bench_apart samples_apart time_apart",
    "carbon": "Grid find_grid with_grid",
    "compare": "Comparison compare_results",
    "cuda": "bench_files_on_cuda",
    "energy": "find_source measure_energy",
    "energy_source": "EnergySource NoSource SourceError",
    "facts": "Baseline Facts baseline_of read_baseline write_baseline",
    "figures": "Accuracy Arithmetic Energy EnergyTier Failure MemoryUse Peak Startup Throughput confusion dense "
    "without_zeros",
    "gate": "Check Gate Limits duel_json gate_json judge read_limits",
    "gate_report": "change_text junit markdown value_text verdict_of",
    "in_turns": "Duel Round Rules duel",
    "machine": "MachineState machine_state",
    "measure": "Measurement Sampling measure_interleaved",
    "op_times_document": "OpTimes TimeRow read_times times_path write_times",
    "peaks": "measure_peaks",
    "profile_files": "Timed part_depth parts_to_time random_plans wholes_to_time",
    "profile_fit": "Conditions fit_table",
    "report": "write_report",
    "request": "BenchRequest",
    "results": "BenchResult FileResult read_result write_result",
    "signs": "detectable evidence ratio_interval shown_above shown_below",
    "sparsity_document": "LayerZeros Zeros read_zeros write_zeros zeros_path",
    "startup": "Starts measure_starts",
    "stats": "Interval bootstrap_percentile median_interval p90_interval percentile ratio_of_medians",
    "steadiness": "machine_notes series_notes",
    "summary": "REFUSED_BEFORE Model RunSummary SummaryRow Timing summarise",
    "targets": "TARGETS bench run_request",
    "throughput": "measure_throughput",
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for: a device that measures needs no report, and may be slow to read its sources."""
    for module, names in _WHERE.items():
        if name in names.split():
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
