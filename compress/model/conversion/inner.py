"""Parts of timm's transformers in the form of ``SlicedViT``: attention, MLP and norms, whatever their layout.

Packed Linears become separate ones, shared keys and values are written out for every head, the order of a gated MLP is
normalised, missing biases become zeros, and the gains of RMSNorms go into the Linears that read them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from compress.model.parts.mlp import ACTIVATIONS
from compress.model.parts.norms import norm_readers
from runtime import MULTIPLE, BlockPlan, ModelError, NormType, ShapePlan

from .needs import Attention, AttentionRope, EvaAttention, GluMlp, Mlp, RmsNorms, SwiGLU, get_act_layer

Weights = dict[str, torch.Tensor]


def is_absent(module: Any) -> bool:
    """Returns whether an optional part of a model is not there."""
    return module is None or isinstance(module, nn.Identity)


def unsupported_part(part: str, expected: str | None = None) -> ModelError:
    """Returns the error for a part of a model that cannot be sliced exactly."""
    return ModelError(
        f"This model uses {part}, which is not supported and cannot be pruned exactly",
        expected=expected,
        fix="Export it whole with pocketvit export, or choose another --model",
    )


def activation_name(module: Any) -> Any:
    """Returns the name in a plan of an activation.

    Raises:
        ModelError: no plan can hold it.
    """
    probe = torch.linspace(-4, 4, 33, device="cpu")
    for name in ACTIVATIONS:
        layer = get_act_layer(name)
        if layer is not None and type(module) is layer:
            return name
    for name, function in ACTIVATIONS.items():
        if torch.equal(module(probe), function(probe)):
            return name
    raise unsupported_part(f"the activation {type(module).__name__}", "GELU, QuickGELU, ReLU or SiLU")


def norm_kind(norms: Iterable[Any]) -> NormType:
    """Returns the kind that all given norms have, whatever their epsilons.

    Raises:
        ModelError: a norm is of another kind, or has no weights.
    """
    own = list(norms)
    for norm in own:
        layer = isinstance(norm, nn.LayerNorm) and norm.weight is not None and norm.bias is not None
        if not layer and not (isinstance(norm, RmsNorms) and norm.weight is not None):
            raise unsupported_part(f"the norm {type(norm).__name__}", "LayerNorm or RMSNorm")
    if len({isinstance(norm, nn.LayerNorm) for norm in own}) > 1:
        raise unsupported_part("LayerNorms together with RMSNorms")
    return "layer" if isinstance(own[0], nn.LayerNorm) else "rms"


def epsilons(first: Sequence[Any], blocks: Sequence[Any], last: Sequence[Any]) -> float | tuple[float, ...]:
    """Returns the epsilon of all norms of a model, or of each in the order of ``ShapePlan.norm_names`` if they differ.

    Args:
        first: norms before the blocks; those that are absent count for nothing.
        blocks: the blocks.
        last: norms behind the blocks, likewise.
    """
    inner = [norm for block in blocks for norm in block_norms(block).values()]
    found = tuple(float(norm.eps) for norm in (*first, *inner, *last) if not is_absent(norm))
    return found[0] if len(set(found)) == 1 else found


def block_norms(block: Any) -> dict[str, Any]:
    """Returns the norms of a block that read the stream or each other, by name."""
    names = ("norm1", "norm2", "norm3") if hasattr(block, "norm3") else ("norm1", "norm2")
    return {name: getattr(block, name) for name in names}


def block_plan(block: Any) -> BlockPlan:
    """Returns the widths of a block."""
    attn = block.attn
    return BlockPlan(attn.num_heads, attn.head_dim, attn.head_dim, padded(block.mlp.fc2.in_features))


def padded(width: int) -> int:
    """Returns the hidden units of a model whose MLP has ``width``: the next multiple of 8; units of zeros fill it."""
    return -(-width // MULTIPLE) * MULTIPLE


def inner_options(blocks: Sequence[Any]) -> dict[str, Any]:
    """Returns the fields of a plan that describe the inside of attention and MLP.

    Raises:
        ModelError: a part is not supported, or blocks differ.
    """
    found = [_options(block) for block in blocks]
    if any(own != found[0] for own in found):
        raise unsupported_part("blocks with different parts")
    return found[0]


def _options(block: Any) -> dict[str, Any]:
    attn, mlp = block.attn, block.mlp
    if type(attn) not in (Attention, AttentionRope, EvaAttention):
        raise unsupported_part(f"the attention {type(attn).__name__}")
    if type(mlp) not in (Mlp, GluMlp, SwiGLU):
        raise unsupported_part(f"the MLP {type(mlp).__name__}")
    if isinstance(getattr(mlp, "fc1", None), nn.Conv2d):
        raise unsupported_part("an MLP of convolutions")
    if getattr(attn, "gate", None) is not None:
        raise unsupported_part("gated attention output")
    if is_absent(attn.q_norm) != is_absent(attn.k_norm):
        raise unsupported_part("a norm of queries or keys alone")
    for place, norm in (("attention output", attn.norm), ("hidden units", mlp.norm)):
        if not is_absent(norm) and norm_kind([norm]) != "layer":
            raise unsupported_part(f"an RMSNorm of {place}", "LayerNorm")
    inner = [norm for norm in (attn.q_norm, attn.k_norm, attn.norm, mlp.norm) if not is_absent(norm)]
    if len({norm.eps for norm in inner}) > 1:
        raise unsupported_part("norms inside a block with different epsilons")
    return {
        "gated_mlp": type(mlp) is not Mlp,
        "mlp_norm": not is_absent(mlp.norm),
        "attn_norm": not is_absent(attn.norm),
        "qk_norm": "none" if is_absent(attn.q_norm) else norm_kind([attn.q_norm, attn.k_norm]),
        "qk_norm_dim": 0 if is_absent(attn.q_norm) else attn.head_dim,
        "attn_norm_dim": 0 if is_absent(attn.norm) else attn.num_heads * attn.head_dim,
        "mlp_norm_dim": 0 if is_absent(mlp.norm) else mlp.fc2.in_features,
        "inner_eps": float(inner[0].eps) if inner else 1e-6,
        "act": activation_name(mlp.act),
    }


def inner_weights(block: Any, rotate_half: bool = False) -> Weights:
    """Returns the weights of a block's attention and MLP, named as in ``SlicedViT`` after ``blocks.0.``.

    Args:
        block: timm's block.
        rotate_half: whether rotary positions turn dimension ``i`` with ``i + d / 2``; here they become neighbours, by
            the same order of a head's queries and keys, which changes no score.
    """
    attn, weights = block.attn, dict[str, torch.Tensor]()
    for part, (weight, bias) in _read_qkv(attn).items():
        order = _neighbours(attn, rotate_half and part != "v", len(weight))
        weights[f"attn.{part}.weight"] = weight[order]
        if bias is not None:
            weights[f"attn.{part}.bias"] = bias[order]
    for part in ("q_norm", "k_norm"):
        norm = getattr(attn, part)
        for name, value in {} if is_absent(norm) else dict(norm.named_parameters()).items():
            every = value.repeat(attn.num_heads)
            weights[f"attn.{part}.{name}"] = every[_neighbours(attn, rotate_half, len(every))]
    weights |= _named("attn.norm", attn.norm) | _named("attn.proj", attn.proj)
    return {name: value.detach() for name, value in (weights | _mlp_weights(block.mlp)).items()}


def _read_qkv(attn: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor | None]]:
    """Returns weight and bias of query, key and value; one without a bias beside others gets zeros."""
    if attn.qkv is not None:
        weights = attn.qkv.weight.chunk(3)
        biases: Sequence[Any] = (None,) * 3 if attn.qkv.bias is None else attn.qkv.bias.chunk(3)
        if getattr(attn, "q_bias", None) is not None:
            biases = (attn.q_bias, torch.zeros_like(attn.q_bias), attn.v_bias)
    else:
        weights = tuple(part.weight for part in (attn.q_proj, attn.k_proj, attn.v_proj))
        biases = tuple(part.bias for part in (attn.q_proj, attn.k_proj, attn.v_proj))
    if any(bias is not None for bias in biases):
        biases = tuple(
            weight.new_zeros(len(weight)) if bias is None else bias
            for weight, bias in zip(weights, biases, strict=True)
        )
    groups = getattr(attn, "num_kv_groups", 1)

    def spread(value: Any) -> Any:
        return (
            value
            if value is None
            else value.unflatten(0, (-1, attn.head_dim)).repeat_interleave(groups, 0).flatten(0, 1)
        )

    read = {"q": (weights[0], biases[0])}
    return read | {part: (spread(weights[i]), spread(biases[i])) for i, part in enumerate("qkv") if part != "q"}


def _neighbours(attn: Any, rotate_half: bool, size: int) -> torch.Tensor:
    """Returns the order of all heads' dimensions in which pairs of the half-split layout are neighbours."""
    order = torch.arange(size)
    return order.view(-1, 2, attn.head_dim // 2).transpose(1, 2).flatten() if rotate_half else order


def _mlp_weights(mlp: Any) -> Weights:
    if type(mlp) is SwiGLU:
        weights = _named("mlp.gate", mlp.fc1_g) | _named("mlp.fc1", mlp.fc1_x)
    else:
        weights = _named("mlp.fc1", mlp.fc1)
    if type(mlp) is GluMlp:
        for name, value in dict(weights).items():
            first, second = value.chunk(2)
            gate, other = (second, first) if mlp.gate_last else (first, second)
            weights[name.replace("fc1", "gate")], weights[name] = gate, other
    weights |= _named("mlp.norm", mlp.norm) | _named("mlp.fc2", mlp.fc2)
    for name, value in dict(weights).items():
        if name.endswith("fc1.weight") or name.endswith("gate.weight") or name.endswith("fc2.weight"):
            weights.setdefault(name.replace(".weight", ".bias"), value.new_zeros(len(value)))
    more = padded(mlp.fc2.in_features) - mlp.fc2.in_features
    return {name: _filled(name, value, more) for name, value in weights.items()}


def _filled(name: str, value: torch.Tensor, more: int) -> torch.Tensor:
    """Returns a weight of an MLP with hidden units of zeros behind its own."""
    if not more or name == "mlp.fc2.bias":
        return value
    return nn.functional.pad(value, (0, more) if name == "mlp.fc2.weight" or value.ndim == 1 else (0, 0, 0, more))


def _named(name: str, module: nn.Module) -> Weights:
    return {f"{name}.{own}": value for own, value in module.named_parameters()}


def without_gains(weights: Weights, plan: ShapePlan) -> tuple[Weights, ShapePlan]:
    """Returns the weights of the same model with the gains of its RMSNorms in the Linears that read them.

    A norm of the embedding gets a Linear with the gain on its diagonal.
    """
    if plan.norm_type == "layer":
        return weights, plan
    w = dict(weights)
    for norm, readers in norm_readers(plan).items():
        gain = w.pop(f"{norm}.weight")
        for name in readers:
            w[f"{name}.weight"] = w[f"{name}.weight"] * gain
    for norm in ("norm_pre", "patch_norm"):
        if f"{norm}.weight" in w:
            gain = w.pop(f"{norm}.weight")
            w["pre.weight"], w["pre.bias"] = torch.diag(gain), torch.zeros_like(gain)
    return w, plan
