from __future__ import annotations

import dataclasses
import io
import math
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from runtime import (
    DataError,
    MissingExtraError,
    PlanError,
    Preprocessing,
    normalise,
    open_image,
    preprocess,
    to_channels,
    to_pixels,
)
from tests.runtime.examples import tiny_preprocessing


def pixels_of(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray[Any, Any]:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"height": 0}, "input size must be positive. Got 0x8"),
        ({"width": -1}, "input size must be positive. Got 8x-1"),
        ({"channels": 4}, "1 or 3 channels. Got 4"),
        ({"mean": (0.5,)}, "mean and std need 3 values each"),
        ({"std": (0.5, 0.5)}, "mean and std need 3 values each"),
        ({"mean": (0.0, math.nan, 0.0)}, "mean must be finite and std positive"),
        ({"mean": (0.0, 1e300, 0.0)}, "mean must be finite and std positive"),
        ({"std": (0.5, 0.0, 0.5)}, "mean must be finite and std positive"),
        ({"std": (0.5, math.inf, 0.5)}, "mean must be finite and std positive"),
        ({"std": (0.5, 1e-300, 0.5)}, "mean must be finite and std positive"),
        ({"interpolation": "box"}, "Unknown interpolation or resize mode. Got box, center"),
        ({"resize": "pad"}, "Unknown interpolation or resize mode. Got bicubic, pad"),
        ({"crop_pct": 0.0}, "crop_pct must be in 0.01 to 1. Got 0.0"),
        ({"crop_pct": 5e-324}, "crop_pct must be in"),
        ({"crop_pct": 1.5}, "crop_pct must be in"),
        ({"crop_pct": math.nan}, "crop_pct must be in"),
    ],
)
def test_a_spec_refuses(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(PlanError, match=text):
        tiny_preprocessing(**changes)


def test_normalise_is_the_formula() -> None:
    spec = tiny_preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    expected = (pixels / 255.0 - np.array(spec.mean)) / np.array(spec.std)
    result = normalise(pixels, spec)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    assert normalise(pixels[None], spec).shape == (1, 16, 16, 3)


RESIZES = ["center", "squash", "border", "stretch", "center_crop"]


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("as_picture", [False, True])
def test_a_picture_of_the_right_size_is_not_touched(resize: str, as_picture: bool) -> None:
    spec, pixels = tiny_preprocessing(height=9, width=7, resize=resize), pixels_of(9, 7)
    given_image = Image.fromarray(pixels) if as_picture else pixels
    np.testing.assert_array_equal(to_pixels(given_image, spec), pixels)
    np.testing.assert_array_equal(preprocess(given_image, spec), normalise(pixels, spec))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (13, 17), (17, 13), (224, 3), (8, 9)])
def test_any_size_becomes_the_models(size: tuple[int, int], resize: str, interpolation: str) -> None:
    for channels in (1, 3):
        spec = tiny_preprocessing(height=8, width=12, channels=channels, mean=(0.5,) * channels, std=(0.5,) * channels)
        spec = dataclasses.replace(spec, resize=resize, interpolation=interpolation, crop_pct=0.875)
        for array in (pixels_of(*size), pixels_of(*size, channels=1), pixels_of(*size)[:, :, :1]):
            result = to_pixels(array, spec)
            assert (result.shape, result.dtype) == ((8, 12, channels), np.uint8)


