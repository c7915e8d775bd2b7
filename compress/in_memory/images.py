"""The images that a model in memory is cut by: checked, and divided into parts."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from runtime import DataError, PocketVitWarning, ShapePlan

LEAST_IMAGES, MOST_IMAGES = 32, 1536
"""Fewest and most images that are used."""

_SHARE, _FEWEST, _MOST_HELD_OUT = 8, 4, 256
_LARGEST = 32.0
"""No normalised image has larger values, and pixels up to 255 do."""

Images = torch.Tensor | Iterable[Any]


@dataclass(frozen=True, eq=False)
class ImageParts:
    """Images ``(N, C, H, W)`` float32 on the CPU, divided at random.

    Attributes:
        analysis: the bases are found from these, three quarters or more.
        choice: these decide whether a reconstruction is kept.
        report: these are used for the reported figures alone.
    """

    analysis: torch.Tensor
    choice: torch.Tensor
    report: torch.Tensor


def divide_images(images: Images, plan: ShapePlan, seed: int) -> ImageParts:
    """Checks images and divides them.

    Args:
        images: ``(N, C, H, W)`` of any floating type, or batches of them, each a tensor or a tuple that begins with
            one. Of more than ``MOST_IMAGES`` a random part is used; of batches, the first.
        plan: the model that reads them.
        seed: seed of the division.

    Raises:
        DataError: the images are of another shape or type, hold NaN or infinity, or are too few.

    Warns:
        PocketVitWarning: the images look like pixels that are not normalised.
    """
    found = _checked(images, plan) if isinstance(images, torch.Tensor) else _gathered(images, plan)
    if len(found) < LEAST_IMAGES:
        raise DataError("The images are too few", expected=f"{LEAST_IMAGES} or more, better 300", got=len(found))
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(found), generator=generator)[:MOST_IMAGES]
    chosen = found[order.to(found.device)].detach().to("cpu", torch.float32)
    if not torch.isfinite(chosen).all():
        raise DataError("The images hold NaN or infinity", expected="finite numbers", fix="Leave those images out")
    largest = float(chosen.abs().max())
    if largest > _LARGEST:
        warnings.warn(
            f"The images hold values up to {largest:.0f}, as pixels do that are not normalised; normalise them as in "
            "the model's training",
            PocketVitWarning,
            stacklevel=3,
        )
    held_out = min(_MOST_HELD_OUT, max(_FEWEST, len(chosen) // _SHARE))
    return ImageParts(chosen[2 * held_out :], chosen[held_out : 2 * held_out], chosen[:held_out])


def _gathered(batches: Any, plan: ShapePlan) -> torch.Tensor:
    if isinstance(batches, str | bytes | dict) or not isinstance(batches, Iterable):
        raise DataError(
            "These are no images", expected="a tensor (N, C, H, W), or batches of it", got=type(batches).__name__
        )
    parts: list[torch.Tensor] = []
    count = 0
    for batch in batches:
        first = batch[0] if isinstance(batch, tuple | list) and batch else batch
        parts.append(_checked(first, plan).detach().to("cpu", torch.float32))
        count += len(parts[-1])
        if count >= MOST_IMAGES:
            break
    return torch.cat(parts) if parts else torch.zeros(0, plan.in_chans, *plan.img_size)


def _checked(images: Any, plan: ShapePlan) -> torch.Tensor:
    wanted = f"floating-point numbers (N, {plan.in_chans}, {plan.img_size[0]}, {plan.img_size[1]})"
    if not isinstance(images, torch.Tensor):
        raise DataError("A batch of images is no tensor", expected=wanted, got=type(images).__name__)
    if tuple(images.shape[1:]) != (plan.in_chans, *plan.img_size):
        raise DataError(
            "The images are of another shape than the model reads", expected=wanted, got=tuple(images.shape)
        )
    if not images.is_floating_point():
        raise DataError(
            "The images are not normalised",
            expected=wanted,
            got=images.dtype,
            fix="Normalise them as in the model's training: (pixels / 255 - mean) / std",
        )
    return images
