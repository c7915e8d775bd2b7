"""Every rule finds what breaks it, and the files that we export keep all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from export.formats.tflite import HALF_ARITHMETIC, HALF_METADATA, write_int8, write_tflite
from export.graph.build import vit_graph
from export.graph.file_model import FileModel, FileOp, FileTensor
from export.graph.ir import Builder, QParams
from export.graph.rewrites import DEFAULT_REWRITES
from export.inspect.lint.base import LintFinding, counted_findings
from export.inspect.lint.engines import LINTED
from export.inspect.lint.lint_file import Lint, lint
from export.quantise.recipes import DYNAMIC, STATIC, recipes_for
from export.writers.tflite import tflite_bytes
from tests.export.graph.test_build import ARCHITECTURES, images_for, model_of

HALF = {HALF_METADATA: HALF_ARITHMETIC.encode()}


def linted(path: Path, engine: str, body: bytes) -> Lint:
    path.write_bytes(body)
    return lint(path, engine)


def built(add: Callable[[Builder], str], metadata: Mapping[str, bytes] | None = None) -> bytes:
    builder = Builder((1, 4, 4, 8))
    return tflite_bytes(builder.graph(add(builder)), metadata=metadata)


def found_for(engine: str, model: FileModel) -> list[LintFinding]:
    return [own for rule in LINTED[engine].rules for own in rule(model)]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_float_files_are_clean_on_the_cpu_and_the_gpu(name: str, tmp_path: Path) -> None:
    model = model_of(ARCHITECTURES[name])
    for file, arguments in (("single", ()), ("half", (True, HALF_ARITHMETIC))):
        path = tmp_path / f"{file}.tflite"
        write_tflite(model, path, *arguments)
        assert [lint(path, engine).findings for engine in ("cpu", "gpu")] == [(), ()]


def test_a_graph_without_a_batch_is_wrong_on_the_gpu(tmp_path: Path) -> None:
    graph = vit_graph(model_of(ARCHITECTURES["vit"]), DEFAULT_REWRITES.flattened())
    found = linted(tmp_path / "flat.tflite", "gpu", tflite_bytes(graph)).findings
    batch = [own for own in found if own.rule == "batch"]
    assert [(own.op.split()[0], own.tensor, own.count) for own in batch] == [("ADD", "patches.placed", 1)]
    assert "'pos_embed' of shape (16, 48)" in batch[0].found
    assert "(1, 16, 48)" in batch[0].cure


@pytest.mark.parametrize(
    ("shape", "constant", "wrong"),
    [
        ((16, 8), (16, 8), True),
        ((16, 8), (16, 1), True),
        ((4, 4, 8), (4, 4, 8), True),
        ((128,), (128,), True),
        ((16, 8), (1, 8), False),
        ((16, 8), (8,), False),
        ((4, 4, 8), (4, 8), False),
        ((1, 16, 8), (1, 16, 8), False),
        ((2, 2, 4, 8), (2, 2, 4, 8), False),
    ],
)
def test_constants_that_the_gpu_reads_wrongly(shape, constant, wrong: bool, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    def add(g: Builder) -> str:
        x = g.op("reshape", ["image"], "rows", shape=shape)
        return g.op("mul", [x, g.constant("c", np.ones(constant))], "out")

    found = linted(tmp_path / "m.tflite", "gpu", built(add)).findings
    assert [own.rule for own in found] == (["batch"] if wrong else [])


def test_ranks_and_slices_on_the_gpu(tmp_path: Path) -> None:
    def five(g: Builder) -> str:
        return g.op("relu", [g.op("reshape", ["image"], "five", shape=(1, 2, 2, 4, 8))], "out")

    found = linted(tmp_path / "five.tflite", "gpu", built(five)).findings
    assert [(own.rule, own.count) for own in found] == [("rank", 1), ("rank", 1)]
    assert {own.tensor for own in found} == {"five"}

    def cut(g: Builder) -> str:
        rows = g.op("reshape", ["image"], "rows", shape=(16, 8))
        return g.op("slice", [rows], "out", begin=(0, 0), size=(4, 8))

    found = linted(tmp_path / "cut.tflite", "gpu", built(cut)).findings
    assert [(own.rule, own.op, own.tensor) for own in found] == [("rank", "SLICE #1", "rows")]


def test_a_constant_factor_and_a_fused_square_spoil_float16_on_the_cpu(tmp_path: Path) -> None:
    graph = vit_graph(model_of(ARCHITECTURES["vit"]))
    assert linted(tmp_path / "single.tflite", "cpu", tflite_bytes(graph)).clean
    found = linted(tmp_path / "half.tflite", "cpu", tflite_bytes(graph, metadata=HALF)).findings
    assert [(own.rule, own.op.split()[0], own.count) for own in found] == [
        ("float16", "BATCH_MATMUL", 2),
        ("float16", "MEAN", 5),
    ]
    assert [own.tensor for own in found] == ["blocks.1.attn.k", "blocks.0.norm1.variance"]
    useless = {HALF_METADATA: b"fp16accfp32"}
    only = linted(tmp_path / "useless.tflite", "cpu", tflite_bytes(graph, metadata=useless)).findings
    assert [(own.op, own.found) for own in only] == [("metadata", "'fp16accfp32', which changes nothing")]


def test_operators_that_xnnpack_leaves_are_counted(tmp_path: Path) -> None:
    model = model_of(ARCHITECTURES["vit"])
    path = tmp_path / "full.tflite"
    write_int8(model, path, images_for(model.plan, 8).numpy(), recipes_for("int8-full")[0])
    assert {own.op: own.count for own in lint(path, "cpu").findings} == {"RSQRT": 5, "SOFTMAX": 2, "GELU": 2}


def test_static_int8_takes_int8_full_and_names_what_others_break(tmp_path: Path) -> None:
    model = model_of(ARCHITECTURES["average"])
    images, path = images_for(model.plan, 8).numpy(), tmp_path / "m.tflite"
    write_int8(model, path, images, recipes_for("int8-full")[0])
    assert lint(path, "static-int8").clean
    broken = {}
    for name, recipe in (("dynamic", DYNAMIC), ("static", STATIC)):
        write_int8(model, path, images, recipe)
        broken[name] = {own.rule for own in lint(path, "static-int8").findings}
    assert broken == {"dynamic": {"type", "dynamic range", "float island"}, "static": {"type", "float island"}}
    write_int8(model, path, images, recipes_for("int8-full-16x8")[0])
    assert {own.rule for own in lint(path, "static-int8").findings} == {"type"}


def test_weights_with_one_scale_are_found(tmp_path: Path) -> None:
    builder = Builder((1, 4, 4, 8))
    graph = builder.graph(builder.linear("image", np.ones((3, 8)), None, "out"))
    one, several = QParams((0.1,)), QParams((0.1, 0.1, 0.1), axis=0)
    for weight, rules in ((one, ["per-tensor weights"]), (several, [])):
        qparams = {"image": one, "out": one, "out.weight": weight}
        body = tflite_bytes(type(graph)(graph.input, graph.output, graph.ops, graph.constants, graph.shapes, qparams))
        assert [own.rule for own in linted(tmp_path / "m.tflite", "static-int8", body).findings] == rules


def test_free_dimensions_and_unknown_operators_are_found_on_every_engine() -> None:
    tensors = {"a": FileTensor("int8", (-1, 4), name="image"), "b": FileTensor("int8", (-1, 4), name="out")}
    model = FileModel("tflite", (FileOp("MyOwn", ("a",), ("b",)),), tensors, ("a",), ("b",))
    for engine in LINTED:
        found = found_for(engine, model)
        free = [(own.op, own.tensor) for own in found if own.rule == "dynamic shape"]
        assert free == [("input", "image"), ("output", "out"), ("MyOwn #0", "out")]
        strange = [own.op for own in found if own.rule == "operator"]
        assert strange == ([] if engine == "cpu" else ["MyOwn #0"])  # on the CPU, LiteRT itself is asked


def test_findings_of_one_kind_are_counted_together() -> None:
    first, second = LintFinding("rank", "ADD #1", "a", "x", "c"), LintFinding("rank", "ADD #2", "b", "y", "c")
    other = LintFinding("rank", "MUL #3", "c", "z", "c")
    assert counted_findings([first, second, other]) == (LintFinding("rank", "ADD #1", "a", "x", "c", 2), other)
