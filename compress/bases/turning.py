"""Random rotations of what a cut has kept: the model computes the same, and rounds better."""

from __future__ import annotations

import torch

from compress.model.canonical import rotate_stream
from compress.model.coordinates import Coordinates
from compress.model.vit import SlicedViT, build
from runtime import ShapePlan


def turned(model: SlicedViT, coordinates: Coordinates, seed: int) -> tuple[SlicedViT, Coordinates]:
    """Returns the same function in balanced random bases of every head and of the stream, and its coordinates.

    In the bases that a cut needs, the weights of values are large where those of the projection are small, and a
    training or a range of integers suits neither. Balanced weights share the singular values of their product, and a
    random rotation spreads them evenly. The stream is rotated where its norms are RMSNorms.

    Args:
        model: the model, in canonical form: its keys and values have no bias, or one of zeros.
        coordinates: of its features.
        seed: seed of the rotations.

    Ref: Ashkboos et al. 2024 (QuaRot, arXiv 2404.00456), section 4.
    """
    generator = torch.Generator().manual_seed(seed)
    w = {name: value.detach().double() for name, value in model.state_dict().items()}
    w = turned_heads(model.plan, w, generator)
    matrix = coordinates.matrix
    if model.plan.norm_type == "rms":
        basis = random_rotation(model.plan.embed_dim, generator)
        w = rotate_stream(model.plan, w, basis)
        matrix = (basis.T @ matrix.double()).float()
    return build(model.plan, w, model.head.weight.dtype), Coordinates(matrix, coordinates.shift)


def turned_heads(
    plan: ShapePlan, weights: dict[str, torch.Tensor], generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Returns the weights of the same function in balanced random bases of every head's queries, keys and values.

    Queries and keys that are rotated or normalised keep their basis, and so do values with a norm behind them.

    Args:
        plan: plan of the model.
        weights: its weights, float64; keys and values have no bias, or one of zeros.
        generator: of the rotations.
    """
    w = dict(weights)
    for i, block in enumerate(plan.blocks):
        at, heads = f"blocks.{i}.attn", block.num_heads
        free = ("k" if plan.mixes_qk else "") + ("" if plan.attn_norm else "v")
        biases = [w[f"{at}.{part}.bias"] for part in free if f"{at}.{part}.bias" in w]
        assert not any(bias.any() for bias in biases), "biases of keys and values are zero in the canonical form"
        turn = torch.stack([random_rotation(block.qk_dim, generator) for _ in range(heads)])
        if plan.mixes_qk:
            query = w[f"{at}.q.weight"]
            if f"{at}.q.bias" in w:
                query = torch.cat([query, w[f"{at}.q.bias"][:, None]], 1)
            keys = w[f"{at}.k.weight"].view(heads, block.qk_dim, -1).transpose(1, 2)
            keys, queries = balanced(keys, query.view(heads, block.qk_dim, -1), turn)
            w[f"{at}.k.weight"] = keys.transpose(1, 2).flatten(0, 1)
            w[f"{at}.q.weight"] = queries.flatten(0, 1)[:, : plan.embed_dim]
            if f"{at}.q.bias" in w:
                w[f"{at}.q.bias"] = queries.flatten(0, 1)[:, -1]
        turn = torch.stack([random_rotation(block.v_dim, generator) for _ in range(heads)])
        if not plan.attn_norm:
            projection = w[f"{at}.proj.weight"].view(-1, heads, block.v_dim).transpose(0, 1)
            projection, values = balanced(projection, w[f"{at}.v.weight"].view(heads, block.v_dim, -1), turn)
            w[f"{at}.v.weight"] = values.flatten(0, 1)
            w[f"{at}.proj.weight"] = projection.transpose(0, 1).flatten(1)
    return w


def balanced(left: torch.Tensor, right: torch.Tensor, turn: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns two factors with the same product whose squares are equally large, in a rotated basis.

    With ``left @ right = U S V^T``, they are ``U S^1/2 turn^T`` and ``turn S^1/2 V^T``.

    Args:
        left: ``(H, C, r)`` float64.
        right: ``(H, r, D)``.
        turn: ``(H, r, r)``, orthogonal.
    """
    if min(left.shape[1], right.shape[2]) < left.shape[2]:
        return left @ turn.transpose(1, 2), turn @ right
    one, first = torch.linalg.qr(left)
    other, second = torch.linalg.qr(right.transpose(1, 2))
    u, s, vt = torch.linalg.svd(first @ second.transpose(1, 2))
    root = s.sqrt()[:, None, :]
    return one @ (u * root) @ turn.transpose(1, 2), turn @ (vt * root.transpose(1, 2)) @ other.transpose(1, 2)


def random_rotation(size: int, generator: torch.Generator) -> torch.Tensor:
    """Returns a random orthogonal matrix ``(size, size)``, float64."""
    q, r = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))
    rotation: torch.Tensor = q * r.diagonal().sign()
    return rotation


def turn_rows(weights: dict[str, torch.Tensor], name: str, turn: torch.Tensor) -> None:
    """Changes the rows of a Linear, head by head, and its bias.

    Args:
        weights: weights by name; the two of the Linear are replaced.
        name: name of the Linear, whose rows are those of all heads.
        turn: ``(H, d, d)``, the map of each head's outputs.
    """
    heads, d, _ = turn.shape
    weights[f"{name}.weight"] = (turn @ weights[f"{name}.weight"].view(heads, d, -1)).reshape(heads * d, -1)
    if f"{name}.bias" in weights:
        weights[f"{name}.bias"] = (turn @ weights[f"{name}.bias"].view(heads, d, 1)).reshape(-1)
