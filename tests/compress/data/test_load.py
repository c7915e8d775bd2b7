from __future__ import annotations

import gzip
import math
import struct
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torchvision
from PIL import Image

from compress.data import SOURCES, image_folder
from compress.data.augment import augmentation_for
from compress.data.dataset import Dataset, FileImages
from compress.data.load import load_data
from compress.data.named_data import read_idx
from compress.data.splits import search_set
from runtime import DataError

SEED = 3


def refusal(name: str, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        load_data(name, **options)
    return str(caught.value)


def assert_splits_are_sound(data: Dataset, total: int) -> None:
    """Disjoint, covering, sorted, and every class in every split."""
    splits = (data.train, data.held_out, data.test)
    assert sorted(np.concatenate(splits).tolist()) == list(range(total))
    for split in splits:
        assert np.array_equal(split, np.sort(split))
        assert split.dtype == np.int64
        assert set(data.labels[split]) == set(range(data.num_classes))


def shares(data: Dataset, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.bincount(data.labels[indices], minlength=data.num_classes) / len(indices)


def test_digits_are_split_by_seed() -> None:
    data = load_data("digits", seed=SEED)
    assert (data.num_classes, data.channels, data.size, data.mirror, data.from_files) == (10, 1, (8, 8), False, False)
    assert data.class_names == tuple("0123456789")
    assert len(data.images) == len(data.labels) == 1797
    assert_splits_are_sound(data, 1797)
    assert abs(len(data.test) - 0.2 * 1797) <= 5
    assert abs(len(data.held_out) - 0.1 * (1797 - len(data.test))) <= 5
    for split in (data.train, data.held_out, data.test):
        assert np.abs(shares(data, split) - shares(data, np.arange(1797))).max() < 0.01
    picture = np.asarray(data.images[0])
    assert picture.shape == (8, 8)
    assert picture.dtype == np.uint8
    assert max(int(np.asarray(data.images[i]).max()) for i in range(20)) == 255
    same, other = load_data("digits", seed=SEED), load_data("digits", seed=SEED + 1)
    for split in ("train", "held_out", "test"):
        assert np.array_equal(getattr(data, split), getattr(same, split))
        assert not np.array_equal(getattr(data, split), getattr(other, split))
        assert len(getattr(data, split)) == len(getattr(other, split))


@pytest.mark.parametrize("limit", [10, 11, 57, 100, 999])
def test_train_limit_takes_exactly_that_many_of_the_training_images(limit: int) -> None:
    whole, some = load_data("digits", seed=SEED), load_data("digits", seed=SEED, train_limit=limit)
    assert len(some.train) == limit
    assert set(some.train) <= set(whole.train)
    assert np.array_equal(some.test, whole.test)
    assert np.array_equal(some.held_out, whole.held_out)
    counts = np.bincount(some.labels[some.train], minlength=10)
    assert counts.min() >= max(1, math.floor(0.9 * limit / 10))
    assert counts.max() - counts.min() <= 2 + limit // 50
    assert np.array_equal(some.train, load_data("digits", seed=SEED, train_limit=limit).train)


def test_train_limit_has_bounds() -> None:
    whole = load_data("digits", seed=SEED)
    assert np.array_equal(load_data("digits", seed=SEED, train_limit=10_000).train, whole.train)
    assert "--train-limit leaves a class empty. Expected 10 or more. Got 9." in refusal("digits", train_limit=9)


def test_a_search_set_is_a_fresh_draw_of_every_class() -> None:
    data = load_data("digits", seed=SEED)
    drawn = search_set(data, 25, seed=0)
    assert len(drawn) == len(set(drawn)) == 250
    assert set(drawn) <= set(data.train)
    assert (np.bincount(data.labels[drawn]) == 25).all()
    assert np.array_equal(drawn, search_set(data, 25, seed=0))
    assert set(drawn) != set(search_set(data, 25, seed=1))
    assert not np.array_equal(data.labels[drawn], np.sort(data.labels[drawn]))
    assert sorted(search_set(data, 10_000, seed=0)) == data.train.tolist()


def test_unknown_names_are_answered_with_near_ones() -> None:
    assert "No dataset is called 'digts'" in refusal("digts")
    assert "Did you mean digits." in refusal("digts")
    assert "imagefolder:PATH" in refusal("zzz")
    assert "takes no folder" in refusal("digits:/tmp")
    assert tuple(SOURCES) == ("digits", "fashion-mnist", "cifar10", "cifar100", "imagefolder", "unlabelled")


def idx(array: npt.NDArray[np.uint8]) -> bytes:
    return b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def fashion_arrays() -> dict[str, npt.NDArray[np.uint8]]:
    generator = np.random.default_rng(0)
    return {
        "train-images-idx3-ubyte": generator.integers(0, 256, (80, 6, 5)).astype(np.uint8),
        "train-labels-idx1-ubyte": (np.arange(80) % 10).astype(np.uint8),
        "t10k-images-idx3-ubyte": generator.integers(0, 256, (20, 6, 5)).astype(np.uint8),
        "t10k-labels-idx1-ubyte": (np.arange(20) % 10).astype(np.uint8),
    }


def write_fashion(folder: Path, suffix: str = "", **changes: npt.NDArray[np.uint8] | bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, array in (fashion_arrays() | {f"{k.replace('_', '-')}-ubyte": v for k, v in changes.items()}).items():
        content = array if isinstance(array, bytes) else idx(array)
        (folder / f"{stem}{suffix}").write_bytes(gzip.compress(content) if suffix else content)
    return folder


@pytest.mark.parametrize(
    ("below", "suffix"), [("FashionMNIST/raw", ""), ("", ".gz"), ("", ""), ("FashionMNIST/raw", ".gz")]
)
def test_fashion_mnist_is_read_in_either_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str, suffix: str
) -> None:
    write_fashion(tmp_path / below, suffix)
    data = load_data(f"fashion-mnist:{tmp_path}", seed=SEED)
    assert (data.num_classes, data.channels, data.size, data.mirror) == (10, 1, (6, 5), True)
    assert data.name == f"fashion-mnist:{tmp_path}"
    assert_splits_are_sound(data, 100)
    assert data.test.tolist() == list(range(80, 100))
    assert (len(data.train), len(data.held_out)) == (70, 10)
    arrays = fashion_arrays()
    assert np.array_equal(np.asarray(data.images[3]), arrays["train-images-idx3-ubyte"][3])
    assert np.array_equal(np.asarray(data.images[85]), arrays["t10k-images-idx3-ubyte"][5])
    assert data.labels[85] == 5
    monkeypatch.setenv("POCKETVIT_DATA", str(tmp_path))
    assert np.array_equal(load_data("fashion-mnist", seed=SEED).train, data.train)


def test_a_folder_without_fashion_mnist_is_refused(tmp_path: Path) -> None:
    assert f"{tmp_path} does not hold Fashion-MNIST" in refusal(f"fashion-mnist:{tmp_path}")
    write_fashion(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    assert "does not hold Fashion-MNIST" in refusal(f"fashion-mnist:{tmp_path}")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"train_labels_idx1": np.zeros(79, np.uint8)}, "are not as many"),
        ({"t10k_labels_idx1": np.full(20, 10, np.uint8)}, "name unknown classes. Expected 0 to 9."),
        ({"train_images_idx3": np.zeros((80, 30), np.uint8)}, "are not images and labels"),
        ({"train_labels_idx1": np.zeros((80, 1), np.uint8)}, "are not images and labels"),
        ({"t10k_images_idx3": np.zeros((20, 6, 6), np.uint8)}, "are not images and labels"),
        ({"t10k_images_idx3": np.zeros((0, 6, 5), np.uint8)}, "are not images and labels"),
        ({"train_labels_idx1": np.zeros(80, np.uint8)}, "too small to split"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(tmp_path: Path, changes: Any, text: str) -> None:
    write_fashion(tmp_path, **changes)
    assert text in refusal(f"fashion-mnist:{tmp_path}")


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 4), (0, 4)])
def test_idx_arrays_are_read(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.arange(math.prod(shape), dtype=np.uint8).reshape(shape)
    (tmp_path / "a").write_bytes(idx(array))
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx(array)))
    for name in ("a", "a.gz"):
        assert np.array_equal(read_idx(tmp_path / name), array)
        assert read_idx(tmp_path / name).shape == shape


