"""Finds the part in which a checkpoint differs from a timm Vision Transformer, and the options that make it fit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Misfit:
    """The reason why weights do not fit.

    Attributes:
        what: the difference, as the end of "does not fit 'NAME': ".
        expected: the part in the model.
        got: the part in the checkpoint.
        fix: advice for the user.
    """

    what: str
    expected: object
    got: object
    fix: str


_ANOTHER = "Check --model and --model-arg"

_LAYOUTS = (
    (r"embeddings\.patch_embeddings\.|encoder\.layer\.\d+\.|layernorm_before|vision_model\.", "Hugging Face's names"),
    (r"conv_proj\.|encoder\.layers\.encoder_layer_\d+\.", "torchvision's names"),
    (r"resblocks\.\d+\.", "CLIP's names"),
)

_FOLDER = "Give the folder with its config.json as --model FOLDER, without --checkpoint"

_PARTS = (
    (r"(^|\.)rope(\.|$)|rotary|freqs_cis", "rotary position embedding", "", ""),
    (r"relative_position_bias_table|rel_pos_(bias|h|w)", "relative position bias", "", ""),
    (r"\.attn\.[qk]_norm\.", "query/key normalisation", "--model-arg qk_norm=true", ""),
    (r"\.mlp\.(w1|w2|w3|w12|fc1_g|fc1_x|norm)\b", "a gated or normalised MLP", "", ""),
    (r"\.(ls[12]\.gamma|gamma_?[12])$", "LayerScale", "--model-arg init_values=1e-5", "--model-arg init_values=0"),
    (r"^dist_token$|^head_dist\.", "a distillation token", "--model deit_*_distilled_*", ""),
    (r"^(reg_token|register_tokens)$", "register tokens", "--model-arg reg_tokens=N", ""),
    (r"^fc_norm\.", "a norm after average pooling", "--model-arg global_pool=avg", "--model-arg global_pool=token"),
    (r"^norm_pre\.", "a norm before the first block", "--model-arg pre_norm=true", ""),
    (r"^cls_token$", "a class token", "", "--model-arg class_token=false --model-arg global_pool=avg"),
    (r"^pos_embed$", "learnt positions", "", "--model-arg pos_embed=none"),
    (r"\.qkv\.bias$", "a bias of queries, keys and values", "", "--model-arg qkv_bias=false"),
    (r"\.q_bias$|\.v_bias$", "a bias of queries and values of BEiT's kind", "", ""),
    (r"^pre_logits\.", "a layer before its classifier (pre_logits)", "", ""),
)
"""For each part: a pattern of its weights' names, a description, and the options that add and remove it."""


def misfit(wanted: Shapes, found: Shapes) -> Misfit | None:
    """Returns the first part in which ``found`` differs from ``wanted``; None where all names and shapes are equal.

    Args:
        wanted: shapes of the model's weights, by timm's names.
        found: shapes of the checkpoint's weights.
    """
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    differ = sorted(name for name in wanted.keys() & found.keys() if wanted[name] != found[name])
    if not (missing or extra or differ):
        return None
    return (
        _layout(wanted, found)
        or _depth(wanted, found)
        or _sizes(wanted, found)
        or _part(missing, extra)
        or _classifier(missing, extra)
        or _first(wanted, found, sorted({*missing, *extra, *differ}))
    )


def _layout(wanted: Shapes, found: Shapes) -> Misfit | None:
    """Returns a misfit for names that are not timm's."""
    if "patch_embed.weight" in found and any(".attn.q." in name for name in found):
        return Misfit(
            "it is a model of PocketViT's own, with other widths or of another architecture",
            "a whole model of this architecture",
            "those of a run folder",
            "Name the run: pocketvit export RUN, or distill --student RUN",
        )
    if any(name in found for name in wanted if name.startswith(("patch_embed.", "blocks."))):
        return None
    kinds = [kind for pattern, kind in _LAYOUTS if any(re.search(pattern, name) for name in found)]
    begin = sorted({".".join(name.split(".")[:2]) for name in found})
    return Misfit(
        f"it has {kinds[0]}, not timm's" if kinds else "it is of another kind of network",
        "names such as blocks.0.attn.qkv.weight",
        f"names that begin with {', '.join(map(repr, begin[:3]))}" if begin else "none",
        _FOLDER
        if kinds[:1] == [_LAYOUTS[0][1]]
        else f"Save the weights from timm's model of this architecture. {_ANOTHER}",
    )


