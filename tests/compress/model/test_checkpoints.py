"""Checkpoints as people really have them: however wrapped, the answers are timm's or a part is named."""

from __future__ import annotations

import argparse
import datetime
import warnings
from collections import OrderedDict, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from compress.model.checkpoint_file import open_checkpoint
from compress.model.load import ModelSpec, load_checkpoint_report, load_model
from runtime import ModelError, PocketVitWarning
from tests.compress.tiny import ARCHITECTURES, images_for, timm_model

from .test_load import CLASSES, VIT, logits, refusal, small, weights_of

Weights = dict[str, torch.Tensor]


def load_with_notes(spec: ModelSpec, num_classes: int = CLASSES) -> tuple[torch.nn.Module, str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = load_model(spec, num_classes)
    assert all(issubclass(one.category, PocketVitWarning) for one in caught)
    return model, "\n".join(str(one.message) for one in caught)


def saved(path: Path, content: Any) -> ModelSpec:
    torch.save(content, path)
    return replace(VIT, checkpoint=path)


def assert_answers_as_timm(spec: ModelSpec, key: str = "vit") -> str:
    model, notes = load_with_notes(spec)
    theirs = timm_model(ARCHITECTURES[key])
    images = images_for(model.plan)  # type: ignore[arg-type]
    torch.testing.assert_close(logits(model, images), logits(theirs, images), rtol=1e-5, atol=1e-5)
    return notes


def prefixed(prefix: str, weights: Weights | None = None) -> Weights:
    return {f"{prefix}{name}": value for name, value in (weights or weights_of()).items()}


def as_train_py(weights: Weights) -> dict[str, Any]:
    """Returns what timm's train.py saves: its arguments, an optimizer's state, a metric that is a numpy scalar."""
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return {
        "epoch": 12,
        "arch": VIT.name,
        "state_dict": OrderedDict(weights),
        "state_dict_ema": OrderedDict(weights),
        "optimizer": optimizer.state_dict(),
        "version": 2,
        "args": argparse.Namespace(model=VIT.name, lr=1e-3, data_dir=Path("/data"), opt_betas=None),
        "amp_scaler": {"scale": 65536.0, "growth_factor": 2.0},
        "metric": np.float64(81.25),
        "best": np.float32(3.5),
        "history": np.arange(3.0),
    }


def as_lightning(weights: Weights) -> dict[str, Any]:
    return {
        "epoch": 3,
        "global_step": 100,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": OrderedDict(prefixed("model.", weights) | {"criterion.weight": torch.ones(CLASSES)}),
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'val'}": {"best_model_score": torch.tensor(0.9), "dirpath": "x"}},
        "optimizer_states": [],
        "hyper_parameters": {"lr": 0.1, "when": datetime.datetime(2025, 1, 1), "more": argparse.Namespace(a=1)},
    }


@pytest.mark.parametrize("suffix", [".pth.tar", ".ckpt", ".tar", ".pt", ".bin", ".pth", ".PTH"])
def test_files_are_read_whatever_their_suffix(tmp_path: Path, suffix: str) -> None:
    assert assert_answers_as_timm(saved(tmp_path / f"model{suffix}", {"state_dict": weights_of()})) == ""


@pytest.mark.parametrize("suffix", [".pth.tar", ".pth"])
def test_timms_own_training_output_is_read(tmp_path: Path, suffix: str) -> None:
    spec = saved(tmp_path / f"model_best{suffix}", as_train_py(weights_of()))
    notes = assert_answers_as_timm(spec)
    for entry in ("epoch", "optimizer", "args", "amp_scaler", "metric"):
        assert entry in notes
    assert "'state_dict_ema' is taken, not state_dict" in notes
    assert load_checkpoint_report(spec).container == "state_dict_ema"


def test_a_lightning_checkpoint_is_read(tmp_path: Path) -> None:
    spec = saved(tmp_path / "last.ckpt", as_lightning(weights_of()))
    notes = assert_answers_as_timm(spec)
    assert "criterion" in notes
    assert "hyper_parameters" in notes
    assert load_checkpoint_report(spec).prefix == "model."


class _Callback:
    """An object of the user's own program, as Lightning keeps them."""


