"""What names of folders mean; pure, so each layout is a list of paths."""

from __future__ import annotations

import pytest

from compress.data.folder_layout import Layout, recognise
from runtime import DataError


def layout(*paths: str) -> Layout:
    """Recognises paths; one that ends with a slash is an empty folder."""
    pictures = [tuple(path.split("/")) for path in paths if not path.endswith("/")]
    named = [*(parts[:-1] for parts in pictures), *(tuple(path[:-1].split("/")) for path in paths if path[-1] == "/")]
    folders = {parts[:depth] for parts in named for depth in range(1, len(parts) + 1)}
    return recognise(pictures, folders, "photos")


def splits(*paths: str) -> list[tuple[str, str]]:
    return [(own.role, own.folder) for own in layout(*paths).splits]


def refusal(*paths: str) -> str:
    with pytest.raises(DataError) as caught:
        layout(*paths)
    return str(caught.value)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("train", "val"), ("Train", "Val"), ("TRAIN", "VALID"), ("train", "valid"), ("train", "validation"),
        ("training", "testing"), ("training", "validation"), ("train", "test"), ("Training", "Test"),
    ],
)  # fmt: skip
def test_two_splits_are_training_and_test_whatever_they_are_called(first: str, second: str) -> None:
    assert splits(f"{first}/a/1.png", f"{first}/b/1.png", f"{second}/a/2.png") == [("train", first), ("test", second)]


@pytest.mark.parametrize("middle", ["val", "valid", "Validation"])
def test_of_three_splits_the_validation_pictures_are_held_out(middle: str) -> None:
    found = layout("train/a/1.png", "train/b/1.png", f"{middle}/a/2.png", "test/b/3.png")
    assert [(own.role, own.folder) for own in found.splits] == [
        ("train", "train"), ("held_out", middle), ("test", "test"),
    ]  # fmt: skip
    assert (found.classes, found.left_out) == (("a", "b"), {})


def test_a_folder_without_splits_is_classes() -> None:
    found = layout("cat/1.png", "cat/deeper/2.png", "dog/1.png", "stray.png")
    assert [(own.role, own.folder) for own in found.splits] == [("train", "")]
    assert (found.classes, found.left_out) == (("cat", "dog"), {"in no class folder": 1})


@pytest.mark.parametrize("name", ["train", "Test", "validation"])
def test_a_class_may_be_called_like_a_split(name: str) -> None:
    found = layout(f"{name}/1.png", f"{name}/2.png", "bus/1.png", "car/1.png")
    assert [own.folder for own in found.splits] == [""]
    assert found.classes == tuple(sorted((name, "bus", "car")))


def test_a_class_called_train_with_folders_of_its_own() -> None:
    assert layout("train/1.png", "train/steam/2.png", "bus/1.png").classes == ("bus", "train")


def test_classes_called_like_splits_inside_of_splits() -> None:
    found = layout("train/train/1.png", "train/bus/1.png", "test/train/2.png", "test/bus/2.png")
    assert [own.role for own in found.splits] == ["train", "test"]
    assert found.classes == ("bus", "train")


def test_what_lies_beside_the_splits_is_counted() -> None:
    found = layout(
        "train/a/1.png", "train/b/1.png", "val/a/1.png", "extra/x/1.png", "extra/2.png", "train/3.png", "4.png"
    )
    assert found.left_out == {"in no class folder": 2, "in extra/, outside the splits": 2}


def test_test_pictures_without_classes_are_counted_and_left_out() -> None:
    found = layout("train/a/1.png", "train/b/1.png", "val/a/1.png", "test/1.png", "test/2.png")
    assert [(own.role, own.folder) for own in found.splits] == [("train", "train"), ("test", "val")]
    assert found.left_out == {"in test/, outside the splits": 2}


@pytest.mark.parametrize(
    ("paths", "texts"),
    [
        ((), ("photos holds no classes",)),
        (("1.png", "2.png"), ("photos holds no classes",)),
        # two folders for one thing
        (("train/a/1.png", "val/a/1.png", "validation/a/1.png"), ("val/ and validation/", "one of them alone")),
        (("train/a/1.png", "Train/a/1.png", "val/a/1.png"), ("Train/ and train/",)),
        (("train/a/1.png", "training/a/1.png", "test/a/1.png"), ("train/ and training/",)),
        # half a split
        (("train/a/1.png", "train/b/1.png"), ("has train/ but no val/ or test/", "photos/train alone")),
        (("val/a/1.png", "val/b/1.png"), ("has val/ but no train/",)),
        # could be either
        (("train/a/1.png", "bus/1.png"), ("read in two ways", "train/ may be a split, or a class like bus")),
        (("test/a/1.png", "a/1.png", "b/1.png"), ("read in two ways", "test/ may be")),
        # no classes in the splits
        (("train/1.png", "val/1.png"), ("train/ and val/ in photos hold pictures directly",)),
        (("train/1.png", "val/a/1.png", "val/b/1.png"), ("class folders in val/, and pictures without", "in train/")),
        # splits inside of classes would mix training and test
        (("cat/train/1.png", "cat/test/2.png", "dog/train/1.png", "dog/test/2.png"), ("cat/ of photos holds test/",)),
        # a folder around everything
        (("archive/train/a/1.png", "archive/val/a/1.png"), ("photos holds archive/ alone", "Give photos/archive")),
        (("archive/cat/1.png", "archive/dog/1.png"), ("one folder alone, archive/", "Give photos/archive")),
        # other names of classes
        (("train/a/1.png", "train/b/1.png", "val/z/1.png"), ("classes that train/ has not. Got z",)),
        (("train/Cat/1.png", "train/b/1.png", "val/cat/1.png"), ("Got cat. cat is spelt Cat there",)),
    ],
)  # fmt: skip
def test_what_can_be_read_in_two_ways_is_refused(paths: tuple[str, ...], texts: tuple[str, ...]) -> None:
    said = refusal(*paths)
    for text in texts:
        assert text in said


def test_an_empty_split_beside_a_full_one_does_not_count() -> None:
    assert splits("train/a/1.png", "train/b/1.png", "val/", "test/a/1.png") == [("train", "train"), ("test", "test")]
