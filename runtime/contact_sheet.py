"""Sheets of pictures with predictions, with the nearest pictures, or with what a grid holds, drawn with Pillow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from runtime.pictures.preprocess import open_image, to_channels, to_image

from .errors import DataError, MissingExtraError
from .session import Prediction

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

    from .session import Picture

PICTURE, CAPTION, PADDING, GAP = 176, 66, 10, 12
CARD = (PICTURE + 2 * PADDING, PICTURE + CAPTION + 2 * PADDING)
"""Width and height of one picture with its caption, pixels."""

_PAPER, _WHITE, _EDGE, _TRACK = "#eef0f3", "#ffffff", "#d5d9e0", "#e3e6eb"
_INK, _FAINT, _PLAIN, _RIGHT, _WRONG = "#1c2430", "#5b6675", "#3a6fc4", "#1a8a4a", "#c93636"


def contact_sheet(
    images: Iterable[Picture],
    predictions: Sequence[Prediction],
    labels: Sequence[int | None] | None = None,
    *,
    columns: int = 5,
    class_names: Sequence[str] | None = None,
) -> Image.Image:
    """Draws a grid of pictures, each over its predicted class and confidence.

    Where the true class is known, the sheet shows it with a tick or cross and the loss in nats.

    Args:
        images: paths, Pillow images, or uint8 pixels, as ``Session.predict`` reads them.
        predictions: one for each image, in the same order.
        labels: the true class of each image, or none where it is not known.
        columns: pictures per row; fewer when there are fewer pictures.
        class_names: of all classes, to name the labels; without them a label that was not predicted shows
            as its number.

    Returns:
        An RGB picture.

    Raises:
        DataError: there is no image, an image cannot be read, the counts differ, a label is not a class, or
            ``columns`` is less than 1.
        MissingExtraError: Pillow is not installed.
    """
    images = list(images)
    _check_counts(len(images), predictions, labels, class_names, columns)
    try:
        from PIL import Image, ImageDraw
    except ImportError:
        raise MissingExtraError("pillow", "litert") from None

    known = dict(enumerate(class_names or ())) | {each.index: each.name for each in predictions}
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (GAP + columns * (CARD[0] + GAP), GAP + rows * (CARD[1] + GAP)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for position, (image, prediction) in enumerate(zip(images, predictions, strict=True)):
        left = GAP + position % columns * (CARD[0] + GAP)
        top = GAP + position // columns * (CARD[1] + GAP)
        label = None if labels is None else labels[position]
        picture = _opened(image)
        draw.rounded_rectangle((left, top, left + CARD[0] - 1, top + CARD[1] - 1), 8, _WHITE, _EDGE)
        _draw_picture(sheet, draw, picture, (left + PADDING, top + PADDING))
        _draw_caption(draw, prediction, label, known, (left + PADDING, top + PADDING + PICTURE))
    return sheet


def neighbour_sheet(
    images: Sequence[Picture], vectors: npt.NDArray[np.float32], *, captions: Sequence[str], nearest: int = 4
) -> Image.Image:
    """Draws each picture in a row with those nearest to it, over their names and the cosines of their vectors.

    Args:
        images: paths, Pillow images, or uint8 pixels, as ``Session.values`` reads them; at least two.
        vectors: the vector of each image, ``(N, D)``.
        captions: the name of each image.
        nearest: pictures beside each one; fewer where there are fewer.

    Returns:
        An RGB picture.

    Raises:
        DataError: there are fewer than two images, an image cannot be read, or the counts differ.
        MissingExtraError: Pillow is not installed.
    """
    if len(images) < 2:
        raise DataError("The nearest picture is looked for among several", expected="2 or more", got=len(images))
    if not len(images) == len(vectors) == len(captions) or vectors.ndim != 2:
        raise DataError("Images, vectors and captions differ in number", expected=len(images), got=vectors.shape)
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise MissingExtraError("pillow", "litert") from None

    order, cosines = nearest_vectors(vectors, nearest)
    columns, bold, small = 1 + order.shape[1], ImageFont.load_default(15), ImageFont.load_default(12)
    width, height = GAP + columns * (CARD[0] + GAP), GAP + len(images) * (CARD[1] + GAP)
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for row in range(len(images)):
        for column, at in enumerate((row, *order[row].tolist())):
            left, top = GAP + column * (CARD[0] + GAP), GAP + row * (CARD[1] + GAP)
            draw.rounded_rectangle((left, top, left + CARD[0] - 1, top + CARD[1] - 1), 8, _WHITE, _EDGE)
            _draw_picture(sheet, draw, _opened(images[at]), (left + PADDING, top + PADDING))
            below = top + PADDING + PICTURE
            draw.text((left + PADDING, below + 9), _elided(draw, captions[at], bold, PICTURE), _INK, bold)
            text = f"cosine {cosines[row, column - 1]:.3f}" if column else "nearest pictures:"
            draw.text((left + PADDING, below + 31), text, _FAINT, small)
    return sheet


def component_sheet(
    images: Sequence[Picture], grids: npt.NDArray[np.float32], *, captions: Sequence[str], columns: int = 2
) -> Image.Image:
    """Draws each picture beside the first three principal components of its patches, as red, green and blue.

    Args:
        images: what the model saw: uint8 pixels of its own size.
        grids: the grid of each image, ``(N, rows, columns, D)``.
        captions: the name of each image.
        columns: pairs per row; fewer where there are fewer pictures.

    Returns:
        An RGB picture.

    Raises:
        DataError: there is no image, an image cannot be read, or the counts differ.
        MissingExtraError: Pillow is not installed.
    """
    if not len(images) == len(grids) == len(captions) > 0 or grids.ndim != 4:
        raise DataError("Images, grids and captions differ in number", expected=len(images), got=grids.shape)
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise MissingExtraError("pillow", "litert") from None

    colours, columns, bold = grid_colours(grids), min(columns, len(images)), ImageFont.load_default(15)
    rows, pair, tall = -(-len(images) // columns), 2 * (PICTURE + PADDING) + PADDING, PICTURE + 2 * PADDING + 30
    sheet = Image.new("RGB", (GAP + columns * (pair + GAP), GAP + rows * (tall + GAP)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for position, (image, colour) in enumerate(zip(images, colours, strict=True)):
        left, top = GAP + position % columns * (pair + GAP), GAP + position // columns * (tall + GAP)
        draw.rounded_rectangle((left, top, left + pair - 1, top + tall - 1), 8, _WHITE, _EDGE)
        picture, at = _opened(image), left + 2 * PADDING + PICTURE
        _draw_picture(sheet, draw, picture, (left + PADDING, top + PADDING))
        _draw_picture(sheet, draw, Image.fromarray(colour), (at, top + PADDING), picture.size)
        text = _elided(draw, captions[position], bold, pair - 2 * PADDING)
        draw.text((left + PADDING, top + PADDING + PICTURE + 9), text, _INK, bold)
    return sheet


def grid_colours(grids: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Returns the first three principal components of all patches as colours ``(N, rows, columns, 3)`` uint8.

    Each component fills the range from its 1st to its 99th percentile over all grids. Its largest value in size is
    bright, since a component has no sign of its own.

    Args:
        grids: ``(N, rows, columns, D)``.

    Ref: Oquab et al. 2023 (DINOv2, arXiv 2304.07193), figure 1.
    """
    patches = grids.reshape(-1, grids.shape[-1]).astype(np.float64)
    patches -= patches.mean(axis=0)
    _, axes = np.linalg.eigh(patches.T @ patches)
    found = np.zeros((len(patches), 3))
    found[:, : min(3, patches.shape[1])] = patches @ axes[:, ::-1][:, :3]
    found *= np.where(np.take_along_axis(found, np.abs(found).argmax(axis=0)[None], axis=0) < 0, -1, 1)
    low, high = np.percentile(found, 1, axis=0), np.percentile(found, 99, axis=0)
    share = np.where(high - low > 1e-12, (found - low) / np.maximum(high - low, 1e-12), 0.5)
    return (255 * np.clip(share, 0, 1)).round().astype(np.uint8).reshape(*grids.shape[:-1], 3)