def test_an_object_that_is_not_allowed_is_named(tmp_path: Path) -> None:
    content = as_lightning(weights_of()) | {"callbacks": {"mine": _Callback()}}
    text = refusal(saved(tmp_path / "last.ckpt", content))
    assert "_Callback'" in text
    assert "code of a checkpoint is not run" in text


def test_what_stands_beside_weights_is_never_made(tmp_path: Path) -> None:
    """Objects of the allow-list are stood in for: a hostile numpy type is no more than skipped."""
    made: list[str] = []

    class Trap(argparse.Namespace):
        def __init__(self, *_: Any, **__: Any) -> None:
            made.append("made")

    path = tmp_path / "model.pth"
    torch.save({"args": argparse.Namespace(a=1), "state_dict": weights_of()}, path)
    real, argparse.Namespace = argparse.Namespace, Trap  # type: ignore[misc]
    try:
        assert set(open_checkpoint(path).weights) == set(weights_of())
    finally:
        argparse.Namespace = real  # type: ignore[misc]
    assert made == []


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: {"model_state_dict": w},
        lambda w: {"net": w},
        lambda w: {"weights": w},
        lambda w: {"ema": {"module": w, "updates": 3}},
        lambda w: {"module": {"model": w}},
        lambda w: {"trainer": {"state_dict": w}},
        lambda w: {"something": w, "epoch": 1},
        lambda w: {**w, "epoch": 7},
        lambda w: {"args": defaultdict(dict, a={"x": 1}), "model": w},
    ],
)
def test_weights_are_found_in_any_container(tmp_path: Path, wrap: Any) -> None:
    assert_answers_as_timm(saved(tmp_path / "model.pth", wrap(weights_of())))


@pytest.mark.parametrize(
    "prefix",
    [
        *("_orig_mod.", "model.", "net.", "backbone.", "module.", "encoder.", "student.", "vit.", "my_net.inner."),
        *("module._orig_mod.model.", "_orig_mod.module.", "model.backbone.", "module.encoder.", "model.net.module."),
    ],
)
def test_any_prefix_is_taken_off(tmp_path: Path, prefix: str) -> None:
    spec = saved(tmp_path / "model.ckpt", {"state_dict": prefixed(prefix)})
    assert assert_answers_as_timm(spec) == ""
    assert load_checkpoint_report(spec).prefix == prefix


@pytest.mark.parametrize("content", ["prefixes", "containers", "nested"])
def test_student_and_teacher_in_one_file_are_ambiguous(tmp_path: Path, content: str) -> None:
    one, other = weights_of(), {name: value + 1 for name, value in weights_of().items()}
    file = {
        "prefixes": {"state_dict": prefixed("student.", one) | prefixed("teacher.", other)},
        "containers": {"student": one, "teacher": other, "epoch": 3},
        "nested": {"model": {"student": prefixed("module.", one), "teacher": prefixed("module.", other)}},
    }[content]
    text = refusal(saved(tmp_path / "dino.pth", file))
    assert "holds several networks" in text
    assert "student" in text
    assert "teacher" in text
    assert "torch.save(" in text


def test_the_model_is_taken_before_its_companions(tmp_path: Path) -> None:
    weights = prefixed("model.") | prefixed("ema_model.", {name: value + 1 for name, value in weights_of().items()})
    notes = assert_answers_as_timm(saved(tmp_path / "last.ckpt", {"state_dict": weights}))
    assert "Left out of last.ckpt: ema_model.* (32)" in notes


HARMLESS = {
    "mask_token": torch.ones(1, 1, 48),
    "decoder_pos_embed": torch.ones(1, 5, 32),
    "decoder_blocks.0.norm1.weight": torch.ones(32),
    "dino_head.mlp.0.weight": torch.ones(8, 48),
    "total_ops": torch.ones(1),
    "blocks.0.attn.total_params": torch.ones(1),
    "n_averaged": torch.ones(()),
}


def test_tensors_that_no_answer_needs_are_left_out_and_named(tmp_path: Path) -> None:
    spec = saved(tmp_path / "mae.pth", {"model": weights_of() | HARMLESS})
    notes = assert_answers_as_timm(spec)
    assert set(load_checkpoint_report(spec).left_out) == set(HARMLESS)
    for part in ("mask_token", "decoder_blocks", "dino_head", "total_ops"):
        assert part in notes


