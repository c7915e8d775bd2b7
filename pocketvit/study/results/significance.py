"""Which differences in accuracy are more than chance: over seeds, and over images, held to many looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .spread import Spread, spread

ONE_SEED = "A test over seeds needs two seeds or more that both have."
NO_SPREAD = "The difference is the same for every seed, so the test has nothing to hold it against."
NO_ANSWERS = "The files kept no answers to the same images."


@dataclass(frozen=True)
class Contender:
    """One side of a comparison: a method with a budget, by its float32 file.

    Attributes:
        label: name in tables.
        top1: top-1 by seed, 0..1.
        right: for each seed, whether each test image got its class; empty if unknown.
    """

    label: str
    top1: dict[int, float]
    right: dict[int, tuple[bool, ...]]


@dataclass(frozen=True)
class Test:
    """The outcome of a test.

    Attributes:
        p: chance of a difference at least as large where there is none; null with a reason.
        holm: the same, held to all comparisons of its family; null where ``p`` is.
        significant: whether ``holm`` is at most the study's alpha; null where ``p`` is.
        reason: why there is no figure.
    """

    __test__ = False

    p: float | None
    holm: float | None
    significant: bool | None
    reason: str | None = None


@dataclass(frozen=True)
class AccuracyComparison:
    """Two methods on one model and one dataset.

    Attributes:
        model: name of the model.
        data: dataset as ``--data`` takes it.
        kind: kind of the files compared.
        first: a method, with its budget where it has one.
        second: another.
        difference: top-1 of the second less that of the first, by seed, -1..1.
        seeds: t-test of these differences: would other seeds show the same?
        images: McNemar's test of the answers: do these very models answer these very images differently?
        only_first_right: images that the first alone answered with their class, by seed.
        only_second_right: images that the second alone did.
    """

    model: str
    data: str
    kind: str
    first: str
    second: str
    difference: Spread
    seeds: Test
    images: Test
    only_first_right: tuple[int, ...]
    only_second_right: tuple[int, ...]


def compare(
    model: str, data: str, kind: str, pairs: Sequence[tuple[Contender, Contender]], alpha: float
) -> tuple[AccuracyComparison, ...]:
    """Compares pairs of methods, as one family of comparisons.

    The p-value over images is that of each seed's exact test, combined as twice their mean, which holds however the
    seeds hang together: their test images may overlap, so the answers must not be pooled as if they did not.

    Args:
        model: that all are of.
        data: that all are on.
        kind: kind of the files.
        pairs: methods to compare.
        alpha: chance of one or more false differences in the family, for each kind of test.

    Ref:
        Student 1908; McNemar 1947, exact form; Holm 1979; Vovk and Wang 2020, arXiv 1212.4966, for twice the mean.
    """
    found = [(first, second, *_raw(first, second)) for first, second in pairs]
    seeds = _held([own[4] for own in found], alpha)
    images = _held([own[5] for own in found], alpha)
    return tuple(
        AccuracyComparison(model, data, kind, first.label, second.label, difference, by_seed, by_image, *counts)
        for (first, second, difference, counts, _, _), by_seed, by_image in zip(found, seeds, images, strict=True)
    )


def paired_t(differences: Sequence[float]) -> float | str:
    """Returns the two-sided p-value of a t-test that paired differences have the mean zero, or why there is none.

    >>> round(paired_t([0.01, 0.02, 0.03]), 4)
    0.0742
    """
    from scipy.stats import ttest_1samp

    if len(differences) < 2:
        return ONE_SEED
    # counts of images over their number: what differs by less than a float's error is the same
    if max(differences) - min(differences) < 1e-12:
        return 1.0 if abs(differences[0]) < 1e-12 else NO_SPREAD
    return float(ttest_1samp(differences, 0.0).pvalue)


def mcnemar(only_first: int, only_second: int) -> float:
    """Returns the exact two-sided p-value of McNemar's test: a fair coin for each image that only one got right.

    >>> mcnemar(0, 6), mcnemar(0, 0)
    (0.03125, 1.0)
    """
    from scipy.stats import binomtest

    total = only_first + only_second
    return float(binomtest(only_first, total, 0.5).pvalue) if total else 1.0


def combined(p_values: Sequence[float]) -> float:
    """Returns one p-value for tests of one question that may hang together: twice their mean, or the only one.

    >>> combined([0.01, 0.03]), combined([0.2])
    (0.04, 0.2)
    """
    return p_values[0] if len(p_values) == 1 else min(1.0, 2 * sum(p_values) / len(p_values))


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values held to the whole family: the chance of any false one is at most that of each.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]

    Ref:
        Holm 1979: the k-th smallest of n times ``n - k + 1``, never less than the one before.
    """
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = least
    return adjusted


def _raw(
    first: Contender, second: Contender
) -> tuple[Spread, tuple[tuple[int, ...], tuple[int, ...]], float | str, float | str]:
    """Returns the differences, the counts, and the p-values of both tests or why there is none."""
    common = [seed for seed in first.top1 if seed in second.top1]
    differences = [second.top1[seed] - first.top1[seed] for seed in common]
    answered = [
        seed for seed in common if first.right.get(seed) and len(first.right[seed]) == len(second.right.get(seed, ()))
    ]
    alone = [
        [sum(a and not b for a, b in zip(one[seed], other[seed], strict=True)) for seed in answered]
        for one, other in ((first.right, second.right), (second.right, first.right))
    ]
    p_values = [mcnemar(a, b) for a, b in zip(*alone, strict=True)]
    by_image = combined(p_values) if p_values else NO_ANSWERS
    difference = spread(differences, "No seed was done by both.")
    return difference, (tuple(alone[0]), tuple(alone[1])), paired_t(differences), by_image


def _held(raw: Sequence[float | str], alpha: float) -> list[Test]:
    """Returns the tests of a family, those without a p-value with the reason."""
    adjusted = iter(holm([p for p in raw if not isinstance(p, str)]))
    tests = []
    for p in raw:
        if isinstance(p, str):
            tests.append(Test(None, None, None, p))
        else:
            held = next(adjusted)
            tests.append(Test(p, held, held <= alpha))
    return tests
