"""Blocks of timm of other classes, as blocks of the plain class that compute the same or hold the same parts."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from runtime import BlockKind

from .needs import Attention, Block, LayerScale, SwiGLU

POST = ("ResPostBlock", "ResPostRelPosBlock")
"""Classes whose norms stand behind the branches."""

_BEIT = ("timm.models.beit", "Block")
_RELATIVE = ("RelPosBlock", "ResPostRelPosBlock")


def block_kind_of(block: Any) -> BlockKind:
    """Returns what a timm block reads and writes, see ``ShapePlan.block_kind``."""
    name = type(block).__name__
    return "post" if name in POST else "parallel" if name == "ParallelScalingBlock" else "pre"


def plain_block(block: Any) -> Any:
    """Returns a block of timm's plain class with the parts of ``block``, which is not to be run.

    ``block_kind_of`` says where branches stand behind one another, in parallel or before their norms. Attentions side
    by side become one with all their heads, and MLPs side by side one with all their units. A block of any other class
    is returned as it is.
    """
    name = type(block).__name__
    if name == "ParallelScalingBlock":
        return _of_scaling(block)
    if name == "ParallelThingsBlock":
        return _of_things(block)
    if type(block) is Block and type(block.mlp).__name__ == "GeGluMlp":
        return _of_double_norm(block)
    if name == "ResPostBlock":
        return _made(block.norm1, block.norm2, block.attn, block.mlp)
    if (type(block).__module__, name) == _BEIT:
        bias = None
        if block.attn.q_bias is not None:
            bias = torch.cat([block.attn.q_bias, torch.zeros_like(block.attn.v_bias), block.attn.v_bias])
        attn = _attention(block.attn, block.attn.qkv.weight, bias, block.attn.proj)
        return _made(block.norm1, block.norm2, attn, block.mlp, block.gamma_1, block.gamma_2)
    if name in _RELATIVE:
        attn = _attention(block.attn, block.attn.qkv.weight, block.attn.qkv.bias, block.attn.proj)
        attn.q_norm, attn.k_norm = block.attn.q_norm, block.attn.k_norm
        scales = (getattr(getattr(block, own, None), "gamma", None) for own in ("ls1", "ls2"))
        return _made(block.norm1, block.norm2, attn, block.mlp, *scales)
    return block


def _made(norm1: Any, norm2: Any, attn: Any, mlp: Any, gamma1: Any = None, gamma2: Any = None) -> Any:
    with torch.device("meta"):
        block = Block(8, 1)
    block.norm1, block.norm2, block.attn, block.mlp = norm1, norm2, attn, mlp
    for name, gamma in (("ls1", gamma1), ("ls2", gamma2)):
        if gamma is not None:
            scale = LayerScale(len(gamma), device="meta")
            scale.gamma = nn.Parameter(gamma.detach())
            setattr(block, name, scale)
    return block.train(False)


def _attention(like: Any, weight: torch.Tensor, bias: Any, proj: Any, heads: int = 0) -> Any:
    """Returns an attention with the scale and the width of heads of ``like``, and ``heads`` or as many heads."""
    with torch.device("meta"):
        attn = Attention(8, 1)
    attn.num_heads, attn.scale = heads or like.num_heads, like.scale
    attn.head_dim = len(weight) // 3 // attn.num_heads
    attn.qkv, attn.proj = _linear(weight, bias), proj
    return attn


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], len(weight), bias=bias is not None, device="meta")
    made.weight = nn.Parameter(weight.detach())
    if bias is not None:
        made.bias = nn.Parameter(bias.detach())
    return made


def _mlp(act: Any, fc1: nn.Linear, fc2: nn.Linear) -> Any:
    with torch.device("meta"):
        mlp = Block(8, 1).mlp
    mlp.fc1, mlp.fc2, mlp.act = fc1, fc2, act
    return mlp


def _of_double_norm(block: Any) -> Any:
    """Takes the norm inside ViTamin's MLP out of it, as ``norm3``."""
    with torch.device("meta"):
        mlp = SwiGLU(8, 8)
    mlp.fc1_g, mlp.fc1_x, mlp.fc2, mlp.act = block.mlp.w0, block.mlp.w1, block.mlp.w2, block.mlp.act
    scales = (getattr(own, "gamma", None) for own in (block.ls1, block.ls2))
    made = _made(block.norm1, block.norm2, block.attn, mlp, *scales)
    made.norm3 = block.mlp.norm
    return made


