"""A model in memory is cut without labels, and what comes back is an ordinary module."""

from __future__ import annotations

import copy
import itertools
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pocketvit
from compress.in_memory.cut_model import CutModel
from compress.model.timm_vit import plan_of_timm
from runtime import DataError, ModelError, PlanError, PocketVitWarning, macs, params
from tests.compress.tiny import ARCHITECTURES, TINY_PLAN, images_for, timm_model, tiny_vit

BUDGETS = ["macs=0.85", "macs=0.6"]


@cache
def images(count: int = 96) -> torch.Tensor:
    return images_for(TINY_PLAN, count)


@cache
def cut_twice() -> list[CutModel]:
    """Returns a tiny model at both budgets; tests must not change it."""
    return pocketvit.cut(tiny_vit(), images(), BUDGETS, search="one-shot")


def test_each_budget_is_met_and_the_report_is_what_held_out_images_measure() -> None:
    whole, made = tiny_vit(), cut_twice()
    for share, own in zip((0.85, 0.6), made, strict=True):
        report = own.report
        assert report is not None
        assert report.macs == macs(own.plan) <= share * macs(TINY_PLAN) == share * report.whole_macs
        assert report.params == params(own.plan) == sum(value.numel() for value in own.network.parameters())
        assert (report.images, report.analysis_images) == (12, 72)
        # the held-out images are the first of the seeded order
        order = torch.randperm(96, generator=torch.Generator().manual_seed(0))
        some = images()[order[:12]]
        with torch.no_grad():
            wanted, found = whole.features(some)[1].double(), own.forward_features(some).double()
            same = own(some).argmax(1) == whole(some).argmax(1)
        error = ((found - wanted).square().sum(1) / wanted.square().sum(1)).mean()
        assert report.error == pytest.approx(float(error), rel=1e-4)
        assert report.cosine == pytest.approx(float(F.cosine_similarity(found, wanted, dim=1).mean()), abs=1e-5)
        assert report.agreement == pytest.approx(float(same.double().mean()))
    assert made[0].report
    assert made[1].report
    assert made[0].report.error < made[1].report.error
    assert made[0].report.cosine > 0.9


def test_the_module_is_left_as_it_is() -> None:
    module: Any = timm_model(ARCHITECTURES["vit"]).train()
    some = images_for(plan_of_timm(module), 32)
    module(some[:2]).sum().backward()
    before = copy.deepcopy(module.state_dict())
    gradients = [value.grad.clone() for value in module.parameters()]
    state = torch.get_rng_state()
    with torch.no_grad(), pytest.warns(PocketVitWarning, match="The bases are found from 24 images"):
        own = pocketvit.cut(module, some, "macs=0.9", search="uniform", reconstruct=False)
    assert module.training
    assert not own.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(map(torch.equal, gradients, (value.grad for value in module.parameters())))
    assert torch.equal(state, torch.get_rng_state())
    assert all(value.requires_grad and value.grad is None for value in own.parameters())
    assert own.preprocessing is not None
    assert (own.preprocessing.mean, own.class_names[:2]) == ((0.5, 0.5, 0.5), ("class 0", "class 1"))
    assert torch.is_grad_enabled()


