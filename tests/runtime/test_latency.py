from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import ArtifactError, BlockPlan, LatencyCheck, PlanError, ShapePlan, WidthGrid, check_fits, latency_of
from runtime.latency import LATENCY_DOCUMENT
from tests.tables import model_ns, stair_table

PLAN = ShapePlan((16, 16), (8, 8), 1, 10, 48, (BlockPlan(2, 16, 24, 96), BlockPlan(3, 24, 8, 64)), 0.25)
TABLE = stair_table(PLAN)


def test_a_grid_is_exact_at_its_knots_and_linear_between_them() -> None:
    axes = ((8, 16, 32), (1, 3), (8, 64))
    grid = WidthGrid(axes, tuple(2.0 * a + 10.0 * b + 0.5 * c for a, b, c in product(*axes)))
    for a, b, c in [(8, 1, 8), (32, 3, 64), (24, 2, 36), (12, 1, 8), (16, 3, 40)]:
        assert grid.at(a, b, c) == pytest.approx(2.0 * a + 10.0 * b + 0.5 * c)
    assert grid.at(64, 3, 64) == grid.at(32, 3, 64)
    bent = WidthGrid(((0, 2), (0, 2)), (0.0, 0.0, 0.0, 4.0))
    assert bent.at(1, 1) == 1.0


@pytest.mark.parametrize(
    ("axes", "ns"), [(((8, 8),), (1.0, 2.0)), (((16, 8),), (1.0, 2.0)), (((8, 16),), (1.0,)), (((),), ())]
)
def test_a_grid_that_is_none_is_refused(axes: tuple[tuple[int, ...], ...], ns: tuple[float, ...]) -> None:
    with pytest.raises(ArtifactError):
        WidthGrid(axes, ns)


BLOCKS = st.builds(
    BlockPlan,
    st.integers(1, 3),
    st.sampled_from([8, 16, 24]),
    st.sampled_from([8, 16, 24]),
    st.sampled_from([8, 32, 40, 96]),
)


@given(st.sampled_from([8, 24, 48]), BLOCKS, BLOCKS, BLOCKS, BLOCKS, st.sampled_from([0.0, 0.31, 1.0, 1.5]))
def test_latency_is_additive_over_blocks(
    c: int, a: BlockPlan, b: BlockPlan, other: BlockPlan, last: BlockPlan, share: float
) -> None:
    latency = latency_of(replace(TABLE, last_share=share))

    def of(*blocks: BlockPlan) -> int:
        return latency(replace(PLAN, embed_dim=c, blocks=blocks))

    mixed = BlockPlan(a.num_heads, a.qk_dim, a.v_dim, b.mlp_dim)
    back = BlockPlan(b.num_heads, b.qk_dim, b.v_dim, a.mlp_dim)
    assert of(a, other, last) - of(b, other, last) == of(other, a, last) - of(other, b, last)
    assert of(a, last) - of(b, last) == of(a, other) - of(b, other)
    assert of(mixed, back, last) == of(a, b, last)
    assert of(last, mixed) + of(last, back) == of(last, a) + of(last, b)
    assert isinstance(of(a, b), int)


@given(st.sampled_from([8, 24, 48]), BLOCKS, BLOCKS, st.sampled_from([0.0, 0.31, 1.0, 1.5]))
def test_the_last_block_costs_its_share(c: int, a: BlockPlan, b: BlockPlan, share: float) -> None:
    latency, least = latency_of(replace(TABLE, last_share=share)), BlockPlan(1, 8, 8, 8)

    def of(*blocks: BlockPlan) -> int:
        return latency(replace(PLAN, embed_dim=c, blocks=blocks))

    before, after = of(a, least) - of(b, least), of(least, a) - of(least, b)
    assert after == pytest.approx(share * before, abs=6)  # each part is rounded by itself
    assert of(a) - of(b) == after
    if share == 1:
        assert of(a, b) == of(b, a)


@pytest.mark.parametrize("share", [-0.1, 1.6, float("nan")])
def test_a_last_block_that_costs_more_than_others_is_refused(share: float) -> None:
    with pytest.raises(ArtifactError, match="last block's share"):
        replace(TABLE, last_share=share)


def test_it_predicts_the_machine_it_was_made_of() -> None:
    latency = latency_of(TABLE)
    narrower = replace(PLAN, embed_dim=40, blocks=(BlockPlan(1, 8, 16, 56), BlockPlan(3, 16, 8, 8)))
    for plan in (PLAN, narrower):
        assert latency(plan) == pytest.approx(model_ns(plan), rel=0.02)


def test_it_survives_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    LATENCY_DOCUMENT.write(path, TABLE)
    assert LATENCY_DOCUMENT.read(path) == TABLE
    document = json.loads(path.read_text())
    assert document["schema"] == "pocketvit.latency"
    document["table"]["mlp"]["ns"].pop()
    path.write_text(json.dumps(document))
    with pytest.raises(ArtifactError):
        LATENCY_DOCUMENT.read(path)
    LATENCY_DOCUMENT.write(path, TABLE)
    document = json.loads(path.read_text())
    document["table"]["last_share"] = 2
    path.write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match=r"Expected 0 to 1\.5"):
        LATENCY_DOCUMENT.read(path)
    with pytest.raises(ArtifactError, match="not exist"):
        LATENCY_DOCUMENT.read(tmp_path / "none.json")


def test_a_table_of_an_older_form_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    LATENCY_DOCUMENT.write(path, TABLE)
    document = json.loads(path.read_text())
    document["schema_version"] = 1
    del document["table"]["last_share"]
    path.write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match=r"older PocketViT.*pocketvit profile"):
        LATENCY_DOCUMENT.read(path)


def test_a_table_of_another_architecture_is_refused() -> None:
    check_fits(TABLE, PLAN)
    check_fits(TABLE, replace(PLAN, embed_dim=24, attn_scale=0.5, blocks=PLAN.blocks[:1]))
    for other in (
        replace(PLAN, img_size=(32, 32)),
        replace(PLAN, num_classes=11),
        replace(PLAN, embed_dim=56),
        replace(PLAN, blocks=(BlockPlan(4, 8, 8, 8),)),
    ):
        with pytest.raises(PlanError, match=r"another architecture.*pocketvit profile"):
            check_fits(TABLE, other)


def test_the_error_is_a_share_of_the_measured_time() -> None:
    assert LatencyCheck(PLAN, 110, 100).error == pytest.approx(0.1)
    checks = tuple(LatencyCheck(PLAN, 100 + n, 100) for n in (1, 20, 3))
    assert replace(TABLE, checks=checks).median_error == pytest.approx(0.03)
