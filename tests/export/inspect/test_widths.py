from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compress.model.load import ModelSpec, load_model
from export.formats.onnx import write_onnx
from export.formats.tflite import write_tflite
from export.inspect.widths import read_widths
from runtime import ArtifactError, BlockPlan
from tests.export.conftest import Exported, uneven

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("suffix", ["onnx", "fp32.tflite", "int8.tflite", "int8-full.tflite"])
def test_the_widths_in_the_file_are_those_of_the_sliced_plan(exported: Exported, suffix: str) -> None:
    plan = exported.model.plan
    assert plan.embed_dim == 40
    assert plan.blocks == (BlockPlan(3, 8, 8, 40), BlockPlan(2, 8, 16, 48))
    # the file must speak for itself: it is asked with a plan whose widths are all different
    unlike = replace(plan, embed_dim=64, blocks=(BlockPlan(4, 16, 16, 256),) * 2)
    assert read_widths(exported.file(suffix), unlike) == plan


def test_a_file_of_another_depth_is_refused(exported: Exported) -> None:
    deeper = replace(exported.model.plan, blocks=exported.model.plan.blocks * 2)
    with pytest.raises(ArtifactError, match="does not have the layers"):
        read_widths(exported.file("onnx"), deeper)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("deit_tiny_distilled_patch16_224", {"depth": 2}),
        ("deit3_small_patch16_224", {"depth": 2}),
        ("vit_small_patch14_reg4_dinov2", {"depth": 2, "patch_size": 8}),
        ("vit_small_patch16_224", {"depth": 2, "class_token": False, "global_pool": "avg"}),
    ],
)
def test_every_kind_of_vit_is_exported_and_read_back(
    tmp_path: Path, name: str, overrides: dict[str, int | float | str | bool]
) -> None:
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    spec = ModelSpec(name, 32, 8, 3, overrides={"embed_dim": 48, "num_heads": 3, **overrides})
    model = uneven(load_model(spec, 7))
    write_onnx(model, tmp_path / "m.onnx")
    write_tflite(model, tmp_path / "m.tflite")
    for file in (tmp_path / "m.onnx", tmp_path / "m.tflite"):
        assert read_widths(file, replace(model.plan, embed_dim=8)) == model.plan
    image = torch.randn(1, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = model(image.permute(0, 3, 1, 2)).numpy()
    interpreter = Interpreter(str(tmp_path / "m.tflite"))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image.numpy())
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())
