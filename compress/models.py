"""From a timm name, a checkpoint or fresh weights to a ``SlicedViT``."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from runtime import MissingExtraError, ModelError, PlanError, ShapePlan

from .timm_vit import from_timm, plan_of_timm
from .vit import SlicedViT

try:
    import timm
    from timm.data import resolve_data_config
    from timm.models.vision_transformer import checkpoint_filter_fn
except ImportError as error:
    raise MissingExtraError(error.name or "timm", "compress") from None


@dataclass(frozen=True)
class ModelSpec:
    """Which model to start from.

    Attributes:
        name: a timm architecture, for instance ``vit_small_patch16_224`` or ``deit_tiny_distilled_patch16_224``.
        img_size: input side in pixels, or height and width; None takes the architecture's own.
        patch_size: patch side in pixels; None takes the architecture's own.
        in_chans: 1 (grayscale) or 3 (RGB).
        pretrained: take timm's published weights, with a new head where the number of classes differs.
        checkpoint: take the weights of this ``.safetensors`` or ``.pth`` file instead.
        reset_head: start the checkpoint's classifier anew.
        overrides: further arguments of the timm architecture, for instance ``{"depth": 6}``.
    """

    name: str
    img_size: int | tuple[int, int] | None = None
    patch_size: int | None = None
    in_chans: int = 3
    pretrained: bool = False
    checkpoint: Path | None = None
    reset_head: bool = False
    overrides: Mapping[str, int | float | str | bool] = field(default_factory=dict)


@dataclass(frozen=True)
class InputStats:
    """The preprocessing that a model's published weights expect: pixel statistics per channel, and how it crops."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    crop_mode: str


def check_model(spec: ModelSpec, num_classes: int = 2) -> ShapePlan:
    """Returns the plan of the model ``spec`` names, without making or loading any weight.

    Raises:
        ModelError: the name is unknown, an option does not fit, or the architecture is not supported.
        PlanError: the image does not divide into patches, or a width is not a multiple of 8.
    """
    with torch.device("meta"):
        return plan_of_timm(_create(spec, num_classes, pretrained=False))


def load_model(spec: ModelSpec, num_classes: int, seed: int = 0) -> SlicedViT:
    """Returns the model that ``spec`` names, unpruned, for ``num_classes`` classes.

    Args:
        spec: architecture and weights.
        num_classes: outputs of the classifier.
        seed: of fresh weights.

    Raises:
        ModelError: unknown or unsupported architecture; weights that cannot be had or read, or do not fit;
            a checkpoint with another number of classes.
    """
    check_model(spec, num_classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _create(spec, num_classes, pretrained=spec.pretrained and spec.checkpoint is None)
    if spec.checkpoint is not None:
        _load_checkpoint(model, spec, num_classes)
    return from_timm(model)


def input_stats(spec: ModelSpec) -> InputStats:
    """Returns the pixel statistics of the architecture's published weights, averaged for grayscale input."""
    with torch.device("meta"):
        model = _create(spec, num_classes=2, pretrained=False)
    config = resolve_data_config({}, model=model)
    mean, std = tuple(map(float, config["mean"])), tuple(map(float, config["std"]))
    if spec.in_chans == 1:
        mean, std = (round(sum(mean) / len(mean), 6),), (round(sum(std) / len(std), 6),)
    crop = float(config["crop_pct"]), str(config["crop_mode"])
    return InputStats(mean, std, str(config["interpolation"]), *crop)


def _create(spec: ModelSpec, num_classes: int, pretrained: bool) -> nn.Module:
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
            return timm.create_model(spec.name, pretrained=pretrained, **arguments)  # type: ignore[no-any-return]
    except Exception as error:  # timm lets through whatever an option breaks, and whatever a download raises
        if pretrained:  # the same model was made without weights before
            raise _no_weights(spec, error) from error
        raise ModelError(
            f"timm cannot make '{spec.name}' with these options",
            got=f"{arguments}: {error}",
            fix="Only Vision Transformers (vit_*, deit_*, deit3_*) take --img-size and --patch-size",
        ) from error


def _no_weights(spec: ModelSpec, error: Exception) -> ModelError:
    reason = str(error).strip().splitlines()
    return ModelError(
        f"The published weights of '{spec.name}' cannot be had",
        got=f"{type(error).__name__}: {reason[0][:200] if reason else ''}",
        fix="Go online, or give a local file with --checkpoint, or start fresh with --no-pretrained",
    )


def _load_checkpoint(model: nn.Module, spec: ModelSpec, num_classes: int) -> None:
    assert spec.checkpoint is not None
    weights = read_checkpoint(spec.checkpoint)
    heads = [name for name in ("head.weight", "head_dist.weight") if name in weights]
    for name in heads:
        if weights[name].shape[0] != num_classes and not spec.reset_head:
            raise ModelError(
                f"The checkpoint {spec.checkpoint} has another number of classes than the data",
                expected=num_classes,
                got=weights[name].shape[0],
                fix="Choose the data it was trained on, or give --reset-head to train a new classifier",
            )
    # Where timm's filter fails, the weights are of another shape: they go on as they are, to be named below.
    with suppress(Exception):
        weights = checkpoint_filter_fn(weights, model, interpolation="bicubic", antialias=True)
    if spec.reset_head or not heads:
        weights = {k: v for k, v in weights.items() if not k.startswith(("head.", "head_dist."))}
        own = model.state_dict()
        weights |= {k: own[k] for k in own if k.startswith(("head.", "head_dist."))}
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if wrong:
        first = wrong[0]
        raise ModelError(
            f"The checkpoint {spec.checkpoint} does not fit '{spec.name}': "
            f"{len(wrong)} weights differ, first '{first}'",
            expected=wanted.get(first, "no such weight"),
            got=found.get(first, "none"),
            fix="Check --model, --in-chans, --patch-size and --model-arg",
        )
    model.load_state_dict(weights)


def checkpoint_classes(path: Path) -> int | None:
    """Returns the number of classes of a checkpoint's head, or None where it has none.

    Raises:
        ModelError: the file is missing, damaged, or holds something else.
    """
    head = read_checkpoint(path).get("head.weight")
    return None if head is None else int(head.shape[0])


def default_classes(spec: ModelSpec) -> int:
    """Returns how many classes timm's published weights of this architecture have, or 1000 where they have none.

    Raises:
        ModelError: the architecture is unknown.
    """
    with torch.device("meta"):
        model: Any = _create(spec, num_classes=2, pretrained=False)
    return int(model.pretrained_cfg.get("num_classes") or 1000)


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """Reads weights from a ``.safetensors`` or a ``.pth``/``.pt``/``.bin`` file, the latter without running its code.

    Raises:
        ModelError: the file is missing, damaged, holds more than tensors, or is of another kind.
    """
    if not path.is_file():
        raise ModelError(f"The checkpoint {path} does not exist")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(f"The checkpoint {path} cannot be read", got=error) from error
    if path.suffix not in {".pth", ".pt", ".bin"}:
        raise ModelError(f"The checkpoint {path} is of another kind", expected=".safetensors, .pth, .pt or .bin")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, unpickling and torch errors have no common base
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"The checkpoint {path} cannot be read as plain weights",
            got=reason[:200],
            fix="Save model.state_dict() alone, best as .safetensors",
        ) from error
    for key in ("state_dict_ema", "model_ema", "state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ModelError(f"The checkpoint {path} holds something else than weights", expected="a dict of tensors")
    return {name.removeprefix("module."): value for name, value in content.items()}
