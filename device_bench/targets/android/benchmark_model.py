"""LiteRT's program ``benchmark_model``: its arguments and its output.

Its formats are taken from LiteRT's sources: tflite/tools/benchmark/benchmark_model.cc (times and memory),
benchmark_tflite_model.cc and tflite/core/subgraph.cc (delegates), tflite/tools/logging.h (severities), and
xla/tsl/util/stats_calculator.h (statistics). It does not print its version.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from device_bench.targets.base import Backend
from runtime import MeasurementError

RUNS = 3
"""Number of runs for which the statistics determine each one: the first, the last and the one in between."""

DELEGATES: dict[Backend, str] = {"cpu": "XNNPACK", "gpu": "GPU", "npu": "NNAPI"}
"""Name of the delegate of each backend."""

_KERNELS = {"XNNPACK": "TfLiteXNNPackDelegate", "GPU": "TfLiteGpuDelegateV2", "NNAPI": "TfLiteNnapiDelegate"}
_FLAGS = {"XNNPACK": "--use_xnnpack=true", "GPU": "--use_gpu=true", "NNAPI": "--use_nnapi=true"}
_MOST_RAW = 1000
_ROUNDING = 2e-5  # means are printed with six digits
_NUMBER = r"\d+(?:\.\d+)?(?:e[+-]?\d+)?"
_STATISTICS = re.compile(
    rf"(?:INFO: )?count=(?P<count>\d{{1,9}})"
    rf"(?: first=(?P<first>{_NUMBER}))? curr=(?P<last>{_NUMBER})(?:\(all same\))?"
    rf"(?: min=(?P<min>{_NUMBER}) max=(?P<max>{_NUMBER}) avg=(?P<mean>{_NUMBER}) std=(?P<std>{_NUMBER}))?"
    rf"(?: p5=(?P<p5>{_NUMBER}) median=(?P<median>{_NUMBER}) p95=(?P<p95>{_NUMBER}))?"
)
_SUMMARY = re.compile(
    rf"(?:INFO: )?Inference timings in us: Init: ({_NUMBER}), First inference: ({_NUMBER}), "
    rf"Warmup \(avg\): ({_NUMBER}), Inference \(avg\): ({_NUMBER})"
)
_MEMORY = re.compile(rf"Memory footprint delta from the start of the tool \(MB\): init=({_NUMBER}) overall=({_NUMBER})")
_PEAK = re.compile(rf"Overall peak memory footprint \(MB\) via periodic monitoring: ({_NUMBER})")
_APPLIED = re.compile(
    r"Explicitly applied (\w+) delegate, and the model graph will be "
    r"(?:(completely) executed by the delegate|partially executed by the delegate w/ (\d+) delegate kernels)\."
)
_IDLE = re.compile(r"Though (\w+) delegate is explicitly applied, the model graph will not be executed by")
_REPLACED = re.compile(r"Replacing (\d{1,9}) out of (\d{1,9}) node\(s\) with delegate \((\w+)\) node")
_SEVERE = re.compile(r"(?:ERROR|FATAL): (.+)")
_WARNING = re.compile(r"(?:WARN|WARNING): (.+)")
_REFUSED = "Following operations are not supported by GPU delegate:"
_FAILED = "Benchmarking failed."
_UNKNOWN_FLAGS = "Unconsumed cmdline flags:"


@dataclass(frozen=True)
class BenchmarkOptions:
    """Options of one process of the program.

    Attributes:
        graph: path of the file on the device, relative to where the program is.
        backend: backend to run on.
        threads: threads of the CPU, at least 1.
        runs: number of timed runs; with ``RUNS`` of them the statistics give each one.
        warmup_s: time of warm-up runs, at least one, s.
        most_s: time after which no further run begins, s.
        peak_memory: whether to watch memory too, which costs time.
    """

    graph: str
    backend: Backend = "cpu"
    threads: int = 1
    runs: int = RUNS
    warmup_s: float = 0.5
    most_s: float = 120.0
    peak_memory: bool = False


@dataclass(frozen=True)
class Statistics:
    """Statistics of several runs.

    Attributes:
        count: number of runs.
        first_s: time of the first run, s.
        last_s: time of the last run, s.
        min_s: least time, s.
        max_s: longest time, s.
        mean_s: mean time, s, rounded to six digits.
        std_s: standard deviation, s.
        p5_s: 5th percentile, s; None of an older program.
        median_s: median, s; None of an older program.
        p95_s: 95th percentile, s; None of an older program.
    """

    count: int
    first_s: float
    last_s: float
    min_s: float
    max_s: float
    mean_s: float
    std_s: float
    p5_s: float | None = None
    median_s: float | None = None
    p95_s: float | None = None

    @property
    def raw_s(self) -> tuple[float, ...] | None:
        """The time of each run in order, s; None if the statistics do not determine it."""
        if self.min_s == self.max_s and self.count <= _MOST_RAW:
            return (self.first_s,) * self.count
        if self.count > RUNS:
            return None
        if self.count < RUNS:
            return (self.first_s, self.last_s)[: self.count]
        return self.first_s, self._middle_s(), self.last_s

    def _middle_s(self) -> float:
        """Returns the second of three runs: the extreme that is neither first nor last, or else the middle."""
        for extreme in (self.min_s, self.max_s):
            if extreme not in (self.first_s, self.last_s):
                return extreme
        return 3 * self.mean_s - self.first_s - self.last_s if self.median_s is None else self.median_s


@dataclass(frozen=True)
class Delegation:
    """The operations that one delegate took over.

    Attributes:
        delegate: name of the delegate, as in ``DELEGATES``.
        kernels: number of pieces of the graph that it runs; 0 if it runs nothing.
        whole: whether it runs the whole model.
        operations: number of operations it took over; None if not printed.
        of: number of all operations; None if not printed.
    """

    delegate: str
    kernels: int
    whole: bool
    operations: int | None = None
    of: int | None = None


@dataclass(frozen=True)
class BenchmarkRun:
    """The output of one process of the program.

    Attributes:
        init_s: time of loading and preparing the file, s.
        first_inference_s: time of the first run, s.
        warmup: statistics of the warm-up runs.
        regular: statistics of the timed runs.
        delegations: operations of each delegate that was requested and applied.
        init_bytes: growth of peak resident memory by loading; None if not printed.
        overall_bytes: growth of peak resident memory from the start to the end; None if not printed.
        peak_bytes: peak resident memory; None if not requested.
        refused: operations that the GPU does not support, each with the reason.
        warnings: warnings of the program, without repetitions.
    """

    init_s: float
    first_inference_s: float
    warmup: Statistics
    regular: Statistics
    delegations: tuple[Delegation, ...] = ()
    init_bytes: int | None = None
    overall_bytes: int | None = None
    peak_bytes: int | None = None
    refused: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def of(self, backend: Backend) -> Delegation | None:
        """Returns the operations of the delegate of ``backend``; None if it was not applied."""
        return next((one for one in self.delegations if one.delegate == DELEGATES[backend]), None)


def command(options: BenchmarkOptions, program: str = "./benchmark_model") -> list[str]:
    """Returns the command line, the program first.

    Args:
        options: options of the process.
        program: path of the program on the device.
    """
    words = [
        program,
        f"--graph={options.graph}",
        f"--num_threads={options.threads}",
        f"--num_runs={options.runs}",
        "--min_secs=0",
        f"--max_secs={options.most_s:g}",
        "--warmup_runs=1",
        f"--warmup_min_secs={options.warmup_s:g}",
        _FLAGS[DELEGATES[options.backend]],
    ]
    return [*words, "--report_peak_memory_footprint=true"] if options.peak_memory else words


def parse(text: str) -> BenchmarkRun:
    """Parses the output of the program, stdout and stderr mixed in any order.

    Args:
        text: the whole output.

    Raises:
        MeasurementError: the program reports a failure, or the text is truncated, damaged or foreign.
    """
    lines = [line.strip() for line in text.splitlines()]
    if any(_FAILED in line for line in lines):
        raise MeasurementError("benchmark_model failed", got=reason(text))
    found_lines = [found for line in lines if (found := _STATISTICS.fullmatch(line))]
    summary = next((found for line in lines if (found := _SUMMARY.fullmatch(line))), None)
    missing = [] if len(found_lines) == 2 else [f"two lines of statistics (there are {len(found_lines)})"]
    missing += [] if summary else ["the line 'Inference timings in us'"]
    if missing or summary is None:
        raise MeasurementError(
            "What benchmark_model printed is not whole", expected=" and ".join(missing), got=reason(text)
        )
    warmup, regular = (_statistics(found) for found in found_lines)
    init_s, first_s, *means_s = (float(word) * 1e-6 for word in summary.groups())
    near = all(_near(one, other.mean_s) for one, other in zip(means_s, (warmup, regular), strict=True))
    if not near or not _near(first_s, warmup.first_s):
        raise MeasurementError("benchmark_model contradicts itself", got=summary.group()[-160:])
    memory, peak = _MEMORY.search(text), _PEAK.search(text)
    return BenchmarkRun(
        init_s,
        first_s,
        warmup,
        regular,
        delegations=_delegations(text),
        init_bytes=_bytes(memory.group(1)) if memory else None,
        overall_bytes=_bytes(memory.group(2)) if memory else None,
        peak_bytes=_bytes(peak.group(1)) if peak else None,
        refused=_refused(lines),
        warnings=tuple(dict.fromkeys(found.group(1) for line in lines if (found := _WARNING.fullmatch(line)))),
    )


def reason(text: str) -> str:
    """Returns the program's reason for a failure: its errors, or else its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    severe = [found.group(1) for line in lines if (found := _SEVERE.fullmatch(line))]
    errors = [line for line in severe if line != _FAILED and line != _REFUSED]
    text = "; ".join(dict.fromkeys(errors)) or (lines[-1] if lines else "nothing")
    return text if len(text) <= 300 else f"{text[:300]}…"


