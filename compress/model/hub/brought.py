"""A model that a folder or repository of Hugging Face brings: network, weights, preprocessing, labels and licence."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from compress.model.checkpoint_file import Checkpoint, open_checkpoint
from compress.model.metadata import WeightsMetadata
from runtime import MissingExtraError, ModelError

from .card import licence_in_card
from .families import Family, Head
from .fields import Fields, read_fields
from .labels import class_names, imagenet_names, sigmoid_head
from .naming import backbone_prefixes, find_head, resample_positions, to_network, without_class_position
from .network import Shape, find_family, read_shape
from .place import Place, find_place
from .processor import read_processor
from .shards import find_weights, read_weights, tensor_shapes

try:
    import timm
except ImportError as error:
    raise MissingExtraError(error.name or "timm", "compress") from None

_LARGEST_SIDE, _DEEPEST = 16384, 256
_TIMM_DEFAULTS = {
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "crop_mode": "center",
}
"""What timm's evaluation transform takes where a config states nothing."""

_NOT_OF_ARCHITECTURES = (
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "checkpoint_path", "cache_dir"),
    *("scriptable", "exportable", "no_jit", "features_only", "num_classes", "kwargs"),
)
"""Arguments of ``timm.create_model`` that name files or change what it returns; a config may not state them."""


@dataclass(frozen=True)
class HubModel:
    """A model that a folder or repository brings.

    Attributes:
        place: where it lies.
        kind: its ``model_type``, or the architecture of timm.
        files: the files with its weights.
        outputs: number of outputs of its head; 0 without a head.
        metadata: its preprocessing, and the names of its classes.
        channels: of its input.
        img_size: height and width of its input, pixels.
        not_classes: why its outputs are no exclusive classes; None where they are.
        licence: that its card states; None where it states none.
        notes: what the user should know about it, a sentence each.
        names_guessed: whether the names of its classes are a guess by their number.
        family: its family; None for an architecture of timm.
        head: what reads the last tokens.
        prefixes: what the names of its backbone and of its heads begin with.
        shape: the options of the network; None for an architecture of timm.
        arguments: arguments of the architecture of timm.
    """

    place: Place
    kind: str
    files: tuple[Path, ...]
    outputs: int
    metadata: WeightsMetadata
    channels: int
    img_size: tuple[int, int]
    not_classes: str | None = None
    licence: str | None = None
    notes: tuple[str, ...] = ()
    names_guessed: bool = False
    family: Family | None = None
    head: Head | None = None
    prefixes: tuple[str, str] = ("", "")
    shape: Shape | None = None
    arguments: Mapping[str, Any] | None = None

    def build(self, num_classes: int, arguments: Mapping[str, Any]) -> nn.Module:
        """Returns the network with fresh weights.

        Args:
            num_classes: number of outputs.
            arguments: options that replace the model's own, such as ``img_size``.

        Raises:
            ModelError: the options do not fit the model.
        """
        if self.shape is not None and self.head is not None:
            return self.shape.build(self.head, num_classes, {"img_size": self.img_size, **arguments})
        values = {**(self.arguments or {}), "num_classes": num_classes, **arguments}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                network: nn.Module = timm.create_model(self.kind, pretrained=False, **values)
        except Exception as error:  # timm lets through whatever an option breaks
            raise ModelError(
                f"timm cannot make '{self.kind}' as {self.place.name} describes it", got=str(error)[:200]
            ) from error
        return network

    def checkpoint(self, network: Any) -> tuple[Checkpoint, tuple[str, ...]]:
        """Returns the weights by timm's names, in the sizes of the network, and what was resampled.

        Args:
            network: the network that takes them.

        Raises:
            ModelError: a file is damaged or holds other weights.
        """
        content = read_weights(self.files)
        if self.family is None or self.head is None or self.shape is None:
            return open_checkpoint(self.files[0], content=content), ()
        weights, unused = to_network(content, self.family, self.head, self.prefixes)
        resampled: tuple[str, ...] = ()
        no_class = bool(getattr(network, "no_embed_class", False))
        has_tokens = "cls_token" in weights or not getattr(network, "has_class_token", True)
        if "pos_embed" in weights and weights["pos_embed"].ndim == 3 and has_tokens:
            old, grid = weights["pos_embed"], network.patch_embed.grid_size
            wanted = self.shape.grid[0] * self.shape.grid[1] + (no_class or network.num_prefix_tokens)
            if old.shape[1] != wanted:
                raise ModelError(
                    f"The weights of {self.place.name} have positions for another size than its config.json states",
                    expected=f"{wanted} positions",
                    got=old.shape[1],
                )
            weights["pos_embed"] = resample_positions(old, self.shape.grid, grid)
            if weights["pos_embed"] is not old and tuple(network.patch_embed.img_size) != self.img_size:
                resampled = (f"positions to {'x'.join(map(str, grid))}",)
            if no_class:
                weights = without_class_position(weights)
        return Checkpoint(path=self.files[0], weights=weights, prefix=self.prefixes[0], outside=unused), resampled


def open_hub(name: str) -> HubModel:
    """Reads what a folder or repository brings; the weights themselves are not read yet.

    Args:
        name: ``hf:OWNER/NAME``, ``hf:OWNER/NAME@REVISION`` (also ``hf_hub:`` and ``hf-hub:``), or a folder.

    Raises:
        ModelError: it cannot be reached or read, or is of a family that is not supported.
    """
    place = find_place(name)
    path = place.file("config.json")
    if path is None:
        raise ModelError(f"{place.name} has no config.json", expected="a model folder of transformers or timm")
    config = read_fields(path)
    if config.get("model_type") == "timm_wrapper" or ("architecture" in config.values and not config.get("model_type")):
        return _of_timm(place, config)
    return _of_transformers(place, config)


