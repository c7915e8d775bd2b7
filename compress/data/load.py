"""Loads datasets by name and splits them by seed into train, held-out and test."""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path

from compress.data import SOURCES, data_forms
from runtime import DataError, Progress, if_long, message, silent

from .class_order import ORDERS, check_same_classes, read_class_map, reordered, sorted_names
from .copies import copy_warnings
from .dataset import Dataset
from .splits import split


def load_data(
    name: str,
    *,
    seed: int = 0,
    train_limit: int | None = None,
    skip_bad: bool = False,
    class_order: str = "",
    class_map: Path | None = None,
    mirror: bool | None = None,
    labels: bool = True,
    progress: Progress = silent,
) -> Dataset:
    """Loads a dataset and splits it.

    The splits depend neither on the order of the classes nor on the place of a folder.

    Args:
        name: ``digits``, ``fashion-mnist``, ``cifar10``, ``cifar100``, each but the first optionally with
            ``:FOLDER`` where it lies, ``imagefolder:PATH`` (``train/``, ``val/`` and ``test/``, or one folder that
            is split by seed; a folder of pictures per class), or ``unlabelled:PATH`` (pictures at any depth, which have
            no labels).
        seed: seed of the splits.
        train_limit: use only this many training images, the same share of every class.
        skip_bad: leave out pictures of a folder that cannot be decoded.
        class_order: order of an image folder's classes, ``text`` or ``natural``; empty takes text.
        class_map: file with the classes in order, for ``read_class_map``; it is not opened without labels.
        mirror: whether a mirrored picture still belongs to its class; None takes the source's default.
        labels: whether to read the labels; without them, every label is ``UNLABELLED``, the data has no class names,
            and the splits are random.
        progress: called while pictures are checked, and for every note and warning.

    Raises:
        DataError: the name is unknown, the data is missing, a picture cannot be decoded, there are too few images or
            classes, or an order of classes does not fit.
    """
    kind, _, where = name.partition(":")
    if kind not in SOURCES:
        near = difflib.get_close_matches(kind, SOURCES, n=1)
        raise DataError(
            f"No dataset is called '{name}'",
            expected=", ".join(data_forms()),
            fix=f"Did you mean {near[0]}" if near else "A folder of your own is --data imagefolder:PATH",
        )
    source = SOURCES[kind]
    if where and source.folder == "none":
        raise DataError(f"The dataset '{kind}' takes no folder", got=name)
    if not where and source.folder == "required":
        raise DataError(f"{kind} needs a path", expected=f"--data {source.form}")
    if class_order and class_order not in ORDERS:
        raise DataError("--class-order is one of two", expected=" or ".join(ORDERS), got=repr(class_order))
    if class_order and class_map is not None:
        raise DataError("--class-order and --class-map are two orders of classes", fix="Give one of them")
    labels = labels and source.labelled
    if class_order and not labels:
        raise DataError("Data without labels has no classes to order", expected="no --class-order")
    if class_order and not source.named_by_folders:
        named = [own.form for own in SOURCES.values() if own.named_by_folders]
        raise DataError(
            f"The classes of {kind} have a fixed order",
            expected=f"--class-order for {', '.join(named)} alone",
            fix="Leave it out, or give --class-map",
        )
    read = source.load if labels else source.load_unlabelled
    raw = read(Path(where).expanduser() if where else None, skip_bad, progress)
    data = split(replace(raw, name=name), seed, train_limit)
    if labels:
        data = reordered(data, _order(data.class_names, class_order, class_map))
    warnings = (*_mirror_warnings(data, mirror), *_missing_warnings(data), *copy_warnings(data, if_long(progress)))
    for stage, notes in (("data", data.notes), ("warning", warnings)):
        for note in notes:
            message(progress, stage, note)
    return replace(data, warnings=warnings, mirror=data.mirror if mirror is None else mirror)


def _order(names: tuple[str, ...], class_order: str, class_map: Path | None) -> tuple[str, ...]:
    """Returns the classes in the requested order."""
    if class_map is not None:
        asked = read_class_map(class_map)
        check_same_classes(asked, names, f"The class map {class_map}", "Name each class folder once, and nothing else")
        return asked
    return sorted_names(names, class_order) if class_order else names


def _mirror_warnings(data: Dataset, mirror: bool | None) -> tuple[str, ...]:
    """Returns a warning where mirroring would swap two classes, such as ``left`` and ``right``."""
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
    """Returns a warning about classes without test images."""
    without = [name for label, name in enumerate(data.class_names) if not (data.labels[data.test] == label).any()]
    more = f" and {len(without) - 3} more" if len(without) > 3 else ""
    return (f"No test image is of the class {', '.join(without[:3])}{more}.",) if without else ()
