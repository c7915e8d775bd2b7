from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runtime import (
    DataError,
    MissingExtraError,
    Prediction,
    component_sheet,
    contact_sheet,
    nearest_vectors,
    neighbour_sheet,
    softmax,
)
from runtime.contact_sheet import CARD, GAP, PADDING, PICTURE, grid_colours

NAMES = ("tench", "hen", "a class of a name so long that it cannot be shown in whole beside its verdict")


def prediction(index: int, strength: float = 2.0, name: str | None = None) -> Prediction:
    logits = np.zeros(3, np.float32)
    logits[index] = strength
    return Prediction(index, NAMES[index] if name is None else name, float(softmax(logits)[index]), logits)


def pictures(count: int) -> list[Any]:
    return [np.full((8, 8, 3), 40 * i, np.uint8) for i in range(count)]


def cell(sheet: Image.Image, column: int, row: int) -> np.ndarray[Any, Any]:
    left, top = GAP + column * (CARD[0] + GAP), GAP + row * (CARD[1] + GAP)
    return np.asarray(sheet.crop((left, top, left + CARD[0], top + CARD[1])))


def changed_cells(first: Image.Image, second: Image.Image, columns: int, rows: int) -> list[tuple[int, int]]:
    assert first.size == second.size
    return [
        (column, row)
        for row in range(rows)
        for column in range(columns)
        if not np.array_equal(cell(first, column, row), cell(second, column, row))
    ]


@pytest.mark.parametrize(
    ("count", "columns", "grid"), [(1, 5, (1, 1)), (5, 5, (5, 1)), (6, 5, (5, 2)), (4, 1, (1, 4)), (3, 2, (2, 2))]
)
def test_the_sheet_is_as_large_as_its_grid(count: int, columns: int, grid: tuple[int, int]) -> None:
    sheet = contact_sheet(pictures(count), [prediction(0)] * count, columns=columns)
    assert sheet.mode == "RGB"
    assert sheet.size == (GAP + grid[0] * (CARD[0] + GAP), GAP + grid[1] * (CARD[1] + GAP))