def _depth(wanted: Shapes, found: Shapes) -> Misfit | None:
    ours, theirs = _blocks(wanted), _blocks(found)
    if ours == theirs:
        return None
    return Misfit(
        f"it has {theirs} blocks, the model {ours}",
        f"{ours} blocks",
        theirs,
        f"Give --model-arg depth={theirs}, or another --model",
    )


def _blocks(shapes: Shapes) -> int:
    numbers = [int(match[1]) for name in shapes if (match := re.match(r"blocks\.(\d+)\.", name))]
    return max(numbers, default=-1) + 1


def _sizes(wanted: Shapes, found: Shapes) -> Misfit | None:
    """Returns a misfit in the width, the channels, the patch size or the MLP's width."""
    ours, theirs = wanted.get("patch_embed.proj.weight", ()), found.get("patch_embed.proj.weight", ())
    if len(ours) == 4 and len(theirs) == 4:
        if ours[0] != theirs[0]:
            fix = f"Give the --model it is of, or --model-arg embed_dim={theirs[0]}"
            return Misfit(f"it is {theirs[0]} wide, the model {ours[0]}", f"embed_dim {ours[0]}", theirs[0], fix)
        if ours[1] != theirs[1]:
            fix = f"Give --in-chans {theirs[1]}"
            return Misfit(f"it takes {theirs[1]} channels, the model {ours[1]}", ours[1], theirs[1], fix)
        if ours[2:] != theirs[2:]:
            fix = f"Give --patch-size {theirs[2]}, or another --model"
            what = f"its patches are {_by(theirs[2:])} pixels, the model's {_by(ours[2:])}"
            return Misfit(what, _by(ours[2:]), _by(theirs[2:]), fix)
    name = "blocks.0.mlp.fc1.weight"
    own, other = wanted.get(name, ()), found.get(name, ())
    if len(own) == 2 == len(other) and own != other:
        fix = f"Give --model-arg mlp_ratio={other[0] / other[1]:g}, or another --model"
        return Misfit(f"its MLPs are {other[0]} wide, the model's {own[0]}", own[0], other[0], fix)
    return None


def _part(missing: list[str], extra: list[str]) -> Misfit | None:
    """Returns a misfit for a part that only the model or only the checkpoint has."""
    for pattern, part, cure, _ in _PARTS:
        names = [name for name in extra if re.search(pattern, name)]
        if names:
            fix = f"Give {cure}, or another --model" if cure else "Give the --model it is of, if it is supported"
            return Misfit(f"it has {part}, which the model lacks", f"no '{names[0]}'", f"'{names[0]}'", fix)
    for pattern, part, _, cure in _PARTS:
        names = [name for name in missing if re.search(pattern, name)]
        if names:
            fix = f"Give {cure}, or another --model" if cure else "Give the --model it is of"
            return Misfit(f"it lacks {part}, which the model has", f"'{names[0]}'", "none", fix)
    return None


def _classifier(missing: list[str], extra: list[str]) -> Misfit | None:
    names = [name for name in extra if name.startswith("head.")]
    if not names:
        return None
    return Misfit(
        f"its classifier is of another form ('{names[0]}')",
        "head.weight and head.bias",
        ", ".join(names[:4]),
        "Give --reset-head to train a new classifier. --model names the rest",
    )


def _first(wanted: Shapes, found: Shapes, wrong: list[str]) -> Misfit:
    first = wrong[0]
    count = f"{len(wrong)} weights differ, first" if len(wrong) > 1 else "one weight differs:"
    if first == "pos_embed" and first in wanted and first in found:
        what = f"it has {found[first][1:2] or found[first]} positions, the model {wanted[first][1:2]}"
        return Misfit(what, wanted[first], found[first], "Check --img-size, --patch-size and --model")
    return Misfit(
        f"{count} '{first}'",
        wanted.get(first, "no such weight"),
        found.get(first, "none"),
        _ANOTHER,
    )


def _by(sides: tuple[int, ...]) -> str:
    return "x".join(map(str, sides))
