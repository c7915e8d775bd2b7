from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from compress.bases.rotation import rotated_model
from export.formats.onnx import write_onnx
from export.graph.build import vit_graph
from export.graph.execute import run_graph
from export.graph.rewrites import ALL_REWRITES, DEFAULT_REWRITES, NO_REWRITES, Scales
from export.writers.tflite import tflite_bytes
from runtime import open_engine

from .modern import MODERN, modern_model

SWITCHES = {
    "all": ALL_REWRITES,
    "default": DEFAULT_REWRITES,
    "none": NO_REWRITES,
    "half": DEFAULT_REWRITES.in_half(),
    "no-centre": ALL_REWRITES.without("centre"),
    "no-fold": DEFAULT_REWRITES.without("fold_norm").without("fold_bias"),
    "no-scale": DEFAULT_REWRITES.without("fold_scale"),
    "no-pooled": DEFAULT_REWRITES.without("pooled_only"),
}


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("name", MODERN)
def test_every_rewrite_is_exact(name: str, switch: str) -> None:
    model = modern_model(MODERN[name])
    images = torch.randn((3, 32, 32, 3), generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        wanted = model.double()(images.permute(0, 3, 1, 2))
        got = run_graph(vit_graph(model, SWITCHES[switch]), images)
    assert float((got - wanted).abs().max() / wanted.abs().max()) <= 1e-12


@pytest.mark.parametrize("name", MODERN)
def test_scales_change_nothing(name: str) -> None:
    plan, generator = MODERN[name], np.random.default_rng(0)
    model = modern_model(plan).double()

    def factors(width: int) -> np.ndarray:  # type: ignore[type-arg]
        return generator.uniform(0.5, 2.0, width)

    scales = Scales(
        factors(plan.embed_dim),
        tuple(factors(block.num_heads * block.qk_dim) for block in plan.blocks),
        tuple(factors(block.num_heads * block.v_dim) for block in plan.blocks),
    )
    images = torch.randn((2, 32, 32, 3), generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        wanted = model(images.permute(0, 3, 1, 2))
        got = run_graph(vit_graph(model, DEFAULT_REWRITES, scales), images)
    assert float((got - wanted).abs().max() / wanted.abs().max()) <= 1e-12


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("name", MODERN)
def test_files_compute_what_torch_computes(tmp_path: Path, name: str, rotated: bool) -> None:
    model = modern_model(MODERN[name])
    images = torch.randn((1, 32, 32, 3), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = model(images.permute(0, 3, 1, 2)).numpy()
    own = rotated_model(model).float() if rotated else model
    tflite, onnx = tmp_path / "m.tflite", tmp_path / "m.onnx"
    tflite.write_bytes(tflite_bytes(vit_graph(own, DEFAULT_REWRITES)))
    write_onnx(own, onnx)
    for path, given in ((tflite, images.numpy()), (onnx, images.permute(0, 3, 1, 2).numpy())):
        got = open_engine(path).run(given)
        assert np.abs(got - wanted).max() <= 2e-5 * np.abs(wanted).max(), path.suffix
