"""When a file's answers on the GPU are called wrong, on made-up answers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from export.gpu.compare import FileKind, judge_gpu, least_loss_db, within_error
from runtime import GpuParity
from runtime.gpu.adapter import Adapter
from runtime.gpu.run import GpuAnswers

SINGLE, HALF = Adapter("a", "Vulkan", True, "fp32"), Adapter("b", "Vulkan", False, "fp16")
FLOAT, INTEGER = FileKind(False), FileKind(True, sqnr_db=20.0)
Array = npt.NDArray[np.float32]


def outputs(seed: int = 0, images: int = 16, noise: float = 0.0) -> Array:
    float_model = np.random.default_rng(7).standard_normal((images, 5))
    return (float_model + noise * np.random.default_rng(seed).standard_normal(float_model.shape)).astype(np.float32)


def judged(
    cpu: Array, gpu: Array, known: Array | None, kind: FileKind = INTEGER, adapter: Adapter = SINGLE
) -> GpuParity:
    return judge_gpu(kind, GpuAnswers(cpu, gpu, True), adapter, known)


def test_a_float_file_keeps_the_direction_of_its_outputs() -> None:
    right = judged(outputs(), outputs(noise=1e-6), outputs(), FLOAT)
    assert (right.wrong, right.top1_agreement, right.near_ties) == (None, 1.0, 0)
    rounded = outputs(noise=0.02)
    wrong = judged(outputs(), rounded, outputs(), FLOAT).wrong
    assert wrong is not None
    assert "cosine of 0.99" in wrong
    assert judged(outputs(), rounded, outputs(), FLOAT, HALF).wrong is None
    assert judged(outputs(), outputs(noise=1.0), outputs(), FLOAT, HALF).wrong is not None


def test_an_integer_file_may_lose_a_decibel_and_not_three() -> None:
    cpu = outputs(1, noise=0.1)
    assert judged(cpu, outputs(2, noise=0.1), outputs()).wrong is None
    found = judged(cpu, outputs(2, noise=0.2), outputs())
    assert found.wrong is not None
    assert f"{found.sqnr_db:.1f} dB on the GPU and {found.cpu_sqnr_db:.1f} dB on the CPU" in found.wrong
    assert judged(cpu, outputs(2, noise=0.01), outputs()).wrong is None


def test_one_image_of_many_does_not_decide_it() -> None:
    cpu, gpu = outputs(1, noise=0.1), outputs(2, noise=0.1)
    gpu[0] += 1.0
    found = judged(cpu, gpu, outputs())
    assert found.sqnr_db is not None
    assert found.cpu_sqnr_db is not None
    assert found.sqnr_db < found.cpu_sqnr_db - 3
    assert found.wrong is None
    assert least_loss_db(cpu, cpu, cpu) == 0


def test_without_the_float_model_both_may_be_as_far_apart_as_their_errors_allow() -> None:
    cpu = outputs()
    assert judged(cpu, outputs(2, noise=0.15), None).wrong is None
    wrong = judged(cpu, outputs(2, noise=0.4), None).wrong
    assert wrong is not None
    assert "at least 13.5 dB" in wrong


def test_other_classes_are_wrong_unless_they_are_near_ties_or_few() -> None:
    known = np.tile(np.array([1.0, 0.0, 0.9, 0.0, 0.0], np.float32), (32, 1))
    cpu, gpu = known + np.float32(0), known.copy()
    gpu[:3, 2] += 0.2
    lenient = FileKind(True)
    assert judged(cpu, gpu, known, lenient).wrong is not None
    cpu[:, 2] += 0.15
    gpu[:, 2] += 0.15
    found = judged(cpu, gpu, known, lenient)
    assert (found.near_ties, found.top1_agreement, found.wrong) == (32, None, None)


def test_near_ties_are_judged_by_the_error_of_their_own_image() -> None:
    known = np.array([[1.0, 0.5], [1.0, 0.5]], np.float32)
    cpu = np.array([[1.0, 0.9], [1.0, 1.1]], np.float32)
    assert within_error(cpu, known).tolist() == [False, True]


@pytest.mark.parametrize("kind", [FLOAT, INTEGER])
def test_outputs_that_are_not_finite_are_wrong(kind: FileKind) -> None:
    gpu = outputs()
    gpu[3, 1] = np.nan
    found = judged(outputs(), gpu, outputs(), kind)
    assert found.wrong == "Its outputs on the GPU are not finite."
    assert found.cosine is None


def test_a_vector_has_no_top1() -> None:
    found = judged(outputs(), outputs(), outputs(), FileKind(False, classes=False))
    assert (found.near_ties, found.top1_agreement, found.wrong) == (None, None, None)
