from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from timm.data.readers.reader_image_folder import find_images_and_targets

from compress.data.class_order import as_checkpoint_knows, read_class_map, reordered, sorted_names
from compress.data.dataset import Dataset
from compress.data.load import load_data
from runtime import DataError, PocketVitError
from tests.compress.model.test_folder import SPEC, TASK

NAMES = ("1", "10", "11", "2", "3")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five classes whose pictures show which one they are of, and where in it."""
    for name in NAMES:
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(8):
            Image.new("L", (8, 8), 10 * int(name) + i).save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path / "photos"


def shown(data: Dataset, index: int) -> str:
    """Returns the class that a picture was made of."""
    return str(int(np.asarray(data.images[index])[0, 0]) // 10)


def refusal(function: object, *arguments: object, **options: object) -> str:
    with pytest.raises(PocketVitError) as caught:
        function(*arguments, **options)  # type: ignore[operator]
    return str(caught.value)


@pytest.mark.parametrize(
    "names",
    [
        ("1", "2", "10", "3", "20", "100"),
        ("class1", "class10", "class2", "Class3", "class03b"),
        ("n01", "n2", "2n", "10n", "x", "Y", "z9a10", "z9a9"),
        ("é2", "é10", "a b 2", "a b 10", "", "0"),
    ],
)
def test_natural_order_is_that_of_timm(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in filter(None, names):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"")
    _, theirs = find_images_and_targets(str(tmp_path))
    assert sorted_names([name for name in names if name], "natural") == tuple(sorted(theirs, key=theirs.__getitem__))


def test_natural_order_of_names_that_timm_cannot_tell_apart_is_fixed() -> None:
    assert sorted_names(("b", "A1", "a1", "²", "a²"), "natural") == ("A1", "a1", "a²", "b", "²")


@pytest.mark.parametrize(
    ("options", "names"),
    [({}, NAMES), ({"class_order": "text"}, NAMES), ({"class_order": "natural"}, ("1", "2", "3", "10", "11"))],
)
def test_labels_follow_the_order_and_splits_do_not(
    folder: Path, options: dict[str, str], names: tuple[str, ...]
) -> None:
    plain, data = load_data(f"imagefolder:{folder}"), load_data(f"imagefolder:{folder}", **options)  # type: ignore[arg-type]
    assert data.class_names == names
    for split in ("train", "held_out", "test"):
        assert np.array_equal(getattr(plain, split), getattr(data, split))
    for index in range(len(data.labels)):
        assert names[data.labels[index]] == shown(data, index)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("map.txt", "3\n11\n1\n2\n10\n"),
        ("map.txt", "\ufeff3\r\n11\r\n1\r\n2\r\n10\r\n\r\n"),
        ("map.json", '["3", "11", "1", "2", "10"]'),
        ("map.json", '{"1": 2, "2": 3, "3": 0, "10": 4, "11": 1}'),
        ("map.json", '{"0": "3", "1": "11", "2": "1", "3": "2", "4": "10"}'),
        ("map.JSON", '{"0": ["3", "three"], "1": ["11", "b"], "2": ["1", "c"], "3": ["2", "d"], "4": ["10", "e"]}'),
    ],
)
def test_a_class_map_says_the_order(folder: Path, tmp_path: Path, file: str, content: str) -> None:
    (tmp_path / file).write_text(content, encoding="utf-8")
    data = load_data(f"imagefolder:{folder}", class_map=tmp_path / file)
    assert data.class_names == ("3", "11", "1", "2", "10")
    assert all(data.class_names[data.labels[index]] == shown(data, index) for index in range(len(data.labels)))


def test_a_class_map_of_a_builtin_dataset(tmp_path: Path) -> None:
    (tmp_path / "map.txt").write_text("\n".join("9876543210"))
    plain, data = load_data("digits"), load_data("digits", class_map=tmp_path / "map.txt")
    assert np.array_equal(data.labels, 9 - plain.labels)


@pytest.mark.parametrize(
    ("file", "content", "text"),
    [
        ("map.txt", "1\n2\n3\n10\n", "it lacks 11"),
        ("map.txt", "1\n2\n3\n10\n11\n12\n13\n", "it has 12, 13, which the data lacks"),
        ("map.txt", "1\n2\n3\n10\neleven\n", "it lacks 11; it has eleven"),
        ("map.txt", "1\n2\n3\n10\n11\n2\n", "names a class twice. Got 2"),
        ("map.txt", "1\n\n2\n3\n10\n11\n", "Line 2 of the class map"),
        ("map.txt", "", "it lacks 1, 10, 11, 2, 3"),
        ("map.txt", b"\xff\xfe1\n", "cannot be read"),
        ("map.pkl", "", "is of another kind. Expected .txt with one class a line, or .json. Got .pkl"),
        ("map.json", "[1, 2]", "cannot be understood"),
        ("map.json", "{}", "cannot be understood"),
        ("map.json", '{"1": 0, "2": 1, "3": 1, "10": 2, "11": 3}', "Expected 0 to 4, each once. Got 4 missing"),
        ("map.json", '{"1": 1, "2": 2, "3": 3, "10": 4, "11": 5}', "Got 0, 5 missing or too many"),
        ("map.json", "[", "is not valid JSON"),
        ("none.txt", None, "does not exist"),
    ],
)
def test_a_class_map_that_does_not_fit_is_refused(
    folder: Path, tmp_path: Path, file: str, content: str | bytes | None, text: str
) -> None:
    if content is not None:
        (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert text in refusal(load_data, f"imagefolder:{folder}", class_map=tmp_path / file)


def test_orders_that_cannot_be(folder: Path, tmp_path: Path) -> None:
    assert "text or natural" in refusal(load_data, f"imagefolder:{folder}", class_order="random")
    assert "a fixed order" in refusal(load_data, "digits", class_order="natural")
    both = {"class_order": "natural", "class_map": tmp_path / "a.txt"}
    assert "two orders" in refusal(load_data, f"imagefolder:{folder}", **both)


def test_unlabelled_pictures_stay_without_a_label(folder: Path) -> None:
    data = load_data(f"imagefolder:{folder}")
    from dataclasses import replace

    bare = replace(data, labels=np.where(np.arange(len(data.labels)) % 2, data.labels, -1))
    moved = reordered(bare, tuple(reversed(NAMES)))
    assert np.array_equal(moved.labels == -1, bare.labels == -1)
    assert np.array_equal(moved.labels[1::2], 4 - bare.labels[1::2])


def test_the_data_follows_the_order_of_a_checkpoint(folder: Path) -> None:
    data = load_data(f"imagefolder:{folder}")
    known = ("11", "1", "3", "2", "10")
    ordered = as_checkpoint_knows(data, known, asked=False)
    assert ordered.class_names == known
    assert all(known[ordered.labels[index]] == shown(ordered, index) for index in range(len(ordered.labels)))
    text = refusal(as_checkpoint_knows, data, known, asked=True)
    assert "Expected class 0 to be 11. Got 1. Leave out --class-order" in text
    text = refusal(as_checkpoint_knows, data, ("1", "2", "3", "10", "12"), asked=False)
    assert "The checkpoint names other classes than the data" in text
    assert "it lacks 11; it has 12, which the data lacks" in text
    assert "--reset-head" in text


def test_names_survive_json() -> None:
    assert json.loads(json.dumps(list(TASK.class_names))) == list(TASK.class_names)
    assert SPEC == TASK.preprocessing
    with pytest.raises(DataError):
        read_class_map(Path("x.csv"))
