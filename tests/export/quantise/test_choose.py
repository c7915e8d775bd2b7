"""The choice among candidates, and how many images each of them runs on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compress.model.vit import SlicedViT
from export.compare import real_logits
from export.formats.tflite import tflite_form
from export.gate.limits import ExportLimits
from export.graph.ir import Graph
from export.quantise.candidates import Candidate, CandidateBuilder, Subject
from export.quantise.choose import Wanted, choose_accurate, choose_fast
from export.quantise.integer import quantise_graph
from export.quantise.recipes import DYNAMIC, STATIC, Recipe
from export.quantise.simulate import simulate
from runtime import Parity, open_engine


def made_up(name: str, agreement: float, drop: float, sqnr: float) -> Candidate:
    parity = Parity(100, 1.0, 0.1, sqnr, agreement, 0.9 - drop / 100, 0.9)
    return Candidate(
        Recipe(name, "dynamic"), Graph("i", "o", (), {}, {}), Path(f"{name}.tflite"), parity, np.zeros((100, 1))
    )


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

    def on_first(self, one: Candidate, images: int) -> Candidate:
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
    # no image runs twice
    for one in (best, builder.completed(best)):
        np.testing.assert_array_equal(one.logits, real_logits(best.path, many.images))
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
