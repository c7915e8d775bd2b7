from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from export.compare import compare_logits, losses_by_class, near_ties
from export.gate.limits import ExportLimits
from export.reference import Reference
from export.verify import VerifiedFile, check_parity
from runtime import (
    Artifact,
    BlockPlan,
    ClassLoss,
    Parity,
    ParityError,
    Preprocessing,
    Provenance,
    ShapePlan,
    TensorSpec,
)


def test_parity_of_equal_logits() -> None:
    logits = np.array([[1.0, 2.0], [4.0, 3.0]], np.float32)
    parity = compare_logits(logits, logits, np.array([1, 1]))
    assert parity == Parity(2, 0.0, 0.0, None, 1.0, 0.5, 0.5, lost=0, gained=0, near_ties=0, near_tie_changes=0)


def test_parity_by_hand() -> None:
    reference = np.array([[3.0, 0.0], [0.0, 4.0]], np.float32)
    logits = np.array([[3.0, 0.0], [0.5, 0.0]], np.float32)
    parity = compare_logits(logits, reference, None, "none at hand")
    assert parity.max_abs == 4.0
    assert parity.max_rel == 1.0
    assert parity.sqnr_db == pytest.approx(10 * np.log10(25 / 16.25))
    assert parity.top1_agreement == 0.5
    assert parity.top1 is None
    assert parity.top1_reason == "none at hand"


PARITY = Parity(100, 0.5, 0.1, 20.0, 0.99, 0.9, 0.9)


def artifact(precision: str, parity: Parity) -> Artifact:
    return Artifact(
        file="a.tflite",
        sha256="0" * 64,
        size_bytes=1,
        format="tflite",
        precision=precision,  # type: ignore[arg-type]
        recipe="any",
        plan=ShapePlan((8, 8), (4, 4), 1, 2, 8, (BlockPlan(1, 8, 8, 8),), 1.0),
        preprocessing=Preprocessing(8, 8, 1, (0.5,), (0.5,)),
        input=TensorSpec("image", (1, 8, 8, 1), "float32", "NHWC"),
        output=TensorSpec("logits", (1, 2), "float32", "NC"),
        class_names=("a", "b"),
        parity=parity,
        calibration=None,
        provenance=Provenance("0", "a test", "0" * 64, {}),
    )


@pytest.mark.parametrize(
    ("precision", "parity", "refused"),
    [
        ("fp32", Parity(100, 1e-5, 1e-5, 90.0, 1.0, 0.9, 0.9), False),
        ("fp32", Parity(100, 1e-2, 2e-4, 60.0, 1.0, 0.9, 0.9), True),
        ("fp32", Parity(100, 1e-5, 1e-5, 90.0, 0.99, 0.9, 0.9), True),
        ("int8", Parity(100, 0.5, 0.1, 20.0, 0.98, 0.9, 0.9), False),
        ("int8-full", Parity(100, float("nan"), 0.1, 20.0, 1.0, 0.9, 0.9), True),
    ],
)
def test_what_computes_the_same(precision: str, parity: Parity, refused: bool) -> None:
    if refused:
        with pytest.raises(ParityError):
            check_parity(artifact(precision, parity), True)
    else:
        check_parity(artifact(precision, parity), True)


def test_a_file_that_answers_otherwise_in_a_batch_is_refused() -> None:
    good = Parity(2000, 0.5, 0.1, 20.0, 0.999, 0.9, 0.9, None, 1999 / 2000)
    check_parity(artifact("int8", good), True)
    check_parity(artifact("int8", replace(good, images=100, batch_agreement=0.99)), True)
    for images, agreement in ((2000, 1998 / 2000), (100, 0.98)):
        bad = artifact("int8", replace(good, images=images, batch_agreement=agreement))
        with pytest.raises(ParityError, match=r"in batches of 32 otherwise than alone.*another one on 2 of"):
            check_parity(bad, True)
        check_parity(bad, False)
    # of 2,000 images only the first 100 ran in batches
    part = replace(good, batch_images=100, batch_agreement=0.98)
    with pytest.raises(ParityError, match="another one on 2 of 100"):
        check_parity(artifact("int8", part), True)


