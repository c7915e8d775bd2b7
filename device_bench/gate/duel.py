"""Two files timed against each other, round by round, until the answer is sure.

A round loads both files anew, the first by lot, since where memory happens to lie costs time and stays as it is until
it is freed. Then come blocks of two turns of each file, in the order base new new base or new
base base new, by lot. A turn is a run that is not timed, since the other file has just used the caches, and then one
or, where they are short, a few that are, of which the fastest counts: the one that nothing else interrupted. What a
round says is one number, and where the files are equally fast it is as often above one as below, by the lots alone.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from device_bench.clock import Clock
from device_bench.interval import Interval
from device_bench.timing.inputs import random_input
from device_bench.timing.turns import no_mark
from device_bench.worker.isolated import RunJob, run_isolated
from runtime import MeasurementError, Progress, decode, encode, open_engine, silent
from runtime.worker.child import Reporter
from runtime.worker.parent import SILENCE_S

from .sign_test import ALPHA, detectable, ratio_interval, shown_above, shown_below

LAUNCH_S = 5.0
MAX_ROUNDS = 100
BLOCKS = 3
_FEW_BLOCKS = 1
_SHORT_S = 5e-3
_LONG_S = 20e-3
_MOST_ROUNDS = 5_000
_WARM_TURNS = 3

RunOnce = Callable[[], object]


@dataclass(frozen=True)
class DuelRound:
    """Both files loaded once, and their turns in blocks of two each.

    Attributes:
        base_s: turns of the base file, the fastest timed run of each, s.
        new_s: the same of the new file; the same number.

    Raises:
        MeasurementError: a time is not positive, or the turns are no blocks.
    """

    base_s: tuple[float, ...]
    new_s: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.base_s or len(self.base_s) != len(self.new_s) or len(self.base_s) % 2:
            raise MeasurementError("A round has blocks of two turns each", got=f"{len(self.base_s)}, {len(self.new_s)}")
        worst = min(*self.base_s, *self.new_s)
        if not 0 < worst < math.inf:
            raise MeasurementError("A round has an impossible time", expected="a positive number", got=worst)

    @property
    def log_ratio(self) -> float:
        """``log(new / base)``, the median of its blocks."""
        base, new = self.base_s, self.new_s
        return median(math.log((new[i] + new[i + 1]) / (base[i] + base[i + 1])) for i in range(0, len(base), 2))


@dataclass(frozen=True)
class Rules:
    """How sure to be of what, and how long to try.

    Attributes:
        max_slowdown: share by which the new file may be slower, 0.025 for 2.5 %.
        alpha: the chance of a false alarm, and of clearing a file whose slowdown is above the limit.
        seconds: after which to stop undecided, s; what has begun is finished.

    Raises:
        MeasurementError: a number is out of range.
    """

    max_slowdown: float = 0.025
    alpha: float = ALPHA
    seconds: float = 30.0

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("max_slowdown", self.max_slowdown, 0, 10),
            ("alpha", self.alpha, 1e-5, 0.5),
            ("seconds", self.seconds, 0, 86_400),
        ):
            if not low <= value <= high:
                raise MeasurementError(f"{name} of a gate is out of range", expected=f"{low} to {high}", got=value)


@dataclass(frozen=True)
class Duel:
    """What came of timing two files against each other.

    Attributes:
        rules: it went by.
        threads: of the engines.
        seed: of the lots.
        launches: the rounds of each process.
        spent_s: the time it all took, s.
    """

    rules: Rules
    threads: int
    seed: int
    launches: tuple[tuple[DuelRound, ...], ...]
    spent_s: float

    @property
    def differences(self) -> tuple[float, ...]:
        """``log(new / base)`` of every round."""
        return tuple(one.log_ratio for launch in self.launches for one in launch)

    @property
    def ratio(self) -> Interval:
        """Time of the new file over the base's, with an interval that holds however early it stopped."""
        return ratio_interval(self.differences, self.rules.alpha)

    @property
    def slower(self) -> bool:
        """Whether the new file is shown to be slower than the limit."""
        return shown_above(self.differences, math.log1p(self.rules.max_slowdown), self.rules.alpha)

    @property
    def cleared(self) -> bool:
        """Whether it is shown not to be."""
        return shown_below(self.differences, math.log1p(self.rules.max_slowdown), self.rules.alpha)

    @property
    def detectable(self) -> float | None:
        """The least slowdown that the whole of ``seconds`` would nearly always have shown; None if none."""
        rounds = min(_MOST_ROUNDS, round(len(self.differences) * max(1.0, self.rules.seconds / self.spent_s)))
        return detectable(self.differences, rounds, math.log1p(self.rules.max_slowdown), self.rules.alpha)

    @property
    def base_s(self) -> float:
        """Median time of the base file's turns, s."""
        return median(value for launch in self.launches for one in launch for value in one.base_s)

    @property
    def new_s(self) -> float:
        """Median time of the new file's turns, s."""
        return median(value for launch in self.launches for one in launch for value in one.new_s)


