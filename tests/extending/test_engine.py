"""A file format with its engine, from one file outside the package."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime import TensorSpec, write_artifact
from tests.device_bench.conftest import make_run
from tests.runtime.examples import CLASS_NAMES, tiny_artifact
from tests.runtime.tiny import BIAS, SIZE, WEIGHT

from .plugins import run

PLUGIN = '''
"""An engine for files that hold a linear layer on the mean pixel, as JSON."""

import json

import numpy as np

from runtime.engines import ENGINES, EngineKind
from runtime.formats import FORMATS, Format


class ToyEngine:
    name, version = "toy", "7.5"
    input_name, output_name = "images", "logits"
    input_shape, output_shape = (1, 8, 8, 3), (1, 3)
    input_dtype = output_dtype = np.dtype(np.float32)
    input_qparams = output_qparams = None

    def __init__(self, path, threads, device="cpu"):
        layer = json.loads(path.read_text())
        self.weight, self.bias = np.float32(layer["weight"]), np.float32(layer["bias"])

    def run(self, batch):
        return batch.mean((1, 2)) @ self.weight.T + self.bias


FORMATS.register("toy", Format("toy", "Toy", ".toy", "toy", "NHWC"))
ENGINES.register("toy", EngineKind("toy", "Toy engine", ToyEngine, ("toy",), "toy_engine"))
'''


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the plug-in, a red picture, and a run with a ``.toy`` file."""
    (tmp_path / "toy_engine.py").write_text(PLUGIN)
    Image.fromarray(np.full((SIZE, SIZE, 3), (255, 0, 0), np.uint8)).save(tmp_path / "a.png")
    file = make_run(tmp_path / "digits") / "artifacts" / "digits.toy"
    file.write_text(json.dumps({"weight": WEIGHT.tolist(), "bias": BIAS.tolist()}))
    image = TensorSpec("images", (1, SIZE, SIZE, 3), "float32", "NHWC")
    write_artifact(file, tiny_artifact(file, image, TensorSpec("logits", (1, 3), "float32", "NC")))
    return tmp_path


def test_predictions_are_of_the_engine(place: Path) -> None:
    file = place / "digits" / "artifacts" / "digits.toy"
    done = run(place, "toy_engine", "predict", file, place / "a.png", "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["predictions"]
    assert found["class"] == CLASS_NAMES[0]
    assert found["logits"] == pytest.approx((WEIGHT @ [1, -1, -1] + BIAS).tolist(), abs=1e-5)
    refused = run(place, "math", "predict", file, place / "a.png")
    assert refused.returncode == 2
    assert "Expected a file that ends in .onnx, .tflite, .pt2" in refused.stderr


def test_verify_inspect_and_doctor_know_it(place: Path) -> None:
    file = place / "digits" / "artifacts" / "digits.toy"
    done = run(place, "toy_engine", "verify", file, "--json")
    assert done.returncode == 0, done.stderr
    checks = {check["name"]: check["found"] for check in json.loads(done.stdout)["checks"]}
    assert "toy 7.5" in checks["loads and runs"]
    assert checks["widths"] == "not compared: toy files have no reader"
    done = run(place, "toy_engine", "inspect", file)
    assert done.returncode == 2
    assert "Register a reader for toy" in done.stderr
    assert "Toy engine (.toy)" in run(place, "toy_engine", "doctor").stdout


@pytest.mark.slow
def test_a_bench_of_it_is_in_the_table_the_document_and_the_report(place: Path) -> None:
    folder = place / "digits"
    result = folder / "bench" / "cpu.json"
    bench = ("bench", folder / "artifacts" / "digits.toy", "--samples", 5, "--throughput", 0, "--json", result)
    done = run(place, "toy_engine", *bench)
    assert done.returncode == 0, done.stderr
    assert "digits.toy" in done.stdout
    (file,) = json.loads(result.read_text())["files"]
    assert (file["engine"], file["engine_version"]) == ("toy", "7.5")
    assert file["startup"]["load_s"]
    done = run(place, "toy_engine", "report", folder)
    assert done.returncode == 0, done.stderr
    assert "digits.toy" in done.stdout
    assert "digits.toy" in (folder / "report.html").read_text()
    rows = json.loads(run(place, "toy_engine", "report", folder, "--json").stdout)["rows"]
    (timing,) = next(row for row in rows if row["name"] == "digits.toy")["timings"]
    assert timing["engine"] == "toy 7.5"
