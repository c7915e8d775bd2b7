"""What a bench offers to browsers: the files, the pictures they answer, and the answers of this machine's CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from device_bench.documents.figures import Failure
from device_bench.documents.request import BenchRequest, check_files
from device_bench.metrics.accuracy import TestImages, read_test_images
from device_bench.metrics.startup import without_folder
from device_bench.timing.inputs import input_shape
from runtime import (
    Artifact,
    Engine,
    PocketVitError,
    Preprocessing,
    Progress,
    UnsupportedTargetError,
    load,
    manifest_path,
    normalise,
    open_engine,
    sha256_of,
    silent,
    to_pixels,
)
from runtime.formats import format_of
from runtime.session import dequantise, quantise

ENGINES_IN_BROWSERS = {"tflite": "LiteRT.js", "onnx": "onnxruntime-web"}
"""The engine that runs the files of a format in a browser."""

RANDOM_IMAGES = 8
"""Random pictures that files answer where no labelled ones are given."""

_TAKEN = {"LiteRT.js": ("float32", "uint8"), "onnxruntime-web": ("float32", "int8", "uint8")}
_LEVELS = np.arange(256, dtype=np.uint8)


@dataclass(frozen=True, eq=False)
class OfferedFile:
    """One file as a browser gets it.

    Attributes:
        path: the file.
        sha256: its SHA-256 when it was read here.
        size_bytes: its size, bytes.
        engine: the engine that runs it in a browser.
        manifest: its manifest; none without one.
        layout: order of the dimensions of its input.
        batch: images of each run.
        dtype: type of its input.
        table: the value of the input for each value of a pixel, ``(C, 256)`` of type ``dtype``.
        pictures: what it answers, ``(N, H, W, C)`` uint8.
        labels: the true classes, ``(N,)``; None for random pictures, and for files without classes.
        images: where the labels come from; None without them.
        output_dtype: type of its output.
        output_qparams: scale and zero point of its output; None for float.
        answers: this machine's outputs for the pictures in real units, ``(N, values)`` float32.
    """

    path: Path
    sha256: str
    size_bytes: int
    engine: str
    manifest: Artifact | None
    layout: str
    batch: int
    dtype: str
    table: npt.NDArray[Any]
    pictures: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64] | None
    images: TestImages | None
    output_dtype: np.dtype[Any]
    output_qparams: tuple[float, int] | None
    answers: npt.NDArray[np.float32]

    @property
    def name(self) -> str:
        """Name of the file, without a folder."""
        return self.path.name

    @property
    def integers(self) -> bool:
        """Whether it computes with integers or narrow weights, so that engines round differently."""
        return self.manifest is None or self.manifest.calibration is not None or self.manifest.precision != "fp32"

    def real(self, raw: bytes) -> npt.NDArray[np.float32]:
        """Returns the output of a browser in real units, ``(values,)``.

        Args:
            raw: the output for one picture, of type ``output_dtype``.

        Raises:
            ValueError: it has another number of values.
        """
        values = np.frombuffer(raw, self.output_dtype)
        if values.size != self.answers.shape[1]:
            raise ValueError(f"{values.size} values in place of {self.answers.shape[1]}")
        if self.output_qparams is None:
            return values.astype(np.float32)
        return dequantise(values, *self.output_qparams)

    def job(self) -> dict[str, Any]:
        """Returns what the page needs to know, as JSON."""
        count, height, width, channels = self.pictures.shape
        return {
            "name": self.name,
            "sha256": self.sha256,
            "bytes": self.size_bytes,
            "engine": self.engine,
            "layout": self.layout,
            "shape": [self.batch, *((height, width, channels) if self.layout == "NHWC" else (channels, height, width))],
            "dtype": self.dtype,
            "table": self.table.tolist(),
            "pictures": count,
        }


def offer_files(
    request: BenchRequest, progress: Progress = silent
) -> tuple[tuple[OfferedFile, ...], tuple[Failure, ...]]:
    """Returns what is offered to browsers, and the files that no browser can run.

    Args:
        request: what to measure of which files; its labelled images are the pictures, or else random ones are.
        progress: reports the files that are done.

    Raises:
        ArtifactError: a file does not exist, or is no model file by its name.
        UnsupportedTargetError: no file is left.
    """
    check_files(request)
    images = read_test_images(request.images) if request.images is not None else None
    offered, failures = [], []
    for done, file in enumerate(request.files):
        progress("answers here", done, len(request.files), file.name)
        try:
            offered.append(_offered(file, images, request.seed))
        except PocketVitError as error:
            failures.append(Failure(file.name, without_folder(str(error), file)))
    progress("answers here", len(request.files), len(request.files))
    if not offered:
        raise UnsupportedTargetError(
            "No file can run in a browser", got="; ".join(f"{own.file}: {own.what}" for own in failures)
        )
    return tuple(offered), tuple(failures)


def _offered(file: Path, images: TestImages | None, seed: int) -> OfferedFile:
    """Returns one file as browsers get it.

    Raises:
        PocketVitError: it cannot be loaded here, or no engine runs it in browsers.
    """
    form = format_of(file)
    engine_there = ENGINES_IN_BROWSERS.get(form.name)
    if engine_there is None:
        raise UnsupportedTargetError(
            f"No browser runs {file.name}", expected=f"a file of {' or '.join(ENGINES_IN_BROWSERS)}"
        )
    session = load(file) if manifest_path(file).is_file() else None
    engine = session.engine if session else open_engine(file)
    manifest = session.artifact if session else None
    spec = manifest.preprocessing if manifest else None
    layout = manifest.input.layout if manifest else form.layout
    batch, height, width, channels = _image_shape(engine, file.name, layout)
    if engine.input_dtype.name not in _TAKEN[engine_there]:
        raise UnsupportedTargetError(
            f"{engine_there} does not take the input of {file.name}",
            expected=f"an input of {' or '.join(_TAKEN[engine_there])}",
            got=engine.input_dtype.name,
            fix="Bench the file with float inputs, such as .int8.tflite",
        )
    labelled = images if manifest is not None else None
    if labelled is None or spec is None:
        pictures = np.random.default_rng(seed).integers(0, 256, (RANDOM_IMAGES, height, width, channels), np.uint8)
    else:
        pictures = _ready(labelled.pictures, spec)
    table = _table(engine, spec, channels, manifest)
    if manifest is not None and (manifest.output_kind != "classes" or labelled is None):
        labelled = None
    elif manifest is not None and labelled is not None and manifest.class_names != labelled.class_names:
        labelled = None
    return OfferedFile(
        path=file,
        sha256=manifest.sha256 if manifest else sha256_of(file),
        size_bytes=file.stat().st_size,
        engine=engine_there,
        manifest=manifest,
        layout=layout,
        batch=batch,
        dtype=engine.input_dtype.name,
        table=table,
        pictures=pictures,
        labels=labelled.labels if labelled else None,
        images=labelled,
        output_dtype=engine.output_dtype,
        output_qparams=_output_qparams(engine, manifest),
        answers=_answers(engine, pictures, table, layout, batch, _output_qparams(engine, manifest)),
    )


def _image_shape(engine: Engine, name: str, layout: str) -> tuple[int, int, int, int]:
    """Returns batch, height, width and channels of a file's input.

    Raises:
        UnsupportedTargetError: it reads no image.
        ArtifactError: its size is not fixed.
    """
    shape = input_shape(engine, name)
    if len(shape) == 4:
        batch, height, width, channels = shape if layout == "NHWC" else (shape[0], *shape[2:], shape[1])
        if channels in (1, 3):
            return batch, height, width, channels
    raise UnsupportedTargetError(f"{name} reads no image", expected=f"an input of 1 or 3 channels, {layout}", got=shape)


def _ready(pictures: npt.NDArray[np.uint8], spec: Preprocessing) -> npt.NDArray[np.uint8]:
    """Returns pictures of the model's size; those that have it are ready and are neither scaled nor cropped."""
    if pictures.shape[1:] == (spec.height, spec.width, spec.channels):
        return pictures
    return np.stack([to_pixels(picture, spec) for picture in pictures])


