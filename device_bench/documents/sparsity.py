"""Counts of the zero weights in a run's pruned model, as a document of the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime import ArtifactError, Document


@dataclass(frozen=True)
class LayerZeros:
    """The weights of one layer, without its biases.

    Attributes:
        name: name of the weight.
        weights: number of weights.
        zeros: number of weights that are exactly 0.
    """

    name: str
    weights: int
    zeros: int


@dataclass(frozen=True)
class Zeros:
    """The zeros of the layers that unstructured pruning may change, counted in the trained model.

    Attributes:
        share: share of their weights to remove, 0..1.
        scope: ``layer`` or ``global``.
        layers: the layers, block by block.

    Raises:
        ArtifactError: there is no layer, or one has more zeros than weights.
    """

    share: float
    scope: str
    layers: tuple[LayerZeros, ...]

    def __post_init__(self) -> None:
        if not self.layers or any(not 0 <= layer.zeros <= layer.weights for layer in self.layers):
            raise ArtifactError("These counts of zeros cannot be", fix="They were edited by hand")

    @property
    def weights(self) -> int:
        """Weights of all layers."""
        return sum(layer.weights for layer in self.layers)

    @property
    def zeros(self) -> int:
        """Zeros among them."""
        return sum(layer.zeros for layer in self.layers)


ZEROS_DOCUMENT = Document("pocketvit.sparsity", 1, Zeros)


def zeros_path(run: Path) -> Path:
    """Returns the path of the document in a run folder."""
    return run / "search" / "sparsity.json"
