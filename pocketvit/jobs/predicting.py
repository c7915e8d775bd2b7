"""Predictions for pictures on disk, as a table, as JSON, and drawn on one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table

from device_bench import format
from runtime import (
    IMAGE_SUFFIXES,
    DataError,
    OutputKind,
    Prediction,
    atomic_path,
    component_sheet,
    contact_sheet,
    excluded_in_words,
    list_pictures,
    load,
    nearest_vectors,
    neighbour_sheet,
    open_image,
    to_pixels,
)

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"}

_NEAREST = 10
"""Pictures that ``--json`` lists for each vector."""


@dataclass(frozen=True)
class Predictions:
    """The outputs of a model for some pictures.

    Attributes:
        paths: the pictures.
        predictions: one for each picture; empty where the output is not classes.
        labels: the true class of each picture, or None where it is not known.
        class_names: names of all classes, or their numbers where the manifest names none.
        skipped: pictures that were left out because they cannot be read, with the reason.
        output_kind: whether the output is classes, a vector or a grid.
        values: the output for each picture, where it is not classes.
        seen: what the model saw of each picture, uint8 pixels, where the output is a grid.
    """

    paths: tuple[Path, ...]
    predictions: tuple[Prediction, ...]
    labels: tuple[int | None, ...]
    class_names: tuple[str, ...]
    skipped: tuple[tuple[Path, str], ...] = ()
    output_kind: OutputKind = "classes"
    values: tuple[npt.NDArray[np.float32], ...] = ()
    seen: tuple[npt.NDArray[np.uint8], ...] = ()

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Returns the pictures' paths as ``images`` and the outputs as ``values``, ``(N, ...)`` float32."""
        values = self.values or tuple(own.logits for own in self.predictions)
        names = {"class_names": np.array(self.class_names)} if self.class_names else {}
        return {"images": np.array([str(path) for path in self.paths]), "values": np.stack(values), **names}

    def as_json(self) -> list[dict[str, Any]]:
        """Returns one JSON object per picture; loss is in nats, and null where the true class is not known."""
        if self.output_kind != "classes":
            nearest = self.nearest()
            return [
                {
                    "image": str(path),
                    "output": self.output_kind,
                    "shape": list(own.shape),
                    "values": own.tolist(),
                    **({"nearest": nearest[path]} if nearest else {}),
                }
                for path, own in zip(self.paths, self.values, strict=True)
            ]
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

    def nearest(self) -> dict[Path, list[dict[str, Any]]]:
        """Returns for each picture the others with the greatest cosines; empty for one picture or without vectors."""
        if self.output_kind != "vector" or len(self.paths) < 2:
            return {}
        order, cosines = nearest_vectors(np.stack(self.values), _NEAREST)
        return {
            path: [
                {"image": str(self.paths[at]), "cosine": float(own)}
                for at, own in zip(order[row], cosines[row], strict=True)
            ]
            for row, path in enumerate(self.paths)
        }

    def table(self) -> Table:
        """Returns one row per picture."""
        known = any(label is not None for label in self.labels)
        table = Table(header_style="bold")
        table.add_column("image", overflow="fold")
        if self.output_kind != "classes":
            table.add_column("output")
            table.caption = "This file has no classes; --json prints the values, --npz writes them."
            nearest = self.nearest()
            if nearest:
                table.add_column("nearest", overflow="fold")
                table.add_column("cosine", justify="right")
            for path, own in zip(self.paths, self.values, strict=True):
                first = nearest[path][0] if nearest else None
                more = (first["image"], f"{first['cosine']:.3f}") if first else ()
                table.add_row(str(path), f"a {self.output_kind} of {' x '.join(map(str, own.shape))} values", *more)
            return table
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
) -> Predictions:
    """Runs an artifact on pictures.

    Args:
        artifact: the model file, with its manifest in the same folder.
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
    kind, classes = session.artifact.output_kind, session.artifact.output.shape[-1]
    names = session.artifact.class_names or tuple(map(str, range(classes)))
    if kind != "classes":
        names = ()
    if label is not None and kind != "classes":
        raise DataError(f"{artifact.name} has no classes: its output is a {kind}", fix="Leave out --label")
    if label is not None and label not in names:
        raise DataError("The label names no class of this model", expected=f"one of {', '.join(names[:20])}", got=label)
    paths, predictions, values, skipped, seen = [], [], [], [], []
    for path in (path for image in images for path in _pictures(image)):
        try:
            if kind == "classes":
                predictions += session.predict([path])
            else:
                picture = open_image(path)
                values.append(session.values([picture])[0])
                seen += [to_pixels(picture, session.artifact.preprocessing)] if kind == "grid" else []
            paths.append(path)
        except DataError as error:
            if not skip_bad:
                raise DataError(str(error), fix="Leave out what cannot be read with --skip-bad") from error
            skipped.append((path, str(error)))
    if not paths:
        raise DataError("None of the pictures can be read", got=f"{skipped[0][1]} And {len(skipped) - 1} more")
    by_name = {name: index for index, name in enumerate(names)}
    labels = tuple(by_name.get(label if label is not None else path.resolve().parent.name) for path in paths)
    return Predictions(
        tuple(paths), tuple(predictions), labels, names, tuple(skipped), kind, tuple(values), tuple(seen)
    )


def draw(outcome: Predictions, path: Path) -> None:
    """Draws the pictures with their predictions to ``path``.

    Those of vectors are drawn with the pictures nearest to them, and those of grids with the principal components of
    their patches as colours.

    Raises:
        DataError: ``path`` is no kind of picture, there is one vector alone, or a grid has no rows and columns.
        StorageError: it cannot be written.
    """
    if outcome.output_kind == "grid" and outcome.values[0].ndim != 3:
        raise DataError(
            "A sequence of patches has no rows and columns to draw", got=outcome.values[0].shape, fix="Leave out --plot"
        )
    if path.suffix.lower() not in _SUFFIXES - {".gif"}:
        raise DataError(f"{path} is no kind of picture", expected="a name that ends in .png or .jpg")
    if outcome.output_kind == "vector":
        names = [path.name for path in outcome.paths]
        sheet = neighbour_sheet(outcome.paths, np.stack(outcome.values), captions=names)
    elif outcome.output_kind == "grid":
        names = [path.name for path in outcome.paths]
        sheet = component_sheet(outcome.seen, np.stack(outcome.values), captions=names)
    else:
        sheet = contact_sheet(outcome.paths, outcome.predictions, outcome.labels, class_names=outcome.class_names)
    kind = "JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else path.suffix[1:].upper()
    with atomic_path(path) as temporary:
        sheet.save(temporary, format={"TIF": "TIFF", "PGM": "PPM"}.get(kind, kind))


def write_arrays(outcome: Predictions, path: Path) -> None:
    """Writes the outputs to a ``.npz`` file that ``numpy.load`` reads, see ``Predictions.arrays``.

    Raises:
        DataError: the name ends otherwise.
        StorageError: it cannot be written.
    """
    if path.suffix.lower() != ".npz":
        raise DataError(f"{path} is no file of arrays", expected="a name that ends in .npz")
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **outcome.arrays())  # type: ignore[arg-type]


def _pictures(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    tree = list_pictures(path)
    if not tree.files:
        left_out = excluded_in_words(tree.left_out) or None
        raise DataError(
            f"The folder {path} holds no pictures", expected=", ".join(sorted(IMAGE_SUFFIXES)), got=left_out
        )
    return [file.path for file in tree.files]
