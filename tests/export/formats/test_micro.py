from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.data.augment import Augmentation
from compress.data.batches import plain_batches
from compress.data.dataset import Dataset
from compress.evaluate import logits_of
from compress.model.load import ModelSpec, load_model
from compress.model.vit import SlicedViT
from compress.recipe import TrainRecipe
from compress.train.fit import fit
from export.compare import compare_logits, real_logits
from export.formats.micro import GELU_SLOPE, MICRO_KINDS, check_micro, micro_graph
from export.formats.micro import run_micro as run_micro_file
from export.formats.micro_limits import DEFAULT_LIMITS, MicroLimits
from export.graph.build import vit_graph
from export.graph.execute import run_graph
from export.graph.ir import STEM_KINDS, Builder, Graph
from export.graph.rewrites import DEFAULT_REWRITES, NO_REWRITES, Rewrites
from export.quantise.calibrate import observe
from export.quantise.integer import quantise_graph
from export.quantise.recipes import Ranges, modes_of, recipes_for
from export.quantise.simulate import correct_biases
from export.writers.tflite import tflite_bytes
from runtime import ArtifactError, DataError, MissingExtraError, UnsupportedTargetError
from tests.export.conftest import SPEC, uneven
from tests.export.graph.test_build import ARCHITECTURES, VIT, images_for, model_of

needs_micro = pytest.mark.skipif(
    importlib.util.find_spec("tflite_micro") is None, reason="tflite-micro is not installed: pip install tflite-micro"
)
GELUS = [name for name, plan in ARCHITECTURES.items() if plan.act.startswith("gelu")]
FULL_INT8 = recipes_for("int8-full")[0]


def int8_graph(graph: Graph, images: np.ndarray, prepare: Callable[[Graph], Graph] = micro_graph) -> Graph:
    """Quantises as the exporter does: prepared first, so that ranges and corrections are those of what runs."""
    prepared = prepare(graph)
    seen = observe(prepared, images)
    made = quantise_graph(prepared, modes_of(prepared, FULL_INT8), seen, FULL_INT8.ranges)
    return correct_biases(made, seen, images)


def int8_file(path: Path, prepare: Callable[[Graph], Graph] = micro_graph) -> Path:
    path.write_bytes(tflite_bytes(int8_graph(vit_graph(model_of(VIT)), images_for(VIT, 4).numpy(), prepare)))
    return path


# the graph


def test_the_approximation_is_as_close_as_its_paper_says() -> None:
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    error = float((torch.nn.functional.gelu(x) - x * torch.sigmoid(GELU_SLOPE * x)).abs().max())
    assert error == pytest.approx(0.0203, abs=1e-4)


@pytest.mark.parametrize("name", GELUS)
@pytest.mark.parametrize("rewrites", [DEFAULT_REWRITES, NO_REWRITES, DEFAULT_REWRITES.without("fold_scale")])
def test_gelu_becomes_exactly_a_sigmoid_gate_that_costs_one_operator(name: str, rewrites: Rewrites) -> None:
    plan = ARCHITECTURES[name]
    model, images = model_of(plan), images_for(plan).double()
    gated = SlicedViT(replace(plan, act="quick_gelu")).eval()
    gated.load_state_dict(model.state_dict())
    graph = vit_graph(model, rewrites)
    micro = micro_graph(graph)
    with torch.no_grad():
        wanted = gated.double()(images.permute(0, 3, 1, 2))
        got = run_graph(micro, images)
    assert float((got - wanted).abs().max() / wanted.abs().max()) <= 1e-12
    assert {op.kind for op in micro.ops} <= set(MICRO_KINDS)
    assert len(micro.ops) == len(graph.ops) + len(plan.blocks)
    assert {name for op in micro.ops for name in (*op.inputs, op.output)} == set(micro.shapes)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in GELUS])
def test_other_activations_stay_as_they_are(name: str) -> None:
    graph = vit_graph(model_of(ARCHITECTURES[name]))
    micro = micro_graph(graph)
    assert micro.ops == graph.ops
    assert micro.constants.keys() == graph.constants.keys()


