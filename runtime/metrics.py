"""What is known of a model in a run folder: size, cost, accuracy, and how its training went."""

from __future__ import annotations

from dataclasses import dataclass, field

from runtime.storage.documents import Document

_NEW = {"omit_default": True}
"""Metadata of fields that are written for models that answer with a vector alone."""


@dataclass(frozen=True)
class EpochRecord:
    """One epoch of training.

    Attributes:
        epoch: counted from 1.
        train_loss: mean loss over the epoch, nats.
        held_out_loss: mean cross-entropy on the held-out split, nats; null without labels.
        held_out_top1: accuracy there, 0..1; null without labels.
        held_out_agreement: share of held-out images with the teacher's top-1 class, 0..1; null with labels.
        held_out_divergence: mean KL divergence of the answers there from the teacher's, nats; null with labels.
        held_out_cosine: mean cosine of the vectors there with the teacher's, -1..1; of models that answer with a vector
            alone, for which the four figures above are null.
    """

    epoch: int
    train_loss: float
    held_out_loss: float | None
    held_out_top1: float | None
    held_out_agreement: float | None = None
    held_out_divergence: float | None = None
    held_out_cosine: float | None = field(default=None, metadata=_NEW)


@dataclass(frozen=True)
class WholeComparison:
    """How closely a model follows the whole model that it was made of, on a random part of a split.

    Attributes:
        images: number of images.
        agreement: share of them with the whole model's top-1 class, 0..1; null for a model that answers with a vector.
        cosine: mean cosine of the classifier's input, or of the vector, with the whole model's, -1..1; null with a
            reason.
        cosine_reason: why ``cosine`` is null.
        neighbours: share of images whose nearest neighbour among the whole model's vectors of the other images is one
            of the ten nearest to the model's own vector, 0..1; of models that answer with a vector alone.
        sqnr_db: signal to noise of the model's vectors against the whole model's, dB; of such models alone, and null
            where they are identical.
        own_neighbours: ``neighbours`` among the model's own vectors of the other images.
    """

    images: int
    agreement: float | None
    cosine: float | None
    cosine_reason: str | None = None
    neighbours: float | None = field(default=None, metadata=_NEW)
    sqnr_db: float | None = field(default=None, metadata=_NEW)
    own_neighbours: float | None = field(default=None, metadata=_NEW)


@dataclass(frozen=True)
class ModelMetrics:
    """The figures of one model.

    Attributes:
        params: number of parameters.
        macs: multiply-accumulates of one image.
        size_bytes: of its float32 weights file.
        top1: accuracy on the test split, 0..1; null with a reason.
        test_images: images of the test split that ``top1`` is of; 0 where there is none.
        held_out_top1: accuracy on the held-out split, 0..1; null where ``top1`` is.
        epochs: of the training that made it, in order; empty when there was none.
        top1_reason: why ``top1`` is null.
        test_whole: comparison with the whole model on test images; null for the whole model itself.
        held_out_whole: the same on held-out images.
    """

    params: int
    macs: int
    size_bytes: int
    top1: float | None
    test_images: int
    held_out_top1: float | None
    epochs: tuple[EpochRecord, ...] = ()
    top1_reason: str | None = None
    test_whole: WholeComparison | None = None
    held_out_whole: WholeComparison | None = None


METRICS_DOCUMENT = Document("pocketvit.metrics", 2, ModelMetrics)
