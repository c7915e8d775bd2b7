"""Checks that a fine-tuned checkpoint fits the data, before hours of work go into it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest

from compress.data.class_order import ORDERS, sorted_names
from compress.data.dataset import Dataset
from compress.data.splits import stratified
from compress.devices import device_in_use
from compress.distill.teachers import Teacher, teacher_logits
from compress.evaluate import logits_of
from runtime import ModelError, Progress, ShapePlan, macs, message, silent

from .bases import whole_model
from .job import PreparedRun
from .runfolder import RunFolder

_IMAGES = (128, 512)
"""Fewest and most images that a checkpoint is scored on."""

_MACS = 2e12
"""Most multiply-accumulates of a check, unless the fewest images need more."""

_BATCH = 64
_CHANCE_P = 0.05
_ORDER_P = 0.01
_FEW_CLASSES = 8
_MATCH_GAIN = 0.2
_SAME_ORDER = 0.75
"""An order of classes is the checkpoint's if its score is at least this share of the best possible order's."""

Logits = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Checked:
    """The score of a checkpoint on a sample of images.

    Attributes:
        what: the checkpoint, in words.
        images: number of images: held-out ones, and training ones if those are too few.
        top1: accuracy, 0..1.
        chance: accuracy of the most frequent class, 0..1.
        near_chance: whether ``top1`` is no better than chance.
        warnings: warnings for the user, one sentence each.
    """

    what: str
    images: int
    top1: float
    chance: float
    near_chance: bool
    warnings: tuple[str, ...]


def check_fine_tuned(job: PreparedRun, progress: Progress = silent, causes: Sequence[str] = ()) -> Checked | None:
    """Scores a checkpoint that is not trained again on a sample of held-out images.

    Args:
        job: the prepared run.
        progress: called as the check advances, and for every warning.
        causes: further possible causes of a score near chance, each a phrase such as "it was resampled".

    Returns:
        The score; None if the weights are trained first, or the data has other classes than they know.

    Raises:
        ModelError: the checkpoint scores better with the classes in another order, or its weights are missing.
    """
    if not job.fine_tuned:
        return None
    model = whole_model(job).to(device_in_use())

    def logits(indices: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return logits_of(model, job.data, indices, job.task.preprocessing)

    what = f"The checkpoint {job.spec.checkpoint}" if job.spec.checkpoint else f"The model {job.spec.name}"
    orders = () if job.knows_classes else other_orders(job.data)
    return check_answers(what, logits, job.data, sample(job.data, job.plan), orders, progress, causes)


def check_teacher(teacher: Teacher, job: PreparedRun, progress: Progress = silent) -> Checked | None:
    """Scores a teacher that is not trained here in the same way.

    Raises:
        ModelError: the teacher scores better with the classes in another order.
    """
    orders = other_orders(job.data) if teacher.spec is not None and teacher.spec.checkpoint is not None else ()

    def logits(indices: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return teacher_logits(teacher, job.data, indices)

    return check_answers(f"The teacher {teacher.name}", logits, job.data, sample(job.data), orders, progress, ())


def sample(data: Dataset, plan: ShapePlan | None = None) -> npt.NDArray[np.int64]:
    """Returns the images to score: held-out ones, of every class its share, and training ones if those are too few."""
    least, most = _IMAGES
    count = max(least, min(most, int(_MACS / macs(plan)))) if plan is not None else least
    generator = np.random.default_rng(0)
    held_out = stratified(data.labels, data.held_out, count, generator)
    lacking = least - len(held_out)
    labelled = data.train[data.labels[data.train] >= 0]
    more = stratified(data.labels, labelled, lacking, generator) if lacking > 0 else labelled[:0]
    return np.sort(np.concatenate([held_out, more]))


def other_orders(data: Dataset) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Returns the other possible orders of an image folder's classes, by name."""
    if not data.from_files:
        return ()
    named = ((order, sorted_names(data.class_names, order)) for order in ORDERS)
    return tuple((order, names) for order, names in named if names != data.class_names)


