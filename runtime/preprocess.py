"""One description of how an image becomes numbers, read by training, calibration and the device alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from .errors import DataError, MissingExtraError, PlanError

if TYPE_CHECKING:
    from PIL import Image

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Resize = Literal["stretch", "center_crop"]


@dataclass(frozen=True)
class Preprocessing:
    """How a picture of any size becomes the float input of a model.

    Attributes:
        height: rows the model reads, pixels.
        width: columns the model reads, pixels.
        channels: 1 (grayscale) or 3 (RGB).
        mean: subtracted per channel, after scaling pixels to 0..1.
        std: divided by, per channel.
        interpolation: the resampling filter, with antialiasing as Pillow does it.
        resize: ``stretch`` to the size, or scale the short side to ``size / crop_pct`` and crop the centre.
        crop_pct: share of the short side that the centre crop keeps, 0.01 to 1.

    Raises:
        PlanError: a value is out of range.
    """

    height: int
    width: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Interpolation = "bicubic"
    resize: Resize = "center_crop"
    crop_pct: float = 1.0

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise PlanError("The input size must be positive", got=f"{self.height}x{self.width}")
        if self.channels not in (1, 3):
            raise PlanError("Images have 1 or 3 channels", got=self.channels)
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise PlanError(f"mean and std need {self.channels} values each", got=f"{self.mean} and {self.std}")
        if not all(abs(value) <= 1e6 for value in self.mean) or not all(1e-6 <= value <= 1e6 for value in self.std):
            raise PlanError(
                "mean must be finite and std positive",
                expected="mean within -1e6 to 1e6, std within 1e-6 to 1e6",
                got=f"{self.mean} and {self.std}",
            )
        if self.interpolation not in get_args(Interpolation) or self.resize not in get_args(Resize):
            raise PlanError("Unknown interpolation or resize mode", got=f"{self.interpolation}, {self.resize}")
        if not 0.01 <= self.crop_pct <= 1:
            raise PlanError("crop_pct must be in 0.01 to 1", got=self.crop_pct)


def open_image(path: Path) -> Image.Image:
    """Opens and fully decodes a picture, upright.

    Raises:
        DataError: the file is missing, is not a picture Pillow can decode, or has more pixels than Pillow's
            ``Image.MAX_IMAGE_PIXELS``.
        MissingExtraError: Pillow is not installed.
    """
    pil = _pillow()
    from PIL import ImageOps

    try:
        with pil.open(path) as image:
            # Pillow itself refuses only twice as much, and its warning cannot be caught in threads
            if pil.MAX_IMAGE_PIXELS is not None and image.width * image.height > pil.MAX_IMAGE_PIXELS:
                raise pil.DecompressionBombError(f"{image.width}x{image.height}")
            image.load()
            return ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise DataError(f"The image {path} does not exist") from None
    except (pil.DecompressionBombWarning, pil.DecompressionBombError) as error:
        raise DataError(
            f"The image {path} is too large", expected=f"at most {pil.MAX_IMAGE_PIXELS} pixels", fix="Scale it down"
        ) from error
    except Exception as error:  # on hostile bytes Pillow's decoders raise whatever they stumble over
        raise DataError(f"The image {path} cannot be decoded", got=error) from error


def to_pixels(image: Image.Image | npt.NDArray[np.uint8], spec: Preprocessing) -> npt.NDArray[np.uint8]:
    """Returns ``image`` resized and converted to ``(height, width, channels)`` uint8 pixels.

    Args:
        image: a Pillow image, or uint8 pixels ``(H, W)``, ``(H, W, 1)`` or ``(H, W, 3)``.
        spec: what the model reads.

    Raises:
        DataError: an array of another type or shape, or neither an array nor a Pillow image.
        MissingExtraError: a resize or a change of channels is needed and Pillow is not installed.
    """
    if isinstance(image, np.ndarray):
        pixels = _check_pixels(image)
        if pixels.shape == (spec.height, spec.width, spec.channels):
            return pixels
    resized = _resize(to_channels(to_image(image), spec.channels), spec)
    return np.asarray(resized, dtype=np.uint8).reshape(spec.height, spec.width, spec.channels)


def normalise(pixels: npt.NDArray[np.uint8], spec: Preprocessing) -> npt.NDArray[np.float32]:
    """Returns uint8 pixels ``(..., C)`` as float32 ``(pixel / 255 - mean) / std``."""
    scale = (1.0 / (255.0 * np.asarray(spec.std))).astype(np.float32)
    offset = (-np.asarray(spec.mean) / np.asarray(spec.std)).astype(np.float32)
    scaled: npt.NDArray[np.float32] = pixels.astype(np.float32) * scale + offset
    return scaled


def preprocess(image: Image.Image | npt.NDArray[np.uint8], spec: Preprocessing) -> npt.NDArray[np.float32]:
    """Returns one image as the model's input: ``(height, width, channels)`` float32.

    Raises:
        DataError: an array of another type or shape.
        MissingExtraError: a resize or a change of channels is needed and Pillow is not installed.
    """
    return normalise(to_pixels(image, spec), spec)


def to_image(image: Image.Image | npt.NDArray[np.uint8]) -> Image.Image:
    """Returns pixels as a Pillow image, and a Pillow image as it is.

    Raises:
        DataError: an array of another type or shape, or neither an array nor a Pillow image.
        MissingExtraError: Pillow is not installed.
    """
    pil = _pillow()
    if isinstance(image, np.ndarray):
        pixels = _check_pixels(image)
        picture: Image.Image = pil.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        return picture
    is_picture: bool = isinstance(image, pil.Image)
    if not is_picture:
        raise DataError("That is not an image", expected="a Pillow image or an array", got=type(image).__name__)
    return image


def to_channels(image: Image.Image, channels: int) -> Image.Image:
    """Returns ``image`` as 8-bit grayscale (1) or RGB (3).

    16-bit grayscale keeps its range; transparency is dropped.

    Raises:
        DataError: Pillow cannot convert the image's mode.
    """
    if image.mode.startswith("I;16") or image.mode == "I":
        wide = np.asarray(image).astype(np.float64)
        image = _pillow().fromarray(np.clip(np.rint(wide / 257.0), 0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns when it has to drop a palette's transparency itself
    wanted = "L" if channels == 1 else "RGB"
    if image.mode == wanted:
        return image
    try:
        return (image.convert("RGB") if image.mode == "LAB" else image).convert(wanted)
    except ValueError as error:
        raise DataError(f"An image of mode {image.mode} does not become {wanted}", got=error) from error


def _resize(image: Image.Image, spec: Preprocessing) -> Image.Image:
    from PIL.Image import Resampling

    filters = {
        "nearest": Resampling.NEAREST,
        "bilinear": Resampling.BILINEAR,
        "bicubic": Resampling.BICUBIC,
        "lanczos": Resampling.LANCZOS,
    }
    size = (spec.width, spec.height)
    if spec.resize == "stretch":
        return image if image.size == size else image.resize(size, filters[spec.interpolation])
    scale = max(spec.width / image.width, spec.height / image.height) / spec.crop_pct
    scaled = (max(spec.width, round(image.width * scale)), max(spec.height, round(image.height * scale)))
    left, top = (scaled[0] - spec.width) // 2, (scaled[1] - spec.height) // 2
    if image.size == scaled:
        return image.crop((left, top, left + spec.width, top + spec.height))
    # Only the crop is computed: scaling all of a long thin picture can take gigabytes.
    x, y = image.width / scaled[0], image.height / scaled[1]
    right, bottom = min((left + spec.width) * x, image.width), min((top + spec.height) * y, image.height)
    return image.resize(size, filters[spec.interpolation], box=(left * x, top * y, right, bottom))


def _check_pixels(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    expected = "uint8 pixels of shape (H, W), (H, W, 1) or (H, W, 3)"
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or 0 in array.shape:
        raise DataError("An image array does not fit", expected=expected, got=f"{array.dtype} {array.shape}")
    pixels = array[:, :, None] if array.ndim == 2 else array
    if pixels.shape[2] not in (1, 3):
        raise DataError("An image array does not fit", expected=expected, got=f"{array.dtype} {array.shape}")
    return pixels


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtraError("pillow", "litert") from None
    return Image
