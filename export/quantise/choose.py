"""Chooses among candidates of a quantised file: the fastest that is accurate enough, or the most accurate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from export.gate.limits import ExportLimits, drop_of, verdict_on
from runtime import Parity, Trial

from .candidates import Candidate, CandidateBuilder, score_of
from .processors import instructions_of_fp32
from .recipes import Recipe

Timer = Callable[[Sequence[Path]], Sequence[float]]
"""Runs files in turns and returns the time of each, seconds."""

_ALIKE = 0.02
"""Two files whose times differ by less count as equally fast; the one that rounds less is tried first."""

_SURE = 2.0
"""Critical value of the bounds by which a candidate is given up, or taken, before all images have run."""

_CLOSE_DB = 25.0
"""Least SQNR, dB, of a candidate that is so close to the float model that no other basis is tried."""

_FAIR_DB = 15.0
"""Least SQNR, dB, of a rotated candidate beside which none with equalised channels is tried."""

_TO_COMPARE = 200

_FLOAT_LAYERS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Wanted:
    """The accuracy that a quantised file is to reach on the images of choice.

    Attributes:
        agreement: least share of images with the float model's top-1, 0..1; None does not check.
        max_drop: most points of top-1 that may be lost; None does not check.
        least: what the file must keep to be released at all; None asks for all of the above.
        cosine: least mean cosine of vectors with the float model's; None does not check.
    """

    agreement: float | None = None
    max_drop: float | None = None
    least: ExportLimits | None = None
    cosine: float | None = None

    def met_by(self, parity: Parity) -> bool:
        """Returns whether ``parity`` is accurate enough to look no further."""
        drop = drop_of(parity)
        if self.max_drop is not None and (drop is None or drop > self.max_drop):
            return False
        if self.agreement is not None and (parity.top1_agreement or 0.0) < self.agreement:
            return False
        if self.cosine is not None and (parity.vectors is None or parity.vectors.cosine < self.cosine):
            return False
        return self.least is None or verdict_on(parity, self.least, _SURE).refusal is None

    def allowed(self, parity: Parity) -> bool:
        """Returns whether a file may be released where none is accurate enough."""
        return self.met_by(parity) if self.least is None else verdict_on(parity, self.least, _SURE).refusal is None

    def told_by(self, parity: Parity) -> bool:
        """Returns whether more images would hardly change that ``parity`` is accurate enough, or is not."""
        aim = ExportLimits(self.agreement, None, self.max_drop)
        return verdict_on(parity, aim, _SURE, last=False).settled


def choose_fast(
    builder: CandidateBuilder,
    recipes: Sequence[Recipe],
    wanted: Wanted,
    timer: Timer | None,
    holds: Callable[[Path], bool] = lambda path: True,
    processor: str | None = None,
) -> tuple[Candidate, tuple[Trial, ...]]:
    """Returns the fastest candidate that is accurate enough, else the most accurate one, and all trials.

    The recipes are tried one after another, the fastest first, and the first one that is accurate enough is taken. If
    none is, and none that may be released has an SQNR of 25 dB, each is tried with equalised channels of the residual
    stream. Then the most accurate one that may be released is taken. If there is none, the most accurate one is tried
    with more and more of its most sensitive layers in float.

    Args:
        builder: builds candidates.
        recipes: to try, the one expected to be fastest first.
        wanted: the accuracy to reach.
        timer: times files on the target; None keeps the order of ``recipes``.
        holds: checks a file on other images; if it fails, the next candidate is taken.
        processor: family of processors that ``recipes`` are ordered for; its instruction counts go into the trials.
    """
    builder.told = wanted.told_by
    seconds = _times(builder, recipes, timer)
    recipes = _fastest_first(recipes, seconds)
    tried: list[Candidate] = []
    chosen: Candidate | None = None
    for stage in (_plain, _equalised, _partly_float):
        for recipe in stage(builder, recipes, tried):
            tried.append(builder.candidate(recipe))
            if wanted.met_by(tried[-1].parity) and holds(tried[-1].path):
                chosen = tried[-1]
                break
        if chosen is None and (stage is not _plain or any(_is_close(one, wanted) for one in tried)):
            chosen = _closest_allowed(builder, tried, wanted, holds)
        if chosen is not None:
            break
    chosen = builder.completed(chosen or max(tried, key=score_of))
    tried = [chosen if one.recipe == chosen.recipe else one for one in tried]
    return chosen, _trials(tried, seconds, processor)


def _is_close(one: Candidate, wanted: Wanted) -> bool:
    """Returns whether a candidate is so close to the float model that another basis could hardly be closer."""
    return score_of(one) >= _CLOSE_DB and wanted.allowed(one.parity)


def _closest_allowed(
    builder: CandidateBuilder, tried: Sequence[Candidate], wanted: Wanted, holds: Callable[[Path], bool]
) -> Candidate | None:
    """Returns the most accurate candidate that may be released, or None."""
    if wanted.least is None:
        return None  # then those that are allowed are those that are accurate enough, and they were turned down
    for one in sorted(tried, key=score_of, reverse=True):
        whole = builder.completed(one) if wanted.allowed(one.parity) else None
        if whole is not None and wanted.allowed(whole.parity) and holds(whole.path):
            return whole
    return None


def _times(builder: CandidateBuilder, recipes: Sequence[Recipe], timer: Timer | None) -> dict[str, float]:
    """Returns the time of a file of each recipe, by name; empty where nothing is timed."""
    if timer is None or len(recipes) < 2:
        return {}
    files = [builder.file_to_time(recipe) for recipe in recipes]
    found = dict(zip((recipe.name for recipe in recipes), timer(files), strict=True))
    for file in files:
        file.unlink(missing_ok=True)
    return found


def _fastest_first(recipes: Sequence[Recipe], seconds: dict[str, float]) -> list[Recipe]:
    """Sorts recipes by time, and those about as fast as the fastest by how little they round."""
    if not seconds:
        return list(recipes)
    least = min(seconds.values())

    def rank(recipe: Recipe) -> tuple[float, int]:
        time, integers = seconds[recipe.name], (recipe.linears, recipe.attention, recipe.others).count("integer")
        return (least if time <= least * (1 + _ALIKE) else time), integers

    return sorted(recipes, key=rank)


def choose_accurate(builder: CandidateBuilder, recipes: Sequence[Recipe]) -> tuple[Candidate, tuple[Trial, ...]]:
    """Returns the most accurate candidate of recipes that are equally fast, and all trials.

    Where there are many images the recipes are compared on a quarter of them, and the best one runs on all. Recipes
    that equalise channels are left out where the rotation, which does the same and more, reaches an SQNR of 15 dB. The
    ranges of int8 throughout are then learnt where the best candidate has less than 25 dB.
    """
    images = len(builder.subject.images)
    quarter = max(_TO_COMPARE, images // 4)
    most = quarter if len(recipes) > 1 and quarter < images else 0
    tried: list[Candidate] = []
    for recipe in recipes:
        if not (recipe.equalised and any(one.recipe.rotated and score_of(one) >= _FAIR_DB for one in tried)):
            tried.append(builder.candidate(recipe, most=most))
    best = max(tried, key=score_of)
    learns = best.recipe.is_int8_throughout and score_of(best) < _CLOSE_DB
    after = builder.with_learnt_ranges(best) if learns else builder.completed(best)
    tried.append(after)
    if score_of(builder.on_first(after, best.parity.images)) < score_of(best):
        after = builder.completed(best)
    kept = {one.recipe: one for one in (*tried, after)}
    return after, _trials(list(kept.values()), {})


def _plain(builder: CandidateBuilder, recipes: Sequence[Recipe], tried: Sequence[Candidate]) -> Sequence[Recipe]:
    return recipes


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
        top1_agreement=parity.top1_agreement,
        top1_drop=drop_of(parity),
        sqnr_db=parity.sqnr_db,
        latency_s=latency_s,
        instructions_of_fp32=None if processor is None else instructions_of_fp32(processor, one.recipe),
        cosine=None if parity.vectors is None else parity.vectors.cosine,
    )
