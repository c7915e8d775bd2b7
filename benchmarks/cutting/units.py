"""Cuts single units: an importance, this project's knapsack over all widths, slicing, and reconstruction."""

from __future__ import annotations

from compress.budget import Budget
from compress.importance import CRITERIA
from compress.importance.base import ImportanceInputs
from compress.importance.units import Importance
from compress.model.reconstruction import reconstruct
from compress.model.slicing import KeptUnits, keep_all, slice_vit
from compress.search.milp import solve

from .cut_model import CutInputs, CutModel, selection


def measure(inputs: CutInputs, criterion: str) -> Importance:
    """Returns the importance of every unit by a criterion of ``compress.importance.CRITERIA``."""
    return CRITERIA[criterion].importance(ImportanceInputs(inputs.model, inputs.batches(), seed=inputs.seed))


def choose(inputs: CutInputs, importance: Importance, budget: Budget) -> KeptUnits:
    """Returns the units within the budget whose removal loses the least importance."""
    plan = inputs.model.plan
    return solve(plan, importance, budget, keep_all(plan)).kept


def cut(inputs: CutInputs, kept: KeptUnits, mend: bool) -> tuple[CutModel, ...]:
    """Slices the model, and reconstructs it on the calibration images if ``mend`` is set."""
    model = slice_vit(inputs.model, kept)
    if mend:
        model = reconstruct(model, inputs.model, kept, (images for images, _ in inputs.batches()))
    return (CutModel(model, selection(kept.embed, inputs.model.plan.embed_dim)),)
