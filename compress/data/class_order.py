"""The order of a dataset's classes, which is the order of a classifier's outputs."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from runtime import DataError

from .dataset import Dataset

ORDERS = ("text", "natural")
"""``text`` compares names by character, as torchvision does; ``natural`` compares numbers by value, as timm does."""


def natural_key(name: str) -> tuple[list[int | str], str]:
    """Returns the sort key of class names in timm's reader of image folders; equal names are sorted as text.

    >>> sorted(["10", "2", "b1", "A2"], key=natural_key)
    ['2', '10', 'A2', 'b1']
    """
    parts = re.split(r"(\d+)", name.lower())
    return [int(part) if part.isdecimal() else part for part in parts], name


def sorted_names(names: Sequence[str], order: str) -> tuple[str, ...]:
    """Returns names in one of ``ORDERS``."""
    return tuple(sorted(names, key=natural_key)) if order == "natural" else tuple(sorted(names))


def reordered(data: Dataset, names: Sequence[str]) -> Dataset:
    """Returns ``data`` with its classes in the order of ``names``, which must be the same classes.

    The splits and the labels of unlabelled pictures (-1) do not change.
    """
    if tuple(names) == data.class_names:
        return data
    places = {name: index for index, name in enumerate(names)}
    moved = np.array([*(places[name] for name in data.class_names), -1], np.int64)
    return replace(data, class_names=tuple(names), labels=moved[data.labels])


def check_same_classes(names: Sequence[str], data: Sequence[str], what: str, fix: str) -> None:
    """Checks that ``names`` are the classes of the data in any order.

    Args:
        names: class names to check.
        data: class names of the data.
        what: owner of ``names``, for the error text.
        fix: advice for the error text.

    Raises:
        DataError: a class is missing, unknown, or named twice.
    """
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise DataError(f"{what} names a class twice", got=_few(twice))
    missing, extra = sorted(set(data) - set(names)), sorted(set(names) - set(data))
    if missing or extra:
        differences = [f"it lacks {_few(missing)}"] if missing else []
        differences += [f"it has {_few(extra)}, which the data lacks"] if extra else []
        raise DataError(
            f"{what} names other classes than the data",
            expected=_few(sorted(data)),
            got="; ".join(differences),
            fix=fix,
        )


def as_checkpoint_knows(data: Dataset, known: Sequence[str], asked: bool, cure: str = "") -> Dataset:
    """Returns ``data`` with its classes in the order of a checkpoint's outputs.

    Args:
        data: the data, in the requested order or in text order.
        known: class names of the checkpoint, in the order of its outputs.
        asked: whether the user requested an order.
        cure: further advice for a checkpoint with other classes.

    Raises:
        DataError: the checkpoint has other classes, or the user requested another order.
    """
    fix = "Choose the data it was trained on, or give --reset-head to train a new classifier"
    check_same_classes(known, data.class_names, "The checkpoint", fix + cure)
    pairs = zip(data.class_names, known, strict=True)
    differ = [(place, own, other) for place, (own, other) in enumerate(pairs) if own != other]
    if asked and differ:
        place, own, other = differ[0]
        raise DataError(
            "The checkpoint names its classes in another order than the requested one",
            expected=f"class {place} to be {other}",
            got=own,
            fix="Leave out --class-order and --class-map",
        )
    return reordered(data, known)


def read_class_map(path: Path) -> tuple[str, ...]:
    """Reads the order of classes from a file.

    A ``.txt`` file has one name a line, as timm's class maps. A ``.json`` file is a list of names, an object from name
    to index, or an object from index to name or to a list that begins with the name.

    Raises:
        DataError: the file is missing or of another kind, or its indices are not 0 to N - 1, each once.
    """
    if path.suffix.lower() not in (".txt", ".json"):
        raise DataError(
            f"The class map {path} is of another kind",
            expected=".txt with one class a line, or .json",
            got=path.suffix or "no ending",
            fix="Write the classes to a .txt file, one a line, in the order of the model's outputs",
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"The class map {path} does not exist", fix="Change --class-map") from None
    except (OSError, ValueError) as error:
        raise DataError(f"The class map {path} cannot be read", expected="a text file in UTF-8", got=error) from error
    if path.suffix.lower() == ".txt":
        return _from_lines(path, text)
    try:
        return _from_json(path, json.loads(text))
    except (ValueError, RecursionError) as error:
        raise DataError(f"The class map {path} is not valid JSON", got=error) from error


def _from_lines(path: Path, text: str) -> tuple[str, ...]:
    names = [line.strip() for line in text.rstrip().splitlines()]
    if not all(names):
        place = names.index("") + 1 if names else 1
        raise DataError(f"Line {place} of the class map {path} is empty", expected="one class a line")
    return tuple(names)


def _from_json(path: Path, content: Any) -> tuple[str, ...]:
    if isinstance(content, list) and content and all(isinstance(name, str) for name in content):
        return tuple(content)
    pairs: list[tuple[Any, Any]] = []
    if isinstance(content, dict):
        if all(isinstance(value, int) and not isinstance(value, bool) for value in content.values()):
            pairs = [(index, name) for name, index in content.items()]
        elif all(key.isdecimal() for key in content):
            pairs = [
                (int(key), value[0] if isinstance(value, list) and value else value) for key, value in content.items()
            ]
    if not pairs or not all(isinstance(name, str) for _, name in pairs):
        raise DataError(
            f"The class map {path} cannot be understood",
            expected="a list of names, or an object of name to index or of index to name",
        )
    indices = Counter(index for index, _ in pairs)
    wrong = sorted(set(range(len(pairs))) ^ set(indices))
    if wrong or len(indices) < len(pairs):
        raise DataError(
            f"The indices in the class map {path} do not count the classes",
            expected=f"0 to {len(pairs) - 1}, each once",
            got=f"{_few([str(index) for index in wrong])} missing or too many",
        )
    return tuple(name for _, name in sorted(pairs))


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{', '.join(names[:5])}{more}"
