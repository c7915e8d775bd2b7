"""Maps the names that ``transformers`` gives to weights to those of timm, for all families by one table."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch.nn import functional as F

from compress.model.checkpoint_file import shared_wrappers
from compress.model.timm_vit import to_timm
from runtime import ModelError

from .families import Family, Head

_STEM = {
    "embeddings.cls_token": "cls_token",
    "embeddings.class_embedding": "cls_token",
    "embeddings.distillation_token": "dist_token",
    "embeddings.register_tokens": "reg_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.position_embedding.weight": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed",
    "embeddings.patch_embedding": "patch_embed",
    "embeddings.patch_embeddings": "patch_embed",
    "norm": "norm",
    "layernorm": "norm",
    "post_layernorm": "norm",
    "pre_layrnorm": "norm_pre",
    "pooler.layernorm": "fc_norm",
    "encoder.relative_position_bias.relative_position_bias_table": "rel_pos_bias.relative_position_bias_table",
    "head.probe": "attn_pool.latent",
    "head.attention.in_proj_weight": "attn_pool.in_proj.weight",
    "head.attention.in_proj_bias": "attn_pool.in_proj.bias",
    "head.attention.out_proj": "attn_pool.proj",
    "head.layernorm": "attn_pool.norm",
    "head.mlp.fc1": "attn_pool.mlp.fc1",
    "head.mlp.fc2": "attn_pool.mlp.fc2",
}
"""Parts outside the blocks; each is a tensor, or the owner of a ``weight`` and a ``bias``."""

_BLOCK = {
    **{f"attention.attention.{part}": f"attn.{part[0]}" for part in ("query", "key", "value")},
    **{f"{owner}.{part}_proj": f"attn.{part}" for owner in ("self_attn", "attention") for part in "qkv"},
    "attention.output.dense": "attn.proj",
    "attention.o_proj": "attn.proj",
    "self_attn.out_proj": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "mlp.weights_in": "mlp.fc1",
    "mlp.weights_out": "mlp.fc2",
    "mlp.up_proj": "mlp.fc1",
    "mlp.gate_proj": "mlp.gate",
    "mlp.down_proj": "mlp.fc2",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "norm1": "norm1",
    "norm2": "norm2",
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "layer_scale1.lambda1": "gamma1",
    "layer_scale2.lambda1": "gamma2",
    "lambda_1": "gamma1",
    "lambda_2": "gamma2",
    "attention.attention.relative_position_bias.relative_position_bias_table": "attn.relative_position_bias_table",
}
"""Parts of a block, likewise."""

_IN_BLOCK = re.compile(r"(?:encoder\.)?layers?\.(\d{1,4})\.(.+)")
_PATCHES = (
    "embeddings.patch_embeddings.projection.weight",
    "embeddings.patch_embedding.weight",
    "embeddings.patch_embeddings.weight",
)


def backbone_prefixes(names: Mapping[str, object], family: Family, where: str) -> tuple[str, str]:
    """Returns the prefix of the backbone's names, and that of the heads' names.

    Args:
        names: all names in the checkpoint.
        family: the family of the model.
        where: name of the checkpoint, for the error text.

    Raises:
        ModelError: there is no patch embedding, or several.
    """
    found = {name[: -len(end)] for name in names for end in _PATCHES if name == end or name.endswith(f".{end}")}
    if len(found) != 1:
        raise ModelError(
            f"{where} holds no model of the family that its config.json names",
            expected=f"one weight whose name ends with {' or '.join(_PATCHES)}",
            got=", ".join(sorted(found)[:4]) or f"names such as {', '.join(sorted(names)[:3]) or 'none'}",
        )
    backbone = found.pop()
    if backbone.endswith(f"{family.base}."):
        return backbone, backbone[: -len(family.base) - 1]
    return backbone, shared_wrappers(names)


def find_head(names: Mapping[str, object], family: Family, prefix: str) -> Head:
    """Returns the head that a checkpoint has; ``prefix`` begins the names of heads."""
    for head in family.heads:
        if all(f"{prefix}{name}.weight" in names for name in head.names):
            return head
    return family.headless


def to_network(
    weights: Mapping[str, torch.Tensor], family: Family, head: Head, prefixes: tuple[str, str]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Returns the weights by timm's names, and those that the answers do not depend on.

    Weights that no table knows keep their names, and the check against the network refuses them.

    Args:
        weights: all tensors of the checkpoint.
        family: its family.
        head: its head.
        prefixes: what the names of the backbone and of the heads begin with.
    """
    backbone, outer = prefixes
    found: dict[str, torch.Tensor] = {}
    unused: dict[str, torch.Tensor] = {}
    heads = {f"{outer}{name}.{part}": f"{to}.{part}" for name, to in head.names.items() for part in ("weight", "bias")}
    tokens = {"embeddings.distillation_token": "reg_token"} if head.form != "two_tokens" else {}
    for name, value in weights.items():
        inner = name[len(backbone) :] if name.startswith(backbone) else ""
        if name in heads:
            found[heads[name]] = value
        elif any(re.fullmatch(pattern, name.removeprefix(outer)) for pattern in family.unused) or (
            inner and any(re.fullmatch(pattern, inner) for pattern in family.unused)
        ):
            unused[(inner or name.removeprefix(outer)).removeprefix("embeddings.")] = value
        else:
            found[tokens.get(inner) or _renamed(inner) or name] = value
    if not head.options.get("final_norm", True):
        unused |= {name: found.pop(name) for name in list(found) if name.startswith("norm.")}
    if head.options.get("global_pool", "map") != "map":
        unused |= {name: found.pop(name) for name in list(found) if name.startswith("attn_pool.")}
    fitted = _fitted(_with_biases(found) if family.network == "eva" else found, head)
    return (_for_eva(fitted) if family.network == "eva" else fitted), unused


