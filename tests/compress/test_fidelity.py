"""How closely a model follows the whole model, without a label."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from compress.evaluate import logits_of
from compress.fidelity import MOST_IMAGES, NetworkAnswers, answers_of, compared, fidelity, selection, some_images
from compress.model.coordinates import Coordinates
from compress.model.slicing import keep_all, slice_vit
from runtime import ModelError
from tests.compress.tiny import SPEC, TINY_PLAN, tiny_vit, toy_data

DATA = toy_data().without_labels


def test_a_model_follows_itself() -> None:
    found = fidelity(tiny_vit(), tiny_vit(), DATA, DATA.test, SPEC)
    assert (found.agreement, found.images) == (1.0, len(DATA.test))
    assert found.divergence == pytest.approx(0, abs=1e-9)
    assert found.cosine == pytest.approx(1, abs=1e-9)


def test_the_figures_are_those_of_the_definitions() -> None:
    one, other = tiny_vit(seed=1), tiny_vit(seed=2)
    found = fidelity(one, other, DATA, DATA.test, SPEC)
    own, wanted = (torch.from_numpy(logits_of(model, DATA, DATA.test, SPEC)).double() for model in (one, other))
    assert found.agreement == float((own.argmax(1) == wanted.argmax(1)).double().mean())
    p, q = wanted.softmax(1), own.softmax(1)
    assert found.divergence == pytest.approx(float((p * (p / q).log()).sum(1).mean()), rel=1e-6)
    read = [answers_of(model, DATA, DATA.test, SPEC).features for model in (one, other)]
    assert found.cosine == pytest.approx(float(F.cosine_similarity(*read, dim=1).mean()), abs=1e-5)
    assert -1 < found.cosine < 0.99


def test_features_are_what_the_classifier_reads() -> None:
    model = tiny_vit()
    found = answers_of(model, DATA, DATA.test, SPEC)
    assert torch.allclose(model.head(found.features), found.logits, atol=1e-5)
    assert answers_of(model, DATA, DATA.test, SPEC, features=False).features is None


def test_a_map_back_undoes_a_change_of_coordinates() -> None:
    generator = torch.Generator().manual_seed(0)
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64))
    logits, features = torch.randn(20, 3, generator=generator), torch.randn(20, 8, generator=generator)
    whole = NetworkAnswers(logits, features)
    turned = NetworkAnswers(logits, (features.double() @ rotation.T).float())
    assert compared(turned, whole).cosine < 0.9
    assert compared(turned, whole, Coordinates(rotation, torch.zeros(8))).cosine == pytest.approx(1, abs=1e-6)
    moved = NetworkAnswers(logits, turned.features + 3)
    shift = -3 * torch.ones(8, dtype=torch.float64) @ rotation
    assert compared(moved, whole, Coordinates(rotation, shift)).cosine == pytest.approx(1, abs=1e-6)


def test_a_cut_stream_has_a_cosine_only_with_its_map_back() -> None:
    whole = tiny_vit()
    kept = replace(keep_all(TINY_PLAN), embed=(0, 1, 2, 3, 4, 5, 6, 15))
    cut = slice_vit(whole, kept)
    assert fidelity(cut, whole, DATA, DATA.test, SPEC).cosine is None
    back = selection(kept.embed, TINY_PLAN.embed_dim)
    assert back.matrix.shape == (8, 16)
    assert torch.equal(back.of(torch.arange(8.0)), torch.tensor([0.0, 1, 2, 3, 4, 5, 6, *[0] * 8, 7]).double())
    found = fidelity(cut, whole, DATA, DATA.test, SPEC, back=back).cosine
    own, other = (answers_of(model, DATA, DATA.test, SPEC).features for model in (cut, whole))
    products = (own * other[:, list(kept.embed)]).sum(1) / own.norm(dim=1) / other.norm(dim=1)
    assert found == pytest.approx(float(products.mean()), abs=1e-5)
    with pytest.raises(ModelError, match=r"is of another shape\. Expected \(8, 16\)\. Got \(16, 8\)"):
        fidelity(cut, whole, DATA, DATA.test, SPEC, back=Coordinates(back.matrix.T, torch.zeros(8)))


def test_other_classes_are_refused() -> None:
    other = tiny_vit(replace(TINY_PLAN, num_classes=4))
    with pytest.raises(ModelError, match="other classes"):
        fidelity(other, tiny_vit(), DATA, DATA.test, SPEC)


def test_at_most_some_images_are_compared() -> None:
    indices = np.arange(100, 100 + 3 * MOST_IMAGES)
    chosen = some_images(indices, seed=1)
    assert len(set(chosen)) == MOST_IMAGES
    assert np.array_equal(chosen, np.sort(chosen))
    assert set(chosen) <= set(indices)
    assert not np.array_equal(chosen, some_images(indices, seed=2))
    assert some_images(indices[:5], seed=1).tolist() == indices[:5].tolist()
    assert math.sqrt(0.25 / MOST_IMAGES) < 0.0112