def _of_transformers(place: Place, config: Fields) -> HubModel:
    family, fields = find_family(config)
    shape = read_shape(family, fields)
    files = find_weights(place)
    names = tensor_shapes(files)
    prefixes = backbone_prefixes(names, family, place.name)
    head = find_head(names, family, prefixes[1])
    outputs = next((names[f"{prefixes[1]}{name}.weight"][0] for name in head.names), 0)
    labels = tuple(f"value {i}" for i in range(outputs)) if not head.labels else class_names(config, outputs)
    own = _processor_config(place)
    default = Fields(f"The default of {family.processor}", {}, {})
    processed = read_processor(own or default, family.processor, shape.channels)
    size = processed.size if own and family.any_size and processed.size else shape.img_size
    notes = []
    if own is None:
        notes.append(f"{place.name} has no preprocessor_config.json: the defaults of {family.processor} are taken")
    elif processed.size not in (None, size):
        made, taken = (" x ".join(map(str, sides)) for sides in (processed.size or size, size))
        notes.append(f"The image processor of {place.name} makes {made} pixels, and the model takes {taken}")
    if processed.rounded:
        notes.append(f"The image processor of {place.name} scales floats: pixels may differ from its by 1 of 255")
    return HubModel(
        place=place,
        kind=config.text("model_type"),
        files=files,
        outputs=outputs,
        metadata=replace(processed.metadata, class_names=labels),
        channels=shape.channels,
        img_size=size,
        not_classes=sigmoid_head(config) if outputs and head.labels else None,
        licence=licence_in_card(place.file("README.md", helpful=True)),
        notes=tuple(notes),
        family=family,
        head=head,
        prefixes=prefixes,
        shape=shape,
    )


def _processor_config(place: Place) -> Fields | None:
    """Returns the config of the image processor, which newer files keep inside that of the whole processor."""
    path = place.file("preprocessor_config.json")
    if path is not None:
        return read_fields(path)
    path = place.file("processor_config.json")
    whole = read_fields(path) if path is not None else None
    return whole.inner("image_processor") if whole is not None and "image_processor" in whole.values else None


def _of_timm(place: Place, config: Fields) -> HubModel:
    name = config.text("architecture")
    if not timm.is_model(name):
        raise ModelError(f"{config.where} names an architecture that timm does not know", got=repr(name[:80]))
    own = config.inner("pretrained_cfg") if "pretrained_cfg" in config.values else config
    own = Fields(own.where, own.values, _TIMM_DEFAULTS)
    arguments = _timm_arguments(config)
    size, channels = _input_size(own)
    if size is not None and own.flag("fixed_input_size"):
        arguments = {"img_size": size, **arguments}
    files = find_weights(place)
    last = own.get("classifier") or getattr(timm.get_pretrained_cfg(name), "classifier", None)
    ends = (".head.weight", *(f".{one}.weight" for one in ([last] if isinstance(last, str) else [])))
    heads = [shape[0] for key, shape in tensor_shapes(files).items() if f".{key}".endswith(ends)]
    outputs = heads[0] if heads else 0
    mean, std = (own.numbers(field, low, 1e4) for field, low in (("mean", -1e4), ("std", 1e-6)))
    interpolation: Any = own.text("interpolation", ("nearest", "bilinear", "bicubic", "lanczos"))
    crop_mode = own.text("crop_mode", ("center", "squash", "border"))
    labels = class_names(config, outputs) if outputs else None
    guessed = (
        imagenet_names(outputs) if "label_names" not in config.values and "id2label" not in config.values else None
    )
    notes = (f"{place.name} names no classes: its {outputs} outputs are taken as those of ImageNet",) if guessed else ()
    stated = own.get("license")
    licence = licence_in_card(place.file("README.md", helpful=True)) or (stated if isinstance(stated, str) else None)
    return HubModel(
        place=place,
        kind=name,
        files=files,
        outputs=outputs,
        metadata=WeightsMetadata(
            mean, std, interpolation, crop_mode, own.number("crop_pct", 0.01, 1), labels or guessed, exact=True
        ),
        channels=channels,
        img_size=size or (0, 0),
        not_classes=sigmoid_head(config) if outputs else None,
        licence=licence and licence[:100],
        notes=notes,
        names_guessed=guessed is not None,
        arguments=arguments,
    )


def _input_size(own: Fields) -> tuple[tuple[int, int] | None, int]:
    """Returns the height and width that the config states, and the number of channels."""
    value = own.get("input_size")
    if value is None:
        return None, 3
    whole = isinstance(value, list) and len(value) == 3 and all(type(side) is int for side in value)
    if not whole or value[0] not in (1, 3) or not all(1 <= side <= _LARGEST_SIDE for side in value):
        raise own.wrong("input_size", f"channels (1 or 3), height and width up to {_LARGEST_SIDE}", value)
    return (value[1], value[2]), value[0]


def _timm_arguments(config: Fields) -> dict[str, Any]:
    """Returns the arguments of the architecture that a config states.

    Raises:
        ModelError: one is no plain value, is too large, or is none of the architecture.
    """
    found = config.inner("model_args")
    for name, value in found.values.items():
        pair = value if isinstance(value, list) and len(value) == 2 else [value]
        plain = all(value is None or isinstance(value, (bool, int, float, str)) for value in pair)
        large = any(isinstance(value, (int, float)) and abs(value) > _LARGEST_SIDE for value in pair)
        deep = name == "depth" and not (type(value) is int and 1 <= value <= _DEEPEST)
        if not plain or large or deep or name in _NOT_OF_ARCHITECTURES:
            raise found.wrong(
                name, f"an argument of the architecture, at most {_LARGEST_SIDE} ({_DEEPEST} blocks)", value
            )
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.values.items()}
