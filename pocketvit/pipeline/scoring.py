"""The top-1 of a finished model, by the fastest engine that computes it exactly, and how it follows the whole model."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from compress.data.batches import plain_batches
from compress.data.dataset import Dataset
from compress.devices import device_in_use
from compress.evaluate import Score, score, score_of_logits
from compress.fidelity import fidelity, images_to_compare, some_images
from compress.model.coordinates import Coordinates
from compress.model.vit import SlicedViT
from export.formats.tflite import write_tflite
from runtime import Preprocessing, Progress, WholeComparison, if_long, open_engine, silent
from runtime.formats import TFLITE

from .job import PreparedRun

_OTHER_WIDTH = "the residual stream has another width, and its map back is not known"


def score_finished(
    model: SlicedViT,
    data: Dataset,
    indices: npt.NDArray[np.int64],
    spec: Preprocessing,
    progress: Progress = silent,
    stage: str = "score",
) -> Score:
    """Returns accuracy and loss of a finished model on the pictures at ``indices``.

    On a CPU, the model's float32 TFLite file computes the logits on all of torch's threads, faster than torch: the same
    function of the same weights, up to rounding. On a GPU, or without LiteRT, torch computes them.

    Args:
        model: the model to score.
        data: the dataset.
        indices: indices of the pictures, at least one.
        spec: the model's input.
        progress: called after every batch.
        stage: name of the work for ``progress``.
    """
    if device_in_use().type != "cpu" or any(find_spec(name) is None for name in ("ai_edge_litert", "flatbuffers")):
        return score(model, data, indices, spec, progress=progress, stage=stage)
    answers: list[npt.NDArray[np.float32]] = []
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / f"model{TFLITE.suffix}"
        write_tflite(model, file)
        engine = open_engine(file, threads=torch.get_num_threads())
        for images, _ in plain_batches(data, indices, spec, batch_size=16):
            pixels = np.ascontiguousarray(images.numpy().transpose(0, 2, 3, 1))
            answers += [engine.run(pixels[i : i + 1])[0] for i in range(len(pixels))]
            progress(stage, len(answers), len(indices))
    return score_of_logits(np.stack(answers), data.labels[indices])


def compare_with_whole(
    job: PreparedRun,
    model: SlicedViT,
    whole: SlicedViT,
    indices: npt.NDArray[np.int64],
    back: Coordinates | None,
    progress: Progress,
    split: str,
) -> WholeComparison:
    """Returns how closely a model follows the whole model on a random part of a split, without labels.

    Args:
        job: the run.
        model: the model.
        whole: the model that it was made of.
        indices: indices of the split's pictures.
        back: see ``compress.fidelity.compared``.
        progress: called after every batch.
        split: name of the split.
    """
    most, seed = images_to_compare(whole.plan), job.settings.seed
    found = fidelity(
        model,
        whole,
        job.data,
        some_images(indices, seed, min(most, job.settings.eval_limit or most)),
        job.task.preprocessing,
        back=back,
        progress=if_long(progress),
        stage=f"compare {split}",
    )
    reason = None if found.cosine is not None else _OTHER_WIDTH
    return WholeComparison(
        found.images,
        found.agreement,
        found.cosine,
        reason,
        neighbours=found.neighbours,
        sqnr_db=found.sqnr_db,
        own_neighbours=found.own_neighbours,
    )
