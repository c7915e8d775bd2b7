"""Transformable architecture search (TAS): learns widths and depth by gradient for a target cost.

Every width and the depth have odds over candidates. Weights and odds are trained in turns, the weights on one half of
the training images and the odds on the other, with samples of the supernet at a falling temperature. Only the shape is
learnt: the proposal keeps the most important units of the starting model at these widths.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from compress.budget import Budget
from compress.data.augment import Augmentation
from compress.data.dataset import Dataset
from compress.importance.units import Importance, check_finite_importance, lost_importance
from compress.model.slicing import keep_all
from compress.model.vit import SlicedViT
from compress.recipe import TrainRecipe
from compress.search.base import Proposal
from compress.search.steps import width_steps
from compress.train.fit import SAVE_EVERY_S
from runtime import PlanError, Preprocessing, Progress, silent

from .candidates import plan_with
from .journal import TasJournal
from .learning import OddsTraining
from .plan import most_likely
from .settings import OddsRecipe
from .state import read_tas_state, write_tas_state
from .units import kept_first, order_of, ordered

TAS_JOURNAL, TAS_STATE = "tas.jsonl", "tas.safetensors"
"""Files of a search: the odds over time, and the state of an unfinished search."""


def search_tas(
    model: SlicedViT,
    importance: Importance,
    budget: Budget,
    data: Dataset,
    spec: Preprocessing,
    recipe: TrainRecipe,
    settings: OddsRecipe | None = None,
    *,
    augmentation: Augmentation,
    seed: int = 0,
    bf16: bool = False,
    folder: Path | None = None,
    progress: Progress = silent,
    clock: Callable[[], float] = time.monotonic,
) -> Proposal:
    """Learns a plan whose cost is at most the budget and at most the tolerance below it.

    If no plan of the candidates has such a cost, the tolerance is doubled until one does.

    Args:
        model: the model to prune; it is not changed.
        importance: importance of its units; narrower candidates use the most important ones, which are kept at the end.
        budget: the target cost R and the highest cost of the plan; a model within it is returned as it is.
        data: the dataset; its training split is halved by seed.
        spec: the model's input.
        recipe: training of the weights; its epochs are over half of the training images.
        settings: training of the odds.
        augmentation: random changes to training pictures.
        seed: seed of halves, order, augmentation and samples.
        bf16: compute under bfloat16 autocast.
        folder: folder of ``tas.jsonl`` (odds over time) and ``tas.safetensors`` (state of the search), written every
            30 seconds and after every epoch; the search is resumed from them. The caller removes the state.
        progress: called after every step.
        clock: returns monotonic seconds.

    Returns:
        The plan, the kept units (blocks at the end may be removed), and the steps of ``width_steps`` with the depth.

    Raises:
        PlanError: every plan of the candidates is over the budget, an importance or a loss is not finite, or the
            recipe has no epoch.
        StorageError: the state or the journal cannot be written.

    Ref: Dong and Yang 2019, Network Pruning via Transformable Architecture Search, arXiv 1905.09717.
    """
    check_finite_importance(importance)
    if budget.of(model.plan) <= budget.limit:
        return Proposal(model.plan, keep_all(model.plan), ())
    if recipe.epochs < 1:
        raise PlanError("A transformable architecture search needs at least one epoch", got=recipe.epochs)
    settings, order = settings or OddsRecipe(), order_of(importance)
    learning = OddsTraining(ordered(model, order), budget, data, spec, recipe, settings, augmentation, seed, bf16)
    lowest = _lowest(learning)
    keeper = _Keeper(folder, learning, clock)
    while not learning.finished:
        for train, valid in learning.batches():
            learning.take_step(train, valid)
            keeper.stepped()
            progress("search", learning.step, learning.total_steps, learning.note)
    chosen = most_likely(learning.candidates, learning.odds, learning.table, lowest, budget.limit)
    assert chosen is not None, "a plan of these candidates fitted at the start"
    plan = plan_with(model.plan, chosen)
    kept = kept_first(model.plan, order, plan)
    lost = lost_importance(importance, kept)
    return Proposal(plan, kept, width_steps(model.plan, plan, budget, lost, depth=True))


def _lowest(learning: OddsTraining) -> int:
    """Returns the lowest cost of the result: the budget less the tolerance, which is doubled until a plan fits.

    Raises:
        PlanError: every plan of the candidates is over the budget.
    """
    budget, tolerance = learning.budget, learning.settings.tolerance
    even = {choice: np.full(len(widths), 1 / len(widths)) for choice, widths in learning.candidates.items()}
    while True:
        low = max(0, math.ceil((1 - tolerance) * budget.limit))
        if most_likely(learning.candidates, even, learning.table, low, budget.limit) is not None:
            return low
        if not low:
            least = plan_with(learning.plan, {choice: widths[0] for choice, widths in learning.candidates.items()})
            raise PlanError(
                "The budget cannot be met by these candidates",
                expected=f"at least {budget.cost.budget(budget.of(least))}",
                got=budget.cost.budget(budget.limit),
                fix="Raise the budget, or search with another --search",
            )
        tolerance *= 2


class _Keeper:
    """Writes a search's journal and state to a folder, if there is one, and resumes the search from them."""

    def __init__(self, folder: Path | None, learning: OddsTraining, clock: Callable[[], float]) -> None:
        self._folder, self._learning, self._clock = folder, learning, clock
        self._every = max(1, learning.total_steps // learning.settings.records)
        self._records, self._saved = 0, clock()
        if folder is None:
            return
        self._journal = TasJournal(folder / TAS_JOURNAL, learning.asked, learning.candidates)
        state = read_tas_state(folder / TAS_STATE, learning.fingerprint)
        if state is not None and self._journal.holds(state.records):
            learning.restore(state)
            self._records = state.records
        self._journal.start(self._records)
        if not self._records:
            self._record()

    def stepped(self) -> None:
        """Writes the journal and the state when they are due."""
        if self._folder is None:
            return
        learning = self._learning
        if learning.step % self._every == 0 or learning.finished:
            self._record()
        if learning.step % learning.steps_per_epoch == 0 or self._clock() - self._saved > SAVE_EVERY_S:
            write_tas_state(self._folder / TAS_STATE, learning.fingerprint, learning.state(self._records))
            self._saved = self._clock()

    def _record(self) -> None:
        self._journal.record(self._learning.record)
        self._records += 1
