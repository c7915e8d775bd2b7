"""A run in the best bases: the analysis of its baseline without labels, and the cut."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from compress.bases.analysis import RIDGE, BasisAnalysis, analyse
from compress.bases.stored import read_bases, write_bases
from compress.bases.variety import remarks_on_images, sameness_of
from compress.data.batches import augmented_pixels, plain_batches
from compress.data.splits import random_set
from compress.fidelity import answers_of, compared, some_images
from compress.model.coordinates import Coordinates
from compress.model.folder import weights_sha256
from compress.model.reconstruction import images_needed, reconstruct
from compress.model.slicing import KeptUnits, same_widths
from compress.model.vit import SlicedViT
from runtime import PocketVitWarning, Progress, if_long, normalise, silent

from .job import PreparedRun
from .runfolder import RunFolder

_TOKENS, _LEAST, _MOST = 61_440, 320, 768
_EPOCH = 2_000_000
_BATCH = 16


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
    name = f"{weights_sha256(model)} {job.data.name} {count} {job.settings.seed}"
    found = read_bases(path, name)
    if found is None:
        images = basis_images(job, count, 0)
        found = analyse(model, images, progress)
        _warn_of_images(folder, min(count, len(job.data.train)), sameness_of(images))
        write_bases(path, name, found)
    return found


def bases_path(place: Path) -> Path:
    """Returns the file of an analysis in a folder."""
    return place / "bases.safetensors"


def images_for_bases(job: PreparedRun) -> int:
    """Returns the number of images that the bases are found from: as asked for, or by the tokens of an image."""
    return job.settings.basis_images or min(_MOST, max(_LEAST, _TOKENS // job.plan.num_tokens))


def basis_images(job: PreparedRun, count: int, number: int) -> torch.Tensor:
    """Returns training images without labels, ``(count, C, H, W)`` float32: half as they are, half changed at random.

    Args:
        job: the run.
        count: number of images; where there are fewer training images, each is changed several times.
        number: number of the draw; each draws other images and changes.
    """
    spec, drawn = job.task.preprocessing, random_set(job.data, count, job.settings.seed + 7919 * number)
    plain = drawn[: -(-count // 2)]
    parts = [images for images, _ in plain_batches(job.data, plain, spec, _BATCH)]
    missing, epoch = count - len(plain), _EPOCH + number
    while missing > 0:
        some = drawn[:missing]
        pixels = augmented_pixels(job.data, some, spec, job.augmentation, seed=job.settings.seed, epoch=epoch)
        parts.append(torch.from_numpy(np.ascontiguousarray(normalise(pixels, spec).transpose(0, 3, 1, 2))))
        missing, epoch = missing - len(some), epoch + 1
    mixed = torch.cat(parts)
    order = np.random.default_rng([job.settings.seed, number, 11]).permutation(len(mixed))
    return mixed[torch.from_numpy(order)]


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
        count = images_needed(model.plan)
        images = basis_images(job, count, number)
        mended = reconstruct(model, analysis.model, kept, images.split(_BATCH), ridge=RIDGE, progress=progress)  # type: ignore[no-untyped-call]
        chosen = some_images(job.data.held_out, job.settings.seed)
        wanted, *answers = (
            answers_of(own, job.data, chosen, job.task.preprocessing, progress=if_long(progress), stage=f"score {name}")
            for name, own in (("whole", whole), ("sliced", model), ("mended", mended))
        )
        before, after = (compared(own, wanted, coordinates) for own in answers)
        helps = (after.cosine or 0.0) >= (before.cosine or 0.0)
        folder.log("reconstructed", images=count, before=asdict(before), after=asdict(after), kept=helps)
        model = mended if helps else model
    return analysis.turned(model, kept, job.settings.seed)
