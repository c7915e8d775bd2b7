"""Chooses among candidates of a quantised file: the fastest that is accurate enough, or the most accurate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runtime import Parity, Trial

from .candidates import Candidate, CandidateBuilder, drop_of, score_of
from .processors import instructions_of_fp32
from .recipes import Recipe

Timer = Callable[[Sequence[Path]], Sequence[float]]
"""Runs files in turns and returns the time of each, seconds."""

_ALIKE = 0.02
"""Two files whose times differ by less count as equally fast; the more accurate one is taken."""

_FLOAT_LAYERS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Wanted:
    """The accuracy that a quantised file must reach on the images of choice.

    Attributes:
        agreement: least share of images with the float model's top-1, 0..1; None does not check.
        max_drop: most points of top-1 that may be lost; None does not check.
    """

    agreement: float | None = None
    max_drop: float | None = None

    def met_by(self, parity: Parity) -> bool:
        """Returns whether ``parity`` is accurate enough."""
        drop = drop_of(parity)
        if self.max_drop is not None and (drop is None or drop > self.max_drop):
            return False
        return self.agreement is None or (parity.top1_agreement or 0.0) >= self.agreement


def choose_fast(
    builder: CandidateBuilder,
    recipes: Sequence[Recipe],
    wanted: Wanted,
    timer: Timer | None,
    holds: Callable[[Path], bool] = lambda path: True,
    processor: str | None = None,
) -> tuple[Candidate, tuple[Trial, ...]]:
    """Returns the fastest candidate that is accurate enough, else the most accurate one, and all trials.

    If no recipe is accurate enough, each is tried with equalised channels of the residual stream; then the most
    accurate one is tried with more and more of its most sensitive layers in float.

    Args:
        builder: builds candidates.
        recipes: to try, the one expected to be fastest first.
        wanted: the accuracy to reach.
        timer: times files on the target; None keeps the order of ``recipes``.
        holds: checks a file on other images; if it fails, the next fastest candidate is taken.
        processor: family of processors that ``recipes`` are ordered for; its instruction counts go into the trials.
    """
    tried = [builder.candidate(recipe) for recipe in recipes]
    for stage in (_equalised, _partly_float):
        if any(wanted.met_by(one.parity) for one in tried):
            break
        for recipe in stage(builder, recipes, tried):
            tried.append(builder.candidate(recipe))
            if wanted.met_by(tried[-1].parity):
                break
    good = [one for one in tried if wanted.met_by(one.parity)]
    seconds: dict[str, float] = {}
    if timer is not None and len(good) > 1:
        seconds = dict(zip((one.recipe.name for one in good), timer([one.path for one in good]), strict=True))
        good = _fastest_first(good, seconds)
    chosen = next((one for one in good if holds(one.path)), None) or max(tried, key=score_of)
    return chosen, _trials(tried, seconds, processor)


def _fastest_first(good: Sequence[Candidate], seconds: dict[str, float]) -> list[Candidate]:
    """Sorts candidates by time, and those about as fast as the fastest by their accuracy."""
    least = min(seconds.values())

    def rank(one: Candidate) -> tuple[float, float]:
        time = seconds[one.recipe.name]
        return (least if time <= least * (1 + _ALIKE) else time), -score_of(one)

    return sorted(good, key=rank)


def choose_accurate(builder: CandidateBuilder, recipes: Sequence[Recipe]) -> tuple[Candidate, tuple[Trial, ...]]:
    """Returns the most accurate candidate of recipes that are equally fast, and all trials."""
    tried = [builder.candidate(recipe) for recipe in recipes]
    return max(tried, key=score_of), _trials(tried, {})


def _equalised(builder: CandidateBuilder, recipes: Sequence[Recipe], tried: Sequence[Candidate]) -> Iterator[Recipe]:
    for recipe in recipes:
        yield replace(recipe, name=f"{recipe.name}_equalised", equalised=True, rotated=False)


def _partly_float(builder: CandidateBuilder, recipes: Sequence[Recipe], tried: Sequence[Candidate]) -> Iterator[Recipe]:
    best = max(tried, key=score_of).recipe
    layers = builder.sensitivities(best)
    for count in _FLOAT_LAYERS:
        if count < len(layers):
            yield replace(best, name=f"{best.name}_{count}_float", float_layers=tuple(layers[:count]))


def _trials(tried: Sequence[Candidate], seconds: dict[str, float], processor: str | None = None) -> tuple[Trial, ...]:
    return tuple(trial_of(one, seconds.get(one.recipe.name), processor) for one in tried)


def trial_of(one: Candidate, latency_s: float | None = None, processor: str | None = None) -> Trial:
    """Returns the manifest's record of a candidate, with its instruction count for a family of processors."""
    parity = one.parity
    return Trial(
        recipe=one.recipe.name,
        images=parity.images,
        top1_agreement=parity.top1_agreement or 0.0,
        top1_drop=drop_of(parity),
        sqnr_db=parity.sqnr_db,
        latency_s=latency_s,
        instructions_of_fp32=None if processor is None else instructions_of_fp32(processor, one.recipe),
    )
