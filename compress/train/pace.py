"""How many steps a training has time for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from torch import nn

from compress.distributed import Ranks

from .held_out import HeldOut

_UNTIMED, _TIMED, _MOST_TIMED = 2, 8, 200
_SHARE = 0.02
_LEAST_S = 1e-6


@dataclass(frozen=True)
class Pace:
    """What a training takes, seconds.

    Attributes:
        step_s: time of one step.
        held_out_s: time to score the held-out images after an epoch.
    """

    step_s: float
    held_out_s: float


def measure_pace(
    steps: Iterator[int],
    held_out: HeldOut,
    network: nn.Module,
    clock: Callable[[], float],
    limit_s: float,
    ranks: Ranks,
) -> Pace:
    """Times the first steps of a training, after two that load code and fill caches, and a score.

    Args:
        steps: takes a step of the first epoch whenever it is advanced.
        held_out: the held-out images.
        network: the network in training.
        clock: seconds, monotonic.
        limit_s: time of the whole training; more steps are timed, up to 2 % of it.
        ranks: the processes that train together; all of them take the same steps.
    """
    times = [clock(), *(clock() for _ in islice(steps, _UNTIMED + _TIMED))]
    step_s = max(_step_s(times), _LEAST_S)
    more = min(_MOST_TIMED, int(_SHARE * limit_s / step_s)) - _TIMED
    more = int(ranks.broadcast_floats(more)[0])
    times += [clock() for _ in islice(steps, max(0, more))]
    return Pace(max(_step_s(times), _LEAST_S), held_out.seconds(network, clock))


def _step_s(times: Sequence[float]) -> float:
    """Returns the mean time of the steps that end at ``times``, where the first time is their start."""
    first = min(_UNTIMED, len(times) - 2)
    return (times[-1] - times[first]) / (len(times) - 1 - first)


def steps_within(seconds: float, pace: Pace, steps_per_epoch: int) -> int:
    """Returns the most steps that fit the time, with a score after every epoch and at the end; at least 1.

    >>> steps_within(100.0, Pace(step_s=1.0, held_out_s=5.0), steps_per_epoch=20)
    80
    """
    epoch_s = steps_per_epoch * pace.step_s + pace.held_out_s
    epochs = max(0, int(seconds // epoch_s))
    rest = int((seconds - epochs * epoch_s - pace.held_out_s) // pace.step_s)
    return max(1, epochs * steps_per_epoch + max(0, min(rest, steps_per_epoch - 1)))
