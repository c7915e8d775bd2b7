"""Compares the speed-up that the MACs of a pruned model promise with the measured one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from device_bench import format
from device_bench.documents.results import BenchResult
from device_bench.interval import Interval
from device_bench.timing.stats import ratio_of_medians
from runtime import Artifact


@dataclass(frozen=True)
class Gain:
    """The speed-up of a sliced file over the baseline's file of the same format and precision, timed in turns.

    Attributes:
        file: the sliced file.
        baseline: the baseline's file.
        precision: precision of both files.
        target: name of the target.
        macs_share: MACs of the sliced model as a share of the baseline's.
        measured: median latency of the baseline's file over that of the sliced one.
        table: the speed-up that a latency table predicts; None without a table.
    """

    file: str
    baseline: str
    precision: str
    target: str
    macs_share: float
    measured: Interval
    table: float | None = None

    @property
    def promised(self) -> float:
        """The speed-up if time were proportional to MACs."""
        return 1 / self.macs_share

    @property
    def falls_short(self) -> bool:
        """Whether the file saves less than half of the promised time, even at the interval's upper end."""
        return self.macs_share < 1 and 1 - 1 / self.measured.high < 0.5 * (1 - self.macs_share)

    @property
    def sentence(self) -> str:
        """The measured and the promised speed-up in words and, if it falls short, the cure."""
        measured = format.times_interval(self.measured)
        if self.macs_share == 1:
            return f"{self.file} has the MACs of {self.baseline}, and is {measured} as fast on {self.target}."
        if not self.falls_short:
            table = "" if self.table is None else f" and its latency table {format.times(self.table)}"
            return (
                f"Pruning alone made {self.file} {measured} as fast on {self.target}; "
                f"its MACs promised {format.times(self.promised)}{table}."
            )
        cure = (
            f"Search again with --cost latency@{self.target}, which counts measured time instead of MACs."
            if self.table is None
            else f"The run's latency table predicts {format.times(self.table)}."
        )
        return (
            f"Pruning bought less than half of what its MACs promise: {self.file} is {measured} as fast as "
            f"{self.baseline} on {self.target}, where {format.percent(1 - self.macs_share)} fewer MACs promise "
            f"{format.times(self.promised)}. {cure}"
        )


def gains(
    artifacts: Sequence[Artifact], benches: Iterable[BenchResult], table: Mapping[str, float] | None = None
) -> tuple[Gain, ...]:
    """Returns the gain of every sliced file that has a counterpart of the baseline in the same bench.

    Args:
        artifacts: the manifests of the exported files.
        benches: one for each target.
        table: predicted speed-ups by precision.
    """
    baselines = {(a.format, a.precision): a for a in artifacts if a.file.startswith("baseline.")}
    found = []
    for bench in benches:
        for artifact in artifacts:
            baseline = baselines.get((artifact.format, artifact.precision))
            if baseline is None or baseline is artifact:
                continue
            measured = _ratio(bench, baseline, artifact)
            if measured is not None and artifact.macs and baseline.macs:
                share = artifact.macs / baseline.macs
                predicted = (table or {}).get(artifact.precision)
                names = artifact.file, baseline.file, artifact.precision, bench.target
                found.append(Gain(*names, share, measured, predicted))
    return tuple(found)


def _ratio(bench: BenchResult, baseline: Artifact, artifact: Artifact) -> Interval | None:
    """Returns how many times as fast ``artifact`` is; none unless both were timed as they are now, and alike."""
    before, after = bench.of(baseline.file), bench.of(artifact.file)
    if before is None or after is None or before.latency is None or after.latency is None:
        return None
    if (before.sha256, after.sha256) != (baseline.sha256, artifact.sha256):
        return None
    if (before.threads, before.batch) != (after.threads, after.batch):
        return None
    return ratio_of_medians(before.latency.values, after.latency.values)