def test_stretch_is_pillows_resize() -> None:
    pixels, spec = pixels_of(13, 17), tiny_preprocessing(resize="stretch", interpolation="bilinear")
    expected = np.asarray(Image.fromarray(pixels).resize((8, 8), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(to_pixels(pixels, spec), expected)


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    crop_pct=st.sampled_from([1.0, 0.875, 0.9]),
    interpolation=st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]),
)
def test_the_older_center_crop_is_a_resize_then_a_crop(
    height: int, width: int, crop_pct: float, interpolation: str
) -> None:
    spec = Preprocessing(8, 12, 3, (0.5,) * 3, (0.5,) * 3, interpolation, "center_crop", crop_pct)  # type: ignore[arg-type]
    # Smooth, so that a filter centred a rounding error away may not change a value by more than 1.
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([rows * 255 // 60, columns * 255 // 60, (rows + columns) * 255 // 120], -1).astype(np.uint8)
    scale = max(12 / width, 8 / height) / crop_pct
    scaled = (max(12, round(width * scale)), max(8, round(height * scale)))
    whole = Image.fromarray(pixels).resize(scaled, Image.Resampling[interpolation.upper()])
    left, top = (scaled[0] - 12) // 2, (scaled[1] - 8) // 2
    expected = np.asarray(whole.crop((left, top, left + 12, top + 8))).astype(int)
    # nearest may step to the neighbouring pixel, 255 / 60; the others round after each of their two passes
    tolerance = 5 if interpolation == "nearest" else 2
    assert np.abs(to_pixels(pixels, spec).astype(int) - expected).max() <= tolerance


def test_the_crop_is_central() -> None:
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, 8:16] = 255
    assert to_pixels(pixels, tiny_preprocessing()).min() == 255


@pytest.mark.parametrize("size", [(1, 300_000), (300_000, 1)])
@pytest.mark.parametrize("resize", ["center", "center_crop"])
def test_a_long_thin_picture_takes_little_memory(size: tuple[int, int], resize: str) -> None:
    # Scaled as a whole it would be 224 x 67 200 000 pixels, more than any machine holds.
    result = to_pixels(Image.new("L", size, 7), tiny_preprocessing(height=224, width=224, resize=resize))
    np.testing.assert_array_equal(result, np.full((224, 224, 3), 7))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("resize", ["center", "squash", "border"])
def test_computing_the_crop_alone_is_scaling_and_cropping(
    resize: str, interpolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, columns = np.mgrid[0:50, 0:90]
    smooth = np.stack([rows * 5, columns * 2, rows + columns], -1).astype(np.uint8)
    spec = tiny_preprocessing(height=24, width=31, resize=resize, crop_pct=0.8, interpolation=interpolation)
    whole = to_pixels(smooth, spec).astype(int)
    monkeypatch.setattr(sys.modules["runtime.pictures.preprocess"], "_WHOLE_PIXELS", 0)
    assert np.abs(to_pixels(smooth, spec).astype(int) - whole).max() <= (5 if interpolation == "nearest" else 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resize", RESIZES)
def test_a_picture_has_one_answer_whatever_it_comes_as(tmp_path: Path, resize: str, channels: int) -> None:
    spec = tiny_preprocessing(channels=channels, mean=(0.5,) * channels, std=(0.5,) * channels, resize=resize)
    spec = dataclasses.replace(spec, crop_pct=0.75)
    pixels = pixels_of(spec.height, spec.width, channels)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    from_file = to_pixels(open_image(tmp_path / "picture.png"), spec)
    np.testing.assert_array_equal(to_pixels(pixels, spec), from_file)
    np.testing.assert_array_equal(to_pixels(Image.fromarray(pixels), spec), from_file)
    assert (resize == "stretch") == np.array_equal(from_file, pixels.reshape(from_file.shape))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.int8),
        np.zeros((8,), np.uint8),
        np.zeros((1, 8, 8, 3), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 2), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((8, 8, 0), np.uint8),
    ],
)
def test_a_bad_array_is_a_data_error(array: np.ndarray[Any, Any]) -> None:
    with pytest.raises(DataError) as caught:
        to_pixels(array, tiny_preprocessing())
    assert str(caught.value) == (
        "An image array does not fit. Expected uint8 pixels of shape (H, W), (H, W, 1) or (H, W, 3). "
        f"Got {array.dtype} {array.shape}."
    )


@pytest.mark.parametrize("value", [[[1, 2]], None, "a.png", b"bytes"])
def test_what_is_no_image_is_a_data_error(value: Any) -> None:
    with pytest.raises(
        DataError, match=f"not an image. Expected a Pillow image or an array. Got {type(value).__name__}"
    ):
        to_pixels(value, tiny_preprocessing())


def palette_with_transparency() -> Image.Image:
    image = Image.fromarray(pixels_of(8, 8)).quantize(16)
    image.info["transparency"] = bytes(range(0, 256, 16))
    return image


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_converts(mode: str, channels: int) -> None:
    image = Image.new(mode, (8, 8), 300) if mode in ("I;16", "I") else Image.fromarray(pixels_of(8, 8)).convert("RGB")
    if mode == "LAB":
        image = Image.merge("LAB", image.split())
    elif mode == "P":
        image = palette_with_transparency()
    elif mode not in ("I;16", "I"):
        image = image.convert(mode)
    result = to_channels(image, channels)
    assert (result.mode, result.size) == ("L" if channels == 1 else "RGB", (8, 8))


def test_a_palette_keeps_its_colours(tmp_path: Path) -> None:
    image = palette_with_transparency()
    image.save(tmp_path / "p.png")
    expected = np.asarray(image.convert("RGBA"))[:, :, :3]
    np.testing.assert_array_equal(np.asarray(to_channels(open_image(tmp_path / "p.png"), 3)), expected)


def test_a_mode_that_pillow_cannot_convert_is_a_data_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Image.Image, mode: str) -> Image.Image:
        raise ValueError("conversion not supported")

    monkeypatch.setattr(Image.Image, "convert", refuse)
    with pytest.raises(DataError, match=r"mode CMYK does not become RGB. Got conversion not supported"):
        to_channels(Image.new("CMYK", (2, 2)), 3)


