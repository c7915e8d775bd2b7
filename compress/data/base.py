"""A source of data: its name and the function that opens it. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from runtime import Progress
from runtime.registry import imported

if TYPE_CHECKING:
    from .dataset import Dataset

    Open = Callable[[Path | None, bool, Progress], Dataset]


@dataclass(frozen=True)
class Source:
    """A source of pictures.

    Attributes:
        name: name of the source for ``--data``.
        open: the function that reads the pictures, or its place as ``"module:function"``. Its arguments are the folder
            after the name (None where none was given), whether to leave out pictures that cannot be decoded, and a
            callback for progress. It returns a ``Dataset``; pictures that it does not split are split by seed.
        folder: whether ``:FOLDER`` may or must follow the name.
        named_by_folders: whether folders name the classes, so that ``--class-order`` can order them.
        labelled: whether the pictures have labels.
        open_unlabelled: the function that reads the pictures and opens no label, or its place; it takes the arguments
            of ``open`` and returns a ``Dataset`` whose labels are all ``UNLABELLED``, without class names. None is for
            sources whose labels cannot be read apart from their pictures: ``open`` reads them, and they are dropped.
    """

    name: str
    open: Open | str
    folder: Literal["none", "optional", "required"] = "none"
    named_by_folders: bool = False
    labelled: bool = True
    open_unlabelled: Open | str | None = None

    @property
    def form(self) -> str:
        """The argument of ``--data``, such as ``cifar10[:FOLDER]``."""
        return self.name + {"none": "", "optional": "[:FOLDER]", "required": ":PATH"}[self.folder]

    def load(self, folder: Path | None, skip_bad: bool, progress: Progress) -> Dataset:
        """Reads the pictures.

        Raises:
            DataError: the data is not there or damaged.
        """
        return _called(self.open, folder, skip_bad, progress)

    def load_unlabelled(self, folder: Path | None, skip_bad: bool, progress: Progress) -> Dataset:
        """Reads the pictures alone: all labels are ``UNLABELLED``, and there are no class names.

        Raises:
            DataError: the data is not there or damaged.
        """
        return _called(self.open_unlabelled or self.open, folder, skip_bad, progress).without_labels


def _called(place: Open | str, folder: Path | None, skip_bad: bool, progress: Progress) -> Dataset:
    function: Open = imported(place) if isinstance(place, str) else place
    return function(folder, skip_bad, progress)
