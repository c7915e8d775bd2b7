"""Ranges that are learnt: nearer to the float model, on grids that the engines take, with everything else unchanged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export.compare import compare_logits, real_logits
from export.formats.tflite import tflite_form
from export.graph.ir import LINEAR, Graph
from export.quantise import learnt_ranges
from export.quantise.candidates import Candidate, CandidateBuilder, Subject
from export.quantise.choose import choose_accurate
from export.quantise.integer import FIXED
from export.quantise.learnt_ranges import learn_ranges
from export.quantise.recipes import MIXED, STATIC, recipes_for
from export.quantise.simulate import correct_biases, simulate
from runtime import BlockPlan, Parity, ShapePlan
from tests.export.graph.test_build import ARCHITECTURES, images_for, model_of

PLAN = ShapePlan((24, 24), (8, 8), 3, 10, 48, (BlockPlan(3, 16, 16, 96), BlockPlan(2, 24, 16, 64)), 0.25)
PLANS = {"usual": PLAN} | {name: ARCHITECTURES[name] for name in list(ARCHITECTURES)[:4]}
FULL = recipes_for("int8-full")[0]


def test_gradients_are_those_of_the_published_rules() -> None:
    random = torch.Generator().manual_seed(0)
    value, weight = (torch.randn(4000, generator=random, dtype=torch.float64) for _ in range(2))
    value, scale, zero = 3 * value, torch.tensor(0.02, dtype=torch.float64), torch.tensor(5.0, dtype=torch.float64)
    given = [one.clone().requires_grad_() for one in (value, scale, zero)]
    (learnt_ranges._Rounded.apply(*given, (-128, 127)) * weight).sum().backward()
    steps = value / scale
    low, high = steps.round() < -128 - zero, steps.round() > 127 - zero
    inside = ~(low | high)
    whole = torch.where(low, -128 - zero, torch.where(high, 127 - zero, steps.round()))
    assert 0.3 < inside.double().mean() < 0.9
    torch.testing.assert_close(given[0].grad, weight * inside)
    torch.testing.assert_close(given[1].grad, (weight * (whole - steps * inside)).sum())
    torch.testing.assert_close(given[2].grad, -(scale * weight * ~inside).sum())


def subject_of(plan: ShapePlan) -> Subject:
    model, images = model_of(plan), images_for(plan, 64).numpy()
    with torch.no_grad():
        logits = model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    return Subject(model, images[:32], images[32:], logits[32:], None)


def made(plan: ShapePlan, folder: Path, macs: int = 5_000_000_000) -> tuple[CandidateBuilder, Graph, Graph]:
    """Returns the builder, a graph of integers, and that graph with learnt ranges, for which 20 steps are taken."""
    builder = CandidateBuilder(subject_of(plan), folder, tflite_form())
    plain, graph = builder.graph(FULL)[0], builder.quantised(FULL)
    return builder, graph, learn_ranges(graph, plain, builder.subject.calibration, macs)


@pytest.mark.parametrize("name", PLANS)
def test_only_grids_of_activations_move_and_shared_ones_together(name: str, tmp_path: Path) -> None:
    _, graph, learnt = made(PLANS[name], tmp_path)
    assert learnt.ops == graph.ops
    assert all(np.array_equal(learnt.constants[key], value) for key, value in graph.constants.items())
    assert learnt.qparams[learnt.input] == graph.qparams[graph.input]
    assert learnt.qparams[learnt.output] == graph.qparams[graph.output]
    together: dict[object, set[object]] = {}
    for key, own in graph.qparams.items():
        together.setdefault(own, set()).add(learnt.qparams[key])
    assert all(len(group) == 1 for group in together.values())
    moved = [key for key in graph.qparams if learnt.qparams[key] != graph.qparams[key]]
    assert len(moved) > len(graph.ops) / 2
    for op in graph.ops:
        grid = learnt.qparams[op.output]
        assert -128 <= grid.zero_point <= 127
        if op.kind in ("softmax", "logistic"):
            assert grid == FIXED["int8"][op.kind]
        if op.kind == "batch_matmul":
            # XNNPACK takes no product whose second operand has a zero point
            assert learnt.qparams[op.inputs[1]].zero_point == 0
        if op.kind == "concatenation":
            assert {learnt.qparams[part] for part in op.inputs} == {grid}
        if op.kind in LINEAR and len(op.inputs) > 2:
            steps = np.asarray(learnt.qparams[op.inputs[1]].scale) * learnt.qparams[op.inputs[0]].scale[0]
            np.testing.assert_allclose(learnt.qparams[op.inputs[2]].scale, steps, rtol=1e-12)


def widened(graph: Graph, factor: float) -> Graph:
    """Returns the graph with wider ranges of its activations; those of image and outputs stay, and prescribed ones."""
    stay = {*FIXED["int8"].values(), graph.qparams[graph.input], graph.qparams[graph.output]}
    weights = {op.inputs[1] for op in graph.ops if op.kind in LINEAR}
    wide = {
        name: replace(own, scale=(factor * own.scale[0],))
        for name, own in graph.qparams.items()
        if own.dtype == "int8" and len(own.scale) == 1 and own not in stay and name not in weights
    }
    return replace(graph, qparams=dict(graph.qparams) | wide)


@pytest.mark.parametrize("name", list(PLANS)[:3])
def test_ranges_that_are_too_wide_become_narrower_and_the_answers_nearer(name: str, tmp_path: Path) -> None:
    builder, graph, _ = made(PLANS[name], tmp_path)
    (plain, seen), subject = builder.graph(FULL), builder.subject
    wide = widened(graph, 3.0)
    learnt = learn_ranges(wide, plain, subject.calibration, 1_000_000_000)
    before, after = (
        compare_logits(
            simulate(correct_biases(own, seen, subject.calibration), subject.images), subject.logits, None, ""
        )
        for own in (wide, learnt)
    )
    assert before.sqnr_db is not None
    assert after.sqnr_db is not None
    assert after.sqnr_db > before.sqnr_db + 0.5
    ratios = [learnt.qparams[op.output].scale[0] / wide.qparams[op.output].scale[0] for op in graph.ops]
    assert np.median(ratios) < 1


def test_the_file_answers_as_the_simulation_says(tmp_path: Path) -> None:
    builder, _, learnt = made(PLAN, tmp_path)
    path, subject = tmp_path / "m.tflite", builder.subject
    path.write_bytes(builder.form.write(learnt))
    found, own = real_logits(path, subject.images), simulate(learnt, subject.images)
    far = compare_logits(found, subject.logits, None, "").sqnr_db
    assert far is not None
    near = compare_logits(found, own, None, "").sqnr_db
    assert near is None or near > far + 3


def test_the_same_call_gives_the_same_ranges(tmp_path: Path) -> None:
    assert made(PLAN, tmp_path)[2].qparams == made(PLAN, tmp_path)[2].qparams


class FakeBuilder:
    """Candidates with given SQNRs, without files."""

    def __init__(self, subject: Subject, sqnr_db: dict[str, float]) -> None:
        self.subject, self.sqnr_db = subject, sqnr_db

    def candidate(self, recipe: object, graph: object = None, most: int = 0) -> Candidate:
        name = recipe.name  # type: ignore[attr-defined]
        parity = Parity(10, 0.1, 0.1, self.sqnr_db[name], 1.0, None, None, None)
        return Candidate(recipe, None, Path(name), parity, np.zeros((10, 2), np.float32))  # type: ignore[arg-type]

    def completed(self, one: Candidate) -> Candidate:
        return one

    def on_first(self, one: Candidate, images: int) -> Candidate:
        return one

    def with_learnt_ranges(self, one: Candidate) -> Candidate:
        return self.candidate(replace(one.recipe, name="learnt"))


@pytest.mark.parametrize(
    ("recipe", "before", "after", "chosen", "tried"),
    [
        (FULL, 20.0, 21.0, "learnt", 2),
        (FULL, 20.0, 19.0, FULL.name, 2),
        (FULL, 25.0, 40.0, FULL.name, 1),
        (MIXED, 20.0, 40.0, MIXED.name, 1),
        (STATIC, 20.0, 40.0, STATIC.name, 1),
    ],
    ids=["nearer", "not nearer", "near enough", "int16 in it", "floats in it"],
)
def test_ranges_are_learnt_where_int8_throughout_is_not_near_and_taken_where_they_help(
    recipe: object, before: float, after: float, chosen: str, tried: int
) -> None:
    name = recipe.name  # type: ignore[attr-defined]
    builder = FakeBuilder(subject_of(PLAN), {name: before, "learnt": after})
    best, trials = choose_accurate(builder, (recipe,))  # type: ignore[arg-type]
    assert best.recipe.name == chosen
    assert len(trials) == tried


@pytest.mark.parametrize(("rotated_db", "tried"), [(15.0, 1), (14.9, 2)])
def test_channels_are_equalised_only_where_the_rotation_does_not_do(rotated_db: float, tried: int) -> None:
    equalised = next(one for one in recipes_for("int8-full") if one.equalised)
    builder = FakeBuilder(subject_of(PLAN), {FULL.name: rotated_db, equalised.name: 30.0, "learnt": 0.0})
    best, trials = choose_accurate(builder, (FULL, equalised))  # type: ignore[arg-type]
    assert len([trial for trial in trials if trial.recipe != "learnt"]) == tried
    assert best.recipe == (FULL if tried == 1 else equalised)
