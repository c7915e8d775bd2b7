from __future__ import annotations

from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from export.graph.build import vit_graph
from export.graph.rewrites import NO_REWRITES
from export.inspect.check_file import verify_file
from export.inspect.inspection import Inspection, inspect_file
from export.inspect.parts import parts_of
from export.inspect.running import read_analysis
from export.inspect.sandbox import Sandbox
from runtime import (
    ArtifactError,
    BlockPlan,
    DataError,
    MissingExtraError,
    UnsupportedTargetError,
    decode,
    encode,
    macs,
    manifest_path,
    write_artifact,
)
from tests.export.conftest import Exported
from tests.export.small import SMALL, artifact_of, small_file, small_model

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["m.tflite", "m.onnx"])
def test_macs_and_bytes_are_those_of_the_plan(tmp_path: Path, name: str) -> None:
    file = small_file(tmp_path / name, rewrites=NO_REWRITES)
    found = inspect_file(file, time=False)
    contents = found.contents
    assert sum(row.macs or 0 for row in contents.ops) == macs(SMALL)
    assert sum(row.size_bytes for row in contents.sizes) == contents.size_bytes == file.stat().st_size
    weights = [row for row in contents.sizes if row.kind == "weights"]
    matrices = [p for p in small_model().state_dict().values() if p.ndim in (2, 4)]
    assert [row.dtype for row in weights] == ["float32"]
    assert weights[0].size_bytes == 4 * sum(p.numel() for p in matrices)
    assert (found.times, found.times_reason) == (None, "it was not asked for")


def test_operators_are_those_of_the_graph(tmp_path: Path) -> None:
    found = inspect_file(small_file(tmp_path / "m.tflite"), time=False)
    graph = vit_graph(small_model())
    assert {row.kind.lower(): row.count for row in found.contents.ops} == dict(Counter(op.kind for op in graph.ops))
    assert {row.precision for row in found.contents.ops} == {"float32"}
    assert found.partitions.whole
    assert found.partitions.pieces == (len(graph.ops),)
    assert found.partitions.fallback == {}


def test_half_precision_weights_are_seen_through_what_widens_them(tmp_path: Path) -> None:
    found = inspect_file(small_file(tmp_path / "m.tflite", half=True), time=False)
    precisions = {row.precision for row in found.contents.ops if row.kind == "FULLY_CONNECTED"}
    assert precisions == {"float32, float16 weights"}
    assert [row.dtype for row in found.contents.sizes if row.kind == "weights"] == ["float16"]


def test_precisions_widths_and_fallbacks_of_every_exported_file(exported: Exported) -> None:
    linear = {
        "fp32.tflite": ("FULLY_CONNECTED", "float32"),
        "int8.tflite": ("FULLY_CONNECTED", "int8"),  # with dynamic or static activations, as was chosen
        "int8-full.tflite": ("FULLY_CONNECTED", "int8"),
        "onnx": ("MatMul", "float32"),
    }
    plan = exported.model.plan
    with Sandbox() as sandbox:
        for suffix, (kind, precision) in linear.items():
            found = inspect_file(exported.file(suffix), time=False, sandbox=sandbox)
            assert all(precision in row.precision for row in found.contents.ops if row.kind == kind)
            assert found.widths is not None, found.widths_reason
            assert (found.widths.embed_dim, found.widths.blocks) == (plan.embed_dim, plan.blocks)
            if suffix == "onnx":
                assert found.partitions.pieces is None
                assert found.partitions.reason
                continue
            count = sum(row.count for row in found.contents.ops)
            assert found.partitions.pieces is not None
            assert found.partitions.fallback is not None
            assert sum(found.partitions.pieces) + sum(found.partitions.fallback.values()) == count
            assert found.partitions.whole or suffix != "fp32.tflite"


