from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from export.formats.tflite import write_int8, write_tflite
from export.graph.build import vit_graph
from export.graph.ir import Graph
from export.graph.rewrites import Scales
from export.inspect.against.compare import compare_operators
from export.inspect.against.kept_tensors import Computed
from export.inspect.against.operator_errors import (
    EXACT_INPUTS,
    IDENTICAL,
    OTHER_QUANTITY,
    UNKNOWN_INPUTS,
    OperatorErrors,
    errors_in_order,
)
from export.inspect.against.other_basis import BasisFinder, Fit, PairMoments
from export.inspect.inspection import compare_with_float
from export.quantise.calibrate import observe
from export.quantise.dither import last_row, shifts_of, with_row_copies
from export.quantise.integer import quantise_graph
from export.quantise.recipes import DYNAMIC, DYNAMIC_ATTENTION, RECIPES, STATIC_ATTENTION, Recipe, modes_of
from export.writers.tflite import tflite_bytes
from runtime import (
    ArtifactError,
    DataError,
    UnsupportedTargetError,
    decode,
    encode,
    normalise,
    open_engine,
    read_artifact,
)
from tests.export.small import LEAST, SMALL, small_file, small_model

Images = npt.NDArray[np.float32]
INTEGER = RECIPES["static_wi8_ai8_minmax"]


@pytest.fixture(scope="module")
def images() -> Images:
    return np.random.default_rng(1).standard_normal((6, 32, 32, 3), dtype=np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, images: Images) -> Path:
    made, model = tmp_path_factory.mktemp("files"), small_model()
    write_tflite(model, made / "float.tflite")
    for recipe in (DYNAMIC, DYNAMIC_ATTENTION, STATIC_ATTENTION, INTEGER):
        write_int8(model, made / f"{recipe.name}.tflite", images, recipe)
    np.savez(made / "images.npz", images=images)
    return made


def compared(folder: Path, name: str) -> OperatorErrors:
    return compare_operators(folder / f"{name}.tflite", folder / "float.tflite", folder / "images.npz")


@pytest.mark.parametrize("recipe", [DYNAMIC, DYNAMIC_ATTENTION, STATIC_ATTENTION, INTEGER], ids=lambda own: own.name)
def test_every_tensor_of_our_files_is_matched(folder: Path, recipe: Recipe) -> None:
    found = compared(folder, recipe.name)
    assert found.only_here == ()
    # additions of less than half a step are left out of integers
    assert all(name.endswith((".variance_eps", ".placed")) for name in found.only_there)
    assert found.matched == len(found.operators)
    assert {row.basis for row in found.operators} == {"same"}
    assert decode(OperatorErrors, encode(found), "errors") == found


def test_copies_of_a_row_are_judged_by_their_mean(folder: Path, images: Images) -> None:
    graph = vit_graph(small_model())
    seen = observe(graph, images)
    made = quantise_graph(graph, modes_of(graph, INTEGER), seen, INTEGER.ranges)
    part = last_row(made)
    # so large that each copy alone would be far off
    copied = with_row_copies(made, part, 8 * shifts_of(8, made, part))
    (folder / "copied.tflite").write_bytes(tflite_bytes(copied))
    found, single = compared(folder, "copied"), compared(folder, INTEGER.name)
    # the copies of the first Linear and of the answer stand for themselves
    ends = {f"{copied.output}.{end}" for end in ("copies", "mean")}
    assert set(found.only_here) == {*ends, *(f"{part[0]}.{copy}" for copy in range(8))}
    rows = {own.name: own for own in found.operators}
    assert {row.name for row in single.operators} == set(rows)
    before = {own.name: own for own in single.operators}
    assert rows[part[0]].sqnr_db == pytest.approx(before[part[0]].sqnr_db, abs=0.5)


def test_outputs_are_those_of_the_engine(folder: Path, images: Images) -> None:
    found = compared(folder, DYNAMIC.name)
    mine, wanted = (
        np.concatenate([open_engine(folder / f"{name}.tflite").run(image[None]) for image in images])
        for name in (DYNAMIC.name, "float")
    )
    noise = np.square(mine.astype(float) - wanted).sum()
    assert found.sqnr_db == pytest.approx(10 * math.log10(np.square(wanted.astype(float)).sum() / noise), abs=1e-3)
    assert found.top1_agreement == (mine.argmax(1) == wanted.argmax(1)).mean()
    assert found.operators[-1].sqnr_db == pytest.approx(found.sqnr_db)
    assert (found.images, found.source, found.real) == (6, "images.npz", True)


