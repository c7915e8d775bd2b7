"""The ways of quantising a graph, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from export.graph.ir import LINEAR, Graph
from export.graph.vit_parts import compares_texts
from runtime import DataError
from runtime.registry import Registry

RangeMethod = Literal["minmax", "mse", "percentile"]

Mode = Literal["float", "dynamic", "blocks", "integer"]
"""How an operator computes; ``dynamic`` has int8 weights and quantises its float input as it comes, ``blocks`` does the
same with weights of 4 bits in blocks, or int8 where their number of inputs is no multiple of a block."""


@dataclass(frozen=True)
class Ranges:
    """How integer ranges are chosen from calibrated activations.

    Attributes:
        method: ``minmax``, ``mse`` or ``percentile``, as in ``activation_qparams``.
        activations: type of every activation; weights are always int8.
        outside: whether the image and the logits are integers too.
        wide: ends of the names of operators that compute in int16 where the others compute in int8. Operators that only
            move values have the type of their input.
    """

    method: RangeMethod = "mse"
    activations: Literal["int8", "int16"] = "int8"
    outside: bool = False
    wide: tuple[str, ...] = ()

    def type_of(self, name: str) -> Literal["int8", "int16"]:
        """Returns the type of the activation that an operator computes."""
        return "int16" if name.endswith(self.wide) else self.activations


@dataclass(frozen=True)
class Recipe:
    """Which operators compute in integers.

    Attributes:
        name: as in manifests: ``w`` weights, ``a`` activations, ``i8`` int8.
        linears: mode of Linears and of the patch embedding.
        attention: mode of the two products of attention.
        others: mode of everything else.
        ranges: how integer ranges are chosen.
        equalised: whether the channels of the residual stream are first scaled to be equally large.
        rotated: whether the model is first rotated, in its residual stream and its heads.
        passes: functions ``"module:function"`` that change the integer graph one after another, such as the correction
            of biases; each takes the graph, the float graph's statistics and the calibration images, and returns a
            graph.
        float_layers: names of Linears that stay float.
        kinds: names of the kinds of file, of ``export.formats.KINDS``, whose engines run it.
    """

    name: str
    linears: Mode
    attention: Mode = "float"
    others: Mode = "float"
    ranges: Ranges = field(default_factory=Ranges)
    equalised: bool = False
    rotated: bool = False
    passes: tuple[str, ...] = ()
    float_layers: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()

    @property
    def is_int8_throughout(self) -> bool:
        """Whether every activation is int8."""
        return self.others == "integer" and self.ranges.activations == "int8" and not self.ranges.wide


COMPENSATE = ("export.quantise.compensate:compensate_weights",)
CORRECT_BIASES = ("export.quantise.simulate:correct_biases",)
BOTH = ("export.quantise.compensate:compensate_and_correct",)
"""Does what the two above do, in one run of the calibration images."""

AFTER_ROUNDING = {COMPENSATE: (), BOTH: CORRECT_BIASES}
"""The passes that are left to do where weights are rounded already."""

DYNAMIC = Recipe("dynamic_wi8_afp32", "dynamic", rotated=True, passes=BOTH, kinds=("int8",))
DYNAMIC_ATTENTION = replace(DYNAMIC, name="dynamic_wi8_afp32_attention_ai8", attention="integer")
STATIC = replace(DYNAMIC, name="static_wi8_ai8_float_islands", linears="integer")
STATIC_ATTENTION = replace(STATIC, name="static_wi8_ai8_attention_ai8_float_islands", attention="integer")

ONNX_RECIPES = tuple(
    Recipe(
        f"static_wi8_au8_{method}",
        "integer",
        ranges=Ranges(method),
        rotated=True,
        passes=BOTH,
        kinds=("onnx-int8",),
    )
    for method in ("mse", "minmax")
)
"""int8 weights for each output, inputs of Linears in uint8 with calibrated ranges, everything else float32.

