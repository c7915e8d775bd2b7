"""Ranges chosen by what their error does to the outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from export.graph.build import vit_graph
from export.graph.execute import run_graph
from export.quantise.calibrate import TensorStats, activation_qparams, observe
from tests.export.graph.test_build import ARCHITECTURES, images_for, model_of


def stats(values: np.ndarray, weights: np.ndarray | None = None) -> TensorStats:
    return TensorStats(
        float(values.min()),
        float(values.max()),
        np.ones(1),
        np.zeros(1),
        values.astype(np.float32),
        None if weights is None else weights.astype(np.float32),
    )


def test_outliers_that_no_output_sees_are_cut_off_and_those_that_count_are_kept() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(size=4000), np.full(40, 40.0)])
    unseen, seen = np.ones(4040), np.ones(4040)
    unseen[4000:], seen[4000:] = 1e-6, 100.0
    low, high = (activation_qparams(stats(values, weights), False, "sensitivity") for weights in (unseen, seen))
    assert 255 * low.scale[0] < 12
    assert high.rounded(np.array([40.0]))[0] == pytest.approx(40.0, abs=high.scale[0])


@pytest.mark.parametrize("symmetric", [False, True])
def test_no_range_has_a_larger_weighted_error_than_the_observed_one(symmetric: bool) -> None:
    generator = np.random.default_rng(1)
    for heavy in (1.0, 3.0):
        values = np.sign(generator.normal(size=3000)) * np.abs(generator.normal(size=3000)) ** heavy
        values[values < -1] = -1
        weights = generator.exponential(size=3000)
        wide, own = (activation_qparams(stats(values, weights), symmetric, name) for name in ("minmax", "sensitivity"))
        errors = [float((weights * np.square(grid.rounded(values) - values)).mean()) for grid in (wide, own)]
        assert errors[1] <= errors[0] * (1 + 1e-3)


def test_a_short_end_is_kept_where_the_long_one_is_cut() -> None:
    # as after GELU: nothing below -0.17, and a long tail above
    values = np.concatenate([np.full(2000, -0.17), np.random.default_rng(0).exponential(size=2000), [60.0]])
    weights = np.ones(4001)
    weights[-1] = 1e-3
    grid = activation_qparams(stats(values, weights), False, "sensitivity")
    assert 255 * grid.scale[0] < 20
    assert grid.rounded(np.array([-0.17]))[0] == pytest.approx(-0.17, abs=grid.scale[0] / 1.9)


def test_weights_are_the_squared_slopes_of_all_outputs() -> None:
    plan = ARCHITECTURES["registers"]
    graph, images = vit_graph(model_of(plan)), images_for(plan, 40)
    seen = observe(graph, images.numpy(), weighted=True)
    plain = observe(graph, images.numpy())
    head = next(op for op in graph.ops if op.output == graph.output)
    wanted = float(np.square(graph.constants[head.inputs[1]]).sum(axis=0).mean())
    found = seen[head.inputs[0]].weights
    assert found is not None
    assert float(found.mean()) == pytest.approx(wanted, rel=0.25)
    assert all(one.weights is not None and len(one.weights) == len(one.sample) for one in seen.values())
    for name, one in plain.items():
        assert one.weights is None
        np.testing.assert_array_equal(one.sample, seen[name].sample)
        assert (one.low, one.high) == (seen[name].low, seen[name].high)


def test_weights_predict_what_rounding_one_tensor_does_to_the_outputs() -> None:
    plan = ARCHITECTURES["vit"]
    graph, images = vit_graph(model_of(plan)), images_for(plan, 60)
    seen = observe(graph, images.numpy(), weighted=True)
    exact = run_graph(graph, images)
    for name in ("blocks.0.mlp.fc1", "blocks.1.attn.v", "blocks.0.attn.proj.stream"):
        if name not in seen:
            continue
        noise = 1e-3 * torch.randn((60, *graph.shapes[name]), generator=torch.Generator().manual_seed(0))

        def moved(own: str, value: torch.Tensor, name: str = name, noise: torch.Tensor = noise) -> torch.Tensor:
            return value + noise if own == name else value

        found = float((run_graph(graph, images, moved) - exact).square().sum(-1).mean())
        weights = seen[name].weights
        assert weights is not None
        predicted = 1e-6 * float(weights.mean()) * noise[0].numel()
        assert found == pytest.approx(predicted, rel=0.3)