def test_a_file_against_itself_is_identical(folder: Path) -> None:
    found = compared(folder, "float")
    assert {row.reason for row in found.operators} == {IDENTICAL}
    assert {row.lost_db for row in found.operators} == {None}
    assert {row.before_reason for row in found.operators} == {EXACT_INPUTS}
    assert found.sqnr_db is None
    assert found.top1_agreement == 1.0


def changed(graph: Graph, name: str, noise: float) -> Graph:
    weight = graph.constants[name]
    added = noise * float(np.abs(weight).mean()) * np.random.default_rng(0).standard_normal(weight.shape)
    return replace(graph, constants={**graph.constants, name: weight + added})


def test_the_operator_at_fault_is_found(folder: Path) -> None:
    graph = changed(vit_graph(small_model()), "blocks.0.mlp.fc1.weight", 0.2)
    (folder / "fault.tflite").write_bytes(tflite_bytes(graph))
    found = compared(folder, "fault")
    rows = {row.name: row for row in found.operators}
    assert rows["blocks.0.norm2.normed"].reason == IDENTICAL
    fault = rows["blocks.0.mlp.fc1"]
    assert (fault.before_db, fault.before_reason) == (None, EXACT_INPUTS)
    assert fault.sqnr_db is not None
    assert 5 < fault.sqnr_db < 25
    after = rows["blocks.0.mlp.act"]
    assert after.before_db == fault.sqnr_db
    assert after.sqnr_db is not None
    assert after.lost_db == pytest.approx(after.before_db - after.sqnr_db)
    part = next(part for part in found.parts if part.part == "blocks.*.mlp.fc1")
    assert part.count == 2
    assert part.least_db == fault.sqnr_db


def test_scaled_channels_are_seen_through(folder: Path, images: Images) -> None:
    factors = tuple(np.geomspace(0.2, 5, block.num_heads * block.qk_dim) for block in SMALL.blocks)
    graph = vit_graph(small_model(), scales=Scales(qk=factors))
    made = quantise_graph(graph, modes_of(graph, DYNAMIC), observe(graph, images), DYNAMIC.ranges)
    (folder / "scaled.tflite").write_bytes(tflite_bytes(made))
    rows = {row.name: row for row in compared(folder, "scaled").operators}
    assert rows["blocks.0.attn.q"].basis == rows["blocks.0.attn.k.heads"].basis == "scaled"
    assert rows["blocks.0.attn.scores"].basis == "same"
    assert rows["blocks.0.attn.k.heads"].sqnr_db == rows["blocks.0.attn.k"].sqnr_db
    for name in ("q", "k", "scores"):
        level = rows[f"blocks.0.attn.{name}"].sqnr_db
        assert level is not None
        assert level > 30


def turned(graph: Graph) -> Graph:
    """Rotates one tensor, fc2's output of the first block, and everything behind it is another quantity."""
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((48, 48)))[0]
    at = "blocks.0.mlp.fc2"
    constants = dict(graph.constants)
    constants[f"{at}.weight"] = rotation @ constants[f"{at}.weight"]
    constants[f"{at}.bias"] = rotation @ constants[f"{at}.bias"]
    return replace(graph, constants=constants)


def test_rotated_channels_are_seen_through_and_other_quantities_are_not_judged(folder: Path, tmp_path: Path) -> None:
    more = np.random.default_rng(2).standard_normal((40, 32, 32, 3), dtype=np.float32)
    np.savez(tmp_path / "more.npz", images=more)
    (folder / "turned.tflite").write_bytes(tflite_bytes(turned(vit_graph(small_model()))))
    found = compare_operators(folder / "turned.tflite", folder / "float.tflite", tmp_path / "more.npz")
    rows = {row.name: row for row in found.operators}
    fc2 = rows["blocks.0.mlp.fc2"]
    assert fc2.basis == "rotated"
    assert fc2.sqnr_db is not None
    assert fc2.sqnr_db > 55
    behind = rows["blocks.0.mlp.fc2.stream"]  # the stream itself was not rotated
    assert behind.basis == "same"


