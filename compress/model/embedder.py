"""Models that answer with a vector, or with one for each patch: the head of a ``SlicedViT`` maps features to it.

At the start the head is the identity, or the projection that a checkpoint brings. Cutting the stream composes it with
the basis as it does with a classifier, so the vectors of a cut model have the coordinates of the whole model's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from compress.evaluate import evaluating
from runtime import OutputForm, PlanError, ShapePlan

from .load import ModelSpec, check_model, load_checkpoint_report, load_model, published_classes, resolved
from .vit import SlicedViT, build


def embedding_spec(spec: ModelSpec) -> ModelSpec:
    """Returns the spec of a model without its classifier; the projection of a CLIP is none and stays.

    Raises:
        ModelError: the repository or folder cannot be read.
    """
    spec = resolved(replace(spec, reset_head=True))
    return replace(spec, reset_head=not projected_length(spec))


def embedder_plan(spec: ModelSpec, output: OutputForm, dim: int | None = None) -> ShapePlan:
    """Returns the plan of the model that ``load_embedder`` returns, with vectors of ``dim`` values.

    Args:
        spec: what ``embedding_spec`` returned.
        output: ``vector`` or ``unit_vector``.
        dim: length of the vector; None takes the length that the model has.

    Raises:
        ModelError: the name is unknown, or the architecture is not supported.
        PlanError: ``dim`` is longer than the model's vector.
    """
    plan = check_model(spec)
    length = plan.embed_dim if spec.reset_head else projected_length(spec)
    if dim is not None and not 1 <= dim <= length:
        raise PlanError(
            "The vector cannot have this length", expected=f"--embed-dim 1 to {length}, the model's own", got=dim
        )
    return replace(_as_vector(plan, output), num_classes=dim or length)


def load_embedder(spec: ModelSpec, output: OutputForm, seed: int = 0) -> SlicedViT:
    """Returns the model that answers with the vector that the classifier would read, or with its projection.

    A model whose classifier reads two tokens answers with their mean; one that reads the class token and the mean of
    the patches side by side answers with the class token.

    Args:
        spec: what ``embedding_spec`` returned.
        output: ``vector`` or ``unit_vector``.
        seed: seed of fresh weights.

    Raises:
        ModelError: as in ``load_model``.

    Warns:
        PocketVitWarning: as in ``load_model``.
    """
    if not spec.reset_head:
        model = load_model(spec, projected_length(spec), seed)
        return build(_as_vector(model.plan, output), model.state_dict())
    model = load_model(spec, 2, seed)
    plan = replace(_as_vector(model.plan, output), num_classes=model.plan.embed_dim)
    weights = {
        name: value for name, value in model.state_dict().items() if not name.startswith(("head.", "head_dist."))
    }
    for head in ("head", "head_dist") if plan.two_heads else ("head",):
        weights |= {f"{head}.weight": torch.eye(plan.embed_dim), f"{head}.bias": torch.zeros(plan.embed_dim)}
    return build(plan, weights)


def shortened(model: SlicedViT, batches: Iterable[torch.Tensor], dim: int) -> SlicedViT:
    """Returns a model whose vectors are the first ``dim`` principal components of the model's.

    The components are those of the vectors themselves and not of their differences from the mean: such vectors keep
    the inner products best, which an index of cosines is made of. ``head.weight`` of a model whose head was the
    identity holds the components, ``(dim, D)``, and shortens an index that was built with the longer vectors.

    Args:
        model: a model that answers with vectors of more than ``dim`` values.
        batches: images ``(B, C, H, W)`` of the kind that the model will see, at least ``dim`` in all.
        dim: length of the new vectors.

    Raises:
        PlanError: there are fewer images than ``dim``.

    Ref: Eckart and Young 1936, "The approximation of one matrix by another of lower rank", Psychometrika 1.
    """
    plain = build(replace(model.plan, output="vector"), model.state_dict())
    moment, count = torch.zeros(model.plan.num_classes, model.plan.num_classes, dtype=torch.float64), 0
    with evaluating(plain):
        for images in batches:
            vectors = plain(images).double()
            if model.plan.output == "unit_vector":
                vectors = vectors / vectors.norm(dim=1, keepdim=True).clamp_min(1e-30)
            moment += vectors.T @ vectors
            count += len(images)
    if count < dim:
        raise PlanError(
            "There are too few images to find the principal components of a vector",
            expected=f"{dim} or more training images",
            got=count,
            fix="Give a smaller --embed-dim, or more images",
        )
    components = torch.linalg.eigh(moment).eigenvectors.flip(1)[:, :dim].T
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    components = components * largest.sign()  # an eigenvector has no sign of its own
    weights = dict(model.state_dict())
    for head in ("head", "head_dist") if model.plan.two_heads else ("head",):
        for part in ("weight", "bias"):
            weights[f"{head}.{part}"] = (components @ weights[f"{head}.{part}"].double()).float()
    return build(replace(model.plan, num_classes=dim), weights)


def check_blocks(blocks: Sequence[int], depth: int) -> tuple[int, ...]:
    """Returns the numbers of the blocks that a grid reads, the last of ``depth`` where none is named.

    Raises:
        PlanError: there is no such block, or a number is not larger than the one before it.
    """
    asked = tuple(blocks) or (depth,)
    if asked != tuple(sorted(set(asked))) or not 1 <= asked[0] <= asked[-1] <= depth:
        raise PlanError(
            "A grid cannot read these blocks",
            expected=f"--blocks with rising numbers of 1 to {depth}",
            got=",".join(map(str, asked)),
        )
    return asked


def grid_plan(spec: ModelSpec, blocks: Sequence[int] = ()) -> ShapePlan:
    """Returns the plan of the model that ``load_grid`` returns.

    Args:
        spec: what ``embedding_spec`` returned.
        blocks: numbers of blocks, counted from 1; none takes the last block.

    Raises:
        ModelError: the name is unknown, or the architecture is not supported.
        PlanError: there is no such block.
    """
    plan = check_model(spec)
    return _as_grid(plan, check_blocks(blocks, len(plan.blocks)))


def load_grid(spec: ModelSpec, blocks: Sequence[int] = (), seed: int = 0) -> SlicedViT:
    """Returns the model that answers with the tokens of all patches behind some blocks, ``(B, rows, columns, values)``.

    All go through the model's last norm, as in ``get_intermediate_layers(norm=True)`` of DINOv2. Class tokens,
    distillation tokens and registers are computed and not part of the answer. Blocks after the last that is read, a
    pooling by attention, and a norm behind the pooling are left out.

    Args:
        spec: what ``embedding_spec`` returned.
        blocks: numbers of blocks, counted from 1, whose values stand side by side; none takes the last block.
        seed: seed of fresh weights.

    Raises:
        ModelError: as in ``load_model``.
        PlanError: there is no such block.

    Warns:
        PocketVitWarning: as in ``load_model``.
    """
    model = load_model(replace(spec, reset_head=True), 2, seed)
    plan = _as_grid(model.plan, check_blocks(blocks, len(model.plan.blocks)))
    found = dict(model.state_dict())
    if "dist_token" in found:
        found["reg_token"] = torch.cat(
            [found.pop("dist_token"), *([found["reg_token"]] if "reg_token" in found else [])], 1
        )
    one, zero = torch.eye(plan.embed_dim), torch.zeros(plan.embed_dim)
    for head in ("head", *(f"taps.{i}.head" for i in range(len(plan.grid_blocks)))):
        found |= {f"{head}.weight": one, f"{head}.bias": zero}
    for i in range(len(plan.grid_blocks)):
        found |= {f"taps.{i}.{part}": found[part] for part in ("norm.weight", "norm.bias") if part in found}
    wanted = SlicedViT(plan).state_dict().keys()
    return build(plan, {name: found[name] for name in wanted})


def _as_grid(plan: ShapePlan, blocks: tuple[int, ...]) -> ShapePlan:
    eps = plan.norm_eps if isinstance(plan.norm_eps, float) else None
    grid = replace(
        plan,
        blocks=plan.blocks[: blocks[-1]],
        norm_eps=1.0,
        norm="none" if plan.norm == "after_pool" else plan.norm,
        pooling="avg",
        attn_pool=None,
        dist_token=False,
        reg_tokens=plan.reg_tokens + int(plan.dist_token),
        num_classes=plan.embed_dim,
        output="grid",
        grid_blocks=blocks[:-1],
    )
    if eps is not None:
        return replace(grid, norm_eps=eps)
    same = {name: "norm" if name.startswith("taps.") else name for name in grid.norm_names}
    return replace(grid, norm_eps=tuple(plan.eps_of(same[name]) for name in grid.norm_names))


def _as_vector(plan: ShapePlan, output: OutputForm) -> ShapePlan:
    pooling = "token" if plan.pooling == "token_and_avg" else plan.pooling
    return replace(plan, pooling=pooling, output=output)


def projected_length(spec: ModelSpec) -> int:
    """Returns the length of the vector that a projection makes, which the weights bring as their head; 0 without one.

    Published CLIP towers of timm have their projection as the head, unless they were fine-tuned to classes.

    Raises:
        ModelError: the architecture is unknown, or its checkpoint cannot be read or does not fit.
    """
    hub = spec.hub
    if hub is not None:
        return hub.outputs if hub.head is not None and not hub.head.labels else 0
    if "_clip_" not in spec.name or "_ft_" in spec.name or not (spec.pretrained or spec.checkpoint):
        return 0
    length = published_classes(spec)
    known = load_checkpoint_report(replace(spec, reset_head=False), None).classes if spec.checkpoint else length
    return length if known == length else 0
