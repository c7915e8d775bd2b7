"""Recipes asked for by name, rounding from an epoch on, and zeros that stay zeros in every file."""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.data.augment import augmentation_for
from compress.data.batches import training_batches
from compress.data.dataset import Dataset
from compress.distill.response import distillation_loss
from compress.evaluate import logits_of
from compress.model.vit import SlicedViT
from compress.search.sparse_settings import SparseSettings
from compress.search.unstructured import magnitude_masks
from compress.train.masks import with_zeros
from export.exporter import export_model
from export.formats.tflite import tflite_form
from export.graph.build import vit_graph
from export.graph.execute import run_graph
from export.graph.ir import LINEAR, Graph
from export.graph.rewrites import DEFAULT_REWRITES
from export.graph.zeros import rewrites_for
from export.inspect.widths import read_widths
from export.quantise.calibrate import observe
from export.quantise.candidates import CandidateBuilder, Subject
from export.quantise.integer import quantise_graph
from export.quantise.qat import FloatStart, QatRecipe, train_quantised
from export.quantise.recipes import modes_of, recipes_for
from export.settings import ExportSettings
from runtime import DataError, read_artifact

from .conftest import SPEC, task_for

SHARE = 0.8
PLAIN = {"calibration_images": 8, "verify_images": 20, "min_agreement": 0.0}


@pytest.fixture(scope="module")
def some(digits: Dataset) -> Dataset:
    """The digits with a training split of three small steps."""
    return replace(digits, train=digits.train[:48])


@pytest.fixture(scope="module")
def sparse(sliced: SlicedViT) -> SlicedViT:
    return with_zeros(sliced, magnitude_masks(sliced, SparseSettings(SHARE)))


# recipes by name


@pytest.mark.parametrize("name", ["dynamic_wi8_afp32", "static_wi8_ai8_float_islands"])
def test_a_recipe_asked_for_is_the_one_that_is_made(
    name: str, sliced: SlicedViT, digits: Dataset, tmp_path: Path
) -> None:
    def never(files: object) -> list[float]:
        raise AssertionError("there is nothing to choose by time")

    settings = ExportSettings(("int8",), int8_recipe=name, **PLAIN)  # type: ignore[arg-type]
    (made,) = export_model(sliced, task_for(digits), digits, tmp_path, "m", settings, timer=never)
    kept = read_artifact(tmp_path / "m.int8.tflite")
    assert made == kept
    assert kept.recipe == name == kept.asked["recipe"]
    assert [trial.recipe for trial in kept.trials] == [name]
    # one that is asked for by another name is another file
    other = next(one.name for one in recipes_for("int8") if one.name != name)
    (again,) = export_model(sliced, task_for(digits), digits, tmp_path, "m", replace(settings, int8_recipe=other))
    assert again.recipe == other
    assert again.sha256 != made.sha256


def test_dynamic_and_static_keep_and_round_activations(sliced: SlicedViT, digits: Dataset, tmp_path: Path) -> None:
    counts = {}
    for name in ("dynamic_wi8_afp32", "static_wi8_ai8_float_islands"):
        settings = ExportSettings(("int8",), int8_recipe=name, **PLAIN)  # type: ignore[arg-type]
        export_model(sliced, task_for(digits), digits, tmp_path, name, settings)
        details = tensors(tmp_path / f"{name}.int8.tflite")
        counts[name] = sum(not constant and np.dtype(dtype) == np.int8 for _, dtype, constant in details)
    assert counts["dynamic_wi8_afp32"] == 0 < counts["static_wi8_ai8_float_islands"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"int8_recipe": "dynamic"}, "dynamic_wi8_afp32.*static_wi8_ai8_float_islands.*Got 'dynamic'"),
        ({"int8_recipe": "dynamic_wi8_afp32", "kinds": ("onnx",)}, "int8 among --formats"),
        ({"qat_epochs": 3, "qat_from": 4}, "--qat-from 1 to 3"),
        ({"qat_epochs": 3, "qat_from": 0}, "--qat-from 1 to 3"),
        ({"qat_from": 2}, "only with --qat"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, object], text: str) -> None:
    with pytest.raises(DataError, match=text):
        ExportSettings(**changes)  # type: ignore[arg-type]


# rounding from an epoch on


def quantiser(graph: Graph, images: np.ndarray) -> Graph:
    full = recipes_for("int8-full")[0]
    return quantise_graph(graph, modes_of(graph, full), observe(graph, images), full.ranges)


