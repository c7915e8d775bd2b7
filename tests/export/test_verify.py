from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from export.compare import compare_logits
from export.quantise.calibrate import check_calibration
from export.verify import check_parity
from runtime import (
    Artifact,
    BlockPlan,
    DataError,
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
    assert parity == Parity(2, 0.0, 0.0, None, 1.0, 0.5, 0.5)


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
        ("int8", Parity(100, 0.5, 0.1, 20.0, 0.99, 0.9, 0.9), False),
        ("int8", Parity(100, 0.5, 0.1, 20.0, 0.98, 0.9, 0.9), True),
        ("int8-full", Parity(100, 0.5, 0.1, 20.0, 0.5, 0.9, 0.9), False),
        ("int8-full", Parity(100, float("nan"), 0.1, 20.0, 1.0, 0.9, 0.9), True),
    ],
)
def test_what_is_released(precision: str, parity: Parity, refused: bool) -> None:
    if refused:
        with pytest.raises(ParityError):
            check_parity(artifact(precision, parity), 0.99)
    else:
        check_parity(artifact(precision, parity), 0.99)


def test_a_file_that_answers_otherwise_in_a_batch_is_refused() -> None:
    good = Parity(2000, 0.5, 0.1, 20.0, 0.999, 0.9, 0.9, None, 1999 / 2000)
    check_parity(artifact("int8", good), 0.99)
    check_parity(artifact("int8", replace(good, images=100, batch_agreement=0.99)), 0.99)
    for images, agreement in ((2000, 1998 / 2000), (100, 0.98)):
        bad = artifact("int8", replace(good, images=images, batch_agreement=agreement))
        with pytest.raises(ParityError, match=r"in batches of 32 otherwise than alone.*another one on 2 of"):
            check_parity(bad, 0.99)
        check_parity(bad, None)


def test_ungated_int8() -> None:
    check_parity(artifact("int8", Parity(100, 0.5, 0.1, 20.0, 0.2, None, None, "no classes")), None)


@pytest.mark.parametrize(
    ("images", "text"),
    [
        (None, "at least 2"),
        (np.zeros((1, 4, 4, 1), np.float32), "at least 2"),
        (np.zeros((4, 4, 4, 1), np.float32), "constant"),
        (np.repeat(np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1), 3, axis=0), "all the same"),
    ],
)
def test_calibration_images_that_say_nothing_are_refused(images: np.ndarray | None, text: str) -> None:
    with pytest.raises(DataError, match=text):
        check_calibration(images)
