"""Random rotations of what a cut has kept: the model computes the same, and rounds better."""

from __future__ import annotations

import torch

from compress.model.canonical import rotate_stream
from compress.model.coordinates import Coordinates
from compress.model.vit import SlicedViT, build


def turned(model: SlicedViT, coordinates: Coordinates, seed: int) -> tuple[SlicedViT, Coordinates]:
    """Returns the same function in random bases of every head and of the stream, and its features' coordinates.

    In the bases that a cut needs, some units are large and others small, and a range of integers must hold them all. A
    random rotation spreads them evenly. The stream is rotated where its norms are RMSNorms.

    Args:
        model: the model.
        coordinates: of its features.
        seed: seed of the rotations.

    Ref: Ashkboos et al. 2024 (QuaRot, arXiv 2404.00456), section 4.
    """
    generator = torch.Generator().manual_seed(seed)
    w = {name: value.detach().double() for name, value in model.state_dict().items()}
    for i, block in enumerate(model.plan.blocks):
        at = f"blocks.{i}.attn"
        qk = torch.stack([random_rotation(block.qk_dim, generator) for _ in range(block.num_heads)])
        v = torch.stack([random_rotation(block.v_dim, generator) for _ in range(block.num_heads)])
        for part, turn in (("q", qk), ("k", qk), ("v", v)):
            turn_rows(w, f"{at}.{part}", turn)
        projection = w[f"{at}.proj.weight"].view(-1, block.num_heads, block.v_dim).transpose(0, 1)
        w[f"{at}.proj.weight"] = (projection @ v.transpose(1, 2)).transpose(0, 1).reshape(len(projection[0]), -1)
    matrix = coordinates.matrix
    if model.plan.norm_type == "rms":
        basis = random_rotation(model.plan.embed_dim, generator)
        w = rotate_stream(model.plan, w, basis)
        matrix = (basis.T @ matrix.double()).float()
    return build(model.plan, w, model.head.weight.dtype), Coordinates(matrix, coordinates.shift)


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