@pytest.fixture(scope="module")
def calibration(some: Dataset) -> np.ndarray:
    batches = training_batches(some, some.held_out[:8], SPEC, augmentation_for(some), batch_size=8, seed=0, epoch=0)
    images, _ = next(iter(batches))
    return np.ascontiguousarray(images.numpy().transpose(0, 2, 3, 1))


def trained_in_float(
    graph: Graph, names: list[str], teacher: SlicedViT, data: Dataset, recipe: QatRecipe, epochs: int
) -> dict[str, torch.Tensor]:
    """The first epochs of a training in which nothing is rounded."""
    values = {name: torch.from_numpy(graph.constants[name]).float().requires_grad_(True) for name in names}
    optimiser = torch.optim.AdamW(values.values(), lr=recipe.lr, weight_decay=0.0)
    total, step = recipe.epochs * math.ceil(len(data.train) / recipe.batch_size), 0
    for epoch in range(epochs):
        for images, labels in training_batches(
            data, data.train, SPEC, augmentation_for(data), batch_size=recipe.batch_size, seed=0, epoch=epoch
        ):
            for group in optimiser.param_groups:
                group["lr"] = recipe.lr * (1 + math.cos(math.pi * step / total)) / 2
            rest = {n: torch.from_numpy(np.asarray(v, np.float32)) for n, v in graph.constants.items()}
            logits = run_graph(graph, images.permute(0, 2, 3, 1), None, rest | values)
            with torch.no_grad():
                taught = teacher(images)
            loss = distillation_loss(logits, taught, labels, recipe.teacher_weight, recipe.temperature)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            step += 1
    return values


def test_before_its_epoch_nothing_is_rounded_and_after_it_all_is(
    sliced: SlicedViT, some: Dataset, calibration: np.ndarray
) -> None:
    graph = vit_graph(sliced)
    made, given = quantiser(graph, calibration), []

    def again(trained: Graph) -> Graph:
        given.append(trained)
        return quantiser(trained, calibration)

    recipe = QatRecipe(epochs=3, batch_size=16, lr=1e-3, begin=3)
    done = train_quantised(made, sliced, some, SPEC, recipe, before=FloatStart(graph, again))
    (trained,) = given  # calibrated anew once, after two of the epochs
    ends = ("fc1.weight", "fc2.bias", "q.weight")
    names = [name for name, value in graph.constants.items() if name.endswith(ends) and name in made.constants]
    assert len(names) == 6
    assert not any(np.array_equal(trained.constants[name], graph.constants[name]) for name in names)
    every = [name for op in made.ops if op.kind in LINEAR for name in op.inputs[1:]]
    expected = trained_in_float(graph, every, sliced, some, recipe, 2)
    for name in names:
        np.testing.assert_allclose(trained.constants[name], expected[name].detach().numpy(), rtol=1e-3, atol=1e-5)
    # the third epoch rounds: it is no third epoch of a training in float, and ends on the grids
    free = trained_in_float(graph, every, sliced, some, recipe, 3)
    moved = max(float(np.abs(done.constants[n] - free[n].detach().numpy()).max()) for n in names)
    assert moved > 1e-5
    assert {name for name in every if name in done.qparams} == {name for name in every if name in made.qparams}
    # and from the first epoch on, even the first differs
    rounded = train_quantised(made, sliced, some, SPEC, replace(recipe, begin=1))
    assert not np.allclose(rounded.constants[names[0]], done.constants[names[0]], atol=1e-6)


def test_rounding_from_the_first_epoch_needs_no_float_graph(
    sliced: SlicedViT, some: Dataset, calibration: np.ndarray
) -> None:
    graph = vit_graph(sliced)
    made = quantiser(graph, calibration)

    def never(trained: Graph) -> Graph:
        raise AssertionError("nothing trained in float")

    recipe = QatRecipe(epochs=1, batch_size=24, lr=1e-3)
    one, other = (train_quantised(made, sliced, some, SPEC, recipe, before=b) for b in (None, FloatStart(graph, never)))
    assert all(np.array_equal(one.constants[name], other.constants[name]) for name in one.constants)


