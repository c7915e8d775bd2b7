"""The simulation of float16 computes what LiteRT computes in float32, and rounds as XNNPACK does."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compress.model.half_range import HALF_MOST, in_half_range, largest_energies
from export.formats.tflite import write_tflite
from export.graph.ir import Builder, QParams
from export.inspect.lint.half_run import XNNPACK, FloatFile, HalfRun
from export.inspect.lint.numpy_ops import Arithmetic, erf
from export.writers.tflite import tflite_bytes
from runtime import DataError, UnsupportedTargetError, open_engine
from tests.compress.model.test_half_range import loud
from tests.export.graph.test_build import ARCHITECTURES, images_for, model_of


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_in_float32_it_computes_what_litert_computes(name: str, half: bool, tmp_path: Path) -> None:
    model, path = model_of(ARCHITECTURES[name]), tmp_path / "m.tflite"
    write_tflite(model, path, half)
    images = images_for(model.plan, 2).numpy()
    engine, run = open_engine(path), FloatFile(path).run(images)
    wanted = np.concatenate([engine.run(image[None]) for image in images])
    assert np.abs(run.single - wanted).max() <= 1e-5 * np.abs(wanted).max()
    away = np.linalg.norm(run.half - wanted) / np.linalg.norm(wanted)
    assert 1e-5 < away < 0.03
    assert all(op.finite and not op.overflows for op in run.ops)


def test_sums_are_rounded_after_every_product() -> None:
    generator = np.random.default_rng(0)
    a, b = (generator.standard_normal(shape).astype(np.float16) for shape in ((3, 40), (40, 5)))
    total = np.zeros((3, 5), np.float16)
    for k in range(40):
        total = (total.astype(np.float64) + np.outer(a[:, k].astype(np.float64), b[k])).astype(np.float16)
    single = a.astype(np.float32), b.astype(np.float32)
    assert np.array_equal(XNNPACK.product(*single), total.astype(np.float32))
    exact = single[0] @ single[1]
    errors = [np.abs(Arithmetic(True, step).product(*single) - exact).max() for step in (1, 40)]
    assert errors[0] > errors[1]
    assert np.array_equal(Arithmetic().product(*single), exact)


def _away(run: HalfRun) -> float:
    """Returns how far the answers in float16 are from those in float32, as a share of their norm."""
    return float(np.linalg.norm(run.half - run.single) / np.linalg.norm(run.single))


def test_the_largest_values_and_sums_are_those_of_the_norms(tmp_path: Path) -> None:
    model = loud(model_of(ARCHITECTURES["average"]), 400.0)
    images, path = images_for(model.plan, 4), tmp_path / "m.tflite"
    nchw = images.permute(0, 3, 1, 2)
    energies = largest_energies(model, nchw)
    assert max(energies.values()) > HALF_MOST
    write_tflite(model, path)
    run = FloatFile(path).run(images.numpy())
    means = [op for op in run.ops if op.tensor.endswith(".variance")]
    assert [op.sum for op in means] == pytest.approx(list(energies.values()), rel=0.05)
    assert any(op.overflows for op in means)
    # the reciprocal root of infinity is zero, so that the answers are finite and wrong
    assert _away(run) > 0.1
    write_tflite(in_half_range(model, nchw), path)
    run = FloatFile(path).run(images.numpy())
    assert not any(op.overflows for op in run.ops)
    assert _away(run) < 0.03


def test_only_the_first_images_run_in_float16(tmp_path: Path) -> None:
    model, path = model_of(ARCHITECTURES["vit"]), tmp_path / "m.tflite"
    write_tflite(model, path)
    seen: list[tuple[int, int]] = []
    run = FloatFile(path).run(
        images_for(model.plan, 3).numpy(),
        half_images=1,
        progress=lambda _, done, total, note="": seen.append((done, total)),
    )
    assert (len(run.single), len(run.half)) == (3, 1)
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_the_root_of_xnnpack_is_not_a_number_for_tiny_values(tmp_path: Path) -> None:
    builder = Builder((1, 1, 1, 2))
    path = tmp_path / "m.tflite"
    path.write_bytes(tflite_bytes(builder.graph(builder.op("rsqrt", ["image"], "out"))))
    image = np.array([[[[1.2e-5, 1.0]]]], np.float32)
    engine = FloatFile(path).run(image)
    assert math.isnan(engine.half[0, 0, 0, 0])
    assert engine.half[0, 0, 0, 1] == 1.0
    other = FloatFile(path).run(image, replace(XNNPACK, newton=False))
    assert other.half[0, 0, 0, 0] == pytest.approx(engine.single[0, 0, 0, 0], rel=1e-2)


def test_files_and_images_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model, path = model_of(ARCHITECTURES["vit"]), tmp_path / "m.tflite"
    write_tflite(model, path)
    with pytest.raises(DataError, match="do not fit"):
        FloatFile(path).run(np.zeros((1, 8, 8, 3), np.float32))
    builder = Builder((1, 4, 4, 8))
    graph = builder.graph(builder.op("relu", ["image"], "out"))
    path.write_bytes(tflite_bytes(replace(graph, qparams={"image": QParams((0.1,)), "out": QParams((0.1,))})))
    with pytest.raises(UnsupportedTargetError, match=r"cannot be simulated.*INT8"):
        FloatFile(path)


def test_erf() -> None:
    points = np.linspace(-4, 4, 41)
    assert np.abs(erf(points) - np.array([math.erf(x) for x in points])).max() < 2e-7
