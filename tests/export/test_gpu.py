"""Our files on LiteRT's GPU path, over a driver that computes on the CPU, against the CPU and the float model.

Many architectures in float32 and in integers share one process; the files of the default run's smaller
model go through a whole export.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from compress.data.dataset import Dataset
from compress.model.folder import read_model, read_task
from compress.model.vit import SlicedViT
from export.exporter import export_model
from export.formats.tflite import tflite_form, write_tflite
from export.gpu.check import NO_DRIVER
from export.gpu.compare import FileKind, judge_gpu
from export.graph.build import vit_graph
from export.graph.rewrites import DEFAULT_REWRITES
from export.quantise.candidates import CandidateBuilder, Subject
from export.quantise.recipes import DYNAMIC, DYNAMIC_ATTENTION, STATIC, STATIC_ATTENTION, recipes_for
from export.settings import ExportSettings
from export.writers.tflite import tflite_bytes
from runtime import BlockPlan, GpuParity, ShapePlan, UnsupportedTargetError, load, read_artifact
from runtime.gpu.adapter import Adapter
from runtime.gpu.drivers import GpuDriver
from runtime.gpu.run import GpuCrashError, GpuWorker

from .conftest import task_for
from .part_plans import PART_PLANS, draw_tables

IMAGES = 16
DIGITS = ShapePlan((32, 32), (8, 8), 1, 10, 96, (BlockPlan(3, 32, 32, 384),) * 6, 32**-0.5)
SMALL = ShapePlan((32, 32), (8, 8), 3, 10, 48, (BlockPlan(3, 16, 16, 96), BlockPlan(2, 8, 24, 64)), 0.25)
UNEVEN = (BlockPlan(1, 8, 40, 24), BlockPlan(3, 16, 8, 160), BlockPlan(2, 24, 16, 8))
PLANS = {
    "default": DIGITS,
    "dinov2": replace(SMALL, reg_tokens=4, pos_embed="patches", layer_scale=True),
    "deit-distilled": replace(SMALL, dist_token=True, in_chans=1),
    "average": replace(SMALL, pooling="avg_all", act="gelu_tanh"),
    "clip": replace(SMALL, norm_pre=True, act="quick_gelu", patch_bias=False, img_size=(16, 32), patch_size=(8, 16)),
    "average-of-patches": replace(SMALL, pooling="avg", class_token=False, pos_embed="patches", norm="after_pool"),
    "relu-without-biases": replace(SMALL, act="relu", qkv_bias=False, proj_bias=False),
    "silu-without-positions": replace(SMALL, act="silu", pos_embed="none", reg_tokens=1),
    "rms": replace(SMALL, norm_type="rms", norm_dim=64),
    "cut": replace(SMALL, embed_dim=40, blocks=UNEVEN, num_classes=3),
    **PART_PLANS,
}
FULL, FULL_EQUALISED = (next(r for r in recipes_for("int8-full") if r.equalised is own) for own in (False, True))
ROUNDED = {
    "default": STATIC_ATTENTION,
    "dinov2": FULL_EQUALISED,
    "deit-distilled": DYNAMIC,
    "average": DYNAMIC_ATTENTION,
    "clip": STATIC,
    "average-of-patches": FULL,
    "relu-without-biases": FULL,
    "silu-without-positions": STATIC,
    "rms": FULL,
    "cut": DYNAMIC,
    "attention-pool": FULL,
    "pool-of-all-tokens": DYNAMIC,
    "texts": FULL,
    "texts-and-pool": STATIC,
    "unit-vector-and-pool": DYNAMIC,
    "position-bias": FULL,
    "position-bias-and-token": STATIC_ATTENTION,
    "post-norm": FULL,
    "post-norm-and-token": STATIC,
    "parallel": FULL_EQUALISED,
    "parallel-average": DYNAMIC_ATTENTION,
    "stem": STATIC_ATTENTION,
    "double-norm": FULL,
    "stem-and-average": DYNAMIC,
}


def sharp_model(plan: ShapePlan) -> SlicedViT:
    """A model whose every weight is random and matters, and whose attention is not the same for all tokens."""
    generator = torch.Generator().manual_seed(0)
    model = SlicedViT(plan).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            spread = 0.3 if weight.ndim < 2 else weight[0].numel() ** -0.5
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            sharper = 4.0 if name.endswith("attn.q.weight") else 1.0
            weight.copy_(centre + sharper * spread * torch.randn(weight.shape, generator=generator))
    draw_tables(model, generator)
    return model


def images_for(plan: ShapePlan) -> npt.NDArray[np.float32]:
    generator = np.random.default_rng(1)
    return generator.standard_normal((IMAGES, *plan.img_size, plan.in_chans), dtype=np.float32)


@dataclass(frozen=True)
class OnGpu:
    """Runs files of models on the driver and judges them."""

    worker: GpuWorker
    adapter: Adapter
    folder: Path

    def judged(self, model: SlicedViT, content: bytes, *, integer: bool = False) -> GpuParity:
        path, images = self.folder / "model.tflite", images_for(model.plan)
        path.write_bytes(content)
        with torch.no_grad():
            wanted = model(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
        return judge_gpu(FileKind(integer), self.worker.answers(path, images), self.adapter, wanted)


@pytest.fixture
def on_gpu(software_gpu: tuple[GpuDriver, Adapter], gpu_worker: GpuWorker, tmp_path: Path) -> OnGpu:
    return OnGpu(gpu_worker, software_gpu[1], tmp_path)


@pytest.mark.gpu
@pytest.mark.parametrize("name", PLANS)
def test_float_files_answer_on_the_gpu_as_on_the_cpu(name: str, on_gpu: OnGpu) -> None:
    model = sharp_model(PLANS[name])
    write_tflite(model, on_gpu.folder / "float.tflite", half=name == "average")
    found = on_gpu.judged(model, (on_gpu.folder / "float.tflite").read_bytes())
    assert (found.whole, found.software, found.arithmetic, found.images) == (True, True, "fp32", IMAGES)
    assert found.cosine is not None
    assert found.cosine >= 0.9999
    assert found.max_rel is not None
    assert found.max_rel <= 1e-4
    assert (found.top1_agreement, found.wrong) == (1.0, None)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ROUNDED)
def test_integer_files_are_as_near_to_the_float_model_on_the_gpu_as_on_the_cpu(name: str, on_gpu: OnGpu) -> None:
    model, recipe, images = sharp_model(PLANS[name]), ROUNDED[name], images_for(PLANS[name])
    nothing = np.zeros((IMAGES, model.plan.num_classes), np.float32)
    builder = CandidateBuilder(Subject(model, images, images, nothing, None), on_gpu.folder, tflite_form())
    found = on_gpu.judged(model, tflite_bytes(builder.quantised(recipe)), integer=True)
    assert (found.whole, found.wrong) == (True, None)
    assert found.sqnr_db is not None
    assert found.cpu_sqnr_db is not None
    assert found.sqnr_db >= found.cpu_sqnr_db - 1
    assert found.near_ties is not None
    assert found.near_ties < IMAGES
    assert found.top1_agreement == 1.0


@pytest.mark.gpu
@pytest.mark.parametrize("integer", [False, True])
def test_a_graph_without_the_batch_dimension_is_found_wrong(integer: bool, on_gpu: OnGpu) -> None:
    model = sharp_model(SMALL)
    found = on_gpu.judged(model, tflite_bytes(vit_graph(model, DEFAULT_REWRITES.flattened())), integer=integer)
    assert found.whole
    assert found.cosine is not None
    assert found.cosine < 0.999
    assert found.wrong is not None
    assert ("cosine" in found.wrong, "SQNR" in found.wrong) == (not integer, integer)
    assert found.cpu_sqnr_db is not None
    assert found.cpu_sqnr_db > 80


RUN = Path(__file__).parents[1] / "golden" / "default-run"
SETTINGS = ExportSettings(
    kinds=("fp32", "int8", "int8-full", "onnx"), made_for="pi5", verify_images=64, min_agreement=0, app=True
)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.usefixtures("gpu_allowed")
def test_the_files_of_the_default_run_and_those_for_apps_are_right_on_the_gpu(digits: Dataset, tmp_path: Path) -> None:
    artifacts = export_model(read_model(RUN), read_task(RUN), digits, tmp_path, "m", SETTINGS)
    assert [own.file for own in artifacts if own.app] == [f"m.{kind}.app.tflite" for kind in SETTINGS.kinds[:3]]
    for artifact in artifacts:
        gpu = read_artifact(tmp_path / artifact.file).parity.gpu
        assert gpu == artifact.parity.gpu
        if artifact.format != "tflite":
            assert gpu is None
            continue
        assert gpu is not None
        assert (gpu.reason, gpu.wrong, gpu.whole, gpu.software, gpu.images) == (None, None, True, True, 32)
        assert gpu.top1_agreement is not None
        assert gpu.top1_agreement >= (1.0 if artifact.app is None else 0.9)
        if artifact.precision == "fp32":
            assert gpu.cosine is not None
            assert gpu.cosine >= 0.9999
        else:
            assert gpu.sqnr_db is not None
            assert gpu.cpu_sqnr_db is not None
            # probabilities of 32 images vary more than logits do
            assert gpu.sqnr_db >= gpu.cpu_sqnr_db - (1 if artifact.app is None else 2)


FLOAT = ExportSettings(kinds=("fp32",), verify_images=32)


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu_allowed")
def test_a_file_that_is_wrong_on_the_gpu_is_released_with_a_warning_and_runs_on_the_cpu_alone(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.formats.tflite.rewrites_for", lambda model: DEFAULT_REWRITES.flattened())
    model, said = sharp_model(replace(SMALL, in_chans=1)), []
    (artifact,) = export_model(
        model, task_for(digits), digits, tmp_path, "m", FLOAT, lambda stage, *rest: said.append((stage, *rest))
    )
    gpu = artifact.parity.gpu
    assert gpu is not None
    assert gpu.wrong is not None
    assert artifact.refused is None
    (warning,) = [note[0] for stage, _, total, *note in said if total == 0 and "WRONG ON GPUs" in stage]
    assert gpu.wrong in warning
    assert f"{gpu.cosine:.4f}" in warning
    load(tmp_path / artifact.file)
    with pytest.raises(UnsupportedTargetError, match="is wrong on GPUs"):
        load(tmp_path / artifact.file, device="gpu")


@pytest.mark.usefixtures("gpu_allowed")
def test_a_file_that_litert_crashes_on_or_refuses_is_told_apart(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, said = sharp_model(replace(SMALL, in_chans=1)), []
    monkeypatch.setattr(
        "export.gpu.check.find_gpu", lambda: (GpuDriver("a driver"), Adapter("a", "Vulkan", True, "fp32"))
    )
    for error, wrong in ((GpuCrashError("It ends."), True), (UnsupportedTargetError("It does not compile."), False)):

        def answers(*given: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("runtime.gpu.run.GpuWorker.answers", answers)
        (artifact,) = export_model(
            model, task_for(digits), digits, tmp_path / str(wrong), "m", FLOAT, lambda *told: said.append(told)
        )
        gpu = artifact.parity.gpu
        assert gpu is not None
        assert (gpu.wrong, gpu.reason) == ((str(error), None) if wrong else (None, str(error)))
        assert (gpu.driver, gpu.whole) == ("a", None)
        assert any(str(error) in told[-1] and ("CRASHES" in told[0]) == wrong for told in said if told[2] == 0)


@pytest.mark.usefixtures("gpu_allowed")
def test_an_export_without_a_driver_says_so_quietly_and_one_with_a_driver_looks_again(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, said = sharp_model(replace(SMALL, in_chans=1)), []
    looked: list[int] = []

    def look() -> None:
        looked.append(1)

    monkeypatch.setattr("export.gpu.check.find_gpu", look)

    def export(settings: ExportSettings) -> GpuParity | None:
        (artifact,) = export_model(
            model, task_for(digits), digits, tmp_path, "m", settings, lambda stage, *rest: said.append((stage, *rest))
        )
        return read_artifact(tmp_path / artifact.file).parity.gpu

    assert export(replace(FLOAT, gpu_check=False)) is None
    assert not looked
    assert export(FLOAT) == GpuParity(reason=NO_DRIVER)
    assert export(FLOAT) == GpuParity(reason=NO_DRIVER)
    assert len(looked) == 2
    assert not [note for stage, _, total, *note in said if total == 0 and "GPU" in f"{stage} {note}"]
