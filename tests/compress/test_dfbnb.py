from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from compress import (
    Augmentation,
    Dataset,
    ModelSpec,
    Node,
    SearchImages,
    SlicedViT,
    TrainRecipe,
    TreeSettings,
    draw_search_images,
    fit,
    keep_all,
    load_data,
    load_model,
    objective,
    plan_of,
    search_tree,
)
from runtime import PlanError, Preprocessing, params

from .plain_search import Plain

SPEC = Preprocessing(16, 16, 1, (0.5,), (0.5,), "bilinear", "stretch")
GENTLE = Augmentation(mirror=0.0, jitter=0.1)
SEEDS = range(10)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_data("digits")


@pytest.fixture(scope="module")
def trained(digits: Dataset) -> SlicedViT:
    """A model of four blocks that knows most digits."""
    overrides = {"embed_dim": 32, "depth": 4, "num_heads": 2, "mlp_ratio": 1.5}
    model = load_model(ModelSpec("vit_tiny_patch16_224", 16, 4, 1, overrides=overrides), 10)
    recipe = TrainRecipe(epochs=8, batch_size=32, lr=3e-3, head_lr=3e-3, warmup=0.1, patience=8, clip_norm=1.0)
    return fit(model, digits, SPEC, recipe, augmentation=GENTLE).model


def images_of(digits: Dataset, seed: int, per_class: int = 6) -> SearchImages:
    return draw_search_images(digits, SPEC, GENTLE, per_class=per_class, seed=seed, iteration=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_decides_what_the_plain_search_decides(trained: SlicedViT, digits: Dataset, seed: int) -> None:
    images = images_of(digits, seed)
    settings = TreeSettings(depth=3, epsilon=0.1, gradient_batch=20, eval_batch=10)
    found = search_tree(trained, images, params, params(trained.plan), settings)
    pictures, labels = images.at(np.arange(len(images)))
    plain = Plain(trained, pictures, labels, depth=3, epsilon=0.1, batch=20)
    plain.run()
    assert [(step.action, step.block) for step in found.best.path] == list(plain.best_path)
    assert found.best.kept == plain.best_kept
    assert found.best.objective == pytest.approx(plain.best, abs=1e-12)
    assert found.best.plan == plan_of(trained.plan, found.best.kept)
    assert found.best.cost == params(found.best.plan)
    assert found.images < plain.forward_equivalents
    assert found.nodes <= plain.nodes


@pytest.mark.slow
def test_every_node_is_told_and_the_counts_add_up(trained: SlicedViT, digits: Dataset) -> None:
    images = images_of(digits, 1)
    told: list[tuple[Node, str]] = []

    def watch(node: Node, verdict: str) -> None:
        told.append((node, verdict))

    settings = TreeSettings(depth=3, epsilon=0.1)
    found = search_tree(
        trained,
        images,
        params,
        params(trained.plan),
        settings,
        watch=lambda node, verdict: told.append((node, verdict)),
    )
    verdicts = [verdict for _, verdict in told]
    assert verdicts.count("branched") == found.branched
    assert verdicts.count("repeat") == found.repeats > 0
    assert len(verdicts) - found.repeats == found.nodes
    for node, verdict in told:
        assert len(node.path) <= 3
        value = objective(node.correct, len(images), node.cost, params(trained.plan), 1.0)
        assert node.objective == value
        assert node.complete or verdict in ("bounded", "leaf", "repeat")
        if verdict == "branched":
            assert node.complete
    assert max(node.objective for node, _ in told if node.complete) == found.best.objective
    assert found.root.kept == keep_all(trained.plan)


@pytest.mark.slow
def test_nothing_global_is_touched_and_it_repeats(trained: SlicedViT, digits: Dataset) -> None:
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    images, settings = images_of(digits, 2), TreeSettings(depth=2)
    first = search_tree(trained, images, params, params(trained.plan), settings)
    again = search_tree(trained, images_of(digits, 2), params, params(trained.plan), settings)
    assert first == again
    assert all(torch.equal(before[name], value) for name, value in trained.state_dict().items())
    assert not trained.training


def test_search_images_are_fresh_for_every_iteration_and_of_every_class(digits: Dataset) -> None:
    sets = [draw_search_images(digits, SPEC, GENTLE, per_class=4, seed=3, iteration=i) for i in (0, 1, 0)]
    assert (np.bincount(sets[0].labels) == 4).all()
    assert np.array_equal(sets[0].pixels, sets[2].pixels)
    assert not np.array_equal(sets[0].pixels, sets[1].pixels)
    together = torch.cat([pictures for pictures, _ in sets[0].batches(7)])
    whole, labels = sets[0].at(np.arange(40))
    assert torch.equal(together, whole)
    assert labels.tolist() == sets[0].labels.tolist()
    assert sets[0].pixels.dtype == np.uint8


def test_the_objective_by_hand() -> None:
    assert objective(50, 100, 100, 100, 1.0) == -1.0
    assert objective(100, 100, 25, 100, 1.0) == 2.0
    assert objective(100, 100, 25, 100, 0.5) == 1.0
    assert objective(0, 100, 25, 100, 1.0) == -math.inf


@pytest.mark.parametrize("change", [{"depth": 0}, {"epsilon": -1.0}, {"cost_weight": math.inf}, {"eval_batch": 0}])
def test_settings_out_of_range_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(PlanError, match="must"):
        TreeSettings(**change)  # type: ignore[arg-type]