GOOD = idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a", b"", "is not an idx file of bytes. Got nothing."),
        ("a", b"\x00\x00", "is not an idx file"),
        ("a", b"\x00\x00\x0d" + GOOD[3:], "is not an idx file"),
        ("a", b"\x00\x00\x08\x00", "is not an idx file"),
        ("a", b"\x00\x00\x08\x03\x00\x00", "is not an idx file"),
        ("a", b"\x00\x00\x08\xc8" + struct.pack(">200I", *[1] * 200) + b"x", "is not an idx file"),
        ("a", b"\x89PNG\r\n\x1a\n", "is not an idx file"),
        ("a", GOOD[:-1], "is truncated or too long. Expected 24 bytes of data. Got 23."),
        ("a", GOOD + b"x", "is truncated or too long"),
        ("a", b"\x00\x00\x08\x02" + struct.pack(">2I", 2**32 - 1, 2**32 - 1), "is truncated"),
        ("a", b"\x00\x00\x08\x04" + struct.pack(">4I", *[2**16] * 4), "is truncated"),
        ("a.gz", GOOD, "cannot be read"),
        ("a.gz", b"", "not an idx file"),
        ("a.gz", gzip.compress(GOOD)[:-5], "cannot be read"),
        ("a.gz", gzip.compress(GOOD)[:12] + b"\xff\xff\xff\xff" + gzip.compress(GOOD)[16:], "cannot be read"),
    ],
)
def test_damaged_idx_files_are_refused_by_name(tmp_path: Path, name: str, content: bytes, text: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)
    assert text in str(caught.value)


