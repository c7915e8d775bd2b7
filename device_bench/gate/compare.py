"""Two results of a bench beside each other, as far as they can be compared."""

from __future__ import annotations

from dataclasses import dataclass

from device_bench.documents.results import BenchResult, FileResult
from device_bench.interval import Interval
from device_bench.machine.state import MachineState
from device_bench.timing.stats import ratio_of_medians


@dataclass(frozen=True)
class ResultComparison:
    """One file in two results.

    Attributes:
        file: its name.
        base: what was measured then.
        new: what was measured now.
        same_bytes: whether it is the same file.
        latency: ratio of the medians, new over base; null with a reason.
        reason: why times are not compared.
    """

    file: str
    base: FileResult
    new: FileResult
    same_bytes: bool
    latency: Interval | None
    reason: str | None


def compare_results(base: BenchResult, new: BenchResult) -> tuple[ResultComparison, ...]:
    """Returns the files that are in both results; their times are compared only where the machine was the same.

    Args:
        base: the earlier result.
        new: the later one.
    """
    reason = differing_machines(base, new)
    return tuple(_compare(one, other, reason) for one in base.files if (other := new.of(one.file)) is not None)


def differing_machines(base: BenchResult, new: BenchResult) -> str | None:
    """Returns in what the machines or targets of two results differ, or None where they do not."""
    if base.target != new.target:
        return f"the targets differ: {base.target} and {new.target}"
    for what, one, other in zip(_NAMES, _identity(base.before), _identity(new.before), strict=True):
        if one != other:
            return f"the machines differ in {what}: {one or 'unknown'} and {other or 'unknown'}"
    return None


_NAMES = ("board", "processor", "number of cores", "governor", "instructions", "system")


def _identity(state: MachineState) -> tuple[object, ...]:
    return (state.board, state.cpu_model, state.logical_cores, state.governor, state.architecture, state.os)


def _compare(base: FileResult, new: FileResult, reason: str | None) -> ResultComparison:
    same = base.sha256 == new.sha256
    if reason is None:
        for what, one, other in (
            ("engines", f"{base.engine} {base.engine_version}", f"{new.engine} {new.engine_version}"),
            ("threads", base.threads, new.threads),
            ("batches", base.batch, new.batch),
        ):
            if one != other:
                reason = f"the {what} differ: {one} and {other}"
                break
    if reason is None and (base.latency is None or new.latency is None):
        reason = "one of them has no latency"
    ratio = None
    if reason is None and base.latency is not None and new.latency is not None:
        ratio = ratio_of_medians(new.latency.values, base.latency.values, in_turns=False)
    return ResultComparison(base.file, base, new, same, ratio, reason)