@pytest.mark.parametrize("case", ["image", "relu", "seen_by_others", "shared", "answer", "no_linear", "one_leads_out"])
def test_a_slope_that_no_linear_can_take_is_multiplied(case: str) -> None:
    rng = np.random.default_rng(0)
    g = Builder((1, 2, 3, 4))
    weight = rng.normal(size=(4, 4))
    x = "image" if case == "image" else g.linear("image", weight, rng.normal(size=4), "fc1")
    if case == "relu":
        x = g.linear(x, weight, None, "fc1b", act="relu")
    gelu = g.op("gelu", [x], "act", approximate=False)
    out = gelu if case == "answer" else g.linear(gelu, rng.normal(size=(5, 4)), None, "fc2")
    if case == "seen_by_others":
        out = g.linear(g.op("add", [gelu, x], "sum"), rng.normal(size=(5, 4)), None, "fc3")
    if case == "shared":
        out = g.op("add", [gelu, g.op("fully_connected", [gelu, "fc1.weight"], "again", act="none")], "both")
    if case == "no_linear":
        out = g.op("softmax", [g.op("mean", [gelu], "mean", axis=(-2,))], "soft")
    if case == "one_leads_out":
        out = g.op("concatenation", [out, gelu], "both", axis=-1)
    graph = g.graph(out)
    micro, images = micro_graph(graph), torch.randn((3, 2, 3, 4), dtype=torch.float64)
    assert "act.slope" in micro.constants
    assert {op.kind for op in micro.ops} <= set(MICRO_KINDS)

    values: dict[str, torch.Tensor] = {}

    def gated(name: str, value: torch.Tensor) -> torch.Tensor:
        values[name] = value
        return values[x] * torch.sigmoid(GELU_SLOPE * values[x]) if name == "act" else value

    torch.testing.assert_close(run_graph(micro, images), run_graph(graph, images, gated), rtol=1e-12, atol=1e-12)


def test_an_operator_it_lacks_is_refused() -> None:
    g = Builder((1, 2, 2, 1))
    with pytest.raises(UnsupportedTargetError, match=r"TensorFlow Lite Micro cannot compute.*Got tanh"):
        micro_graph(g.graph(g.op("tanh", ["image"], "y")))


# limits


def test_a_file_that_fits_exactly_is_accepted() -> None:
    check_micro("m.tflite", DEFAULT_LIMITS.flash_bytes, DEFAULT_LIMITS.ram_bytes)


