"""A constant scale of the residual stream, with which the norms of a model stay inside the range of float16."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch

from runtime import Progress, ShapePlan, silent

from .canonical import patch_weights, placed_weights, stream_writers
from .parts.norms import EARLY_NORMS, last_readers, tap_readers
from .vit import SlicedViT, build

HALF_MOST = 65_504.0
"""The largest number of float16."""

MARGIN = 4.0
"""Other images may have tokens with this many times the sum of squares of the tokens that were seen."""

_TOKENS = 2048


def in_half_range(model: SlicedViT, images: torch.Tensor, progress: Progress = silent) -> SlicedViT:
    """Returns the same function with norms that do not overflow where an engine computes in float16.

    Every norm squares the channels of a token and takes the mean. The sum of the squares is the largest number on the
    way, whether an engine forms it or not, and in models with outlying channels it passes 65,504. A norm gives the same
    for ``s * x`` with the epsilon ``s^2 * eps`` as for ``x`` with ``eps``, so everything that writes into the residual
    stream is multiplied by one power of two: the largest, at most 1, with which four times the largest sum of squares
    on the images fits. Powers of two change the exponents of floats and no digit, so in float32 the outputs stay equal
    bit for bit. A model that needs no scale is returned as it is. The tokens before ``norm_pre`` have a scale of their
    own.

    In float16 the scaled epsilon is lost below 3e-8. ``export.graph`` therefore writes such a norm as
    ``x * rsqrt(K * mean(x^2) + K * eps)``, with a power of four K of at most the number of channels, and the Linears
    that read the norm multiply by ``K^1/2``. ``K * mean(x^2)`` is at most the sum of squares, which fits. Where even
    ``K * eps`` is lost, the output of a token whose unscaled mean square is m becomes larger by a factor of at most
    ``(1 + eps / m)^1/2``, which float16 cannot show if m is more than 1,024 times the unscaled epsilon; a token of
    zeros would be divided by zero.

    Args:
        model: the model, in any form; it is not changed. A training of the result differs from one of the model, since
            AdamW's steps do not shrink with the weights: scale a model when its training has ended.
        images: ``(N, C, H, W)`` float32 as the model reads them, of the kind that it will see.
        progress: called as the images are computed.
    """
    energies = {name: own for name, own in largest_energies(model, images, progress).items() if not _inner(name)}
    if model.plan.block_kind == "post":
        return _scaled_branches(model, energies)
    embedded = scale_for(max(energies.pop(name, 0.0) for name in EARLY_NORMS))
    stream = scale_for(max(energies.values(), default=0.0))
    return model if stream == embedded == 1.0 else scaled_stream(model, stream, embedded)


def largest_energies(model: SlicedViT, images: torch.Tensor, progress: Progress = silent) -> dict[str, float]:
    """Returns the largest sum of squares of a token at the input of each norm, by the norm's name.

    The mean of the channels is subtracted first where the norm is a LayerNorm.
    """
    found = dict.fromkeys(model.plan.norm_names, 0.0)
    centred = model.plan.norm_type == "layer"

    def watch(name: str, x: torch.Tensor) -> None:
        x = x - x.mean(-1, keepdim=True) if centred else x
        found[name] = max(found[name], float(x.square().sum(-1).max()))

    norms = {name: own for name, own in model.named_modules() if name in found}
    hooks = [
        own.register_forward_pre_hook(lambda _, given, name=name: watch(name, given[0])) for name, own in norms.items()
    ]
    try:
        with torch.no_grad():
            size = max(1, _TOKENS // model.plan.num_tokens)
            for start in range(0, len(images), size):
                model(images[start : start + size])
                progress("float16 range", min(start + size, len(images)), len(images))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def scale_for(energy: float) -> float:
    """Returns the largest power of two, at most 1, that brings a sum of squares into float16's range with a margin.

    Args:
        energy: the largest sum of squares. One that is not finite has the scale 1, since no scale mends it.
    """
    if not math.isfinite(energy) or MARGIN * energy <= HALF_MOST:
        return 1.0
    return 2.0 ** math.floor(math.log2(HALF_MOST / (MARGIN * energy)) / 2)


def scaled_stream(model: SlicedViT, stream: float, embedded: float = 1.0) -> SlicedViT:
    """Returns the same function with a scaled residual stream.

    Args:
        model: the model; it is not changed.
        stream: factor of the stream, a power of two.
        embedded: factor of the tokens before ``norm_pre`` or the patches before ``patch_norm``, a power of two; a model
            without either has none.
    """
    plan = model.plan
    w = {name: value.detach() for name, value in model.state_dict().items()}
    factors = dict.fromkeys(_writers(plan), stream)
    factors |= dict.fromkeys(_before_early_norm(plan), embedded)
    if plan.norm == "none":
        # the classifier or the pooling reads the stream itself
        factors |= {f"{name}.weight": 1 / stream for name in (*last_readers(plan), *tap_readers(plan))}
    w |= {name: w[name] * factor for name, factor in factors.items()}
    scales = (embedded if name in EARLY_NORMS else 1.0 if _inner(name) else stream for name in plan.norm_names)
    squares = (scale**2 for scale in scales)
    values = tuple(plan.eps_of(name) * square for name, square in zip(plan.norm_names, squares, strict=True))
    one = len(set(values)) == 1 and isinstance(plan.norm_eps, float)
    return build(replace(plan, norm_eps=values[0] if one else values), w, model.head.weight.dtype)


def _inner(name: str) -> bool:
    """Returns whether a norm reads what another norm writes, which no scale of the stream changes."""
    return name.endswith(".norm3")


def _scaled_branches(model: SlicedViT, energies: Mapping[str, float]) -> SlicedViT:
    """Returns the same function with scaled inputs of the norms behind the branches of blocks.

    The stream is read as it is, and no factor leaves it the same. It holds sums of normed tokens, which are small.
    """
    plan, scales = model.plan, {name: 1.0 for name in model.plan.norm_names}
    w = {name: value.detach() for name, value in model.state_dict().items()}
    for i in range(len(plan.blocks)):
        for norm, writer in (("norm1", "attn.proj"), ("norm2", "mlp.fc2")):
            scale = scales[f"blocks.{i}.{norm}"] = scale_for(energies[f"blocks.{i}.{norm}"])
            own = (f"blocks.{i}.{writer}.{kind}" for kind in ("weight", "bias"))
            w |= {name: w[name] * scale for name in own if name in w}
    if set(scales.values()) == {1.0}:
        return model
    values = tuple(plan.eps_of(name) * scale**2 for name, scale in scales.items())
    return build(replace(plan, norm_eps=values), w, model.head.weight.dtype)


def _writers(plan: ShapePlan) -> list[str]:
    """Returns the weights that write into the stream; a LayerNorm after the embedding writes into it, too."""
    names = list(stream_writers(plan))
    early = plan.norm_pre or plan.patch_norm
    if not early or plan.pre_dim:
        return names
    before, norm = _before_early_norm(plan), "norm_pre" if plan.norm_pre else "patch_norm"
    return [f"{norm}.weight", f"{norm}.bias", *(name for name in names if name not in before)]


def _before_early_norm(plan: ShapePlan) -> dict[str, int]:
    """Returns the weights that a norm of tokens or patches reads, with the dimension of their channels."""
    if plan.norm_pre:
        return patch_weights(plan) | placed_weights(plan)
    return patch_weights(plan) if plan.patch_norm else {}
