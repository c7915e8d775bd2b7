from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from runtime import PLAN_DOCUMENT, ArtifactError, BlockPlan, PlanError, ShapePlan, StorageError

from .examples import edited, tiny_plan
from .strategies import shape_plans
from .tiny import GOLDEN


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({"num_heads": 0}, ["num_heads must be at least 1", "Got 0."]),
        ({"qk_dim": 12}, ["qk_dim must be a positive multiple of 8", "Got 12."]),
        ({"v_dim": 0}, ["v_dim must be a positive multiple of 8", "Got 0."]),
        ({"mlp_dim": -8}, ["mlp_dim must be a positive multiple of 8", "Got -8."]),
    ],
)
def test_a_block_refuses(changes: dict[str, Any], texts: list[str]) -> None:
    with pytest.raises(PlanError) as caught:
        BlockPlan(**({"num_heads": 2, "qk_dim": 8, "v_dim": 8, "mlp_dim": 32} | changes))
    assert all(text in str(caught.value) for text in texts), str(caught.value)


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({"embed_dim": 20}, ["embed_dim must be a positive multiple of 8", "Got 20."]),
        ({"blocks": ()}, ["at least one block", "Got none."]),
        ({"in_chans": 0}, ["in_chans must be at least 1", "Got 0."]),
        ({"num_classes": -1}, ["num_classes must be at least 1", "Got -1."]),
        ({"reg_tokens": -2}, ["reg_tokens must not be negative", "Got -2."]),
        ({"img_size": (9, 8)}, ["image height", "Expected a positive multiple of 4.", "Got 9.", "--img-size"]),
        ({"img_size": (8, 10)}, ["image width", "Expected a positive multiple of 4.", "Got 10."]),
        ({"img_size": (0, 8)}, ["image height", "Got 0."]),
        ({"img_size": (8,)}, ["a height and a width", "Got (8,) and (4, 4)."]),
        ({"patch_size": (4, 0)}, ["image width", "--patch-size"]),
        ({"patch_size": (4, 4, 4)}, ["a height and a width"]),
        ({"attn_scale": 0.0}, ["attn_scale must be positive", "Got 0.0."]),
        ({"attn_scale": math.nan}, ["attn_scale must be positive", "Got nan."]),
        ({"attn_scale": math.inf}, ["attn_scale must be positive", "Got inf."]),
        ({"norm_eps": -1e-6}, ["norm_eps must be positive", "Got -1e-06."]),
        ({"norm_eps": math.nan}, ["norm_eps must be positive", "Got nan."]),
        ({"norm_eps": (1e-6,) * 4}, ["norm_eps needs a value for each norm", "Expected 5.", "Got 4."]),
        ({"norm_eps": ()}, ["norm_eps needs a value for each norm", "Expected 5.", "Got 0."]),
        ({"norm_eps": (1e-6, 1e-6, 0.0, 1e-6, 1e-6)}, ["norm_eps must be positive"]),
        ({"norm_eps": (1e-6, 1e-6, math.inf, 1e-6, 1e-6)}, ["norm_eps must be positive"]),
        ({"norm_type": "batch"}, ["Unknown norm_type", "Expected layer, rms.", "Got batch."]),
        ({"norm_dim": 24}, ["norm_dim is the width of a stream that was cut", "RMSNorms", "Got 24."]),
        ({"norm_type": "rms", "norm_dim": 8}, ["norm_dim is the width of a stream that was cut", "Got 8."]),
        ({"norm_type": "rms", "norm_dim": -8}, ["norm_dim is the width of a stream that was cut", "Got -8."]),
        ({"pre_dim": 16}, ["pre_dim belongs to an RMSNorm after the embedding", "Got 16."]),
        ({"norm_pre": True, "pre_dim": 16}, ["pre_dim belongs to an RMSNorm after the embedding", "Got 16."]),
        ({"norm_type": "rms", "pre_dim": 16}, ["pre_dim belongs to an RMSNorm after the embedding", "Got 16."]),
        ({"norm_type": "rms", "norm_pre": True}, ["pre_dim belongs to an RMSNorm after the embedding", "Got 0."]),
        ({"norm_type": "rms", "norm_pre": True, "pre_dim": -8}, ["pre_dim belongs to an RMSNorm", "Got -8."]),
        ({"pos_embed": "rope"}, ["Unknown pos_embed", "Expected none, patches, all.", "Got rope."]),
        ({"pooling": "max"}, ["Unknown pooling", "Expected token, avg, avg_all, token_and_avg, map.", "Got max."]),
        ({"pooling": "map"}, ["Pooling by attention needs its widths", "pooling map with attn_pool", "Got none."]),
        ({"block_kind": "sandwich"}, ["Unknown block_kind", "Expected pre, post, parallel.", "Got sandwich."]),
        ({"block_kind": "post", "layer_scale": True}, ["norms behind their branches", "no LayerScale"]),
        ({"norm": "rms"}, ["Unknown norm", "Expected before_pool, after_pool, none.", "Got rms."]),
        ({"act": "tanh"}, ["Unknown act", "Expected gelu, gelu_tanh, quick_gelu, relu, silu.", "Got tanh."]),
        ({"class_token": False}, ["Pooling the class token needs one", "Set class_token or pool by average."]),
        ({"dist_token": True, "pooling": "avg"}, ["distillation token needs a class token"]),
        ({"dist_token": True, "pooling": "token_and_avg"}, ["distillation token needs a class token"]),
        ({"class_token": False, "pooling": "token_and_avg"}, ["class token needs one"]),
        ({"norm": "none", "pooling": "token_and_avg"}, ["needs the last norm before it"]),
        ({"rope": "axial"}, ["Unknown rope", "Expected none, shared, per_head.", "Got axial."]),
        ({"qk_norm": "batch"}, ["Unknown qk_norm", "Expected none, layer, rms.", "Got batch."]),
        ({"qk_norm_dim": 16}, ["qk_norm_dim is the width of a norm before a cut", "Expected that norm.", "Got 16."]),
        ({"mlp_norm": True, "mlp_norm_dim": -8}, ["mlp_norm_dim is the width of a norm before a cut", "Got -8."]),
        ({"inner_eps": 0.0}, ["inner_eps must be positive", "Got 0.0."]),
        ({"patch_norm": True, "norm_pre": True}, ["exclude each other"]),
        ({"patch_norm": True, "norm_type": "rms"}, ["pre_dim belongs to an RMSNorm after the embedding", "Got 0."]),
    ],
)
def test_a_plan_refuses(changes: dict[str, Any], texts: list[str]) -> None:
    with pytest.raises(PlanError) as caught:
        tiny_plan(**changes)
    assert all(text in str(caught.value) for text in texts), str(caught.value)


