"""The images that two files are compared on: those of an ``.npz`` file, of the file's own run, or random ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime import ArtifactError, DataError, manifest_path, normalise, preprocess, read_artifact

MOST_IMAGES = 100
"""Of more images, so many are taken at equal distances."""

RANDOM_IMAGES = 16
_SEED = 0
_PICTURES, _PREPARED = "pictures", "images"


@dataclass(frozen=True, eq=False)
class ComparisonImages:
    """Images that both files run on.

    Attributes:
        values: preprocessed, ``(N, H, W, C)`` float32.
        source: where they come from, in words.
        real: whether they are pictures, and not random numbers.
    """

    values: npt.NDArray[np.float32]
    source: str
    real: bool


def images_for(path: Path, given: Path | None, input_shape: tuple[int, ...]) -> ComparisonImages:
    """Returns images for a file.

    Args:
        path: the file, whose manifest says how pictures become inputs.
        given: an ``.npz`` file with ``pictures``, ``(N, H, W, C)`` uint8 as in a run's ``bench/test-images.npz``, or
            with ``images``, preprocessed and float32. Without it, the ``bench/test-images.npz`` of the file's own run
            is read where there is one, and else random images are made.
        input_shape: of the file, the number of images of a run first.

    Raises:
        ArtifactError: ``given`` is missing or damaged, or holds neither.
        DataError: pictures are given for a file without a manifest, or the images do not fit.
    """
    own = path.resolve().parent.parent / "bench" / "test-images.npz"
    if given is None and own.is_file() and manifest_path(path).is_file():
        return ComparisonImages(_read(own, path), f"the test images of its run, {own.name}", True)
    if given is not None:
        return ComparisonImages(_read(given, path), given.name, True)
    values = np.random.default_rng(_SEED).standard_normal((RANDOM_IMAGES, *input_shape[1:]), dtype=np.float32)
    return ComparisonImages(values, "random numbers", False)


def _read(file: Path, path: Path) -> npt.NDArray[np.float32]:
    try:
        # numpy leaves a file open that it cannot read
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
            key = next((key for key in (_PREPARED, _PICTURES) if key in stored), None)
            values = None if key is None else stored[key]
    except FileNotFoundError:
        raise ArtifactError(f"The file of images {file} does not exist") from None
    except Exception as error:  # on damaged bytes zip, zlib and numpy raise whatever they stumble over
        raise _refusal(file, error) from error
    if values is None:
        raise _refusal(file, "neither")
    wanted = np.uint8 if key == _PICTURES else np.float32
    if values.dtype != wanted or values.ndim != 4 or not len(values):
        raise _refusal(file, f"{values.dtype} {values.shape}")
    chosen = values[np.linspace(0, len(values) - 1, min(len(values), MOST_IMAGES)).round().astype(int)]
    return _prepared(chosen, path) if key == _PICTURES else chosen


def _prepared(pictures: npt.NDArray[np.uint8], path: Path) -> npt.NDArray[np.float32]:
    """Returns pictures as the model's input; those of its size are ready and are neither scaled nor cropped."""
    if not manifest_path(path).is_file():
        raise DataError(
            f"Without a manifest, nothing says how a picture becomes the input of {path.name}",
            expected=f"{manifest_path(path).name} beside it, or preprocessed float32 images under '{_PREPARED}'",
        )
    spec = read_artifact(path, verify=False).preprocessing
    if pictures.shape[1:] == (spec.height, spec.width, spec.channels):
        return normalise(pictures, spec)
    return np.stack([preprocess(picture, spec) for picture in pictures])


def _refusal(file: Path, got: Any) -> ArtifactError:
    return ArtifactError(
        f"{file} is no file of images",
        expected=f"an .npz file with '{_PICTURES}', uint8 (N, H, W, C), or '{_PREPARED}', preprocessed float32",
        got=got,
    )
