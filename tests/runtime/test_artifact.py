from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime import (
    AppForm,
    ArtifactError,
    StorageError,
    TensorSpec,
    Trial,
    manifest_path,
    read_artifact,
    write_artifact,
)

from .examples import (
    CLASS_NAMES,
    FLOAT_IN,
    FLOAT_OUT,
    edited,
    tiny_artifact,
    tiny_plan,
    tiny_preprocessing,
    written_artifact,
)
from .tiny import GOLDEN, SIZE

INT8_IN = TensorSpec("images", (1, SIZE, SIZE, 3), "int8", "NHWC", 0.0078125, -1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written_artifact(tmp_path)


def test_a_manifest_round_trips(file: Path) -> None:
    assert read_artifact(file) == tiny_artifact(file, FLOAT_IN, FLOAT_OUT)
    assert manifest_path(file).name == "model.tflite.json"


def test_an_int8_manifest_without_calibration_round_trips(tmp_path: Path) -> None:
    file = written_artifact(tmp_path, input=INT8_IN, calibration=None, precision="int8-full")
    artifact = read_artifact(file)
    assert (artifact.input, artifact.calibration) == (INT8_IN, None)


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_older_versions_still_load_and_keep_their_rule_of_cropping(tmp_path: Path, version: int) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(b"the bytes of a model" * 20)
    manifest_path(file).write_bytes((GOLDEN / f"artifact-v{version}.json").read_bytes())
    before = tiny_preprocessing(resize="center_crop")
    assert read_artifact(file) == tiny_artifact(file, FLOAT_IN, FLOAT_OUT, preprocessing=before)


@pytest.mark.parametrize("version", [5, 6, 7, 8])
def test_later_versions_still_load(file: Path, version: int) -> None:
    manifest_path(file).write_bytes((GOLDEN / f"artifact-v{version}.json").read_bytes())
    assert read_artifact(file) == tiny_artifact(file, FLOAT_IN, FLOAT_OUT)


def test_version_9_is_what_is_written(file: Path) -> None:
    assert manifest_path(file).read_bytes() == (GOLDEN / "artifact-v9.json").read_bytes()


def test_a_file_for_apps_reads_rgb_whatever_its_model_reads(tmp_path: Path) -> None:
    plan = replace(tiny_plan(), in_chans=1)
    app = AppForm("tiny.tflite", "0" * 64, 1, "convolution", "probabilities")
    file = written_artifact(tmp_path, plan=plan, app=app)
    assert read_artifact(file).app == app
    for changes in ({"app": None}, {"plan": tiny_plan()}):
        with pytest.raises(ArtifactError, match="another size than its plan reads"):
            read_artifact(written_artifact(tmp_path, **({"plan": plan, "app": app} | changes)))


@pytest.mark.parametrize(
    ("kind", "shape", "layout"), [("vector", (1, 5), "NC"), ("grid", (1, 4, 5), "NLC"), ("grid", (1, 2, 2, 5), "NHWC")]
)
def test_a_file_without_plan_and_classes_round_trips(tmp_path: Path, kind: Any, shape: Any, layout: Any) -> None:
    output = TensorSpec("features", shape, "float32", layout)
    file = written_artifact(tmp_path, plan=None, output=output, class_names=(), output_kind=kind)
    artifact = read_artifact(file)
    assert (artifact.plan, artifact.output_kind, artifact.output) == (None, kind, output)
    assert (artifact.macs, artifact.params) == (None, None)


def test_classes_need_no_names_without_a_plan(tmp_path: Path) -> None:
    assert read_artifact(written_artifact(tmp_path, plan=None, class_names=())).class_names == ()
    with pytest.raises(ArtifactError, match=r"names the wrong number of classes\. Expected 3\. Got 2"):
        read_artifact(written_artifact(tmp_path, plan=None, class_names=("a", "b")))


def test_what_a_recipe_s_place_went_by_round_trips(tmp_path: Path) -> None:
    trial = Trial("static_wi8_ai8", 60, 0.99, None, 31.5, None, 0.31)
    file = written_artifact(tmp_path, trials=(trial,))
    assert read_artifact(file).trials == (trial,)


def test_every_changed_byte_is_found(file: Path) -> None:
    whole = file.read_bytes()
    for position in range(0, len(whole), 37):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(
            ArtifactError, match=r"model\.tflite is damaged. Expected sha256 .* Got sha256 .* export it"
        ):
            read_artifact(file)
    assert read_artifact(file, verify=False).class_names == CLASS_NAMES


@pytest.mark.parametrize("length", [0, 1, 399, 401])
def test_another_length_is_found(file: Path, length: int) -> None:
    file.write_bytes((file.read_bytes() * 2)[:length])
    with pytest.raises(ArtifactError, match=f"is damaged. Expected 400 bytes. Got {length} bytes. It was truncated"):
        read_artifact(file)


def test_what_is_not_there_is_named(file: Path) -> None:
    with pytest.raises(ArtifactError, match=r"other\.tflite does not exist"):
        read_artifact(file.with_name("other.tflite"))
    with pytest.raises(ArtifactError, match=r"is not a model file. Expected a file that ends in \.onnx"):
        read_artifact(file.with_suffix(".pt"))
    manifest_path(file).unlink()
    with pytest.raises(
        ArtifactError, match=r"has no manifest. Expected model\.tflite\.json in the same folder. Copy it along"
    ):
        read_artifact(file)


def test_a_manifest_of_another_format(file: Path) -> None:
    onnx = file.with_suffix(".onnx")
    onnx.write_bytes(file.read_bytes())
    manifest_path(onnx).write_bytes(manifest_path(file).read_bytes())
    with pytest.raises(ArtifactError, match=r"describes another format. Expected \.onnx. Got tflite"):
        read_artifact(onnx)


def test_a_truncated_manifest_is_an_artifact_error(file: Path) -> None:
    manifest = manifest_path(file)
    whole = manifest.read_bytes()
    for length in range(0, len(whole) - 1, 7):
        manifest.write_bytes(whole[:length])
        with pytest.raises(ArtifactError, match=r"model\.tflite\.json"):
            read_artifact(file)


@pytest.mark.parametrize(
    ("keys", "value", "text"),
    [
        (("schema_version",), 10, "newer PocketViT.*pip install --upgrade"),
        (("schema",), "pocketvit.plan", "another kind of document"),
        (("class_names",), ["a", "b"], "names the wrong number of classes. Expected 3. Got 2"),
        (("class_names",), "abc", "class_names has the wrong type or value. Expected a list"),
        (("class_names", 0), "\ud800", "without lone surrogates"),
        (("format",), "pth", r"describes another format. Expected \.tflite. Got pth"),
        (("precision",), "<b>", "has an impossible precision. Got '<b>'"),
        (("output_kind",), "text", "output_kind has the wrong type or value"),
        (("output_kind",), "vector", "names classes of a vector. Expected none. Got 3"),
        (("output_kind",), "grid", "an output that is no grid. Expected NLC or NHWC or NCHW. Got NC"),
        (("class_names",), [], "names the wrong number of classes. Expected 3. Got 0"),
        (("plan", "embed_dim"), 12, "plan is not valid: embed_dim"),
        (("plan", "num_classes"), 4, "names the wrong number of classes"),
        (("plan", "img_size"), [16, 16], "another size than its plan reads. Expected 16x16x3. Got 8x8x3"),
        (("preprocessing", "channels"), 4, "preprocessing is not valid: Images have 1 or 3 channels"),
        (("preprocessing", "std"), [0, 1, 1], "preprocessing is not valid: mean must be finite and std positive"),
        (("preprocessing", "crop_pct"), 1e-320, "preprocessing is not valid: crop_pct"),
        (("preprocessing", "width"), 4, "another size than its plan reads"),
        (("input", "shape"), [], "'images' does not fit NHWC"),
        (("input", "shape"), [1, 8, 8], "'images' does not fit NHWC. Got \\(1, 8, 8\\)"),
        (("input", "shape"), [1, 8, 0, 3], "'images' does not fit NHWC"),
        (("input", "shape"), [1, 3, 8, 8], "an input that is not its image. Expected NHWC .* Got NHWC"),
        (("input", "shape"), [1, 8, 10**30, 3], "Expected an integer of 64 bits"),
        (("input", "layout"), "NCHW", "an input that is not its image"),
        (("input", "dtype"), "int8", "integer tensor 'images' lacks its scale or zero point"),
        (("input", "dtype"), "object", "dtype has the wrong type or value"),
        (("input", "scale"), 0.5, "float tensor 'images' has a scale or zero point"),
        (("output", "shape"), [1, 4], "an output that is not its classes. Expected NC \\(3,\\)"),
        (("output", "layout"), "NHWC", "'logits' does not fit NHWC"),
        (("size_bytes",), -1, "is damaged"),
        (("sha256",), "", "is damaged"),
        (("sha256",), None, "Expected str"),
        (("parity", "max_abs"), float("nan"), "not valid JSON"),
        (("parity",), None, "Expected an object"),
        (("provenance", "versions"), {"numpy": 2}, "provenance.versions.numpy"),
        (("__class__",), "os.system", "has unknown fields"),
    ],
)
def test_a_hostile_manifest_is_an_artifact_error(file: Path, keys: tuple[str, ...], value: Any, text: str) -> None:
    edited(manifest_path(file), *keys, value=value)
    with pytest.raises(ArtifactError, match=text):
        read_artifact(file)


@pytest.mark.parametrize("field", sorted(json.loads((GOLDEN / "artifact-v1.json").read_text())))
def test_a_manifest_lacking_a_field_is_an_artifact_error(file: Path, field: str) -> None:
    document = json.loads(manifest_path(file).read_text())
    del document[field]
    manifest_path(file).write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match=r"lacks the field|another kind of document|no valid schema_version"):
        read_artifact(file)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"scale": 0.0}, "impossible scale or zero point"),
        ({"scale": -0.1}, "impossible scale"),
        ({"scale": float("nan")}, "impossible scale"),
        ({"zero_point": 200}, "impossible scale or zero point.* Got 0.0078125 and 200"),
        ({"zero_point": 256, "dtype": "uint8"}, "zero point within 0 to 255. Got 0.0078125 and 256"),
        ({"zero_point": -1, "dtype": "uint8"}, "zero point within 0 to 255"),
        ({"zero_point": None}, "lacks its scale or zero point"),
    ],
)
def test_a_tensor_refuses(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ArtifactError, match=text):
        replace(INT8_IN, **changes)


