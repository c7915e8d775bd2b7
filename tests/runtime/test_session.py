from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runtime import (
    ArtifactError,
    DataError,
    Prediction,
    Session,
    TensorSpec,
    UnsupportedTargetError,
    load,
    manifest_path,
    open_engine,
    softmax,
    write_artifact,
)
from runtime.session import quantise

from .examples import CLASS_NAMES, FLOAT_IN, FLOAT_OUT, edited, tiny_artifact
from .tiny import GOLDEN, SIZE, expected_logits, write_onnx


def installed(folder: Path, kind: str) -> Path:
    """Puts a tiny model and its manifest into ``folder``."""
    file = folder / ("model.onnx" if kind.startswith("onnx") else "model.tflite")
    if kind.startswith("onnx"):
        write_onnx(file, batch=2 if kind == "onnx-of-2" else "batch")
    else:
        file.write_bytes((GOLDEN / f"tiny-{kind}.tflite").read_bytes())
    engine = open_engine(file)
    specs = [
        TensorSpec(name, shape, dtype.name, layout, *(qparams or (None, None)))  # type: ignore[arg-type]
        for name, shape, dtype, layout, qparams in (
            (
                engine.input_name,
                engine.input_shape,
                engine.input_dtype,
                "NCHW" if kind.startswith("onnx") else "NHWC",
                engine.input_qparams,
            ),
            (engine.output_name, engine.output_shape, engine.output_dtype, "NC", engine.output_qparams),
        )
    ]
    write_artifact(file, tiny_artifact(file, specs[0], specs[1]))
    return file


def colours() -> list[np.ndarray[Any, Any]]:
    """Returns a red, a green and a blue picture, which the tiny classifier tells apart."""
    return [np.full((SIZE, SIZE, 3), 255 * np.eye(3, dtype=np.uint8)[i], np.uint8) for i in range(3)]


