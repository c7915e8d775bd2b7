"""A source of data from one file outside the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.pocketvit.conftest import TINY

from .plugins import run

pytestmark = pytest.mark.slow

PLUGIN = '''
"""Stripes: three classes of pictures with bars across, along or on the diagonal, and noise."""

import numpy as np

from compress.data import SOURCES
from compress.data.base import Source
from compress.data.dataset import ArrayImages, Dataset


def stripes(folder, skip_bad, progress):
    generator, none = np.random.default_rng(0), np.zeros(0, np.int64)
    labels = np.arange(360) % 3
    rows, columns = np.mgrid[:16, :16]
    patterns = np.stack([rows // 4 % 2, columns // 4 % 2, (rows + columns) // 4 % 2])
    pixels = np.clip(160 * patterns[labels] + generator.integers(0, 90, (360, 16, 16)), 0, 255).astype(np.uint8)
    names = ("across", "along", "diagonal")
    return Dataset("toy", names, 1, (16, 16), False, ArrayImages(pixels), labels, np.arange(360), none, none)


SOURCES.register("toy", Source("toy", stripes))
'''


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    (tmp_path / "toy_source.py").write_text(PLUGIN)
    return tmp_path


def test_it_is_in_the_help_and_refused_with_a_folder(plugin: Path) -> None:
    shown = run(plugin, "toy_source", "compress", "--help")
    assert "unlabelled:PATH or toy" in " ".join(shown.stdout.replace("│", " ").split())
    refused = run(plugin, "toy_source", "compress", "--data", "toy:/tmp")
    assert refused.returncode == 2
    assert "takes no folder" in refused.stderr


def test_a_run_on_it_is_compressed_exported_and_reported(plugin: Path) -> None:
    quick = ("--epochs", 2, "--recovery-epochs", 1, "--budget", "macs=0.7", "--search", "milp")
    asked = ("--data", "toy", *quick, "--runs", plugin / "runs", "--name", "mine")
    done = run(plugin, "toy_source", "compress", *TINY, *asked)
    assert done.returncode == 0, done.stderr
    root = plugin / "runs" / "mine"
    assert json.loads((root / "data.json").read_text())["class_names"] == ["across", "along", "diagonal"]
    assert json.loads((root / "sliced" / "task.json").read_text())["data"] == "toy"
    exported = run(plugin, "toy_source", "export", root, "--formats", "onnx", "--verify-images", 30, "--json")
    assert exported.returncode == 0, exported.stderr
    reported = run(plugin, "toy_source", "report", root, "--json")
    assert reported.returncode == 0, reported.stderr
    assert {row["name"] for row in json.loads(reported.stdout)["rows"]} >= {"baseline", "sliced", "mine.onnx"}
    assert json.loads(reported.stdout)["made_with"]["data"] == "toy"
    assert "data toy" in (root / "report.html").read_text()
    assert "data toy" in " ".join(run(plugin, "toy_source", "report", root).stdout.split())
    lost = run(plugin, "math", "export", root, "--formats", "onnx")
    assert lost.returncode == 2
    assert "No dataset is called 'toy'" in lost.stderr
