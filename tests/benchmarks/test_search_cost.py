from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.search_cost import Walk, models_of, read_lines
from compress.budget import COUNTS
from compress.data.search_images import draw_search_images
from compress.search.tree.journal import TreeJournal
from compress.search.tree.search import search_tree
from compress.search.tree.settings import TreeEffort, TreeSettings
from runtime import params
from tests.compress.digits import GENTLE, SPEC, digits_data, digits_model
from tests.compress.plain_search import Plain


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "epsilon"), [(1, 0.1), (2, 0.1), (3, 0.02)])
def test_the_walk_counts_what_the_plain_search_counts(tmp_path: Path, seed: int, epsilon: float) -> None:
    trained = digits_model()
    images = draw_search_images(digits_data(), SPEC, GENTLE, per_class=4, seed=seed, iteration=0)
    settings, effort = TreeSettings(depth=3, epsilon=epsilon, exact=True), TreeEffort(gradient_batch=20, eval_batch=10)
    journal = TreeJournal(tmp_path / "j.jsonl", {"seed": seed})
    total = params(trained.plan)
    found = search_tree(trained, images, COUNTS["params"], total, settings, effort=effort, journal=journal)
    known, root = models_of(read_lines(tmp_path / "j.jsonl"), trained.plan)
    walk = Walk(known, settings.depth, settings.epsilon)
    walk.visit(root)
    pictures, labels = images.at(np.arange(len(images)))
    plain = Plain(trained, pictures, labels, depth=3, epsilon=epsilon, batch=20)
    plain.run()
    assert walk.visits == plain.nodes
    assert walk.cost(len(images)) == plain.forward_equivalents
    assert walk.best == pytest.approx(plain.best, abs=1e-12)
    assert len(known) == found.nodes
    assert len(walk.evaluated) == found.nodes <= walk.visits
    assert walk.opened == {kept for kept, model in known.items() if model.children is not None}