@pytest.mark.parametrize(
    ("file_bytes", "arena_bytes", "cure", "other"),
    [(1001, 500, "smaller budget", "fewer tokens"), (1000, 501, "fewer tokens", "smaller budget")],
)
def test_a_file_without_room_is_refused_with_the_cure(file_bytes: int, arena_bytes: int, cure: str, other: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        check_micro("m.tflite", file_bytes, arena_bytes, MicroLimits(1000, 500))
    text = str(caught.value)
    assert all(part in text for part in ("m.tflite", "1000", "500", str(file_bytes), str(arena_bytes), cure))
    assert other not in text


@pytest.mark.parametrize("name", ["flash_bytes", "ram_bytes"])
def test_limits_are_positive(name: str) -> None:
    with pytest.raises(DataError, match=f"{name} must be positive"):
        MicroLimits(**{name: 0})


# the interpreter


def _fc(g: Builder, x: str) -> str:
    return g.linear(x, _normal(5, 4) * np.logspace(-2, 1, 5)[:, None], _normal(5), "y")


def _product(shape: tuple[int, ...], adj_y: bool) -> Callable[[Builder, str], str]:
    def build(g: Builder, x: str) -> str:
        a = g.op("reshape", [x], "a", shape=shape)
        return g.op("batch_matmul", [a, g.op("relu", [a], "b")], "y", adj_y=adj_y)

    return build


def _constant_product(g: Builder, x: str) -> str:
    a = g.op("reshape", [x], "a", shape=(4, 8, 8))
    return g.op("batch_matmul", [a, g.constant("c", _normal(4, 5, 8))], "y", adj_y=True)


def _pair(kind: str, axis: int | None) -> Callable[[Builder, str], str]:
    def build(g: Builder, x: str) -> str:
        a = g.op("reshape", [x], "a", shape=(64, 4))
        b = g.op("relu", [a], "b") if axis is None else g.op("mean", [a], "b", axis=(axis,))
        return g.op(kind, [a, b], "y")

    return build


def _with_constant(kind: str, shape: tuple[int, ...]) -> Callable[[Builder, str], str]:
    return lambda g, x: g.op(kind, [x, g.constant("c", _normal(*shape))], "y")


def _single(kind: str, shape: tuple[int, ...], **options: object) -> Callable[[Builder, str], str]:
    return lambda g, x: g.op(kind, [g.op("reshape", [x], "a", shape=shape)], "y", **options)


def _rsqrt(g: Builder, x: str) -> str:
    power = g.op("mean", [g.op("mul", [x, x], "square")], "power", axis=(-1,))
    return g.op("rsqrt", [g.op("add", [power, g.constant("eps", np.full((1, 1, 1, 1), 0.01))], "safe")], "y")


def _concatenation(g: Builder, x: str) -> str:
    a = g.op("reshape", [x], "a", shape=(1, 64, 4))
    return g.op("concatenation", [g.constant("c", _normal(1, 1, 4)), g.op("relu", [a], "b"), a], "y", axis=-2)


def _conv(g: Builder, x: str) -> str:
    weight = _normal(5, 4, 4, 4) * np.logspace(-1, 1, 5)[:, None, None, None]
    return g.op("conv_2d", [x, g.constant("w", weight), g.constant("bias", _normal(5))], "y", stride=(4, 4))


def _normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).normal(size=shape)


OPERATORS: dict[str, Callable[[Builder, str], str]] = {
    "fully_connected": _fc,
    "conv_2d": _conv,
    "batch_matmul": _product((4, 8, 8), False),
    "batch_matmul transposed": _product((1, 4, 8, 8), True),
    "batch_matmul of a constant": _constant_product,
    "add": _pair("add", None),
    "add of a row": _pair("add", -2),
    "sub of a column": _pair("sub", -1),
    "sub": _pair("sub", None),
    "squared_difference": _pair("squared_difference", None),
    "mul": _pair("mul", None),
    "mul by a column": _pair("mul", -1),
    "mul by a constant": _with_constant("mul", (1, 1, 1, 1)),
    "mul by a constant row": _with_constant("mul", (1, 1, 1, 4)),
    "softmax": _single("softmax", (4, 8, 8)),
    "logistic": _single("logistic", (64, 4)),
    "relu": _single("relu", (64, 4)),
    "rsqrt": _rsqrt,
    "mean of rows": _single("mean", (64, 4), axis=(-1,)),
    "mean of columns": _single("mean", (1, 64, 4), axis=(-2,)),
    "reshape": lambda g, x: g.op("reshape", [x], "y", shape=(4, 64)),
    "transpose of 3": _single("transpose", (4, 8, 8), perm=(1, 0, 2)),
    "transpose of 4": _single("transpose", (2, 4, 8, 4), perm=(0, 2, 1, 3)),
    "concatenation": _concatenation,
    "slice": _single("slice", (1, 64, 4), begin=(0, 3, 0), size=(1, 5, 4)),
}
# what computes an intermediate tensor may round it to a neighbour, which the next operator magnifies
STEPS = {"mul by a column": 3, "add of a row": 2, "sub of a column": 2, "rsqrt": 2}


def test_every_kind_is_tried() -> None:
    assert {name.split()[0] for name in OPERATORS} | {"quantize", "dequantize"} == {*MICRO_KINDS} - {*STEM_KINDS}


