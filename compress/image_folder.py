"""A folder of pictures as a dataset."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from runtime import DataError, Progress, open_image

from .dataset import Dataset, FileImages

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"}
_NONE = np.zeros(0, np.int64)


def image_folder(folder: Path | None, skip_bad: bool, progress: Progress) -> Dataset:
    """Reads ``train/`` and ``val/``, or one folder, with a folder of pictures per class.

    Args:
        folder: where they are.
        skip_bad: leave out pictures that cannot be decoded.
        progress: told while they are checked.

    Raises:
        DataError: no folder, no classes, no pictures, or one that cannot be decoded.
    """
    if folder is None:
        raise DataError("imagefolder needs a path", expected="--data imagefolder:PATH")
    if not folder.is_dir():
        raise DataError(f"The image folder {folder} does not exist")
    roots = [folder / "train", folder / "val"] if (folder / "train").is_dir() else [folder]
    if len(roots) == 2 and not roots[1].is_dir():
        raise DataError(f"{folder} has train/ but no val/", fix="Add val/, or give one folder with a folder per class")
    names = tuple(sorted(p.name for p in roots[0].iterdir() if p.is_dir() and not p.name.startswith(".")))
    if not names:
        raise DataError(f"{roots[0]} holds no classes", expected="one folder of pictures per class")
    extra = sorted({p.name for p in roots[-1].iterdir() if p.is_dir() and not p.name.startswith(".")} - set(names))
    if extra:
        raise DataError(f"{roots[-1]} has classes that train/ has not", got=", ".join(extra[:5]))
    parts = [_list_images(root, names) for root in roots]
    paths = [path for part in parts for path, _ in part]
    labels = [label for part in parts for _, label in part]
    good = check_images(paths, skip_bad, progress)
    cut = sum(good[: len(parts[0])])
    paths = [path for path, ok in zip(paths, good, strict=True) if ok]
    kept = np.array([label for label, ok in zip(labels, good, strict=True) if ok], np.int64)
    if not paths:
        raise DataError(f"{folder} holds no pictures", expected=", ".join(sorted(IMAGE_SUFFIXES)))
    train = np.arange(cut, dtype=np.int64)
    test = np.arange(cut, len(kept), dtype=np.int64)
    if len(roots) == 2 and not len(test):
        raise DataError(
            f"{roots[1]} holds no pictures", fix="Add some, or remove val/ and take train/ as the one folder"
        )
    channels = 1 if all(_is_gray(path) for path in paths[:64]) else 3
    return Dataset("imagefolder", names, channels, None, True, FileImages(tuple(paths)), kept, train, _NONE, test)


def _list_images(root: Path, names: Sequence[str]) -> list[tuple[Path, int]]:
    found = []
    for label, name in enumerate(names):
        folder = root / name
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES) if folder.is_dir() else []
        found += [(path, label) for path in files]
    return found


def check_images(paths: Sequence[Path], skip_bad: bool, progress: Progress) -> list[bool]:
    """Decodes every picture once, so that a bad one is found now and not hours into training.

    Returns:
        Which of them are good.

    Raises:
        DataError: one cannot be decoded, and bad ones are not to be left out.
    """

    def problem(path: Path) -> str | None:
        try:
            open_image(path)
        except DataError as error:
            return str(error)
        return None

    good = []
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for done, (path, bad) in enumerate(zip(paths, pool.map(problem, paths), strict=True), 1):
            if bad is not None and not skip_bad:
                pool.shutdown(wait=True, cancel_futures=True)
                raise DataError(bad, fix=f"Replace or remove {path}, or leave bad pictures out with --skip-bad")
            good.append(bad is None)
            progress("check images", done, len(paths))
            if bad is not None:
                skipped = good.count(False)
                # a stage of its own, and always at its end: a listener that thins out progress must not drop it
                progress("left out", skipped, skipped, f"skipped {path}")
    return good


def _is_gray(path: Path) -> bool:
    with Image.open(path) as image:
        return image.mode in {"1", "L", "I;16", "I", "LA"}
