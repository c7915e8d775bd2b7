"""What a model answers to images, and how near the answers of a cut model are to those of the whole one."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from compress.model.vit import SlicedViT
from export.formats.tflite import write_tflite
from runtime import open_engine
from runtime.formats import TFLITE

_BATCH = 16


@dataclass(frozen=True)
class Answers:
    """A model's outputs for N images.

    Attributes:
        features: the head's inputs, pooled and normed, ``(N, embed_dim)`` float32.
        logits: ``(N, classes)`` float32.
    """

    features: torch.Tensor
    logits: torch.Tensor


@dataclass(frozen=True)
class Fidelity:
    """How near a cut model is to the whole one on a set of images.

    Attributes:
        agreement: share of images whose most likely class is the whole model's, 0..1.
        cosine: mean cosine of the head's inputs of both models, -1..1; None where no map leads back from a narrower
            stream.
        top1: share of images whose most likely class is correct, 0..1; None without labels.
    """

    agreement: float
    cosine: float | None
    top1: float | None


def answers_of(model: SlicedViT, images: torch.Tensor) -> Answers:
    """Returns the model's answers to images ``(N, C, H, W)``.

    Where LiteRT is installed, a TFLite file that ends before the head computes the features on all of torch's threads,
    faster than torch and equal up to rounding. A model with two heads runs in torch.
    """
    if model.head_dist is not None or any(find_spec(name) is None for name in ("ai_edge_litert", "flatbuffers")):
        return _torch_answers(model, images)
    features = _tflite_features(_headless(model), images)
    with torch.inference_mode():
        return Answers(features, model.head(features))


def top1_of(answers: Answers, labels: torch.Tensor) -> float:
    """Returns the share of answers that are correct, 0..1."""
    return float((answers.logits.argmax(1) == labels).float().mean())


def fidelity(
    own: Answers,
    whole: Answers,
    labels: torch.Tensor | None,
    back: torch.Tensor | None = None,
    offset: torch.Tensor | None = None,
) -> Fidelity:
    """Compares the answers of a cut model with those of the whole one to the same images.

    Args:
        own: the cut model's.
        whole: the whole model's.
        labels: ``(N,)``; None where they are not known.
        back: map ``(C_cut, C_whole)`` of the cut model's features to those of the whole model; None if they have the
            same coordinates.
        offset: ``(C_whole,)``, what is added after the map; None adds nothing.
    """
    features = own.features if back is None else own.features @ back
    features = features if offset is None else features + offset
    cosine = None
    if features.shape == whole.features.shape:
        cosine = float(F.cosine_similarity(features.double(), whole.features.double(), dim=1).mean())
    same = own.logits.argmax(1) == whole.logits.argmax(1)
    return Fidelity(float(same.float().mean()), cosine, None if labels is None else top1_of(own, labels))


def _headless(model: SlicedViT) -> SlicedViT:
    """Returns a copy whose logits are the head's inputs."""
    width = model.plan.embed_dim
    bare = copy.deepcopy(model)
    bare.plan = replace(model.plan, num_classes=width)
    bare.head = torch.nn.Linear(width, width)
    with torch.no_grad():
        bare.head.weight.copy_(torch.eye(width))
        bare.head.bias.zero_()
    return bare.eval()


def _tflite_features(bare: SlicedViT, images: torch.Tensor) -> torch.Tensor:
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / f"features{TFLITE.suffix}"
        write_tflite(bare, file)
        engine = open_engine(file, threads=torch.get_num_threads())
        found = [
            engine.run(np.ascontiguousarray(one.numpy().transpose(1, 2, 0))[None])[0].copy() for one in images.cpu()
        ]
    return torch.from_numpy(np.stack(found))


def _torch_answers(model: SlicedViT, images: torch.Tensor) -> Answers:
    seen: list[torch.Tensor] = []
    hook = model.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        with torch.inference_mode():
            logits = [model(images[i : i + _BATCH]) for i in range(0, len(images), _BATCH)]
    finally:
        hook.remove()
    return Answers(torch.cat(seen).clone(), torch.cat(logits).clone())