@needs_micro
@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_gives_the_integers_that_litert_gives(name: str, tmp_path: Path) -> None:
    g = Builder((1, 8, 8, 4))
    answer = OPERATORS[name](g, "image")
    graph = g.graph(g.op("reshape", [answer], "row", shape=(1, int(np.prod(g.shapes[answer])))))
    images = np.random.default_rng(1).normal(size=(8, 8, 8, 4)).astype(np.float32)
    made = quantise_graph(
        graph, {op.output: "integer" for op in graph.ops}, observe(graph, images), Ranges("minmax", outside=True)
    )
    path = tmp_path / "one.tflite"
    path.write_bytes(tflite_bytes(made))
    wanted = real_logits(path, images)
    got = run_micro_file(path, images).logits
    step = made.qparams[made.output].scale[0]
    assert np.abs(got - wanted).max() <= (STEPS.get(name, 1) + 0.01) * step
    sqnr_db = compare_logits(got, wanted, None, "").sqnr_db
    assert sqnr_db is None or sqnr_db > 30


@needs_micro
@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_runs_and_answers_as_in_litert(name: str, tmp_path: Path) -> None:
    plan, path = ARCHITECTURES[name], tmp_path / "tiny.tflite"
    images = images_for(plan, 8).numpy()
    path.write_bytes(tflite_bytes(int8_graph(vit_graph(model_of(plan)), images)))
    told: list[int] = []
    run = run_micro_file(path, images, lambda stage, done, total, note="": told.append(done))
    parity = compare_logits(run.logits, real_logits(path, images), None, "", not plan.is_vector)
    assert parity.sqnr_db is None or parity.sqnr_db > 15
    assert (told[0], told[-1]) == (1, 8)
    assert run.file_bytes == path.stat().st_size
    assert "dev" in run.version or run.version[0].isdigit()


@needs_micro
@pytest.mark.slow
def test_the_arena_reported_is_enough_and_16_bytes_less_are_not(tmp_path: Path) -> None:
    path = int8_file(tmp_path / "tiny.tflite")
    arena = run_micro_file(path, images_for(VIT, 1).numpy()).arena_bytes
    program = (
        "import sys, numpy; from tflite_micro import runtime\n"
        "i = runtime.Interpreter.from_file(sys.argv[1], arena_size=int(sys.argv[2]))\n"
        "i.set_input(numpy.zeros((1, 32, 32, 3), numpy.int8), 0); i.invoke()"
    )
    ended = [
        subprocess.run([sys.executable, "-c", program, str(path), str(room)], capture_output=True).returncode
        for room in (arena, arena - 16)
    ]
    assert ended[0] == 0
    assert ended[1] != 0


