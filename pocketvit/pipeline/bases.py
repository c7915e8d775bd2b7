"""A run in the best bases: the analysis of its baseline without labels, and the cut."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from pathlib import Path

import torch

from compress.bases.analysis import RIDGE, BasisAnalysis, analyse
from compress.bases.counts import TOKENS, images_to_see
from compress.bases.stored import read_bases, write_bases
from compress.bases.varied import varied
from compress.bases.variety import remarks_on_images, sameness_of
from compress.data.batches import plain_batches
from compress.data.splits import random_set
from compress.fidelity import answers_of, compared, images_to_compare, some_images
from compress.model.coordinates import Coordinates, of_head_input
from compress.model.embedder import load_embedder, load_grid, shortened
from compress.model.folder import weights_sha256
from compress.model.load import load_model
from compress.model.reconstruction import reconstruct
from compress.model.slicing import KeptUnits, same_widths
from compress.model.vit import SlicedViT
from compress.zero_shot import load_zero_shot
from runtime import PocketVitWarning, Progress, if_long, silent

from .job import PreparedRun
from .runfolder import RunFolder

_LEAST, _MOST = 256, 2_048
_BATCH = 16
_PER_VALUE = 4
"""Images for each value of a vector that is shortened."""


def whole_model(job: PreparedRun) -> SlicedViT:
    """Returns the model that a run starts from, unpruned; of vectors that are shorter than its own, their components.

    Raises:
        ModelError: the weights cannot be had, or do not fit.
        PlanError: there are too few images to shorten vectors by.
    """
    if job.texts is not None:
        return load_zero_shot(job.spec, job.texts, job.settings.seed)
    if not job.plan.is_vector:
        return load_model(job.spec, job.plan.num_classes, job.settings.seed)
    if job.plan.output == "grid":
        return load_grid(job.spec, job.settings.blocks, job.settings.seed)
    model, dim = load_embedder(job.spec, job.plan.output, job.settings.seed), job.plan.num_classes
    if dim == model.plan.num_classes:
        return model
    images = basis_images(job, max(images_for_bases(job), _PER_VALUE * dim), 0)
    return shortened(model, torch.split(images, _BATCH), dim)


def analysis_of(
    job: PreparedRun, folder: RunFolder, place: Path, model: SlicedViT, progress: Progress = silent
) -> BasisAnalysis:
    """Returns the analysis of a model, and keeps it in a file until the model is cut.

    Args:
        job: the run.
        folder: its folder.
        place: the folder for ``bases.safetensors``.
        model: the model.
        progress: called as the analysis advances.

    Raises:
        StorageError: the file cannot be written.

    Warns:
        PocketVitWarning: the images are few or all alike.
    """
    path, count = bases_path(place), images_for_bases(job)
    name = f"{weights_sha256(model)} {job.data.name} {count} {job.settings.basis_copies} {job.settings.seed}"
    found = read_bases(path, name)
    if found is None:
        images = basis_images(job, count, 0)
        found = analyse(model, with_copies(job, images, 0), progress, distinct=len(images))
        _warn_of_images(folder, len(images), sameness_of(images))
        write_bases(path, name, found)
    return found


def bases_path(place: Path) -> Path:
    """Returns the file of an analysis in a folder."""
    return place / "bases.safetensors"


def images_for_bases(job: PreparedRun) -> int:
    """Returns the number of images that the bases are found from: as asked for, or by the tokens of an image."""
    return job.settings.basis_images or min(_MOST, max(_LEAST, TOKENS // job.plan.num_tokens))


def basis_images(job: PreparedRun, count: int, number: int) -> torch.Tensor:
    """Returns training images without labels as they are, ``(N, C, H, W)`` float32.

    Args:
        job: the run.
        count: number of images; all are returned if there are fewer.
        number: number of the draw; each draws other images.
    """
    drawn = random_set(job.data, count, job.settings.seed + 7919 * number)
    return torch.cat([images for images, _ in plain_batches(job.data, drawn, job.task.preprocessing, _BATCH)])


def with_copies(job: PreparedRun, images: torch.Tensor, number: int) -> torch.Tensor:
    """Returns the images and changed copies of them, other ones for each ``number``; see ``varied``."""
    wanted = images_to_see(len(images), job.plan.num_tokens, job.settings.basis_copies)
    return varied(images, wanted, job.settings.seed + 7919 * number, mirror=job.augmentation.mirror > 0)


def _warn_of_images(folder: RunFolder, images: int, sameness: float) -> None:
    """Warns where the bases serve no other images than those that they were found from."""
    for note in remarks_on_images(images, sameness):
        folder.log("note", text=note)
        warnings.warn(note, PocketVitWarning, stacklevel=3)


def cut_in_bases(
    job: PreparedRun,
    folder: RunFolder,
    whole: SlicedViT,
    analysis: BasisAnalysis,
    kept: KeptUnits,
    number: int,
    progress: Progress = silent,
) -> tuple[SlicedViT, Coordinates]:
    """Returns the cut model and the coordinates of its features, reconstructed if that is asked for and helps.

    It helps if the features of held-out images are not farther from the whole model's. ``log.jsonl`` records both.

    Args:
        job: the run.
        folder: its folder.
        whole: the model that was analysed.
        analysis: its analysis.
        kept: the units that stay.
        number: number of the round, from 1.
        progress: called as the reconstruction advances.

    Raises:
        StorageError: the log cannot be written.
    """
    model, coordinates = analysis.cut(kept), analysis.coordinates_of(kept)
    if job.settings.reconstruct and not same_widths(model.plan, analysis.model.plan):
        images = with_copies(job, basis_images(job, images_for_bases(job), number), number)
        mended = reconstruct(model, analysis.model, kept, images.split(_BATCH), ridge=RIDGE, progress=progress)  # type: ignore[no-untyped-call]
        chosen = some_images(job.data.held_out, job.settings.seed, images_to_compare(whole.plan))
        wanted, *answers = (
            answers_of(own, job.data, chosen, job.task.preprocessing, progress=if_long(progress), stage=f"score {name}")
            for name, own in (("whole", whole), ("sliced", model), ("mended", mended))
        )
        before, after = (compared(own, wanted, of_head_input(model.plan, coordinates)) for own in answers)
        helps = (after.cosine or 0.0) >= (before.cosine or 0.0)
        folder.log("reconstructed", images=len(images), before=asdict(before), after=asdict(after), kept=helps)
        model = mended if helps else model
    return analysis.turned(model, kept, job.settings.seed)