def as_inputs(pictures: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    return (np.stack(pictures).astype(np.float32) / 255 - 0.5) / 0.5


KINDS = ["fp32", "int8", "onnx"]


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_those_of_the_model(tmp_path: Path, kind: str) -> None:
    session = load(installed(tmp_path, kind))
    predictions = session.predict(colours())
    expected = expected_logits(as_inputs(colours()))
    assert [each.index for each in predictions] == [0, 1, 2]
    assert [each.name for each in predictions] == list(CLASS_NAMES)
    if session.engine.output_qparams:  # its calibration saw nothing below -3.95, so it saturates there
        scale, zero_point = session.engine.output_qparams
        expected = np.clip(expected, (-128 - zero_point) * scale, (127 - zero_point) * scale)
    for prediction, logits in zip(predictions, expected, strict=True):
        # int8: two steps of the output's scale, 1/30
        np.testing.assert_allclose(prediction.logits, logits, atol=0.07 if kind == "int8" else 1e-5)
        assert prediction.logits.dtype == np.float32
        assert prediction.confidence == pytest.approx(softmax(prediction.logits)[prediction.index])


def test_paths_pictures_and_arrays_give_the_same(tmp_path: Path) -> None:
    session = load(str(installed(tmp_path, "fp32")), "litert", threads=2)
    pixels = np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    sources = [tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(pixels), pixels]
    first, *others = session.predict(iter(sources))  # an iterator, read once
    assert len(others) == 3
    for other in others:
        np.testing.assert_array_equal(other.logits, first.logits)
    assert session.predict([]) == []


def test_one_image_in_place_of_several_is_refused(tmp_path: Path) -> None:
    session = load(installed(tmp_path, "fp32"))
    for one in ("a.png", tmp_path / "a.png", Image.new("RGB", (8, 8)), colours()[0], colours()[0][:, :, 0], 5):
        with pytest.raises(DataError, match=f"reads several images. Got one {type(one).__name__}. Put it in a list"):
            session.predict(one)  # type: ignore[arg-type]
    assert len(session.predict(np.stack(colours()))) == 3


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    session = load(installed(tmp_path, "fp32"))
    with pytest.raises(DataError, match=r"none\.png does not exist"):
        session.predict([tmp_path / "none.png"])
    with pytest.raises(DataError, match="not an image"):
        session.predict([None])  # type: ignore[list-item]


@pytest.mark.parametrize("kind", KINDS)
def test_many_images_run_in_batches(tmp_path: Path, kind: str) -> None:
    session = load(installed(tmp_path, kind))
    inputs = np.random.default_rng(0).uniform(-1, 1, (70, SIZE, SIZE, 3)).astype(np.float32)
    logits = session.logits(inputs)
    assert (logits.shape, logits.dtype) == ((70, 3), np.float32)
    np.testing.assert_allclose(logits, expected_logits(inputs), atol=0.07 if kind == "int8" else 1e-5)
    assert session.logits(inputs[:0]).shape == (0, 3)


class Recorder:
    """An engine that only remembers what it was given."""

    def __init__(self) -> None:
        self.batches: list[np.ndarray[Any, Any]] = []

    def run(self, batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        self.batches.append(batch)
        return np.zeros((len(batch), 3), np.float32)


@pytest.mark.parametrize(("batch", "sizes"), [(-1, [32, 32, 6]), (1, [1] * 70), (7, [7] * 10)])
def test_the_files_batch_size_is_kept(tmp_path: Path, batch: int, sizes: list[int]) -> None:
    file = installed(tmp_path, "fp32")
    artifact = tiny_artifact(file, replace(FLOAT_IN, shape=(batch, *FLOAT_IN.shape[1:])), FLOAT_OUT)
    recorder = Recorder()
    Session(artifact, recorder).logits(np.zeros((70, SIZE, SIZE, 3), np.float32))  # type: ignore[arg-type]
    assert [len(each) for each in recorder.batches] == sizes


def test_a_part_of_a_fixed_batch_is_refused(tmp_path: Path) -> None:
    session = load(installed(tmp_path, "onnx-of-2"))
    inputs = as_inputs([*colours(), colours()[0]])
    np.testing.assert_allclose(session.logits(inputs), expected_logits(inputs), atol=1e-5)
    with pytest.raises(DataError, match=r"do not fill whole batches. Expected a multiple of 2. Got 3"):
        session.logits(inputs[:3])


@pytest.mark.parametrize("shape", [(SIZE, SIZE, 3), (1, SIZE, SIZE, 1), (1, 3, SIZE, SIZE), (1, SIZE, SIZE + 1, 3)])
def test_images_of_another_size_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    session = load(installed(tmp_path, "fp32"))
    with pytest.raises(DataError) as caught:
        session.logits(np.zeros(shape, np.float32))
    assert str(caught.value) == f"The input does not fit the model. Expected (B, {SIZE}, {SIZE}, 3). Got {shape}."


def test_raw_input_has_the_files_layout_and_type(tmp_path: Path) -> None:
    inputs = np.random.default_rng(0).uniform(-1.2, 1.2, (1, SIZE, SIZE, 3)).astype(np.float32)
    for folder in KINDS:
        (tmp_path / folder).mkdir()
    np.testing.assert_array_equal(load(installed(tmp_path / "fp32", "fp32")).to_raw(inputs), inputs)
    raw = load(installed(tmp_path / "onnx", "onnx")).to_raw(inputs)
    np.testing.assert_array_equal(raw, inputs.transpose(0, 3, 1, 2))
    assert raw.flags.c_contiguous
    session = load(installed(tmp_path / "int8", "int8"))
    scale, zero_point = session.engine.input_qparams or (0, 0)
    raw = session.to_raw(inputs)
    assert raw.dtype == np.int8
    assert (raw.min(), raw.max()) == (-128, 127), "what does not fit saturates"
    restored = (raw.astype(np.float32) - zero_point) * scale
    inside = np.abs(inputs) < 0.99
    assert np.abs(restored - inputs)[inside].max() <= scale / 2 + 1e-6


def test_quantise_rounds_and_saturates() -> None:
    values = np.array([0, 0.24, 0.26, -0.26, 0.75, 1000, -1000, np.inf, -np.inf], np.float32)
    stored = quantise(values, 0.5, 3)
    assert (stored.tolist(), stored.dtype) == ([3, 3, 4, 2, 5, 127, -128, 127, -128], np.int8)


def test_int8_logits_are_dequantised(tmp_path: Path) -> None:
    session = load(installed(tmp_path, "int8"))
    scale, zero_point = session.engine.output_qparams or (0, 0)
    raw = session.to_raw(as_inputs(colours()[:1]))
    expected = (session.engine.run(raw).astype(np.float32) - np.float32(zero_point)) * np.float32(scale)
    np.testing.assert_array_equal(session.run_raw(raw), expected)


@pytest.mark.parametrize(
    ("kind", "keys", "value", "text"),
    [
        ("fp32", ("input", "shape"), [2, SIZE, SIZE, 3], "describes another input. Expected float32 \\(2, "),
        ("fp32", ("output", "shape"), [4, 3], "describes another output. Expected float32 \\(4, 3\\)"),
        ("int8", ("input", "scale"), 0.5, "another quantisation of its input. Expected scale and zero point 0.5"),
        ("int8", ("input", "zero_point"), 5, "another quantisation of its input"),
        ("int8", ("output", "scale"), 1.0, "another quantisation of its output"),
    ],
)
def test_a_manifest_that_disagrees_with_its_file(
    tmp_path: Path, kind: str, keys: tuple[str, ...], value: object, text: str
) -> None:
    file = installed(tmp_path, kind)
    edited(manifest_path(file), *keys, value=value)
    with pytest.raises(ArtifactError, match=text):
        load(file)


def test_a_manifest_of_float_for_an_int8_file(tmp_path: Path) -> None:
    file = installed(tmp_path, "int8")
    write_artifact(file, tiny_artifact(file, FLOAT_IN, FLOAT_OUT))
    with pytest.raises(ArtifactError, match=r"describes another input. Expected float32 .* Got int8"):
        load(file)


def test_a_damaged_file_never_reaches_its_engine(tmp_path: Path) -> None:
    file = installed(tmp_path, "fp32")
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(ArtifactError, match="is damaged"):
        load(file)


def test_load_passes_engine_and_threads_on(tmp_path: Path) -> None:
    file = installed(tmp_path, "fp32")
    with pytest.raises(UnsupportedTargetError, match="threads"):
        load(file, threads=0)
    with pytest.raises(UnsupportedTargetError, match="Expected litert"):
        load(file, "onnxruntime")
    assert json.loads(manifest_path(file).read_text())["format"] == "tflite"


def test_softmax_sums_to_one_and_does_not_overflow() -> None:
    logits = np.array([[1.0, 2.0, 3.0], [1e4, 0.0, -1e4]], np.float32)
    expected = np.exp([1, 2, 3]) / np.exp([1, 2, 3]).sum()
    np.testing.assert_allclose(softmax(logits), [expected, [1, 0, 0]], atol=1e-12)


def test_cross_entropy_is_the_negative_log_likelihood() -> None:
    prediction = Prediction(2, "c", 0.5, np.array([1.0, 2.0, 3.0], np.float32))
    for label in range(3):
        assert prediction.cross_entropy(label) == pytest.approx(-math.log(softmax(prediction.logits)[label]))
    far = Prediction(0, "a", 1.0, np.array([1e4, -1e4], np.float32))
    assert far.cross_entropy(1) == pytest.approx(2e4)


@pytest.mark.parametrize("label", [-1, 3])
def test_cross_entropy_of_no_class(label: int) -> None:
    with pytest.raises(DataError, match=f"No such class. Expected 0 to 2. Got {label}"):
        Prediction(0, "a", 1.0, np.zeros(3, np.float32)).cross_entropy(label)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_and_its_pixels_have_one_answer(tmp_path: Path, kind: str) -> None:
    file = installed(tmp_path, kind)
    artifact = load(file).artifact
    write_artifact(file, replace(artifact, preprocessing=replace(artifact.preprocessing, crop_pct=0.6)))
    session = load(file)
    # the middle, which alone is left by the crop, is of another colour than the rest
    pixels = np.full((SIZE, SIZE, 3), (255, 0, 0), np.uint8)
    pixels[2:-2, 2:-2] = (0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    answers = session.predict([tmp_path / "picture.png", Image.fromarray(pixels), pixels])
    for answer in answers[1:]:
        np.testing.assert_array_equal(answer.logits, answers[0].logits)
    assert not np.array_equal(session.predict_pixels(pixels[None])[0].logits, answers[0].logits)


def test_ready_pixels_are_only_normalised(tmp_path: Path) -> None:
    session = load(installed(tmp_path, "fp32"))
    pixels = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
    found = np.stack([answer.logits for answer in session.predict_pixels(pixels)])
    np.testing.assert_allclose(found, session.logits(as_inputs(list(pixels))), atol=1e-5)
    for wrong in (pixels[0], pixels[:, :-1], pixels.astype(np.float32), pixels[..., :1], [pixels[0]]):
        with pytest.raises(DataError, match="no pixels of the model's size"):
            session.predict_pixels(wrong)  # type: ignore[arg-type]