@needs_micro
@pytest.mark.slow
def test_what_it_cannot_run_is_a_clear_error(tmp_path: Path) -> None:
    images = images_for(VIT, 1).numpy()
    plain = int8_file(tmp_path / "gelu.tflite", prepare=lambda graph: graph)
    with pytest.raises(ArtifactError, match=r"cannot run .*gelu\.tflite.*'GELU'.*export it again"):
        run_micro_file(plain, images)
    floats = tmp_path / "float.tflite"
    floats.write_bytes(tflite_bytes(micro_graph(vit_graph(model_of(VIT)))))
    with pytest.raises(ArtifactError, match=r"Expected an int8 input and output.*Got float32"):
        run_micro_file(floats, images)
    whole = int8_file(tmp_path / "whole.tflite").read_bytes()
    damaged = tmp_path / "damaged.tflite"
    for content in (b"", b"no model", whole[:2000], whole[:-5000], whole[: len(whole) // 2] + bytes(len(whole) // 2)):
        damaged.write_bytes(content)
        with pytest.raises(ArtifactError, match=r"damaged\.tflite"):
            run_micro_file(damaged, images)


@needs_micro
@pytest.mark.slow
def test_images_of_another_shape_are_refused(tmp_path: Path) -> None:
    path = int8_file(tmp_path / "tiny.tflite")
    with pytest.raises(DataError, match=r"Expected \('N', 32, 32, 3\)\. Got \('N', 16, 32, 3\)"):
        run_micro_file(path, np.zeros((2, 16, 32, 3), np.float32))


@needs_micro
@pytest.mark.slow
def test_a_hang_is_ended(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="hung on"):
        run_micro_file(int8_file(tmp_path / "tiny.tflite"), images_for(VIT, 1).numpy(), silence_s=0.001)


@pytest.mark.parametrize(
    "images",
    [np.zeros((0, 4, 4, 1)), np.zeros((4, 4, 1)), np.full((1, 4, 4, 1), np.nan), np.full((1, 4, 4, 1), np.inf)],
)
def test_images_that_are_none_are_refused(images: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "any.tflite"
    path.write_bytes(b"any")
    with pytest.raises(DataError, match="Images must be finite"):
        run_micro_file(path, images.astype(np.float32))


def test_what_is_no_file_of_the_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    for name in ("missing.tflite", "model.onnx"):
        with pytest.raises(ArtifactError, match=r"Expected an existing \.tflite file"):
            run_micro_file(tmp_path / name, np.zeros((1, 4, 4, 1), np.float32))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "error", "text"),
    [
        ("raise ImportError", MissingExtraError, r"pip install 'pocketvit\[micro\]'"),
        ("import os; os.abort()", ArtifactError, "crashed on .*signal SIGABRT"),
        ("import os; os.write(2, b'out of luck'); os._exit(3)", ArtifactError, "exit status 3 out of luck"),
    ],
)
def test_an_interpreter_that_is_missing_or_dies_is_a_clear_error(
    body: str, error: type[Exception], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tflite_micro").mkdir()
    (tmp_path / "tflite_micro" / "__init__.py").write_text(body)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    path = tmp_path / "any.tflite"
    path.write_bytes(b"any")
    with pytest.raises(error, match=text):
        run_micro_file(path, np.zeros((1, 4, 4, 1), np.float32))


# all of it


@needs_micro
@pytest.mark.slow
def test_a_sliced_model_keeps_its_accuracy_on_the_microcontroller(digits: Dataset, tmp_path: Path) -> None:
    overrides = {"embed_dim": 48, "depth": 2, "num_heads": 3}
    model = uneven(load_model(ModelSpec("vit_tiny_patch16_224", 32, 8, 1, overrides=overrides), 10))
    recipe = TrainRecipe(epochs=25, batch_size=32, lr=2e-3, head_lr=2e-3, warmup=0.1, patience=25, clip_norm=1.0)
    model = fit(model, digits, SPEC, recipe, augmentation=Augmentation(mirror=0.0, jitter=0.1)).model
    labels, reference = digits.labels[digits.test], logits_of(model, digits, digits.test, SPEC)

    def images_at(indices: np.ndarray) -> np.ndarray:
        batches = [images.numpy() for images, _ in plain_batches(digits, indices, SPEC)]
        return np.ascontiguousarray(np.concatenate(batches).transpose(0, 2, 3, 1))

    path = tmp_path / "digits.micro.tflite"
    path.write_bytes(tflite_bytes(int8_graph(vit_graph(model), images_at(digits.held_out[:128]))))
    run = run_micro_file(path, images_at(digits.test))
    parity = compare_logits(run.logits, reference, labels)
    assert parity.reference_top1 is not None
    assert parity.top1 is not None
    assert parity.reference_top1 > 0.9
    assert abs(parity.top1 - parity.reference_top1) <= 0.01
    assert run.file_bytes <= 2**20
    check_micro(path.name, run.file_bytes, run.arena_bytes, MicroLimits(ram_bytes=64 * 2**10))
    with pytest.raises(ArtifactError, match=f"{run.file_bytes} and {run.arena_bytes} bytes"):
        check_micro(path.name, run.file_bytes, run.arena_bytes, MicroLimits(ram_bytes=run.arena_bytes - 1))
