"""Equalised channels of a model with outliers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.model.vit import SlicedViT, build
from export.compare import compare_logits
from export.graph.build import vit_graph
from export.quantise.calibrate import observe
from export.quantise.candidates import Subject
from export.quantise.equalise import equalising_scales
from export.quantise.integer import quantise_graph
from export.quantise.recipes import modes_of, recipes_for
from export.quantise.simulate import simulate


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
