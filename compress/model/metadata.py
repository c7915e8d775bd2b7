"""What comes with a model's weights: the preprocessing they expect, and the names of their classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from runtime import Interpolation, MissingExtraError, ModelError, Preprocessing

try:
    from timm.data import resolve_data_config
except ImportError as error:
    raise MissingExtraError(error.name or "timm", "compress") from None

CLASS_NAMES_KEY = "pocketvit.class_names"
"""Key of a ``.safetensors`` file's metadata: the classes in the order of the outputs, as a JSON list."""


@dataclass(frozen=True)
class WeightsMetadata:
    """What comes with weights besides their values.

    Attributes:
        mean: pixel mean per channel, 0..1.
        std: pixel standard deviation per channel, of pixels 0..1.
        interpolation: resampling filter.
        resize: crop mode, as ``runtime.Preprocessing`` has it.
        crop_pct: share of the scaled picture that the crop keeps, 0..1.
        class_names: class names in the order of the outputs; None where the weights come without names.
        exact: whether the weights bring an image processor of their own, which square pictures go through, too.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Interpolation
    resize: str
    crop_pct: float
    class_names: tuple[str, ...] | None = None
    exact: bool = False

    def preprocessing(self, height: int, width: int, *, stretch: bool) -> Preprocessing:
        """Returns the preprocessing for an input size.

        Args:
            height: rows, pixels.
            width: columns, pixels.
            stretch: scale both sides and crop nothing, instead of the crop of the weights.
        """
        return Preprocessing(
            height=height,
            width=width,
            channels=len(self.mean),
            mean=self.mean,
            std=self.std,
            interpolation=self.interpolation,
            resize="stretch" if stretch else self.resize,  # type: ignore[arg-type]
            crop_pct=1.0 if stretch else self.crop_pct,
        )


def timm_metadata(network: nn.Module, channels: int) -> WeightsMetadata:
    """Returns what timm knows of an architecture's published weights; for one channel its statistics are averaged."""
    config: Any = resolve_data_config({}, model=network)
    mean, std = (tuple(map(float, config[name])) for name in ("mean", "std"))
    if channels == 1 and len(mean) > 1:
        mean, std = (round(sum(mean) / len(mean), 6),), (round(sum(std) / len(std), 6),)
    return WeightsMetadata(mean, std, config["interpolation"], str(config["crop_mode"]), float(config["crop_pct"]))


def is_stretched(picture: tuple[int, int] | None, height: int, width: int) -> bool:
    """Whether pictures are scaled without a crop: they and the input are square. ``picture`` is height and width."""
    return picture is not None and picture[0] == picture[1] and height == width


def write_names(names: Sequence[str]) -> dict[str, str]:
    """Returns the metadata of a ``.safetensors`` file that keeps class names."""
    return {CLASS_NAMES_KEY: json.dumps(list(names))}


def names_in_checkpoint(path: Path) -> tuple[str, ...] | None:
    """Returns the class names that a checkpoint of PocketViT carries, in the order of its outputs, or None.

    They are in the metadata of the file or, in older model folders, in the ``task.json`` next to it.

    Raises:
        ModelError: they are damaged.
    """
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError):  # reported where the weights are read
        return None
    if CLASS_NAMES_KEY in metadata:
        try:
            found = json.loads(metadata[CLASS_NAMES_KEY])
        except ValueError:
            found = None
    elif path.name == "model.safetensors" and (path.parent / "task.json").is_file():
        found = _names_in_task(path.parent / "task.json")
        if found is None:
            return None
    else:
        return None
    if not isinstance(found, list) or not found or not all(isinstance(name, str) for name in found):
        raise ModelError(f"The class names in the checkpoint {path} are damaged", expected="a JSON list of texts")
    return tuple(found)


def _names_in_task(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))["class_names"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
