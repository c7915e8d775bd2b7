"""The printed programs run and answer as ``predict`` does, or are at least programs of their language."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tree_sitter
import tree_sitter_kotlin
import tree_sitter_swift
from PIL import Image

from pocketvit.snippets.render import Language, snippet
from runtime import Artifact, Prediction, UnsupportedTargetError, load, read_artifact, write_artifact
from tests.benchmarks.test_mediapipe_tasks import found_python
from tests.export.app.test_app_files import NAMES, made, plain_file
from tests.export.small import LEAST, small_file
from tests.pocketvit.conftest import Command

from .browser import BROWSER_REQUIRED, answers_of, node_modules

GRAMMARS: dict[Language, Any] = {"kotlin": tree_sitter_kotlin, "swift": tree_sitter_swift}
KINDS = ("rgb fp32", "grey fp32", "rgb int8-full", "app", "vector app", "onnx", "grey onnx", "many names")


def changed(path: Path, **changes: Any) -> Path:
    """Writes the manifest of a file anew."""
    artifact: Artifact = read_artifact(path)
    write_artifact(path, replace(artifact, **changes))
    return path


def file_of(kind: str, folder: Path) -> Path:
    """Writes a small file of a kind."""
    grey = kind.startswith("grey")
    if "onnx" in kind:
        plan = replace(LEAST, in_chans=1) if grey else LEAST
        return changed(small_file(folder / "small.onnx", plan), class_names=NAMES)
    if kind == "many names":
        plan = replace(LEAST, num_classes=30)
        return changed(small_file(folder / "small.tflite", plan), class_names=tuple(f"class {i}" for i in range(30)))
    if kind == "vector app":
        return made(plain_file(folder, "fp32", False, plan=None, class_names=(), output_kind="vector"))[0]
    if kind == "app":
        return made(plain_file(folder, "fp32", grey))[0]
    return plain_file(folder, kind.partition(" ")[2], grey)


def picture(path: Path, width: int = 8, height: int = 8) -> Path:
    pixels = np.random.default_rng(3).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


def answered(python: Path | str, program: str, file: Path, image: Path) -> tuple[str, float]:
    """Runs a Python program and returns the name and the probability that it prints."""
    script = file.with_name("program.py")
    script.write_text(program, encoding="utf-8")
    command = [str(python), "-X", "utf8", str(script), str(image)]
    done = subprocess.run(command, cwd=file.parent, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    name, _, chance = done.stdout.rpartition(" ")
    return name, float(chance)


def check_same(found: tuple[str, float], wanted: Prediction, within: float = 0.002) -> None:
    assert found[0].replace("\n", " ") == wanted.name.replace("\n", " ")
    assert found[1] == pytest.approx(wanted.confidence, abs=within)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rgb fp32", "grey fp32", "rgb int8-full", "onnx", "grey onnx", "many names"])
def test_the_python_program_answers_as_predict_does(tmp_path: Path, kind: str, pocketvit: Command) -> None:
    file, image = file_of(kind, tmp_path), picture(tmp_path / "picture.png", 40, 30)
    spec = read_artifact(file).preprocessing
    if kind == "rgb fp32":
        changed(file, preprocessing=replace(spec, crop_pct=0.8))
    if kind == "onnx":
        changed(file, preprocessing=replace(spec, resize="stretch"))
    printed = pocketvit("snippet", file)
    assert (printed.code, printed.err) == (0, "")
    # Pillow rounds where a crop begins, and a program cuts between pixels
    within = 0.02 if kind == "rgb fp32" else 0.005
    check_same(answered(sys.executable, printed.out, file, image), load(file).predict([image])[0], within)


@pytest.mark.slow
def test_the_python_program_of_a_file_for_apps_answers_as_predict_does(tmp_path: Path) -> None:
    file, image = file_of("app", tmp_path), picture(tmp_path / "picture.png", 40, 30)
    check_same(answered(found_python(), snippet(file, "python"), file, image), load(file).predict([image])[0], 0.005)


@pytest.mark.slow
def test_javascript_answers_in_a_browser_as_predict_does(tmp_path: Path) -> None:
    packages = node_modules()
    if isinstance(packages, str):
        if os.environ.get(BROWSER_REQUIRED):
            pytest.fail(packages, pytrace=False)
        pytest.skip(packages)
    image, wanted = picture(tmp_path / "picture.png"), {}
    for kind in ("rgb fp32", "grey fp32", "onnx", "grey onnx", "many names", "app"):
        folder, name = tmp_path / kind, kind.replace(" ", "-")
        folder.mkdir()
        file = file_of(kind, folder)
        wanted[name] = load(file).predict([image])[0]
        other = f"{name}{file.suffix}"
        program = snippet(file, "js").replace(file.name, other)
        (tmp_path / f"{name}.mjs").write_text(program, encoding="utf-8")
        shutil.copy(file, tmp_path / other)
        shutil.copy(f"{file}.json", tmp_path / f"{other}.json")
    found = answers_of(tmp_path, list(wanted), packages)
    assert set(found) == set(wanted)
    for name, own in found.items():
        assert "error" not in own, (name, own)
        check_same((own["name"], own["chance"]), wanted[name])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("language", ["kotlin", "swift"])
def test_the_other_programs_have_the_grammar_of_their_language(tmp_path: Path, language: Language, kind: str) -> None:
    program = snippet(file_of(kind, tmp_path), language)
    parser = tree_sitter.Parser(tree_sitter.Language(GRAMMARS[language].language()))
    tree = parser.parse(program.encode())
    assert not tree.root_node.has_error, program
    assert parser.parse(program.replace("{", "(", 1).encode()).root_node.has_error


@pytest.mark.parametrize("language", ["python", "js", "kotlin", "swift"])
def test_every_program_is_complete_and_short(tmp_path: Path, language: Language) -> None:
    for kind in ("rgb fp32", "onnx", "app", "vector app"):
        program = snippet(file_of(kind, tmp_path), language)
        assert len(program.splitlines()) < 60
        assert not [line for line in program.splitlines() if line.startswith("?") or re.search("@[A-Z_]+@", line)]


def test_files_without_a_program_are_refused(tmp_path: Path) -> None:
    integers = file_of("rgb int8-full", tmp_path)
    with pytest.raises(UnsupportedTargetError, match=r"takes no int8 images.* Export with --app"):
        snippet(integers, "js")
    padded = file_of("rgb fp32", tmp_path)
    changed(padded, preprocessing=replace(read_artifact(padded).preprocessing, resize="border"))
    with pytest.raises(UnsupportedTargetError, match="pads its pictures"):
        snippet(padded, "python")
    vector = plain_file(tmp_path, "fp32", False, plan=None, class_names=(), output_kind="vector")
    with pytest.raises(UnsupportedTargetError, match="answers with a vector"):
        snippet(vector, "kotlin")