def test_each_prediction_is_drawn_in_its_own_cell() -> None:
    plain = [prediction(0)] * 6
    before = contact_sheet(pictures(6), plain, columns=3)
    for position in range(6):
        for other in (prediction(1), prediction(0, 0.5)):
            after = contact_sheet(pictures(6), [*plain[:position], other, *plain[position + 1 :]], columns=3)
            assert changed_cells(before, after, 3, 2) == [(position % 3, position // 3)]


def test_each_label_is_drawn_in_its_own_cell() -> None:
    predictions = [prediction(0)] * 3
    without = contact_sheet(pictures(3), predictions)
    right = contact_sheet(pictures(3), predictions, [None, 0, None])
    wrong = contact_sheet(pictures(3), predictions, [None, 1, None])
    assert changed_cells(without, right, 3, 1) == [(1, 0)]
    assert changed_cells(right, wrong, 3, 1) == [(1, 0)]
    assert not changed_cells(without, contact_sheet(pictures(3), predictions, [None] * 3), 3, 1)


def coloured(pixels: np.ndarray[Any, Any], channel: int) -> int:
    """Counts pixels of the caption where one of red (0) and green (1) clearly leads."""
    caption = pixels[PADDING + PICTURE :].astype(int)
    return int((caption[:, :, channel] - caption[:, :, 1 - channel] > 60).sum())


def test_right_is_green_and_wrong_is_red() -> None:
    sheet = contact_sheet(pictures(2), [prediction(0)] * 2, [0, 1])
    right, wrong = cell(sheet, 0, 0), cell(sheet, 1, 0)
    assert coloured(right, 1) > 100 > coloured(right, 0)
    assert coloured(wrong, 0) > 100 > coloured(wrong, 1)


def test_the_bar_grows_with_confidence() -> None:
    sheets = [contact_sheet(pictures(1), [prediction(0, s)], [0]) for s in (0.0, 1.0, 2.0, 20.0)]
    lengths = [coloured(cell(sheet, 0, 0), 1) for sheet in sheets]
    assert lengths == sorted(set(lengths))


def test_the_loss_and_the_name_of_the_label_are_drawn() -> None:
    images = pictures(1)
    sure, unsure = prediction(0, 3.0), prediction(0, 2.0)
    same_confidence = Prediction(0, sure.name, sure.confidence, unsure.logits)
    assert changed_cells(contact_sheet(images, [sure], [1]), contact_sheet(images, [same_confidence], [1]), 1, 1)
    numbered = contact_sheet(images, [sure], [1])
    named = contact_sheet(images, [sure], [1], class_names=NAMES)
    renamed = contact_sheet(images, [sure], [1], class_names=("a", "b", "c"))
    assert changed_cells(numbered, named, 1, 1)
    assert changed_cells(named, renamed, 1, 1)


def shown(image: Any) -> np.ndarray[Any, Any]:
    """Returns the square in which the only picture of a sheet stands."""
    square = cell(contact_sheet([image], [prediction(0)]), 0, 0)
    return square[PADDING : PADDING + PICTURE, PADDING : PADDING + PICTURE]


def test_a_tiny_picture_is_enlarged_pixel_by_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    step = PICTURE // 8
    np.testing.assert_array_equal(shown(pixels), np.kron(pixels, np.ones((step, step, 1), np.uint8)))


@pytest.mark.parametrize("size", [(1000, 400), (400, 1000), (3000, 1), (1, 3000), (PICTURE, 10), (PICTURE + 1, 10)])
def test_a_large_picture_fits(size: tuple[int, int]) -> None:
    square = shown(Image.new("RGB", size, (255, 0, 0)))
    red = (square == (255, 0, 0)).all(2)
    assert red.any(0 if size[0] >= size[1] else 1).all(), "the longer side spans the square"
    sheet = np.asarray(contact_sheet([Image.new("RGB", size, (255, 0, 0))], [prediction(0)]))
    assert (sheet == (255, 0, 0)).all(2).sum() == red.sum(), "and nothing of it stands elsewhere"


def test_every_kind_of_picture_is_drawn(tmp_path: Path) -> None:
    gray = np.full((8, 8), 200, np.uint8)
    Image.fromarray(gray).save(tmp_path / "a.png")
    sources = [gray, gray[:, :, None], Image.fromarray(gray), tmp_path / "a.png", str(tmp_path / "a.png")]
    for source in [*sources, np.dstack([gray] * 3), Image.new("RGBA", (8, 8), (200, 200, 200, 9))]:
        assert (shown(source) == 200).all()


@pytest.mark.parametrize(
    "name",
    ["", " ", "x" * 100_000, "кошка", "猫" * 60, "🐈\u200d⬛", "two\nlines\tand a tab", "\0", "a\u0301" * 99, "مرحبا"],
)
def test_any_name_is_drawn_inside_its_cell(name: str) -> None:
    blank = contact_sheet(pictures(4), [prediction(0)] * 4, [0] * 4, columns=2)
    named = [prediction(0, name=name), *[prediction(0)] * 3]
    # The first picture's label is class 1, so that only its own caption can change.
    before = contact_sheet(pictures(4), [prediction(0)] * 4, [1, None, None, None], columns=2)
    after = contact_sheet(pictures(4), named, [1, None, None, None], columns=2)
    assert changed_cells(before, after, 2, 2) == [(0, 0)]
    gaps = np.asarray(after).copy(), np.asarray(blank).copy()
    for array in gaps:
        for row in range(2):
            for column in range(2):
                left, top = GAP + column * (CARD[0] + GAP), GAP + row * (CARD[1] + GAP)
                array[top : top + CARD[1], left : left + CARD[0]] = 0
    np.testing.assert_array_equal(gaps[0], gaps[1])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"images": []}, "at least one image. Got none"),
        ({"images": [], "predictions": []}, "at least one image. Got none"),
        ({"predictions": [prediction(0)]}, "Images and predictions differ in number. Expected 2. Got 1"),
        ({"labels": [0]}, "Images and labels differ in number. Expected 2. Got 1"),
        ({"labels": [0, 3]}, "No such class. Expected 0 to 2. Got 3"),
        ({"labels": [-1, 0]}, "No such class"),
        ({"columns": 0}, "columns must be at least 1. Got 0"),
        ({"class_names": ["a"]}, "Class names and logits differ in number. Expected 3. Got 1"),
        ({"images": [np.zeros((8, 8, 4), np.uint8)] * 2}, "An image array does not fit"),
        ({"images": [None, None]}, "not an image"),
        ({"images": ["none.png"] * 2}, "none.png does not exist"),
    ],
)
def test_what_does_not_fit_is_a_data_error(changes: dict[str, Any], text: str) -> None:
    arguments: dict[str, Any] = {"images": pictures(2), "predictions": [prediction(0)] * 2}
    with pytest.raises(DataError, match=text):
        contact_sheet(**(arguments | changes))