def check_answers(
    what: str,
    logits: Logits,
    data: Dataset,
    indices: npt.NDArray[np.int64],
    orders: Sequence[tuple[str, Sequence[str]]],
    progress: Progress,
    causes: Sequence[str],
) -> Checked:
    """Judges the answers to the images at ``indices``.

    A score is near chance if a one-sided binomial test at 5 % cannot distinguish it from the share of the most frequent
    class or, with 8 classes or more, if it is below twice that share. An order of classes is refused if another one is
    right on more images, by a sign test at 1 %.

    Args:
        what: name of the checkpoint, for the texts.
        logits: function from indices to logits ``(N, classes)``.
        data: the data.
        indices: indices of the images.
        orders: other orders of the classes, by name.
        progress: called as the check advances, and for every warning.
        causes: further possible causes of a score near chance.

    Raises:
        ModelError: another order is right on more images.
    """
    answers = np.empty(len(indices), np.int64)
    for first in range(0, len(indices), _BATCH):
        progress("check checkpoint", first, len(indices))
        part = indices[first : first + _BATCH]
        answers[first : first + len(part)] = logits(part).argmax(axis=1)
    labels = data.labels[indices]
    right = answers == labels
    top1, chance = float(right.mean()), float(np.bincount(labels).max() / len(labels))
    progress("check checkpoint", len(indices), len(indices), f"top-1 {top1:.1%} of {len(indices)} images")
    match = _best_match(answers, labels, data.num_classes)
    for order in orders:
        _refuse_order(what, order, data, answers, labels, match)
    near = near_chance(int(right.sum()), len(labels), chance, data.num_classes)
    warnings = [_warning(what, top1, len(labels), chance, causes)] if near else []
    warnings += _permuted(what, match, len(labels), data.class_names, top1)
    for text in warnings:
        message(progress, "warning", text)
    return Checked(what, len(labels), top1, chance, near, tuple(warnings))


def near_chance(right: int, images: int, chance: float, classes: int) -> bool:
    """Returns whether a score is no better than chance; False if even a perfect score could not show more."""
    if chance**images > _CHANCE_P:
        return False
    above = binomtest(right, images, chance, alternative="greater").pvalue
    return bool(above > _CHANCE_P) or (classes >= _FEW_CLASSES and right < 2 * chance * images)


def _warning(what: str, top1: float, images: int, chance: float, causes: Sequence[str]) -> str:
    usual = (
        "the classes are in another order (--class-order natural, --class-map FILE)",
        "the pictures are prepared otherwise than in its training (--mean, --std, --in-chans)",
        "it was trained on other data",
    )
    return (
        f"{what} counts as fine-tuned and is right on {top1:.1%} of {images} images, which is near chance "
        f"({chance:.1%}). It may be that {'; that '.join((*causes, *usual))}."
    )


@dataclass(frozen=True)
class _Match:
    """The assignment of outputs to classes under which most answers are right.

    Attributes:
        share: share of the images on which it is right, 0..1.
        places: output of each class.
        counts: number of images by class and answer.
    """

    share: float
    places: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]


def _best_match(answers: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], classes: int) -> _Match | None:
    """Returns the best assignment; None if there are too few images to distinguish it from chance."""
    if len(labels) < 5 * classes:
        return None
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, answers), 1)
    _, places = linear_sum_assignment(-counts)
    return _Match(float(counts[np.arange(classes), places].sum() / len(labels)), places, counts)


def _refuse_order(
    what: str,
    order: tuple[str, Sequence[str]],
    data: Dataset,
    answers: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    match: _Match | None,
) -> None:
    """Refuses the order of the data if another one is right on more images and no third one on far more."""
    order_name, names = order
    places = {name: place for place, name in enumerate(names)}
    moved = np.array([places[name] for name in data.class_names])
    right, other = answers == labels, answers == moved[labels]
    better, worse = int((other & ~right).sum()), int((right & ~other).sum())
    chance = float(np.bincount(labels).max() / len(labels))
    if better <= worse or binomtest(better, better + worse, alternative="greater").pvalue >= _ORDER_P:
        return
    if near_chance(int(other.sum()), len(labels), chance, data.num_classes):
        return
    if match is not None and other.mean() < _SAME_ORDER * match.share:
        return
    raise ModelError(
        f"{what} knows the classes in {order_name} order",
        expected=f"{order_name} order, in which it is right on {other.mean():.1%} of {len(labels)} images "
        f"({', '.join(names[:4])}, …)",
        got=f"the order {', '.join(data.class_names[:4])}, …, in which it is right on {right.mean():.1%}",
        fix=f"Give --class-order {order_name}",
    )


def _permuted(what: str, match: _Match | None, images: int, names: Sequence[str], top1: float) -> list[str]:
    """Returns a warning if the answers fit far better with some classes exchanged."""
    if match is None or match.share < max(0.5, top1 + _MATCH_GAIN):
        return []
    moved = [label for label, place in enumerate(match.places) if label != place]
    label = max(moved, key=lambda own: int(match.counts[own, match.places[own]]))
    return [
        f"{what} would be right on {match.share:.1%} of {images} images, not {top1:.1%}, with {len(moved)} of its "
        f"classes in other places: pictures of {names[label]}, which is class {label} here, it calls class "
        f"{match.places[label]}. Give its order with --class-map FILE."
    ]


def keep_notes(folder: RunFolder, data: Dataset, checked: Sequence[Checked | None] = ()) -> None:
    """Logs remarks on the data, and the scores of checkpoints.

    Raises:
        StorageError: the log cannot be written.
    """
    for note in data.notes:
        folder.log("data", text=note)
    for note in data.warnings:
        folder.log("warning", text=note)
    for own in checked:
        if own is not None:
            folder.log("checked", what=own.what, images=own.images, top1=own.top1, chance=own.chance)
            for text in own.warnings:
                folder.log("warning", text=text)
