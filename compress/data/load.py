"""Datasets by name, each split once and for all by seed into train, held-out and test."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from runtime import DataError, Progress, if_long, message, silent

from .class_order import ORDERS, check_same_classes, read_class_map, reordered, sorted_names
from .copies import copy_warnings
from .dataset import Dataset
from .image_folder import image_folder
from .sources import cifar, digits, fashion_mnist
from .stratified import stratified

HELD_OUT = 0.1
"""Share of the training images held out to monitor training and to calibrate; never trained on."""

TEST = 0.2
"""Share of all images that becomes the test split where a dataset does not come with one."""


def load_data(
    name: str,
    *,
    seed: int = 0,
    train_limit: int | None = None,
    skip_bad: bool = False,
    class_order: str = "",
    class_map: Path | None = None,
    mirror: bool | None = None,
    progress: Progress = silent,
) -> Dataset:
    """Loads a dataset and splits it.

    The splits do not depend on the order of the classes, nor on where a folder lies.

    Args:
        name: ``digits``, ``fashion-mnist``, ``cifar10``, ``cifar100``, each but the first optionally with
            ``:FOLDER`` where it lies, or ``imagefolder:PATH`` (``train/``, ``val/`` and ``test/``, or one folder that
            is split by seed; a folder of pictures per class).
        seed: of the splits.
        train_limit: use only this many training images, the same share of every class.
        skip_bad: leave out pictures of a folder that cannot be decoded, instead of stopping.
        class_order: of an image folder's classes, ``text`` or ``natural``; empty takes text.
        class_map: file with the classes in order, as ``read_class_map`` takes it.
        mirror: whether a mirrored picture still belongs to its class; None takes what is usual for the data.
        progress: told while a folder's pictures are checked, and what was found.

    Raises:
        DataError: unknown name, data that is not there, an unreadable picture, too few images or classes, or an order
            of classes that does not fit them.
    """
    kind, _, where = name.partition(":")
    if kind not in _LOADERS:
        near = difflib.get_close_matches(kind, _LOADERS, n=1)
        raise DataError(
            f"No dataset is called '{name}'",
            expected=", ".join([*list(_LOADERS)[:-1], "imagefolder:PATH"]),
            fix=f"Did you mean {near[0]}" if near else "A folder of your own is --data imagefolder:PATH",
        )
    if kind == "digits" and where:
        raise DataError("The dataset 'digits' is built in and takes no folder", got=name)
    if class_order and class_order not in ORDERS:
        raise DataError("--class-order is one of two", expected=" or ".join(ORDERS), got=repr(class_order))
    if class_order and class_map is not None:
        raise DataError("--class-order and --class-map are two orders of classes", fix="Give one of them")
    if class_order and kind != "imagefolder":
        raise DataError(
            f"The classes of {kind} have an order of their own",
            expected="--class-order for imagefolder:PATH alone",
            fix="Leave it out, or give --class-map",
        )
    raw = _LOADERS[kind](Path(where).expanduser() if where else None, skip_bad, progress)
    split = _split(replace(raw, name=name), seed, train_limit)
    data = reordered(split, _order(split.class_names, class_order, class_map))
    warnings = (*_mirror_warnings(data, mirror), *_missing_warnings(data), *copy_warnings(data, if_long(progress)))
    for stage, notes in (("data", data.notes), ("warning", warnings)):
        for note in notes:
            message(progress, stage, note)
    return replace(data, warnings=warnings, mirror=data.mirror if mirror is None else mirror)


def _order(names: tuple[str, ...], class_order: str, class_map: Path | None) -> tuple[str, ...]:
    """Returns the classes in the order that was asked for."""
    if class_map is not None:
        asked = read_class_map(class_map)
        check_same_classes(asked, names, f"The class map {class_map}", "Name each class folder once, and nothing else")
        return asked
    return sorted_names(names, class_order) if class_order else names


def _mirror_warnings(data: Dataset, mirror: bool | None) -> tuple[str, ...]:
    """Returns a warning where classes differ by left and right, and training would swap them."""
    if mirror is not None or not data.mirror:
        return ()
    pairs = [(name, _swapped(name)) for name in data.class_names if "left" in name.lower()]
    found = [(name, other) for name, other in pairs if other in data.class_names]
    return tuple(
        f"Training mirrors pictures, and the classes {name} and {other} may be mirror images: give --no-mirror."
        for name, other in found[:1]
    )


def _swapped(name: str) -> str:
    for one, other in (("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT")):
        name = name.replace(one, other)
    return name


def _missing_warnings(data: Dataset) -> tuple[str, ...]:
    """Returns a warning where a class has no test images."""
    without = [name for label, name in enumerate(data.class_names) if not (data.labels[data.test] == label).any()]
    more = f" and {len(without) - 3} more" if len(without) > 3 else ""
    return (f"No test image is of the class {', '.join(without[:3])}{more}.",) if without else ()


def search_set(data: Dataset, per_class: int, seed: int) -> npt.NDArray[np.int64]:
    """Returns up to ``per_class`` random training indices of every class, shuffled.

    Ref: docs, "Search Set": fresh images of the training split for every iteration of the search.
    """
    generator = np.random.default_rng([seed, 0x5EA6C4])
    labels = data.labels[data.train]
    chosen = [generator.permutation(data.train[labels == c])[:per_class] for c in range(data.num_classes)]
    return generator.permutation(np.concatenate(chosen))


def _split(raw: Dataset, seed: int, train_limit: int | None) -> Dataset:
    """Splits off what a dataset does not come split: test (20 %) and held-out (10 % of the rest), per class."""
    counts = np.bincount(raw.labels[raw.train], minlength=raw.num_classes)
    fewest = int(counts.min())
    if raw.num_classes < 2 or fewest < 3:
        small = raw.class_names[int(counts.argmin())]
        raise DataError(
            f"The dataset '{raw.name}' is too small to split",
            expected="two classes or more, with at least 3 training images each",
            got=f"{raw.num_classes} classes; '{small}' has {fewest}",
            fix=" ".join(("Found:", *raw.notes)) if raw.notes else None,
        )
    train, test, held_out = raw.train, raw.test, raw.held_out
    if not len(test):
        train, test = _divide(raw.labels, train, TEST, np.random.default_rng([seed, 1]))
    if not len(held_out):
        train, held_out = _divide(raw.labels, train, HELD_OUT, np.random.default_rng([seed, 2]))
    if train_limit is not None:
        if train_limit < raw.num_classes:
            raise DataError(
                "--train-limit leaves a class empty", expected=f"{raw.num_classes} or more", got=train_limit
            )
        if train_limit < len(train):
            train = stratified(raw.labels, train, train_limit, np.random.default_rng([seed, 3]))
    return replace(raw, train=np.sort(train), held_out=np.sort(held_out), test=np.sort(test))


def _divide(
    labels: npt.NDArray[np.int64], indices: npt.NDArray[np.int64], share: float, generator: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns (rest, part): ``share`` of every class, at least one image of each, chosen at random."""
    part = []
    for c in np.unique(labels[indices]):
        own = generator.permutation(indices[labels[indices] == c])
        part.append(own[: max(1, round(share * len(own)))])
    chosen = np.concatenate(part)
    return np.setdiff1d(indices, chosen), chosen


_LOADERS: dict[str, Callable[[Path | None, bool, Progress], Dataset]] = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar("CIFAR10"),
    "cifar100": cifar("CIFAR100"),
    "imagefolder": image_folder,
}


def known_data() -> tuple[str, ...]:
    """Returns the names ``load_data`` takes."""
    return tuple(_LOADERS)
