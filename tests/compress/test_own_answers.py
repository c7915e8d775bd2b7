"""A model's own answers in place of labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from compress.data.augment import Augmentation
from compress.data.search_images import draw_search_images
from compress.own_answers import answered, with_answers
from compress.search.tree.evaluation import Evaluation
from compress.search.tree.settings import TreeEffort, TreeSettings
from tests.compress.tiny import SPEC, TINY_PLAN, images_for, tiny_vit, toy_data


def test_missing_labels_alone_are_answered() -> None:
    model, images = tiny_vit(), images_for(TINY_PLAN, 6)
    own = model(images).argmax(dim=1)
    labels = torch.tensor([0, -1, 2, -1, -1, 1])
    ((_, found), (_, kept)) = with_answers([(images, labels), (images, own.flip(0))], model)
    assert found.tolist() == [0, int(own[1]), 2, int(own[3]), int(own[4]), 1]
    assert kept.tolist() == own.flip(0).tolist()
    assert not model.training


def test_a_search_set_is_answered_in_its_order() -> None:
    data, model = toy_data().without_labels, tiny_vit(seed=2)
    images = draw_search_images(data, SPEC, Augmentation(mirror=0.0), per_class=1, seed=0, iteration=0)
    found = answered(images, model)
    pixels, labels = found.at(np.arange(len(images)))
    assert labels.tolist() == model(pixels).argmax(dim=1).tolist()
    assert np.array_equal(found.pixels, images.pixels)
    assert len(set(labels.tolist())) > 1


def test_a_model_of_vectors_is_right_where_its_own_image_is_nearest() -> None:
    data, plan = toy_data().without_labels, replace(TINY_PLAN, output="vector", num_classes=6)
    model, other = tiny_vit(plan, seed=2), tiny_vit(plan, seed=5)
    images = draw_search_images(data, SPEC, Augmentation(mirror=0.0), per_class=1, seed=0, iteration=0)
    found, every = answered(images, model), np.arange(len(images))
    assert found.labels.tolist() == every.tolist()
    assert found.index is not None
    assert np.allclose(np.linalg.norm(found.index, axis=1), 1, atol=1e-5)
    evaluation = Evaluation(found, 100, TreeSettings(exact=True), TreeEffort(), False)
    right, margins = evaluation.answers(model, every)
    assert right.all()
    assert (margins >= 0).all()
    right, _ = evaluation.answers(other, every)
    with torch.no_grad():
        vectors = torch.nn.functional.normalize(other(found.at(every)[0]), dim=1).numpy()
    assert right.tolist() == ((vectors @ found.index.T).argmax(axis=1) == every).tolist()
    assert not right.all()
