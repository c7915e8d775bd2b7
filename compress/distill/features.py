"""Feature-based distillation: losses on a teacher's hidden states and last tokens."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from compress.model.coordinates import Coordinates
from runtime import ModelError

_TINY = 1e-12


def feature_loss(student: torch.Tensor, teacher: torch.Tensor, projection: nn.Module) -> torch.Tensor:
    """Returns ``||r(student) - teacher||^2 / ||teacher||^2`` after both are averaged onto the coarser grid.

    FitNets regresses the teacher's hidden state from the student's with a learned regressor r. The division by the
    teacher's square makes the loss independent of the network's scale: a student that is zero everywhere has a loss
    of 1.

    Args:
        student: hidden state ``(B, C, h, w)``.
        teacher: hidden state ``(B, D, H, W)``; no gradient reaches it.
        projection: r, maps ``(..., C)`` to ``(..., D)``.

    Ref: Romero et al. 2015 (FitNets, arXiv 1412.6550), equation 3.
    """
    own, wanted = on_one_grid(student, teacher.detach())
    hinted = projection(own.movedim(1, -1)).movedim(-1, 1)
    loss: torch.Tensor = (hinted - wanted).square().sum() / wanted.square().sum().clamp_min(_TINY)
    return loss


def tokens_loss(
    student: tuple[torch.Tensor, torch.Tensor], teacher: tuple[torch.Tensor, torch.Tensor], back: nn.Module
) -> torch.Tensor:
    """Returns half of the relative squared error of the classifier's input, and half of that of the last tokens.

    Each is ``||b(student) - teacher||^2 / ||teacher||^2``, with sums over the batch. The classifier reads one vector of
    an image, and the other tokens are what else a network knows of it.

    Args:
        student: the classifier's input ``(B, C)`` and the last tokens ``(B, N, C)``.
        teacher: the same of the teacher, ``(B, D)`` and ``(B, N, D)``; no gradient reaches it.
        back: b, maps ``(..., C)`` to ``(..., D)``.
    """
    pairs = zip(student, teacher, strict=True)
    errors = [
        (back(own) - wanted.detach()).square().sum() / wanted.detach().square().sum().clamp_min(_TINY)
        for own, wanted in pairs
    ]
    return torch.stack(errors).mean()


class FixedMap(nn.Module):
    """An affine map of ``(..., C)`` that is not trained.

    Args:
        back: the map.
    """

    matrix: torch.Tensor
    shift: torch.Tensor

    def __init__(self, back: Coordinates) -> None:
        super().__init__()
        self.register_buffer("matrix", back.matrix.detach().float().clone())
        self.register_buffer("shift", back.shift.detach().float().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps ``(..., C)`` to ``(..., D)``."""
        mapped: torch.Tensor = x @ self.matrix + self.shift
        return mapped


def map_back(width: int, wanted: int, back: Coordinates | None) -> nn.Module:
    """Returns the map from a student's tokens to a teacher's: ``back`` if it is given, else ``projection_of``.

    Args:
        width: C of the student.
        wanted: D of the teacher.
        back: from the student's coordinates into the teacher's; None where they are the same, or unknown.

    Raises:
        ModelError: ``back`` is of another shape.
    """
    if back is None:
        return projection_of(width, wanted)
    if tuple(back.matrix.shape) != (width, wanted):
        raise ModelError(
            "The map back into the teacher's coordinates is of another shape",
            expected=(width, wanted),
            got=tuple(back.matrix.shape),
        )
    return FixedMap(back)


def on_one_grid(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Averages two maps ``(B, C, h, w)`` onto the smaller number of rows and of columns of the two."""
    size = (min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3]))
    pooled_a, pooled_b = (x if x.shape[2:] == size else F.adaptive_avg_pool2d(x, size) for x in (a, b))
    return pooled_a, pooled_b


def projection_of(width: int, wanted: int) -> nn.Module:
    """Returns the regressor from one width to another: the identity for equal widths, else LayerNorm and Linear.

    The Linear starts at zero, so that the loss starts at 1 for teachers of any scale.
    """
    if width == wanted:
        return nn.Identity()
    linear = nn.Linear(width, wanted)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.LayerNorm(width, elementwise_affine=False), linear)
