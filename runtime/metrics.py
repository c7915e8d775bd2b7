"""What is known of a model in a run folder: size, cost, accuracy, and how its training went."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.storage.documents import Document


@dataclass(frozen=True)
class EpochRecord:
    """One epoch of training.

    Attributes:
        epoch: counted from 1.
        train_loss: mean loss over the epoch, nats.
        held_out_loss: mean cross-entropy on the held-out split, nats.
        held_out_top1: accuracy there, 0..1.
    """

    epoch: int
    train_loss: float
    held_out_loss: float
    held_out_top1: float


@dataclass(frozen=True)
class ModelMetrics:
    """The figures of one model.

    Attributes:
        params: number of parameters.
        macs: multiply-accumulates of one image.
        size_bytes: of its float32 weights file.
        top1: accuracy on the test split, 0..1.
        test_images: images in the test split.
        held_out_top1: accuracy on the held-out split, 0..1.
        epochs: of the training that made it, in order; empty when there was none.
    """

    params: int
    macs: int
    size_bytes: int
    top1: float
    test_images: int
    held_out_top1: float
    epochs: tuple[EpochRecord, ...] = ()


METRICS_DOCUMENT = Document("pocketvit.metrics", 1, ModelMetrics)
