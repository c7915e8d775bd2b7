"""Cuts subspaces instead of units: the analysis of a whole model on images without labels, then a cut to a budget.

This is the only place that calls ``compress.bases.analysis``.
"""

from __future__ import annotations

from typing import Any

import torch

from compress.budget import Budget
from compress.model.vit import SlicedViT

from .cut_model import CutInputs, CutModel


def analysed(inputs: CutInputs) -> Any:
    """Returns the analysis of the whole model on the calibration images, which serves every budget."""
    from compress.bases.analysis import analyse

    return analyse(inputs.model, inputs.images, seed=inputs.seed)


def choose(inputs: CutInputs, analysis: Any, budget: Budget) -> tuple[Any, Budget]:
    """Returns analysis and budget, since the cut itself chooses the widths."""
    return analysis, budget


def cut(inputs: CutInputs, chosen: tuple[Any, Budget], mend: bool) -> tuple[CutModel, ...]:
    """Cuts to the budget, and reconstructs if ``mend`` is set."""
    from compress.bases.analysis import cut_to

    analysis, budget = chosen
    made = cut_to(analysis, budget, reconstruct=mend)
    return (CutModel(made.model, made.back, _offset(made.model, inputs.model)),)


def _offset(cut: SlicedViT, whole: SlicedViT) -> torch.Tensor | None:
    """Returns the bias of the whole model's last norm where the cut model has moved it into the head.

    A linear map cannot give it back.
    """
    own, theirs = (getattr(model.norm, "bias", None) for model in (cut, whole))
    return theirs.detach() if own is None and theirs is not None else None
