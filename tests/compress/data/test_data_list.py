from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress.data.data_list import DATA_DOCUMENT, DataList, data_digest, differences, list_data
from compress.data.dataset import ArrayImages
from compress.data.load import load_data
from compress.data.unlabelled import with_unlabelled
from runtime import ArtifactError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of seven pictures, no two of one size in bytes but for a pair of each class."""
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(7):
            side = 5 + 2 * i + (name == "dog")
            pixels = generator.integers(0, 256, (side, side, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.bmp")
    return tmp_path / "photos"


def listed(folder: Path) -> DataList:
    return list_data(load_data(f"imagefolder:{folder}"))


def add(folder: Path) -> None:
    Image.new("RGB", (90, 90)).save(folder / "cat" / "new.bmp")


def remove(folder: Path) -> None:
    (folder / "dog" / "3.bmp").unlink()


def rename(folder: Path) -> None:
    (folder / "dog" / "3.bmp").rename(folder / "dog" / "three.bmp")


def resize(folder: Path) -> None:
    Image.new("RGB", (90, 90)).save(folder / "cat" / "0.bmp")


def relabel(folder: Path) -> None:
    (folder / "dog" / "3.bmp").rename(folder / "cat" / "33.bmp")


def swap_classes(folder: Path) -> None:
    (folder / "cat").rename(folder / "x")
    (folder / "dog").rename(folder / "cat")
    (folder / "x").rename(folder / "dog")


def another_class(folder: Path) -> None:
    shutil.copytree(folder / "cat", folder / "zebra")


@pytest.mark.parametrize(
    ("change", "texts"),
    [
        (add, ("1 file was added (cat/new.bmp)",)),
        (remove, ("1 file is gone (dog/3.bmp)",)),
        (rename, ("1 file was renamed (dog/3.bmp to dog/three.bmp)",)),
        (resize, ("1 file has another size (cat/0.bmp)",)),
        (relabel, ("1 file was added (cat/33.bmp)", "1 file is gone (dog/3.bmp)")),
        (swap_classes, ("14 files have another size (cat/0.bmp, cat/1.bmp, cat/2.bmp and 11 more)",)),
        (another_class, ("the classes zebra are new", "7 files were added (zebra/0.bmp,")),
    ],
)
def test_what_changed_is_named(folder: Path, change: Callable[[Path], None], texts: tuple[str, ...]) -> None:
    before = listed(folder)
    assert differences(before, listed(folder)) == ()
    change(folder)
    told = "; ".join(differences(before, listed(folder)))
    for text in texts:
        assert text in told
    assert data_digest(load_data(f"imagefolder:{folder}"))


def test_a_folder_that_moved_is_the_same_data(folder: Path, tmp_path: Path) -> None:
    before, digest = listed(folder), data_digest(load_data(f"imagefolder:{folder}"))
    shutil.move(folder, tmp_path / "a" / "b")
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b")
    for place in (tmp_path / "a" / "b", tmp_path / "link"):
        assert differences(before, listed(place)) == ()
        assert data_digest(load_data(f"imagefolder:{place}")) == digest
        assert listed(place).data != before.data


def test_the_order_of_classes_and_the_splits_are_told(folder: Path) -> None:
    data = load_data(f"imagefolder:{folder}")
    before = list_data(data)
    turned = list_data(load_data(f"imagefolder:{folder}", class_map=_map(folder, "dog\ncat\n")))
    assert differences(before, turned) == (
        "the classes were in the order cat, dog and are now in the order dog, cat",
    )  # fmt: skip
    assert before.sha256 == turned.sha256
    other = list_data(replace(data, train=data.test, test=data.train))
    assert len(differences(before, other)) == 1
    assert "split otherwise" in differences(before, other)[0]


def _map(folder: Path, text: str) -> Path:
    path = folder.parent / "map.txt"
    path.write_text(text)
    return path


def test_a_label_that_changed_under_one_name(folder: Path) -> None:
    before = listed(folder)
    now = replace(before, labels=(1, *before.labels[1:]), sha256="other")
    assert differences(before, now) == ("1 file has another class (cat/0.bmp)",)


def test_pictures_in_memory_are_known_by_their_content() -> None:
    data = load_data("digits")
    before = list_data(data)
    assert (before.names, before.data, before.train) == ((), "digits", len(data.train))
    assert before == list_data(load_data("digits"))
    assert isinstance(data.images, ArrayImages)
    pixels = data.images.pixels.copy()
    pixels[5, 0, 0] ^= 1
    for changed in (replace(data, images=ArrayImages(pixels)), replace(data, labels=np.roll(data.labels, 1))):
        assert differences(before, list_data(changed)) == ("the pictures or their labels are others",)
        assert data_digest(changed) != data_digest(data)
    (gone,) = differences(before, list_data(load_data("digits", seed=1)))
    assert "split otherwise" in gone


def test_unlabelled_pictures_are_listed_apart_from_labelled_ones(folder: Path, tmp_path: Path) -> None:
    data, more = load_data(f"imagefolder:{folder}"), tmp_path / "more"
    shutil.copytree(folder, more)
    joined = list_data(with_unlabelled(data, more))
    assert len(joined.names) == 28
    assert "unlabelled:cat/0.bmp" in joined.names
    assert set(joined.labels) == {0, 1, -1}
    remove(more)
    (told,) = differences(joined, list_data(with_unlabelled(data, more)))
    assert told == "1 file is gone (unlabelled:dog/3.bmp)"
    in_memory = list_data(with_unlabelled(load_data("digits"), more))
    add(more)
    assert differences(in_memory, list_data(with_unlabelled(load_data("digits"), more)))


def test_a_list_comes_back(folder: Path, tmp_path: Path) -> None:
    (folder / "cat" / b"caf\xe9.bmp".decode(errors="surrogateescape")).write_bytes(
        (folder / "cat" / "0.bmp").read_bytes()
    )
    found = listed(folder)
    assert "cat/caf\\xe9.bmp" in found.names
    path = tmp_path / "data.json"
    DATA_DOCUMENT.write(path, found)
    assert DATA_DOCUMENT.read(path) == found
    assert list(json.loads(path.read_text())) == [
        *("schema", "schema_version"),
        *("data", "class_names", "names", "sizes", "labels", "content_sha256", "train", "held_out", "test"),
        *("splits_sha256", "sha256"),
    ]
    path.write_text(path.read_text().replace('"sizes": [', '"sizes": [ 1,'))
    with pytest.raises(ArtifactError, match="as many names as sizes"):
        DATA_DOCUMENT.read(path)


def test_version_1_will_always_be_read() -> None:
    found = DATA_DOCUMENT.read(Path(__file__).parents[2] / "golden" / "data-v1.json")
    assert (found.data, found.class_names) == ("imagefolder:photos", ("cat", "dog"))
    assert (found.names[0], found.sizes[0], found.labels[-1]) == ("cat/0.png", 68, 1)
    assert (found.train, found.held_out, found.test) == (2, 2, 2)
