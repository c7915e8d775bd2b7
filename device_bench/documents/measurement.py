"""How long to measure a file, and the raw values of one metric."""

from __future__ import annotations

from dataclasses import dataclass

from runtime import MeasurementError, check_fields

LATENCY_S = 5.0
"""Time for each file's latency unless another is asked for, s."""

THROUGHPUT_S = 2.0
"""The same for each file's throughput, s."""


@dataclass(frozen=True)
class Sampling:
    """How long to measure.

    Rounds end at ``max_samples``, or, once there are ``min_samples``, when ``seconds`` times the
    number of runners have been spent. The defaults give a 1 ms model 1000 samples and a 50 ms model
    some 100, in about 5 seconds each; half as many where several take turns and settle first.

    Attributes:
        min_samples: timed runs of each runner, at least.
        max_samples: timed runs of each runner, at most.
        seconds: budget per runner, s.
        max_warmup: warm-up runs of each runner, at most.

    Raises:
        MeasurementError: a number is out of range.
    """

    min_samples: int = 30
    max_samples: int = 1000
    seconds: float = LATENCY_S
    max_warmup: int = 50

    def __post_init__(self) -> None:
        check_fields(self)
        if not 1 <= self.min_samples <= self.max_samples:
            raise MeasurementError(
                "The number of samples is out of range",
                expected="1 <= min_samples <= max_samples",
                got=f"{self.min_samples} and {self.max_samples}",
            )
        if not self.seconds >= 0 or self.max_warmup < 1:
            raise MeasurementError(
                "The measuring budget is out of range",
                expected="seconds of 0 or more and a max_warmup of 1 or more",
                got=f"{self.seconds} s and {self.max_warmup}",
            )

    @classmethod
    def exactly(cls, samples: int) -> Sampling:
        """Returns a sampling of exactly ``samples`` timed runs, however long they take."""
        return cls(min_samples=samples, max_samples=samples)


@dataclass(frozen=True)
class Measurement:
    """Raw values of one metric of one thing, in the order they were taken.

    Attributes:
        metric: what was measured, such as ``latency``.
        unit: its SI unit; ``s`` for latency.
        values: the measured values.
        warmup_values: what came before and does not count.
        steady: whether the warm-up ended because the values had settled, not because of its cap.

    Raises:
        MeasurementError: there is no value, or one is not positive.
    """

    metric: str
    unit: str
    values: tuple[float, ...]
    warmup_values: tuple[float, ...]
    steady: bool

    def __post_init__(self) -> None:
        if not self.values:
            raise MeasurementError(f"The measurement of {self.metric} has no values")
        for value in (*self.values, *self.warmup_values):
            if not 0 <= value < float("inf"):
                raise MeasurementError(f"{self.metric} has an impossible value", expected="0 or more", got=value)