def test_near_ties_are_those_closer_than_the_error_of_the_margin() -> None:
    reference = np.array([[1.0, 0.0], [0.2, 0.0], [2.0, 0.0], [0.0, 3.0]], np.float32)
    # margins of 1, 0.2, 2 and 3 become 1.6, -0.4, 1.4 and 3.6: the root mean square of their errors is 0.6
    logits = np.array([[1.6, 0.0], [-0.4, 0.0], [1.4, 0.0], [0.0, 3.6]], np.float32)
    assert near_ties(logits, reference).tolist() == [False, True, False, False]
    parity = compare_logits(logits, reference, None, "none at hand")
    assert (parity.near_ties, parity.near_tie_changes) == (1, 1)
    assert (parity.lost, parity.gained) == (None, None)


def test_losses_are_counted_for_each_class_that_changed() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2, 2])
    float_answers, answers = np.array([0, 0, 0, 1, 2, 2, 0]), np.array([0, 1, 1, 1, 2, 0, 1])
    reference, logits = (np.eye(3, dtype=np.float32)[own] for own in (float_answers, answers))
    assert losses_by_class(logits, reference, labels, ("cat", "dog", "eel")) == (
        ClassLoss("cat", 2, 1, 0),
        ClassLoss("dog", 2, 0, 1),
        ClassLoss("eel", 3, 1, 0),
    )
    parity = compare_logits(logits, reference, labels)
    assert (parity.lost, parity.gained) == (2, 1)
    assert losses_by_class(reference, reference, labels, ("cat", "dog", "eel")) == ()


class Served:
    """A session that answers images by their first value, and counts the images of each batch."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact, self.sizes = artifact, []

    def outputs(self, inputs: np.ndarray) -> np.ndarray:
        self.sizes.append(len(inputs))
        return np.stack([inputs[:, 0, 0, 0], 1 - inputs[:, 0, 0, 0]], axis=1)


def test_an_image_is_run_once_however_many_looks_there_are() -> None:
    own = artifact("int8", PARITY)
    own = replace(own, input=replace(own.input, shape=(-1, 8, 8, 1)))
    session = Served(own)
    images = np.random.default_rng(0).random((120, 8, 8, 1), np.float32)
    logits = np.stack([images[:, 0, 0, 0], 1 - images[:, 0, 0, 0]], axis=1)
    # the float model has every label right, and the file answers the same: only many images prove that
    labels = logits.argmax(axis=1)

    def take(count: int) -> Reference:
        return Reference(images[:count], logits[:count], labels[:count], None)

    verified = VerifiedFile(own, session)  # type: ignore[arg-type]
    found, verdict = verified.judged(take, (40, 80, 120), ExportLimits(max_drop=0.5))
    assert session.sizes == [*[1] * 40, 32, 8, *[1] * 80]
    assert (found.parity.images, found.parity.batch_images, found.parity.batch_agreement) == (120, 40, 1.0)
    assert found.unproven == verdict.unproven
    assert "test images are needed to prove" in (found.unproven or "")
    assert found.drop_bounds is not None
    assert found.drop_bounds[1] > 0.5


def test_images_that_the_file_has_answered_before_run_once() -> None:
    own = artifact("int8", PARITY)
    images = np.random.default_rng(0).random((60, 8, 8, 1), np.float32)
    logits = np.stack([images[:, 0, 0, 0], 1 - images[:, 0, 0, 0]], axis=1)

    def sizes(known: np.ndarray) -> list[int]:
        session = Served(own)
        reference = Reference(images, logits, None, "the images have no labels")
        verified = VerifiedFile(own, session, known=known)  # type: ignore[arg-type]
        found, _ = verified.judged(lambda count: reference, (60,), ExportLimits())
        assert (found.parity.images, found.parity.top1_agreement) == (60, 1.0)
        return session.sizes

    assert sizes(logits) == [1]
    # answers of another file, or to other images, are not taken
    assert sizes(logits[::-1]) == [1] * 61
    assert sizes(logits[:59]) == [1] * 60
