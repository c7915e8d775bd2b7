"""Where the features of a changed model lie in the coordinates of the whole model it was made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from runtime import ArtifactError, ShapePlan

from .tensors import write_tensors

COORDINATES_FILE = "coordinates.safetensors"


@dataclass(frozen=True, eq=False)
class Coordinates:
    """An affine map from a model's features, the input of its classifier, to those of the whole model.

    Attributes:
        matrix: ``(C, F)`` float32.
        shift: ``(F,)`` float32.
    """

    matrix: torch.Tensor
    shift: torch.Tensor

    def of(self, features: torch.Tensor) -> torch.Tensor:
        """Maps features ``(..., C)`` to ``(..., F)``, in float64."""
        return features.double() @ self.matrix.double().to(features.device) + self.shift.double().to(features.device)

    def then(self, outer: Coordinates) -> Coordinates:
        """Returns this map followed by another one."""
        matrix = self.matrix.double() @ outer.matrix.double()
        shift = self.shift.double() @ outer.matrix.double() + outer.shift.double()
        return Coordinates(matrix.float(), shift.float())

    def write(self, folder: Path) -> None:
        """Writes the map into a model folder.

        Raises:
            StorageError: the file cannot be written.
        """
        write_tensors(folder / COORDINATES_FILE, {"matrix": self.matrix, "shift": self.shift})


def of_head_input(plan: ShapePlan, tokens: Coordinates | None) -> Coordinates | None:
    """Returns the map of the classifier's input, given that of the tokens; None where it needs none.

    What an attention pooling gives has coordinates of its own, which no cut and no rotation changes.
    """
    return None if plan.attn_pool else tokens


def read_coordinates(folder: Path) -> Coordinates | None:
    """Reads the map of a model folder; None where the model has the whole model's coordinates.

    Raises:
        ArtifactError: the file is damaged.
    """
    path = folder / COORDINATES_FILE
    if not path.is_file():
        return None
    try:
        tensors = load_file(path)
        return Coordinates(tensors["matrix"], tensors["shift"])
    except (SafetensorError, KeyError, OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read", got=error, fix="Make the run anew") from error