@pytest.mark.parametrize(("name", "kind"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100")])
def test_cifar_that_is_not_there_and_cannot_be_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    tried = []

    def offline(*arguments: Any, **options: Any) -> None:
        tried.append(arguments)
        raise urllib.error.URLError("no route\nto host")

    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", offline)
    monkeypatch.setenv("POCKETVIT_DATA", str(tmp_path))
    text = refusal(name)
    assert f"{kind} is not in {tmp_path} and cannot be downloaded. Got URLError:" in text
    assert "Go online" in text
    assert "--data NAME:FOLDER" in text
    assert len(tried) == 1
    text = refusal(f"{name}:{tmp_path}")
    assert f"{tmp_path} does not hold {kind}. Expected the folder cifar-10" in text
    assert len(tried) == 1


def test_fashion_mnist_that_cannot_be_downloaded_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*arguments: Any, **options: Any) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", offline)
    monkeypatch.setattr("compress.data.named_data._FASHION_FOLDERS", (tmp_path / "none",))
    monkeypatch.setenv("POCKETVIT_DATA", str(tmp_path))
    text = refusal("fashion-mnist")
    assert f"FashionMNIST is not in {tmp_path} and cannot be downloaded" in text
    assert "dataset-fashion-mnist" in text


def write_folder(root: Path, counts: dict[str, int], mode: str = "RGB", suffix: str = ".png") -> Path:
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.new(mode, (9, 7), (20 + i) * (257 if mode == "I;16" else 1)).save(root / name / f"{i:03}{suffix}")
    return root


def test_one_folder_is_split_by_seed(tmp_path: Path) -> None:
    write_folder(tmp_path, {"cat": 20, "dog": 30})
    (tmp_path / ".cache").mkdir()
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    (tmp_path / "cat" / "deeper").mkdir()
    Image.new("RGB", (3, 3)).save(tmp_path / "cat" / "deeper" / "x.JPEG")
    seen: list[tuple[str, int, int]] = []
    data = load_data(f"imagefolder:{tmp_path}", seed=SEED, progress=lambda *a: seen.append(a[:3]))
    assert data.class_names == ("cat", "dog")
    assert (data.channels, data.size, data.from_files, data.mirror) == (3, None, True, True)
    assert np.bincount(data.labels).tolist() == [21, 30]
    assert_splits_are_sound(data, 51)
    assert (len(data.test), len(data.held_out)) == (10, 4)
    assert data.images[50].size == (9, 7)
    checked = [own for own in seen if own[2]]
    assert checked[-1] == ("check images", 51, 51)
    assert len(checked) == 51
    again, other = load_data(f"imagefolder:{tmp_path}", seed=SEED), load_data(f"imagefolder:{tmp_path}", seed=9)
    assert np.array_equal(again.test, data.test)
    assert not np.array_equal(other.test, data.test)


def test_train_and_val_are_kept_apart(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", {"a": 10, "b": 12, "c": 5}, "L")
    write_folder(tmp_path / "val", {"a": 3, "b": 2}, "L")
    data = load_data(f"imagefolder:{tmp_path}", seed=SEED)
    assert data.class_names == ("a", "b", "c")
    assert data.channels == 1
    assert data.test.tolist() == list(range(27, 32))
    assert data.labels[data.test].tolist() == [0, 0, 0, 1, 1]
    assert sorted([*data.train, *data.held_out]) == list(range(27))
    assert (len(data.train), len(data.held_out)) == (24, 3)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("1", 1), ("I;16", 1), ("RGB", 3), ("P", 1), ("RGBA", 3)])
