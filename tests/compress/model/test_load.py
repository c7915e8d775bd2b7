from __future__ import annotations

import pickle
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from compress.model import load as models
from compress.model.checkpoint_file import open_checkpoint, with_classifier
from compress.model.checkpoint_fit import head_classes
from compress.model.load import ModelSpec, check_model, load_model
from compress.model.timm_vit import from_timm
from runtime import ModelError, PlanError, PocketVitWarning, params
from tests.compress.tiny import ARCHITECTURES, images_for, timm_model

VIT = ARCHITECTURES["vit"]
CLASSES = 5


def logits(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model(images)
    return out


def weights_of(spec: ModelSpec = VIT, num_classes: int = CLASSES) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in timm_model(spec, num_classes).state_dict().items()}


def refusal(spec: ModelSpec, num_classes: int = CLASSES) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(spec, num_classes)
    return str(caught.value)


@pytest.mark.parametrize("key", ["vit", "deit-distilled", "dinov2-reg", "wee-gap"])
def test_fresh_weights_follow_from_the_seed_alone(key: str) -> None:
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    first = load_model(ARCHITECTURES[key], CLASSES, seed=7)
    assert torch.equal(torch.rand(3), expected)
    second = load_model(ARCHITECTURES[key], CLASSES, seed=7)
    other = load_model(ARCHITECTURES[key], CLASSES, seed=8)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert not torch.equal(first.patch_embed.weight, other.patch_embed.weight)
    assert first.plan == check_model(ARCHITECTURES[key], CLASSES)
    assert params(first.plan) == sum(p.numel() for p in first.parameters())


def test_an_unknown_name_is_answered_with_near_ones() -> None:
    text = refusal(ModelSpec("vit_smal_patch16_224"))
    assert "timm knows no model 'vit_smal_patch16_224'" in text
    assert "Did you mean vit_small_patch16_224," in text
    assert "Names look like vit_small_patch16_224" in refusal(ModelSpec("qqqqq"))


def test_a_wrong_image_size_is_refused() -> None:
    for spec in (ModelSpec("vit_tiny_patch16_224", 40, 16), ModelSpec("vit_tiny_patch16_224", 40)):
        with pytest.raises(PlanError) as caught:
            check_model(spec)
        assert "divide" in str(caught.value)
        assert "--img-size" in str(caught.value)
        assert "Got 40." in str(caught.value)


@pytest.mark.parametrize(
    "spec",
    [
        ModelSpec("resnet18", img_size=32),
        ModelSpec("vit_tiny_patch16_224", overrides={"nonsense": 1}),
        ModelSpec("vit_tiny_patch16_224", overrides={"global_pool": "avg", "class_token": "x", "pos_embed": "x"}),
        ModelSpec("vit_tiny_patch16_224", overrides={"num_heads": 5}),
        ModelSpec("vit_tiny_patch16_224", overrides={"num_heads": 0}),
        ModelSpec("vit_tiny_patch16_224", overrides={"act_layer": "nonsense"}),
        ModelSpec("vit_tiny_patch16_224", overrides={"embed_dim": -192}),
        ModelSpec("vit_tiny_patch16_224", patch_size=0),
        ModelSpec("vit_tiny_patch16_224", img_size=0, patch_size=0),
        ModelSpec("vit_tiny_patch16_224", img_size=-32),
        ModelSpec("vit_tiny_patch16_224", img_size=8),
    ],
    ids=lambda spec: f"{spec.name}-{spec.img_size}-{spec.patch_size}-{dict(spec.overrides)}",
)
def test_options_that_do_not_fit_are_refused(spec: ModelSpec) -> None:
    with pytest.raises((ModelError, PlanError), match=r"\w+"):
        check_model(spec)


@pytest.mark.parametrize("in_chans", [1, 3])
def test_channels_are_those_asked_for(in_chans: int) -> None:
    model = load_model(replace(VIT, in_chans=in_chans), CLASSES)
    assert model.plan.in_chans == in_chans
    assert logits(model, images_for(model.plan)).shape == (2, CLASSES)