def nearest_vectors(
    vectors: npt.NDArray[np.float32], count: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Returns for each vector the numbers of the others with the greatest cosines, and the cosines.

    Args:
        vectors: ``(N, D)``, N at least 2.
        count: vectors to return for each, at least 1; fewer where there are fewer.

    Returns:
        Numbers and cosines, both ``(N, min(count, N - 1))``, the greatest cosine first.
    """
    real = vectors.astype(np.float64)
    real /= np.maximum(np.linalg.norm(real, axis=1, keepdims=True), 1e-30)
    cosines = real @ real.T
    np.fill_diagonal(cosines, -np.inf)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, : min(count, len(vectors) - 1)]
    return order, np.take_along_axis(cosines, order, axis=1)


def _opened(image: Picture) -> Image.Image:
    return to_channels(open_image(Path(image)) if isinstance(image, (str, Path)) else to_image(image), 3)


def _check_counts(
    count: int,
    predictions: Sequence[Prediction],
    labels: Sequence[int | None] | None,
    class_names: Sequence[str] | None,
    columns: int,
) -> None:
    if count == 0:
        raise DataError("A contact sheet needs at least one image", got="none")
    if columns < 1:
        raise DataError("columns must be at least 1", got=columns)
    if len(predictions) != count:
        raise DataError("Images and predictions differ in number", expected=count, got=len(predictions))
    if labels is not None and len(labels) != count:
        raise DataError("Images and labels differ in number", expected=count, got=len(labels))
    classes = len(predictions[0].logits)
    if class_names is not None and len(class_names) != classes:
        raise DataError("Class names and logits differ in number", expected=classes, got=len(class_names))


def _draw_picture(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    image: Image.Image,
    corner: tuple[int, int],
    shape: tuple[int, int] | None = None,
) -> None:
    """Fits the picture into its square: whole pixels for a tiny one, so that it stays what the model saw.

    With ``shape`` it is stretched to where a picture of that width and height would be.
    """
    from PIL.Image import Resampling

    longest = max(image.size if shape is None else shape)
    if shape is not None:
        scale = PICTURE // longest if longest <= PICTURE else PICTURE / longest
        image = image.resize((max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))), Resampling.NEAREST)
    elif longest <= PICTURE:
        size = tuple(side * (PICTURE // longest) for side in image.size)
        image = image.resize((size[0], size[1]), Resampling.NEAREST)
    else:
        scale = PICTURE / longest
        image = image.resize(
            (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Resampling.LANCZOS
        )
    left, top = corner
    draw.rectangle((left, top, left + PICTURE - 1, top + PICTURE - 1), _PAPER)
    sheet.paste(image, (left + (PICTURE - image.width) // 2, top + (PICTURE - image.height) // 2))


def _draw_caption(
    draw: ImageDraw.ImageDraw,
    prediction: Prediction,
    label: int | None,
    known: dict[int, str],
    corner: tuple[int, int],
) -> None:
    """Writes name, confidence and, where the label is known, verdict, true class and loss below a picture."""
    from PIL import ImageFont

    bold, small = ImageFont.load_default(15), ImageFont.load_default(12)
    left, top = corner
    right = left + PICTURE
    colour, room = _PLAIN, PICTURE
    if label is not None:
        colour, room = (_RIGHT if label == prediction.index else _WRONG), PICTURE - 22
        _draw_verdict(draw, label == prediction.index, (right - 15, top + 10), colour)
    draw.text((left, top + 9), _elided(draw, prediction.name, bold, room), _INK, bold)

    percent = f"{100 * prediction.confidence:.1f} %"
    bar_right = right - 52
    draw.text((right, top + 29), percent, _FAINT, small, anchor="ra")
    draw.rounded_rectangle((left, top + 33, bar_right, top + 39), 3, _TRACK)
    filled = round((bar_right - left) * min(max(prediction.confidence, 0.0), 1.0))
    if filled >= 2:
        draw.rounded_rectangle((left, top + 33, left + filled, top + 39), 3, colour)

    if label is not None:
        loss = f"{prediction.cross_entropy(label):.2f} nats"
        draw.text((right, top + 48), loss, _FAINT, small, anchor="ra")
        room = int(PICTURE - draw.textlength(loss, small) - 8)
        truth = f"true: {known.get(label, f'class {label}')}"
        draw.text((left, top + 48), _elided(draw, truth, small, room), _FAINT, small)


def _draw_verdict(draw: ImageDraw.ImageDraw, right: bool, corner: tuple[int, int], colour: str) -> None:
    """Draws a tick or a cross, 14 pixels wide; lines, because few fonts hold these signs."""
    x, y = corner
    if right:
        draw.line([(x + 1, y + 8), (x + 5, y + 12), (x + 13, y + 2)], colour, 3, joint="curve")
    else:
        draw.line([(x + 2, y + 2), (x + 12, y + 12)], colour, 3)
        draw.line([(x + 12, y + 2), (x + 2, y + 12)], colour, 3)


def _elided(draw: ImageDraw.ImageDraw, text: str, font: Any, room: int) -> str:
    """Returns ``text`` on one line, cut with an ellipsis where it is wider than ``room`` pixels."""
    text = " ".join(text[:200].split())
    if draw.textlength(text, font) <= room:
        return text
    while text and draw.textlength(text + "…", font) > room:
        text = text[:-1]
    return text.rstrip() + "…"