def test_grayscale_is_told_from_colour(tmp_path: Path, mode: str, channels: int) -> None:
    write_folder(tmp_path, {"a": 4, "b": 4}, mode)
    assert load_data(f"imagefolder:{tmp_path}").channels == channels


def test_one_colour_picture_makes_a_folder_colour(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 4, "b": 4}, "L")
    Image.new("RGB", (4, 4)).save(tmp_path / "b" / "zz.png")
    assert load_data(f"imagefolder:{tmp_path}").channels == 3


def noise(mode: str, seed: int) -> Image.Image:
    shape = (6, 6, 3) if mode == "RGB" else (6, 6)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8))


@pytest.mark.parametrize("where", ["b/zz.png", "b/deep/zz.png", "a/100.png"])
def test_colour_in_the_last_class_is_seen_after_many_gray_pictures(tmp_path: Path, where: str) -> None:
    for i in range(80):
        for name in ("a", "b"):
            (tmp_path / name / "deep").mkdir(parents=True, exist_ok=True)
            noise("L", i).save(tmp_path / name / f"{i:03}.png")
    assert load_data(f"imagefolder:{tmp_path}").channels == 1
    noise("RGB", 0).save(tmp_path / where)
    data = load_data(f"imagefolder:{tmp_path}")
    assert data.channels == 3
    assert "161 pictures (160 of them gray)" in data.notes[0]


@pytest.mark.parametrize("mode", ["P", "PA"])
def test_a_palette_is_gray_where_the_colours_it_uses_are(tmp_path: Path, mode: str) -> None:
    image = noise("L", 0).convert("P")
    assert image_folder.is_gray(image.convert(mode))
    coloured = noise("RGB", 0).convert("P", palette=Image.Palette.ADAPTIVE).convert(mode)
    assert not image_folder.is_gray(coloured)
    ramp = Image.new("P", (4, 4), 0)
    ramp.putpalette([0, 0, 0, 9, 9, 9, 255, 0, 0])
    assert image_folder.is_gray(ramp.convert(mode) if mode != "P" else ramp)
    ramp.putpixel((1, 1), 2)
    assert not image_folder.is_gray(ramp)


def test_train_val_and_test_are_three_splits(tmp_path: Path) -> None:
    for split, count in (("Training", 10), ("validation", 4), ("Test", 3)):
        write_folder(tmp_path / split, {"a": count, "b": count})
    (tmp_path / "Training" / "a" / ".ipynb_checkpoints").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "Training" / "a" / ".ipynb_checkpoints" / "000-checkpoint.png")
    (tmp_path / "Training" / "a" / "x.heic").write_bytes(b"")
    told: list[tuple[str, str]] = []
    data = load_data(f"imagefolder:{tmp_path}", progress=lambda s, d, t, note="": told.append((s, note)))
    assert (len(data.train), len(data.held_out), len(data.test)) == (20, 8, 6)
    assert isinstance(data.images, FileImages)
    for split, folder in (("train", "Training"), ("held_out", "validation"), ("test", "Test")):
        assert {data.images.names[index].split("/")[0] for index in getattr(data, split)} == {folder}
    assert data.notes == (
        "3 splits (Training/ for training, validation/ for held-out, Test/ for test), 2 classes, 34 pictures (colour); "
        "2 left out: 1 ending in .heic, 1 in hidden or system folders (.ipynb_checkpoints).",
    )
    assert ("data", data.notes[0]) in told


