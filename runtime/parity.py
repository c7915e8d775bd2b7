"""How an exported file compares with the model it came from, as its manifest keeps it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class GpuParity:
    """How a ``.tflite`` file answers on LiteRT's GPU path, compared with the CPU and with the model it came from.

    Attributes:
        reason: why the file was not run on a GPU; null where it was.
        driver: name of the graphics adapter, such as ``SwiftShader Device (Subzero)``; null where it is not known.
        software: whether that adapter computes on the CPU; null where it is not known.
        arithmetic: ``fp32``, or ``fp16`` where the adapter rounds to float16; null where it is not known.
        images: number of images that ran.
        whole: whether the GPU computed all operators; null where the file did not run.
        cosine: the least cosine of the outputs of an image on GPU and CPU.
        mean_cosine: the mean of these cosines.
        max_rel: largest difference of an output on GPU and CPU, relative to the largest output on the CPU.
        sqnr_db: signal to quantisation noise of the GPU's outputs against the float model's, dB; null when they are
            identical or the float model's are not known.
        cpu_sqnr_db: the same of the CPU's outputs.
        near_ties: number of images on which the two largest outputs of the float model differ by less than the file's
            own error on that image; where the float model is not known, those of the CPU by less than the GPU's error;
            null where the output is not classes.
        top1_agreement: share of the other images on which the GPU has the same top-1, 0..1; null where there are none.
        wrong: why the GPU's answers are wrong, or how LiteRT crashes on the file; null where they are right, or the
            file did not run for another reason.
    """

    reason: str | None = None
    driver: str | None = None
    software: bool | None = None
    arithmetic: Literal["fp32", "fp16"] | None = None
    images: int = 0
    whole: bool | None = None
    cosine: float | None = None
    mean_cosine: float | None = None
    max_rel: float | None = None
    sqnr_db: float | None = None
    cpu_sqnr_db: float | None = None
    near_ties: int | None = None
    top1_agreement: float | None = None
    wrong: str | None = None


@dataclass(frozen=True)
class VectorParity:
    """How the vectors of a file compare with those of the torch model it came from, and of the whole model.

    Images whose nearest neighbour is looked for are those of ``Parity.images``.

    Attributes:
        cosine: mean cosine with the torch model's vectors, -1..1.
        neighbours: share of images whose nearest neighbour among the torch model's vectors of the other images is one
            of the ten nearest to the file's own vector, 0..1; null with fewer than 12 images.
        whole_cosine: ``cosine`` with the vectors of the whole model that the torch model was cut from; null where that
            is not known.
        whole_neighbours: ``neighbours`` among the vectors of the whole model; null as ``whole_cosine``.
        own_neighbours: share of images whose nearest neighbour in the whole model is one of the ten nearest among the
            file's own vectors; null as ``whole_cosine``.
    """

    cosine: float
    neighbours: float | None
    whole_cosine: float | None = None
    whole_neighbours: float | None = None
    own_neighbours: float | None = None


@dataclass(frozen=True)
class Parity:
    """Comparison of the written file with the torch model it came from, both run on real images.

    Attributes:
        images: number of images both ran on.
        max_abs: largest absolute difference of an output.
        max_rel: ``max_abs`` over the largest absolute output of the reference.
        sqnr_db: signal to quantisation noise of the outputs, dB; null when they are identical.
        top1_agreement: share of images with the same top-1 class, 0..1; null where the output is not classes.
        top1: top-1 accuracy of the file on those images, 0..1; null with a reason.
        reference_top1: top-1 accuracy of the torch model on those images, 0..1; null with a reason.
        top1_reason: why ``top1`` is null.
        batch_agreement: share of those images with the same top-1 class in batches of one, as in the figures above,
            and of 32; null where the file takes a single image or its output is not classes.
        batch_images: number of images that ran in batches; null where all or none of them did.
        lost: number of images that the torch model alone answers right; null without labels.
        gained: number of images that the file alone answers right; null without labels.
        near_ties: number of images on which the torch model's two largest logits differ by less than the file's error,
            the root mean square of the errors of such differences; null where the output is not classes.
        near_tie_changes: number of those on which the file has another top-1.
        gpu: how the file answers on LiteRT's GPU path; null for other files and where the check was turned off.
        vectors: how the file's vectors compare; null where the output is not a vector.
    """

    images: int
    max_abs: float
    max_rel: float
    sqnr_db: float | None
    top1_agreement: float | None
    top1: float | None
    reference_top1: float | None
    top1_reason: str | None = None
    batch_agreement: float | None = None
    batch_images: int | None = None
    lost: int | None = None
    gained: int | None = None
    near_ties: int | None = None
    near_tie_changes: int | None = None
    gpu: GpuParity | None = None
    vectors: VectorParity | None = field(default=None, metadata={"omit_default": True})


@dataclass(frozen=True)
class ClassLoss:
    """What a file lost and gained on the images of one class.

    Attributes:
        name: of the class.
        images: number of images of the class.
        lost: number of them that the torch model alone answers right.
        gained: number of them that the file alone answers right.
    """

    name: str
    images: int
    lost: int
    gained: int
