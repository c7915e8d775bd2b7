"""Models that answer with a vector: what they compute, what is left out, shorter vectors, and other image sizes."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed

from compress.bases.analysis import analyse
from compress.model.embedder import embedder_plan, embedding_spec, load_embedder, shortened
from compress.model.load import ModelSpec
from compress.model.slicing import KeptUnits, keep_all
from compress.model.vit import SlicedViT, build, unit_length
from compress.vectors import mean_cosine
from runtime import PLAN_DOCUMENT, PlanError, PocketVitWarning, ShapePlan
from tests.compress.model.hub import made
from tests.compress.tiny import ARCHITECTURES, images_for, timm_model

NAMES = ("vit", "deit-distilled", "dinov2-reg", "avg-pool", "clip")


def spec_of(folder: Path, key: str, classes: int = 5) -> tuple[ModelSpec, torch.nn.Module]:
    """Saves a model of ``ARCHITECTURES`` and returns the spec of its checkpoint, and timm's model."""
    model = timm_model(ARCHITECTURES[key], num_classes=classes)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")
    base = ARCHITECTURES[key]
    spec = ModelSpec(
        base.name,
        base.img_size,
        base.patch_size,
        base.in_chans,
        checkpoint=folder / "model.safetensors",
        overrides=base.overrides,
    )
    return embedding_spec(spec), model


@pytest.mark.parametrize("key", NAMES)
def test_the_vector_is_what_the_classifier_reads(tmp_path: Path, key: str) -> None:
    spec, model = spec_of(tmp_path, key)
    own = load_embedder(spec, "vector")
    assert own.plan == embedder_plan(spec, "vector")
    assert (own.plan.num_classes, own.plan.output, own.plan.is_vector) == (own.plan.embed_dim, "vector", True)
    images = images_for(own.plan, 3)
    with torch.no_grad():
        wanted = model.forward_head(model.forward_features(images), pre_logits=True)
        assert torch.allclose(own(images), wanted, atol=1e-5)


def test_a_model_without_a_classifier_gives_the_same_vector(tmp_path: Path) -> None:
    spec, _ = spec_of(tmp_path, "vit")
    with_head = load_embedder(spec, "vector")
    weights = dict(timm_model(ARCHITECTURES["vit"]).state_dict())
    save_file(
        {name: own for name, own in weights.items() if not name.startswith("head.")}, tmp_path / "model.safetensors"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PocketVitWarning)
        bare = load_embedder(spec, "vector")
    assert all(torch.equal(own, bare.state_dict()[name]) for name, own in with_head.state_dict().items())


def test_a_unit_vector_has_length_one_and_zeros_stay(tmp_path: Path) -> None:
    spec, _ = spec_of(tmp_path, "vit")
    plain, unit = load_embedder(spec, "vector"), load_embedder(spec, "unit_vector")
    images = images_for(plain.plan, 3)
    with torch.no_grad():
        assert torch.allclose(unit(images).norm(dim=1), torch.ones(3), atol=1e-6)
        assert torch.allclose(unit(images), torch.nn.functional.normalize(plain(images), dim=1), atol=1e-6)
    assert torch.equal(unit_length(torch.zeros(2, 8)), torch.zeros(2, 8))


def test_the_plan_is_written_only_where_it_is_new(tmp_path: Path) -> None:
    plan = embedder_plan(spec_of(tmp_path, "vit")[0], "unit_vector")
    PLAN_DOCUMENT.write(tmp_path / "plan.json", plan)
    assert PLAN_DOCUMENT.read(tmp_path / "plan.json") == plan
    assert '"output": "unit_vector"' in (tmp_path / "plan.json").read_text()
    PLAN_DOCUMENT.write(tmp_path / "plan.json", ShapePlan(**{**vars(plan), "output": "classes"}))
    assert '"output"' not in (tmp_path / "plan.json").read_text()
    with pytest.raises(PlanError, match=r"Unknown output\. Expected classes, vector, unit_vector, grid\. Got text"):
        ShapePlan(**{**vars(plan), "output": "text"})


