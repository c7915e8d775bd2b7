from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress import SlicedViT
from export import DYNAMIC, Template, make_template, read_widths, resize, write_quantised, write_tflite
from runtime import ArtifactError, BlockPlan, ShapePlan, open_engine

PLAN = ShapePlan((32, 32), (8, 8), 1, 10, 64, (BlockPlan(3, 32, 32, 256), BlockPlan(3, 32, 32, 256)), 0.177)
ARCHITECTURES = {
    "vit": PLAN,
    "colour": replace(PLAN, in_chans=3, num_classes=7),
    "deit": replace(PLAN, dist_token=True),
    "registers": replace(PLAN, reg_tokens=4, pooling="avg", norm="after_pool", pos_embed="patches", layer_scale=True),
}


@pytest.fixture(scope="session")
def templates() -> dict[str, Template]:
    return {name: make_template(plan, 2) for name, plan in ARCHITECTURES.items()}


def operators(path: Path) -> list[tuple[int, list[list[int]], list[list[int]]]]:
    """Every operator of a file: its kind, and the shapes of what it reads and writes."""
    from ai_edge_litert import schema_py_generated as schema

    model: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    graph = model.subgraphs[0]
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]

    def shapes(indices: Any) -> list[list[int]]:
        own = [graph.tensors[int(i)].shape for i in indices]
        return [[] if shape is None else np.atleast_1d(shape).tolist() for shape in own]

    return [(codes[op.opcodeIndex], shapes(op.inputs), shapes(op.outputs)) for op in graph.operators]


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_is_the_file_that_an_export_would_write(name: str, templates: dict[str, Template], tmp_path: Path) -> None:
    plan = replace(ARCHITECTURES[name], embed_dim=48, blocks=(BlockPlan(2, 16, 24, 72), BlockPlan(3, 8, 32, 200)))
    made, exported = tmp_path / "made.tflite", tmp_path / "exported.tflite"
    made.write_bytes(resize(templates[name], plan))
    write_tflite(SlicedViT(plan).eval(), exported)
    assert operators(made) == operators(exported)
    assert read_widths(made, plan) == plan
    assert made.stat().st_size == pytest.approx(exported.stat().st_size, rel=0.2)
    batch = np.random.default_rng(0).standard_normal((1, 32, 32, plan.in_chans), np.float32)
    assert np.isfinite(open_engine(made).run(batch)).all()


@pytest.mark.slow
def test_random_widths_run_in_both_precisions(templates: dict[str, Template], tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    batch = rng.standard_normal((1, 32, 32, 1), np.float32)
    for number in range(12):
        blocks = tuple(
            BlockPlan(
                int(rng.integers(1, 4)), *(8 * int(rng.integers(1, 5)) for _ in range(2)), 8 * int(rng.integers(1, 33))
            )
            for _ in range(2)
        )
        plan = replace(PLAN, embed_dim=8 * int(rng.integers(1, 25)), blocks=blocks)
        path, small = tmp_path / f"{number}.tflite", tmp_path / f"{number}.int8.tflite"
        path.write_bytes(resize(templates["vit"], plan, seed=number))
        write_quantised(path, small, DYNAMIC)
        assert read_widths(path, plan) == plan
        for file in (path, small):
            assert np.isfinite(open_engine(file).run(batch)).all()
    assert resize(templates["vit"], plan, seed=1) == resize(templates["vit"], plan, seed=1)


@pytest.mark.slow
def test_another_architecture_or_depth_is_refused(templates: dict[str, Template]) -> None:
    for other in (replace(PLAN, num_classes=11), replace(PLAN, blocks=PLAN.blocks[:1])):
        with pytest.raises(ArtifactError, match="not of the template's architecture"):
            resize(templates["vit"], other)


@pytest.mark.slow
def test_a_size_of_unknown_origin_is_refused(templates: dict[str, Template]) -> None:
    told = templates["vit"].plan
    lying = Template(replace(told, embed_dim=told.embed_dim + 8), templates["vit"].content)
    with pytest.raises(ArtifactError, match="size of unknown origin"):
        resize(lying, PLAN)
