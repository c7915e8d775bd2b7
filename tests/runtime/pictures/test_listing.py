from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime import DataError, excluded_in_words, list_pictures


def put(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(root: Path) -> list[str]:
    return [file.name for file in list_pictures(root).files]


@pytest.mark.parametrize(
    "folder",
    [
        ".ipynb_checkpoints",
        ".git",
        "__MACOSX",
        "@eaDir",
        "cat/.ipynb_checkpoints",
        "cat/deeper/.thumbnails",
        "a/__MACOSX",
    ],
)
def test_hidden_and_system_folders_are_left_out_at_any_depth(tmp_path: Path, folder: str) -> None:
    put(tmp_path, "cat/1.png", f"{folder}/1-copy.png", f"{folder}/deeper/2.png", f"{folder}/notes.txt")
    assert names(tmp_path) == ["cat/1.png"]
    assert list_pictures(tmp_path).left_out == {f"in hidden or system folders ({folder.split('/')[-1]})": 2}


def test_files_of_systems_are_left_out(tmp_path: Path) -> None:
    put(tmp_path, "cat/1.png", "cat/._1.png", "cat/.hidden.jpg", "cat/Thumbs.db", "cat/.DS_Store", "cat/desktop.ini")
    assert names(tmp_path) == ["cat/1.png"]
    assert list_pictures(tmp_path).left_out == {"hidden files": 2}


def test_other_endings_are_counted_and_case_does_not_matter(tmp_path: Path) -> None:
    put(
        tmp_path,
        *(f"a/{n}.{e}" for n, e in enumerate(("PNG", "Jpg", "jfif", "jpe", "avif", "heic", "HEIC", "txt"))),
        "a/x",
    )
    tree = list_pictures(tmp_path)
    assert [file.name for file in tree.files] == ["a/0.PNG", "a/1.Jpg", "a/2.jfif", "a/3.jpe", "a/4.avif"]
    assert tree.left_out == {"ending in .heic": 2, "ending in .txt": 1, "without an ending": 1}
    assert excluded_in_words(tree.left_out) == "4 left out: 2 ending in .heic, 1 ending in .txt, 1 without an ending"
    assert excluded_in_words({}) == ""


def test_links_are_followed_and_those_that_lead_nowhere_counted(tmp_path: Path) -> None:
    put(tmp_path / "store", "1.png", "many/2.png")
    root = tmp_path / "data"
    put(root, "cat/0.png")
    (root / "cat" / "1.png").symlink_to(tmp_path / "store" / "1.png")
    (root / "cat" / "many").symlink_to(tmp_path / "store" / "many")
    (root / "dog").symlink_to(tmp_path / "store")
    (root / "cat" / "gone.png").symlink_to(tmp_path / "nothing.png")
    (root / "cat" / "up").symlink_to(root)
    (root / "cat" / "self.png").symlink_to(root / "cat" / "self.png")
    tree = list_pictures(root)
    assert [file.name for file in tree.files] == [
        "cat/0.png",
        "cat/1.png",
        "cat/many/2.png",
        "dog/1.png",
        "dog/many/2.png",
    ]
    assert tree.left_out == {
        "broken links": 1,
        "links back to a folder above": 1,
        "links that lead nowhere": 1,
    }
    by_name = {file.name: file for file in tree.files}
    assert by_name["cat/1.png"].identity == by_name["dog/1.png"].identity != by_name["cat/0.png"].identity


def test_the_list_is_sorted_and_the_same_wherever_the_folder_lies(tmp_path: Path) -> None:
    for place in ("z", "a"):
        put(tmp_path / place, "b/2.png", "b/10.png", "a-b/1.png", "a/b/1.png", "a/1.png")
    assert names(tmp_path / "z") == names(tmp_path / "a")
    assert names(tmp_path / "a") == ["a/1.png", "a/b/1.png", "a-b/1.png", "b/10.png", "b/2.png"]
    assert [file.size_bytes for file in list_pictures(tmp_path / "a").files] == [1] * 5
    assert ("a", "b") in list_pictures(tmp_path / "a").folders


def test_what_is_no_regular_file_is_left_out(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    assert names(tmp_path) == ["a/1.png"]
    assert list_pictures(tmp_path).left_out == {"that are no regular files": 1}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "b").chmod(0)
    with pytest.raises(DataError, match="b cannot be read"):
        list_pictures(tmp_path)
    (tmp_path / "b").chmod(0o700)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none cannot be read"):
        list_pictures(tmp_path / "none")