def shortfalls(run: BenchmarkRun, backend: Backend) -> tuple[str, ...]:
    """Returns notes on what did not run on the requested backend, since its times would be those of another.

    Args:
        run: output of the program.
        backend: the requested backend.
    """
    notes, name, found = [], DELEGATES[backend], run.of(backend)
    why = _why(run)
    if found is None or found.kernels == 0:
        did = "was not applied" if found is None else "took no operation"
        times = "" if backend == "cpu" else " THESE ARE TIMES OF THE CPU."
        notes.append(f"NOT ON {_place(backend)}: the {name} delegate {did}{why}.{times}")
    elif not found.whole and backend == "cpu":
        notes.append(f"XNNPACK runs {_share(found)}; LiteRT's plain kernels run the rest, on the CPU too.")
    elif not found.whole:
        notes.append(f"ONLY PARTLY ON {_place(backend)}: it runs {_share(found)}, and THE CPU THE REST{why}.")
    unknown = next((line for line in run.warnings if line.startswith(_UNKNOWN_FLAGS)), None)
    if unknown is not None:
        flags = unknown.removeprefix(_UNKNOWN_FLAGS).strip()
        notes.append(f"THIS BENCHMARK_MODEL DOES NOT KNOW {flags}: it was not measured as asked.")
    return tuple(notes)