def test_a_class_called_train_stays_a_class(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": 9, "bus": 9})
    data = load_data(f"imagefolder:{tmp_path}")
    assert data.class_names == ("bus", "train")
    assert np.bincount(data.labels).tolist() == [9, 9]


def test_a_file_reached_twice_is_taken_once_and_links_are_followed(tmp_path: Path) -> None:
    write_folder(tmp_path / "store", {"cat": 6, "dog": 6})
    root = tmp_path / "photos"
    (root / "cat").mkdir(parents=True)
    (root / "dog").symlink_to(tmp_path / "store" / "dog")
    for i in range(6):
        (root / "cat" / f"{i}.png").symlink_to(tmp_path / "store" / "cat" / f"{i:03}.png")
    (root / "cat" / "again.png").symlink_to(tmp_path / "store" / "cat" / "000.png")
    data = load_data(f"imagefolder:{root}")
    assert np.bincount(data.labels).tolist() == [6, 6]
    assert "1 left out: 1 the same file by another name" in data.notes[0]


def test_the_same_bytes_in_training_and_test_are_warned_of(tmp_path: Path) -> None:
    for split, first in (("train", 0), ("test", 100)):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(6):
                noise("RGB", first + i + 50 * (name == "b")).save(tmp_path / split / name / f"{i}.bmp")
    assert load_data(f"imagefolder:{tmp_path}").warnings == ()
    for target in ("x.bmp", "y.bmp"):
        (tmp_path / "test" / "a" / target).write_bytes((tmp_path / "train" / "a" / "1.bmp").read_bytes())
    (told,) = load_data(f"imagefolder:{tmp_path}").warnings
    assert told.startswith(
        "2 of 14 test images are also among the training images, byte for byte (such as test/a/x.bmp"
    )
    (tmp_path / "train" / "b" / "z.bmp").write_bytes((tmp_path / "train" / "a" / "2.bmp").read_bytes())
    assert "in more than one class, byte for byte (such as train/a/2.bmp and train/b/z.bmp)" in " ".join(
        load_data(f"imagefolder:{tmp_path}").warnings
    )


def test_a_class_folder_that_is_not_utf8_is_refused_before_any_work(tmp_path: Path) -> None:
    write_folder(tmp_path, {"cat": 4, "dog": 4})
    (tmp_path / "dog").rename(tmp_path / b"caf\xe9".decode(errors="surrogateescape"))
    seen: list[str] = []
    text = refusal(f"imagefolder:{tmp_path}", progress=lambda s, *_: seen.append(s))
    assert "The name of the class folder caf\\xe9" in text
    assert "is not UTF-8" in text
    assert seen == []


def test_mirroring_can_be_switched(tmp_path: Path) -> None:
    write_folder(tmp_path, {"cat": 4, "dog": 4})
    name = f"imagefolder:{tmp_path}"
    assert [load_data(name, mirror=choice).mirror for choice in (None, True, False)] == [True, True, False]
    assert [load_data("digits", mirror=choice).mirror for choice in (None, True, False)] == [False, True, False]
    assert augmentation_for(load_data(name, mirror=False)).mirror == 0
    assert augmentation_for(load_data(name)).mirror == 0.5


@pytest.mark.parametrize("pair", [("turn_left", "turn_right"), ("Left", "Right"), ("left_hand", "right_hand")])
def test_classes_that_mirroring_would_swap_are_warned_of(tmp_path: Path, pair: tuple[str, str]) -> None:
    write_folder(tmp_path, {pair[0]: 4, pair[1]: 4, "left_alone": 4})
    told = " ".join(load_data(f"imagefolder:{tmp_path}").warnings)
    assert f"the classes {pair[0]} and {pair[1]} may be mirror images: give --no-mirror" in told
    assert "--no-mirror" not in " ".join(load_data(f"imagefolder:{tmp_path}", mirror=True).warnings)


def test_a_class_without_test_images_is_warned_of(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", {"a": 5, "b": 5})
    write_folder(tmp_path / "val", {"a": 3})
    assert "No test image is of the class b." in load_data(f"imagefolder:{tmp_path}").warnings


def test_what_was_left_out_is_said_where_a_class_has_nothing_left(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 9, "b": 0})
    for i in range(5):
        (tmp_path / "b" / f"{i}.heic").write_bytes(b"")
    text = refusal(f"imagefolder:{tmp_path}")
    assert "'b' has 0" in text
    assert "5 left out: 5 ending in .heic" in text


def _corrupt(path: Path) -> None:
    path.write_bytes(b"this is no picture")


def _truncate(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:900])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [_corrupt, _truncate, _empty])
def test_a_bad_picture_is_named_or_skipped(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    write_folder(tmp_path / "train", {"a": 10, "b": 10})
    write_folder(tmp_path / "val", {"a": 3, "b": 3})
    bad = [tmp_path / "train" / "a" / "004.png", tmp_path / "val" / "b" / "001.png"]
    for path in bad:
        damage(path)
    text = refusal(f"imagefolder:{tmp_path}")
    assert f"The image {bad[0]} cannot be decoded" in text
    assert f"Replace or remove {bad[0]}, or leave bad pictures out with --skip-bad." in text
    notes: list[str] = []
    data = load_data(
        f"imagefolder:{tmp_path}", skip_bad=True, progress=lambda s, d, t, note="": notes.append(note if t else "")
    )
    assert sorted(note for note in notes if note) == sorted(f"skipped {path}" for path in bad)
    assert len(data.images) == len(data.labels) == 24
    assert data.test.tolist() == [19, 20, 21, 22, 23]
    assert data.labels.tolist() == [0] * 9 + [1] * 10 + [0] * 3 + [1] * 2
    assert all(data.images[i].size == (9, 7) for i in range(24))


def test_a_picture_that_goes_bad_later_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 4, "b": 4})
    data = load_data(f"imagefolder:{tmp_path}")
    _corrupt(tmp_path / "a" / "000.png")
    with pytest.raises(DataError, match=r"000\.png cannot be decoded"):
        data.images[0]


