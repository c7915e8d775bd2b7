"""Runs a job of measuring in a fresh process, so that what this process has loaded does not change the times.

In the process of a training framework, two files were measured 5 % apart that are 25 % apart in a fresh process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from runtime import MeasurementError, Progress, silent
from runtime.worker.parent import SILENCE_S, JobResult, Worker, WorkerError, python_module, signal_name

CHILD = python_module("device_bench.worker.child")

RunJob = Callable[..., JobResult]
"""Runs a job in a fresh process, as ``run_isolated`` does."""


def run_isolated(
    job: str,
    request: dict[str, Any],
    progress: Progress = silent,
    *,
    silence_s: float = SILENCE_S,
    command: Sequence[str] = CHILD,
) -> JobResult:
    """Runs a job of ``device_bench.worker.child`` in a fresh process and returns its outcome, which may be an error.

    Args:
        job: its name.
        request: its arguments, as JSON values.
        progress: called with the progress that the job reports.
        silence_s: a job that reports nothing and starts no other file for so long is killed, s.
        command: the process.
    """
    with Worker(command, silence_s=silence_s, turns=True) as worker:
        try:
            worker.start()
        except OSError as error:
            what = "The process that measures could not be started"
            return JobResult(error=MeasurementError(what, got=error.strerror))
        try:
            return worker.run(job, request, progress)
        except WorkerError as failure:
            return JobResult(error=_explained(failure, silence_s), turn=worker.turn)


def _explained(failure: WorkerError, silence_s: float) -> MeasurementError:
    if failure.hung:
        return MeasurementError(f"The process gave no sign for {silence_s:g} s and was stopped")
    if failure.status is None:
        return MeasurementError("The process closed its output and gave no answer")
    if failure.status < 0:
        return MeasurementError(f"The process was killed by {signal_name(-failure.status)}")
    last = failure.last_line[:300] or "no message"
    return MeasurementError(f"The process ended with status {failure.status}", got=last)