@pytest.mark.parametrize(
    ("extra", "part"),
    [
        ({"blocks.0.ls1.gamma": torch.ones(48)}, "has LayerScale"),
        ({"blocks.0.attn.q_norm.weight": torch.ones(24)}, "has query/key normalisation"),
        ({"rope.periods": torch.ones(8)}, "has rotary position embedding"),
        ({"blocks.0.attn.relative_position_bias_table": torch.ones(9, 2)}, "has relative position bias"),
        ({"fc_norm.weight": torch.ones(48)}, "has a norm after average pooling"),
        ({"reg_token": torch.ones(1, 4, 48)}, "has register tokens"),
        ({"blocks.2.norm1.weight": torch.ones(48)}, "has 3 blocks, the model 2"),
        ({"pre_logits.fc.weight": torch.ones(48, 48)}, "has a layer before its classifier"),
        ({"adapter.weight": torch.ones(48, 48)}, "one weight differs: 'adapter.weight'"),
    ],
)
def test_a_part_that_changes_the_answers_is_never_left_out(tmp_path: Path, extra: Weights, part: str) -> None:
    text = refusal(saved(tmp_path / "model.pth", weights_of() | extra))
    assert f"does not fit '{VIT.name}': " in text
    assert part in text
    assert "--model" in text


