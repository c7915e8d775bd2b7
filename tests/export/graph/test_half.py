"""Files of models with a loud stream, computed in float16 as engines on GPUs and phones do."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from compress.data.dataset import Dataset
from compress.model.canonical import canonical
from compress.model.folder import weights_sha256
from compress.model.half_range import HALF_MOST, MARGIN, in_half_range, largest_energies
from compress.model.vit import SlicedViT
from export.compare import compare_logits
from export.exporter import export_model
from export.graph import vit_parts
from export.graph.build import vit_graph
from export.graph.execute import run_graph
from export.graph.ir import Graph
from export.graph.norms import find_norms
from export.graph.rewrites import ALL_REWRITES, DEFAULT_REWRITES, NO_REWRITES
from export.quantise.simulate import simulate
from export.settings import ExportSettings
from export.writers.onnx import RMS_NORM_IS_ONE, onnx_bytes
from export.writers.onnx_opsets import OPSET, OPSETS
from export.writers.tflite import tflite_bytes
from runtime import load, open_engine
from tests.compress.model.test_half_range import loud
from tests.export.conftest import task_for
from tests.export.graph.test_build import ARCHITECTURES, images_for, model_of
from tests.export.graph.test_canonical import INTEGERS, away, cut, digits_model, integers_of, wanted

FORMS = {"as it is": lambda model: model, "canonical": canonical, "cut": lambda model: cut(canonical(model))}
CASES = [
    (name, form) for name in ARCHITECTURES for form in FORMS if ARCHITECTURES[name].norm != "none" or form == "as it is"
]
of_every_case = pytest.mark.parametrize(("name", "form"), CASES, ids=["-".join(own) for own in CASES])


@cache
def case(name: str, form: str, factor: float = 400.0) -> tuple[SlicedViT, SlicedViT]:
    """Returns a model whose sums of squares are between 1e6 and 1e8, and the same in float16's range."""
    model = loud(FORMS[form](model_of(ARCHITECTURES[name])), factor)
    images = images_for(model.plan, 8).permute(0, 3, 1, 2)
    assert 1e6 < max(largest_energies(model, images).values()) < 1e8
    return model, in_half_range(model, images)


