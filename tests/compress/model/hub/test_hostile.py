from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from compress.model.load import ModelSpec, load_model, resolved
from runtime import PocketVitError
from tests.compress.model.hub.made import BACKBONES, edit, saved
from tests.compress.model.hub.test_answers import timm_folder

CODE = "import pathlib; pathlib.Path('executed').write_text('x')\n"


def refusal(folder: Path) -> str:
    with pytest.raises(PocketVitError) as caught:
        load_model(ModelSpec(str(folder)), 5)
    return str(caught.value)


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"hidden_size": 10**9}, "'hidden_size'"),
        ({"hidden_size": -32}, "'hidden_size'"),
        ({"hidden_size": "32"}, "'hidden_size'"),
        ({"hidden_size": True}, "'hidden_size'"),
        ({"hidden_size": 4096}, "wide"),
        ({"num_hidden_layers": 10**9}, "'num_hidden_layers'"),
        ({"num_hidden_layers": 200}, "blocks"),
        ({"num_hidden_layers": 0}, "'num_hidden_layers'"),
        ({"num_attention_heads": 5}, "'num_attention_heads'"),
        ({"num_attention_heads": 16}, "multiple of 8"),
        ({"intermediate_size": 10**12}, "'intermediate_size'"),
        ({"intermediate_size": [72]}, "'intermediate_size'"),
        ({"image_size": 10**7}, "'image_size'"),
        ({"image_size": 16384}, "positions"),
        ({"image_size": [32, 32, 32]}, "'image_size'"),
        ({"image_size": 40}, "divide"),
        ({"patch_size": 0}, "'patch_size'"),
        ({"patch_size": -16}, "'patch_size'"),
        ({"num_channels": 500}, "'num_channels'"),
        ({"layer_norm_eps": -1}, "'layer_norm_eps'"),
        ({"layer_norm_eps": "inf"}, "'layer_norm_eps'"),
        ({"layer_norm_eps": 10**400}, "'layer_norm_eps'"),
        ({"layer_norm_eps": float("nan")}, "'layer_norm_eps'"),
        ({"hidden_act": "__import__('os')"}, "activation"),
        ({"hidden_act": 3}, "'hidden_act'"),
        ({"qkv_bias": "no"}, "'qkv_bias'"),
        ({"qkv_bias": False}, "bias"),
        ({"model_type": ["vit"]}, "'model_type'"),
        ({"model_type": "mamba"}, "'mamba'"),
        ({"model_type": "dinov2"}, "do not belong together"),
        ({"auto_map": {"AutoModel": "code.Model"}}, "auto_map"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"id2label": {"0": "a", "7": "b"}}, "'id2label'"),
        ({"id2label": {"0": "a", "1": "b"}}, "another number of classes"),
        ({"id2label": ["a"]}, "'id2label'"),
        ({"id2label": {str(i): {} for i in range(5)}}, "'id2label'"),
        ({"problem_type": 3}, "'problem_type'"),
    ],
)
def test_a_hostile_config_is_refused(tmp_path: Path, fields: dict[str, Any], part: str) -> None:
    saved(tmp_path)
    edit(tmp_path / "config.json", **fields)
    assert part in refusal(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"model_type": "vit"', "[" * 100_000])
def test_a_damaged_config_is_refused(tmp_path: Path, text: str) -> None:
    saved(tmp_path)
    (tmp_path / "config.json").write_text(text)
    assert "config.json" in refusal(tmp_path)


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/etc/passwd", "a/b.safetensors", "model.py", "", "..", "x\x00"]
)
def test_shards_lie_in_the_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    saved(folder)
    weights = folder / "model.safetensors"
    weights.rename(tmp_path / "outside.safetensors")
    index = {"weight_map": {"classifier.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "no part of the model" in refusal(folder)


def test_an_index_that_lists_a_missing_shard_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    assert "lacks 'model-1.safetensors'" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["code.py", "modeling_vit.py", "configuration_vit.py", "__init__.py"])
def test_code_in_a_folder_is_not_run(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path)
    (tmp_path / name).write_text(CODE)
    edit(tmp_path / "config.json", trust_remote_code=True)
    with pytest.warns(match="no preprocessor_config"):
        load_model(ModelSpec(str(tmp_path)), 5)
    edit(tmp_path / "config.json", auto_map={"AutoModel": f"{name[:-3]}.Model"})
    refusal(tmp_path)
    assert not (tmp_path / "executed").exists()


class Bomb:
    def __reduce__(self) -> Any:
        return exec, (CODE,)


def test_pickles_are_read_as_plain_weights_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path)
    weights: dict[str, Any] = dict(load_file(tmp_path / "model.safetensors"))
    (tmp_path / "model.safetensors").unlink()
    torch.save({**weights, "extra": Bomb()}, tmp_path / "pytorch_model.bin")
    assert "cannot be read as plain weights" in refusal(tmp_path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("keep", [0, 7, 100, 5000])
def test_truncated_weights_are_refused(tmp_path: Path, keep: int) -> None:
    saved(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "cannot be read" in refusal(tmp_path)


@pytest.mark.parametrize(
    "missing",
    [
        "vit.encoder.layer.1.attention.attention.key.weight",
        "vit.encoder.layer.0.layernorm_before.bias",
        "vit.embeddings.cls_token",
        "vit.embeddings.position_embeddings",
        "vit.layernorm.weight",
        "vit.embeddings.patch_embeddings.projection.weight",
        "classifier.bias",
    ],
)
def test_missing_weights_are_refused(tmp_path: Path, missing: str) -> None:
    saved(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights[missing]
    save_file(weights, tmp_path / "model.safetensors")
    assert refusal(tmp_path)


@pytest.mark.parametrize(
    "extra", ["vit.encoder.layer.0.attention.gate.weight", "vit.embeddings.rope.weight", "x.weight"]
)
def test_weights_that_nothing_knows_are_refused_by_name(tmp_path: Path, extra: str) -> None:
    saved(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({**weights, extra: torch.zeros(4)}, tmp_path / "model.safetensors")
    assert extra in refusal(tmp_path)


def test_weights_of_another_shape_or_no_numbers_are_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for name, value, part in (
        ("classifier.weight", torch.ones(5, 16), "head"),
        ("classifier.weight", torch.full((5, 32), torch.nan), "NaN"),
        ("vit.embeddings.cls_token", torch.zeros(3), "cls_token"),
        ("vit.embeddings.position_embeddings", torch.zeros(2, 2, 2, 2), "positions"),
    ):
        save_file({**weights, name: value}, tmp_path / "model.safetensors")
        assert part in refusal(tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        {"checkpoint_path": "/etc/passwd"},
        {"pretrained": True},
        {"pretrained_cfg": {"file": "x"}},
        {"depth": 10**9},
        {"embed_dim": 10**9},
        {"block_fn": {"a": 1}},
        {"nonsense": 3},
    ],
)
def test_arguments_of_timm_that_are_none_of_the_architecture_are_refused(tmp_path: Path, arguments: Any) -> None:
    timm_folder(tmp_path, model_args=arguments)
    assert refusal(tmp_path)


@pytest.mark.parametrize("name", ["hf-hub:timm/vit", "local-dir:/tmp", "resnet18", "../vit", "", 5])
def test_an_architecture_is_one_of_timms_vision_transformers(tmp_path: Path, name: Any) -> None:
    timm_folder(tmp_path, architecture=name, model_args={}, pretrained_cfg={})
    assert refusal(tmp_path)


def test_an_activation_that_eva_has_not_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, "dinov3_vit", BACKBONES)
    edit(tmp_path / "config.json", hidden_act="relu")
    assert "the activation 'relu'" in refusal(tmp_path)
    edit(tmp_path / "config.json", hidden_act="gelu", rope_theta="hot")
    assert "rope_theta" in refusal(tmp_path)


def test_what_a_folder_brings_is_read_once(tmp_path: Path) -> None:
    saved(tmp_path)
    spec = resolved(ModelSpec(str(tmp_path)))
    (tmp_path / "config.json").unlink()
    assert resolved(spec) is spec
