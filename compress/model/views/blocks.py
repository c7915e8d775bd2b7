"""timm's parallel blocks, and those with norms behind their branches, seen as blocks of a sliced model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from runtime import BlockKind

POST = ("ResPostBlock", "ResPostRelPosBlock")
"""Classes whose norms stand behind the branches."""


class BlockView(SimpleNamespace):
    """Attributes that a plain block of timm has."""


class AttentionView(SimpleNamespace):
    """Attributes that a plain attention of timm has."""


class MlpView(SimpleNamespace):
    """Attributes that a plain MLP of timm has."""


def kind_of(block: Any) -> BlockKind:
    """Returns what a timm block reads and writes, see ``ShapePlan.block_kind``."""
    name = type(block).__name__
    return "post" if name in POST else "parallel" if name == "ParallelScalingBlock" else "pre"


def block_view(block: Any) -> Any:
    """Returns a block with the attributes of a plain one; any other block is returned as it is."""
    name = type(block).__name__
    if name == "ParallelScalingBlock":
        return _scaling_view(block)
    return _things_view(block) if name == "ParallelThingsBlock" else block


def _scaling_view(block: Any) -> BlockView:
    joint = block.out_proj is not None
    inner = block.num_heads * block.head_dim
    proj = SimpleNamespace(in_features=inner, bias=(block.out_proj if joint else block.attn_out_proj).bias)
    attention = AttentionView(
        num_heads=block.num_heads,
        head_dim=block.head_dim,
        scale=block.scale,
        q_norm=block.q_norm,
        k_norm=block.k_norm,
        qkv=SimpleNamespace(bias=block.in_proj.bias),
        proj=proj,
        norm=None,
        gate=None,
    )
    # the MLP has a bias in any case, which may be zero
    first = SimpleNamespace(out_features=block.in_split[0], bias=True)
    mlp = MlpView(fc1=first, act=block.mlp_act, norm=None)
    return BlockView(norm1=block.in_norm, norm2=block.in_norm, attn=attention, mlp=mlp, ls1=block.ls, ls2=block.ls)


def _things_view(block: Any) -> BlockView:
    """Returns attentions side by side as one with all their heads, and MLPs side by side as one with all units."""
    first, own, count = block.attns[0], block.ffns[0], block.num_parallel
    inner = first.attn.num_heads * first.attn.head_dim
    attention = AttentionView(
        num_heads=count * first.attn.num_heads,
        head_dim=first.attn.head_dim,
        scale=first.attn.scale,
        q_norm=first.attn.q_norm,
        k_norm=first.attn.k_norm,
        # the norms' biases go into those of the Linears behind them
        qkv=SimpleNamespace(bias=True),
        proj=SimpleNamespace(in_features=count * inner, bias=True),
        norm=first.attn.norm,
        gate=first.attn.gate,
    )
    fc1 = SimpleNamespace(out_features=count * own.mlp.fc1.out_features, bias=own.mlp.fc1.bias)
    mlp = MlpView(fc1=fc1, act=own.mlp.act, norm=own.mlp.norm)
    return BlockView(norm1=first.norm, norm2=own.norm, attn=attention, mlp=mlp, ls1=None, ls2=None)


def plain_block_weights(weights: dict[str, torch.Tensor], blocks: Any) -> dict[str, torch.Tensor]:
    """Returns weights in which every parallel block of timm has the names of a plain one.

    Args:
        weights: weights by timm's names.
        blocks: timm's blocks.
    """
    out = dict(weights)
    for index, block in enumerate(blocks):
        name, at = type(block).__name__, f"blocks.{index}."
        if name not in ("ParallelScalingBlock", "ParallelThingsBlock"):
            continue
        own = {key.removeprefix(at): out.pop(key) for key in list(out) if key.startswith(at)}
        made = _scaling_weights(own, block) if name == "ParallelScalingBlock" else _things_weights(own, block)
        out |= {f"{at}{key}": value for key, value in made.items()}
    return out


def _scaling_weights(own: dict[str, torch.Tensor], block: Any) -> dict[str, torch.Tensor]:
    hidden, inner = block.in_split[0], block.num_heads * block.head_dim
    made = {"mlp.fc1.weight": own["in_proj.weight"][:hidden], "attn.qkv.weight": own["in_proj.weight"][hidden:]}
    if "in_proj.bias" in own:
        made["mlp.fc1.bias"], made["attn.qkv.bias"] = own["in_proj.bias"][:hidden], own["in_proj.bias"][hidden:]
    else:
        made["mlp.fc1.bias"] = own["mlp_bias"]
    for kind in ("weight", "bias"):
        for norm in ("norm1", "norm2"):
            if f"in_norm.{kind}" in own:
                made[f"{norm}.{kind}"] = own[f"in_norm.{kind}"]
    if "out_proj.weight" in own:
        made["attn.proj.weight"], made["mlp.fc2.weight"] = own["out_proj.weight"].split([inner, hidden], 1)
    else:
        made["attn.proj.weight"], made["mlp.fc2.weight"] = own["attn_out_proj.weight"], own["mlp_out_proj.weight"]
    zeros = torch.zeros_like(made["mlp.fc2.weight"][:, 0])
    if "out_proj.bias" in own:
        made["attn.proj.bias"], made["mlp.fc2.bias"] = zeros, own["out_proj.bias"]
    elif "attn_out_proj.bias" in own:
        made["attn.proj.bias"], made["mlp.fc2.bias"] = own["attn_out_proj.bias"], own["mlp_out_proj.bias"]
    else:
        made["mlp.fc2.bias"] = zeros
    if "ls.gamma" in own:
        made["ls1.gamma"] = made["ls2.gamma"] = own["ls.gamma"]
    return made | {name: value for name, value in own.items() if name.startswith(("q_norm.", "k_norm."))}


def _things_weights(own: dict[str, torch.Tensor], block: Any) -> dict[str, torch.Tensor]:
    """Folds the norms and scales of branches side by side, and joins the branches."""
    width = len(own["attns.0.norm.weight"])
    made: dict[str, torch.Tensor] = {}
    for norm in ("norm1", "norm2"):
        made[f"{norm}.weight"], made[f"{norm}.bias"] = torch.ones(width), torch.zeros(width)
    for group, first, second in (("attns", "attn.qkv", "attn.proj"), ("ffns", "mlp.fc1", "mlp.fc2")):
        read, read_bias, write, write_bias = [], [], [], torch.zeros(width, dtype=torch.float64)
        for number in range(block.num_parallel):
            part = {key.removeprefix(f"{group}.{number}."): value.double() for key, value in own.items()}
            weight = part[f"{first}.weight"]
            bias = weight @ part["norm.bias"] + part.get(f"{first}.bias", 0)
            scale = part.get("ls.gamma", torch.ones(width, dtype=torch.float64))
            read.append(weight * part["norm.weight"])
            read_bias.append(bias)
            write.append(part[f"{second}.weight"] * scale[:, None])
            write_bias = write_bias + part.get(f"{second}.bias", 0) * scale
        if group == "attns":  # queries of all branches first, then keys, then values
            read = [torch.cat(rows) for rows in zip(*(own.chunk(3) for own in read), strict=True)]
            read_bias = [torch.cat(rows) for rows in zip(*(own.chunk(3) for own in read_bias), strict=True)]
        made[f"{first}.weight"], made[f"{first}.bias"] = torch.cat(read), torch.cat(read_bias)
        made[f"{second}.weight"], made[f"{second}.bias"] = torch.cat(write, 1), write_bias
    like = own["attns.0.norm.weight"].dtype
    return {name: value.to(like) for name, value in made.items()}


def refused_block(block: Any) -> str | None:
    """Returns the part of a parallel block that cannot be computed exactly; None if there is none."""
    if type(block).__name__ != "ParallelThingsBlock":
        return None
    parts = [*block.attns, *block.ffns]
    if not all(isinstance(part.norm, nn.LayerNorm) and part.norm.bias is not None for part in parts):
        return "parallel branches with other norms than LayerNorm"
    if len({part.norm.eps for part in parts}) != 1:
        return "parallel branches with norms of other epsilons"
    return None
