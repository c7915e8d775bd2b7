"""Converts a checkpoint's weights to those of a timm model, and reports every change."""

from __future__ import annotations

import io
import math
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from runtime import MissingExtraError, ModelError, ShapePlan

from .checkpoint_file import Checkpoint, check_finite_weights, short_list
from .checkpoint_misfit import misfit
from .timm_vit import to_timm
from .vit import SlicedViT

try:
    import timm
    from timm.models.eva import Eva
    from timm.models.eva import checkpoint_filter_fn as eva_filter
    from timm.models.vision_transformer import checkpoint_filter_fn
except ImportError as error:
    raise MissingExtraError(error.name or "timm", "compress") from None

_HEADS = ("head.", "head_dist.")

OWN_NAME = "patch_embed.weight"
"""A weight that every model of PocketViT's own has, and no model of timm."""

_HARMLESS = re.compile(
    r"(.*\.)?(mask_token|num_batches_tracked|relative_position_index|total_ops|total_params|n_averaged)"
    r"|decoder(_\w+)?(\..+)?"
    r"|(dino_head|ibot_head|proj_head|projection_head|projector|predictor|prototypes)\..+"
    r"|head\.(mlp|last_layer|projection)\..+"
    r"|(\w+_)?(criterion|loss|loss_fn)\..+"
)
"""Names of tensors that do not affect the model's outputs: heads for pretraining, losses and counters."""


@dataclass(frozen=True)
class LoadReport:
    """The changes that made a checkpoint fit.

    Attributes:
        classes: number of outputs of its classifier; None where it has no classifier.
        resampled: weights that were resized, in words, such as ``patches 8x8 to 16x16``.
        patch_resampled: whether the patch embedding was resized, so that the model needs training.
        left_out: names of tensors and entries that were left out.
        prefix: prefix of every name in the file.
        container: entry of the file that held the weights.
        notes: everything the user should know about it, a sentence each.
    """

    classes: int | None
    resampled: tuple[str, ...] = ()
    patch_resampled: bool = False
    left_out: tuple[str, ...] = ()
    prefix: str = ""
    container: str = ""
    notes: tuple[str, ...] = ()


def fit_checkpoint(
    checkpoint: Checkpoint, model: Any, name: str, *, reset_head: bool = False, cure: str = ""
) -> tuple[dict[str, torch.Tensor], LoadReport]:
    """Returns a checkpoint's weights with the names and shapes of ``model``, and a report of the changes.

    Args:
        checkpoint: the checkpoint; it is not changed.
        model: a timm Vision Transformer, on any device.
        name: name of the model's architecture.
        reset_head: leave the checkpoint's classifier out.
        cure: advice for weights that do not fit; empty for advice on the options of the model.

    Returns:
        The weights, without those of a classifier where the checkpoint has none, and the report.

    Raises:
        ModelError: a weight is NaN or infinite, the classifier has another number of classes, or a part does not fit.
    """
    path, weights = checkpoint.path, to_timm(checkpoint.weights, model.state_dict())
    check_finite_weights(f"The checkpoint {path}", weights)
    classes = head_classes(weights)
    blank = classes is None and "head.weight" in weights
    if reset_head or blank:
        weights = {key: value for key, value in weights.items() if not key.startswith((*_HEADS, "pre_logits."))}
    else:
        _check_classes(path, weights, model.num_classes)
    taken = _by_timm(weights, model)
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    has_head = any(key in taken for key in ("head.weight", "head_dist.weight"))
    if has_head:  # timm's filter always leaves this layer out, but the classifier needs it
        taken |= {key: value for key, value in weights.items() if key.startswith("pre_logits.")}
    else:
        wanted = {key: shape for key, shape in wanted.items() if not key.startswith(_HEADS)}
    taken = weights_needed(taken, wanted)
    reason = misfit(wanted, _shapes(taken))
    if reason is not None:
        # under its own names it may be recognised as a model of PocketViT with other widths
        reason = misfit(wanted, _shapes(checkpoint.weights)) or reason
        raise ModelError(
            f"The checkpoint {path} does not fit '{name}': {reason.what}",
            expected=reason.expected,
            got=reason.got,
            fix=cure or reason.fix,
        )
    harmless = [key for key in weights if key not in taken and _HARMLESS.fullmatch(key)]
    report = LoadReport(
        classes=classes if has_head or reset_head else None,
        resampled=(resampled := tuple(_resampled(weights, taken, model))),
        patch_resampled=any(text.startswith("patches") for text in resampled),
        left_out=(*harmless, *checkpoint.outside, *checkpoint.others),
        prefix=checkpoint.prefix,
        container=checkpoint.container,
    )
    fresh = "all zeros and knows nothing" if blank else "" if has_head or reset_head else "missing"
    return taken, replace(report, notes=tuple(_notes(checkpoint, report, name, fresh)))


def fit_own(
    checkpoint: Checkpoint, plan: ShapePlan, name: str, *, reset_head: bool = False
) -> tuple[dict[str, torch.Tensor], LoadReport] | None:
    """Returns the weights of a whole model of PocketViT's own as they are, with ``OWN_NAME`` among them, and a report.

    They take no way by timm's names: what a conversion folds, joins or reorders has no way back there.

    Args:
        checkpoint: the checkpoint; it is not changed.
        plan: of the model that takes the weights.
        name: name of the model's architecture.
        reset_head: whether the checkpoint's classifier is left out.

    Returns:
        None for other weights: those of another plan, with another classifier to come, or under other names.

    Raises:
        ModelError: a weight is NaN or infinite, or the classifier has another number of classes.
    """
    weights = checkpoint.weights
    if reset_head or OWN_NAME not in weights or head_classes(weights) is None:
        return None
    with torch.device("meta"):
        wanted = _shapes(SlicedViT(plan).state_dict())
    found = _shapes(weights)
    if wanted.keys() != found.keys() or any(found[key] != wanted[key] for key in wanted if not key.startswith(_HEADS)):
        return None
    check_finite_weights(f"The checkpoint {checkpoint.path}", weights)
    _check_classes(checkpoint.path, weights, plan.num_classes)
    report = LoadReport(head_classes(weights), left_out=(*checkpoint.outside, *checkpoint.others))
    return dict(weights), replace(report, notes=tuple(_notes(checkpoint, report, name, "")))


