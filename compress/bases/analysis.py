"""The analysis of a model on unlabelled images, from which it can be cut to any budget."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch

from compress.evaluate import MOST_OFF, off_by
from compress.importance.units import Importance
from compress.model.canonical import canonical, folds_norms
from compress.model.coordinates import Coordinates
from compress.model.parts.block import Block
from compress.model.slicing import KeptUnits
from compress.model.vit import SlicedViT
from runtime import ModelError, Progress, silent

from .folded import cut_and_fit, in_best_bases
from .hidden import removal_order
from .losses import SHARES, loss_between, measure_losses
from .moments import BlockMoments, Moments, moment_tensors, second_moments, with_spread
from .ranking import importance_of
from .sensitivity import Sensitivity, metric_root, rotated, sensitivity_of
from .turning import turned

RIDGE = 0.5
"""Ridge of a reconstruction in the best bases, whose start is fitted already: larger than elsewhere."""

_REST = 0.5
_PROBES = 2
_CHECKED = 8
_LEAST_TOKENS, _LEAST_IMAGES = 3_200, 24


@dataclass(frozen=True, eq=False)
class BasisAnalysis:
    """A model in its best bases, with the importance of its units.

    Attributes:
        model: computes what the whole model computes; its units can be cut in order of importance.
        importance: loss that each unit costs.
        moments: second moments, from which a cut model's weights are fitted.
        coordinates: of the model's features in the whole model.
    """

    model: SlicedViT
    importance: Importance
    moments: Moments
    coordinates: Coordinates

    def cut(self, kept: KeptUnits) -> SlicedViT:
        """Returns the model with the units ``kept``, and its weights fitted to those that are removed."""
        return cut_and_fit(self.model, self.moments, kept)

    def coordinates_of(self, kept: KeptUnits) -> Coordinates:
        """Returns the coordinates of a cut model's features."""
        return replace(self.coordinates, matrix=self.coordinates.matrix[list(kept.embed)])

    def turned(self, model: SlicedViT, kept: KeptUnits, seed: int) -> tuple[SlicedViT, Coordinates]:
        """Returns a cut model in random bases, which round better, and its features' coordinates."""
        return turned(model, self.coordinates_of(kept), seed)


def analyse(
    model: SlicedViT, images: torch.Tensor, progress: Progress = silent, *, distinct: int | None = None
) -> BasisAnalysis:
    """Finds the best bases of a model and measures what every cut in them costs. No label is used.

    Args:
        model: the model; it is not changed.
        images: ``(N, C, H, W)`` float32 as the model reads them, 64 to 1,024 of the kind that it will see.
        progress: called as the analysis advances.
        distinct: number of images of which the others are changed copies (``varied``); None where none is a copy.
            Where there are copies, MLPs are fitted with a larger ridge (``with_spread``).

    Raises:
        ModelError: a weight, or what the model computes on the images, is not a finite number.
    """
    for name, value in model.state_dict().items():
        if not torch.isfinite(value).all():
            raise ModelError(
                f"The weight '{name}' holds numbers that are not finite",
                fix="The checkpoint is damaged or its training diverged: load another one",
            )
    plain, coordinates = canonical(model), features_in_canonical(model)
    few = images[: max(_LEAST_IMAGES, -(-_LEAST_TOKENS // model.plan.num_tokens))]
    felt = sensitivity_of(plain, few, coordinates.matrix, _REST, _PROBES, progress)
    seen = second_moments(plain, images, felt.tokens, progress)
    _check_finite(seen, felt)
    if distinct is not None and distinct < len(images):
        seen = with_spread(seen)
    found, moments, basis = in_best_bases(plain, seen, felt)
    _check_same(model, found, few[:_CHECKED])
    moments = _rounded(moments)
    coordinates = replace(coordinates, matrix=basis.T.float() @ coordinates.matrix)
    orders = []
    for i, own in enumerate(moments.blocks):
        fc2 = cast(Block, plain.blocks[i]).mlp.fc2
        weight = torch.cat([fc2.weight, fc2.bias[:, None]], 1).detach().double()
        least = max(8, 8 * round(min(SHARES) * (len(own.hidden) - 1) / 8))
        orders.append(removal_order(own.hidden, metric_root(felt.transformed[i]) @ weight, least))
        progress("order", i + 1, len(moments.blocks))
    losses = measure_losses(found, moments, orders, few, coordinates.matrix, _REST, rotated(felt, basis), progress)
    return BasisAnalysis(found, importance_of(found.plan, losses, orders), moments, coordinates)


def loss_of(analysis: BasisAnalysis, kept: KeptUnits, images: torch.Tensor) -> float:
    """Returns the loss of a cut model on images, in the unit of the importance.

    It is 0.92 of the mean relative squared error of the features, half that of the pooled feature and half that of all
    tokens, and 0.08 of twice the mean divergence of the answers.

    Args:
        analysis: the analysis that the model is cut by.
        kept: the units that stay.
        images: ``(N, C, H, W)`` float32, as the model reads them.
    """
    back = analysis.coordinates.matrix
    return loss_between(analysis.model, analysis.cut(kept), images, back, back[list(kept.embed)], _REST)


def _check_finite(moments: Moments, felt: Sensitivity) -> None:
    parts = [part for own in moments.blocks for part in moment_tensors(own)]
    if not all(torch.isfinite(own).all() for own in (*parts, moments.stream, *felt.attended, *felt.transformed)):
        raise ModelError(
            "What the model computes on these images is not finite",
            fix="Check that the checkpoint fits the model and that the images are normalised as in its training",
        )


def _check_same(model: SlicedViT, found: SlicedViT, images: torch.Tensor) -> None:
    """Refuses bases in which rounding changes what the model computes."""
    off = off_by(found, model, images)
    if not off <= MOST_OFF:
        raise ModelError(
            "In its best bases the model does not compute the same",
            expected=f"outputs within {MOST_OFF:g} of the largest",
            got=f"{off:.3g}",
            fix="Cut the model as it is with --basis units",
        )


def features_in_canonical(model: SlicedViT) -> Coordinates:
    """Returns where the features of ``canonical(model)`` lie in those of the model."""
    plan, c = model.plan, model.plan.embed_dim
    if folds_norms(plan):
        norm = cast(torch.nn.LayerNorm, model.norm)
        return Coordinates(torch.diag(norm.weight.detach().float()), norm.bias.detach().float())
    return Coordinates(torch.eye(c), torch.zeros(c))


def _rounded(moments: Moments) -> Moments:
    """Returns moments that a file in float32 keeps exactly, so that a resumed run goes on with the same numbers."""

    def cast_one(value: torch.Tensor) -> torch.Tensor:
        return value.float().double()

    blocks = tuple(BlockMoments(*map(cast_one, moment_tensors(own))) for own in moments.blocks)
    return Moments(blocks, cast_one(moments.stream), {name: cast_one(own) for name, own in moments.inputs.items()})