def write(path: Path, weights: Any) -> Path:
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin"])
@pytest.mark.parametrize("key", ["vit", "deit-distilled", "clip"])
def test_a_checkpoint_gives_timms_outputs(tmp_path: Path, key: str, suffix: str) -> None:
    spec, theirs = ARCHITECTURES[key], timm_model(ARCHITECTURES[key])
    path = write(tmp_path / f"model{suffix}", weights_of(spec))
    ours = load_model(replace(spec, checkpoint=path, pretrained=True), CLASSES)
    images = images_for(ours.plan)
    torch.testing.assert_close(logits(ours, images), logits(theirs, images), rtol=1e-5, atol=1e-5)
    assert head_classes(with_classifier(open_checkpoint(path)).weights) == CLASSES


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: {"model": w, "epoch": 3},
        lambda w: {"state_dict": w},
        lambda w: {"state_dict": w, "state_dict_ema": w},
        lambda w: {"model_ema": w},
        lambda w: {f"module.{name}": value for name, value in w.items()},
        lambda w: {"state_dict": {f"module.{name}": value for name, value in w.items()}},
        lambda w: {name: value.half() for name, value in w.items()},
    ],
    ids=["model", "state_dict", "ema", "model_ema", "module", "state_dict-module", "half"],
)
def test_wrapped_checkpoints_are_read(tmp_path: Path, wrap: Any) -> None:
    weights = {name: value.half().float() for name, value in weights_of().items()}
    path = write(tmp_path / "model.pth", wrap(weights))
    read = dict(open_checkpoint(path).weights)
    assert read.keys() == weights.keys()
    assert all(torch.equal(value.float(), weights[name]) for name, value in read.items())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PocketVitWarning)
        model = load_model(replace(VIT, checkpoint=path), CLASSES)
    assert torch.equal(model.head.weight, weights["head.weight"])