def _statistics(found: re.Match[str]) -> Statistics:
    micros = {name: float(word) for name, word in found.groupdict().items() if word is not None and name != "count"}
    count, last = int(found["count"]), micros["last"]
    same = "min" not in micros
    first, least, most = (micros.get(name, last) for name in ("first", "min", "max"))
    mean, std = micros.get("mean", last), micros.get("std", 0.0)
    ordered = (least, *(micros[name] for name in ("p5", "median", "p95") if name in micros), most)
    sound = (
        count >= (1 if same else 2)
        and all(math.isfinite(value) for value in micros.values())
        and tuple(sorted(ordered)) == ordered
        and least <= min(first, last)
        and max(first, last) <= most
        and least * (1 - _ROUNDING) <= mean <= most * (1 + _ROUNDING)
    )
    if not sound:
        raise MeasurementError("benchmark_model's statistics contradict themselves", got=found.group()[:200])
    tail = tuple(micros[name] * 1e-6 if name in micros else None for name in ("p5", "median", "p95"))
    seconds = (value * 1e-6 for value in (first, last, least, most, mean, std))
    return Statistics(count, *seconds, *tail)


def _near(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_ROUNDING, abs_tol=1e-9)


def _bytes(mebibytes: str) -> int:
    value = float(mebibytes) * 2**20
    if not math.isfinite(value):
        raise MeasurementError("benchmark_model's memory is impossible", got=mebibytes[:40])
    return round(value)


def _delegations(text: str) -> tuple[Delegation, ...]:
    taken: dict[str, tuple[int, int]] = {}
    for operations, of, kernel in _REPLACED.findall(text):
        before = taken.get(kernel, (0, 0))  # a model of several subgraphs has a line for each
        taken[kernel] = (before[0] + int(operations), before[1] + int(of))
    found = []
    for name, completely, kernels in _APPLIED.findall(text):
        share = taken.get(_KERNELS.get(name, ""), (None, None))
        found.append(Delegation(name, int(kernels or 1), bool(completely), *share))
    return (*found, *(Delegation(name, 0, whole=False) for name in _IDLE.findall(text)))


def _refused(lines: Sequence[str]) -> tuple[str, ...]:
    """Returns the operations that a GPU delegate lists as unsupported."""
    at = next((i for i, line in enumerate(lines) if line.endswith(_REFUSED)), None)
    if at is None:
        return ()
    rest = lines[at + 1 :]
    end = next((i for i, line in enumerate(rest) if "operations will run on the" in line), 0)
    return tuple(rest[:end])


def _why(run: BenchmarkRun) -> str:
    """Returns the program's reasons in brackets, or nothing."""
    reasons = [*run.refused, *(line.rstrip(".") for line in run.warnings if "unsupported" in line.lower())]
    more = f" and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    return f" ({'; '.join(reasons[:3])}{more})" if reasons else ""


def _share(found: Delegation) -> str:
    pieces = f"{found.kernels} piece{'s' if found.kernels > 1 else ''}"
    if found.operations is None:
        return f"a part of the model in {pieces}"
    return f"{found.operations} of {found.of} operations in {pieces}"


def _place(backend: Backend) -> str:
    return f"THE {backend.upper()}"