def test_a_cut_stream_keeps_the_coordinates_of_the_whole_model(tmp_path: Path) -> None:
    model = load_embedder(spec_of(tmp_path, "vit")[0], "vector")
    images = images_for(model.plan, 64)
    found = analyse(model, images)
    cut = found.cut(KeptUnits(tuple(range(40)), keep_all(found.model.plan).blocks))
    assert (cut.plan.embed_dim, cut.plan.num_classes) == (40, 48)
    with torch.no_grad():
        assert mean_cosine(cut(images).numpy(), model(images).numpy()) > 0.9


def test_short_vectors_keep_inner_products_best_and_shorten_an_index(tmp_path: Path) -> None:
    model = load_embedder(spec_of(tmp_path, "deit-distilled")[0], "vector")
    images = images_for(model.plan, 64)
    short = shortened(model, images.split(16), 12)
    assert short.plan == embedder_plan(spec_of(tmp_path, "deit-distilled")[0], "vector", 12)
    with torch.no_grad():
        long, own = model(images).double().numpy(), short(images).double().numpy()
    assert np.allclose(long @ short.head.weight.detach().double().numpy().T, own, atol=1e-4)
    values = np.linalg.eigvalsh(long @ long.T)[::-1]
    error = np.square(long @ long.T - own @ own.T).sum()
    assert error == pytest.approx(np.square(values[12:]).sum(), rel=1e-3)
    with pytest.raises(PlanError, match="too few images to find the principal components"):
        shortened(model, images[:8].split(8), 12)
    with pytest.raises(PlanError, match=r"Expected --embed-dim 1 to 48, the model's own\. Got 49"):
        embedder_plan(spec_of(tmp_path, "vit")[0], "vector", 49)


def test_the_projection_of_timms_clip_stays_and_a_classifier_does_not(tmp_path: Path) -> None:
    spec, model = spec_of(tmp_path, "clip", 512)
    own = load_embedder(spec, "vector")
    assert (own.plan, own.plan.num_classes) == (embedder_plan(spec, "vector"), 512)
    images = images_for(own.plan)
    with torch.no_grad():
        assert torch.allclose(own(images), model(images), atol=1e-5)
    assert load_embedder(spec_of(tmp_path, "clip", 10)[0], "vector").plan.num_classes == 48


@pytest.mark.parametrize("kind", ["clip-projection", "clip-whole"])
def test_a_projection_of_hugging_face_is_the_vector(tmp_path: Path, kind: str) -> None:
    model = made.saved(tmp_path, kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PocketVitWarning)
        spec = embedding_spec(ModelSpec(str(tmp_path)))
        own = load_embedder(spec, "vector")
    assert (own.plan.num_classes, own.plan.embed_dim) == (24, 32)
    images = images_for(own.plan)
    with torch.no_grad():
        assert torch.allclose(own(images), made.answers(model, images), atol=1e-5)


def test_the_class_token_is_the_vector_of_a_classifier_that_reads_two(tmp_path: Path) -> None:
    model = made.saved(tmp_path, "dinov2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PocketVitWarning)
        own = load_embedder(embedding_spec(ModelSpec(str(tmp_path))), "vector")
    assert (own.plan.pooling, own.plan.two_heads, own.plan.num_classes) == ("token", False, 32)
    images = images_for(own.plan)
    with torch.no_grad():
        assert torch.allclose(own(images), model.dinov2(images).pooler_output, atol=1e-4)


@pytest.mark.parametrize("size", [(84, 56), (42, 98)])
def test_other_sizes_resample_positions_as_timm_does(tmp_path: Path, size: tuple[int, int]) -> None:
    spec, model = spec_of(tmp_path, "dinov2-reg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PocketVitWarning)
        own = load_embedder(ModelSpec(**{**vars(spec), "img_size": size}), "vector")
    grid = (size[0] // 14, size[1] // 14)
    wanted = resample_abs_pos_embed(model.pos_embed.detach(), grid, (4, 4), num_prefix_tokens=0)
    assert torch.allclose(own.pos_embed, wanted, atol=1e-6)
    other = timm.create_model(
        spec.name, img_size=size, patch_size=spec.patch_size, num_classes=0, dynamic_img_size=False, **spec.overrides
    ).eval()
    other.load_state_dict({**{n: v for n, v in model.state_dict().items() if "head" not in n}, "pos_embed": wanted})
    images = images_for(own.plan)
    with torch.no_grad():
        assert torch.allclose(own(images), other(images), atol=1e-5)
    assert isinstance(build(own.plan, own.state_dict()), SlicedViT)
