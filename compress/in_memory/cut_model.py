"""A cut model as a plain torch module, with what came with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn

from compress.model.coordinates import COORDINATES_FILE, Coordinates, read_coordinates
from compress.model.folder import Task, read_model, read_task, save_model
from compress.model.vit import SlicedViT
from runtime import ModelError, Preprocessing, RunFolderError, ShapePlan, storage_errors


@dataclass(frozen=True)
class CutReport:
    """What a cut left, and how the cut model follows the whole one on images that the analysis did not see.

    Attributes:
        budget: the budget, as it was given.
        search: name of the method that chose the units.
        macs: multiply-accumulates of an image.
        params: number of parameters.
        whole_macs: those of the whole model.
        whole_params: those of the whole model.
        error: mean relative squared error of the pooled features, ``|own - whole|^2 / |whole|^2``.
        cosine: mean cosine of the pooled features with those of the whole model, -1..1.
        agreement: share of images with the whole model's top-1 class, 0..1.
        images: number of images behind ``error``, ``cosine`` and ``agreement``.
        analysis_images: number of images that the bases were found from.
        reconstructed: whether the weights were fitted once more after the cut, since that helped.
    """

    budget: str
    search: str
    macs: int
    params: int
    whole_macs: int
    whole_params: int
    error: float
    cosine: float
    agreement: float
    images: int
    analysis_images: int
    reconstructed: bool


class CutModel(nn.Module):
    """A Vision Transformer of any widths, as a plain torch module that can be trained, compiled and exported.

    Its ``state_dict`` holds the weights, and the map of its features into those of the whole model.

    Args:
        network: the model itself, kept as ``self.network``.
        coordinates: the map of its features into those of the whole model; None where it is not known.
        task: its input, its classes and its origin; None where the preprocessing is not known.
        report: what a cut in memory left; None for a model from a folder.

    Attributes:
        network: the model itself.
        report: see above.
    """

    matrix: torch.Tensor | None
    shift: torch.Tensor | None

    def __init__(
        self,
        network: SlicedViT,
        coordinates: Coordinates | None,
        task: Task | None = None,
        report: CutReport | None = None,
    ) -> None:
        super().__init__()
        self.network, self.task, self.report = network, task, report
        self.register_buffer("matrix", coordinates.matrix.clone() if coordinates else None)
        self.register_buffer("shift", coordinates.shift.clone() if coordinates else None)
        self.train(network.training)

    @property
    def plan(self) -> ShapePlan:
        """The widths of the model."""
        return self.network.plan

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How a picture becomes the model's input; None where it is not known."""
        return self.task.preprocessing if self.task else None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        return self.task.class_names if self.task else tuple(f"class {i}" for i in range(self.plan.num_classes))

    @property
    def coordinates(self) -> Coordinates | None:
        """The map of the features into those of the whole model, on the CPU; None where it is not known."""
        if self.matrix is None or self.shift is None:
            return None
        return Coordinates(self.matrix.detach().cpu().float(), self.shift.detach().cpu().float())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps normalised images ``(B, C, H, W)`` to logits ``(B, num_classes)``."""
        return cast(torch.Tensor, self.network(images))

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Maps normalised images ``(B, C, H, W)`` to the pooled features that the classifier reads, ``(B, F)``.

        They are in the coordinates of the whole model, whose width is F: a classifier or an index that was made for the
        whole model's features reads them.

        Raises:
            ModelError: the map into the whole model's coordinates is not known.
        """
        if self.plan.attn_pool:
            # an attention pooling has coordinates of its own, which no cut changes
            return self.network.features(images)[1]
        if self.matrix is None or self.shift is None:
            raise ModelError(
                "The map of this model's features into those of the whole model is not known",
                expected="a run in the best bases, or one that keeps the width of the stream",
                fix="Make the run anew, or read the features of its own width with network.features(images)[1]",
            )
        return self.network.features(images)[1] @ self.matrix + self.shift

    def save(self, folder: Path | str) -> None:
        """Writes a model folder, which ``pocketvit.load`` reads; each file is written atomically.

        Args:
            folder: the folder; a model in it is replaced.

        Raises:
            ModelError: the preprocessing is not known, and the folder would lack it.
            StorageError: a file cannot be written.
        """
        if self.task is None:
            raise ModelError(
                "The preprocessing of this model is not known, and its folder would lack it",
                expected="a model that timm.create_model or pocketvit.load made",
                fix="Keep its state_dict instead",
            )
        folder, own = Path(folder), self.coordinates
        save_model(folder, self.network, self.task)
        if own is None:
            with storage_errors(folder):
                (folder / COORDINATES_FILE).unlink(missing_ok=True)
        else:
            own.write(folder)


def same_coordinates(width: int) -> Coordinates:
    """Returns the map of features that are those of the whole model."""
    return Coordinates(torch.eye(width), torch.zeros(width))


def read_cut_model(root: Path, which: str) -> CutModel:
    """Reads a model of a run folder, or the model of a folder that ``CutModel.save`` wrote.

    Args:
        root: the folder.
        which: the run's model, ``sliced`` or ``baseline``.

    Raises:
        RunFolderError: the folder holds no such model.
        ArtifactError: a file is damaged, or of a newer version.
    """
    alone = (root / "plan.json").is_file()
    folder = root if alone and which == "sliced" else root / which
    if not (folder / "model.safetensors").is_file():
        raise RunFolderError(
            f"{root} holds no {which} model",
            expected=f"a run folder with {which}/model.safetensors, or a folder of CutModel.save",
            fix="Finish the run with --resume, or name another folder",
        )
    network, coordinates = read_model(folder), read_coordinates(folder)
    if coordinates is None:
        # without a map, a stream as wide as the baseline's is the baseline's
        beside = root / "baseline"
        whole = read_model(beside) if folder.name == "sliced" and (beside / "plan.json").is_file() else network
        if whole.plan.embed_dim == network.plan.embed_dim:
            coordinates = same_coordinates(network.plan.embed_dim)
    return CutModel(network, coordinates, read_task(folder))
