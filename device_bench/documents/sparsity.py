"""How many weights of a run's smaller model are zeros, as a document of the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime import ArtifactError, Document


@dataclass(frozen=True)
class LayerZeros:
    """The weights of one layer, without its biases.

    Attributes:
        name: of the weight.
        weights: how many.
        zeros: of these, how many are exactly 0.
    """

    name: str
    weights: int
    zeros: int


@dataclass(frozen=True)
class Zeros:
    """What unstructured pruning left of the layers it was let into, counted in the trained model.

    Attributes:
        share: of their weights that was to go, 0..1.
        scope: ``layer`` or ``global``.
        layers: block by block.

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
    """Returns where the document of run folder ``run`` stands."""
    return run / "search" / "sparsity.json"