def test_tokens_are_counted() -> None:
    plan = tiny_plan(img_size=(8, 16), dist_token=True, reg_tokens=3)
    assert (plan.num_patches, plan.num_prefix_tokens, plan.num_tokens) == (8, 5, 13)


def test_with_block_replaces_one_block_of_a_copy() -> None:
    plan, block = tiny_plan(), BlockPlan(4, 16, 16, 8)
    assert plan.with_block(1, block).blocks == (plan.blocks[0], block)
    assert plan.with_block(0, block).blocks == (block, plan.blocks[1])
    assert plan == tiny_plan()


def test_a_plan_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny_plan().embed_dim = 8  # type: ignore[misc]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(plan=shape_plans())
def test_a_plan_survives_json(tmp_path: Path, plan: ShapePlan) -> None:
    PLAN_DOCUMENT.write(tmp_path / "plan.json", plan)
    assert PLAN_DOCUMENT.read(tmp_path / "plan.json") == plan


def golden_plan() -> ShapePlan:
    return tiny_plan(
        img_size=(32, 16),
        dist_token=True,
        reg_tokens=1,
        pos_embed="patches",
        norm_pre=True,
        norm="after_pool",
        norm_eps=1e-5,
        act="quick_gelu",
        qkv_bias=False,
        proj_bias=False,
        patch_bias=False,
        layer_scale=True,
    )


def test_version_1_still_loads() -> None:
    assert PLAN_DOCUMENT.read(GOLDEN / "plan-v1.json") == golden_plan()


def cut_plan() -> ShapePlan:
    return tiny_plan(
        norm_type="rms", norm_dim=24, norm_pre=True, pre_dim=24, norm_eps=(1e-6, 2e-6, 0.125, 0.25, 1e-5, 3e-6)
    )


def test_version_2_still_loads_and_only_its_number_is_new_in_what_is_written(tmp_path: Path) -> None:
    assert PLAN_DOCUMENT.read(GOLDEN / "plan-v2.json") == cut_plan()
    PLAN_DOCUMENT.write(tmp_path / "plan.json", cut_plan())
    written, before = (json.loads((at).read_text()) for at in (tmp_path / "plan.json", GOLDEN / "plan-v2.json"))
    assert written == before | {"schema_version": 3}


def modern_plan() -> ShapePlan:
    return tiny_plan(
        gated_mlp=True,
        mlp_norm=True,
        attn_norm=True,
        qk_norm="rms",
        qk_norm_dim=16,
        attn_norm_dim=32,
        mlp_norm_dim=40,
        inner_eps=1e-5,
        patch_norm=True,
        rope="per_head",
        act="silu",
    )


def test_version_3_still_loads_and_is_what_is_written(tmp_path: Path) -> None:
    assert PLAN_DOCUMENT.read(GOLDEN / "plan-v3.json") == modern_plan()
    PLAN_DOCUMENT.write(tmp_path / "plan.json", modern_plan())
    assert (tmp_path / "plan.json").read_bytes() == (GOLDEN / "plan-v3.json").read_bytes()