def test_the_same_seed_gives_the_same_model_and_a_budget_of_all_the_same_function() -> None:
    some = images(40)
    with pytest.warns(PocketVitWarning, match="The bases are found"):
        one, other, third = (
            pocketvit.cut(tiny_vit(), some, "macs=1", search="one-shot", seed=seed) for seed in (1, 1, 2)
        )
    assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))
    assert not torch.equal(one.network.patch_embed.weight, third.network.patch_embed.weight)
    torch.testing.assert_close(one(some), tiny_vit()(some), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(one.forward_features(some), tiny_vit().features(some)[1], rtol=1e-3, atol=1e-3)


def test_a_cut_model_can_be_cut_again_in_the_coordinates_of_the_first() -> None:
    again = pocketvit.cut(cut_twice()[0], images(), "macs=0.95", search="one-shot")
    whole = tiny_vit()
    assert again.plan.embed_dim <= cut_twice()[0].plan.embed_dim
    with torch.no_grad():
        found, wanted = again.forward_features(images()), whole.features(images())[1]
    assert found.shape == wanted.shape
    assert float(F.cosine_similarity(found, wanted, dim=1).mean()) > 0.85


def test_it_is_trained_by_a_loop_of_ones_own_and_its_state_comes_back() -> None:
    model = copy.deepcopy(cut_twice()[1]).train()
    labels = torch.arange(16) % TINY_PLAN.num_classes
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = F.cross_entropy(model(images()[:16]), labels)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    fresh = copy.deepcopy(cut_twice()[1])
    assert not torch.equal(fresh(images()), model(images()))
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh.eval()(images()), model.eval()(images()))
    assert torch.equal(fresh.forward_features(images()), model.forward_features(images()))


def test_it_is_exported_and_compiled_by_torch() -> None:
    model, some = cut_twice()[1], images()[:4]
    program = torch.export.export(model, (some,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(program.module()(images()[:7]), model(images()[:7]))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(some), model(some))


def test_batches_may_come_from_a_loader_whose_labels_are_not_looked_at() -> None:
    class Unread:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError("a label was looked at")

    endless = itertools.cycle((part, Unread()) for part in images().split(32))
    batches = itertools.islice(endless, 3)
    own = pocketvit.cut(tiny_vit(), batches, BUDGETS[1], search="one-shot")
    assert all(map(torch.equal, own.state_dict().values(), cut_twice()[1].state_dict().values()))


def nan_images() -> torch.Tensor:
    found = images().clone()
    found[3, 0, 0, 0] = torch.nan
    return found


@pytest.mark.parametrize(
    ("given", "kind", "error"),
    [
        ({"images": images(31)}, DataError, "The images are too few. Expected 32 or more, better 300. Got 31"),
        ({"images": []}, DataError, "Got 0"),
        ({"images": nan_images()}, DataError, "hold NaN or infinity"),
        ({"images": images()[:, :, :4]}, DataError, "(N, 1, 8, 8). Got (96, 1, 4, 8)"),
        ({"images": images()[0]}, DataError, "another shape than the model reads"),
        ({"images": (images() * 50).to(torch.uint8)}, DataError, "Got torch.uint8. Normalise them"),
        ({"images": images().numpy()}, DataError, "A batch of images is no tensor"),
        ({"images": "photos"}, DataError, "These are no images"),
        ({"images": 3}, DataError, "These are no images"),
        ({"module": "vit"}, ModelError, "That is no model to cut"),
        ({"module": nn.Linear(2, 2)}, ModelError, "This model uses the architecture Linear"),
        ({"budget": "macs=0.00001"}, PlanError, "cannot be met by this model"),
        ({"budget": []}, PlanError, "These are no budgets"),
        ({"budget": ["macs=0.5", "macs=0.50"]}, PlanError, "A budget is given twice"),
        ({"budget": "latency=1ms@cpu"}, PlanError, "needs a latency table"),
        ({"search": "dfbnb"}, PlanError, "one-shot or milp or uniform. Got 'dfbnb'"),
        ({"search": "best"}, PlanError, "Got 'best'"),
        ({"copies": -1}, PlanError, "There cannot be fewer than no copies"),
    ],
)
def test_what_cannot_be_cut_is_refused(given: dict[str, Any], kind: type[Exception], error: str) -> None:
    usual = {"module": tiny_vit(), "images": images(), "budget": "macs=0.5", "search": "one-shot"}
    with pytest.raises(kind) as caught:
        pocketvit.cut(**{**usual, **given})
    assert error in str(caught.value)


@pytest.mark.filterwarnings("ignore:The images that the bases are found from are all alike")
def test_pixels_that_are_not_normalised_are_noticed() -> None:
    with pytest.warns(PocketVitWarning, match="values up to .* normalise them"):
        pocketvit.cut(tiny_vit(), images().abs() * 100, "macs=1", search="uniform", reconstruct=False)