def _table(engine: Engine, spec: Preprocessing | None, channels: int, manifest: Artifact | None) -> npt.NDArray[Any]:
    """Returns the value of the input for each value of a pixel, ``(C, 256)``; browsers then round nothing themselves.

    Random pictures of a file without a manifest are spread over some -2 to 2, or over the range of its integers.
    """
    levels = np.repeat(_LEVELS[:, None], channels, axis=1)
    if spec is not None and manifest is not None:
        values = normalise(levels, spec)
        if manifest.input.scale is not None:
            own = manifest.input
            return np.ascontiguousarray(quantise(values, own.scale or 1.0, own.zero_point or 0, own.dtype).T)
    elif engine.input_dtype.kind in "iu":
        return np.ascontiguousarray((levels.astype(np.int16) + np.iinfo(engine.input_dtype).min).T).astype(
            engine.input_dtype
        )
    else:
        values = (levels.astype(np.float32) - np.float32(127.5)) / np.float32(64)
    return np.ascontiguousarray(values.T, dtype=np.float32)


def _output_qparams(engine: Engine, manifest: Artifact | None) -> tuple[float, int] | None:
    if manifest is not None and manifest.output.scale is not None:
        return manifest.output.scale, manifest.output.zero_point or 0
    return engine.output_qparams


def tensor_of(picture: npt.NDArray[np.uint8], table: npt.NDArray[Any], layout: str, batch: int) -> npt.NDArray[Any]:
    """Returns the raw input for one picture ``(H, W, C)``, repeated to fill the batch, as the page makes it."""
    values = np.stack([table[channel][picture[..., channel]] for channel in range(picture.shape[2])], axis=-1)
    image = values if layout == "NHWC" else values.transpose(2, 0, 1)
    return np.ascontiguousarray(np.repeat(image[None], batch, axis=0))


def _answers(
    engine: Engine,
    pictures: npt.NDArray[np.uint8],
    table: npt.NDArray[Any],
    layout: str,
    batch: int,
    qparams: tuple[float, int] | None,
) -> npt.NDArray[np.float32]:
    rows: Sequence[npt.NDArray[Any]] = [
        np.asarray(engine.run(tensor_of(picture, table, layout, batch))[0]).ravel() for picture in pictures
    ]
    stacked = np.stack(rows)
    return stacked.astype(np.float32) if qparams is None else dequantise(stacked, *qparams)
