"""Accuracy of an exported file on the target: labelled images in, a confusion matrix out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from device_bench import format
from device_bench.documents.figures import Accuracy, confusion
from device_bench.interval import share_interval
from runtime import (
    ArtifactError,
    DataError,
    Preprocessing,
    Progress,
    Session,
    atomic_path,
    load,
    normalise,
    preprocess,
    silent,
)

from .base import REFERENCE, VIEWS, Measured, Metric, MetricTask, column, held

_STEP = 16
_KEYS = ("pictures", "labels", "data", "split", "class_names")


@dataclass(frozen=True, eq=False)
class TestImages:
    """Labelled pictures, all of one size.

    Pictures of the size and channels that a model reads count as prepared for it: they are only normalised.

    Attributes:
        pictures: ``(N, H, W, C)`` uint8, C being 1 or 3.
        labels: true classes, ``(N,)`` int64, 0 to ``len(class_names) - 1``.
        data: the dataset's name.
        split: split of the dataset.
        class_names: names of the labels.

    Raises:
        DataError: there is no picture, or shapes, types and labels do not fit together.
    """

    __test__ = False

    pictures: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    data: str
    split: str
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        shape = self.pictures.shape
        if self.pictures.dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3) or not min(shape):
            raise DataError(
                "Test images are uint8 pictures of one size",
                expected="uint8 (N, H, W, 1 or 3), N of 1 or more",
                got=f"{self.pictures.dtype} {shape}",
            )
        if self.labels.dtype != np.int64 or self.labels.shape != shape[:1]:
            raise DataError(
                "Each test image has a label",
                expected=f"int64 {shape[:1]}",
                got=f"{self.labels.dtype} {self.labels.shape}",
            )
        if not 0 <= self.labels.min() <= self.labels.max() < len(self.class_names):
            raise DataError(
                "A test image has a label of no class",
                expected=f"0 to {len(self.class_names) - 1}",
                got=f"{self.labels.min()} to {self.labels.max()}",
            )


def write_test_images(path: Path, images: TestImages) -> None:
    """Writes ``images`` as a compressed ``.npz`` file, atomically.

    Raises:
        StorageError: the file cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            pictures=images.pictures,
            labels=images.labels,
            data=np.array(images.data),
            split=np.array(images.split),
            class_names=np.array(images.class_names),
        )


def read_test_images(path: Path) -> TestImages:
    """Reads what ``write_test_images`` wrote.

    Raises:
        ArtifactError: the file is missing or damaged.
        DataError: pictures and labels do not fit together.
    """
    try:
        # numpy leaves a file open that it cannot read
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            pictures, labels, data, split, names = (stored[key] for key in _KEYS)
    except FileNotFoundError:
        raise ArtifactError(f"The file of labelled images {path} does not exist") from None
    except Exception as error:  # on damaged bytes zip, zlib and numpy raise whatever they stumble over
        raise _refusal(path, error) from error
    if not (data.ndim == split.ndim == 0 and names.ndim == 1 and {data.dtype.kind, split.dtype.kind} == {"U"}):
        raise _refusal(path, "names that are no texts")
    return TestImages(pictures, labels, str(data), str(split), tuple(str(name) for name in names))


def accuracy_of(
    session: Session, images: TestImages, *, progress: Progress = silent, sign: Callable[[], None] = lambda: None
) -> Accuracy:
    """Classifies ``images`` with a loaded file, and counts the answers.

    Args:
        session: the loaded file.
        images: labelled images of the file's classes.
        progress: called with the images done.
        sign: called every few images, to show that nothing hangs.

    Raises:
        DataError: the file knows other classes than the images have.
        MissingExtraError: Pillow is not installed.
    """
    artifact = session.artifact
    if artifact.output_kind != "classes":
        raise DataError(f"{artifact.file} has no accuracy: its output is a {artifact.output_kind} and not classes")
    if artifact.class_names != images.class_names:
        raise DataError(
            f"{artifact.file} knows other classes than the test images",
            expected=_few(artifact.class_names),
            got=_few(images.class_names),
        )
    fixed, count = artifact.input.shape[0], len(images.labels)
    step = fixed if fixed > 1 else _STEP
    answers = np.zeros(count, np.int64)
    for first in range(0, count, step):
        progress("accuracy", first, count, artifact.file)
        sign()
        inputs = _ready(images.pictures[first:][:step], artifact.preprocessing)
        short = step - len(inputs) if fixed > 1 else 0
        filled = np.concatenate([inputs, np.repeat(inputs[-1:], short, axis=0)]) if short else inputs
        answers[first : first + len(inputs)] = session.logits(filled)[: len(inputs)].argmax(axis=1)
    progress("accuracy", count, count, artifact.file)
    counts = confusion(images.labels, answers)
    return Accuracy(images.data, images.split, len(images.class_names), counts, tuple(map(int, answers)))


