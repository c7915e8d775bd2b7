"""Integers: grids, the graph made of integers, its simulation against the engine, equalisation, correction, choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress.data.augment import augmentation_for
from compress.data.batches import plain_batches
from compress.data.dataset import Dataset
from compress.evaluate import logits_of
from compress.model.load import ModelSpec, load_model
from compress.model.vit import SlicedViT, build
from compress.recipe import TrainRecipe
from compress.train.fit import fit
from export.compare import compare_logits, real_logits
from export.formats.tflite import tflite_form, write_int8
from export.gate.limits import ExportLimits
from export.graph.build import vit_graph
from export.graph.ir import Graph, QParams
from export.quantise.calibrate import TensorStats, activation_qparams, int8_range, observe, weight_qparams
from export.quantise.candidates import Candidate, CandidateBuilder, Subject
from export.quantise.choose import Wanted, choose_accurate, choose_fast
from export.quantise.equalise import equalising_scales
from export.quantise.integer import quantise_graph
from export.quantise.processors import ordered_recipes
from export.quantise.qat import QatRecipe, train_quantised
from export.quantise.recipes import DYNAMIC, STATIC, STATIC_ATTENTION, Recipe, modes_of, recipes_for
from export.quantise.simulate import correct_biases, simulate
from export.writers.tflite import tflite_bytes
from runtime import Parity, open_engine
from tests.export.conftest import SPEC

ALL = (*ordered_recipes("x86", "int8"), *recipes_for("int8-full"))


@pytest.fixture(scope="session")
def trained(digits: Dataset) -> SlicedViT:
    overrides = {"embed_dim": 48, "depth": 3, "num_heads": 3}
    model = load_model(ModelSpec("vit_tiny_patch16_224", 32, 8, 1, overrides=overrides), 10)
    recipe = TrainRecipe(epochs=25, batch_size=32, lr=2e-3, head_lr=2e-3, warmup=0.1, patience=25, clip_norm=1.0)
    return fit(model, digits, SPEC, recipe, augmentation=augmentation_for(digits), seed=0, bf16=False).model


def pictures(digits: Dataset, indices: np.ndarray) -> np.ndarray:
    batches = [images.numpy() for images, _ in plain_batches(digits, indices, SPEC)]
    return np.ascontiguousarray(np.concatenate(batches).transpose(0, 2, 3, 1))


@pytest.fixture(scope="session")
def subject(trained: SlicedViT, digits: Dataset) -> Subject:
    some = digits.test[:120]
    return Subject(
        trained,
        pictures(digits, digits.held_out[:48]),
        pictures(digits, some),
        logits_of(trained, digits, some, SPEC),
        digits.labels[some],
    )


def with_outliers(model: SlicedViT, factor: float = 50.0) -> SlicedViT:
    """The same function with a few channels of norms, queries and values ``factor`` times larger."""
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    for index, block in enumerate(model.plan.blocks):
        at = f"blocks.{index}"
        for norm, readers in (("norm1", ("attn.q", "attn.k", "attn.v")), ("norm2", ("mlp.fc1",))):
            for part in ("weight", "bias"):
                weights[f"{at}.{norm}.{part}"][:3] *= factor
            for reader in readers:
                weights[f"{at}.{reader}.weight"][:, :3] /= factor
        for large, small in (("attn.q", "attn.k"),):
            for part in ("weight", "bias"):
                weights[f"{at}.{large}.{part}"][:2] *= factor
                weights[f"{at}.{small}.{part}"][:2] /= factor
        for part in ("weight", "bias"):
            weights[f"{at}.attn.v.{part}"][-2:] *= factor
        weights[f"{at}.attn.proj.weight"][:, -2:] /= factor
        assert block.num_heads * block.v_dim > 4
    return build(model.plan, weights)


def with_larger_steps(graph: Graph, factor: int, chosen: Callable[[str], bool]) -> Graph:
    """The same graph with grids ``factor`` times coarser where ``chosen`` takes their names: fewer bits are used."""
    qparams = dict(graph.qparams)
    for name in filter(chosen, graph.qparams):
        grid = graph.qparams[name]
        scale = tuple(factor * step for step in grid.scale)
        qparams[name] = replace(grid, scale=scale, zero_point=grid.zero_point // factor)
    return replace(graph, qparams=qparams)


# grids


def test_stored_and_rounded_by_hand() -> None:
    grid = QParams((0.5,), 10)
    assert grid.stored(np.array([0.0, 1.0, 1.2, -100.0, 100.0])).tolist() == [10, 12, 12, -128, 127]
    assert grid.rounded(np.array([1.2, 100.0])).tolist() == [1.0, 58.5]
    by_row = QParams((1.0, 2.0), 0, "int8", 0)
    assert by_row.stored(np.array([[3.0, 4.0], [3.9, -8.0]])).tolist() == [[3, 4], [2, -4]]


@given(
    st.floats(-100, 0, allow_nan=False),
    st.floats(0, 100, allow_nan=False),
    st.sampled_from(["minmax", "mse"]),
    st.booleans(),
)
def test_every_grid_holds_zero_exactly_and_its_range_nearly(
    low: float, high: float, ranges: str, symmetric: bool
) -> None:
    values = np.linspace(low, high, 200, dtype=np.float32)
    grid = activation_qparams(TensorStats(low, high, np.ones(1), np.zeros(1), values), symmetric, ranges)
    assert grid.rounded(np.zeros(1))[0] == 0.0
    assert not symmetric or grid.zero_point == 0
    widest = int8_range(min(low, 0.0), max(high, 0.0), symmetric)
    # evenly spread values leave nothing to cut off
    assert grid.scale[0] <= widest.scale[0] * (1 + 1e-9)
    error = np.abs(widest.rounded(values) - values)
    assert error.max() <= widest.scale[0] * 1.01


def test_ranges_by_error_cut_off_a_lone_outlier() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(size=20000), [30.0]]).astype(np.float32)
    stats = TensorStats(float(values.min()), 30.0, np.ones(1), np.zeros(1), values)
    wide, narrow = (activation_qparams(stats, False, ranges) for ranges in ("minmax", "mse"))
    assert narrow.scale[0] < wide.scale[0]
    errors = [float(np.square(grid.rounded(values) - values).mean()) for grid in (wide, narrow)]
    assert errors[1] < errors[0]
    assert activation_qparams(stats, False, "percentile").scale[0] < wide.scale[0] / 3


def test_weights_have_a_scale_for_every_output() -> None:
    weight = np.array([[1.0, -2.0], [0.5, 0.25]])
    assert weight_qparams(weight).scale == pytest.approx((2 / 127, 0.5 / 127))
    assert weight_qparams(weight, None).scale == pytest.approx((2 / 127,))


# graphs


def test_what_counts_in_integers(trained: SlicedViT, subject: Subject) -> None:
    graph = vit_graph(trained)
    seen = observe(graph, subject.calibration)

    def made(recipe: Recipe) -> Graph:
        return quantise_graph(graph, modes_of(graph, recipe), seen, recipe.ranges)

    dynamic = made(DYNAMIC)
    assert set(dynamic.qparams) == {
        op.inputs[1]
        for op in graph.ops
        if op.kind == "fully_connected" or (op.kind == "batch_matmul" and op.inputs[1] in graph.constants)
    }
    assert [op.kind for op in dynamic.ops] == [op.kind for op in graph.ops]
    mixed = made(STATIC_ATTENTION)
    assert mixed.input not in mixed.qparams
    assert mixed.output not in mixed.qparams
    assert "blocks.0.attn.scores" in mixed.qparams
    assert "blocks.0.attn.softmax" not in mixed.qparams
    for op in mixed.ops:
        if op.kind == "batch_matmul" and op.inputs[1] in mixed.qparams and op.inputs[1] not in mixed.constants:
            assert mixed.qparams[op.inputs[1]].zero_point == 0
    full = made(recipes_for("int8-full")[0])
    assert all(name in full.qparams for name in full.shapes)
    assert not any(op.kind in ("quantize", "dequantize") for op in full.ops)
    assert full.qparams["blocks.0.mlp.fc1.bias"].dtype == "int32"
    # epsilon is far less than a step of any variance; positions are not
    assert not any(op.output.endswith("variance_eps") for op in full.ops)
    assert any(op.output == "patches.placed" for op in full.ops)
    partly = made(replace(STATIC, float_layers=("blocks.1.mlp.fc1",)))
    assert "blocks.1.mlp.fc1.weight" not in partly.qparams
    assert "blocks.0.mlp.fc1.weight" in partly.qparams


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ALL, ids=lambda recipe: recipe.name)
def test_the_simulation_is_what_the_engine_computes(
    recipe: Recipe, trained: SlicedViT, subject: Subject, tmp_path: Path
) -> None:
    plain = vit_graph(trained)
    scales = equalising_scales(trained.plan, plain, observe(plain, subject.calibration))
    graph = vit_graph(trained, scales=scales) if recipe.equalised else plain
    seen = observe(graph, subject.calibration)
    made = quantise_graph(graph, modes_of(graph, recipe), seen, recipe.ranges)
    path = tmp_path / "m.tflite"
    path.write_bytes(tflite_bytes(made))
    found, wanted = real_logits(path, subject.images), simulate(made, subject.images)
    float_parity = compare_logits(found, subject.logits, subject.labels)
    own_parity = compare_logits(found, wanted, None, "none")
    assert own_parity.sqnr_db is not None
    assert float_parity.sqnr_db is not None
    assert own_parity.sqnr_db > 25
    assert own_parity.sqnr_db > float_parity.sqnr_db
    assert float_parity.top1_agreement >= 0.95


@pytest.mark.slow
def test_positions_too_small_to_matter_still_bring_patches_to_the_grid_of_all_tokens(
    trained: SlicedViT, subject: Subject, tmp_path: Path
) -> None:
    weights = {name: value.clone() for name, value in trained.state_dict().items()}
    weights["pos_embed"] *= 1e-3
    # it reaches further than any patch, so that the grids differ
    weights["cls_token"] += torch.linspace(-50, 50, weights["cls_token"].shape[-1])
    model = build(trained.plan, weights)
    write_int8(model, tmp_path / "small.tflite", subject.calibration, recipes_for("int8-full")[0])
    assert np.isfinite(real_logits(tmp_path / "small.tflite", subject.images)).all()


def test_int16_activations_between_int8_weights(trained: SlicedViT, subject: Subject, tmp_path: Path) -> None:
    graph, path = vit_graph(trained), tmp_path / "m.tflite"
    seen = observe(graph, subject.calibration)
    recipe = recipes_for("int8-full-16x8")[0]
    made = quantise_graph(graph, modes_of(graph, recipe), seen, recipe.ranges)
    assert {grid.dtype for name, grid in made.qparams.items() if not name.endswith((".weight", ".bias"))} == {"int16"}
    assert made.qparams["blocks.0.mlp.fc1.weight"].dtype == "int8"
    path.write_bytes(tflite_bytes(made))
    engine = open_engine(path)
    assert engine.input_dtype == np.int16
    parity = compare_logits(real_logits(path, subject.images[:60]), subject.logits[:60], None, "")
    assert parity.top1_agreement >= 0.95


@pytest.mark.slow
def test_equalised_channels_bear_outliers(trained: SlicedViT, subject: Subject) -> None:
    hard = with_outliers(trained)
    with torch.no_grad():
        same = hard(torch.from_numpy(subject.images).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(same, subject.logits, atol=1e-4 * np.abs(subject.logits).max())
    recipe = recipes_for("int8-full")[0]
    graph = vit_graph(hard)
    seen = observe(graph, subject.calibration)
    scales = equalising_scales(hard.plan, graph, seen)
    equal = vit_graph(hard, scales=scales)
    plain = simulate(quantise_graph(graph, modes_of(graph, recipe), seen, recipe.ranges), subject.images)
    seen = observe(equal, subject.calibration)
    cured = simulate(quantise_graph(equal, modes_of(equal, recipe), seen, recipe.ranges), subject.images)
    before, after = (compare_logits(logits, subject.logits, None, "").sqnr_db for logits in (plain, cured))
    assert before is not None
    assert after is not None
    assert after > before + 3
    sizes = seen["blocks.1.attn.q"].channels
    assert sizes.max() / np.median(sizes) < 10


def test_corrected_biases_take_the_mean_error_away(trained: SlicedViT, subject: Subject) -> None:
    graph = vit_graph(trained)
    seen = observe(graph, subject.calibration)
    recipe = recipes_for("int8-full")[0]
    made = quantise_graph(graph, modes_of(graph, recipe), seen, recipe.ranges)
    wanted = simulate(graph, subject.calibration)
    before, after = (
        np.abs((simulate(one, subject.calibration) - wanted).mean(axis=0)).mean()
        for one in (made, correct_biases(made, seen, subject.calibration))
    )
    assert after < before


@pytest.mark.slow
def test_training_under_rounding_brings_the_logits_closer(
    trained: SlicedViT, subject: Subject, digits: Dataset, tmp_path: Path
) -> None:
    graph = vit_graph(trained)
    seen = observe(graph, subject.calibration)
    full = recipes_for("int8-full")[0]
    made = quantise_graph(graph, modes_of(graph, full), seen, full.ranges)
    # six bits fewer, so that there is much to learn
    coarse = with_larger_steps(made, 64, lambda name: name.endswith(("fc1", "fc2")))
    half = replace(digits, train=digits.train[::2])
    after = train_quantised(
        coarse, trained, half, SPEC, QatRecipe(epochs=2, batch_size=32, lr=5e-4, teacher_weight=1.0)
    )

    def error(one: Graph) -> float:
        # what is added to all classes alike changes no answer, and the loss does not see it
        difference = simulate(one, subject.images) - subject.logits
        return float(np.square(difference - difference.mean(axis=1, keepdims=True)).mean())

    assert error(after) < 0.7 * error(coarse)
    path = tmp_path / "m.tflite"
    path.write_bytes(tflite_bytes(after))
    found = real_logits(path, subject.images)
    assert compare_logits(found, simulate(after, subject.images), None, "").sqnr_db > 25


# choice


def made_up(name: str, agreement: float, drop: float, sqnr: float) -> Candidate:
    parity = Parity(100, 1.0, 0.1, sqnr, agreement, 0.9 - drop / 100, 0.9)
    return Candidate(Recipe(name, "dynamic"), Graph("i", "o", (), {}, {}), Path(f"{name}.tflite"), parity)


class FakeCandidateBuilder(CandidateBuilder):
    """Serves candidates whose accuracy is given."""

    def __init__(self, menu: dict[str, tuple[float, float, float]]) -> None:
        self.menu, self.served = menu, []
        self.subject = Subject(None, *[np.zeros((100, 1))] * 3, None)  # type: ignore[arg-type]

    def candidate(self, recipe: Recipe, graph: Graph | None = None, most: int = 0) -> Candidate:
        self.served.append(recipe.name)
        return replace(made_up(recipe.name, *self.menu.get(recipe.name, (0.5, 10.0, 1.0))), recipe=recipe)

    def completed(self, one: Candidate) -> Candidate:
        return one

    def file_to_time(self, recipe: Recipe) -> Path:
        return Path(f"{recipe.name}.tflite")

    def sensitivities(self, recipe: Recipe) -> list[str]:
        return [f"layer{i}" for i in range(20)]


A, B, C = (Recipe(name, "dynamic") for name in "abc")


def test_the_fastest_that_is_good_enough_is_taken() -> None:
    builder = FakeCandidateBuilder({"a": (0.98, 0.0, 30.0), "b": (0.995, 0.1, 35.0), "c": (0.999, 0.0, 45.0)})
    timed: list[Sequence[Path]] = []

    def timer(files: Sequence[Path]) -> list[float]:
        timed.append(files)
        return [3e-3, 2e-3, 1e-3]

    chosen, trials = choose_fast(builder, (A, B, C), Wanted(0.99), timer)
    assert chosen.recipe == C
    assert [str(path) for path in timed[0]] == ["a.tflite", "b.tflite", "c.tflite"]
    # nothing more is tried
    assert builder.served == ["c"]
    assert [(trial.recipe, trial.latency_s, trial.top1_agreement) for trial in trials] == [("c", 1e-3, 0.999)]
    # as fast as each other: the one that rounds less comes first
    less, more = Recipe("less", "dynamic"), Recipe("more", "integer", "integer")
    builder = FakeCandidateBuilder({"less": (0.995, 0.0, 30.0), "more": (0.995, 0.0, 40.0)})
    assert choose_fast(builder, (more, less), Wanted(0.99), lambda files: [1e-3, 1.01e-3])[0].recipe == less
    assert choose_fast(builder, (more, less), Wanted(0.99), lambda files: [1e-3, 1.03e-3])[0].recipe == more
    # nothing to time with: the one expected to be fastest
    builder = FakeCandidateBuilder({"a": (0.98, 0.0, 30.0), "b": (0.995, 0.1, 35.0), "c": (0.999, 0.0, 45.0)})
    assert choose_fast(builder, (A, B, C), Wanted(0.99), None)[0].recipe == B
    assert choose_fast(builder, (A, B, C), Wanted(None, 0.05), None)[0].recipe == A
    # a last check turns the fastest down, or all of them
    assert choose_fast(builder, (A, B, C), Wanted(0.99), None, lambda path: path.stem != "b")[0].recipe == C
    assert choose_fast(builder, (A, B), Wanted(0.99), None, lambda path: False)[0].recipe == B


def test_where_none_is_close_the_closest_that_may_be_released_is_taken() -> None:
    menu = {"a": (0.93, 0.1, 18.0), "b": (0.97, 0.1, 24.0), "b_equalised": (0.95, 0.0, 22.0), "c": (0.8, 9.0, 30.0)}
    builder = FakeCandidateBuilder(menu)
    wanted = Wanted(0.985, 0.5, ExportLimits(0.9, 12.0, 0.5))
    chosen, trials = choose_fast(builder, (A, B, C), wanted, None)
    assert chosen.recipe == B
    # no layer was left in float
    assert [trial.recipe for trial in trials] == ["a", "b", "c", "a_equalised", "b_equalised", "c_equalised"]
    assert choose_fast(builder, (A, B, C), wanted, None, lambda path: path.stem == "a")[0].recipe == A
    # what is as close as this needs no other basis
    menu["b"] = (0.97, 0.1, 26.0)
    builder = FakeCandidateBuilder(menu)
    assert choose_fast(builder, (A, B, C), wanted, None)[0].recipe == B
    assert builder.served == ["a", "b", "c"]
    # none may be released: layers are left in float until one is close
    builder = FakeCandidateBuilder(
        {"a": (0.8, 9.0, 10.0), "a_2_float": (0.9, 0.1, 13.0), "a_4_float": (0.99, 0.0, 30.0)}
    )
    assert choose_fast(builder, (A, B), wanted, None)[0].recipe.name == "a_4_float"


def test_a_candidate_is_given_up_or_taken_as_soon_as_it_can_be_told() -> None:
    wanted = Wanted(0.985, 0.5)

    def told(images: int, agreement: float, lost: int = 0) -> bool:
        parity = Parity(images, 1.0, 0.1, 20.0, agreement, 0.9 - lost / images, 0.9)
        return wanted.told_by(replace(parity, lost=lost, gained=0))

    assert told(115, 0.9)
    assert told(115, 0.98, lost=8)
    assert not told(115, 0.98)
    assert not told(458, 0.99)
    assert told(1000, 1.0)


def test_where_none_is_good_enough_more_is_tried() -> None:
    builder = FakeCandidateBuilder({"a": (0.9, 2.0, 20.0), "b": (0.95, 1.0, 25.0), "b_equalised": (0.995, 0.0, 40.0)})
    chosen, trials = choose_fast(builder, (A, B), Wanted(0.99), None)
    assert chosen.recipe.equalised
    assert [trial.recipe for trial in trials] == ["a", "b", "a_equalised", "b_equalised"]
    builder = FakeCandidateBuilder({"b": (0.95, 1.0, 25.0), "b_4_float": (0.995, 0.0, 40.0)})
    chosen, trials = choose_fast(builder, (A, B), Wanted(0.99), None)
    assert chosen.recipe.float_layers == ("layer0", "layer1", "layer2", "layer3")
    builder = FakeCandidateBuilder({"b": (0.95, 1.0, 25.0)})
    chosen, trials = choose_fast(builder, (A, B), Wanted(0.99), None)
    assert chosen.recipe == B
    assert trials[-1].recipe == "b_16_float"


@pytest.mark.slow
def test_many_images_are_run_by_the_best_candidate_alone(trained: SlicedViT, subject: Subject, tmp_path: Path) -> None:
    many = replace(
        subject,
        images=np.concatenate([subject.images] * 4),
        logits=np.concatenate([subject.logits] * 4),
        labels=np.concatenate([subject.labels] * 4),
    )
    said: list[str] = []

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        if done == total:
            said.append(note)

    builder = CandidateBuilder(many, tmp_path, tflite_form(), progress=progress)
    best, trials = choose_accurate(builder, (DYNAMIC, STATIC))
    assert {trial.recipe: trial.images for trial in trials} == {
        best.recipe.name: 480,
        next(one.name for one in (DYNAMIC, STATIC) if one != best.recipe): 200,
    }
    # a candidate that is told early runs on an eighth or a quarter of the images
    builder.told = lambda parity: parity.images >= 100
    assert builder.candidate(STATIC).parity.images == 120
    assert "agrees on" in said[-1]
    assert "of 120 images" in said[-1]
    # what is timed has the operators of the candidate
    timed = builder.file_to_time(STATIC)
    assert open_engine(timed).run(subject.images[:1]).shape == open_engine(best.path).run(subject.images[:1]).shape
    assert abs(timed.stat().st_size - (tmp_path / f"{STATIC.name}.tflite").stat().st_size) < 2000


def test_of_equally_fast_ones_the_closest_is_taken() -> None:
    builder = FakeCandidateBuilder({"a": (0.99, 0.0, 30.0), "b": (0.98, 0.5, 33.0)})
    assert choose_accurate(builder, (A, B))[0].recipe == B


@pytest.mark.slow
def test_the_most_sensitive_layer_comes_first(subject: Subject, tmp_path: Path) -> None:
    builder = CandidateBuilder(subject, tmp_path, tflite_form())
    layers = builder.sensitivities(STATIC)
    assert sorted(layers) == sorted(op.output for op in builder.graph(STATIC)[0].ops if op.kind == "fully_connected")
    graph, seen = builder.graph(STATIC)

    def harm(layer: str) -> float:
        alone = quantise_graph(graph, {layer: "integer"}, seen, STATIC.ranges)
        return float(np.square(simulate(alone, subject.images) - subject.logits).sum())

    assert harm(layers[0]) > 2 * harm(layers[-1])
    assert harm(layers[0]) > harm(layers[len(layers) // 2])
