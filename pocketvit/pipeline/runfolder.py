"""A run's folder: its files, its settings, its log, and the lock that lets one process write."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketvit.lock import LOCK, locked
from pocketvit.settings import RunSettings
from runtime import METRICS_DOCUMENT, ArtifactError, Document, RunFolderError, encode, storage_errors
from runtime.storage.journals import RUN_LOG

if TYPE_CHECKING:
    from compress.data.data_list import DataList


def _of_units(settings: dict[str, Any], version: int) -> dict[str, Any]:
    """Says of a run of version 1 that it cuts units as they are, since bases came later."""
    return {"basis": "units"} | settings


RUN_DOCUMENT = Document("pocketvit.run", 2, RunSettings, key="settings", upgrade=_of_units)


@dataclass(frozen=True)
class RunFolder:
    """The files and folders of a run."""

    root: Path

    @property
    def name(self) -> str:
        """The name of the run, which its files begin with."""
        return self.root.resolve().name

    @property
    def settings(self) -> Path:
        """The run's settings."""
        return self.root / "run.json"

    @property
    def data(self) -> Path:
        """The list of the pictures that the run was begun with."""
        return self.root / "data.json"

    @property
    def unlabelled(self) -> Path:
        """The list of the pictures that a teacher labels."""
        return self.root / "unlabelled.json"

    @property
    def baseline(self) -> Path:
        """The model before pruning."""
        return self.root / "baseline"

    @property
    def sliced(self) -> Path:
        """The model after pruning."""
        return self.root / "sliced"

    @property
    def journal(self) -> Path:
        """The journal of the search."""
        return self.root / "search" / "journal.jsonl"

    @property
    def latency(self) -> Path:
        """The latency table of the search, if it counts time."""
        return self.root / "search" / "latency.json"

    def iteration(self, number: int) -> Path:
        """The journal and the model of one round of a search, counted from 1."""
        return self.root / "search" / f"iteration-{number:02}"

    @property
    def artifacts(self) -> Path:
        """The exported files."""
        return self.root / "artifacts"

    def bench(self, target: str) -> Path:
        """The measurements on a target."""
        return self.root / "bench" / f"{target}.json"

    def log(self, event: str, **details: Any) -> None:
        """Appends an event with its time to ``log.jsonl``.

        Raises:
            StorageError: the file cannot be written.
        """
        line = {"utc": datetime.now(UTC).isoformat(timespec="seconds"), "event": event, **details}
        RUN_LOG.append(self.root / "log.jsonl", line)


@contextmanager
def claim(
    root: Path, settings: RunSettings, *, resume: bool, force: bool, data: DataList | None = None
) -> Iterator[RunFolder]:
    """Makes or opens a run's folder and locks it for this process.

    Args:
        root: the folder.
        settings: settings of the run; a resumed run must have the same.
        resume: continue an existing run, or start a new one.
        force: replace an existing run.
        data: the pictures; a resumed run must have the same, though they may have been moved. None checks none.

    Raises:
        RunFolderError: the folder exists without ``resume`` or ``force``, is no run folder, has other settings or other
            pictures, or is locked by another process; or its name cannot be part of file names.
        StorageError: there is no space, or no permission to write.
    """
    run = RunFolder(root)
    filled = check_place(root, resume=resume, force=force)
    with locked(root, "writing to"):
        if filled and force:
            _clear(root)
        elif filled:
            settings = _check_same(run, settings, may_move=data is not None and run.data.is_file())
            if data is not None:
                check_list(run, run.data, data)
        _sweep(root)
        if not run.settings.exists() or read_settings(run).data != settings.data:
            RUN_DOCUMENT.write(run.settings, settings)
        if data is not None:
            keep_list(run, run.data, data)
        yield run


def check_place(root: Path, *, resume: bool, force: bool) -> bool:
    """Checks that a run may be made or opened in a folder; returns whether the folder holds one already.

    Raises:
        RunFolderError: the folder exists without ``resume`` or ``force``, or is no run folder; or its name cannot be
            part of file names.
    """
    _check_name(root)
    if root.exists() and not root.is_dir():
        raise RunFolderError(f"{root} is a file", fix="Choose another run with --name or --runs")
    filled = root.is_dir() and any(path.name != LOCK and not path.match(_FIRST_FILE) for path in root.iterdir())
    if filled and not RunFolder(root).settings.is_file():
        raise RunFolderError(f"{root} exists and is no run folder", fix="Choose another run with --name or --runs")
    if filled and not (resume or force):
        raise RunFolderError(
            f"The run {root} exists already",
            fix="Continue it with --resume, replace it with --force, or choose another --name",
        )
    return filled