def test_every_norm_has_its_epsilon() -> None:
    plan = cut_plan()
    assert [plan.eps_of(name) for name in plan.norm_names] == list(plan.norm_eps)
    assert plan.norm_names == (
        *("norm_pre", "blocks.0.norm1", "blocks.0.norm2", "blocks.1.norm1", "blocks.1.norm2"),
        "norm",
    )
    assert tiny_plan(norm_eps=1e-5).eps_of("blocks.1.norm2") == 1e-5
    assert (plan.token_dim, tiny_plan().token_dim) == (24, 16)


def test_a_truncated_plan_is_an_artifact_error(tmp_path: Path) -> None:
    whole, path = (GOLDEN / "plan-v1.json").read_bytes(), tmp_path / "plan.json"
    texts = []
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        try:
            assert PLAN_DOCUMENT.read(path) == golden_plan()
        except ArtifactError as error:
            texts.append(str(error))
    assert len(texts) == len(whole) - 1, "only the last newline may be missing"
    assert all(str(path) in text for text in texts)


def test_a_plan_with_a_changed_byte_never_raises_another_error(tmp_path: Path) -> None:
    whole, path = (GOLDEN / "plan-v1.json").read_bytes(), tmp_path / "plan.json"
    refused = 0
    for position in range(0, len(whole)):
        for byte in (0xFF, ord('"'), ord("9")):
            path.write_bytes(whole[:position] + bytes([byte]) + whole[position + 1 :])
            try:
                PLAN_DOCUMENT.read(path)
            except ArtifactError:
                refused += 1
    assert refused > len(whole)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(ShapePlan) if f.default is dataclasses.MISSING])
def test_a_missing_field_is_named(tmp_path: Path, field: str) -> None:
    document = json.loads((GOLDEN / "plan-v1.json").read_text())
    del document[field]
    (tmp_path / "plan.json").write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match=f"lacks the field '{field}'"):
        PLAN_DOCUMENT.read(tmp_path / "plan.json")


@pytest.mark.parametrize(
    ("keys", "value", "text"),
    [
        (("depth",), 12, "has unknown fields. Got \\['depth'\\]"),
        (("embed_dim",), 16.0, "embed_dim has the wrong type or value. Expected int. Got 16.0."),
        (("embed_dim",), True, "embed_dim has the wrong type or value. Expected int. Got True."),
        (("embed_dim",), "16", "Expected int. Got '16'"),
        (("embed_dim",), None, "Expected int. Got None"),
        (("embed_dim",), 12, "is not valid: embed_dim must be a positive multiple of 8"),
        (("class_token",), 1, "class_token has the wrong type or value. Expected bool. Got 1."),
        (("img_size",), [8], "img_size has the wrong type or value. Expected 2 items"),
        (("img_size",), [8, "8"], "img_size\\[1\\] has the wrong type or value. Expected int"),
        (("img_size",), {"0": 8}, "Expected a list"),
        (("blocks",), {}, "blocks has the wrong type or value. Expected a list"),
        (("blocks", 0), [], "blocks\\[0\\] has the wrong type or value. Expected an object"),
        (("blocks", 1, "qk_dim"), 4, "blocks\\[1\\] is not valid: qk_dim must be"),
        (("blocks", 0, "heads"), 4, "blocks\\[0\\] has unknown fields"),
        (("act",), "tanh", "act has the wrong type or value. Expected one of 'gelu', "),
        (("attn_scale",), "1", "Expected float. Got '1'"),
        (("attn_scale",), float("nan"), "is not valid JSON. Got NaN is not a number"),
        (("attn_scale",), float("inf"), "is not valid JSON. Got Infinity is not a number"),
        (
            ("schema",),
            "pocketvit.metrics",
            "another kind of document. Expected pocketvit.plan. Got 'pocketvit.metrics'",
        ),
        (("schema_version",), 4, "newer PocketViT. Expected pocketvit.plan version 3 or older. Got version 4. Update"),
        (("schema_version",), 0, "has no valid schema_version"),
        (("schema_version",), True, "has no valid schema_version"),
        (("schema_version",), "1", "has no valid schema_version"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, keys: tuple[str | int, ...], value: Any, text: str) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes((GOLDEN / "plan-v1.json").read_bytes())
    edited(path, *keys, value=value)
    with pytest.raises(ArtifactError, match=text):
        PLAN_DOCUMENT.read(path)


def test_a_plan_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"plan\.json does not exist\. Expected a pocketvit\.plan document"):
        PLAN_DOCUMENT.read(tmp_path / "plan.json")


def test_a_plan_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    with pytest.raises(StorageError, match="Choose a folder you may write to"):
        PLAN_DOCUMENT.write(tmp_path / "file" / "plan.json", tiny_plan())
