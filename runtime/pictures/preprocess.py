"""One description of how an image becomes numbers, read by training, calibration and the device alike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from runtime.errors import DataError, MissingExtraError, PlanError

if TYPE_CHECKING:
    from PIL import Image

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Resize = Literal["center", "squash", "border", "stretch", "center_floor", "center_crop"]

_WHOLE_PIXELS = 2**25
"""A picture is scaled as a whole up to this many pixels (100 MB in RGB); of a larger one only the crop is computed."""


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
        resize: how a picture of another size or shape becomes ``height`` x ``width``. The first three are the crop
            modes of ``timm.data.create_transform``, to the pixel, with ``scaled`` = floor(size / crop_pct):

            - ``center``: scale the short side to ``scaled`` and crop the centre.
            - ``squash``: scale both sides to ``scaled``, whatever the shape, and crop the centre.
            - ``border``: scale the long side to ``scaled``, crop the centre, and fill what is missing with ``mean``.
            - ``stretch``: scale both sides to the size itself and crop nothing.
            - ``center_floor``: as ``center``, but the crop begins at the half of (scaled - size) rounded down, as the
              image processors of ``transformers`` have it.
            - ``center_crop``: the rule of files written before manifests of version 5. As ``center``, but the scaled
              size is rounded otherwise and the crop may begin between two pixels.
        crop_pct: share of the scaled side that the crop keeps, 0.01 to 1; ``stretch`` does not read it.

    Raises:
        PlanError: a value is out of range.
    """

    height: int
    width: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Interpolation = "bicubic"
    resize: Resize = "center"
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
        DataError: the file is missing, is not a picture Pillow can decode, has more pixels than Pillow's
            ``Image.MAX_IMAGE_PIXELS``, or would lose its content when it becomes 8-bit (see ``to_channels``).
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
            upright = ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise DataError(f"The image {path} does not exist") from None
    except (pil.DecompressionBombWarning, pil.DecompressionBombError) as error:
        raise DataError(
            f"The image {path} is too large", expected=f"at most {pil.MAX_IMAGE_PIXELS} pixels", fix="Scale it down"
        ) from error
    except Exception as error:  # on hostile bytes Pillow's decoders raise errors of any kind
        raise DataError(f"The image {path} cannot be decoded", got=error) from error
    _check_kept(upright, f"The image {path}")
    return upright