@pytest.mark.parametrize(
    ("made", "part", "fix"),
    [
        (small(depth=3), "it has 3 blocks, the model 2", "--model-arg depth=3"),
        (small(embed_dim=64), "it is 64 wide, the model 48", "--model-arg embed_dim=64"),
        (small(mlp_ratio=4), "its MLPs are 192 wide, the model's 96", "--model-arg mlp_ratio=4"),
        (replace(VIT, in_chans=1), "it takes 1 channels, the model 3", "--in-chans 1"),
        (small(init_values=1e-5), "it has LayerScale", "--model-arg init_values"),
        (small(qkv_bias=False), "it lacks a bias of queries, keys and values", "--model-arg qkv_bias=false"),
    ],
)
def test_the_cure_that_is_named_makes_it_fit(tmp_path: Path, made: ModelSpec, part: str, fix: str) -> None:
    spec = saved(tmp_path / "model.pth", weights_of(made))
    text = refusal(spec)
    assert part in text
    assert fix in text
    load_model(replace(made, checkpoint=spec.checkpoint), CLASSES)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("vit.embeddings.patch_embeddings.projection.weight", "vit.encoder.layer.0.output.dense.weight"), "Hugging"),
        (("conv_proj.weight", "encoder.layers.encoder_layer_0.ln_1.weight"), "torchvision's names"),
        (("conv1.weight", "layer1.0.conv1.weight"), "another kind of network"),
    ],
)
def test_foreign_names_are_named(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    text = refusal(saved(tmp_path / "model.pth", {name: torch.ones(3, 3) for name in names}))
    assert said in text
    assert f"names that begin with '{'.'.join(sorted(names)[0].split('.')[:2])}'" in text


def test_a_model_of_our_own_is_recognised(tmp_path: Path) -> None:
    own = load_model(VIT, CLASSES)
    save_file(own.state_dict(), tmp_path / "model.safetensors")
    again = load_model(replace(VIT, checkpoint=tmp_path / "model.safetensors"), CLASSES, seed=1)
    assert all(torch.equal(value, own.state_dict()[name]) for name, value in again.state_dict().items())
    narrower = {
        name: value[:8] if name == "blocks.0.mlp.fc1.bias" else value for name, value in own.state_dict().items()
    }
    assert any(narrower[name].shape != value.shape for name, value in own.state_dict().items())
    save_file(narrower, tmp_path / "model.safetensors")
    text = refusal(replace(VIT, checkpoint=tmp_path / "model.safetensors"))
    assert "a model of PocketViT's own" in text
    assert "export RUN" in text


def test_another_architecture_that_has_the_same_shapes_is_named(tmp_path: Path) -> None:
    """Shapes do not tell apart activations or heads, so what the file says of itself is not overheard."""
    _, notes = load_with_notes(saved(tmp_path / "m.pth", {"arch": "vit_small_patch16_224", "model": weights_of()}))
    assert "names its architecture 'vit_small_patch16_224', and is read as 'vit_tiny_patch16_224'" in notes
    same = saved(tmp_path / "m.pth", {"arch": "vit_tiny_patch16_224.augreg", "model": weights_of()})
    assert "is read as" not in load_with_notes(same)[1]


@pytest.mark.parametrize("name", ["head", "classifier", "fc", "cls_head"])
def test_a_classifier_beside_the_backbone_is_taken_along(tmp_path: Path, name: str) -> None:
    weights = weights_of()
    head = {f"{name}.{part}": weights.pop(f"head.{part}") for part in ("weight", "bias")}
    spec = saved(tmp_path / "model.ckpt", {"state_dict": prefixed("backbone.", weights) | head})
    assert f"classifier of model.ckpt is '{name}'" in assert_answers_as_timm(spec)
    assert load_checkpoint_report(spec).classes == CLASSES


@pytest.mark.parametrize("classifier", ["missing", "zeros"])
def test_a_checkpoint_without_a_working_classifier_gets_a_fresh_one(tmp_path: Path, classifier: str) -> None:
    weights = weights_of()
    for part in ("weight", "bias"):
        value = weights.pop(f"head.{part}")
        if classifier == "zeros":
            weights[f"head.{part}"] = torch.zeros_like(value)
    spec = saved(tmp_path / "model.pth", weights)
    model, notes = load_with_notes(spec, 4)
    assert "the model gets a fresh one" in notes
    assert model.plan.num_classes == 4  # type: ignore[union-attr]
    assert bool(model.head.weight.any())  # type: ignore[union-attr, operator]
    assert load_checkpoint_report(spec).classes is None


def test_a_classifier_of_another_form_is_not_dropped(tmp_path: Path) -> None:
    weights = weights_of()
    for part in ("weight", "bias"):
        weights[f"head.1.{part}"] = weights.pop(f"head.{part}")
    spec = saved(tmp_path / "model.pth", weights)
    text = refusal(spec)
    assert "its classifier is of another form ('head.1.bias')" in text
    assert "--reset-head" in text
    load_model(replace(spec, reset_head=True), CLASSES)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_that_are_no_numbers_are_named(tmp_path: Path, value: float, suffix: str) -> None:
    weights = weights_of()
    name = "blocks.1.mlp.fc1.weight"
    weights[name] = weights[name].double()
    weights[name][3, 4] = value
    path = tmp_path / f"model{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    for call in (load_checkpoint_report, lambda spec: load_model(spec, CLASSES)):
        with pytest.raises(ModelError) as caught:
            call(replace(VIT, checkpoint=path))
        assert f"'{name}'" in str(caught.value)
        assert "1 of 4608 values" in str(caught.value)


@pytest.mark.parametrize("key", ["vit", "deit3", "deit-distilled", "avg-pool", "dinov2-reg"])
def test_resampling_is_reported(tmp_path: Path, key: str) -> None:
    spec = ARCHITECTURES[key]
    torch.save(weights_of(spec), tmp_path / "model.pth")
    given = replace(spec, checkpoint=tmp_path / "model.pth")
    assert load_checkpoint_report(given, CLASSES).resampled == ()
    assert load_with_notes(given)[1] == ""
    assert spec.img_size is not None
    assert spec.patch_size is not None
    side = spec.img_size // spec.patch_size
    bigger = replace(given, img_size=2 * spec.img_size)
    report = load_checkpoint_report(bigger)
    assert report.resampled == (f"positions {side}x{side} to {2 * side}x{2 * side}",)
    assert not report.patch_resampled
    assert (
        f"model.pth was trained at another size and is resampled ({report.resampled[0]})" in load_with_notes(bigger)[1]
    )
    finer = replace(given, patch_size=spec.patch_size // 2)
    report = load_checkpoint_report(finer)
    half = spec.patch_size // 2
    assert report.resampled[0] == f"patches {2 * half}x{2 * half} to {half}x{half} pixels"
    assert report.patch_resampled
    both = replace(given, patch_size=spec.patch_size // 2, img_size=spec.img_size // 2)
    assert load_checkpoint_report(both).resampled == (report.resampled[0],)