def adopt_baseline(run: RunFolder, baseline: Path, copy: Callable[[str, str], object] = shutil.copy2) -> None:
    """Puts a finished model of another run into a run's folder as its baseline.

    Args:
        run: the run, which this process has claimed.
        baseline: folder of the model.
        copy: copies a file.

    Raises:
        ArtifactError: ``baseline`` is not finished.
        StorageError: there is no space, or no permission to write.
    """
    METRICS_DOCUMENT.read(baseline / "metrics.json")
    with storage_errors(run.root):
        # a killed training's leftovers are of no more use
        shutil.rmtree(run.baseline, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=run.root, prefix=".export-") as scratch:
            place, ignored = Path(scratch) / "baseline", shutil.ignore_patterns("training.safetensors", ".*")
            shutil.copytree(baseline, place, ignore=ignored, copy_function=copy)
            place.replace(run.baseline)


def read_settings(run: RunFolder) -> RunSettings:
    """Reads the settings of a run.

    Raises:
        RunFolderError: the folder is no run folder.
        ArtifactError: ``run.json`` is damaged or of a newer version.
    """
    if not run.settings.is_file():
        raise RunFolderError(f"{run.root} is no run folder", expected="run.json in it")
    return RUN_DOCUMENT.read(run.settings)


def keep_list(run: RunFolder, path: Path, now: DataList) -> None:
    """Writes the list of a run's pictures, or checks it against the list that exists.

    Raises:
        RunFolderError: see ``check_list``.
        ArtifactError: the list is damaged.
        StorageError: it cannot be written.
    """
    if path.is_file():
        check_list(run, path, now)
    else:
        from compress.data.data_list import DATA_DOCUMENT

        DATA_DOCUMENT.write(path, now)


def check_list(run: RunFolder, path: Path, now: DataList) -> None:
    """Checks that a run continues with the pictures it was begun with; older runs have no list and are not checked.

    Args:
        run: the run.
        path: file with the list.
        now: the pictures as they are now.

    Raises:
        RunFolderError: pictures were added, removed, renamed or changed, or their labels or splits differ.
        ArtifactError: the list is damaged.
    """
    if not path.is_file():
        return
    from compress.data.data_list import DATA_DOCUMENT, differences

    before = DATA_DOCUMENT.read(path)
    differ = differences(before, now)
    if differ:
        moved = f"{before.data} is now {now.data}; " if before.data != now.data else ""
        raise RunFolderError(
            f"The data of the run {run.root} has changed since it was begun",
            expected=f"the {before.train + before.held_out + before.test:,} images listed in {path.name}",
            got=f"{moved}{'; '.join(differ)}",
            fix="Put the data back as it was, replace the run with --force, or choose another --name",
        )


_FIRST_FILE = ".run.json.*.tmp"
"""Name of the first file of a run while it is written; a folder in which a process was killed then is empty."""

_LONGEST_NAME = 200
"""Most bytes in the name of a run, to which file names add; file systems take at most 255."""


def _check_name(root: Path) -> None:
    raw = os.fsencode(root.name)
    try:
        raw.decode()
    except UnicodeDecodeError:
        shown = raw.decode("utf-8", "backslashreplace")
        raise RunFolderError(f"The run's name {shown} is not UTF-8", fix="Choose another --name") from None
    if len(raw) > _LONGEST_NAME:
        raise RunFolderError(
            f"The run's name {root.name[:40]}… is too long for the names of its files",
            expected=f"at most {_LONGEST_NAME} bytes",
            got=len(raw),
            fix="Choose a shorter --name",
        )


def _check_same(run: RunFolder, settings: RunSettings, may_move: bool = False) -> RunSettings:
    """Returns the settings of the run, with the new place of data that was moved."""
    try:
        own = read_settings(run)
        before = encode(own)
    except ArtifactError as error:
        raise RunFolderError(f"{error} The run cannot be resumed", fix="Replace it with --force") from error
    now = encode(settings)
    # a run can continue on any device
    free = {"device", *(("data",) if may_move else ())}
    if own.basis == "units" and settings.basis == "auto" and settings.importance in ("", own.importance):
        free |= {"basis", "importance"}  # what was begun by units goes on by them
    differ = (key for key in now if key not in free and before[key] != now[key])
    changed = [f"{key} was {before[key]!r} and is now {now[key]!r}" for key in differ]
    if changed:
        raise RunFolderError(
            f"The run {run.root} was made with other settings: {'; '.join(changed)}",
            fix="Resume with the same settings, replace it with --force, or choose another --name",
        )
    return replace(own, data=settings.data) if may_move else own


def _sweep(root: Path) -> None:
    """Removes half-written files of a killed process."""
    for path in [*root.rglob(".*.tmp"), *root.rglob(".export-*")]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _clear(root: Path) -> None:
    with storage_errors(root):
        for path in root.iterdir():
            if path.name == LOCK:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