@pytest.mark.parametrize("name", ["m.tflite", "m.onnx"])
def test_times(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.inspect.inspection.TIME_BUDGET_S", 1.0)
    told: list[tuple[int, int]] = []
    file = small_file(tmp_path / name)
    found = inspect_file(file, progress=lambda stage, done, total, note="": told.append((done, total)))
    assert decode(Inspection, encode(found), "an inspection") == found
    times = found.times
    assert times is not None
    assert times.whole_s > 0
    assert times.how
    assert told[-1][0] == told[-1][1]
    names = [row.what for row in times.rows]
    if name.endswith("onnx"):
        assert "MatMul" in names
        assert all(row.seconds >= 0 for row in times.rows)
    else:
        parts = [f"blocks.{i}.{part}" for i in range(2) for part in ("norm1", "attn", "norm2", "mlp")]
        assert names == ["embed", *parts, "head"]
        # every stretch begins where the one before ended, so they add up
        assert sum(row.seconds for row in times.rows) == pytest.approx(times.whole_s)


def test_parts() -> None:
    litert = "export.formats.tflite.ChannelsLast/compress.vit.SlicedViT_model"
    names = [
        f"{litert}/torch.nn.modules.conv.Conv2d_patch_embed;2",
        f"{litert}/compress.vit.Block_0/torch.nn.modules.normalization.LayerNorm_norm1;1",
        f"{litert}/compress.vit.Block_0/compress.vit.Attention_attn;3",
        f"{litert}/compress.vit.Block_0;;{litert}/compress.vit.Block_0/compress.vit.Mlp_mlp;4",
        f"{litert}/compress.vit.Block_0;5",
        f"{litert}/compress.vit.Block_1/compress.vit.Attention_attn;;{litert}/compress.vit.Block_0/compress.vit.Mlp_mlp",
        f"{litert}/compress.vit.Block_0/compress.vit.Attention_attn;9",
        "serving_default_output",
    ]
    found = [(part.name, part.last_op) for part in parts_of(names, "coarse")]
    assert found == [("embed", 0), ("blocks.0.attn", 2), ("blocks.0.mlp", 4), ("blocks.1.attn", 6), ("head", 7)]
    assert [part.name for part in parts_of(names, "blocks")] == ["embed", "blocks.0", "blocks.1", "head"]
    assert [part.last_op for part in parts_of(["x"] * 100, "fine")][-1] == 99
    assert [part.name for part in parts_of(["x"], "fine")] == ["operators 0 to 0"]


def test_requests_that_cannot_be(tmp_path: Path) -> None:
    file = small_file(tmp_path / "m.tflite")
    (tmp_path / "m.txt").touch()
    with pytest.raises(ArtifactError, match="does not exist"):
        inspect_file(tmp_path / "none.tflite")
    with pytest.raises(ArtifactError, match="not a model file"):
        inspect_file(tmp_path / "m.txt")
    with pytest.raises(UnsupportedTargetError, match="threads"):
        inspect_file(file, threads=0)
    with pytest.raises(DataError, match="number of images"):
        verify_file(file, images=0)
    with pytest.raises(UnsupportedTargetError, match="No such engine"):
        verify_file(file, against="torch")
    with pytest.raises(UnsupportedTargetError, match="does not run in TensorFlow"):
        verify_file(small_file(tmp_path / "m.onnx"), against="tensorflow")


def test_weights_in_other_files_are_refused(tmp_path: Path) -> None:
    import onnx

    proto = onnx.load(small_file(tmp_path / "m.onnx"))
    onnx.save(proto, tmp_path / "apart.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    with pytest.raises(ArtifactError, match=r"apart\.onnx keeps its weights in other files"):
        inspect_file(tmp_path / "apart.onnx")


@pytest.mark.parametrize("suffix", ["onnx", "fp32.tflite", "int8.tflite", "int8-full.tflite"])
def test_exported_files_pass(exported: Exported, suffix: str) -> None:
    found = verify_file(exported.file(suffix), images=3)
    assert found.passed, found.checks
    names = ["size", "sha256", "widths", "loads and runs", "shapes and types", "finite"]
    assert [check.name for check in found.checks] == names
    assert found.images == 3
    assert found.parity in [artifact.parity for artifact in exported.artifacts]


def test_what_fails_is_named(tmp_path: Path) -> None:
    file = small_file(tmp_path / "m.onnx")
    wider = replace(SMALL, blocks=(BlockPlan(3, 16, 16, 104), SMALL.blocks[1]))
    write_artifact(file, artifact_of(file, wider, sha256="0" * 64, size_bytes=7))
    failed = [check for check in verify_file(file, images=1).checks if not check.passed]
    assert [check.name for check in failed] == ["size", "sha256", "widths"]
    assert "blocks 0 differ" in failed[2].found
    fewer = replace(SMALL, num_classes=7)
    write_artifact(file, artifact_of(file, fewer))
    failed = [check for check in verify_file(file, images=1).checks if not check.passed]
    assert [check.name for check in failed] == ["shapes and types"]
    manifest_path(file).unlink()
    with pytest.raises(ArtifactError, match="has no manifest"):
        verify_file(file)


def test_answers_that_are_not_finite_fail(tmp_path: Path) -> None:
    import onnx

    file = small_file(tmp_path / "m.onnx")
    proto = onnx.load(file)
    bias = next(tensor for tensor in proto.graph.initializer if tensor.name == "logits.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(10, np.nan, np.float32), "logits.bias"))
    onnx.save(proto, file)
    write_artifact(file, artifact_of(file, SMALL))
    found = verify_file(file, images=2)
    assert [check.name for check in found.checks if not check.passed] == ["finite"]


def test_a_missing_tensorflow_is_said(tmp_path: Path) -> None:
    if find_spec("tensorflow") is not None:
        pytest.skip("tensorflow is installed")
    with pytest.raises(MissingExtraError, match=r"pocketvit\[tensorflow\]"):
        verify_file(small_file(tmp_path / "m.tflite"), against="tensorflow")


def test_tensorflow_agrees(tmp_path: Path) -> None:
    if find_spec("tensorflow") is None:
        pytest.skip("tensorflow is not installed")
    found = verify_file(small_file(tmp_path / "m.tflite", rewrites=NO_REWRITES), images=4, against="tensorflow")
    assert found.comparison is not None, found.checks
    assert found.comparison.max_abs is not None
    assert found.comparison.max_abs < 1e-4
    assert found.comparison.top1_agreement == 1.0
    assert found.comparison.gpu is not None
    assert found.comparison.gpu.compatible is not None


def test_the_analysis_of_the_gpu_delegate() -> None:
    text = (
        "  Op#0 RESHAPE(T#0, T#1) -> [T#2]\n"
        "  Op#1 SIGN(T#2) -> [T#3]\nGPU COMPATIBILITY WARNING: Not supported op SIGN\n"
        "  Op#2 SIGN(T#3) -> [T#4]\nGPU COMPATIBILITY WARNING: Not supported op SIGN\n"
        "GPU COMPATIBILITY WARNING: Subgraph#0 has GPU delegate compatibility issues at nodes 1, 2\n"
    )
    found = read_analysis(text)
    assert (found.compatible, found.issues) == (False, {"SIGN: Not supported op SIGN": 2})
    assert read_analysis("something else").compatible is None
