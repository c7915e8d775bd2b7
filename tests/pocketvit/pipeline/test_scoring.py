"""A finished model is scored by the engine that takes least time, and the answers are torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.data.load import load_data
from compress.evaluate import score
from compress.model.load import ModelSpec, load_model
from pocketvit.pipeline import scoring
from runtime import Preprocessing

SPEC = Preprocessing(32, 32, 1, (0.5,), (0.5,), "bicubic", "stretch")
OVERRIDES = {"embed_dim": 48, "depth": 2, "num_heads": 3}


def test_the_score_is_torch_s_and_who_waits_hears_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    data = load_data("digits")
    model = load_model(ModelSpec("vit_tiny_patch16_224", 32, 8, 1, overrides=OVERRIDES), 10)
    indices, said = data.test[:50], list[tuple[object, ...]]()
    wanted = score(model, data, indices, SPEC)
    opened: list[object] = []
    honest = scoring.open_engine
    monkeypatch.setattr(scoring, "open_engine", lambda *how, **more: opened.append(how) or honest(*how, **more))
    found = scoring.score_finished(model, data, indices, SPEC, lambda *told: said.append(told), "score test")
    assert (found.top1, found.images) == (wanted.top1, wanted.images)
    assert found.loss == pytest.approx(wanted.loss, rel=1e-5)
    assert len(opened) == 1
    assert said[-1] == ("score test", 50, 50)
    monkeypatch.setattr(scoring, "find_spec", lambda name: None)
    assert scoring.score_finished(model, data, indices, SPEC) == wanted
    assert len(opened) == 1
    assert np.array_equal(indices, data.test[:50])
