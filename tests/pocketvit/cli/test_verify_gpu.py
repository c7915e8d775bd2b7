"""``pocketvit verify FILE --with gpu``, on a driver that computes on the CPU."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from compress.model.folder import read_model
from export.formats.tflite import rewrites_for
from export.gpu.check import TURNED_OFF
from export.graph.build import vit_graph
from export.writers.tflite import tflite_bytes
from runtime import manifest_path, read_artifact, sha256_of
from runtime.gpu.drivers import CHOICE
from tests.pocketvit.conftest import Command
from tests.runtime.examples import edited

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the run's files, without its test images."""
    return Path(shutil.copytree(tiny_run / "artifacts", tmp_path / "copied" / "artifacts"))


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu_allowed")
def test_an_integer_file_is_held_to_the_float_file_beside_it(folder: Path, pocketvit: Command) -> None:
    answer = pocketvit("verify", folder / "tiny.int8-full.tflite", "--with", "gpu", "--images", 6, "--json")
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    gpu = document["gpu"]
    assert (gpu["images"], gpu["whole"], gpu["software"], gpu["arithmetic"]) == (6, True, True, "fp32")
    assert gpu["sqnr_db"] >= gpu["cpu_sqnr_db"] - 1
    assert [check["name"] for check in document["checks"]][-2:] == ["runs on the GPU path", "right on the GPU path"]
    assert "SQNR against tiny.fp32.tflite" in document["checks"][-1]["found"]
    (folder / "tiny.fp32.tflite").unlink()
    answer = pocketvit("verify", folder / "tiny.int8-full.tflite", "--with", "gpu", "--images", 2)
    assert answer.code == 0, answer.err
    assert "GPU path on SwiftShader" in answer.out
    assert "the least cosine to the CPU's outputs" in " ".join(answer.out.split())
    assert "SQNR against" not in answer.out


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu_allowed")
def test_a_file_with_wrong_answers_fails_with_one(folder: Path, tiny_run: Path, pocketvit: Command) -> None:
    file, model = folder / "tiny.fp32.tflite", read_model(tiny_run / "sliced")
    file.write_bytes(tflite_bytes(vit_graph(model, rewrites_for(model).flattened())))
    edited(manifest_path(file), "sha256", value=sha256_of(file))
    edited(manifest_path(file), "size_bytes", value=file.stat().st_size)
    answer = pocketvit("verify", file, "--images", 2)
    assert answer.code == 0, answer.out
    answer = pocketvit("verify", file, "--with", "gpu", "--images", 4)
    assert answer.code == 1, answer.out
    assert "right on the GPU path" in " ".join(answer.err.split())
    assert "cosine" in answer.out


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu_allowed")
def test_the_test_images_of_a_run_are_taken_where_it_has_some(tiny_run: Path, pocketvit: Command) -> None:
    file = tiny_run / "artifacts" / "tiny.fp32.tflite"
    answer = pocketvit("verify", file, "--with", "gpu", "--images", 5, "--json")
    assert answer.code == 0, answer.err
    real = (tiny_run / "bench" / "test-images.npz").is_file()
    found = json.loads(answer.out)["checks"][-2]["found"]
    assert ("the test images of its run" if real else "random numbers") in found


def test_no_driver_or_another_format_is_a_bad_call(
    tiny_run: Path, pocketvit: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tiny_run / "artifacts"
    monkeypatch.setenv(CHOICE, "none")
    answer = pocketvit("verify", files / "tiny.fp32.tflite", "--with", "gpu")
    assert answer.code == 2
    assert "apt-get install chromium libvulkan1" in " ".join(answer.err.split())
    answer = pocketvit("verify", files / "tiny.onnx", "--with", "gpu")
    assert answer.code == 2
    assert "a .tflite file" in answer.err


def test_the_files_of_a_run_without_a_driver_say_why_they_were_not_run(tiny_run: Path) -> None:
    gpu = read_artifact(tiny_run / "artifacts" / "tiny.fp32.tflite").parity.gpu
    assert gpu is not None
    assert gpu.reason == TURNED_OFF
    assert gpu.whole is None
