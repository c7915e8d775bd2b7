"""The metadata by which MediaPipe Tasks loads a ``.tflite`` file: its input, its scores and its labels.

Ref: ``metadata_schema.fbs`` of MediaPipe (file identifier ``M001``), whose tables are named in the comments.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtime import MissingExtraError

METADATA_NAME = "TFLITE_METADATA"
"""Name of the entry of a file's metadata that MediaPipe reads."""

LABELS_FILE = "labels.txt"
"""Name of the file of labels, one a line, in the archive behind the model."""

_IDENTIFIER = b"M001"
_PARSER = "1.0.0"
_RGB = 1  # ColorSpaceType
_FEATURE, _IMAGE = 1, 2  # ContentProperties
_NORMALIZATION = 1  # ProcessUnitOptions
_AXIS_LABELS = 2  # AssociatedFileType
_THE_SAME_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class AppDescription:
    """What the metadata of a file for apps says.

    Attributes:
        name: of the model.
        description: of the model in one sentence.
        licence: of the weights; empty where it is not known.
        height: of the image, pixels.
        width: of the image, pixels.
        image: name of the image tensor.
        scores: name of the output tensor.
        meaning: of the output, in one sentence.
        pixels: whether the image is uint8; a float image is pixel / 255.
        probabilities: whether the outputs lie in 0..1.
        labels: names of the classes; empty for an output that has none.
    """

    name: str
    description: str
    licence: str
    height: int
    width: int
    image: str
    scores: str
    meaning: str
    pixels: bool
    probabilities: bool
    labels: tuple[str, ...]


def app_metadata(about: AppDescription) -> bytes:
    """Returns the metadata as a flatbuffer.

    Raises:
        MissingExtraError: flatbuffers is not installed.
    """
    least, most = (0.0, 255.0) if about.pixels else (0.0, 1.0)
    size = _Table({0: _Number("Uint32", about.width), 1: _Number("Uint32", about.height)})
    looks = _Table({0: _Number("Int8", _RGB), 1: size})  # ImageProperties
    # MediaPipe hands over (pixel - mean) / std, and pixels as they are where the image is uint8
    mean, std = (0.0,), (1.0 if about.pixels else 255.0,)
    unit = _Table({0: _Number("Uint8", _NORMALIZATION), 1: _Table({0: mean, 1: std})})  # ProcessUnit
    image: dict[int, _Value] = {  # TensorMetadata
        0: about.image,
        1: f"The picture in RGB, {'pixels of 0 to 255' if about.pixels else 'pixels / 255, within 0 to 1'}.",
        3: _Table({0: _Number("Uint8", _IMAGE), 1: looks}),
        4: [unit],
        5: _Table({0: (most,), 1: (least,)}),
    }
    scores: dict[int, _Value] = {
        0: about.scores,
        1: about.meaning,
        3: _Table({0: _Number("Uint8", _FEATURE), 1: _Table({})}),
    }
    if about.probabilities:
        scores[5] = _Table({0: (1.0,), 1: (0.0,)})
    if about.labels:
        scores[6] = [_Table({0: LABELS_FILE, 1: "The name of each class.", 2: _Number("Int8", _AXIS_LABELS)})]
    graph = _Table({2: [_Table(image)], 3: [_Table(scores)]})  # SubGraphMetadata
    model: dict[int, _Value] = {0: about.name, 1: about.description, 2: "v1", 3: [graph], 7: _PARSER}  # ModelMetadata
    if about.licence:
        model[5] = about.licence
    try:
        import flatbuffers
    except ImportError:
        raise MissingExtraError("flatbuffers", "export") from None
    builder = flatbuffers.Builder(1024)
    builder.Finish(_written(builder, _Table(model)), _IDENTIFIER)
    return bytes(builder.Output())


def with_labels(content: bytes, labels: Sequence[str]) -> bytes:
    """Returns the content of a ``.tflite`` file with its labels in an archive behind it, as MediaPipe reads them.

    Line breaks in a name become spaces, since the file has one name a line. Equal input gives equal bytes.
    """
    if not labels:
        return content
    text = "".join(" ".join(name.splitlines()) + "\n" for name in labels)
    held = io.BytesIO(content)
    with zipfile.ZipFile(held, "a") as archive:
        archive.writestr(zipfile.ZipInfo(LABELS_FILE, _THE_SAME_TIME), text.encode())
    return held.getvalue()


@dataclass(frozen=True)
class _Number:
    """A number of a table, with the name of its type in ``flatbuffers.Builder``."""

    kind: str
    value: int


@dataclass(frozen=True)
class _Table:
    """A table of a flatbuffer: its fields by their number in the schema."""

    fields: Mapping[int, _Value]


_Value = str | _Number | _Table | tuple[float, ...] | list[_Table]


def _written(builder: Any, table: _Table) -> int:
    """Writes a table after all that it refers to, and returns where it is."""
    places = {slot: _referred(builder, value) for slot, value in table.fields.items() if not isinstance(value, _Number)}
    builder.StartObject(max(table.fields, default=-1) + 1)
    for slot, value in table.fields.items():
        if isinstance(value, _Number):
            getattr(builder, f"Prepend{value.kind}Slot")(slot, value.value, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(slot, places[slot], 0)
    return int(builder.EndObject())


def _referred(builder: Any, value: str | _Table | tuple[float, ...] | list[_Table]) -> int:
    """Writes what stands outside of a table, and returns where it is."""
    if isinstance(value, str):
        return int(builder.CreateString(value))
    if isinstance(value, _Table):
        return _written(builder, value)
    if isinstance(value, tuple):
        builder.StartVector(4, len(value), 4)
        for number in reversed(value):
            builder.PrependFloat32(number)
        return int(builder.EndVector())
    tables = [_written(builder, one) for one in value]
    builder.StartVector(4, len(tables), 4)
    for place in reversed(tables):
        builder.PrependUOffsetTRelative(place)
    return int(builder.EndVector())
