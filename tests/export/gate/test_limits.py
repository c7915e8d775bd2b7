"""What is refused, what is released, what is released with a warning, and how many images it takes."""

from __future__ import annotations

from dataclasses import replace

from export.gate.limits import (
    MIN_AGREEMENT,
    MIN_SQNR_DB,
    ExportLimits,
    images_to_prove,
    is_note,
    judge_until_told,
    verdict_on,
)
from runtime import Parity

LIMITS = ExportLimits(MIN_AGREEMENT, MIN_SQNR_DB, 0.5)
LOOKS = (365, 750, 1500, 3000)


def parity(images: int, lost: int, gained: int, *, others: int = 0, sqnr_db: float = 25.0) -> Parity:
    """A comparison with a model that is right on 82 % of the images."""
    right = round(0.82 * images)
    agreement = 1 - (lost + gained + others) / images
    found = Parity(images, 1.0, 0.1, sqnr_db, agreement, (right - lost + gained) / images, right / images)
    return replace(found, lost=lost, gained=gained, near_ties=20, near_tie_changes=min(others, 3))


def test_a_file_that_loses_much_is_refused_with_its_figures() -> None:
    verdict = verdict_on(parity(365, 20, 2), LIMITS, 1.645, file="m.int8.tflite")
    assert verdict.settled
    assert "m.int8.tflite loses too much top-1. Expected a loss of at most 0.5 points. Got 4.93 points" in str(
        verdict.refusal
    )
    assert verdict.drop_bounds is not None
    assert 0.5 < verdict.drop_bounds[0] < 4.93 < verdict.drop_bounds[1]


def test_a_loss_that_chance_explains_is_released_as_unproven() -> None:
    verdict = verdict_on(parity(365, 5, 2), LIMITS, 1.645, file="m.int8.tflite")
    assert verdict.refusal is None
    assert verdict.unproven is not None
    assert "not proven that m.int8.tflite loses at most 0.5 points of top-1: it loses 0.82 points" in verdict.unproven
    assert not is_note(verdict.unproven)
    proven = verdict_on(parity(3000, 6, 6), LIMITS, 1.645)
    assert (proven.refusal, proven.unproven) == (None, None)


def test_too_few_images_for_any_file_are_a_note_that_all_files_share() -> None:
    counts = ((0, 0), (1, 0), (1, 1))
    notes = {verdict_on(parity(359, *own), LIMITS, 1.645, file=f"m{own}").unproven for own in counts}
    (note,) = notes
    assert note is not None
    assert is_note(note)
    assert "539 test images are needed to prove that a file loses at most 0.5 points" in note
    assert "there are 359" in note
    # the same file on as many images as are named is proven, and on one less it is not
    assert verdict_on(parity(539, 0, 0), LIMITS, 1.645).unproven is None
    assert is_note(verdict_on(parity(538, 0, 0), LIMITS, 1.645).unproven or "")
    # a loss that is seen, and one that so many images could have excluded, stay warnings of their file
    for found in (parity(359, 4, 1), parity(600, 3, 1)):
        assert "not proven that m.tflite" in (verdict_on(found, LIMITS, 1.645, file="m.tflite").unproven or "")
    # no number of images proves that nothing is lost
    assert images_to_prove(0.0, 1.645) is None
    nothing = verdict_on(parity(359, 0, 0), replace(LIMITS, max_drop=0.0), 1.645).unproven
    assert nothing is not None
    assert not is_note(nothing)


def test_a_loss_limit_that_was_given_counts_what_was_observed() -> None:
    given = replace(LIMITS, explicit_drop=True)
    assert "loses too much" in str(verdict_on(parity(365, 5, 2), given, 1.645).refusal)
    assert verdict_on(parity(365, 3, 2), given, 1.645).refusal is None


def test_agreement_and_sqnr_decide_without_labels() -> None:
    unlabelled = replace(parity(400, 0, 0), top1=None, reference_top1=None, lost=None, gained=None)
    assert verdict_on(unlabelled, LIMITS, 1.645).refusal is None
    assert verdict_on(unlabelled, LIMITS, 1.645).unproven is None
    few = verdict_on(replace(unlabelled, top1_agreement=0.89), LIMITS, 1.645)
    assert "agrees too seldom" in str(few.refusal)
    assert "3 of the 44 other answers are near ties" in str(
        verdict_on(replace(unlabelled, top1_agreement=0.89, near_tie_changes=3), LIMITS, 1.645).refusal
    )
    far = verdict_on(replace(unlabelled, sqnr_db=11.9), LIMITS, 1.645)
    assert "an SQNR of at least 12 dB. Got 11.9 dB" in str(far.refusal)
    told = verdict_on(unlabelled, replace(LIMITS, explicit_drop=True), 1.645)
    assert "no labels of the model's classes" in str(told.refusal)


def test_no_limits_refuse_nothing() -> None:
    verdict = verdict_on(parity(365, 300, 0, sqnr_db=-3.0), ExportLimits(), 1.645)
    assert verdict.settled
    assert (verdict.refusal, verdict.unproven) == (None, None)


def seen(menu: dict[int, Parity], limits: ExportLimits = LIMITS) -> tuple[list[int], str]:
    """The looks that were taken, and the outcome."""
    taken: list[int] = []

    def measure(images: int) -> Parity:
        taken.append(images)
        return menu[images]

    _, verdict = judge_until_told(measure, LOOKS, limits)
    return taken, "refused" if verdict.refusal else "unproven" if verdict.unproven else "proven"


def test_images_are_added_until_it_can_be_told() -> None:
    assert seen({365: parity(365, 30, 2)}) == ([365], "refused")
    doubtful = {365: parity(365, 4, 3), 750: parity(750, 7, 8)}
    assert seen({**doubtful, 1500: parity(1500, 5, 7), 3000: parity(3000, 0, 0)}) == ([365, 750, 1500], "proven")
    undecided = {images: parity(images, images // 90, images // 110) for images in LOOKS}
    assert seen(undecided) == (list(LOOKS), "unproven")


def test_an_agreement_near_its_limit_is_looked_at_again() -> None:
    limits = ExportLimits(agreement=0.9)
    near = {images: parity(images, 0, 0, others=round(0.09 * images)) for images in LOOKS}
    assert seen(near, limits) == ([365, 750, 1500, 3000], "proven")
    assert seen({365: parity(365, 0, 0, others=4)}, limits) == ([365], "proven")
    assert seen({365: parity(365, 0, 0, others=80)}, limits) == ([365], "refused")
    worse = {images: parity(images, 0, 0, others=round(0.101 * images)) for images in LOOKS}
    assert seen(worse, limits) == (list(LOOKS), "refused")