class _Payload:
    """Unpickled, it writes a file."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.sentinel,))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_never_runs(tmp_path: Path, suffix: str, zipped: bool) -> None:
    sentinel, path = tmp_path / "ran", tmp_path / f"model{suffix}"
    torch.save({"model": _Payload(sentinel)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError) as caught:
        open_checkpoint(path)
    assert not sentinel.exists()
    assert "cannot be read as plain weights" in str(caught.value)
    assert "save model.state_dict() alone, best as .safetensors." in str(caught.value)
    with path.open("rb") as handle:  # the file is truly armed
        if not zipped:
            torch.load(handle, weights_only=False)
            assert sentinel.exists()


def test_a_bare_pickle_never_runs(tmp_path: Path) -> None:
    sentinel, path = tmp_path / "ran", tmp_path / "model.pth"
    path.write_bytes(pickle.dumps(_Payload(sentinel)))
    with pytest.raises(ModelError, match="cannot be read as plain weights"):
        open_checkpoint(path)
    assert not sentinel.exists()
    pickle.loads(path.read_bytes())
    assert sentinel.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    path = write(tmp_path / f"model{suffix}", weights_of())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert f"The checkpoint {path} cannot be read" in refusal(replace(VIT, checkpoint=path))


@pytest.mark.parametrize(
    "content", [{}, [1, 2], {"epoch": 1}, {"a": torch.zeros(1), "b": "text"}, {"model": torch.zeros(1), "x": 1}]
)
def test_something_else_than_weights_is_refused(tmp_path: Path, content: Any) -> None:
    path = write(tmp_path / "model.pth", content)
    assert "holds something else than weights" in refusal(replace(VIT, checkpoint=path))


def test_a_missing_file_and_a_wrong_suffix_are_refused(tmp_path: Path) -> None:
    missing = tmp_path / "none.pth"
    assert refusal(replace(VIT, checkpoint=missing)) == f"The checkpoint {missing} does not exist."
    assert "does not exist" in refusal(replace(VIT, checkpoint=tmp_path))
    other = tmp_path / "model.onnx"
    other.write_bytes(b"x")
    assert "is of another kind. Expected .safetensors .pth .pth.tar .pt .tar .ckpt .bin." in refusal(
        replace(VIT, checkpoint=other)
    )


def small(**overrides: Any) -> ModelSpec:
    return replace(VIT, overrides={**VIT.overrides, **overrides})


@pytest.mark.parametrize(
    "other",
    [
        small(depth=3),
        small(depth=1),
        small(embed_dim=64),
        small(mlp_ratio=4),
        small(pos_embed="none"),
        small(global_pool="avg", class_token=False),
        replace(VIT, in_chans=1),
        ARCHITECTURES["deit-distilled"],
        ARCHITECTURES["deit3"],
        ARCHITECTURES["dinov2-reg"],
        ARCHITECTURES["avg-pool"],
        ARCHITECTURES["clip"],
    ],
    ids=lambda spec: f"{spec.name}-{spec.in_chans}-{dict(spec.overrides)}",
)
def test_a_checkpoint_of_another_architecture_is_refused_both_ways(tmp_path: Path, other: ModelSpec) -> None:
    for made, asked in ((other, VIT), (VIT, other)):
        path = write(tmp_path / "model.safetensors", weights_of(made))
        text = refusal(replace(asked, checkpoint=path))
        assert f"does not fit '{asked.name}'" in text
        assert "--model" in text or "--in-chans" in text or "--patch-size" in text


def test_foreign_weights_are_refused(tmp_path: Path) -> None:
    for weights in (
        {"conv1.weight": torch.zeros(2, 2)},
        {"patch_embed.proj.weight": torch.zeros(3, 5), "pos_embed": torch.zeros(4)},
    ):
        path = write(tmp_path / "model.pth", weights)
        assert f"does not fit '{VIT.name}'" in refusal(replace(VIT, checkpoint=path))


def test_the_number_of_classes_must_fit_unless_the_head_is_reset(tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", weights_of())
    text = refusal(replace(VIT, checkpoint=path), 7)
    assert "another number of classes than the data. Expected 7. Got 5." in text
    assert "--reset-head" in text
    spec = replace(VIT, checkpoint=path, reset_head=True)
    model = load_model(spec, 7, seed=3)
    assert model.plan.num_classes == 7
    assert torch.equal(model.patch_embed.weight, weights_of()["patch_embed.proj.weight"])
    fresh = load_model(VIT, 7, seed=3)
    assert torch.equal(model.head.weight, fresh.head.weight)
    same = load_model(replace(spec), CLASSES, seed=3)
    assert not torch.equal(same.head.weight, weights_of()["head.weight"])


def test_a_checkpoint_without_a_head_gets_a_fresh_one(tmp_path: Path) -> None:
    weights = {name: value for name, value in weights_of().items() if not name.startswith("head")}
    path = write(tmp_path / "model.safetensors", weights)
    with pytest.warns(PocketVitWarning, match="gets a fresh one"):
        model = load_model(replace(VIT, checkpoint=path), 4, seed=1)
    assert torch.equal(model.head.weight, load_model(VIT, 4, seed=1).head.weight)
    assert torch.equal(model.norm.weight, weights["norm.weight"])
    assert head_classes(with_classifier(open_checkpoint(path)).weights) is None


@pytest.mark.parametrize("key", ["vit", "deit3", "deit-distilled", "avg-pool"])
def test_positions_of_another_image_size_are_resampled(tmp_path: Path, key: str) -> None:
    spec = ARCHITECTURES[key]
    weights = weights_of(spec)
    path = write(tmp_path / "model.safetensors", weights)
    bigger = replace(spec, img_size=2 * (spec.img_size or 0), checkpoint=path)
    with pytest.warns(PocketVitWarning, match="resampled"):
        model = load_model(bigger, CLASSES)
    plan = model.plan
    assert plan.num_patches == 4 * check_model(spec).num_patches
    assert model.pos_embed is not None
    before = check_model(spec)
    prefix = plan.num_prefix_tokens if plan.pos_embed == "all" else 0
    assert torch.equal(model.pos_embed[:, :prefix], weights["pos_embed"][:, :prefix])
    old, new = weights["pos_embed"][:, prefix:], model.pos_embed.detach()[:, prefix:]
    assert new.shape[1] == plan.num_patches
    side = before.img_size[0] // before.patch_size[0]
    grid = old.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(grid, size=(2 * side, 2 * side), mode="bicubic", antialias=True)
    torch.testing.assert_close(new, resized.permute(0, 2, 3, 1).reshape(new.shape), rtol=1e-5, atol=1e-5)
    for name in ("blocks.0.mlp.fc1.weight", "head.weight"):
        assert torch.equal(model.state_dict()[name], weights[name])


@pytest.mark.parametrize(
    "error",
    [
        OSError("We couldn't connect to the hub\nsecond line"),
        RuntimeError("No pretrained weights exist for this model"),
        ConnectionError("refused"),
        type("ConnectError", (Exception,), {})("httpx has its own tree"),
        type("LocalEntryNotFoundError", (FileNotFoundError, ValueError), {})("not cached, and no connection"),
    ],
)
def test_offline_pretrained_weights_say_the_way_out(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    real = models.timm.create_model

    def offline(name: str, pretrained: bool = False, **options: Any) -> Any:
        if pretrained:
            raise error
        return real(name, pretrained=False, **options)

    monkeypatch.setattr(models.timm, "create_model", offline)
    text = refusal(replace(VIT, pretrained=True))
    assert f"The published weights of '{VIT.name}' cannot be had" in text
    assert type(error).__name__ in text
    assert "second line" not in text
    assert "--checkpoint" in text
    assert "--no-pretrained" in text
    load_model(VIT, CLASSES)


def test_pretrained_weights_come_with_a_new_head_where_classes_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = models.timm.create_model

    def online(name: str, pretrained: bool = False, **options: Any) -> Any:
        asked.append((name, pretrained, options["num_classes"]))
        return real(name, pretrained=False, **options)

    monkeypatch.setattr(models.timm, "create_model", online)
    load_model(replace(VIT, pretrained=True), 9)
    assert asked[-1] == (VIT.name, True, 9)
    assert asked[0] == (VIT.name, False, 9)


def test_a_loaded_model_is_from_timm_of_the_same_model() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        theirs = models.timm.create_model(
            VIT.name, img_size=32, patch_size=16, in_chans=3, num_classes=CLASSES, **VIT.overrides
        )
    for name, value in from_timm(theirs).state_dict().items():
        assert torch.equal(value, load_model(VIT, CLASSES, seed=4).state_dict()[name]), name