def in_half(graph: Graph, images: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Computes a graph in float16; returns its logits, and the largest sum of squares that a norm forms."""
    sums = [0.0]

    def watch(name: str, value: torch.Tensor) -> torch.Tensor:
        if name.endswith(".square"):
            sums.append(float(value.double().sum(-1).max()))
        return value

    return run_graph(graph, images.half(), hook=watch).float(), max(sums)


@pytest.mark.parametrize("rewrites", [DEFAULT_REWRITES, NO_REWRITES], ids=["default", "none"])
@of_every_case
def test_in_float16_the_scaled_model_is_right_and_the_other_is_not(name: str, form: str, rewrites) -> None:  # type: ignore[no-untyped-def]
    model, scaled = case(name, form)
    images = images_for(model.plan, 8)
    logits = wanted(model, images)
    assert torch.equal(wanted(scaled, images), logits)
    for own in (model, scaled):
        assert away(run_graph(vit_graph(own, rewrites), images), logits) <= 1e-5
    right, largest = in_half(vit_graph(scaled, rewrites), images)
    assert MARGIN * largest <= 1.02 * HALF_MOST
    assert right.isfinite().all()
    assert away(right, logits) < 0.02
    wrong, largest = in_half(vit_graph(model, rewrites), images)
    assert largest > HALF_MOST
    assert not away(wrong, logits) < 0.1


@of_every_case
def test_a_tflite_file_computes_what_the_model_computes(name: str, form: str, tmp_path: Path) -> None:
    _, scaled = case(name, form)
    images = images_for(scaled.plan)
    for label, rewrites in (("default", DEFAULT_REWRITES), ("none", NO_REWRITES)):
        path = tmp_path / f"{label}.tflite"
        path.write_bytes(tflite_bytes(vit_graph(scaled, rewrites)))
        engine = open_engine(path)
        got = np.concatenate([engine.run(image[None]) for image in images.numpy()])
        assert away(got, wanted(scaled, images)) <= 1e-5


@pytest.mark.parametrize("opset", [OPSET, OPSETS[-1]])
@of_every_case
def test_an_onnx_file_keeps_each_norm_as_one_operator(name: str, form: str, opset: int, tmp_path: Path) -> None:
    _, scaled = case(name, form)
    images, path = images_for(scaled.plan), tmp_path / "model.onnx"
    for rewrites in (ALL_REWRITES, NO_REWRITES, ALL_REWRITES.without("fold_norm"), ALL_REWRITES.without("centre")):
        path.write_bytes(onnx_bytes(vit_graph(scaled, rewrites), opset=opset))
        file = onnx.load(path)
        onnx.checker.check_model(file, full_check=True)
        kinds = [node.op_type for node in file.graph.node]
        norms = kinds.count("LayerNormalization") + kinds.count("RMSNormalization")
        some = len(find_norms(vit_graph(scaled, rewrites)))
        assert some == len(scaled.plan.norm_names) + (scaled.plan.output == "unit_vector")
        assert norms == (some if opset >= RMS_NORM_IS_ONE else kinds.count("LayerNormalization"))
        got = open_engine(path).run(images.permute(0, 3, 1, 2).numpy())
        assert away(got, wanted(scaled, images)) <= 1e-5


def silent_patches(factor: float) -> SlicedViT:
    """Returns a model whose patches are tokens of zeros where an image is black."""
    plan = replace(ARCHITECTURES["average"], pos_embed="none", patch_bias=False, reg_tokens=1)
    return loud(model_of(plan), factor)


def test_a_token_of_zeros_stays_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    model = silent_patches(100.0)
    scaled = in_half_range(model, images_for(model.plan, 8).permute(0, 3, 1, 2))
    black = torch.zeros_like(images_for(model.plan, 2))
    assert np.float16(scaled.plan.eps_of("norm")) == 0.0
    got, _ = in_half(vit_graph(scaled), black)
    assert away(got, wanted(model, black)) < 0.02
    monkeypatch.setattr(vit_parts, "half_gain", lambda eps, width, always: 1.0)
    assert not in_half(vit_graph(scaled), black)[0].isfinite().any()


def test_a_norm_that_float16_has_the_epsilon_of_is_written_as_before() -> None:
    model = model_of(ARCHITECTURES["vit"])
    names = [op.output for op in vit_graph(model).ops]
    assert "blocks.0.norm1.variance_eps" in names
    assert not [name for name in names if name.endswith("gain")]
    scaled = case("vit", "as it is")[1]
    gains = [op.output for op in vit_graph(scaled).ops if op.output.endswith("gain")]
    assert len(gains) == len(scaled.plan.norm_names)


@pytest.mark.parametrize(
    ("name", "form", "kind"),
    [("clip", "cut", "int8-dynamic"), ("deit3", "canonical", "int8"), ("vit", "as it is", "int8-full")],
)
def test_integers_lose_no_more_than_without_a_scale(name: str, form: str, kind: str) -> None:
    model, scaled = case(name, form)
    images = images_for(model.plan, 6).numpy()
    logits = wanted(model, torch.from_numpy(images)).numpy()
    before, after = (
        compare_logits(simulate(integers_of(own, INTEGERS[kind], images), images), logits, None, "").sqnr_db
        for own in (model, scaled)
    )
    assert before is not None
    assert after is not None
    assert after > min(before, 20.0) - 2.0


@pytest.mark.slow
def test_the_exporter_scales_what_it_writes(digits: Dataset, tmp_path: Path) -> None:
    whole = digits_model()
    model = loud(whole, 3000.0)
    settings = ExportSettings(
        ("fp32", "onnx", "torch", "int8"), int8_recipe="dynamic_wi8_afp32", calibration_images=8, verify_images=40
    )
    artifacts = export_model(model, task_for(digits, trained=False), digits, tmp_path, "loud", settings)
    for artifact in artifacts:
        assert artifact.provenance.weights_sha256 == weights_sha256(model)
        assert artifact.plan.eps_of("norm") < model.plan.eps_of("norm") / 4
        assert replace(artifact.plan, norm_eps=model.plan.norm_eps) == model.plan
    again = export_model(model, task_for(digits, trained=False), digits, tmp_path, "loud", settings)
    assert again == artifacts
    quiet = export_model(whole, task_for(digits, trained=False), digits, tmp_path, "quiet", ExportSettings(("fp32",)))
    assert quiet[0].plan == whole.plan
    images = images_for(model.plan, 8)
    assert away(load(tmp_path / "loud.fp32.tflite").logits(images.numpy()), wanted(model, images)) <= 1e-5
