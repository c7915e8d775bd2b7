"""Data read without labels: no label is opened, splits are random, and class names come from elsewhere."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torchvision
from PIL import Image

from compress.data import SOURCES, named_data
from compress.data.base import Source
from compress.data.data_list import list_data
from compress.data.dataset import UNLABELLED, Dataset, FileImages
from compress.data.load import load_data
from compress.data.search_images import draw_search_images
from compress.data.splits import UNLABELLED_CLASSES, random_set, search_set, stratified
from runtime import DataError
from tests.compress.tiny import SPEC, toy_data

from .test_load import write_fashion

SEED = 3


def refusal(name: str, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        load_data(name, **options)
    return str(caught.value)


def picture(path: Path, value: int, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (6, 6), (value, 0, 0) if mode == "RGB" else value).save(path)
    return path


def assert_no_labels(data: Dataset) -> None:
    assert data.labels.tolist() == [UNLABELLED] * len(data.images)
    assert data.class_names == ()
    assert not data.labelled
    assert sorted(np.concatenate([data.train, data.held_out, data.test]).tolist()) == list(range(len(data.images)))


def test_fashion_mnist_without_labels_never_opens_a_file_of_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_fashion(tmp_path)
    read = named_data.read_idx

    def watched(path: Path) -> Any:
        assert "labels" not in path.name, "a file of labels was opened"
        return read(path)

    monkeypatch.setattr(named_data, "read_idx", watched)
    with pytest.raises(AssertionError, match="was opened"):
        load_data(f"fashion-mnist:{tmp_path}")
    for file in tmp_path.glob("*labels*"):
        file.unlink()
    data = load_data(f"fashion-mnist:{tmp_path}", labels=False, seed=SEED)
    assert_no_labels(data)
    assert (len(data.train), len(data.held_out), data.test.tolist()) == (72, 8, list(range(80, 100)))
    assert data.mirror
    assert "does not hold Fashion-MNIST" in refusal(f"fashion-mnist:{tmp_path}")


def test_cifar_without_labels_never_looks_at_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Part:
        base_folder = "there"

        def __init__(self, root: str, train: bool, download: bool) -> None:
            self.data = np.zeros((30 if train else 20, 32, 32, 3), np.uint8)

        @property
        def targets(self) -> list[int]:
            raise AssertionError("labels were looked at")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Part)
    with pytest.raises(AssertionError, match="looked at"):
        load_data(f"cifar10:{tmp_path}")
    data = load_data(f"cifar10:{tmp_path}", labels=False)
    assert_no_labels(data)
    assert data.test.tolist() == list(range(30, 50))


def test_digits_without_labels_are_the_same_pictures() -> None:
    data, labelled = load_data("digits", labels=False, seed=SEED), load_data("digits", seed=SEED)
    assert_no_labels(data)
    assert not data.mirror
    assert np.array_equal(np.asarray(data.images[5]), np.asarray(labelled.images[5]))
    assert not np.array_equal(data.test, labelled.test), "a random split is not the stratified one"
    assert np.array_equal(data.test, load_data("digits", labels=False, seed=SEED).test)


def test_an_image_folder_without_labels_keeps_its_splits_and_no_class(tmp_path: Path) -> None:
    for split, count in (("train", 8), ("val", 2), ("test", 3)):
        for label in ("cat", "dog"):
            for n in range(count):
                picture(tmp_path / split / label / f"{n}.png", 10 * n)
    picture(tmp_path / "stray.png", 3)
    data = load_data(f"imagefolder:{tmp_path}", labels=False)
    assert data.labels.tolist() == [UNLABELLED] * 27
    assert data.class_names == ()
    assert isinstance(data.images, FileImages)
    for indices, split, count in ((data.train, "train", 16), (data.held_out, "val", 4), (data.test, "test", 6)):
        assert len(indices) == count
        assert {data.images.names[i].split("/")[0] for i in indices} == {split}
    assert "1 outside the splits are left out" in data.notes[0]
    assert list_data(data).class_names == ()
    assert "no classes to order" in refusal(f"imagefolder:{tmp_path}", labels=False, class_order="natural")


def test_copies_in_training_and_test_are_a_warning_without_labels_too(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for n in range(12):
            picture(tmp_path / split / "cat" / f"{n}.png", 10 * n + 100 * (split == "test" and n > 0))
    (warning,) = load_data(f"imagefolder:{tmp_path}", labels=False).warnings
    assert "the agreement is better than it would be on new images" in warning


def test_an_image_folder_without_splits_is_split_by_seed(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        for n in range(10):
            picture(tmp_path / label / f"{n}.png", 10 * n)
    data = load_data(f"imagefolder:{tmp_path}", labels=False)
    assert_no_labels(data)
    assert (len(data.train), len(data.held_out), len(data.test)) == (14, 2, 4)


def test_unlabelled_pictures_are_found_at_any_depth(tmp_path: Path) -> None:
    for n in range(20):
        picture(tmp_path / ("a/b/c" if n % 2 else "") / f"{n}.png", 5 * n)
    data = load_data(f"unlabelled:{tmp_path}", seed=SEED)
    assert_no_labels(data)
    assert (data.channels, data.size, data.mirror, data.from_files) == (3, None, True, True)
    assert (len(data.train), len(data.held_out), len(data.test)) == (14, 2, 4)
    assert data.notes == ("20 pictures without labels (colour), split by seed.",)
    assert not np.array_equal(data.test, load_data(f"unlabelled:{tmp_path}", seed=SEED + 1).test)
    some = load_data(f"unlabelled:{tmp_path}", seed=SEED, train_limit=5)
    assert len(some.train) == 5
    assert set(some.train) <= set(data.train)


def test_gray_unlabelled_pictures_have_one_channel_and_bad_ones_are_left_out(tmp_path: Path) -> None:
    for n in range(12):
        picture(tmp_path / f"{n}.png", 5 * n, "L")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    assert "bad.png" in refusal(f"unlabelled:{tmp_path}")
    data = load_data(f"unlabelled:{tmp_path}", skip_bad=True)
    assert data.channels == 1
    assert len(data.images) == 12


def test_what_is_no_folder_of_pictures_is_refused(tmp_path: Path) -> None:
    assert "does not exist. Change --data" in refusal(f"unlabelled:{tmp_path / 'none'}")
    assert "holds no pictures" in refusal(f"unlabelled:{tmp_path}")
    for n in range(9):
        picture(tmp_path / f"{n}.png", 5 * n)
    text = refusal(f"unlabelled:{tmp_path}")
    assert "is too small to split. Expected 10 pictures or more to train on. Got 9." in text
    assert "unlabelled needs a path. Expected --data unlabelled:PATH." in refusal("unlabelled")
    assert "no classes to order" in refusal(f"unlabelled:{tmp_path}", class_order="text")


def test_labels_of_a_source_that_cannot_leave_them_out_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES._things, "toy", Source("toy", lambda *_: toy_data(60)))
    data = load_data("toy", labels=False)
    assert_no_labels(data)
    assert len(data.test) == 15


def test_a_random_set_is_a_fresh_draw_whatever_the_labels() -> None:
    data = toy_data(300)
    drawn = random_set(data, 40, seed=0)
    assert len(set(drawn)) == 40
    assert set(drawn) <= set(data.train)
    assert np.array_equal(drawn, random_set(data, 40, seed=0))
    assert set(drawn) != set(random_set(data, 40, seed=1))
    assert sorted(random_set(data, 10_000, seed=0)) == data.train.tolist()
    assert np.array_equal(drawn, random_set(data.without_labels, 40, seed=0))


def test_a_search_set_without_labels_is_random(monkeypatch: pytest.MonkeyPatch) -> None:
    data = toy_data(300).without_labels
    assert np.array_equal(search_set(data, 2, 7), random_set(data, 2 * UNLABELLED_CLASSES, 7))
    images = draw_search_images(
        data, SPEC, SimpleNamespace(crop_area=(1, 1), mirror=0.0, jitter=0.0), per_class=2, seed=7, iteration=0
    )
    assert len(images) == 2 * UNLABELLED_CLASSES
    assert len(images.spread(11)) == 11


def test_pictures_without_labels_count_as_one_class() -> None:
    labels = np.full(1000, UNLABELLED)
    chosen = stratified(labels, np.arange(1000), 100, np.random.default_rng(0))
    assert len(set(chosen)) == 100
    assert chosen.max() > 900 > 100 > chosen.min()
