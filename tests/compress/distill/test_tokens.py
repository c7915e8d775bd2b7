"""The last tokens of the whole model as what a student learns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from compress.distill.features import FixedMap, map_back, tokens_loss
from compress.distill.loss import DistillationLoss
from compress.distill.outputs import outputs_of
from compress.distill.settings import Distillation
from compress.distill.teachers import sliced_teacher
from compress.fidelity import selection
from compress.model.coordinates import Coordinates
from compress.model.slicing import keep_all, slice_vit
from runtime import ModelError
from tests.compress.tiny import SPEC, TINY_PLAN, images_for, sliced_model, tiny_vit

TOKENS = Distillation(methods=("tokens",), weight=1.0)
LABELS = torch.tensor([0, 1, 2, 0])


def test_the_loss_is_the_mean_of_two_relative_errors() -> None:
    generator = torch.Generator().manual_seed(0)
    own, wanted = ((torch.randn(2, 3, generator=generator), torch.randn(2, 4, 3, generator=generator)) for _ in "ab")
    errors = [float(((a - b) ** 2).sum() / (b**2).sum()) for a, b in zip(own, wanted, strict=True)]
    assert float(tokens_loss(own, wanted, nn.Identity())) == pytest.approx(sum(errors) / 2, rel=1e-6)
    assert float(tokens_loss(wanted, wanted, nn.Identity())) == 0.0
    nothing = tuple(torch.zeros_like(part) for part in wanted)
    assert float(tokens_loss(nothing, wanted, nn.Identity())) == 1.0


@pytest.mark.parametrize("key", ["vit", "deit-distilled", "avg-pool", "dinov2-reg"])
def test_the_tokens_are_those_that_the_model_pools(key: str) -> None:
    model = sliced_model(key)
    with torch.no_grad():
        found = outputs_of(model, images_for(model.plan), embedding=True, tokens=True)
        assert found.tokens is not None
        assert found.tokens.shape == (2, model.plan.num_tokens, model.plan.embed_dim)
        pooled = model.pool(found.tokens)
        read = model.norm(pooled) if model.plan.norm == "after_pool" else pooled
    torch.testing.assert_close(read, found.embedding)
    assert outputs_of(model, images_for(model.plan)).tokens is None


def test_the_loss_comes_on_top_of_that_of_the_labels_with_its_weight() -> None:
    student, images = tiny_vit(), images_for(TINY_PLAN, 4)
    with torch.no_grad():
        labels_alone = float(cross_entropy(student(images), LABELS))
        itself = DistillationLoss(TOKENS, sliced_teacher(tiny_vit(), SPEC), student, SPEC)
        assert list(itself.trained.parameters()) == []
        assert float(itself.loss(student, images, LABELS, None)) == pytest.approx(labels_alone)
        teacher = sliced_teacher(tiny_vit(seed=4), SPEC)
        own, other = (outputs_of(one, images, embedding=True, tokens=True) for one in (student, tiny_vit(seed=4)))
        errors = tokens_loss((own.embedding, own.tokens), (other.embedding, other.tokens), nn.Identity())
        for weight in (1.0, 3.0):
            lesson = DistillationLoss(replace(TOKENS, token_weight=weight), teacher, student, SPEC)
            found = float(lesson.loss(student, images, LABELS, None))
            assert found == pytest.approx(labels_alone + weight * float(errors))


def test_a_cut_stream_is_mapped_back_by_the_map_given_and_by_a_learnt_one_without() -> None:
    whole, kept = tiny_vit(), replace(keep_all(TINY_PLAN), embed=tuple(range(8)))
    cut, back = slice_vit(whole, kept), selection(kept.embed, TINY_PLAN.embed_dim)
    teacher = sliced_teacher(whole, SPEC)
    fixed = DistillationLoss(TOKENS, teacher, cut, SPEC, back=back)
    assert list(fixed.trained.parameters()) == []
    learnt = DistillationLoss(TOKENS, teacher, cut, SPEC)
    assert [tuple(value.shape) for value in learnt.trained.parameters()] == [(16, 8), (16,)]
    images = images_for(TINY_PLAN, 4)
    with torch.no_grad():
        loss = learnt.loss(cut, images, LABELS, None) - cross_entropy(cut(images), LABELS)
    assert float(loss) == pytest.approx(1.0, abs=1e-5), "the learnt map starts at zero"
    assert fixed.describe() != learnt.describe()
    assert (
        fixed.describe()
        != DistillationLoss(TOKENS, teacher, cut, SPEC, back=Coordinates(back.matrix.flip(0), back.shift)).describe()
    )
    fixed.loss(cut, images, LABELS, None).backward()
    assert cut.blocks[0].mlp.fc1.weight.grad is not None
    with pytest.raises(ModelError, match="is of another shape"):
        map_back(8, 16, Coordinates(back.matrix.T, back.shift))
    assert isinstance(map_back(8, 16, back), FixedMap)


def test_a_teacher_with_other_tokens_is_refused() -> None:
    finer = tiny_vit(replace(TINY_PLAN, patch_size=(2, 2)))
    with pytest.raises(ModelError, match=r"another number of tokens\. Expected 5\. Got 17"):
        DistillationLoss(TOKENS, sliced_teacher(finer, SPEC), tiny_vit(), SPEC)
    other = replace(sliced_teacher(tiny_vit(), SPEC), network=nn.Identity())
    with pytest.raises(ModelError, match="needs a teacher that is a model of PocketViT"):
        DistillationLoss(TOKENS, other, tiny_vit(), SPEC)
    with pytest.raises(ModelError, match="Name a run folder"):
        outputs_of(nn.Identity(), images_for(TINY_PLAN), tokens=True)
