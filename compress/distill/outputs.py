"""Logits, hidden states and embeddings of any kind of network."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from compress.model.vit import SlicedViT
from runtime import ModelError, Session

Network = nn.Module | Session

_EMBEDDING, _TOKENS = -1, -2


@dataclass(frozen=True)
class Outputs:
    """The outputs of a network for a batch, float32.

    Attributes:
        logits: ``(B, classes)``.
        features: hidden states ``(B, C, h, w)`` after the requested blocks, in that order.
        embedding: the classifier's input, ``(B, D)``; None where it was not requested.
        tokens: the last tokens, normed where the network norms them before pooling, ``(B, N, D)``; None where they were
            not requested.
    """

    logits: torch.Tensor
    features: tuple[torch.Tensor, ...] = ()
    embedding: torch.Tensor | None = None
    tokens: torch.Tensor | None = None


def outputs_of(
    network: Network, images: torch.Tensor, blocks: Sequence[int] = (), embedding: bool = False, tokens: bool = False
) -> Outputs:
    """Runs a network and returns the requested outputs.

    Args:
        network: a ``SlicedViT``, a timm network, or an exported file, which has only logits.
        images: ``(B, C, H, W)`` float32, normalised.
        blocks: block numbers from 0; for a timm network the stages as ``forward_intermediates`` numbers them.
        embedding: whether to return the embedding.
        tokens: whether to return the last tokens, which a ``SlicedViT`` alone has.

    Raises:
        ModelError: the network gives no hidden states, no embedding or no tokens.
    """
    if isinstance(network, SlicedViT):
        return _of_sliced(network, images, blocks, embedding, tokens)
    if tokens:
        raise ModelError("A teacher's last tokens are those of a model of PocketViT", fix="Name a run folder")
    if isinstance(network, Session):
        if blocks or embedding:
            raise ModelError("An exported file gives its answers alone, no hidden states")
        return Outputs(_logits_of_file(network, images))
    if not (blocks or embedding):
        return Outputs(network(images).float())
    return _of_timm(network, images, blocks, embedding)


def depth_of(network: Network) -> int:
    """Returns the number of blocks whose hidden states ``outputs_of`` can return; 0 for a network without any."""
    if isinstance(network, SlicedViT):
        return len(network.blocks)
    if isinstance(network, Session) or not hasattr(network, "forward_intermediates"):
        return 0
    return len(getattr(network, "feature_info", ()))


def _of_sliced(model: SlicedViT, images: torch.Tensor, blocks: Sequence[int], embedding: bool, tokens: bool) -> Outputs:
    seen: dict[int, torch.Tensor] = {}
    with ExitStack() as hooks:
        for block in dict.fromkeys(blocks):
            hooks.enter_context(model.blocks[block].register_forward_hook(_keep(seen, block)))
        if embedding:
            hooks.enter_context(model.head.register_forward_pre_hook(_keep_input(seen)))
        if tokens:
            last = model.norm if model.plan.norm == "before_pool" else model.blocks[-1]
            hooks.enter_context(last.register_forward_hook(_keep(seen, _TOKENS)))
        logits = model(images).float()
    rows, columns = (size // patch for size, patch in zip(model.plan.map_size, model.plan.patch_size, strict=True))

    def as_map(tokens: torch.Tensor) -> torch.Tensor:
        patches = tokens[:, model.plan.num_prefix_tokens :]
        return patches.transpose(1, 2).reshape(len(tokens), -1, rows, columns).float()

    return Outputs(
        logits,
        tuple(as_map(seen[block]) for block in blocks),
        seen[_EMBEDDING].float() if embedding else None,
        seen[_TOKENS].float() if tokens else None,
    )


def _keep(seen: dict[int, torch.Tensor], key: int) -> Any:
    def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        seen[key] = output

    return hook


def _keep_input(seen: dict[int, torch.Tensor]) -> Any:
    def hook(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        read = inputs[0]
        seen[_EMBEDDING] = read.mean(dim=1) if read.ndim == 3 else read

    return hook


def _of_timm(network: Any, images: torch.Tensor, blocks: Sequence[int], embedding: bool) -> Outputs:
    if not depth_of(network):
        raise ModelError(
            f"{type(network).__name__} gives no hidden states",
            fix="Choose another --teacher, or --method response",
        )
    wanted = sorted(set(blocks))
    last, states = network.forward_intermediates(images, indices=wanted or [0], output_fmt="NCHW")
    by_block = dict(zip(wanted, states, strict=False))
    read = network.forward_head(last, pre_logits=True).flatten(1).float() if embedding else None
    return Outputs(network.forward_head(last).float(), tuple(by_block[b].float() for b in blocks), read)


def _logits_of_file(session: Session, images: torch.Tensor) -> torch.Tensor:
    pixels = images.float().permute(0, 2, 3, 1).numpy()
    count, whole = len(pixels), max(1, session.artifact.input.shape[0])
    missing = -count % whole
    padded = np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), np.float32)]) if missing else pixels
    return torch.from_numpy(session.logits(padded)[:count].copy())