Ranges taken from the input as it comes would be those of a whole batch: an image would be answered differently in a
batch than alone.
"""


def _integer_throughout(activations: Literal["int8", "int16"], method: RangeMethod, equalised: bool) -> Recipe:
    """Returns a recipe with integers throughout, in the input and the output too."""
    kinds = ("int8-full", "static-int8", "tflite-micro") if activations == "int8" else ("int8-full-16x8",)
    name = f"static_wi8_a{activations.replace('nt', '')}_{method}{'_equalised' if equalised else ''}"
    ranges = Ranges(method, activations, outside=True)
    return Recipe(name, "integer", "integer", "integer", ranges, equalised, not equalised, BOTH, kinds=kinds)


_STREAM = ("patch_embed", "patches.placed", "tokens", "tokens.placed", "pre", ".stream", ".stream.mean", "pooled")
_NORMS = (
    ".square",
    ".variance",
    ".variance_eps",
    ".rsqrt",
    ".normed",
    ".centred",
    "norm.mean",
    "norm1.mean",
    "norm2.mean",
)
_MLP = ("mlp.fc1", "mlp.gate", "mlp.gated", "mlp.fc2", "mlp.act", "mlp.act.logistic", "mlp.act.inside", "mlp.act.mean")
_ATTENTION = ("attn.proj", "attn.softmax", "attn.mixed")

_MIXED = Ranges("mse", "int8", outside=True, wide=(*_STREAM, *_NORMS, *_MLP, *_ATTENTION))

MIXED = Recipe(
    "static_wi8_a16_qkv_a8", "integer", "integer", "integer", _MIXED, False, True, BOTH, kinds=("int8-full-mixed",)
)
"""int16 where int8 loses most; image, queries, keys, values, their products and logits are int8."""

BLOCKS = replace(DYNAMIC, name="dynamic_wi4b32_afp32", linears="blocks", kinds=("int4",))
BLOCKS_ATTENTION = replace(BLOCKS, name="dynamic_wi4b32_afp32_attention_ai8", attention="integer")

RECIPES: Registry[Recipe] = Registry("recipe of integers", {}, error=DataError)
"""Recipes by name, each kind's in the order in which they are tried."""

for _recipe in (
    *(DYNAMIC, DYNAMIC_ATTENTION, STATIC, STATIC_ATTENTION),
    *(BLOCKS, BLOCKS_ATTENTION),
    *ONNX_RECIPES,
    MIXED,
    *(_integer_throughout("int8", method, False) for method in ("mse", "minmax", "percentile")),
    *(_integer_throughout("int8", method, True) for method in ("mse", "percentile")),
    *(_integer_throughout("int16", "minmax", equalised) for equalised in (False, True)),
):
    RECIPES.register(_recipe.name, _recipe)


def recipes_for(kind: str) -> tuple[Recipe, ...]:
    """Returns the recipes that suit a kind of file of ``export.formats.KINDS``."""
    return tuple(recipe for recipe in RECIPES.values() if kind in recipe.kinds)


def modes_of(graph: Graph, recipe: Recipe) -> Mapping[str, Mode]:
    """Says how each operator of ``graph`` counts."""
    modes: dict[str, Mode] = {}
    for op in graph.ops:
        if op.output.startswith("stem."):
            continue  # a convolutional stem stays in float32
        if op.kind in LINEAR and not op.output.endswith(".variance"):
            modes[op.output] = "float" if op.output in recipe.float_layers else recipe.linears
            if compares_texts(graph, op) and modes[op.output] == "integer" and "int8" in recipe.kinds:
                # most of a logit is the same for all texts, and steps of 8 bits are large beside the differences
                modes[op.output] = "dynamic"
        elif op.kind == "batch_matmul":
            modes[op.output] = _product(graph, op.inputs, recipe)
        elif recipe.others != "float":
            modes[op.output] = recipe.others
    return modes


def _product(graph: Graph, inputs: tuple[str, ...], recipe: Recipe) -> Mode:
    if recipe.others == "integer":
        return "integer"
    if inputs[1] in graph.constants:
        # the weights of a key or a value that one query goes through: there is no static int8 form with float islands
        return "dynamic"
    # a single query: conversions would cost more than the product
    return recipe.attention if len(graph.shapes[inputs[0]]) > 2 and graph.shapes[inputs[0]][-2] > 1 else "float"
