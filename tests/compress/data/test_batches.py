from __future__ import annotations

from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compress.data import batches as loading
from compress.data.augment import Augmentation, augmentation_for
from compress.data.batches import plain_batches, training_batches
from compress.data.dataset import Dataset
from compress.data.load import load_data
from runtime import Preprocessing, preprocess
from tests.compress.tiny import SPEC, mirrored, toy_data

Batches = list[tuple[torch.Tensor, torch.Tensor]]
NO_CHANGE = Augmentation(crop_area=(1.0, 1.0), mirror=0.0, jitter=0.0)


def epoch(data: Dataset, seed: int = 0, number: int = 0, skip: int = 0, size: int = 8) -> Batches:
    batches = training_batches(
        data, data.train, SPEC, augmentation_for(data), batch_size=size, seed=seed, epoch=number, skip=skip
    )
    return list(batches)


def assert_same(a: Batches, b: Batches) -> None:
    assert len(a) == len(b) > 0
    for (x, y), (other_x, other_y) in zip(a, b, strict=True):
        assert torch.equal(x, other_x)
        assert torch.equal(y, other_y)


def sorted_pictures(batches: Batches) -> list[bytes]:
    return sorted(picture.numpy().tobytes() for images, _ in batches for picture in images)


@pytest.fixture
def folder(tmp_path: Path) -> Dataset:
    """Colour pictures of different sizes in files."""
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(8):
            height, width = generator.integers(9, 30, 2)
            pixels = generator.integers(0, 256, (height, width, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    return load_data(f"imagefolder:{tmp_path}")


def test_evaluation_sees_what_the_device_sees(folder: Dataset) -> None:
    colour = Preprocessing(12, 10, 3, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), "bicubic", "center_crop", 0.9)
    for data, spec in ((toy_data(), SPEC), (folder, colour), (toy_data(), colour), (folder, SPEC)):
        indices = data.test[::-1]
        batches = list(plain_batches(data, indices, spec, batch_size=4))
        assert [len(labels) for _, labels in batches] == [4] * (len(indices) // 4) + [len(indices) % 4] * (
            len(indices) % 4 > 0
        )
        images = torch.cat([x for x, _ in batches])
        assert images.dtype == torch.float32
        assert torch.cat([y for _, y in batches]).tolist() == data.labels[indices].tolist()
        for image, index in zip(images, indices, strict=True):
            expected = preprocess(data.images[int(index)], spec).transpose(2, 0, 1)
            assert np.array_equal(image.numpy(), expected)


def test_an_epoch_shows_every_picture_once() -> None:
    data = toy_data()
    plain = training_batches(data, data.train, SPEC, NO_CHANGE, batch_size=8, seed=0, epoch=0)
    batches = list(plain)
    assert [len(y) for _, y in batches] == [8, 8, 8, 6]
    assert sorted_pictures(batches) == sorted_pictures(list(plain_batches(data, data.train, SPEC)))


def test_batches_follow_from_seed_and_epoch_alone() -> None:
    data = mirrored(toy_data())
    torch.manual_seed(1)
    first = epoch(data, 5, 2)
    torch.manual_seed(99)
    assert_same(first, epoch(data, 5, 2))
    for other in (epoch(data, 5, 3), epoch(data, 6, 2)):
        assert not torch.equal(first[0][0], other[0][0])
        assert sorted_pictures(first) != sorted_pictures(other)  # not only the order differs
        orders = [torch.cat([y for _, y in batches]).tolist() for batches in (first, other)]
        assert orders[0] != orders[1]
        assert sorted(orders[0]) == sorted(orders[1])


@pytest.mark.parametrize("skip", [0, 1, 2, 3])
def test_an_interrupted_epoch_goes_on_as_it_would_have(skip: int) -> None:
    data = mirrored(toy_data())
    assert_same(epoch(data, 3, 1)[skip:], epoch(data, 3, 1, skip))


def test_a_finished_epoch_has_no_batches_left() -> None:
    assert epoch(toy_data(), skip=4) == []
    assert epoch(toy_data(), skip=5) == []


def test_threads_change_nothing(folder: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    assert loading._workers(folder) >= 1
    assert loading._workers(toy_data()) == 0
    runs = []
    for workers in (0, 1, 2):
        monkeypatch.setattr(loading, "_workers", lambda data, n=workers: n)
        runs.append(
            (
                epoch(folder, 3, 1, size=3),
                epoch(folder, 3, 1, skip=1, size=3),
                list(plain_batches(folder, folder.train, SPEC, 3)),
            )
        )
    for run in runs[1:]:
        for here, there in zip(run, runs[0], strict=True):
            assert_same(here, there)
    assert_same(runs[0][0][1:], runs[0][1])


def test_a_pictures_change_does_not_hang_on_its_neighbours() -> None:
    """The same picture in a smaller subset, so at another place of another batch, is changed alike."""
    data = mirrored(toy_data())
    subset = replace(data, train=data.train[:7])
    assert set(sorted_pictures(epoch(subset, 4))) < set(sorted_pictures(epoch(data, 4)))


def test_digits_are_not_mirrored() -> None:
    digits = load_data("digits")
    assert augmentation_for(digits) == Augmentation(crop_area=(0.8, 1.0), mirror=0.0, jitter=0.3)
    assert augmentation_for(mirrored(digits)) == Augmentation(crop_area=(0.8, 1.0), mirror=0.5, jitter=0.3)


@pytest.mark.parametrize(("probability", "flipped"), [(0.0, 0), (0.5, None), (1.0, 30)])
def test_mirroring_is_as_likely_as_asked(probability: float, flipped: int | None) -> None:
    data = toy_data()
    plain = {x.numpy().tobytes() for images, _ in plain_batches(data, data.train, SPEC) for x in images}
    changed = replace(NO_CHANGE, mirror=probability)
    batches = training_batches(data, data.train, SPEC, changed, batch_size=8, seed=0, epoch=0)
    count = 0
    for x in chain.from_iterable(images for images, _ in batches):
        mirrored_back = x.flip(-1).numpy().tobytes()
        if x.numpy().tobytes() not in plain:
            assert mirrored_back in plain
            count += 1
    assert count == flipped if flipped is not None else 5 < count < 25


def test_jitter_and_crop_change_pixels_within_range() -> None:
    data = toy_data()
    low, high = -0.5 / 0.25, 0.5 / 0.25
    for change in (replace(NO_CHANGE, jitter=0.3), replace(NO_CHANGE, crop_area=(0.5, 0.8))):
        batches = list(training_batches(data, data.train, SPEC, change, batch_size=8, seed=0, epoch=0))
        assert sorted_pictures(batches) != sorted_pictures(list(plain_batches(data, data.train, SPEC)))
        for images, _ in batches:
            assert images.shape[1:] == (1, 8, 8)
            assert low - 1e-5 <= float(images.min()) <= float(images.max()) <= high + 1e-5


def test_the_models_input_decides_size_and_channels(folder: Dataset) -> None:
    for channels in (1, 3):
        spec = Preprocessing(6, 14, channels, (0.5,) * channels, (0.5,) * channels, "lanczos")
        batches = training_batches(folder, folder.train, spec, augmentation_for(folder), batch_size=4, seed=0, epoch=0)
        images, labels = next(iter(batches))
        assert images.shape == (4, channels, 6, 14)
        assert labels.dtype == torch.int64
