"""The folder of a study: who may write to it, what became of each cell, and where everything is."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pocketvit.lock import LOCK, locked
from runtime import Document, RunFolderError, storage_errors

from .cells import StudyCell


@dataclass(frozen=True)
class CellState:
    """How far a cell has come.

    Attributes:
        cell: its name.
        command: that makes its model.
        words: options of it.
        export_words: options of its export.
        outcome: how far.
        error: what went wrong; none where nothing did.
        where: the machine that did it.
        baseline: the work whose fine-tuned model it was given; empty where it trained its own.
    """

    cell: str
    command: str
    words: tuple[str, ...]
    export_words: tuple[str, ...]
    outcome: Literal["begun", "done", "failed"]
    error: str | None = None
    where: str = ""
    baseline: str = ""


CELL_DOCUMENT = Document("pocketvit.study-cell", 1, CellState)


@dataclass(frozen=True)
class StudyFolder:
    """The places in a study's folder."""

    root: Path

    def run(self, name: str) -> Path:
        """The run folder of a cell, or of a fine-tuned model."""
        return self.root / name

    @staticmethod
    def baseline(key: str) -> str:
        """The name of the work that trains a shared model."""
        return f"baselines/{key}"

    @property
    def bench(self) -> Path:
        """The measurements, one document a target."""
        return self.root / "bench"

    @property
    def measured(self) -> Path:
        """The commands that took them."""
        return self.root / "measured.json"

    def state(self, cell: str) -> Path:
        """What became of a cell."""
        return self.root / "status" / f"{cell}.json"


def write_state(
    folder: StudyFolder,
    cell: StudyCell,
    outcome: Literal["begun", "done", "failed"],
    error: str | None = None,
    where: str = "",
    baseline: str | None = None,
) -> None:
    """Notes how far a cell has come.

    Args:
        folder: the study's.
        cell: it.
        outcome: how far.
        error: what went wrong.
        where: the machine that did it.
        baseline: the work whose model it is given; None leaves what was noted before.

    Raises:
        StorageError: the folder cannot be written.
    """
    if baseline is None:
        before = CELL_DOCUMENT.read_if_there(folder.state(cell.name))
        baseline = before.baseline if before else ""
    state = CellState(cell.name, cell.command, cell.words, cell.export_words, outcome, error, where, baseline)
    CELL_DOCUMENT.write(folder.state(cell.name), state)


@contextmanager
def claim_study(root: Path, cells: Sequence[StudyCell], *, force: bool) -> Iterator[StudyFolder]:
    """Makes or takes up a study's folder, for this process alone.

    Args:
        root: the folder.
        cells: of the study as it is now.
        force: throw away cells that were made with other settings.

    Raises:
        RunFolderError: the folder is no study's, a cell in it was made with other settings, or another process
            writes to it.
        StorageError: there is no space, or no permission to write.
    """
    folder = StudyFolder(root)
    if root.exists() and not root.is_dir():
        raise RunFolderError(f"{root} is a file", fix="Choose another folder with --runs, or another [study] name")
    filled = root.is_dir() and any(path.name != LOCK for path in root.iterdir())
    if filled and not (root / "status").is_dir():
        raise RunFolderError(
            f"{root} exists and is no study's folder", fix="Choose another folder with --runs, or another [study] name"
        )
    with locked(root, "working on the study in"):
        with storage_errors(root):
            (root / "status").mkdir(exist_ok=True)
        changed = {cell.name: changes for cell in cells if (changes := _changes(folder, cell))}
        if changed and not force:
            name, changes = next(iter(changed.items()))
            raise RunFolderError(
                f"{len(changed)} of the cells in {root} were made with other settings, such as {name}: {changes}",
                fix="Take the change back, make them anew with --force, or give the study another name",
            )
        for name in changed:
            _forget(folder, name)
        yield folder


def _changes(folder: StudyFolder, cell: StudyCell) -> str:
    """Returns what differs between a cell's options and those it was begun with, in any order; empty if nothing."""
    state = CELL_DOCUMENT.read_if_there(folder.state(cell.name))
    if state is None:
        return ""
    changes = []
    pairs = (((state.command,), (cell.command,)), (state.words, cell.words), (state.export_words, cell.export_words))
    for before, now in pairs:
        was, is_now = _options(before), _options(now)
        gone, come = ([own for own in one if own not in other] for one, other in ((was, is_now), (is_now, was)))
        if gone or come:
            changes.append(f"{' '.join(gone) or 'nothing'} is now {' '.join(come) or 'left out'}")
    return "; ".join(dict.fromkeys(changes))


def _options(words: Sequence[str]) -> list[str]:
    """Returns each option with its value."""
    found: list[str] = []
    for word in words:
        if word.startswith("--") or not found:
            found.append(word)
        else:
            found[-1] += f" {word}"
    return found


def _forget(folder: StudyFolder, cell: str) -> None:
    place = folder.run(cell)
    with storage_errors(place):
        if place.exists():
            shutil.rmtree(place)
        folder.state(cell).unlink(missing_ok=True)
