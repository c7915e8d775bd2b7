"""timm's Vision Transformers with relative positions, and its BEiT, seen with the attributes of a plain one."""

from __future__ import annotations

from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import torch

from .position_bias import NAME, biases_to_timm, table_of


def relative_view(model: Any) -> Any:
    """Returns the attributes of a plain Vision Transformer, with the model's values."""
    own: dict[str, Any] = {
        "no_embed_class": False,
        "pool_include_prefix": False,
        "num_reg_tokens": 0,
        "reg_token": None,
        "norm_pre": None,
        "attn_pool": None,
        "pos_embed": None,
    }
    names = ("patch_embed", "cls_token", "global_pool", "embed_dim", "norm", "fc_norm", "head", "blocks")
    own |= {name: getattr(model, name) for name in names}
    own["pos_embed"] = getattr(model, "pos_embed", None)
    return SimpleNamespace(**own)


def shared_bias(model: Any) -> Any:
    """Returns the module that holds a position bias for all blocks of a timm model; None where it has none."""
    return getattr(model, "shared_rel_pos", None) or getattr(model, "rel_pos_bias", None)


def has_position_bias(model: Any) -> bool:
    """Returns whether attention of a timm model adds a relative position bias to its scores."""
    own = getattr(model.blocks[0], "attn", None)
    tables = (getattr(own, name, None) for name in ("relative_position_bias_table", "rel_pos"))
    return shared_bias(model) is not None or any(table is not None for table in tables)


def relative_weights(model: Any) -> dict[str, torch.Tensor]:
    """Returns a timm model's weights outside its blocks under the names of a plain one."""
    skipped = ("blocks.", "shared_rel_pos.", "rel_pos_bias.")
    return {name: value for name, value in model.state_dict().items() if not name.startswith(skipped)}


def position_tables(model: Any) -> dict[str, torch.Tensor]:
    """Returns the position biases of all blocks of a timm model as constant tables, by their names."""
    if not has_position_bias(model):
        return {}
    shared = shared_bias(model)
    found = {f"blocks.{i}.attn.{NAME}": table_of(block.attn, shared) for i, block in enumerate(model.blocks)}
    return {name: table for name, table in found.items() if table is not None}


def relative_to_timm(weights: dict[str, torch.Tensor], wanted: Collection[str]) -> dict[str, torch.Tensor]:
    """Returns weights with the names of a plain timm model under those of ``wanted``; see ``to_timm``.

    Raises:
        ModelError: the model has no place for a table of relative positions.
    """
    out = biases_to_timm(weights, wanted)
    for name in list(out):
        if name.endswith(".attn.qkv.bias") and name not in wanted and name.replace(".qkv.bias", ".q_bias") in wanted:
            # the key's bias is dropped, since a softmax does not see it
            query, _, value = out.pop(name).chunk(3)
            out[name.replace(".qkv.bias", ".q_bias")] = query
            out[name.replace(".qkv.bias", ".v_bias")] = value
        for ours, theirs in ((".ls1.gamma", ".gamma_1"), (".ls2.gamma", ".gamma_2")):
            if name.endswith(ours) and name.replace(ours, theirs) in wanted:
                out[name.replace(ours, theirs)] = out.pop(name)
    return out
