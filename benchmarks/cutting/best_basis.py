"""Cuts subspaces instead of units: the analysis of a whole model on images without labels, then a cut to a budget.

This is the only place that calls ``compress.bases.analysis``.
"""

from __future__ import annotations

import torch

from compress.bases.analysis import RIDGE, BasisAnalysis, analyse
from compress.bases.counts import COPIES, images_to_see
from compress.bases.varied import varied
from compress.budget import Budget
from compress.model.reconstruction import reconstruct
from compress.model.slicing import KeptUnits, keep_all
from compress.search.base import usual_groups
from compress.search.milp import solve

from .cut_model import BATCH, CutInputs, CutModel

Chosen = tuple[BasisAnalysis, KeptUnits]
"""The analysis, and the units of its model that stay."""


def analysed(inputs: CutInputs) -> BasisAnalysis:
    """Returns the analysis of the whole model on calibration images and changed copies, which serves every budget."""
    return analyse(inputs.model, _seen(inputs, COPIES, 0), distinct=len(inputs.images))


def analysed_alone(inputs: CutInputs) -> BasisAnalysis:
    """Returns the analysis of the whole model on calibration images without copies, which serves every budget."""
    return analyse(inputs.model, _seen(inputs, 0, 0))


def _seen(inputs: CutInputs, copies: int, number: int) -> torch.Tensor:
    wanted = images_to_see(len(inputs.images), inputs.model.plan.num_tokens, copies)
    return varied(inputs.images, wanted, inputs.seed + number)


def choose(inputs: CutInputs, analysis: BasisAnalysis, budget: Budget) -> Chosen:
    """Returns the units within the budget, in the model's best bases, whose removal loses the least."""
    plan = analysis.model.plan
    return analysis, solve(plan, analysis.importance, budget, keep_all(plan), usual_groups(plan)).kept


def cut(inputs: CutInputs, chosen: Chosen, mend: bool) -> tuple[CutModel, ...]:
    """Cuts and fits what stays by the moments of the analysis; then reconstructs, on other copies, if ``mend`` is set.

    Like a run it leaves the model in random bases, whose weights are of one size, so that it can be trained.
    """
    return _cut(inputs, chosen, mend, COPIES)


def cut_alone(inputs: CutInputs, chosen: Chosen, mend: bool) -> tuple[CutModel, ...]:
    """Does the same, and reconstructs on images without copies."""
    return _cut(inputs, chosen, mend, 0)


def _cut(inputs: CutInputs, chosen: Chosen, mend: bool, copies: int) -> tuple[CutModel, ...]:
    analysis, kept = chosen
    model = analysis.cut(kept)
    if mend:
        model = reconstruct(model, analysis.model, kept, _seen(inputs, copies, 1).split(BATCH), ridge=RIDGE)
    model, where = analysis.turned(model, kept, inputs.seed)
    return (CutModel(model, where.matrix, where.shift),)