def _of_scaling(block: Any) -> Any:
    hidden, inner = block.in_split[0], block.num_heads * block.head_dim
    weight, bias = block.in_proj.weight, block.in_proj.bias
    first = bias[:hidden] if bias is not None else block.mlp_bias
    if block.out_proj is None:
        proj, fc2 = block.attn_out_proj, block.mlp_out_proj
    else:
        one, two = block.out_proj.weight.split([inner, hidden], 1)
        own = block.out_proj.bias
        proj, fc2 = _linear(one, None if own is None else torch.zeros_like(own)), _linear(two, own)
    attn = _attention(block, weight[hidden:], None if bias is None else bias[hidden:], proj)
    attn.q_norm, attn.k_norm = block.q_norm, block.k_norm
    gamma = getattr(block.ls, "gamma", None)
    mlp = _mlp(block.mlp_act, _linear(weight[:hidden], first), fc2)
    return _made(block.in_norm, block.in_norm, attn, mlp, gamma, gamma)


def _of_things(block: Any) -> Any:
    """Folds the norms and scales of branches side by side, and joins the branches."""
    width = len(block.attns[0].norm.weight)
    joined = {}
    for group, first, second in (("attns", "attn.qkv", "attn.proj"), ("ffns", "mlp.fc1", "mlp.fc2")):
        read, read_bias, write, write_bias = [], [], [], torch.zeros_like(block.attns[0].norm.bias).double()
        for branch in getattr(block, group):
            one, two = branch.get_submodule(first), branch.get_submodule(second)
            weight = one.weight.double()
            scale = branch.ls.gamma.double() if hasattr(branch.ls, "gamma") else torch.ones_like(write_bias)
            read.append(weight * branch.norm.weight.double())
            read_bias.append(weight @ branch.norm.bias.double() + (0 if one.bias is None else one.bias.double()))
            write.append(two.weight.double() * scale[:, None])
            write_bias = write_bias + (0 if two.bias is None else two.bias.double() * scale)
        if group == "attns":  # queries of all branches first, then keys, then values
            read = [torch.cat(rows) for rows in zip(*(own.chunk(3) for own in read), strict=True)]
            read_bias = [torch.cat(rows) for rows in zip(*(own.chunk(3) for own in read_bias), strict=True)]
        like = block.attns[0].norm.weight.dtype
        joined[group] = (
            _linear(torch.cat(read).to(like), torch.cat(read_bias).to(like)),
            _linear(torch.cat(write, 1).to(like), write_bias.to(like)),
        )
    norm = nn.LayerNorm(width, eps=block.attns[0].norm.eps, device=block.attns[0].norm.weight.device)
    other = nn.LayerNorm(width, eps=block.ffns[0].norm.eps, device=norm.weight.device)
    (qkv, proj), (fc1, fc2) = joined["attns"], joined["ffns"]
    own = block.attns[0].attn
    attn = _attention(own, qkv.weight, qkv.bias, proj, block.num_parallel * own.num_heads)
    return _made(norm, other, attn, _mlp(block.ffns[0].mlp.act, fc1, fc2))


def refused_block(block: Any) -> str | None:
    """Returns the part of a parallel block that cannot be computed exactly; None if there is none."""
    if type(block).__name__ != "ParallelThingsBlock":
        return None
    attentions, mlps = [part.attn for part in block.attns], [part.mlp for part in block.ffns]
    optional = [norm for own in attentions for norm in (own.q_norm, own.k_norm, own.norm)] + [own.norm for own in mlps]
    if not all(norm is None or isinstance(norm, nn.Identity) for norm in optional):
        return "parallel branches with norms inside"
    parts = [*block.attns, *block.ffns]
    if not all(isinstance(part.norm, nn.LayerNorm) and part.norm.bias is not None for part in parts):
        return "parallel branches with other norms than LayerNorm"
    if len({part.norm.eps for part in parts}) != 1:
        return "parallel branches with norms of other epsilons"
    return None