def test_an_operator_on_rotated_channels_that_seems_to_lose_everything_is_another_quantity() -> None:
    computed = (
        Computed("x", "FULLY_CONNECTED", (), 0, "float32", (1, 5, 8)),
        Computed("x.square", "MUL", ("x", "x"), 1, "float32", (1, 5, 8)),
        Computed("x.variance", "MEAN", ("x.square",), 2, "float32", (1, 5, 1)),
        Computed("x.heads", "RESHAPE", ("x",), 3, "float32", (1, 5, 2, 4)),
    )
    fits = {"x": Fit("rotated", 1e-3), "x.square": Fit("same", 0.2), "x.variance": Fit("same", 1e-3)}
    rows = errors_in_order(computed, {**fits, "x.heads": Fit("same", 0.3)})
    assert [row.reason for row in rows] == [None, OTHER_QUANTITY, None, None]
    assert (rows[2].before_db, rows[2].before_reason) == (None, UNKNOWN_INPUTS)
    assert (rows[3].sqnr_db, rows[3].basis, rows[3].lost_db) == (rows[0].sqnr_db, "rotated", 0.0)
    plain = errors_in_order(computed, {**fits, "x": Fit("same", 1e-3)})
    assert plain[1].reason is None


def test_a_fit_hides_no_error() -> None:
    generator = np.random.default_rng(0)
    rotation = np.linalg.qr(generator.standard_normal((16, 16)))[0]
    scales = np.diag(np.geomspace(0.3, 3, 16))
    cases = [
        (20.0, np.eye(16), "same"),
        (20.0, rotation, "rotated"),
        (25.0, scales, "scaled"),
        (25.0, rotation @ scales, "mapped"),
    ]
    for noise_db, mapped, basis in cases:
        sums = PairMoments.empty(16, crossed=True)
        for image in range(200):
            x = generator.standard_normal((20, 16))
            noise = 10 ** (-noise_db / 20) * generator.standard_normal((20, 16))
            sums.add(image % 2, x, (x + noise) @ mapped)
        fit = BasisFinder().fit(sums)
        assert -10 * math.log10(fit.ratio) == pytest.approx(noise_db, abs=0.3)
        assert fit.basis == basis
    unrelated = PairMoments.empty(16, crossed=True)
    for image in range(200):
        unrelated.add(image % 2, generator.standard_normal((20, 16)), generator.standard_normal((20, 16)))
    fit = BasisFinder().fit(unrelated)
    assert fit.basis == "same"
    assert fit.ratio > 1


def test_a_matrix_needs_two_rows_for_each_channel_unless_it_is_known() -> None:
    generator, finder = np.random.default_rng(0), BasisFinder()
    rotation = np.linalg.qr(generator.standard_normal((16, 16)))[0]

    def fitted(images: int) -> Fit:
        sums = PairMoments.empty(16, crossed=True)
        for image in range(images):
            x = generator.standard_normal((1, 16))
            sums.add(image % 2, x, x @ rotation + 0.01 * generator.standard_normal((1, 16)))
        return finder.fit(sums)

    assert not fitted(40).determined
    assert fitted(64).determined
    few = fitted(40)  # by the rotation of the tensor before
    assert (few.basis, few.determined) == ("rotated", True)


def test_a_channel_that_is_rounded_away_is_lost() -> None:
    generator, sums = np.random.default_rng(0), PairMoments.empty(4, crossed=False)
    for image in range(20):
        x = generator.standard_normal((9, 4))
        sums.add(image % 2, x, x * [2.0, 3.0, 4.0, 0.0])
    fit = BasisFinder().fit(sums)
    assert fit.basis == "scaled"
    assert fit.ratio == pytest.approx(0.25, rel=0.2)


