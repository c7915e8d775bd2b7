"""Counts the images of a Search Set that a model classifies correctly, as far as a decision needs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from compress.data.search_images import SearchImages
from compress.devices import autocast, copy_on, device_in_use, device_of
from compress.evaluate import evaluating
from compress.model.vit import SlicedViT

from .early_stop import Sequential
from .settings import TreeEffort, TreeSettings

_LEAST_STEP = 8


def objective(correct: int, images: int, cost: int, total: int, cost_weight: float) -> float:
    """Returns ``log2(correct / images) - cost_weight * log2(cost / total)``; minus infinity with no correct image."""
    if correct == 0:
        return -math.inf
    return math.log2(correct / images) - cost_weight * math.log2(cost / total)


@dataclass(frozen=True)
class Evaluated:
    """The outcome of an evaluation.

    Attributes:
        correct: number of correct images; an upper bound if not ``complete``.
        complete: whether all images were evaluated.
        images: number of evaluated images.
        order: images by margin, the hardest first; None if not ``complete``.
    """

    correct: int
    complete: bool
    images: int
    order: list[int] | None

    def as_json(self) -> dict[str, Any]:
        """Returns the part of the outcome that a journal records."""
        return {"correct": self.correct, "complete": self.complete, "images": self.images}

    @classmethod
    def of(cls, entry: dict[str, Any]) -> Evaluated:
        """Returns the outcome that a journal recorded."""
        return cls(entry["correct"], entry["complete"], entry["images"], entry["order"])


class Evaluation:
    """Evaluates models on a Search Set, in an order that depends on the best model so far.

    Args:
        images: the Search Set.
        total: cost of the unpruned model.
        settings: how the tree is searched.
        effort: images per step, and the chance of giving up a model wrongly.
        bf16: under bfloat16 autocast.
    """

    def __init__(
        self, images: SearchImages, total: int, settings: TreeSettings, effort: TreeEffort, bf16: bool
    ) -> None:
        self.images, self.total, self.settings, self.effort, self.bf16 = images, total, settings, effort, bf16
        self.order: npt.NDArray[np.int64] = np.arange(len(images))
        self.hard = 0

    def of(self, model: SlicedViT, cost: int, needed: float, most: int) -> Evaluated:
        """Counts correct images until it is known whether the objective can exceed ``needed``.

        No image is evaluated if even ``most`` correct images are too few. Images that the best model so far classifies
        wrongly come first, and every further mistake lowers the reachable count; this bound is exact. Without
        ``exact``, the first images come in random order, and the evaluation also ends when a statistical test finds
        that the remaining mistakes are almost surely too many.
        """
        count, weight = len(self.images), self.settings.cost_weight
        enough = (c for c in range(count + 1) if objective(c, count, cost, self.total, weight) > needed)
        least = 0 if needed == -math.inf else next(enough, count + 1)
        if most < least:
            return Evaluated(most, False, 0, None)
        model = copy_on(model, device_in_use())
        test = Sequential(self.hard, count - least, 0.0 if self.settings.exact else self.effort.error)
        margins = np.zeros(count, np.float32)
        reachable, done = count, 0
        while done < count and reachable >= least:
            # at least as many images as mistakes are needed to decide
            step = test.next_step(done) or max(_LEAST_STEP, reachable - least + 1)
            positions = self.order[done : done + min(step, self.effort.eval_batch)]
            right, margins[positions] = self.answers(model, positions)
            reachable -= int((~right).sum())
            done += len(positions)
            if test.settled(done, count - reachable):
                reachable = least - 1
        complete = done == count
        order = np.lexsort((np.arange(count), margins)).tolist() if complete else None
        return Evaluated(reachable, complete, done, order)

    def arrange(self, seen: Evaluated) -> None:
        """Puts the images that a model classifies wrongly first in the following evaluations."""
        order, self.hard = np.array(seen.order, np.int64), len(self.images) - seen.correct
        if not self.settings.exact:
            order[: self.hard] = np.random.default_rng(0).permutation(order[: self.hard])
        self.order = order

    def answers(
        self, model: SlicedViT, positions: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
        """Returns for the images at ``positions`` whether ``model`` is correct, and the margin of the true logit."""
        pictures, labels = self.images.at(positions)
        device = device_of(model)
        with evaluating(model), autocast(device, self.bf16):
            logits = model(pictures.to(device)).float().cpu()
        if self.images.index is not None:
            logits = F.normalize(logits, dim=1) @ torch.from_numpy(self.images.index).T
        own = logits.gather(1, labels[:, None])[:, 0]
        others = logits.scatter(1, labels[:, None], -math.inf).amax(dim=1)
        right = (logits.argmax(dim=1) == labels).numpy()
        return right, (own - others).numpy()