def _shapes(weights: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in weights.items()}


def weights_needed(weights: Mapping[str, torch.Tensor], wanted: Collection[str]) -> dict[str, torch.Tensor]:
    """Returns weights without those that do not affect a model's outputs, such as losses and counters."""
    return {key: value for key, value in weights.items() if key in wanted or not _HARMLESS.fullmatch(key)}


def head_classes(weights: Mapping[str, torch.Tensor]) -> int | None:
    """Returns the number of classes of a classifier; None where it is missing or all zeros."""
    head = weights.get("head.weight")
    return None if head is None or head.ndim != 2 or not bool(head.any()) else int(head.shape[0])


def _check_classes(path: Path, weights: Mapping[str, torch.Tensor], wanted: int) -> None:
    for key in ("head.weight", "head_dist.weight"):
        if key in weights and weights[key].shape[0] != wanted:
            raise ModelError(
                f"The checkpoint {path} has another number of classes than the data",
                expected=wanted,
                got=weights[key].shape[0],
                fix="Choose the data it was trained on, or give --reset-head to train a new classifier",
            )


def _by_timm(weights: Mapping[str, torch.Tensor], model: Any) -> dict[str, torch.Tensor]:
    """Returns weights with the names and sizes of ``model``, as far as timm's filter converts them."""
    # Where timm's filter fails, the weights have other shapes; a later check names the difference.
    own = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", checkpoint_filter_fn)
    if own is not checkpoint_filter_fn:  # that of another class than the plain Vision Transformer
        with suppress(Exception):
            return dict(own(dict(weights), model))
        return dict(weights)
    with suppress(Exception):
        if type(model) is Eva:
            return _by_eva(weights, model)
        return dict(
            checkpoint_filter_fn(dict(weights), model, adapt_layer_scale=True, interpolation="bicubic", antialias=True)
        )
    return dict(weights)


def _by_eva(weights: Mapping[str, torch.Tensor], model: Any) -> dict[str, torch.Tensor]:
    """Returns weights of an ``Eva`` as timm's filter converts them; biases that it would drop must be zeros."""
    kept = getattr(model.blocks[0].attn, "q_bias", None) is not None
    dropped = (value for name, value in weights.items() if name.endswith(".attn.qkv.bias"))
    if "storage_tokens" in weights and not kept and any(bool(value.any()) for value in dropped):
        return dict(weights)
    # the filter prints what it leaves out
    with redirect_stdout(io.StringIO()):
        return dict(eva_filter(dict(weights), model, interpolation="bicubic", antialias=True))


def _resampled(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor], model: Any) -> Iterator[str]:
    """Yields the weights that timm's filter resized, with both sizes."""
    name = "patch_embed.proj.weight"
    if name in before and before[name].ndim == 4 and before[name].shape != after[name].shape:
        yield f"patches {_by(before[name].shape[2:])} to {_by(after[name].shape[2:])} pixels"
    old = before.get("pos_embed", before.get("visual.positional_embedding"))
    if old is None or getattr(model, "pos_embed", None) is None:
        return
    plain = getattr(model, "no_embed_class", False) and "register_tokens" not in before
    prefix = 0 if plain else 1 if "register_tokens" in before else model.num_prefix_tokens
    grid, count = model.patch_embed.grid_size, old.shape[-2] - prefix
    if count != grid[0] * grid[1]:
        side = math.isqrt(count)
        yield f"positions {_by((side, side)) if side * side == count else count} to {_by(grid)}"


def _notes(checkpoint: Checkpoint, report: LoadReport, name: str, fresh: str) -> Iterator[str]:
    """Yields what the user should know about a checkpoint that fits."""
    file = checkpoint.path.name
    arch = checkpoint.arch.partition(".")[0]
    if arch != name.partition(".")[0] and timm.is_model(arch):
        yield f"{file} names its architecture '{arch}', and is read as '{name}'"
    if checkpoint.passed_over:
        others = short_list(checkpoint.passed_over)
        yield f"{file} holds several sets of weights: '{checkpoint.container}' is taken, not {others}"
    if report.left_out:
        yield f"Left out of {file}: {short_list(_grouped(report.left_out), 8)}"
    if checkpoint.classifier and not fresh:
        yield f"The classifier of {file} is '{checkpoint.classifier}', next to the backbone '{checkpoint.prefix}'"
    if fresh:
        yield f"The classifier of {file} is {fresh}: the model gets a fresh one"
    if report.resampled:
        yield (
            f"{file} was trained at another size and is resampled ({', '.join(report.resampled)}): "
            "it answers worse until it is trained at this one"
        )


def _grouped(names: Sequence[str]) -> list[str]:
    """Returns names, with all names of one part, such as ``decoder``, in one entry."""
    parts = Counter(name.partition(".")[0] for name in names)
    return [part if count == 1 else f"{part}.* ({count})" for part, count in parts.items()]


def _by(sides: Sequence[int]) -> str:
    return "x".join(map(str, sides))