def test_images_of_the_run_are_found(folder: Path, tmp_path: Path) -> None:
    files = tmp_path / "artifacts"
    files.mkdir()
    (tmp_path / "bench").mkdir()
    file = small_file(files / "m.tflite")
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (150, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "bench" / "test-images.npz", pictures=pixels)
    found = compare_operators(file, folder / "float.tflite")
    assert (found.images, found.real) == (100, True)
    assert "its run" in found.source
    spec = read_artifact(file).preprocessing
    assert spec.width == 32
    np.savez(tmp_path / "same.npz", images=normalise(pixels, spec))
    again = compare_operators(folder / f"{DYNAMIC.name}.tflite", folder / "float.tflite", tmp_path / "same.npz")
    np.savez(tmp_path / "pixels.npz", pictures=pixels)
    write = small_file(files / "n.tflite")
    write.write_bytes((folder / f"{DYNAMIC.name}.tflite").read_bytes())
    own = compare_operators(write, folder / "float.tflite", tmp_path / "pixels.npz")
    assert own.sqnr_db == again.sqnr_db


def test_random_images_are_said_to_be_random(folder: Path) -> None:
    found = compare_operators(folder / f"{DYNAMIC.name}.tflite", folder / "float.tflite")
    assert (found.source, found.real, found.images) == ("random numbers", False, 16)


def test_requests_that_cannot_be_answered(folder: Path, tmp_path: Path, images: Images) -> None:
    quantised, floats = folder / f"{DYNAMIC.name}.tflite", folder / "float.tflite"
    write_tflite(small_model(LEAST), tmp_path / "other.tflite")
    graph = vit_graph(small_model())
    renamed = {name: f"x.{name}" for name in graph.shapes}
    (tmp_path / "renamed.tflite").write_bytes(tflite_bytes(_renamed(graph, renamed)))
    np.savez(tmp_path / "one.npz", images=images[:1])
    np.savez(tmp_path / "small.npz", images=images[:, :16])
    np.savez(tmp_path / "pixels.npz", pictures=np.zeros((3, 32, 32, 3), np.uint8))
    np.savez(tmp_path / "none.npz", labels=np.zeros(3))
    np.savez(tmp_path / "doubles.npz", images=images.astype(np.float64))
    (tmp_path / "damaged.npz").write_bytes(b"PK\3\4 nothing")
    for path, reference, file, error, text in [
        (quantised, tmp_path / "other.tflite", None, ArtifactError, "images of other shapes"),
        (floats, quantised, None, ArtifactError, "is compared with, is not a float file"),
        (quantised, tmp_path / "renamed.tflite", None, ArtifactError, "no tensor in common"),
        (quantised, floats, "one.npz", DataError, "at least 2"),
        (quantised, floats, "small.npz", DataError, "do not fit"),
        (quantised, floats, "pixels.npz", DataError, "Without a manifest"),
        (quantised, floats, "none.npz", ArtifactError, "no file of images"),
        (quantised, floats, "doubles.npz", ArtifactError, "no file of images"),
        (quantised, floats, "damaged.npz", ArtifactError, "no file of images"),
        (quantised, floats, "missing.npz", ArtifactError, "does not exist"),
    ]:
        with pytest.raises(error, match=text):
            compare_operators(path, reference, None if file is None else tmp_path / file)
    with pytest.raises(UnsupportedTargetError, match=r"a \.tflite file"):
        compare_with_float(small_file(tmp_path / "m.onnx"), floats)
    with pytest.raises(UnsupportedTargetError, match="threads"):
        compare_with_float(quantised, floats, threads=0)
    with pytest.raises(ArtifactError, match="does not exist"):
        compare_with_float(quantised, tmp_path / "missing.tflite")


def _renamed(graph: Graph, names: dict[str, str]) -> Graph:
    ops = tuple(
        replace(op, inputs=tuple(names[name] for name in op.inputs), output=names[op.output]) for op in graph.ops
    )
    constants = {names[name]: value for name, value in graph.constants.items()}
    shapes = {names[name]: shape for name, shape in graph.shapes.items()}
    return Graph(names[graph.input], names[graph.output], ops, constants, shapes)


def test_a_damaged_file_is_an_error_of_the_sandbox(folder: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.tflite"
    damaged.write_bytes((folder / f"{DYNAMIC.name}.tflite").read_bytes()[:4000])
    with pytest.raises(ArtifactError, match=r"damaged\.tflite"):
        compare_with_float(damaged, folder / "float.tflite")
    with pytest.raises(ArtifactError, match=r"damaged\.tflite"):
        compare_with_float(folder / f"{DYNAMIC.name}.tflite", damaged)