def test_images_are_not_changed() -> None:
    picture = Image.new("RGB", (300, 300), "red")
    array = np.zeros((8, 8, 3), np.uint8)
    contact_sheet([picture, array], [prediction(0)] * 2, [0, 1])
    assert picture.size == (300, 300)
    assert not array.any()


def test_without_pillow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match="'pillow'"):
        contact_sheet(pictures(1), [prediction(0)])


def test_the_nearest_vectors_are_those_with_the_greatest_cosines() -> None:
    vectors = np.array([[1, 0], [10, 1], [0, 1], [0, 0]], np.float32)
    order, cosines = nearest_vectors(vectors, 2)
    assert order[0].tolist() == [1, 2]
    assert order[2].tolist() == [1, 0]
    assert cosines[0] == pytest.approx([10 / 101**0.5, 0])
    assert nearest_vectors(vectors, 9)[0].shape == (4, 3)
    assert cosines[3].tolist() == [0, 0]


def test_each_picture_is_drawn_beside_those_nearest_to_it() -> None:
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    images = [np.full((20, 20, 3), colour, np.uint8) for colour in colours]
    vectors = np.array([[1, 0], [0, 1], [1, 0.1]], np.float32)
    sheet = np.asarray(neighbour_sheet(images, vectors, captions=["red", "green", "blue"]))
    assert sheet.shape == (GAP + 3 * (CARD[1] + GAP), GAP + 3 * (CARD[0] + GAP), 3)

    def colour_at(row: int, column: int) -> tuple[int, ...]:
        top, left = GAP + row * (CARD[1] + GAP), GAP + column * (CARD[0] + GAP)
        return tuple(int(own) for own in sheet[top + CARD[0] // 2, left + CARD[0] // 2])

    assert [[colour_at(row, column) for column in range(3)] for row in range(3)] == [
        [colours[0], colours[2], colours[1]],
        [colours[1], colours[2], colours[0]],
        [colours[2], colours[0], colours[1]],
    ]
    with pytest.raises(DataError, match="looked for among several"):
        neighbour_sheet(images[:1], vectors[:1], captions=["red"])
    with pytest.raises(DataError, match="differ in number"):
        neighbour_sheet(images, vectors[:2], captions=["red", "green", "blue"])


def test_alike_patches_have_one_colour_in_all_pictures_and_others_another() -> None:
    kinds = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)
    which = np.random.default_rng(1).integers(0, 4, (3, 5, 7))
    colours = grid_colours(kinds[which])
    assert colours.shape == (3, 5, 7, 3)
    of_kind = [np.unique(colours[which == kind], axis=0) for kind in range(4)]
    assert [len(found) for found in of_kind] == [1] * 4
    assert len(np.unique(np.concatenate(of_kind), axis=0)) == 4
    assert (grid_colours(np.ones((1, 2, 2, 2), np.float32)) == 128).all()


def test_a_grid_is_drawn_beside_what_the_model_saw() -> None:
    grids = np.random.default_rng(0).standard_normal((3, 2, 4, 8)).astype(np.float32)
    seen = [np.full((16, 32, 3), 90, np.uint8)] * 3
    sheet = np.asarray(component_sheet(seen, grids, captions=["a", "b", "c"]))
    colours = grid_colours(grids)
    left, top = GAP + 2 * PADDING + PICTURE, GAP + PADDING
    width, height = 5 * 32, 5 * 16
    corner = left + (PICTURE - width) // 2, top + (PICTURE - height) // 2
    for row in range(2):
        for column in range(4):
            at = corner[1] + 40 * row + 20, corner[0] + 40 * column + 20
            assert tuple(sheet[at]) == tuple(colours[0, row, column])
    with pytest.raises(DataError, match="Images, grids and captions differ in number"):
        component_sheet(seen[:2], grids, captions=["a", "b"])
