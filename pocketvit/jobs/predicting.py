"""Predictions for pictures on disk, as a table, as JSON, and drawn on one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from device_bench import format
from runtime import IMAGE_SUFFIXES, DataError, Prediction, atomic_path, contact_sheet, in_words, list_pictures, load

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"}


@dataclass(frozen=True)
class Outcome:
    """What a model says of some pictures.

    Attributes:
        paths: the pictures.
        predictions: one each.
        labels: the true class of each, or None where it is not known.
        class_names: of all classes.
        skipped: pictures that were left out because they cannot be read, with the reason.
    """

    paths: tuple[Path, ...]
    predictions: tuple[Prediction, ...]
    labels: tuple[int | None, ...]
    class_names: tuple[str, ...]
    skipped: tuple[tuple[Path, str], ...] = ()

    def as_json(self) -> list[dict[str, Any]]:
        """Returns one JSON object per picture; loss is in nats, and null where the true class is not known."""
        return [
            {
                "image": str(path),
                "class": prediction.name,
                "index": prediction.index,
                "confidence": prediction.confidence,
                "logits": [float(value) for value in prediction.logits],
                "label": None if label is None else self.class_names[label],
                "loss": None if label is None else prediction.cross_entropy(label),
            }
            for path, prediction, label in zip(self.paths, self.predictions, self.labels, strict=True)
        ]

    def table(self) -> Table:
        """Returns one row per picture."""
        known = any(label is not None for label in self.labels)
        table = Table(header_style="bold")
        table.add_column("image", overflow="fold")
        table.add_column("class", no_wrap=True)
        table.add_column("confidence", justify="right")
        if known:
            table.add_column("true class", no_wrap=True)
            table.add_column("loss, nats", justify="right")
        for path, prediction, label in zip(self.paths, self.predictions, self.labels, strict=True):
            cells = [str(path), prediction.name, f"{100 * prediction.confidence:.1f} %"]
            if known:
                loss = format.MISSING if label is None else f"{prediction.cross_entropy(label):.3f}"
                cells += [format.MISSING if label is None else self.class_names[label], loss]
            table.add_row(*cells, style=None if label in (None, prediction.index) else "red")
        return table


def predict(
    artifact: Path, images: Sequence[Path], label: str | None = None, threads: int = 1, skip_bad: bool = False
) -> Outcome:
    """Runs an artifact on pictures.

    Args:
        artifact: the ``.tflite`` or ``.onnx`` file.
        images: pictures, or folders whose pictures are taken, however deep.
        label: the true class of all of them; without it, a picture's folder where that names a class.
        threads: of the engine.
        skip_bad: leave out pictures that cannot be read, and answer the others.

    Raises:
        ArtifactError: the artifact is missing, damaged or of a newer version.
        DataError: no picture, one that cannot be read, or a label that names no class.
        MissingExtraError: the engine or Pillow is not installed.
    """
    session = load(artifact, threads=threads)
    names = session.artifact.class_names
    if label is not None and label not in names:
        raise DataError("The label names no class of this model", expected=f"one of {', '.join(names[:20])}", got=label)
    paths, predictions, skipped = [], [], []
    for path in (path for image in images for path in _pictures(image)):
        try:
            predictions += session.predict([path])
            paths.append(path)
        except DataError as error:
            if not skip_bad:
                raise DataError(str(error), fix="Leave out what cannot be read with --skip-bad") from error
            skipped.append((path, str(error)))
    if not paths:
        raise DataError("None of the pictures can be read", got=f"{skipped[0][1]} And {len(skipped) - 1} more")
    by_name = {name: index for index, name in enumerate(names)}
    labels = tuple(by_name.get(label if label is not None else path.resolve().parent.name) for path in paths)
    return Outcome(tuple(paths), tuple(predictions), labels, names, tuple(skipped))


def draw(outcome: Outcome, path: Path) -> None:
    """Draws the pictures with their predictions to ``path``.

    Raises:
        DataError: ``path`` is no kind of picture.
        StorageError: it cannot be written.
    """
    if path.suffix.lower() not in _SUFFIXES - {".gif"}:
        raise DataError(f"{path} is no kind of picture", expected="a name that ends in .png or .jpg")
    sheet = contact_sheet(outcome.paths, outcome.predictions, outcome.labels, class_names=outcome.class_names)
    kind = "JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else path.suffix[1:].upper()
    with atomic_path(path) as temporary:
        sheet.save(temporary, format={"TIF": "TIFF", "PGM": "PPM"}.get(kind, kind))


def _pictures(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    tree = list_pictures(path)
    if not tree.files:
        left_out = in_words(tree.left_out) or None
        raise DataError(
            f"The folder {path} holds no pictures", expected=", ".join(sorted(IMAGE_SUFFIXES)), got=left_out
        )
    return [file.path for file in tree.files]