def _ready(pictures: npt.NDArray[np.uint8], spec: Preprocessing) -> npt.NDArray[np.float32]:
    """Returns pictures as the model's input; those of its size are ready and are neither scaled nor cropped."""
    if pictures.shape[1:] == (spec.height, spec.width, spec.channels):
        return normalise(pictures, spec)
    return np.stack([preprocess(picture, spec) for picture in pictures])


def _refusal(path: Path, got: Any) -> ArtifactError:
    return ArtifactError(
        f"{path} is no file of labelled images",
        expected=f"an .npz file with {', '.join(_KEYS)}",
        got=got,
        fix="Write it with write_test_images",
    )


def _few(names: tuple[str, ...]) -> str:
    return f"{len(names)}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"


def _measure(task: MetricTask) -> Accuracy:
    images = read_test_images(Path(task.options["images"]))
    task.sign()
    session = load(str(task.file), threads=task.threads)
    return accuracy_of(session, images, progress=task.progress, sign=task.sign)


def _images(own: Measured) -> str:
    return f"of {format.whole(own.file.accuracy.images)}" if own.file.accuracy else ""


def _split(own: Measured) -> str:
    return own.file.accuracy.split if own.file.accuracy else ""


def _interval(accuracy: Accuracy) -> str:
    found = share_interval(accuracy.top1, accuracy.images)
    return f"{100 * found.low:.1f} to {100 * found.high:.1f} %"


def _against(own: Measured) -> str | None:
    """Returns the difference to the reference, where both answered the same images."""
    reference = own.bench.of(REFERENCE)
    here, there = own.file.accuracy, reference.accuracy if reference else None
    if here is None or there is None:
        return None
    if own.file.file == REFERENCE:
        return "reference"
    alike = (here.data, here.split, here.images) == (there.data, there.split, there.images)
    return format.points(there.top1, here.top1) if alike else None


_REPORT = frozenset({"report"})

ACCURACY = Metric(
    name="accuracy",
    title="accuracy on the target",
    type=Accuracy,
    measure=_measure,
    wanted=lambda request: request.images is not None,
    options=lambda request: {"images": str(request.images.resolve())} if request.images else {},
    emulated=True,
    columns=(
        column(
            "Top-1 here",
            held("accuracy", lambda own: own.top1),
            text=format.percent,
            detail=_images,
            short="top-1",
            views=VIEWS,
        ),
        column(
            "Images answered",
            held("accuracy", lambda own: own.images),
            text=format.whole,
            short="images",
            views=frozenset({"bench"}),
        ),
        column("95 % interval", held("accuracy", _interval), views=_REPORT),
        column(f"Against {REFERENCE}", _against, views=_REPORT),
        column(
            "At export",
            lambda own: own.exported_top1 if own.file.accuracy else None,
            text=format.percent,
            detail=lambda own: f"of {format.whole(own.exported_images)}",
            views=_REPORT,
        ),
        column("Images", held("accuracy", lambda own: own.data), detail=_split, views=_REPORT),
    ),
    section="Accuracy on {target}",
    note=lambda measured: (
        "Labelled images, answered by each file on the target itself. The interval is Wilson's: a difference well "
        "inside it can be chance."
        if any(own.file.accuracy for own in measured)
        else ""
    ),
)
