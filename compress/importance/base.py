"""A criterion of importance as data: what measures, and the change of basis before it. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from runtime import Progress, silent
from runtime.registry import imported

if TYPE_CHECKING:
    from compress.data.batches import Batch
    from compress.model.vit import SlicedViT

    from .units import Importance

T = TypeVar("T")


@dataclass(frozen=True)
class ImportanceInputs:
    """Everything that a criterion may use.

    Attributes:
        model: the model to measure; criteria leave it as it is.
        batches: images ``(B, C, H, W)`` float32, normalised and augmented, with labels ``(B,)`` int64; they can be read
            once.
        total: number of batches, for progress; 0 if unknown.
        seed: seed of everything random.
        bf16: compute under bfloat16 autocast.
        progress: called after every batch.
    """

    model: SlicedViT
    batches: Iterable[Batch]
    total: int = 0
    seed: int = 0
    bf16: bool = False
    progress: Progress = silent


@dataclass(frozen=True)
class Criterion:
    """A way to measure how much each unit of a model matters.

    A criterion may bring a change of basis. ``fold`` then returns a model of the same plan that computes the same
    function from other units, for instance with the queries and keys of every head rotated to their principal axes.
    The importance is measured on that model, and the search and the slicing go on with it.

    Attributes:
        name: name of the criterion for ``--importance``.
        summary: description in a few words, for ``--help``.
        measure: the function that measures, or its place as ``"module:function"``. A place is imported when the
            function is first called, so that listing the criteria imports no torch.
        fold: the function that changes the basis, or its place; None keeps the units of the model. It must be
            deterministic, since a resumed run calls it again.
    """

    name: str
    summary: str
    measure: Callable[[ImportanceInputs], Importance] | str
    fold: Callable[[ImportanceInputs], SlicedViT] | str | None = None

    def importance(self, inputs: ImportanceInputs) -> Importance:
        """Returns the importance of every unit of the model; all values are at least 0.

        Raises:
            PlanError: there is no batch and the criterion needs one.
        """
        return _called(self.measure, inputs)

    def folded(self, inputs: ImportanceInputs) -> SlicedViT:
        """Returns the model in the criterion's basis; the model itself for a criterion that brings none."""
        return _called(self.fold, inputs) if self.fold else inputs.model


def _called(function: Callable[[ImportanceInputs], T] | str, inputs: ImportanceInputs) -> T:
    found: Callable[[ImportanceInputs], T] = imported(function) if isinstance(function, str) else function
    return found(inputs)