def to_pixels(image: Image.Image | npt.NDArray[np.uint8], spec: Preprocessing) -> npt.NDArray[np.uint8]:
    """Returns ``image`` resized and converted to ``(height, width, channels)`` uint8 pixels.

    The answer does not depend on whether the picture comes as an image or as an array: an array that has the model's
    size already is scaled and cropped like a file with the same pixels. Pixels that are ready go to ``normalise``.

    Args:
        image: a Pillow image, or uint8 pixels ``(H, W)``, ``(H, W, 1)`` or ``(H, W, 3)``.
        spec: what the model reads.

    Raises:
        DataError: an array of another type or shape, neither an array nor a Pillow image, or a picture whose pixels
            would be lost (see ``to_channels``).
        MissingExtraError: a resize or a change of channels is needed and Pillow is not installed.
    """
    if isinstance(image, np.ndarray):
        pixels = _check_pixels(image)
        untouched = spec.resize == "stretch" or spec.crop_pct == 1
        if untouched and pixels.shape == (spec.height, spec.width, spec.channels):
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

    16-bit grayscale keeps its range: 0 to 65535 become 0 to 255. Transparency is dropped, as timm and torchvision do.

    Raises:
        DataError: Pillow cannot convert the image's mode, or nothing but black or one colour would be left of the
            picture: floats, integers beyond 16 bits, 16-bit pixels that hold 8-bit values, or a picture that is drawn
            in its transparency alone.
    """
    _check_kept(image, "An image")
    if _is_wide(image):
        wide = np.asarray(image) / 257.0
        image = _pillow().fromarray(np.clip(np.rint(wide), 0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns when it has to drop a palette's transparency itself
    wanted = "L" if channels == 1 else "RGB"
    if image.mode == wanted:
        return image
    try:
        return (image.convert("RGB") if image.mode == "LAB" else image).convert(wanted)
    except ValueError as error:
        raise DataError(f"An image of mode {image.mode} does not become {wanted}", got=error) from error


def _is_wide(image: Image.Image) -> bool:
    return image.mode.startswith("I;16") or image.mode == "I"


def _check_kept(image: Image.Image, name: str) -> None:
    """Refuses a picture of which nothing but one colour would be left in 8 bits without transparency.

    Raises:
        DataError: it is such a picture.
    """
    if image.mode == "F":
        raise DataError(
            f"{name} has pixels of 32-bit floats, which have no agreed range",
            expected="8 or 16 bits for each channel",
            fix="Scale its values to 0 to 255 and save them as 8 bits",
        )
    if _is_wide(image):
        values = np.asarray(image)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 65535:
            raise DataError(
                f"{name} has grey values of more than 16 bits",
                expected="0 to 65535",
                got=f"{low} to {high}",
                fix="Scale its values to 0 to 255 and save them as 8 bits",
            )
        if 0 < high < 256:
            raise DataError(
                f"{name} has 16-bit pixels with values of 8 bits: it would become black",
                expected="values up to 65535",
                got=f"{low} to {high}",
                fix="Save it as 8 bits",
            )
    if image.mode in ("LA", "RGBA"):
        bands: Any = image.getextrema()  # one pair for each band
        *colours, (faintest, strongest) = bands
        if faintest < strongest and all(least == most for least, most in colours):
            raise DataError(
                f"{name} is drawn in its transparency alone: without that it is of one colour",
                fix="Put it on a background and save it without transparency",
            )


def _scaled(spec: Preprocessing) -> tuple[int, int]:
    """Returns the height and width that a picture is scaled to before its centre is cropped."""
    if spec.resize == "stretch":
        return spec.height, spec.width
    return math.floor(spec.height / spec.crop_pct), math.floor(spec.width / spec.crop_pct)


def _resize(image: Image.Image, spec: Preprocessing) -> Image.Image:
    if spec.resize == "center_crop":
        return _resize_before_version_5(image, spec)
    height, width = _scaled(spec)
    if spec.resize in ("center", "center_floor"):
        height, width = _around(image, height, width)
    elif spec.resize == "border":
        height, width = _scaled_evenly(image, max(image.height / height, image.width / width))
    half = _floor_offset if spec.resize == "center_floor" else _offset
    top, left = half(height, spec.height), half(width, spec.width)
    if height * width <= _WHOLE_PIXELS:
        scaled = image if image.size == (width, height) else image.resize((width, height), _filter(spec))
        if (width, height) == (spec.width, spec.height):
            return scaled
        box = (max(0, left), max(0, top), min(width, left + spec.width), min(height, top + spec.height))
        cropped = scaled.crop(box)
    else:
        # The same up to rounding. Scaling all of a long thin picture can take gigabytes.
        y, x = image.height / height, image.width / width
        box = (max(0, left), max(0, top), min(width, left + spec.width), min(height, top + spec.height))
        source = (box[0] * x, box[1] * y, min(box[2] * x, image.width), min(box[3] * y, image.height))
        cropped = image.resize((box[2] - box[0], box[3] - box[1]), _filter(spec), box=source)
    if cropped.size == (spec.width, spec.height):
        return cropped
    fill = tuple(min(max(round(255 * value), 0), 255) for value in spec.mean)
    padded = _pillow().new(image.mode, (spec.width, spec.height), fill if len(fill) > 1 else fill[0])
    padded.paste(cropped, (max(0, -left), max(0, -top)))
    return padded  # type: ignore[no-any-return]


def _around(image: Image.Image, height: int, width: int) -> tuple[int, int]:
    """Returns the size of ``image`` scaled so that it just covers ``height`` x ``width``, as timm does."""
    if height != width:
        return _scaled_evenly(image, min(image.height / height, image.width / width))
    short, long = min(image.size), max(image.size)
    other = int(height * long / short)
    return (other, height) if image.width <= image.height else (height, other)


def _scaled_evenly(image: Image.Image, ratio: float) -> tuple[int, int]:
    return max(1, round(image.height / ratio)), max(1, round(image.width / ratio))


def _offset(scaled: int, size: int) -> int:
    """Returns where a central crop begins; below 0, how much is missing there."""
    return round((scaled - size) / 2) if scaled >= size else -((size - scaled) // 2)


def _floor_offset(scaled: int, size: int) -> int:
    return (scaled - size) // 2 if scaled >= size else _offset(scaled, size)


def _resize_before_version_5(image: Image.Image, spec: Preprocessing) -> Image.Image:
    size = (spec.width, spec.height)
    scale = max(spec.width / image.width, spec.height / image.height) / spec.crop_pct
    scaled = (max(spec.width, round(image.width * scale)), max(spec.height, round(image.height * scale)))
    left, top = (scaled[0] - spec.width) // 2, (scaled[1] - spec.height) // 2
    if image.size == scaled:
        return image.crop((left, top, left + spec.width, top + spec.height))
    x, y = image.width / scaled[0], image.height / scaled[1]
    right, bottom = min((left + spec.width) * x, image.width), min((top + spec.height) * y, image.height)
    return image.resize(size, _filter(spec), box=(left * x, top * y, right, bottom))


def _filter(spec: Preprocessing) -> Any:
    from PIL.Image import Resampling

    return Resampling[spec.interpolation.upper()]


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
