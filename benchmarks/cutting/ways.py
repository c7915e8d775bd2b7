"""The ways of cutting a model to a budget, by name. Another one is an entry of ``WAYS``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from compress.budget import Budget
from compress.model.load import ModelSpec
from compress.model.vit import SlicedViT

from . import best_basis, torch_pruning, units
from .cut_model import CutInputs, CutModel
from .pictures import Stack


@dataclass(frozen=True)
class Way:
    """A way of cutting.

    Attributes:
        name: name for ``--only``.
        title: name in tables.
        analyse: looks at the whole model once for all budgets.
        choose: decides what to cut for one budget.
        cut: makes the models of a choice, reconstructed where that is asked for: one, or two around the budget.
        reconstructs: whether ``cut`` can reconstruct.
        package: the module that it needs; empty where it needs none.
        labels: which labels of the calibration images it sees, in words.
    """

    name: str
    title: str
    analyse: Callable[[CutInputs], Any]
    choose: Callable[[CutInputs, Any, Budget], Any]
    cut: Callable[[CutInputs, Any, bool], tuple[CutModel, ...]]
    reconstructs: bool = True
    package: str = ""
    labels: str = "none"

    @property
    def installed(self) -> bool:
        """Whether the module that it needs can be imported."""
        try:
            return not self.package or find_spec(self.package) is not None
        except ModuleNotFoundError:  # the package around the module is missing
            return False


def _units(name: str, title: str, criterion: str, labels: str = "none") -> Way:
    def analyse(inputs: CutInputs) -> Any:
        return units.measure(inputs, criterion)

    return Way(name, title, analyse, units.choose, units.cut, labels=labels)


_ANSWERS = "the dataset's; of photographs, classes drawn from the whole model's answers"

WAYS: dict[str, Way] = {
    way.name: way
    for way in (
        Way(
            *("best", "best basis", best_basis.analysed, best_basis.choose, best_basis.cut),
            package="compress.bases.analysis",
        ),
        Way(
            *("best-alone", "best basis, no copies", best_basis.analysed_alone),
            *(best_basis.choose, best_basis.cut_alone),
            package="compress.bases.analysis",
        ),
        _units("units", "units (Fisher, knapsack)", "fisher", _ANSWERS),
        _units("l2", "L2", "l2"),
        Way(
            *("torch-pruning", "Torch-Pruning", torch_pruning.gradients, torch_pruning.choose, torch_pruning.cut),
            reconstructs=False,
            package="torch_pruning",
            labels=_ANSWERS,
        ),
        _units("random", "random", "random"),
    )
}
"""Ways of cutting by name, in the order of the tables."""


def inputs_for(spec: ModelSpec, model: SlicedViT, stack: Stack, seed: int) -> CutInputs:
    """Returns what the ways cut from: the model, images, and labels, drawn from its answers where none are known."""
    labels = stack.labels
    if labels is None:
        with torch.inference_mode():
            likely = torch.cat([model(images).softmax(1) for images in stack.images.split(16)])
        labels = torch.multinomial(likely, 1, generator=torch.Generator().manual_seed(seed))[:, 0].clone()
    return CutInputs(spec, model, stack.images, labels, seed)
