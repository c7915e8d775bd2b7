"""Slices a model and reconstructs the rest by least squares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from compress.data.search_images import draw_search_images
from compress.evaluate import Score, score
from compress.fidelity import Fidelity, answers_of, compared, images_to_compare, some_images
from compress.model.reconstruction import images_needed, reconstruct
from compress.model.slicing import KeptUnits, slice_vit
from compress.model.vit import SlicedViT
from runtime import Progress, if_long, silent

from .job import PreparedRun
from .runfolder import RunFolder

_BATCH = 16
_ITERATION = 10_000
"""Draws other images than those of the search."""


def cut_units(
    job: PreparedRun, folder: RunFolder, whole: SlicedViT, kept: KeptUnits, number: int, progress: Progress = silent
) -> SlicedViT:
    """Returns the sliced model, reconstructed by least squares if the settings ask for it and it helps.

    It helps if the loss on held-out images is not higher; without labels, if the answers to them diverge no more from
    those of the whole model, or vectors have no smaller cosine with its own. ``log.jsonl`` records both.

    Args:
        job: the run.
        folder: its folder.
        whole: the model to slice.
        kept: the units that stay.
        number: number of the round, from 1.
        progress: called after every block.

    Raises:
        PlanError: ``kept`` does not fit the model.
        StorageError: the log cannot be written.
    """
    plain = slice_vit(whole, kept)
    if not job.settings.reconstruct or plain.plan == whole.plan:
        return plain
    images = draw_search_images(
        job.data,
        job.task.preprocessing,
        job.augmentation,
        per_class=job.settings.importance_images,
        seed=job.settings.seed,
        iteration=_ITERATION + number,
    ).spread(images_needed(plain.plan))
    mended = reconstruct(plain, whole, kept, (pixels for pixels, _ in images.batches(_BATCH)), progress=progress)
    before, after = _judged(job, {"sliced": plain, "mended": mended}, whole, if_long(progress))
    helps = _loss(after) <= _loss(before)
    folder.log("reconstructed", images=len(images), before=asdict(before), after=asdict(after), kept=helps)
    return mended if helps else plain


def _judged(
    job: PreparedRun, models: Mapping[str, SlicedViT], whole: SlicedViT, progress: Progress
) -> Sequence[Score | Fidelity]:
    """Returns how good models are on held-out images, by the labels or, without any, by the whole model's answers."""
    data, spec = job.data, job.task.preprocessing
    if job.labelled:
        return [
            score(model, data, data.held_out, spec, progress=progress, stage=f"score {name}")
            for name, model in models.items()
        ]
    images = some_images(data.held_out, job.settings.seed, images_to_compare(whole.plan))
    wanted, *found = (
        answers_of(model, data, images, spec, progress=progress, stage=f"score {name}")
        for name, model in {"whole": whole, **models}.items()
    )
    return [compared(own, wanted) for own in found]


def _loss(found: Score | Fidelity) -> float:
    if isinstance(found, Score):
        return found.loss
    return found.divergence if found.divergence is not None else -(found.cosine or 0.0)
