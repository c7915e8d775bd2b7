"""Turns the config of an image processor into the preprocessing that makes the same pixels."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compress.model.metadata import WeightsMetadata
from runtime import Interpolation, ModelError

from .fields import Fields

_HALF = [0.5, 0.5, 0.5]
_IMAGENET_MEAN, _IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
_CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
_CLIP_STD = [0.26862954, 0.26130258, 0.27577711]
_EVERY: Mapping[str, Any] = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "rescale_factor": 1 / 255,
    "do_center_crop": False,
    "image_mean": _HALF,
    "image_std": _HALF,
    "size": {"height": 224, "width": 224},
    "crop_size": {"height": 224, "width": 224},
    "resample": 2,
}
_CROPPED: Mapping[str, Any] = {
    **_EVERY,
    "do_center_crop": True,
    "image_mean": _CLIP_MEAN,
    "image_std": _CLIP_STD,
    "size": {"shortest_edge": 224},
    "resample": 3,
}


@dataclass(frozen=True)
class _Kind:
    """An image processor of ``transformers``: its defaults, and whether a size of one number is that of both sides.

    Where it scales pictures of floats, pixels are at most one step of 256 away from it, since here they are rounded.
    """

    defaults: Mapping[str, Any]
    square: bool = True
    floats: bool = False


IMAGE_PROCESSORS: Mapping[str, _Kind] = {
    "ViTImageProcessor": _Kind(_EVERY),
    "DeiTImageProcessor": _Kind(
        {**_EVERY, "do_center_crop": True, "size": {"height": 256, "width": 256}, "resample": 3}
    ),
    "BitImageProcessor": _Kind(_CROPPED, square=False),
    "CLIPImageProcessor": _Kind(_CROPPED, square=False),
    "BeitImageProcessor": _Kind({**_EVERY, "resample": 3}),
    "SiglipImageProcessor": _Kind({**_EVERY, "resample": 3}),
    "DINOv3ViTImageProcessor": _Kind({**_EVERY, "image_mean": _IMAGENET_MEAN, "image_std": _IMAGENET_STD}, floats=True),
}
"""The image processors that can be matched: exactly, or where they scale floats, within a step of 256."""

_FILTERS: Mapping[int, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
_KNOWN_STEPS = ("do_resize", "do_rescale", "do_normalize", "do_center_crop", "do_convert_rgb")
_LARGEST_SIDE = 16384


@dataclass(frozen=True)
class Processed:
    """What an image processor makes of a picture.

    Attributes:
        size: height and width of the result, pixels; None where pictures keep their size.
        metadata: how it is made.
        rounded: whether pixels are up to one step of 256 away from the processor's, which scales floats.
    """

    size: tuple[int, int] | None
    metadata: WeightsMetadata
    rounded: bool = False


def read_processor(config: Fields, kind: str, channels: int) -> Processed:
    """Returns the preprocessing that makes the same pixels as an image processor.

    Args:
        config: content of ``preprocessor_config.json``; empty for the defaults of ``kind``.
        kind: name of the processor where the config names none.
        channels: of the model's input.

    Raises:
        ModelError: the processor is unknown, takes a step that cannot be matched exactly, or a field is out of range.
    """
    if config.values.get("auto_map"):
        raise _inexact(config, "code of its own (auto_map), and code of a checkpoint is not run")
    named = config.text("image_processor_type") or config.text("feature_extractor_type") or kind
    name = re.sub(r"(Fast|Pil)$", "", named.replace("FeatureExtractor", "ImageProcessor"))
    if name not in IMAGE_PROCESSORS:
        raise _inexact(config, f"the image processor {named[:60]}", f"one of {', '.join(IMAGE_PROCESSORS)}")
    own = Fields(config.where, config.values, IMAGE_PROCESSORS[name].defaults)
    extra = sorted(
        step for step, on in own.values.items() if step.startswith("do_") and on is True and step not in _KNOWN_STEPS
    )
    if extra:
        raise _inexact(own, f"the step '{extra[0][:60]}'")
    if own.get("rescale_offset"):
        raise _inexact(own, "an offset of the pixels (rescale_offset)")
    resize, crop_pct, size = _geometry(own, IMAGE_PROCESSORS[name].square)
    mean, std = _statistics(own, channels)
    code = own.whole("resample", 0, 5)
    if code not in _FILTERS and own.flag("do_resize"):
        raise _inexact(own, f"the resampling filter {code}", "0 (nearest), 1 (Lanczos), 2 (bilinear) or 3 (bicubic)")
    metadata = WeightsMetadata(mean, std, _FILTERS.get(code, "bicubic"), resize, crop_pct, exact=True)
    return Processed(size, metadata, IMAGE_PROCESSORS[name].floats and own.flag("do_resize"))


def _geometry(own: Fields, square: bool) -> tuple[str, float, tuple[int, int] | None]:
    """Returns the crop mode, the share that the crop keeps, and the final size."""
    crop = _size(own, "crop_size", square=True) if own.flag("do_center_crop") else None
    if not own.flag("do_resize"):
        if crop is not None:
            raise _inexact(own, "a crop of pictures that are not scaled")
        return "stretch", 1.0, None
    scaled = _size(own, "size", square)
    if isinstance(scaled, tuple):
        if crop is None or crop == scaled:
            return "stretch", 1.0, scaled
        pair = crop if isinstance(crop, tuple) else (crop, crop)
        # a crop by timm begins at a rounded half, one by transformers at a half rounded down
        if any(round((whole - side) / 2) != (whole - side) // 2 for side, whole in zip(pair, scaled, strict=True)):
            raise _inexact(own, f"a crop of {pair} of {scaled}, which begins between two pixels")
        return "squash", _share(own, scaled, pair), pair
    if not isinstance(crop, tuple):
        raise _inexact(own, "pictures that keep their shape", "a crop of the centre (do_center_crop)")
    if crop[0] != crop[1]:
        raise _inexact(own, "a crop that is no square of pictures that keep their shape")
    return "center_floor", _share(own, (scaled, scaled), crop), crop


def _size(own: Fields, name: str, square: bool) -> tuple[int, int] | int:
    """Returns height and width, or the short side alone."""
    value = own.get(name)
    if not isinstance(value, dict):
        if isinstance(value, list):
            return own.sides(name, _LARGEST_SIDE)
        side = own.whole(name, 1, _LARGEST_SIDE)
        return (side, side) if square else side
    given = {key for key, own_value in value.items() if own_value is not None}
    inner = own.inner(name)
    if given == {"height", "width"}:
        return inner.whole("height", 1, _LARGEST_SIDE), inner.whole("width", 1, _LARGEST_SIDE)
    if given == {"shortest_edge"}:
        side = inner.whole("shortest_edge", 1, _LARGEST_SIDE)
        return (side, side) if name == "crop_size" else side
    raise _inexact(own, f"a {name} of {', '.join(sorted(map(str, given)))[:80]}", "height and width, or shortest_edge")


def _share(own: Fields, scaled: tuple[int, int], pair: tuple[int, int]) -> float:
    """Returns the share of the scaled picture that the crop keeps, so that both sizes come out to the pixel."""
    if any(side > whole for side, whole in zip(pair, scaled, strict=True)):
        raise _inexact(own, "a crop that is larger than the scaled picture", f"at most {scaled}")
    for share in _nearby(pair[0] / scaled[0]):
        fits = all(math.floor(side / share) == whole for side, whole in zip(pair, scaled, strict=True))
        if 0.01 <= share <= 1 and fits:
            return share
    raise _inexact(own, f"a crop of {pair} of {scaled}")


def _nearby(share: float) -> tuple[float, ...]:
    return share, math.nextafter(share, 0), math.nextafter(share, 1)


def _statistics(own: Fields, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation of pixels 0..1, whatever factor the processor scales pixels by."""
    mean, std = (0.0,) * channels, (1.0,) * channels
    if own.flag("do_normalize"):
        mean, std = own.numbers("image_mean", -1e4, 1e4), own.numbers("image_std", 1e-6, 1e4)
        mean, std = (values * channels if len(values) == 1 else values for values in (mean, std))
    if len(mean) != channels or len(std) != channels:
        got = f"{len(mean)} and {len(std)}"
        raise ModelError(f"{own.where} has statistics of other channels", expected=f"{channels} values each", got=got)
    factor = 255 * own.number("rescale_factor", 1e-6, 1e3) if own.flag("do_rescale") else 255.0
    if math.isclose(factor, 1, rel_tol=1e-9):
        return mean, std
    return tuple(value / factor for value in mean), tuple(value / factor for value in std)


def _inexact(config: Fields, what: str, expected: str | None = None) -> ModelError:
    return ModelError(
        f"{config.where} asks for {what}, which cannot be matched exactly",
        expected=expected,
        fix="Give a folder with another preprocessor_config.json, and check it with --resize, --mean and --std",
    )
