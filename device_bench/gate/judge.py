"""The gate: facts and times of a new file held against those of a base, limit by limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from device_bench.documents.facts import Facts
from runtime import ArtifactError, MeasurementError, encode

from .duel import Duel, Rules
from .sign_test import ALPHA

Unit = Literal["count", "bytes", "share", "seconds", "cosine"]


@dataclass(frozen=True)
class Limits:
    """By how much a new file may be worse; null where nothing is asked.

    Attributes:
        max_slowdown_percent: of latency, shown by timing both in turns.
        max_size_growth_percent: of the file.
        max_params_growth_percent: of parameters.
        max_macs_growth_percent: of multiply-accumulates.
        max_extra_operators: of operators in the file.
        max_extra_partitions: of pieces handed to XNNPACK.
        max_extra_fallbacks: of operators that XNNPACK does not take.
        max_memory_growth_percent: of peak memory; it repeats to a few percent.
        max_top1_loss_points: of top-1, percentage points.
        max_agreement_loss_points: of agreement with the torch model, percentage points.
        max_cosine_loss: of the mean cosine of vectors, with those of the model that a file came from and with those
            of the whole model.
        max_neighbours_loss_points: of images whose nearest neighbour among the whole model's vectors is kept,
            percentage points.
        max_instructions_growth_percent: of instructions that an emulated core executes for one run.
        max_simd_growth_percent: of those of its vector and floating-point unit, which repeat exactly.
        seconds: for timing, s.
        false_alarm_percent: chance of calling a file slower that is not slower than the limit.

    Raises:
        ArtifactError: a limit is negative or not a number.
    """

    max_slowdown_percent: float | None = 2.5
    max_size_growth_percent: float | None = 1.0
    max_params_growth_percent: float | None = 0.0
    max_macs_growth_percent: float | None = 0.0
    max_extra_operators: float | None = None
    max_extra_partitions: float | None = 0.0
    max_extra_fallbacks: float | None = 0.0
    max_memory_growth_percent: float | None = 10.0
    max_top1_loss_points: float | None = 0.5
    max_agreement_loss_points: float | None = 0.5
    max_cosine_loss: float | None = 0.002
    max_neighbours_loss_points: float | None = 1.0
    max_instructions_growth_percent: float | None = 0.1
    max_simd_growth_percent: float | None = 0.0
    seconds: float = 30.0
    false_alarm_percent: float = 100 * ALPHA

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not 0 <= value < float("inf"):
                raise ArtifactError(f"The limit {field.name} is impossible", expected="0 or more", got=value)

    @property
    def rules(self) -> Rules:
        """How files are timed against each other; only where slowdown is limited."""
        return Rules((self.max_slowdown_percent or 0.0) / 100, self.false_alarm_percent / 100, self.seconds)


@dataclass(frozen=True)
class LimitCheck:
    """One limit, and what became of it.

    Attributes:
        metric: what is limited.
        unit: of base and new: a count, bytes, a share of 0..1, seconds, or a cosine.
        base: its value.
        new: its value.
        limit: in words.
        passed: None where nothing was held against the limit.
        note: why not, why it failed, or how sure that is.
    """

    metric: str
    unit: Unit
    base: float | None
    new: float | None
    limit: str
    passed: bool | None
    note: str = ""


@dataclass(frozen=True)
class Gate:
    """A new file held against a base.

    Attributes:
        base: name of the file it is held against.
        new: its name.
        against: ``file``, or ``baseline`` where stored facts were the base.
        checks: limit by limit.
        duel: the times; null where none were taken.
    """

    base: str
    new: str
    against: Literal["file", "baseline"]
    checks: tuple[LimitCheck, ...]
    duel: Duel | None = None

    @property
    def passed(self) -> bool:
        """Whether no limit was exceeded."""
        return not self.exceeded

    @property
    def exceeded(self) -> tuple[str, ...]:
        """The metrics whose limit was exceeded."""
        return tuple(check.metric for check in self.checks if check.passed is False)


@dataclass(frozen=True)
class _Metric:
    """A fact, its limit, and by how much a base may be exceeded."""

    name: str
    unit: Unit
    field: str
    limit: str
    worse_by: Callable[[float, float], float]
    words: str


def _growth_percent(base: float, new: float) -> float:
    return 0.0 if new <= base else float("inf") if base == 0 else 100 * (new - base) / base


def _more(base: float, new: float) -> float:
    return new - base


def _points_lost(base: float, new: float) -> float:
    return 100 * (base - new)


def _less(base: float, new: float) -> float:
    return base - new


_METRICS = (
    _Metric("size", "bytes", "size_bytes", "max_size_growth_percent", _growth_percent, "+{:g} %"),
    _Metric("parameters", "count", "params", "max_params_growth_percent", _growth_percent, "+{:g} %"),
    _Metric("MACs", "count", "macs", "max_macs_growth_percent", _growth_percent, "+{:g} %"),
    _Metric("operators", "count", "operators", "max_extra_operators", _more, "+{:g}"),
    _Metric("XNNPACK partitions", "count", "partitions", "max_extra_partitions", _more, "+{:g}"),
    _Metric("operators outside XNNPACK", "count", "fallbacks", "max_extra_fallbacks", _more, "+{:g}"),
    _Metric("peak memory", "bytes", "memory_bytes", "max_memory_growth_percent", _growth_percent, "+{:g} %"),
    _Metric("top-1", "share", "top1", "max_top1_loss_points", _points_lost, "−{:g} points"),  # noqa: RUF001
    _Metric("agreement", "share", "agreement", "max_agreement_loss_points", _points_lost, "−{:g} points"),  # noqa: RUF001
)
_OF_VECTORS = (
    _Metric("cosine with torch", "cosine", "cosine", "max_cosine_loss", _less, "−{:g}"),  # noqa: RUF001
    _Metric("cosine with the whole model", "cosine", "whole_cosine", "max_cosine_loss", _less, "−{:g}"),  # noqa: RUF001
    _Metric(
        "neighbours of the whole model",
        "share",
        "whole_neighbours",
        "max_neighbours_loss_points",
        _points_lost,
        "−{:g} points",  # noqa: RUF001
    ),
)
_COUNTED = (
    _Metric("instructions", "count", "all_instructions", "max_instructions_growth_percent", _growth_percent, "+{:g} %"),
    _Metric("SIMD instructions", "count", "simd_instructions", "max_simd_growth_percent", _growth_percent, "+{:g} %"),
)
_WITHOUT_CLASSES = tuple(metric for metric in _METRICS if metric.field not in ("top1", "agreement"))
_ROUNDING = 1e-9
NOT_TIMED = "a stored time is of another moment, if not another machine: give the base file itself to time both"


def judge(
    base: Facts,
    new: Facts,
    limits: Limits,
    duel: Duel | None = None,
    *,
    against: Literal["file", "baseline"] | None = None,
) -> Gate:
    """Holds a new file against a base.

    Args:
        base: facts of the base file, or those stored in a baseline.
        new: facts of the new file.
        limits: by how much it may be worse.
        duel: both files timed in turns; None where the base is not at hand, and then no time is compared.
        against: what the base is; by default a file where both were timed.

    Raises:
        MeasurementError: instructions were counted on different cores.
    """
    if base.instructions and new.instructions and base.instructions.core != new.instructions.core:
        raise MeasurementError(
            f"The instructions of {base.file} and {new.file} are not of the same core",
            expected=base.instructions.core,
            got=new.instructions.core,
            fix="Give the gate the target of the baseline, or take the baseline anew with --update-baseline",
        )
    counted = _COUNTED if new.instructions else ()
    known = {own.field for own in _OF_VECTORS for facts in (base, new) if getattr(facts, own.field) is not None}
    vectors = tuple(own for own in _OF_VECTORS if own.field in known)
    metrics = (*(_WITHOUT_CLASSES if vectors else _METRICS), *vectors, *counted)
    checks = tuple(_check(metric, base, new, limits) for metric in metrics)
    kind = against or ("baseline" if duel is None else "file")
    # where instructions were counted, nobody asked for times
    latency = () if counted and duel is None else (_latency(duel, limits),)
    return Gate(base.file, new.file, kind, (*latency, *checks), duel)


def _latency(duel: Duel | None, limits: Limits) -> LimitCheck:
    if limits.max_slowdown_percent is None:
        return LimitCheck("latency", "seconds", None, None, "none", None)
    limit = f"+{limits.max_slowdown_percent:g} %"
    if duel is None:
        return LimitCheck("latency", "seconds", None, None, limit, None, NOT_TIMED)
    times = duel.base_s, duel.new_s
    least = duel.detectable
    finds = "no slowdown can be found in so few rounds" if least is None else f"finds slowdowns of {100 * least:.1f} %"
    if duel.slower:
        return LimitCheck("latency", "seconds", *times, limit, False, f"slower than the limit; {_ratio(duel)}")
    sure = "not slower than the limit" if duel.cleared else "not shown to be slower in the time given"
    return LimitCheck("latency", "seconds", *times, limit, True, f"{sure}; {_ratio(duel)}; {finds}")


def _ratio(duel: Duel) -> str:
    ratio, rounds = duel.ratio, len(duel.differences)
    return (
        f"ratio {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}], "
        f"{rounds} rounds in {len(duel.launches)} processes, {duel.spent_s:.0f} s"
    )


def _check(metric: _Metric, base: Facts, new: Facts, limits: Limits) -> LimitCheck:
    allowed: float | None = getattr(limits, metric.limit)
    old_value, new_value = getattr(base, metric.field), getattr(new, metric.field)
    if allowed is None:
        return LimitCheck(metric.name, metric.unit, old_value, new_value, "none", None)
    words = metric.words.format(allowed)
    if old_value is None:
        return LimitCheck(metric.name, metric.unit, None, new_value, words, None, "not known of the base")
    if new_value is None:
        return LimitCheck(
            metric.name, metric.unit, old_value, None, words, False, "known of the base, and not of the new file"
        )
    passed = metric.worse_by(old_value, new_value) <= allowed + _ROUNDING
    return LimitCheck(metric.name, metric.unit, old_value, new_value, words, passed)


def read_limits(path: Path) -> Limits:
    """Reads the table ``[gate]`` of a ``pocketvit.toml``; ``false`` for a limit takes it away.

    Raises:
        ArtifactError: the file is missing or not TOML, or a key or value is not one of a limit's.
    """
    import tomllib

    try:
        table: Any = tomllib.loads(path.read_text(encoding="utf-8")).get("gate", {})
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist", expected="a TOML file with a table [gate]") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read as TOML", got=error) from error
    if not isinstance(table, dict):
        raise ArtifactError(f"gate in {path} is not a table", expected="[gate]", got=repr(table)[:80])
    known = {field.name: field for field in fields(Limits)}
    values: dict[str, float | None] = {}
    for key, value in table.items():
        if key not in known:
            raise ArtifactError(f"{path} has an unknown limit", expected=f"one of {', '.join(known)}", got=repr(key))
        if value is False and key.startswith("max_"):
            values[key] = None
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise ArtifactError(
                f"{key} in {path} is no limit", expected="a number, or false for none", got=repr(value)[:80]
            )
        else:
            values[key] = float(value)
    return Limits(**values)  # type: ignore[arg-type]


def gate_json(gates: tuple[Gate, ...]) -> dict[str, Any]:
    """Returns gates as JSON values, raw rounds included."""

    def one(gate: Gate) -> dict[str, Any]:
        times = None if gate.duel is None else duel_json(gate.duel)
        return {**encode(gate), "passed": gate.passed, "duel": times}

    return {"passed": all(gate.passed for gate in gates), "gates": [one(gate) for gate in gates]}


def duel_json(duel: Duel) -> dict[str, Any]:
    """Returns a duel as JSON values, with what follows from its rounds; what is not finite is null."""
    ratio = {name: value if value < float("inf") else None for name, value in encode(duel.ratio).items()}
    verdict = {"slower": duel.slower, "cleared": duel.cleared, "detectable": duel.detectable}
    return {**encode(duel), "ratio": ratio, **verdict}
