"""Zero-shot classifiers: the answers of CLIP and SigLIP, which head they have, and what a cut and a training keep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from compress.bases.analysis import analyse
from compress.data.augment import Augmentation
from compress.model.load import ModelSpec
from compress.model.slicing import KeptUnits, keep_all, slice_vit
from compress.model.vit import SlicedViT
from compress.recipe import FINE_TUNE
from compress.search.tas.candidates import candidates_of, plan_with
from compress.search.tas.supernet import run_sample
from compress.search.tas.units import kept_first, order_of, ordered
from compress.text_embeddings import TextEmbeddings, read_text_embeddings
from compress.train.fit import fit
from compress.zero_shot import load_zero_shot, zero_shot_plan, zero_shot_spec
from runtime import PLAN_DOCUMENT, DataError, PlanError, ShapePlan, macs, params
from tests.compress.parts import PARTS, timm_model_with
from tests.compress.search.tas.test_supernet import certain
from tests.compress.search.test_one_shot import random_importance
from tests.compress.texts import two_towers, written
from tests.compress.tiny import ARCHITECTURES, SPEC, TINY_PLAN, images_for, timm_model, tiny_vit, toy_data

pytestmark = pytest.mark.filterwarnings("ignore:.*(no preprocessor_config|Left out of|classifier of)")


def texts_of(folder: Path, count: int, dim: int) -> TextEmbeddings:
    generator = np.random.default_rng(2)
    names = np.array([f"class {i}" for i in range(count)])
    return read_text_embeddings(written(folder, names=names, vectors=generator.normal(size=(count, dim))))


def saved_spec(folder: Path, base: ModelSpec, model: torch.nn.Module) -> ModelSpec:
    save_file({name: own.contiguous() for name, own in model.state_dict().items()}, folder / "model.safetensors")
    return replace(base, checkpoint=folder / "model.safetensors")


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_answers_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    theirs = two_towers(tmp_path, kind)
    texts = read_text_embeddings(theirs.texts)
    spec = zero_shot_spec(ModelSpec(str(tmp_path)), texts)
    own = load_zero_shot(spec, texts)
    assert own.plan == zero_shot_plan(spec, texts)
    assert (own.plan.output, own.plan.is_vector, own.plan.num_classes) == ("classes", False, 10)
    assert own.plan.text_dim == (24 if kind == "clip" else 32)
    images = images_for(own.plan, 32)
    wanted = theirs.logits(images)
    with torch.no_grad():
        got = own(images)
    assert len(set(wanted.argmax(1).tolist())) > 1, "the answers must differ for the comparison to mean something"
    assert torch.equal(got.argsort(1), wanted.argsort(1))
    assert float((got.softmax(1) - wanted.softmax(1)).abs().max()) < 1e-5
    assert float((got.sigmoid() - wanted.sigmoid()).abs().max()) < 1e-5


def test_a_projection_of_timm_stays_and_another_length_is_refused(tmp_path: Path) -> None:
    model = timm_model(ARCHITECTURES["clip"], num_classes=512)
    spec = saved_spec(tmp_path, ARCHITECTURES["clip"], model)
    texts = texts_of(tmp_path, 7, 512)
    own = load_zero_shot(zero_shot_spec(spec, texts), texts)
    images = images_for(own.plan, 3)
    with torch.no_grad():
        vectors = model(images).double()
        wanted = 100 * (vectors / vectors.norm(dim=1, keepdim=True)) @ torch.from_numpy(texts.vectors).T
        torch.testing.assert_close(own(images).double(), wanted, rtol=0, atol=1e-4)
    for dim in (48, 511):  # 48 is what the projection reads
        with pytest.raises(DataError) as caught:
            zero_shot_spec(spec, texts_of(tmp_path, 7, dim))
        assert "do not belong to the image tower vit_base_patch32_clip_quickgelu_224" in str(caught.value)
        assert f"Expected vectors of 512 values, as the tower gives them. Got {dim} values" in str(caught.value)


def test_a_tower_of_timm_without_a_projection_gives_its_pooled_feature(tmp_path: Path) -> None:
    model = timm_model_with("attention-pool")
    spec = saved_spec(tmp_path, PARTS["attention-pool"], model)
    texts = texts_of(tmp_path, 6, 48)
    own_spec = zero_shot_spec(spec, texts)
    assert own_spec.reset_head, "the classifier of five classes is none of the tower's"
    own = load_zero_shot(own_spec, texts)
    images = images_for(own.plan, 3)
    with torch.no_grad():
        vectors = model.forward_head(model.forward_features(images), pre_logits=True).double()
        wanted = 100 * (vectors / vectors.norm(dim=1, keepdim=True)) @ torch.from_numpy(texts.vectors).T
        torch.testing.assert_close(own(images).double(), wanted, rtol=0, atol=1e-4)
    with pytest.raises(DataError, match=r"Expected vectors of 48 values, as the tower gives them\. Got 24"):
        zero_shot_spec(spec, texts_of(tmp_path, 6, 24))


def test_a_model_with_two_heads_is_refused(tmp_path: Path) -> None:
    spec = saved_spec(tmp_path, ARCHITECTURES["deit-distilled"], timm_model(ARCHITECTURES["deit-distilled"]))
    with pytest.raises(PlanError, match="with output classes and one head"):
        zero_shot_spec(spec, texts_of(tmp_path, 6, 48))


def test_the_plan_counts_the_texts_and_is_written_only_where_it_is_new(tmp_path: Path) -> None:
    theirs = two_towers(tmp_path, "clip")
    texts = read_text_embeddings(theirs.texts)
    model = load_zero_shot(zero_shot_spec(ModelSpec(str(tmp_path)), texts), texts)
    assert params(model.plan) == sum(own.numel() for own in model.state_dict().values())
    without = replace(model.plan, text_dim=0, num_classes=24)
    assert macs(model.plan) - macs(without) == 24 * 10
    PLAN_DOCUMENT.write(tmp_path / "plan.json", model.plan)
    assert '"text_dim": 24' in (tmp_path / "plan.json").read_text()
    assert PLAN_DOCUMENT.read(tmp_path / "plan.json") == model.plan
    PLAN_DOCUMENT.write(tmp_path / "plan.json", without)
    assert "text_dim" not in (tmp_path / "plan.json").read_text()
    for changes in ({"text_dim": -1}, {"text_dim": 24, "output": "vector"}):
        with pytest.raises(PlanError, match=r"text_dim is the length of the vector of one head"):
            ShapePlan(**{**vars(without), **changes})


def test_a_cut_leaves_the_texts_and_their_coordinates_as_they_are(tmp_path: Path) -> None:
    theirs = two_towers(tmp_path, "clip")
    texts = read_text_embeddings(theirs.texts)
    model = load_zero_shot(zero_shot_spec(ModelSpec(str(tmp_path)), texts), texts)
    images = images_for(model.plan, 64)
    found = analyse(model, images)
    every = keep_all(found.model.plan)
    turned = found.cut(every)
    cut = found.cut(KeptUnits(tuple(range(24)), every.blocks))
    assert (cut.plan.embed_dim, cut.plan.text_dim, cut.plan.num_classes) == (24, 24, 10)
    for name in ("text.weight", "text.bias"):
        assert torch.equal(cut.state_dict()[name], model.state_dict()[name])
    with torch.no_grad():
        torch.testing.assert_close(turned(images), model(images), rtol=0, atol=1e-2)
        assert np.corrcoef(cut(images).flatten(), model(images).flatten())[0, 1] > 0.8


def small_model() -> SlicedViT:
    """A small model of three texts."""
    model = tiny_vit(replace(TINY_PLAN, text_dim=12))
    assert model.text is not None
    model.text.weight.copy_(20 * torch.randn(3, 12, generator=torch.Generator().manual_seed(0)))
    return model


def test_a_training_leaves_the_texts_as_they_are() -> None:
    model, recipe = small_model(), replace(FINE_TUNE, epochs=1, batch_size=8)
    data = toy_data()
    trained = fit(model, data, SPEC, recipe, augmentation=Augmentation(mirror=0.0), seed=1).model
    before, after = model.state_dict(), trained.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed >= {"head.weight", "blocks.0.mlp.fc1.weight"}
    assert not any(name.startswith("text.") for name in changed)


def test_the_supernet_compares_with_the_texts() -> None:
    model = small_model()
    candidates = candidates_of(model.plan, 2, 0.5)
    chosen = {choice: widths[-1] for choice, widths in candidates.items()}
    plan, order = plan_with(model.plan, chosen), order_of(random_importance(model.plan))
    sliced, images = slice_vit(model, kept_first(model.plan, order, plan)), images_for(model.plan, 4)
    with torch.no_grad():
        found = run_sample(ordered(model, order), certain(candidates, chosen), images)
        torch.testing.assert_close(found, sliced(images), rtol=1e-5, atol=1e-4)