def _with_biases(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns weights in which every Linear of a block has a bias; one that was missing is zero."""
    zeros = {
        name.replace(".weight", ".bias"): torch.zeros(len(value))
        for name, value in weights.items()
        if name.startswith("blocks.") and name.endswith(".weight") and value.ndim == 2
    }
    return {**zeros, **{name: value for name, value in weights.items() if value.numel()}}


def _for_eva(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns weights by the names of timm's class ``Eva``."""
    gated = any(".mlp.gate." in name for name in weights)
    names = {".ls1.gamma": ".gamma_1", ".ls2.gamma": ".gamma_2"}
    names |= {".mlp.gate.": ".mlp.fc1_g.", ".mlp.fc1.": ".mlp.fc1_x."} if gated else {}
    found = {}
    for name, value in weights.items():
        for old, new in names.items():
            name = name.replace(old, new)
        found[name] = value
    return found


def _renamed(name: str) -> str | None:
    """Returns a name of the backbone as ``SlicedViT`` has it; None for an unknown one."""
    match = _IN_BLOCK.fullmatch(name)
    table, at, rest = (_BLOCK, f"blocks.{int(match[1])}.", match[2]) if match else (_STEM, "", name)
    if rest in table:
        return f"{at}{table[rest]}"
    owner, _, last = rest.rpartition(".")
    return f"{at}{table[owner]}.{last}" if owner in table and last in ("weight", "bias") else None


def _fitted(weights: dict[str, torch.Tensor], head: Head) -> dict[str, torch.Tensor]:
    """Returns weights in the shapes and by the names of timm's network."""
    w = dict(weights)
    if "cls_token" in w:
        w["cls_token"] = w["cls_token"].reshape(1, 1, -1)
    if "pos_embed" in w and w["pos_embed"].ndim == 2:
        w["pos_embed"] = w["pos_embed"][None]
    if head.form == "class_and_mean" and w["head.weight"].ndim == 2:
        # the network averages its two heads, hence the factor
        one, two = (2 * w["head.weight"]).chunk(2, dim=1)
        w |= {"head.weight": one, "head_dist.weight": two}
        if "head.bias" in w:
            w |= {"head.bias": 2 * w["head.bias"], "head_dist.bias": torch.zeros_like(w["head.bias"])}
    if "head.weight" in w and not head.labels:
        w.setdefault("head.bias", torch.zeros(len(w["head.weight"])))
    for kind in ("weight", "bias"):
        if f"attn_pool.in_proj.{kind}" in w:
            value = w.pop(f"attn_pool.in_proj.{kind}")
            size = len(value) // 3
            w[f"attn_pool.q.{kind}"], w[f"attn_pool.kv.{kind}"] = value[:size], value[size:]
    if head.form == "relative":
        return _relative(w)
    return to_timm(w, ("norm.weight", "norm.bias"))


def _relative(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns weights by the names of timm's BEiT, whose query and value have biases of their own."""
    w: dict[str, torch.Tensor] = {}
    for name, value in weights.items():
        for part in "qv":
            name = name.replace(f".attn.{part}.bias", f".attn.{part}_bias")
        w[name] = value
    named = to_timm(w, ("norm.weight", "norm.bias"))
    scales = ((".ls1.gamma", ".gamma_1"), (".ls2.gamma", ".gamma_2"))
    for ours, theirs in scales:
        named = {name.replace(ours, theirs): value for name, value in named.items()}
    return named


def without_class_position(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns weights whose class token has its position added, so that positions are those of patches alone."""
    w = dict(weights)
    w["cls_token"], w["pos_embed"] = w["cls_token"] + w["pos_embed"][:, :1], w["pos_embed"][:, 1:]
    return w


def resample_positions(positions: torch.Tensor, own: tuple[int, int], grid: tuple[int, int]) -> torch.Tensor:
    """Returns positions ``(1, prefix + N, C)`` for another grid of patches, as ``transformers`` interpolates them.

    Args:
        positions: those of ``prefix`` tokens and of a grid of patches.
        own: rows and columns of that grid.
        grid: rows and columns of the new grid.
    """
    prefix = positions.shape[1] - own[0] * own[1]
    if own == grid or prefix < 0:
        return positions
    first, patches = positions[:, :prefix], positions[:, prefix:].float()
    image = patches.reshape(1, *own, -1).permute(0, 3, 1, 2)
    image = F.interpolate(image, size=grid, mode="bicubic", align_corners=False)
    return torch.cat((first, image.permute(0, 2, 3, 1).flatten(1, 2).to(first.dtype)), dim=1)