def test_folders_that_are_no_dataset_are_refused(tmp_path: Path) -> None:
    assert "imagefolder needs a path. Expected --data imagefolder:PATH." in refusal("imagefolder")
    assert f"The image folder {tmp_path / 'none'} does not exist" in refusal(f"imagefolder:{tmp_path / 'none'}")
    assert "holds no classes" in refusal(f"imagefolder:{tmp_path}")
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    assert "holds no pictures. Expected .avif, .bmp, " in refusal(f"imagefolder:{tmp_path}")


def test_classes_must_be_there_and_filled(tmp_path: Path) -> None:
    single = write_folder(tmp_path / "single", {"a": 9})
    assert "two classes or more" in refusal(f"imagefolder:{single}")
    hollow = write_folder(tmp_path / "hollow", {"a": 9, "b": 0, "c": 9})
    assert "Got 3 classes; 'b' has 0." in refusal(f"imagefolder:{hollow}")
    few = write_folder(tmp_path / "few", {"a": 9, "b": 2})
    assert "with at least 3 training images each. Got 2 classes; 'b' has 2." in refusal(f"imagefolder:{few}")
    spoilt = write_folder(tmp_path / "spoilt", {"a": 9, "b": 4})
    for name in ("000.png", "001.png"):
        _corrupt(spoilt / "b" / name)
    assert "'b' has 2" in refusal(f"imagefolder:{spoilt}", skip_bad=True)


def test_val_must_be_there_filled_and_of_the_same_classes(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", {"a": 5, "b": 5})
    assert "has train/ but no val/" in refusal(f"imagefolder:{tmp_path}")
    (tmp_path / "val" / "a").mkdir(parents=True)
    assert f"{tmp_path / 'val'} holds no pictures" in refusal(f"imagefolder:{tmp_path}")
    write_folder(tmp_path / "val", {"b": 2, "zebra": 1})
    assert "classes that train/ has not. Got zebra." in refusal(f"imagefolder:{tmp_path}")


def test_the_least_dataset_has_every_class_in_every_split(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 3, "b": 3})
    data = load_data(f"imagefolder:{tmp_path}")
    assert_splits_are_sound(data, 6)
    assert (len(data.train), len(data.held_out), len(data.test)) == (2, 2, 2)