def test_a_free_batch_is_allowed(tmp_path: Path) -> None:
    free = replace(FLOAT_IN, shape=(-1, 3, SIZE, SIZE), layout="NCHW")
    file = written_artifact(tmp_path, input=free, output=replace(FLOAT_OUT, shape=(-1, 3)))
    assert read_artifact(file).input == free


def test_a_manifest_that_cannot_be_written(file: Path) -> None:
    artifact = read_artifact(file)
    with pytest.raises(StorageError):
        write_artifact(file / "inside.tflite", artifact)


def test_gray_images_fit_too(tmp_path: Path) -> None:
    from runtime import Preprocessing

    file = written_artifact(
        tmp_path,
        plan=tiny_plan(in_chans=1),
        preprocessing=Preprocessing(SIZE, SIZE, 1, (0.5,), (0.5,)),
        input=replace(FLOAT_IN, shape=(1, SIZE, SIZE, 1)),
    )
    assert read_artifact(file).plan.in_chans == 1


def test_a_vector_is_that_of_its_plan(tmp_path: Path) -> None:
    plan = replace(tiny_plan(), output="vector")
    vector: Any = {"output_kind": "vector", "class_names": ()}
    assert read_artifact(written_artifact(tmp_path, plan=plan, **vector)).plan == plan
    other = replace(plan, num_classes=4)
    with pytest.raises(ArtifactError, match=r"is not that of its plan\. Expected vector \(4,\)\. Got vector \(3,\)"):
        read_artifact(written_artifact(tmp_path, plan=other, **vector))
    with pytest.raises(ArtifactError, match=r"has classes, and the model of its plan has none\. Expected a vector"):
        read_artifact(written_artifact(tmp_path, plan=plan))
