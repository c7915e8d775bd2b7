"""Zero-shot classifiers: an image tower of CLIP or SigLIP whose vector is compared with the vectors of texts.

The logits are ``scale * <image / |image|, text / |text|> + bias``. The head of the ``SlicedViT`` makes the vector of
the image: it is the tower's projection, or the identity where there is none. Cutting composes it with the basis, so the
texts fit the cut model, too.

Ref: Radford et al. 2021 (CLIP, arXiv 2103.00020), figure 3; Zhai et al. 2023 (SigLIP, arXiv 2303.15343), algorithm 1.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from compress.model.embedder import load_embedder, projected_length
from compress.model.load import ModelSpec, check_model, load_checkpoint_report, load_model, published_classes, resolved
from compress.model.vit import SlicedViT, build
from runtime import DataError, ShapePlan

from .text_embeddings import TextEmbeddings


def zero_shot_spec(spec: ModelSpec, texts: TextEmbeddings) -> ModelSpec:
    """Returns the spec of an image tower, with its head where that makes the vector that texts are compared with.

    A projection that is known as one stays. Any other head stays where its outputs are as many as the values of a
    text's vector, and is left out as a classifier elsewhere.

    Raises:
        ModelError: the repository or folder cannot be read, or the architecture is not supported.
        DataError: the vectors of the texts have another length than those of the images.
        PlanError: two heads of the model are averaged.
    """
    bare = resolved(replace(spec, reset_head=True))
    check_model(bare)
    stays = projected_length(bare) or _head_outputs(bare) == texts.dim
    found = replace(bare, reset_head=not stays)
    zero_shot_plan(found, texts)
    return found


def zero_shot_plan(spec: ModelSpec, texts: TextEmbeddings) -> ShapePlan:
    """Returns the plan of the model that ``load_zero_shot`` returns.

    Args:
        spec: what ``zero_shot_spec`` returned.
        texts: the texts.

    Raises:
        ModelError: the name is unknown, or the architecture is not supported.
        DataError: the vectors of the texts have another length than those of the images.
        PlanError: two heads of the model are averaged.
    """
    plan = check_model(spec)
    length = plan.head_dim if spec.reset_head else projected_length(spec) or texts.dim
    if length != texts.dim:
        raise DataError(
            f"The text embeddings {texts.path} do not belong to the image tower {spec.name}",
            expected=f"vectors of {length} values, as the tower gives them",
            got=f"{texts.dim} values",
            fix="Make them with the text tower that was trained together with this image tower",
        )
    pooling = "token" if plan.pooling == "token_and_avg" else plan.pooling
    return replace(plan, pooling=pooling, num_classes=len(texts.names), text_dim=texts.dim)


def load_zero_shot(spec: ModelSpec, texts: TextEmbeddings, seed: int = 0) -> SlicedViT:
    """Returns the image tower with the texts as its classes.

    Args:
        spec: what ``zero_shot_spec`` returned.
        texts: the texts.
        seed: seed of fresh weights.

    Raises:
        ModelError: as in ``load_model``.
        DataError: the vectors of the texts have another length than those of the images.

    Warns:
        PocketVitWarning: as in ``load_model``.
    """
    plan = zero_shot_plan(spec, texts)
    tower = load_embedder(spec, "vector", seed) if spec.reset_head else load_model(spec, texts.dim, seed)
    added = {
        "text.weight": torch.from_numpy(texts.weight),
        "text.bias": torch.full((len(texts.names),), texts.bias),
    }
    plan = replace(tower.plan, output="classes", num_classes=plan.num_classes, text_dim=texts.dim)
    return build(plan, {**tower.state_dict(), **added})


def _head_outputs(spec: ModelSpec) -> int:
    """Returns the outputs of the head that the weights bring; 0 without a head."""
    if spec.hub is not None or spec.pretrained:
        return published_classes(spec)
    if spec.checkpoint is None:
        return 0
    return load_checkpoint_report(replace(spec, reset_head=False), None).classes or 0
