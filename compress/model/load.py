"""Loads a ``SlicedViT`` from timm's published weights, a checkpoint or fresh weights."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from runtime import MissingExtraError, ModelError, PlanError, PocketVitWarning, ShapePlan, check_fields, check_is

from .checkpoint_file import open_checkpoint, with_classifier
from .checkpoint_fit import OWN_NAME, LoadReport, fit_checkpoint, fit_own, head_classes
from .conversion.naflex import at_size
from .hub.brought import HubModel, open_hub
from .hub.place import is_place
from .metadata import WeightsMetadata, names_in_checkpoint, timm_metadata
from .timm_vit import from_timm, plan_of_timm
from .vit import SlicedViT, build

try:
    import timm
except ImportError as error:
    raise MissingExtraError(error.name or "timm", "compress") from None


_NO_PAIR = "Its config.json and its weights do not belong together: save or fetch both again"


@dataclass(frozen=True)
class ModelSpec:
    """The model to start from.

    Attributes:
        name: a timm architecture, for instance ``vit_small_patch16_224`` or ``deit_tiny_distilled_patch16_224``; a
            repository of the Hugging Face Hub, ``hf:OWNER/NAME`` or ``hf:OWNER/NAME@REVISION``; or a model folder.
        img_size: input side in pixels, or height and width; None takes the architecture's default.
        patch_size: patch side in pixels; None takes the architecture's default.
        in_chans: 1 (grayscale) or 3 (RGB).
        pretrained: take timm's published weights, with a new head where the number of classes differs.
        checkpoint: take the weights of this file instead; its suffix is one of ``checkpoint_file.SUFFIXES``.
        reset_head: start the checkpoint's classifier anew.
        overrides: further arguments of the timm architecture, for instance ``{"depth": 6}``.
        hub: what the repository or folder brings; ``resolved`` fills it in.

    Raises:
        PlanError: a value is of another type.
    """

    name: str
    img_size: int | tuple[int, int] | None = None
    patch_size: int | None = None
    in_chans: int = 3
    pretrained: bool = False
    checkpoint: Path | None = None
    reset_head: bool = False
    overrides: Mapping[str, int | float | str | bool] = field(default_factory=dict)
    hub: HubModel | None = None

    def __post_init__(self) -> None:
        check_fields(self)


def resolved(spec: ModelSpec) -> ModelSpec:
    """Returns the spec with what its repository or folder brings; that of a timm architecture as it is.

    Raises:
        ModelError: the repository or folder cannot be read, or its outputs are no exclusive classes.
        PlanError: an option does not belong to a model that brings its weights.
    """
    if spec.hub is not None or timm.is_model(spec.name) or not is_place(spec.name):
        return spec
    given = {"--checkpoint": spec.checkpoint is not None, "--model-arg": bool(spec.overrides)}
    if any(given.values()):
        raise PlanError(
            f"'{spec.name}' brings its weights and its architecture",
            expected="a timm architecture with these options",
            got=", ".join(option for option, there in given.items() if there),
        )
    hub = open_hub(spec.name)
    if hub.not_classes is not None and not spec.reset_head:
        raise ModelError(
            f"The outputs of {hub.place.name} are {hub.not_classes}",
            expected="exclusive classes, of which one is right",
            fix="Give --reset-head to train a new classifier",
        )
    return replace(spec, hub=hub, checkpoint=hub.files[0], pretrained=False)


def check_model(spec: ModelSpec, num_classes: int = 2) -> ShapePlan:
    """Returns the plan of the model that ``spec`` names, without making or loading weights.

    Raises:
        ModelError: the name is unknown, an option does not fit, or the architecture is not supported.
        PlanError: the image does not divide into patches, or a width is not a multiple of 8.
    """
    with torch.device("meta"):
        return plan_of_timm(create_network(resolved(spec), num_classes, pretrained=False))


def load_model(spec: ModelSpec, num_classes: int, seed: int = 0) -> SlicedViT:
    """Returns the model that ``spec`` names, unpruned, for ``num_classes`` classes.

    Args:
        spec: architecture and weights.
        num_classes: number of outputs of the classifier.
        seed: seed of fresh weights.

    Raises:
        ModelError: the architecture is unknown or unsupported; the weights cannot be downloaded or read, do not fit,
            or are NaN; or a checkpoint has another number of classes.

    Warns:
        PocketVitWarning: how a checkpoint was changed to fit, and what was left out of it.
    """
    check_is(spec, ModelSpec)
    spec = resolved(spec)
    plan = check_model(spec, num_classes)
    weights: Mapping[str, torch.Tensor] = {}
    if spec.checkpoint is not None:  # what does not fit is refused before a model of that size is made
        weights = _fitting_weights(spec, num_classes)
    if OWN_NAME in weights:
        return build(plan, weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = create_network(spec, num_classes, pretrained=spec.pretrained and spec.checkpoint is None)
    model.load_state_dict(model.state_dict() | dict(weights))
    return from_timm(model)


def weights_metadata(spec: ModelSpec) -> WeightsMetadata:
    """Returns the preprocessing that the weights of ``spec`` expect, and a checkpoint's class names.

    Raises:
        ModelError: the architecture is unknown, or the class names in the checkpoint are damaged.
    """
    spec = resolved(spec)
    if spec.hub is not None:
        found = spec.hub.metadata
        return replace(found, class_names=None) if spec.reset_head else found
    with torch.device("meta"):
        found = timm_metadata(create_network(spec, num_classes=2, pretrained=False), spec.in_chans)
    if spec.checkpoint is None or spec.reset_head:
        return found
    return replace(found, class_names=names_in_checkpoint(spec.checkpoint))


def create_network(spec: ModelSpec, num_classes: int, pretrained: bool) -> nn.Module:
    """Returns timm's own network of a resolved ``spec``, whether or not it has a plan.

    Raises:
        ModelError: the name is unknown, an option does not fit, or the published weights cannot be had.
        PlanError: the image does not divide into patches, or has other channels than the model.
    """
    if spec.hub is not None:
        return _create_brought(spec, spec.hub, num_classes)
    if not timm.is_model(spec.name):
        near = difflib.get_close_matches(spec.name, timm.list_models(), n=3)
        hint = f"Did you mean {', '.join(near)}?" if near else "Names look like vit_small_patch16_224"
        raise ModelError(f"timm knows no model '{spec.name}'", fix=hint)
    arguments: dict[str, Any] = {"num_classes": num_classes, "in_chans": spec.in_chans, **spec.overrides}
    if spec.img_size is not None:
        arguments["img_size"] = spec.img_size
    if spec.patch_size is not None:
        arguments["patch_size"] = spec.patch_size
    sides = (spec.img_size,) if isinstance(spec.img_size, int) else spec.img_size or ()
    if min((*sides, spec.patch_size if spec.patch_size is not None else 1)) < 1:
        raise PlanError("Sizes must be positive", got=f"--img-size {sides}, --patch-size {spec.patch_size}")
    if spec.patch_size is not None and any(side % spec.patch_size for side in sides):
        raise PlanError(
            "The image does not divide into patches",
            expected=f"--img-size a multiple of {spec.patch_size}",
            got="x".join(map(str, sides)),
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return at_size(timm.create_model(spec.name, pretrained=pretrained, **arguments), spec.img_size)
    except Exception as error:  # timm lets through whatever an option breaks, and whatever a download raises
        if pretrained:  # the same model was made without weights before
            raise _no_weights(spec, error) from error
        raise ModelError(
            f"timm cannot make '{spec.name}' with these options",
            got=f"{arguments}: {error}",
            fix="Only Vision Transformers (vit_*, deit_*, deit3_*) take --img-size and --patch-size",
        ) from error


def _create_brought(spec: ModelSpec, hub: HubModel, num_classes: int) -> nn.Module:
    if spec.in_chans != hub.channels:
        raise PlanError(
            f"{hub.place.name} takes pictures of other channels",
            expected=f"--in-chans {hub.channels}",
            got=spec.in_chans,
        )
    arguments: dict[str, Any] = {"in_chans": spec.in_chans}
    if spec.img_size is not None:
        arguments["img_size"] = spec.img_size
    if spec.patch_size is not None:
        arguments["patch_size"] = spec.patch_size
    return at_size(hub.build(num_classes, arguments), spec.img_size)


def _no_weights(spec: ModelSpec, error: Exception) -> ModelError:
    reason = str(error).strip().splitlines()
    return ModelError(
        f"The published weights of '{spec.name}' cannot be had",
        got=f"{type(error).__name__}: {reason[0][:200] if reason else ''}",
        fix="Go online, or give a local file with --checkpoint, or start fresh with --no-pretrained",
    )


def load_checkpoint_report(spec: ModelSpec, num_classes: int | None = None) -> LoadReport:
    """Returns how ``load_model`` changes the checkpoint of ``spec`` to fit, without making the model.

    Args:
        spec: a model with a checkpoint.
        num_classes: number of outputs of the classifier; None takes the checkpoint's.

    Raises:
        ModelError: the architecture is unknown or unsupported; or the checkpoint cannot be read, does not fit, has
            another number of classes, or has weights that are NaN or infinite.
    """
    return _fitted(resolved(spec), num_classes)[1]


def _fitting_weights(spec: ModelSpec, num_classes: int) -> dict[str, torch.Tensor]:
    weights, report = _fitted(spec, num_classes)
    for note in report.notes:
        warnings.warn(note, PocketVitWarning, stacklevel=3)
    return weights


def _fitted(spec: ModelSpec, num_classes: int | None) -> tuple[dict[str, torch.Tensor], LoadReport]:
    """Returns the weights of the spec's checkpoint and the report.

    Their names and sizes are timm's, but for a whole model of PocketViT's own, whose weights stay as they are.
    """
    assert spec.checkpoint is not None
    if spec.hub is not None:
        return _fitted_of_hub(spec, spec.hub, num_classes)
    checkpoint = with_classifier(open_checkpoint(spec.checkpoint))
    with torch.device("meta"):
        model = create_network(spec, num_classes or head_classes(checkpoint.weights) or 2, pretrained=False)
        own = fit_own(checkpoint, plan_of_timm(model), spec.name, reset_head=spec.reset_head)
    return own or fit_checkpoint(checkpoint, model, spec.name, reset_head=spec.reset_head)


def _fitted_of_hub(
    spec: ModelSpec, hub: HubModel, num_classes: int | None
) -> tuple[dict[str, torch.Tensor], LoadReport]:
    with torch.device("meta"):
        model = create_network(spec, num_classes or hub.outputs or 2, pretrained=False)
    plan_of_timm(model)
    checkpoint, resampled = hub.checkpoint(model)
    checkpoint = with_classifier(checkpoint)
    weights, report = fit_checkpoint(checkpoint, model, hub.kind, reset_head=spec.reset_head, cure=_NO_PAIR)
    resampled = (*resampled, *report.resampled)
    return weights, replace(report, notes=(*hub.notes, *report.notes), resampled=resampled)


def default_classes(spec: ModelSpec) -> int:
    """Returns the number of classes of timm's published weights of an architecture; 1000 where there are none.

    Raises:
        ModelError: the architecture is unknown.
    """
    return published_classes(spec) or 1000


def published_classes(spec: ModelSpec) -> int:
    """Returns the number of classes that timm's published weights of an architecture know; 0 without a classifier.

    Raises:
        ModelError: the architecture is unknown.
    """
    spec = resolved(spec)
    if spec.hub is not None:
        return spec.hub.outputs
    with torch.device("meta"):
        model: Any = create_network(spec, num_classes=2, pretrained=False)
    return int(model.pretrained_cfg.get("num_classes") or 0)
