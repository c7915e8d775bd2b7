"""Files for apps answer as the files they were made from, and say of themselves what MediaPipe reads."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from compress.data.dataset import Dataset
from compress.model.vit import SlicedViT
from export.app import rewrite
from export.app.make import _check_alike, write_app_file
from export.app.metadata import AppDescription, app_metadata
from export.app.rewrite import LUMA
from export.exporter import RefusedFilesError, export_model
from export.gpu.verify import float_file, images_to_run, verified_on_gpu
from export.graph.build import vit_graph
from export.graph.file_model import open_tflite, tflite_model
from export.inspect.check_file import verify_file
from export.placing import REJECTED, tensor_spec
from export.quantise.calibrate import observe
from export.quantise.integer import quantise_graph
from export.quantise.recipes import DYNAMIC, modes_of, recipes_for
from export.settings import ExportSettings
from export.writers.tflite import tflite_bytes
from pocketvit.settings import RunSettings
from runtime import (
    Artifact,
    Calibration,
    DataError,
    ParityError,
    Preprocessing,
    UnsupportedTargetError,
    load,
    normalise,
    open_engine,
    read_artifact,
    sha256_of,
    softmax,
    write_artifact,
)
from runtime.formats import model_files
from runtime.gpu.adapter import Adapter
from runtime.gpu.drivers import GpuDriver
from tests.export.conftest import task_for
from tests.export.small import LEAST, artifact_of, small_model

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY = replace(LEAST, in_chans=1)
NAMES = ("tench", "T-shirt/top", "crème\nbrûlée", "d")
FLOAT_FOR_APPS = ExportSettings(kinds=("fp32",), app=True, verify_images=20, gpu_check=False)
RECIPES = {"int8": DYNAMIC, "int8-full": recipes_for("int8-full")[0], "int4": recipes_for("int4")[0]}


def plain_file(folder: Path, precision: str, grey: bool, **changes: object) -> Path:
    """Writes a file of random weights whose images have another mean and deviation in each channel."""
    plan = GREY if grey else LEAST
    if precision == "int4":
        plan = replace(plan, embed_dim=64, blocks=tuple(replace(own, mlp_dim=64) for own in plan.blocks))
    path, graph = folder / f"small.{precision}.tflite", vit_graph(small_model(plan))
    spec = Preprocessing(*plan.img_size, plan.in_chans, *((MEAN[:1], STD[:1]) if grey else (MEAN, STD)))
    if precision in RECIPES:
        images = normalise(pixels(grey, 16), spec)
        recipe = RECIPES[precision]
        graph = quantise_graph(graph, modes_of(graph, recipe), observe(graph, images), recipe.ranges)
    path.write_bytes(tflite_bytes(graph, precision == "fp16"))
    engine = open_engine(path)
    ends = {"input": tensor_spec(engine, "input", "NHWC"), "output": tensor_spec(engine, "output", "NC")}
    artifact = artifact_of(path, plan, class_names=NAMES, preprocessing=spec, precision=precision, **ends)
    write_artifact(path, replace(artifact, **changes))  # type: ignore[arg-type]
    return path


def pixels(grey: bool, count: int = 8) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 1 if grey else 3), np.uint8)


def made(source: Path, **form: bool) -> tuple[Path, Artifact]:
    path = source.with_name(f"{source.stem}.app.tflite")
    artifact = write_app_file(source, path, **form)
    write_artifact(path, artifact)
    return path, artifact


@pytest.mark.parametrize("uint8", [False, True], ids=["float", "uint8"])
@pytest.mark.parametrize("grey", [False, True], ids=["rgb", "grey"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int8-full", "int4"])
def test_a_file_for_apps_answers_as_the_file_it_was_made_from(
    tmp_path: Path, precision: str, grey: bool, uint8: bool
) -> None:
    source = plain_file(tmp_path, precision, grey)
    path, artifact = made(source, pixels=uint8)
    images = pixels(grey)
    before = np.stack([own.logits for own in load(source).predict_pixels(images)])
    rgb = np.repeat(images, 3, axis=-1) if grey else images
    session = load(path)
    answers = session.engine.run(rgb[:1] if uint8 else rgb[:1].astype(np.float32) / 255)
    assert (answers.dtype, answers.shape) == (np.dtype(np.float32), (1, 4))
    assert answers.sum() == pytest.approx(1, abs=1e-5)
    after = np.stack([own.logits for own in session.predict_pixels(rgb)])
    # integers are rounded after a normalisation in another order of operations, so one step may lie between the two
    tolerance = {"fp32": 1e-5, "fp16": 2e-3}.get(precision, 0.03)
    assert np.abs(softmax(after) - softmax(before)).max() < tolerance
    assert artifact.app is not None
    folded = precision in ("fp32", "fp16") and not grey
    assert artifact.app.normalised_by == ("patch embedding" if folded else "convolution")
    assert (artifact.input.dtype, artifact.preprocessing.channels) == ("uint8" if uint8 else "float32", 3)
    assert artifact.app.made_from_sha256 == sha256_of(source)


def test_folding_adds_no_operator_and_no_bytes_but_metadata(tmp_path: Path) -> None:
    source = plain_file(tmp_path, "fp32", grey=False)
    path, _ = made(source, probabilities=False)
    plain, app = ([op.kind for op in tflite_model(own).ops] for own in (source, path))
    assert app == plain
    assert source.stat().st_size < path.stat().st_size < source.stat().st_size + 2000


def test_a_grey_model_weighs_colours_as_our_preprocessing_does(tmp_path: Path) -> None:
    source = plain_file(tmp_path, "fp32", grey=True)
    path, _ = made(source)
    colours = pixels(grey=False)
    grey = colours.astype(np.float64) @ np.asarray(LUMA)
    ours = np.stack([np.asarray(Image.fromarray(own).convert("L")) for own in colours])
    assert (np.floor(grey + 0.5) == ours).all()
    before = load(source).logits(((grey[..., None] / 255 - MEAN[0]) / STD[0]).astype(np.float32))
    after = np.stack([own.logits for own in load(path).predict_pixels(colours)])
    assert np.abs(softmax(after) - softmax(before)).max() < 1e-5


def test_the_labels_stand_in_an_archive_behind_the_model(tmp_path: Path) -> None:
    source = plain_file(tmp_path, "fp32", grey=False)
    path, artifact = made(source)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["labels.txt"]
        assert archive.read("labels.txt").decode().splitlines() == ["tench", "T-shirt/top", "crème brûlée", "d"]
    assert artifact.class_names == NAMES
    again = path.read_bytes()
    made(source)
    assert path.read_bytes() == again


def test_the_metadata_has_its_identifier_and_its_names(tmp_path: Path) -> None:
    path, _ = made(plain_file(tmp_path, "fp32", grey=False))
    model = open_tflite(path, path.read_bytes())
    entries = {model.Metadata(i).Name(): model.Metadata(i).Buffer() for i in range(model.MetadataLength())}
    stored = model.Buffers(entries[b"TFLITE_METADATA"]).DataAsNumpy().tobytes()
    assert stored[4:8] == b"M001"
    for text in (b"small", b"image", b"scores", b"labels.txt", b"The probability of each class"):
        assert text in stored
    # MediaPipe hands over (pixel - 0) / 255
    assert np.float32(255).tobytes() in stored
    uint8 = app_metadata(AppDescription("m", "d", "mit", 8, 8, "image", "scores", "s", True, True, ()))
    assert np.float32(1).tobytes() in uint8
    assert b"labels.txt" not in uint8
    assert b"mit" in uint8


def test_logits_and_vectors_get_no_softmax(tmp_path: Path) -> None:
    source = plain_file(tmp_path, "int8-full", grey=False)
    path, artifact = made(source, probabilities=False)
    images = pixels(grey=False)
    before = np.stack([own.logits for own in load(source).predict_pixels(images)])
    after = load(path).logits(images.astype(np.float32) / 255)
    assert np.abs(after - before).max() <= 2 * read_artifact(source).output.scale  # type: ignore[operator]
    assert (artifact.app and artifact.app.scores, artifact.output.dtype) == ("logits", "float32")
    vector = plain_file(tmp_path, "fp32", grey=False, plan=None, class_names=(), output_kind="vector")
    path, artifact = made(vector)
    assert artifact.app is not None
    assert artifact.app.scores == "vector"
    assert not zipfile.is_zipfile(path)
    assert load(path).values(list(images)).shape == (8, 4)


def test_a_file_for_apps_becomes_no_other(tmp_path: Path) -> None:
    path, _ = made(plain_file(tmp_path, "fp32", grey=False))
    with pytest.raises(UnsupportedTargetError, match="one that is for apps already"):
        write_app_file(path, tmp_path / "again.app.tflite")
    assert model_files(tmp_path) == [tmp_path / "small.fp32.tflite"]


def test_on_gpus_they_are_compared_with_files_for_apps(tmp_path: Path) -> None:
    paths = {kind: made(plain_file(tmp_path, kind, grey=True))[0] for kind in ("fp32", "int8-full")}
    plain, app = tmp_path / "small.int8-full.tflite", paths["int8-full"]
    assert float_file(app, read_artifact(app)) == paths["fp32"]
    assert float_file(plain, read_artifact(plain)) == tmp_path / "small.fp32.tflite"
    images, source = images_to_run(app, read_artifact(app), 4)
    assert (images.shape, source) == ((4, 8, 8, 3), "random numbers")
    assert 0 <= images.min() < images.max() <= 1
    app_of_logits, _ = made(plain, probabilities=False)
    assert float_file(app_of_logits, read_artifact(app_of_logits)) is None


@pytest.mark.gpu
def test_verify_runs_them_on_the_gpu(tmp_path: Path, software_gpu: tuple[GpuDriver, Adapter]) -> None:
    for uint8 in (False, True):
        path, _ = made(plain_file(tmp_path, "int8-full", grey=True), pixels=uint8)
        found = verified_on_gpu(verify_file(path, images=8), path, *software_gpu)
        assert found.gpu is not None
        assert (found.gpu.whole, found.gpu.wrong, found.passed) == (True, None, True)


def export(folder: Path, model: SlicedViT, data: Dataset, **settings: object) -> list[Artifact]:
    asked = replace(FLOAT_FOR_APPS, **settings)  # type: ignore[arg-type]
    return export_model(model, task_for(data, trained=False), data, folder, "tiny", asked)


def test_an_export_writes_verifies_and_keeps_them(tmp_path: Path, sliced: SlicedViT, digits: Dataset) -> None:
    plain, app = export(tmp_path, sliced, digits)
    assert app.file == "tiny.fp32.app.tflite"
    assert read_artifact(tmp_path / app.file) == app
    assert (app.parity.images, app.parity.top1_agreement) == (20, 1.0)
    assert app.parity.max_rel < 1e-4
    assert app.parity.top1 == plain.parity.top1
    when = (tmp_path / app.file).stat().st_mtime_ns
    assert export(tmp_path, sliced, digits) == [plain, app]
    assert (tmp_path / app.file).stat().st_mtime_ns == when
    other = export(tmp_path, sliced, digits, app_input="uint8", app_scores="logits")[1]
    assert (other.input.dtype, other.app and other.app.scores) == ("uint8", "logits")
    # a new file of the same name leaves no file for apps behind that was made from the old one
    export_model(
        small_model(replace(sliced.plan, embed_dim=16)),
        task_for(digits, trained=False),
        digits,
        tmp_path,
        "tiny",
        replace(FLOAT_FOR_APPS, app=False),
    )
    assert not (tmp_path / app.file).exists()


def test_one_that_answers_otherwise_is_refused(
    tmp_path: Path, sliced: SlicedViT, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewrite, "LUMA", (0.2, 0.2, 0.2))
    with pytest.raises(RefusedFilesError, match=r"tiny\.fp32\.app\.tflite does not compute what"):
        export(tmp_path, sliced, digits)
    assert (tmp_path / REJECTED / "tiny.fp32.app.tflite").is_file()
    assert not (tmp_path / "tiny.fp32.app.tflite").exists()
    assert (tmp_path / "tiny.fp32.tflite").is_file()


def test_another_top_1_is_allowed_on_near_ties_and_never_a_worse_file(tmp_path: Path) -> None:
    artifact = read_artifact(plain_file(tmp_path, "int8", grey=False, calibration=Calibration("d", "held-out", 2, 0)))
    draw = np.random.default_rng(0).standard_normal
    wanted = draw((300, 4)).astype(np.float32)
    plain = wanted + 0.1 * draw((300, 4)).astype(np.float32)
    other = wanted + 0.1 * draw((300, 4)).astype(np.float32)
    assert (plain.argmax(axis=1) != other.argmax(axis=1)).sum() > 5
    _check_alike(artifact, artifact, other, plain, wanted)
    with pytest.raises(ParityError, match="is farther from the model"):
        _check_alike(artifact, artifact, wanted + 2 * (other - wanted), plain, wanted)
    wanted = np.tile(np.asarray([[1.2, 1, 0, 0]], np.float32), (300, 1))
    plain, swapped = wanted.copy(), wanted.copy()
    plain[0, 3] = swapped[0, 3] = 30  # an error beside which the others do not show
    _check_alike(artifact, artifact, plain, plain, wanted)
    swapped[1:40] = swapped[1:40, [1, 0, 2, 3]]
    with pytest.raises(ParityError, match="another one on 39 of 299"):
        _check_alike(artifact, artifact, swapped, plain, wanted)


def test_options_without_such_files_are_refused() -> None:
    with pytest.raises(DataError, match=r"made from a \.tflite file, and none is asked for"):
        ExportSettings(kinds=("onnx",), app=True)
    with pytest.raises(DataError, match="no such files asked for"):
        ExportSettings(app_input="uint8")
    assert RunSettings().app is False
