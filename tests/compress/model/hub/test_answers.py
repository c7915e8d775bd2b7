from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file

from compress.model.checkpoint_fit import LoadReport
from compress.model.load import ModelSpec, check_model, load_checkpoint_report, load_model, weights_metadata
from runtime import ModelError, PlanError
from tests.compress.model.hub.made import BACKBONES, LABELS, MODELS, answers, edit, make, saved
from tests.compress.tiny import images_for

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*(no preprocessor_config|those of ImageNet|Left out of|classifier of|trained at|scales floats)"
)


def spec_of(folder: Path, **options: object) -> ModelSpec:
    return ModelSpec(str(folder), **options)  # type: ignore[arg-type]


def assert_same_answers(folder: Path, model: object, classes: int) -> None:
    own = load_model(spec_of(folder), classes)
    images = images_for(own.plan, 3)
    with torch.no_grad():
        got = own(images)
    expected = answers(model, images)
    assert expected.shape == got.shape
    assert float(expected.std()) > 0.01, "answers must differ for the comparison to mean something"
    assert float((got - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("kind", MODELS)
def test_a_folder_answers_as_transformers_does(tmp_path: Path, kind: str) -> None:
    model = saved(tmp_path, kind)
    assert_same_answers(tmp_path, model, 24 if kind in ("clip-projection", "clip-whole") else len(LABELS))


@pytest.mark.parametrize("kind", BACKBONES)
def test_a_backbone_alone_gets_a_fresh_head_on_the_same_features(tmp_path: Path, kind: str) -> None:
    model = saved(tmp_path, kind, BACKBONES)
    assert load_checkpoint_report(spec_of(tmp_path)).classes is None
    own = load_model(spec_of(tmp_path), 7)
    images = images_for(own.plan, 2)
    with torch.no_grad():
        expected = (model.vit if kind == "vit_mae" else model)(pixel_values=images)
        wanted = (
            expected.pooler_output
            if kind in ("clip_vision_model", "siglip_vision_model")
            else expected.last_hidden_state[:, 0]
        )
        got = own.features(images)[1]
    assert float((got - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())
    assert own.plan.num_classes == 7


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model."])
def test_wrappers_of_training_are_taken_off(tmp_path: Path, prefix: str) -> None:
    model = saved(tmp_path, "dinov2")
    weights = load_file(tmp_path / "model.safetensors")
    save_file({f"{prefix}{name}": value for name, value in weights.items()}, tmp_path / "model.safetensors")
    assert_same_answers(tmp_path, model, len(LABELS))


def test_shards_and_pickled_weights_are_read(tmp_path: Path) -> None:
    model = saved(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    assert_same_answers(tmp_path / "shards", model, len(LABELS))
    pickled = tmp_path / "pickled"
    saved(pickled)
    weights = load_file(pickled / "model.safetensors")
    (pickled / "model.safetensors").unlink()
    torch.save(weights, pickled / "pytorch_model.bin")
    assert_same_answers(pickled, model, len(LABELS))


def test_half_precision_weights_are_read_as_float(tmp_path: Path) -> None:
    model = make("vit").to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    assert_same_answers(tmp_path, model.float(), len(LABELS))


def test_dinov2_takes_the_size_of_its_image_processor_and_resamples_as_transformers_does(tmp_path: Path) -> None:
    model = saved(tmp_path, "dinov2")
    crop = {"height": 48, "width": 48}
    transformers.BitImageProcessor(size={"shortest_edge": 56}, crop_size=crop).save_pretrained(tmp_path)
    assert check_model(spec_of(tmp_path)).img_size == (48, 48)
    assert_same_answers(tmp_path, model, len(LABELS))
    assert load_checkpoint_report(spec_of(tmp_path)).resampled == ()
    assert load_checkpoint_report(spec_of(tmp_path, img_size=64)).resampled == ("positions to 4x4",)


def test_another_size_resamples_the_positions_as_transformers_does(tmp_path: Path) -> None:
    model = saved(tmp_path, "deit-distilled")
    own = load_model(spec_of(tmp_path, img_size=64), len(LABELS))
    images = images_for(own.plan)
    with torch.no_grad():
        got, wanted = own(images), model(pixel_values=images, interpolate_pos_encoding=True).logits
    assert float((got - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())


def timm_folder(folder: Path, prefix: str = "", **config: object) -> torch.nn.Module:
    arguments = {"embed_dim": 32, "depth": 2, "num_heads": 4}
    torch.manual_seed(0)
    model: torch.nn.Module = timm.create_model(
        "vit_tiny_patch16_224", num_classes=len(LABELS), img_size=32, **arguments
    ).eval()
    folder.mkdir(exist_ok=True)
    save_file({f"{prefix}{name}": value for name, value in model.state_dict().items()}, folder / "model.safetensors")
    own = {"input_size": [3, 32, 32], "fixed_input_size": True, "mean": [0.5] * 3, "std": [0.25] * 3, "crop_pct": 0.8}
    own |= {"interpolation": "bilinear", "crop_mode": "squash", "license": "mit"}
    content = {"architecture": "vit_tiny_patch16_224", "model_args": arguments, "num_classes": len(LABELS)}
    content |= {"label_names": list(LABELS), "pretrained_cfg": own, **config}
    (folder / "config.json").write_text(
        json.dumps({name: value for name, value in content.items() if value is not None})
    )
    return model


@pytest.mark.parametrize(("prefix", "config"), [("", {}), ("timm_model.", {"model_type": "timm_wrapper"})])
def test_an_architecture_of_timm_comes_with_its_preprocessing(
    tmp_path: Path, prefix: str, config: dict[str, object]
) -> None:
    model = timm_folder(tmp_path, prefix, **config)
    own = load_model(spec_of(tmp_path), len(LABELS))
    images = images_for(own.plan)
    with torch.no_grad():
        assert torch.allclose(own(images), model(images), atol=1e-5)
    brought = weights_metadata(spec_of(tmp_path))
    assert (brought.mean, brought.std, brought.crop_pct) == ((0.5,) * 3, (0.25,) * 3, 0.8)
    assert (brought.interpolation, brought.resize, brought.class_names) == ("bilinear", "squash", LABELS)


def test_a_thousand_outputs_without_names_are_those_of_imagenet(tmp_path: Path) -> None:
    timm_folder(tmp_path, label_names=None)
    weights = load_file(tmp_path / "model.safetensors")
    weights |= {"head.weight": torch.randn(1000, 32), "head.bias": torch.randn(1000)}
    save_file(weights, tmp_path / "model.safetensors")
    edit(tmp_path / "config.json", num_classes=1000)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    assert weights_metadata(spec_of(tmp_path)).class_names == tuple(config.id2label[i] for i in range(1000))
    assert any("those of ImageNet" in note for note in load_checkpoint_report(spec_of(tmp_path)).notes)


def test_labels_are_the_class_names_and_placeholders_are_not(tmp_path: Path) -> None:
    saved(tmp_path)
    assert weights_metadata(spec_of(tmp_path)).class_names == LABELS
    edit(tmp_path / "config.json", id2label={str(i): f"LABEL_{i}" for i in range(5)})
    assert weights_metadata(spec_of(tmp_path)).class_names is None


@pytest.mark.parametrize(
    ("model_type", "part"),
    [
        ("siglip2", "patches of free sizes"),
        ("vit_hybrid", "convolutional"),
        ("swin", "window attention"),
    ],
)
def test_other_families_are_refused_by_the_missing_part(tmp_path: Path, model_type: str, part: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(ModelError, match=part):
        check_model(spec_of(tmp_path))


def test_outputs_that_are_no_classes_are_refused_unless_the_head_is_trained_anew(tmp_path: Path) -> None:
    saved(tmp_path)
    edit(tmp_path / "config.json", problem_type="multi_label_classification")
    with pytest.raises(ModelError, match=r"independent labels.*--reset-head"):
        check_model(spec_of(tmp_path))
    assert load_model(spec_of(tmp_path, reset_head=True), 9).plan.num_classes == 9


def test_sizes_and_channels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    for options in ({"in_chans": 1}, {"img_size": 40}, {"img_size": 0}, {"patch_size": 0}, {"patch_size": 64}):
        with pytest.raises((ModelError, PlanError)):
            check_model(spec_of(tmp_path, **options))


def test_weights_and_architecture_come_together(tmp_path: Path) -> None:
    saved(tmp_path / "model")
    for options in ({"checkpoint": tmp_path / "other.safetensors"}, {"overrides": {"depth": 1}}):
        with pytest.raises(PlanError, match="brings its weights and its architecture"):
            check_model(spec_of(tmp_path / "model", **options))


def test_a_name_that_is_no_folder_is_refused_with_the_way_to_name_a_repository(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"hf:google/vit-base-patch16-224"):
        check_model(ModelSpec("google/vit-base-patch16-224"))
    shutil.rmtree(tmp_path)
    with pytest.raises(ModelError, match="There is no model folder"):
        check_model(spec_of(tmp_path))


def test_dinov2_answers_like_the_same_weights_in_timm(tmp_path: Path) -> None:
    model = saved(tmp_path, "dinov2", BACKBONES)
    fitting = load_model(spec_of(tmp_path), 3)
    weights = {name: value for name, value in fitting.state_dict().items() if not name.startswith("head.")}
    save_file(weights, tmp_path / "ours.safetensors")
    shape = {"embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 2.0}
    spec = ModelSpec("vit_small_patch14_dinov2", 32, 16, checkpoint=tmp_path / "ours.safetensors", overrides=shape)
    twin = load_model(spec, 3)
    images = images_for(twin.plan)
    with torch.no_grad():
        features = twin.features(images)[1]
        expected = model(pixel_values=images).last_hidden_state[:, 0]
    assert twin.plan == fitting.plan
    assert float((features - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_the_report_names_what_was_left_out(tmp_path: Path) -> None:
    saved(tmp_path, "vit", BACKBONES)
    report = load_checkpoint_report(spec_of(tmp_path))
    assert isinstance(report, LoadReport)
    assert any("pooler" in note for note in report.notes)
    assert any("no preprocessor_config.json" in note for note in report.notes)
