"""A model's own answers in place of labels."""

from __future__ import annotations

import numpy as np
import torch

from compress.data.augment import Augmentation
from compress.data.search_images import draw_search_images
from compress.own_answers import answered, with_answers
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