def duel(
    base: Path,
    new: Path,
    *,
    rules: Rules | None = None,
    threads: int = 1,
    seed: int | None = None,
    silence_s: float = SILENCE_S,
    run_job: RunJob = run_isolated,
    clock: Clock = time.perf_counter_ns,
    progress: Progress = silent,
) -> Duel:
    """Times two files against each other until it is shown that the new one is, or is not, slower than the limit.

    Args:
        base: a ``.onnx`` or ``.tflite`` file.
        new: another, or the same.
        rules: when to stop; by default ``Rules()``.
        threads: of each engine, at least 1.
        seed: of the lots; by default a new one each time.
        silence_s: a process that gives no sign for so long is ended, s.
        run_job: runs a job in a fresh process.
        clock: a monotonic clock in nanoseconds, for the budget.
        progress: told of the seconds spent.

    Raises:
        MeasurementError: a process that ran the files crashed, hung, or could not run one of them.
    """
    rules = rules or Rules()
    seed = random.SystemRandom().randrange(2**31) if seed is None else seed
    lots, started = random.Random(seed), clock()
    launches: list[tuple[DuelRound, ...]] = []
    while True:
        request = {
            "threads": threads,
            "seed": lots.randrange(2**31),
            "seconds": LAUNCH_S,
            "before": [one.log_ratio for launch in launches for one in launch],
            "rules": encode(rules),
        }
        launches.append(_launch(run_job, base, new, request, silence_s))
        spent_s = (clock() - started) * 1e-9
        found = Duel(rules, threads, seed, tuple(launches), spent_s)
        progress("duel", min(round(spent_s), math.ceil(rules.seconds)), math.ceil(rules.seconds))
        if found.slower or found.cleared or spent_s >= rules.seconds:
            progress("duel", math.ceil(rules.seconds), math.ceil(rules.seconds))
            return found


def fight(
    base: Callable[[], RunOnce],
    new: Callable[[], RunOnce],
    seconds: float,
    lots: random.Random,
    clock: Clock = time.perf_counter_ns,
    mark: Callable[[int], None] = no_mark,
    sure: Callable[[Sequence[float]], bool] = lambda differences: False,
) -> tuple[DuelRound, ...]:
    """Makes rounds of two runners for a while.

    Args:
        base: loads the base file and returns what runs it once.
        new: the same of the new one.
        seconds: after which to begin no further round, s.
        lots: decides the orders.
        clock: a monotonic clock in nanoseconds.
        mark: told whose turn it is: 0 for the base, 1 for the new file.
        sure: told ``log(new / base)`` of all rounds; whether they are enough.
    """
    rounds: list[DuelRound] = []
    started = clock()
    while not rounds or ((clock() - started) * 1e-9 < seconds and len(rounds) < MAX_ROUNDS):
        rounds.append(_round((base, new), lots, clock, mark))
        if sure([one.log_ratio for one in rounds]):
            break
    return tuple(rounds)


def _round(
    loaders: tuple[Callable[[], RunOnce], Callable[[], RunOnce]],
    lots: random.Random,
    clock: Clock,
    mark: Callable[[int], None],
) -> DuelRound:
    runs: dict[int, RunOnce] = {}
    for number in lots.sample((0, 1), 2):
        mark(number)
        runs[number] = loaders[number]()

    def turn(number: int, repeats: int) -> float:
        mark(number)
        return _turn(runs[number], repeats, clock)

    warm_s = max(min(turn(number, 1) for _ in range(_WARM_TURNS)) for number in (0, 1))
    repeats, blocks = (3 if warm_s < _SHORT_S else 1), (BLOCKS if warm_s < _LONG_S else _FEW_BLOCKS)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(blocks):
        outer, inner = lots.sample((0, 1), 2)
        for number in (outer, inner, inner, outer):
            times[number].append(turn(number, repeats))
    return DuelRound(tuple(times[0]), tuple(times[1]))


def _turn(run: RunOnce, repeats: int, clock: Clock) -> float:
    run()
    values = []
    for _ in range(repeats):
        start = clock()
        run()
        values.append((clock() - start) * 1e-9)
    return min(values)


def _launch(run_job: RunJob, base: Path, new: Path, request: dict[str, Any], silence_s: float) -> tuple[DuelRound, ...]:
    answer = run_job("duel", {"base": str(base.resolve()), "new": str(new.resolve()), **request}, silence_s=silence_s)
    if answer.error is None:
        return decode(tuple[DuelRound, ...], answer.value, "the rounds")
    if answer.turn is None:
        raise answer.error
    raise MeasurementError(f"{(base, new)[answer.turn].name} failed while it was timed", got=answer.error)


def run_launch(
    reporter: Reporter,
    base: str,
    new: str,
    threads: int,
    seed: int,
    seconds: float,
    before: Sequence[float],
    rules: dict[str, Any],
) -> tuple[DuelRound, ...]:
    """Runs one launch of a duel as a job of ``device_bench.worker.child``.

    Args:
        reporter: its turns are 0 for the base and 1 for the new file.
        base: path of a ``.onnx`` or ``.tflite`` file.
        new: path of another file, or the same.
        threads: threads of each engine.
        seed: seed of the order.
        seconds: after which to begin no further round, s.
        before: ``log(new / base)`` of the rounds of earlier launches.
        rules: the ``Rules`` that end it earlier, as JSON values.

    Raises:
        ArtifactError: a file cannot be loaded.
        MissingExtraError: an engine is not installed.
    """
    limits = decode(Rules, rules, "the request")

    def loader(path: Path) -> Callable[[], RunOnce]:
        def load() -> RunOnce:
            engine = open_engine(path, threads=threads)
            return partial(engine.run, random_input(engine, path.name, 0))

        return load

    return fight(
        loader(Path(base)),
        loader(Path(new)),
        seconds,
        random.Random(seed),
        mark=reporter.turn,
        sure=lambda own: sure([*before, *own], limits),
    )


def sure(differences: Sequence[float], rules: Rules) -> bool:
    """Tells whether rounds show that the new file is, or is not, slower than the limit."""
    limit = math.log1p(rules.max_slowdown)
    return shown_above(differences, limit, rules.alpha) or shown_below(differences, limit, rules.alpha)