def test_transparency_is_dropped() -> None:
    rgba = np.dstack([pixels_of(8, 8), np.full((8, 8), 10, np.uint8)])
    np.testing.assert_array_equal(np.asarray(to_channels(Image.fromarray(rgba), 3)), rgba[:, :, :3])


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_16_bit_gray_keeps_its_range(tmp_path: Path, mode: str) -> None:
    wide = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    if mode == "I;16":
        Image.fromarray(wide).save(tmp_path / "gray.png")
        image = open_image(tmp_path / "gray.png")
    else:
        image = Image.fromarray(wide.astype(np.int32))
    assert image.mode == mode
    assert np.asarray(to_channels(image, 1)).tolist() == [[0, 1, 128, 255]]
    assert np.asarray(to_channels(image, 3)).tolist() == [[[v] * 3 for v in (0, 1, 128, 255)]]


def drawn_in_alpha(mode: str) -> Image.Image:
    image = Image.new(mode, (8, 8), (0,) * len(mode))
    image.putpixel((3, 3), (*(0,) * (len(mode) - 1), 255))
    return image


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)), "pixels of 32-bit floats"),
        (Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)), "with values of 8 bits: it would become black"),
        (Image.fromarray(np.arange(64, dtype=np.int32).reshape(8, 8)), "with values of 8 bits: it would become black"),
        (Image.fromarray(np.full((8, 8), 70_000, np.int32)), "more than 16 bits. Expected 0 to 65535. Got 70000"),
        (Image.fromarray(np.full((8, 8), -1, np.int32)), "more than 16 bits"),
        (drawn_in_alpha("RGBA"), "drawn in its transparency alone"),
        (drawn_in_alpha("LA"), "drawn in its transparency alone"),
    ],
)
def test_a_picture_that_would_become_black_is_refused(tmp_path: Path, image: Image.Image, text: str) -> None:
    image.save(tmp_path / "picture.tif")
    for open_it in (lambda: open_image(tmp_path / "picture.tif"), lambda: to_channels(image, 3)):
        with pytest.raises(DataError, match=text):
            open_it()


def test_a_black_picture_is_a_picture() -> None:
    for mode in ("I;16", "I", "L", "RGBA"):
        assert np.asarray(to_channels(Image.new(mode, (8, 8)), 1)).max() == 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_is_put_upright(tmp_path: Path, orientation: int) -> None:
    upright = Image.new("RGB", (32, 16), "black")
    upright.paste("white", (0, 0, 8, 8))
    turns = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    turn = turns[orientation]
    stored = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "photo.jpg", exif=exif, quality=95)
    found = np.asarray(open_image(tmp_path / "photo.jpg")).astype(int)
    assert found.shape == (16, 32, 3)
    assert np.abs(found - np.asarray(upright).astype(int)).max() < 30


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels_of(32, 32)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF"])
def test_a_truncated_picture_is_a_data_error_that_names_it(tmp_path: Path, kind: str) -> None:
    whole, path = encoded(kind), tmp_path / "cut.img"
    for length in (0, 1, 10, 40, len(whole) // 2):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"cut\.img cannot be decoded"):
            open_image(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF"])
def test_a_corrupt_picture_is_read_or_a_data_error(tmp_path: Path, kind: str) -> None:
    whole, path, rng = encoded(kind), tmp_path / "bad.img", np.random.default_rng(0)
    texts = []
    for _ in range(60):
        bad = bytearray(whole)
        for position in rng.integers(0, min(len(whole), 200), 3):
            bad[position] = rng.integers(256)
        path.write_bytes(bad)
        try:
            open_image(path)
        except DataError as error:
            texts.append(str(error))
    assert texts
    assert all(str(path) in text for text in texts)


def test_a_picture_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.png does not exist"):
        open_image(tmp_path / "none.png")
    with pytest.raises(DataError, match=r"cannot be decoded. Got .*directory"):
        open_image(tmp_path)
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(DataError, match=r"text\.png cannot be decoded"):
        open_image(tmp_path / "text.png")


def empty_png(width: int, height: int) -> bytes:
    """Returns a PNG that claims a size and holds almost nothing."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_decompression_bomb_is_a_data_error(tmp_path: Path, side: int) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    assert limit is not None
    assert side**2 > limit, "the first only makes Pillow warn, the second makes it raise"
    (tmp_path / "bomb.png").write_bytes(empty_png(side, side))
    with pytest.raises(DataError, match=rf"bomb\.png is too large. Expected at most {limit} pixels. Scale it down"):
        open_image(tmp_path / "bomb.png")


def test_without_pillow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"'pillow'.* Run: pip install 'pocketvit\[litert\]'"):
        open_image(tmp_path / "a.png")
    with pytest.raises(MissingExtraError, match="pip install"):
        to_pixels(pixels_of(9, 9), tiny_preprocessing())
    spec = tiny_preprocessing()
    np.testing.assert_array_equal(preprocess(pixels_of(8, 8), spec), normalise(pixels_of(8, 8), spec))
