"""From an exported file and pictures to predictions, with numpy and one engine."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from runtime.pictures.preprocess import normalise, open_image, preprocess

from .artifact import Artifact, TensorSpec, read_artifact
from .engines import Engine, EngineDevice, EngineName, open_engine
from .errors import ArtifactError, DataError, UnsupportedTargetError

if TYPE_CHECKING:
    from PIL import Image

    Picture = str | Path | Image.Image | npt.NDArray[np.uint8]

_LEAST_PROBABILITY = 1e-7
"""Smaller probabilities are rounding errors, in float16 at the latest."""


@dataclass(frozen=True)
class Prediction:
    """A model's prediction for one image.

    Attributes:
        index: of the top-1 class.
        name: of the top-1 class; its index as text where the manifest names no classes.
        confidence: its softmax probability, 0..1.
        logits: of all classes, ``(classes,)`` float32.
    """

    index: int
    name: str
    confidence: float
    logits: npt.NDArray[np.float32]

    def cross_entropy(self, label: int) -> float:
        """Returns the negative log-likelihood of class ``label``, in nats.

        Raises:
            DataError: there is no such class.
        """
        if not 0 <= label < len(self.logits):
            raise DataError("No such class", expected=f"0 to {len(self.logits) - 1}", got=label)
        shifted = self.logits.astype(np.float64) - float(self.logits.max())
        return float(np.log(np.exp(shifted).sum()) - shifted[label])


@dataclass(frozen=True)
class Session:
    """A loaded artifact. Make one with ``load``."""

    artifact: Artifact
    engine: Engine

    def predict(self, images: Iterable[Picture]) -> list[Prediction]:
        """Returns a prediction for each image.

        Args:
            images: paths, Pillow images, or uint8 pixels ``(H, W)``, ``(H, W, 1)``, ``(H, W, 3)``. All are scaled and
                cropped by the same rule, an array of the model's own size too.

        Raises:
            DataError: an image cannot be read, or one image was given in place of several.
            UnsupportedTargetError: the output is not classes; ``values`` returns it.
        """
        self._check_classes()
        return [self._prediction(logits) for logits in self.values(images)]

    def values(self, images: Iterable[Picture]) -> npt.NDArray[np.float32]:
        """Returns the output for each image in real units, ``(N, ...)`` float32: logits, a vector or a grid.

        A file for apps that answers with probabilities gives their logarithms, which are logits.

        Args:
            images: as in ``predict``.

        Raises:
            DataError: as in ``predict``.
        """
        if isinstance(images, str) or not isinstance(images, Iterable) or _is_one_image(images):
            raise DataError("predict reads several images", got=f"one {type(images).__name__}", fix="Put it in a list")
        spec, outputs = self.artifact.preprocessing, []
        for image in images:
            picture = open_image(Path(image)) if isinstance(image, (str, Path)) else image
            outputs.append(self.outputs(preprocess(picture, spec)[None]))
        return np.concatenate(outputs) if outputs else self._no_outputs()

    def predict_pixels(self, pixels: npt.NDArray[np.uint8]) -> list[Prediction]:
        """Returns a prediction for each of some pictures that have the model's size and channels already.

        They are normalised and neither scaled nor cropped: this is for pixels that were prepared elsewhere.

        Args:
            pixels: ``(N, height, width, channels)`` uint8.

        Raises:
            DataError: the pixels are of another type or shape.
            UnsupportedTargetError: the output is not classes.
        """
        self._check_classes()
        spec = self.artifact.preprocessing
        wanted = (spec.height, spec.width, spec.channels)
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != wanted:
            got = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
            raise DataError(
                "These are no pixels of the model's size",
                expected=f"uint8 (N, {spec.height}, {spec.width}, {spec.channels})",
                got=got,
                fix="Pictures of any size go to predict",
            )
        return [self._prediction(self.outputs(normalise(picture[None], spec))[0]) for picture in pixels]

    def logits(self, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Returns float32 logits ``(B, classes)`` for preprocessed images ``(B, H, W, C)``.

        Raises:
            DataError: as in ``outputs``.
            UnsupportedTargetError: the output is not classes.
        """
        self._check_classes()
        return self.outputs(inputs)

    def outputs(self, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Returns the output in real units, ``(B, ...)`` float32, for preprocessed images ``(B, H, W, C)``.

        Changes layout, quantises and dequantises as the file needs, and runs it as many times as its
        batch size asks.

        Raises:
            DataError: the images are not of the model's size.
        """
        spec = self.artifact.preprocessing
        if inputs.ndim != 4 or inputs.shape[1:] != (spec.height, spec.width, spec.channels):
            raise DataError(
                "The input does not fit the model",
                expected=f"(B, {spec.height}, {spec.width}, {spec.channels})",
                got=inputs.shape,
            )
        batch = self.artifact.input.shape[0]
        step = batch if batch > 0 else 32
        if len(inputs) % step and batch > 1:
            raise DataError("The images do not fill whole batches", expected=f"a multiple of {batch}", got=len(inputs))
        parts = [self.run_raw(self.to_raw(inputs[i : i + step])) for i in range(0, len(inputs), step)]
        return np.concatenate(parts) if parts else self._no_outputs()

    def to_raw(self, inputs: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        """Returns preprocessed images ``(B, H, W, C)`` in the file's own layout and type."""
        spec = self.artifact.input
        if spec.layout == "NCHW":
            inputs = inputs.transpose(0, 3, 1, 2)
        inputs = np.ascontiguousarray(inputs, dtype=np.float32)
        return inputs if spec.scale is None else quantise(inputs, spec.scale, spec.zero_point or 0, spec.dtype)

    def run_raw(self, raw: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Runs one raw batch and returns its output in real units, ``(B, ...)`` float32; logits for probabilities."""
        spec, app = self.artifact.output, self.artifact.app
        output = self.engine.run(raw)
        if app is not None and app.scores == "probabilities":
            return logits_of_probabilities(output)
        if spec.scale is None:
            return np.asarray(output, dtype=np.float32)
        return dequantise(output, spec.scale, spec.zero_point or 0)

    def _no_outputs(self) -> npt.NDArray[np.float32]:
        return np.zeros((0, *self.artifact.output.shape[1:]), np.float32)

    def _check_classes(self) -> None:
        kind = self.artifact.output_kind
        if kind != "classes":
            raise UnsupportedTargetError(
                f"{self.artifact.file} has no classes to predict",
                expected="an output of one logit for each class",
                got=f"a {kind} of shape {self.artifact.output.shape[1:]}",
                fix="Session.values returns it",
            )

    def _prediction(self, logits: npt.NDArray[np.float32]) -> Prediction:
        index, names = int(logits.argmax()), self.artifact.class_names
        return Prediction(index, names[index] if names else str(index), float(softmax(logits)[index]), logits)


def load(path: str | Path, engine: EngineName | None = None, threads: int = 1, device: EngineDevice = "cpu") -> Session:
    """Loads an exported file with its manifest, checked by SHA-256, into its engine.

    Args:
        path: the model file, with its manifest in the same folder.
        engine: name of one of ``runtime.engines.ENGINES`` that reads the format; by default the format's.
        threads: worker threads, at least 1.
        device: ``cpu``, or a GPU as in ``open_engine``.

    Raises:
        ArtifactError: file or manifest is missing, damaged, of a newer version, or they disagree.
        UnsupportedTargetError: no such engine for this format, no such device here, or a file on ``gpu`` that its
            manifest calls wrong on GPUs.
        MissingExtraError: the engine is not installed.
    """
    file = Path(path)
    artifact = read_artifact(file)
    if device == "gpu":
        check_right_on_gpu(artifact)
    loaded = open_engine(file, engine, threads, device)
    for what, spec, shape, dtype, qparams in (
        ("input", artifact.input, loaded.input_shape, loaded.input_dtype, loaded.input_qparams),
        ("output", artifact.output, loaded.output_shape, loaded.output_dtype, loaded.output_qparams),
    ):
        if (spec.shape, spec.dtype) != (shape, dtype.name):
            raise ArtifactError(
                f"The manifest of {file} describes another {what}",
                expected=f"{spec.dtype} {spec.shape}",
                got=f"{dtype.name} {shape}",
            )
        if not _same_qparams(spec, qparams):
            raise ArtifactError(
                f"The manifest of {file} describes another quantisation of its {what}",
                expected=f"scale and zero point {spec.scale} and {spec.zero_point}",
                got=qparams,
            )
    return Session(artifact, loaded)


def check_right_on_gpu(artifact: Artifact) -> None:
    """Checks that a file was not found wrong on GPUs when it was exported.

    Raises:
        UnsupportedTargetError: it was.
    """
    gpu = artifact.parity.gpu
    if gpu is not None and gpu.wrong is not None:
        raise UnsupportedTargetError(
            f"{artifact.file} is wrong on GPUs, as its export found",
            expected="a file that is right there",
            got=gpu.wrong.rstrip("."),
            fix="Run it on the CPU, or take another of the exported files",
        )


def _same_qparams(spec: TensorSpec, qparams: tuple[float, int] | None) -> bool:
    if qparams is None or spec.scale is None:  # an ONNX file does not say how its own inputs are scaled
        return True
    return math.isclose(spec.scale, qparams[0], rel_tol=1e-5) and spec.zero_point == qparams[1]


def quantise(values: npt.NDArray[np.float32], scale: float, zero_point: int, dtype: str = "int8") -> npt.NDArray[Any]:
    """Returns ``round(values / scale) + zero_point`` clipped to the integers of ``dtype``."""
    limits = np.iinfo(dtype)
    stored: npt.NDArray[Any] = np.clip(np.rint(values / np.float32(scale)) + zero_point, limits.min, limits.max)
    return stored.astype(dtype)


def dequantise(stored: npt.NDArray[Any], scale: float, zero_point: int) -> npt.NDArray[np.float32]:
    """Returns ``scale * (stored - zero_point)`` as float32."""
    real: npt.NDArray[np.float32] = (stored.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)
    return real


def softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Returns probabilities along the last axis, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    probabilities: npt.NDArray[np.float64] = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities


def logits_of_probabilities(probabilities: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    """Returns logarithms of probabilities, float32, whose softmax they are; those below 1e-7 count as 1e-7."""
    logits: npt.NDArray[np.float32] = np.log(np.maximum(probabilities, _LEAST_PROBABILITY)).astype(np.float32)
    return logits


def _is_one_image(images: object) -> bool:
    return isinstance(images, np.ndarray) and (images.ndim == 2 or (images.ndim == 3 and images.shape[2] in (1, 3)))
