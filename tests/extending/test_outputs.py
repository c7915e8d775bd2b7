"""Files that PocketViT did not slice, with a vector or a grid of patches in place of classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save
from PIL import Image

from device_bench.metrics.accuracy import TestImages, write_test_images
from runtime import Parity, TensorSpec, UnsupportedTargetError, load, write_artifact
from tests.device_bench.conftest import make_run
from tests.runtime.examples import tiny_artifact
from tests.runtime.tiny import SIZE

from .plugins import run

SHAPES = {"vector": ("batch", 12), "grid": ("batch", 4, 12)}
NOT_RUN = Parity(0, 0.0, 0.0, None, None, None, None, "the output is not classes")
LAYOUTS = {"vector": "NC", "grid": "NLC"}


def write_features(path: Path, kind: str) -> Path:
    """Writes an ONNX file of one convolution over patches of 4 x 4, pooled for a vector, and its manifest."""
    weight = np.random.default_rng(0).standard_normal((12, 3, 4, 4)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["images", "weight"], ["patches"], strides=[4, 4])]
    if kind == "vector":
        nodes.append(helper.make_node("ReduceMean", ["patches"], ["features"], axes=[2, 3], keepdims=0))
    else:
        nodes.append(helper.make_node("Reshape", ["patches", "sizes"], ["tokens"]))
        nodes.append(helper.make_node("Transpose", ["tokens"], ["features"], perm=[0, 2, 1]))
    constants = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(np.array([0, 12, 4]), "sizes")]
    graph = helper.make_graph(
        nodes,
        "features",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, SHAPES[kind])],
        constants,
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    shape = tuple(-1 if size == "batch" else size for size in SHAPES[kind])
    output = TensorSpec("features", shape, "float32", LAYOUTS[kind])  # type: ignore[arg-type]
    image = TensorSpec("images", (-1, 3, SIZE, SIZE), "float32", "NCHW")
    changes: dict[str, Any] = {"plan": None, "class_names": (), "output_kind": kind, "calibration": None}
    write_artifact(path, tiny_artifact(path, image, output, parity=NOT_RUN, **changes))
    return path


@pytest.fixture(params=["vector", "grid"])
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def place(tmp_path: Path, kind: str) -> Path:
    """A folder with a picture, and a run with ``features.onnx``."""
    Image.fromarray(np.full((SIZE, SIZE, 3), (255, 0, 0), np.uint8)).save(tmp_path / "a.png")
    write_features(make_run(tmp_path / "digits") / "artifacts" / "features.onnx", kind)
    return tmp_path


def test_a_session_returns_the_values_and_no_classes(place: Path, kind: str) -> None:
    session = load(place / "digits" / "artifacts" / "features.onnx")
    values = session.values([place / "a.png", place / "a.png"])
    assert values.shape == (2, *SHAPES[kind][1:])
    assert session.values([]).shape == (0, *SHAPES[kind][1:])
    for call in (
        lambda: session.predict([place / "a.png"]),
        lambda: session.logits(np.zeros((1, 8, 8, 3), np.float32)),
    ):
        with pytest.raises(UnsupportedTargetError, match=f"no classes to predict.* Got a {kind} of shape"):
            call()


def test_predict_says_that_there_are_no_classes_and_gives_the_values(place: Path, kind: str) -> None:
    file = place / "digits" / "artifacts" / "features.onnx"
    done = run(place, "math", "predict", file, place / "a.png")
    assert done.returncode == 0, done.stderr
    assert "has no classes" in done.stdout
    assert f"a {kind} of {' x '.join(map(str, SHAPES[kind][1:]))} values" in done.stdout
    (found,) = json.loads(run(place, "math", "predict", file, place / "a.png", "--json").stdout)["predictions"]
    assert (found["output"], found["shape"]) == (kind, list(SHAPES[kind][1:]))
    assert np.array(found["values"]).shape == SHAPES[kind][1:]
    for option in (("--label", "red"), ("--plot", place / "sheet.png")):
        refused = run(place, "math", "predict", file, place / "a.png", *option)
        assert refused.returncode == 2
        undrawn = {"vector": "looked for among several", "grid": "has no rows and columns to draw"}
        assert (undrawn[kind] if option[0] == "--plot" else "classes") in " ".join(refused.stderr.split())


def test_it_is_inspected_and_verified(place: Path) -> None:
    file = place / "digits" / "artifacts" / "features.onnx"
    done = run(place, "math", "inspect", file, "--no-time", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["widths"], found["widths_reason"]) == (None, "its manifest has no plan")
    assert sum(row["macs"] or 0 for row in found["contents"]["ops"]) == 4 * 12 * 3 * 16
    done = run(place, "math", "verify", file, "--json")
    assert done.returncode == 0, done.stderr
    checks = {check["name"]: check["found"] for check in json.loads(done.stdout)["checks"]}
    assert checks["widths"] == "not compared: the manifest has no plan"
    assert run(place, "math", "verify", file).returncode == 0
    assert run(place, "math", "inspect", file, "--no-time").returncode == 0


@pytest.mark.slow
def test_it_is_benched_and_reported_without_an_accuracy(place: Path, kind: str) -> None:
    folder = place / "digits"
    images = place / "images.npz"
    write_test_images(images, TestImages(np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2, "toy", "test", ("a", "b")))
    result = folder / "bench" / "cpu.json"
    bench = ("bench", folder / "artifacts" / "features.onnx", "--samples", 5, "--throughput", 0.1, "--images", images)
    done = run(place, "math", *bench, "--json", result)
    assert done.returncode == 0, done.stderr
    (file,) = json.loads(result.read_text())["files"]
    assert (file["macs"], file["accuracy"]) == (None, None)
    assert f"its output is a {kind} and not classes" in " ".join(file["notes"])
    done = run(place, "math", "report", folder, "--json")
    assert done.returncode == 0, done.stderr
    row = next(row for row in json.loads(done.stdout)["rows"] if row["name"] == "features.onnx")
    assert (row["params"], row["macs"], row["top1"], row["agreement"]) == (None, None, None, None)
    assert row["timings"]
    assert "features.onnx" in run(place, "math", "report", folder).stdout
    assert "features.onnx" in (folder / "report.html").read_text()
    assert "features.onnx" in (folder / "report.md").read_text()
