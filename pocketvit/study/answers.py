"""The predictions of every file of a cell on all test images, made where the cell was made, and its packed size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compress.model.folder import read_task
from device_bench.documents.figures import Accuracy, without_zeros
from device_bench.metrics.accuracy import accuracy_of
from export.formats import kind_of
from pocketvit.pipeline.benching import packed
from pocketvit.pipeline.run_data import data_of_run
from pocketvit.pipeline.runfolder import RunFolder, read_settings
from runtime import Artifact, Document, Progress, Session, open_engine, read_artifact, silent
from runtime.formats import model_files

FILE = "answers.json"


@dataclass(frozen=True)
class FileAnswers:
    """One file.

    Attributes:
        file: its name.
        kind: of it, as ``--formats`` calls it.
        sha256: of its bytes.
        size_bytes: on disk.
        gzip_bytes: packed by gzip, as its manifest says; none where that does not.
        accuracy: its answers; none without labels, nor of a file for microcontrollers, which answered only when it was
            checked.
        top1: accuracy, 0..1; none without labels.
    """

    file: str
    kind: str
    sha256: str
    size_bytes: int
    gzip_bytes: int | None
    accuracy: Accuracy | None
    top1: float | None


@dataclass(frozen=True)
class Answers:
    """All files of a cell.

    Attributes:
        labels: true classes of the test images, in the order of the answers; none in a run without labels.
        class_names: of them.
        files: in the order of their kinds.
    """

    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    files: tuple[FileAnswers, ...]


ANSWERS_DOCUMENT = Document("pocketvit.study-answers", 2, Answers, upgrade=without_zeros)


def answer(root: Path, progress: Progress = silent) -> None:
    """Runs the exported files of a run's sliced model on the test images, and writes ``answers.json``.

    Raises:
        ArtifactError: a file is missing or damaged.
        DataError: the data is not there.
        StorageError: there is no space, or no permission to write.
    """
    folder = RunFolder(root)
    task = read_task(folder.sliced)
    data = data_of_run(folder, read_settings(folder), task)
    images = packed(data, task, len(data.test)) if data.labelled else None
    found = []
    for path in model_files(folder.artifacts):
        if path.name.startswith(f"{folder.name}."):
            artifact = read_artifact(path)
            kind = kind_of(artifact)
            own_run = kind is not None and kind.run is not None
            accuracy = None
            if images is not None and not own_run:
                accuracy = accuracy_of(_session(artifact, path), images, progress=progress)
            found.append(_answers(artifact, accuracy))
    labels = tuple(map(int, images.labels)) if images else ()
    body = Answers(labels, data.class_names, tuple(found))
    ANSWERS_DOCUMENT.write(root / FILE, body)


def read_answers(root: Path) -> Answers:
    """Reads the answers of a run's files.

    Raises:
        ArtifactError: the document is missing or damaged.
    """
    return ANSWERS_DOCUMENT.read(root / FILE)


def _session(artifact: Artifact, path: Path) -> Session:
    return Session(artifact, open_engine(path, threads=1))


def _answers(artifact: Artifact, accuracy: Accuracy | None) -> FileAnswers:
    return FileAnswers(
        file=artifact.file,
        kind=kind.name if (kind := kind_of(artifact)) else artifact.precision,
        sha256=artifact.sha256,
        size_bytes=artifact.size_bytes,
        gzip_bytes=artifact.gzip_bytes,
        accuracy=accuracy,
        top1=artifact.parity.top1 if accuracy is None else accuracy.top1,
    )
