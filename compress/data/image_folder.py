"""Reads a folder of pictures as a dataset."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from runtime import IMAGE_SUFFIXES, DataError, PictureFile, Progress, excluded_in_words, list_pictures, open_image

from .dataset import Dataset, FileImages
from .folder_layout import Layout, recognise


def image_folder(folder: Path | None, skip_bad: bool, progress: Progress) -> Dataset:
    """Reads a folder of splits, or one folder, with a folder of pictures per class; see ``folder_layout``.

    Args:
        folder: path of the data.
        skip_bad: leave out pictures that cannot be decoded.
        progress: called while pictures are checked.

    Raises:
        DataError: the folder does not exist, has no classes or no pictures, is ambiguous, or has a picture that cannot
            be decoded.
    """
    assert folder is not None
    if not folder.is_dir():
        raise DataError(
            f"The image folder {folder} does not exist",
            fix="Change --data; a run whose data moved goes on with its new place, --data imagefolder:PATH",
        )
    tree = list_pictures(folder)
    layout = recognise([file.parts for file in tree.files], tree.folders, str(folder))
    _check_names(layout.classes, folder)
    files, twice = _without_twins(_labelled(tree.files, layout))
    left_out = Counter(
        {**tree.left_out, **layout.left_out, **({"the same file by another name": twice} if twice else {})}
    )
    if not files:
        raise DataError(
            f"{folder} holds no pictures",
            expected=", ".join(sorted(IMAGE_SUFFIXES)),
            got=excluded_in_words(left_out) or None,
        )
    grays = check_images([own.file.path for own in files], skip_bad, progress)
    bad = grays.count(None)
    left_out.update({"that cannot be decoded": bad} if bad else {})
    kept = [(own, gray) for own, gray in zip(files, grays, strict=True) if gray is not None]
    indices = {split.role: _indices([own.split for own, _ in kept], n) for n, split in enumerate(layout.splits)}
    for split in layout.splits:
        if split.folder and not len(indices[split.role]):
            raise DataError(
                f"{folder / split.folder} holds no pictures",
                got=excluded_in_words(left_out) or None,
                fix=f"Add some, or remove {split.folder}/; without it, {layout.splits[0].folder}/ can be given alone",
            )
    gray = sum(own_gray for _, own_gray in kept)
    images = FileImages(
        tuple(own.file.path for own, _ in kept),
        tuple(own.file.name for own, _ in kept),
        tuple(own.file.size_bytes for own, _ in kept),
    )
    none = np.zeros(0, np.int64)
    return Dataset(
        name="imagefolder",
        class_names=layout.classes,
        channels=1 if gray == len(kept) else 3,
        size=None,
        mirror=True,
        images=images,
        labels=np.array([own.label for own, _ in kept], np.int64),
        train=indices["train"],
        held_out=indices.get("held_out", none),
        test=indices.get("test", none),
        notes=(_found(layout, len(kept), gray, left_out),),
    )


@dataclass(frozen=True)
class _Labelled:
    """A picture of a split and a class, as indices into those of the layout."""

    file: PictureFile
    split: int
    label: int


def _labelled(files: Sequence[PictureFile], layout: Layout) -> list[_Labelled]:
    """Returns the pictures of every split and class, in this order."""
    splits = {split.folder: number for number, split in enumerate(layout.splits)}
    labels = {name: label for label, name in enumerate(layout.classes)}
    depth = layout.splits[0].depth
    found = []
    for file in files:
        number = splits.get(file.parts[0] if depth else "")
        if number is not None and len(file.parts) > depth + 1:
            found.append(_Labelled(file, number, labels[file.parts[depth]]))
    return sorted(found, key=lambda own: (own.split, own.label, own.file.parts))


def _without_twins(files: Sequence[_Labelled]) -> tuple[list[_Labelled], int]:
    """Returns each file of a split and class once, however many links lead to it, and how many were left out."""
    seen: set[tuple[object, ...]] = set()
    kept = []
    for own in files:
        key = (own.split, own.label, own.file.identity)
        if key not in seen:
            seen.add(key)
            kept.append(own)
    return kept, len(files) - len(kept)


def _indices(numbers: Sequence[int], wanted: int) -> npt.NDArray[np.int64]:
    return np.flatnonzero(np.array(numbers) == wanted).astype(np.int64)


def _check_names(names: Sequence[str], folder: Path) -> None:
    """Refuses class names that are not valid UTF-8."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(name).decode("utf-8", "backslashreplace")
            raise DataError(
                f"The name of the class folder {shown} in {folder} is not UTF-8",
                expected="a name that files and terminals can show",
                fix="Rename it, for instance with convmv",
            ) from None


def _found(layout: Layout, count: int, gray: int, left_out: Counter[str]) -> str:
    """Returns a sentence on the data found and the files left out."""
    words = {"train": "training", "held_out": "held-out", "test": "test"}
    named = [f"{split.folder}/ for {words[split.role]}" for split in layout.splits if split.folder]
    splits = f"{len(named)} splits ({', '.join(named)})" if named else "1 folder, split by seed"
    colour = "gray" if gray == count else f"{gray:,} of them gray" if gray else "colour"
    missing = f"; {excluded_in_words(left_out)}" if left_out else ""
    return f"{splits}, {len(layout.classes):,} classes, {count:,} pictures ({colour}){missing}."


def check_images(paths: Sequence[Path], skip_bad: bool, progress: Progress) -> list[bool | None]:
    """Decodes every picture once, to find bad ones before a long training.

    Returns:
        Whether each is gray; None for one that cannot be decoded.

    Raises:
        DataError: a picture cannot be decoded and ``skip_bad`` is not set.
    """

    def look(path: Path) -> bool | str:
        try:
            return is_gray(open_image(path))
        except DataError as error:
            return str(error)

    found: list[bool | None] = []
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for done, (path, seen) in enumerate(zip(paths, pool.map(look, paths), strict=True), 1):
            if isinstance(seen, str) and not skip_bad:
                pool.shutdown(wait=True, cancel_futures=True)
                raise DataError(seen, fix=f"Replace or remove {path}, or leave bad pictures out with --skip-bad")
            found.append(None if isinstance(seen, str) else seen)
            progress("check images", done, len(paths))
            if isinstance(seen, str):
                skipped = found.count(None)
                # another stage, always reported as complete, so that listeners that thin out progress keep it
                progress("left out", skipped, skipped, f"skipped {path}")
    return found


def is_gray(image: Image.Image) -> bool:
    """Returns whether a picture has no colour, by its mode or by the colours of its palette that it uses."""
    if image.mode in ("P", "PA"):
        palette = image.getpalette("RGB") or []
        counts = (image.getchannel(0) if image.mode == "PA" else image).histogram()
        used = (index for index, count in enumerate(counts) if count)
        return all(len(set(palette[3 * index : 3 * index + 3])) <= 1 for index in used)
    return image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode.startswith("I;16")