def test_the_epoch_is_in_the_manifest(sliced: SlicedViT, some: Dataset, tmp_path: Path) -> None:
    settings = ExportSettings(("int8-full",), qat_epochs=2, qat_from=2, **PLAIN)  # type: ignore[arg-type]
    (made,) = export_model(sliced, task_for(some), some, tmp_path, "m", settings)
    assert made.asked == {"qat_epochs": 2, "qat_from": 2}
    assert any(trial.recipe.endswith("_qat") for trial in made.trials)
    (again,) = export_model(sliced, task_for(some), some, tmp_path, "m", replace(settings, qat_from=1))
    assert again.asked == {"qat_epochs": 2}


def test_what_is_quantised_after_training_is_calibrated_on_it(
    sliced: SlicedViT, digits: Dataset, calibration: np.ndarray, tmp_path: Path
) -> None:
    subject = Subject(sliced, calibration, calibration, logits_of(sliced, digits, digits.held_out[:8], SPEC), None)
    builder, recipe = CandidateBuilder(subject, tmp_path, tflite_form()), recipes_for("int8-full")[0]
    graph, _ = builder.graph(recipe)
    same = builder.quantised_from(recipe, graph)
    assert same.qparams == builder.quantised(recipe).qparams
    louder = {name: 3 * value if name.endswith("fc1.weight") else value for name, value in graph.constants.items()}
    other = builder.quantised_from(recipe, replace(graph, constants=louder))
    name = "blocks.0.mlp.fc1"
    assert other.qparams[name].scale[0] > 1.5 * same.qparams[name].scale[0]


# zeros


def tensors(path: Path) -> Iterator[tuple[np.ndarray, type, bool]]:
    """Yields value, type and whether it is a constant, of every tensor of a TFLite file; what is computed is empty."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    for one in interpreter.get_tensor_details():
        try:  # as long as nothing is allocated, only constants have values
            yield interpreter.get_tensor(one["index"]), one["dtype"], True
        except ValueError:
            yield np.empty(0), one["dtype"], False


def weights_in(path: Path) -> list[np.ndarray]:
    """Returns the weights of the blocks' Linears in a file."""
    if path.suffix == ".tflite":
        return [value for value, _, constant in tensors(path) if constant and value.ndim > 1 and value.size > 300]
    import onnx
    from onnx import numpy_helper

    values = [numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer]
    return [value for value in values if value.ndim > 1 and value.size > 300]


def zeros_in(values: list[np.ndarray]) -> int:
    return sum(int((value == 0).sum()) for value in values)


def test_zeros_are_zeros_in_the_files(sliced: SlicedViT, sparse: SlicedViT, digits: Dataset, tmp_path: Path) -> None:
    masks = magnitude_masks(sliced, SparseSettings(SHARE))
    wanted = sum(int((~mask).sum()) for mask in masks.values())
    settings = ExportSettings(("onnx", "fp32", "int8-full"), **PLAIN)  # type: ignore[arg-type]
    task = task_for(digits)
    dense = {one.precision + one.format: one for one in export_model(sliced, task, digits, tmp_path, "d", settings)}
    files = export_model(sparse, task, digits, tmp_path, "s", settings)
    for made in files:
        path = tmp_path / made.file
        before = dense[made.precision + made.format]
        if made.precision == "fp32":
            assert zeros_in(weights_in(path)) == wanted
            assert zeros_in(weights_in(tmp_path / before.file)) == 0
            assert made.parity.sqnr_db is None or made.parity.sqnr_db > 80
        assert read_widths(path, sparse.plan) == sliced.plan
        assert made.plan == before.plan
        # the size is that of dense weights, give or take a few operators; only an archive is smaller
        assert 0.97 * before.size_bytes < made.size_bytes < 1.1 * before.size_bytes
        assert made.gzip_bytes is not None
        assert before.gzip_bytes is not None
        assert made.gzip_bytes < (0.6 if made.precision == "fp32" else 0.8) * before.gzip_bytes
        plain = gzip.compress(path.read_bytes(), 6, mtime=0)
        assert made.gzip_bytes == len(plain)


def test_only_a_model_with_zeros_where_centring_would_fill_them_goes_without(
    sliced: SlicedViT, sparse: SlicedViT
) -> None:
    assert rewrites_for(sliced) == DEFAULT_REWRITES
    assert rewrites_for(sparse) == DEFAULT_REWRITES.without("centre")
    others = with_zeros(sliced, magnitude_masks(sliced, SparseSettings(SHARE, layers=("qkv", "fc1"))))
    assert rewrites_for(others) == DEFAULT_REWRITES
