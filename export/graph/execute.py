"""Computes a graph in torch, to compare it with its model, to observe its activations and to train it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F

from .ir import Graph, Op

_LEAST_VARIANCE = 1e-12

Hook = Callable[[str, torch.Tensor], torch.Tensor]
"""Called with the name and the value ``(B, …)`` of every computed tensor; returns the value to continue with."""


Before = Callable[[Op, list[torch.Tensor]], list[torch.Tensor]]
"""Called with every operator and its inputs; returns the inputs to compute it with."""


def run_graph(
    graph: Graph,
    images: torch.Tensor,
    hook: Hook | None = None,
    constants: dict[str, torch.Tensor] | None = None,
    before: Before | None = None,
) -> torch.Tensor:
    """Computes ``graph`` for a batch of images.

    Args:
        graph: any graph; its integer tensors are computed as real numbers, unless ``hook`` rounds them.
        images: ``(B, H, W, C)``; their type is the type of the computation.
        hook: observes and may replace every computed tensor, the images included.
        constants: values that replace constants of the graph, for training.
        before: observes and may replace the inputs of every operator, constants included.

    Returns:
        Logits or vectors ``(B, classes)``, or grids ``(B, rows, columns, values)``.
    """
    values: dict[str, torch.Tensor] = {}
    for name in graph.constants:
        given = (constants or {}).get(name)
        value = torch.from_numpy(np.asarray(graph.constants[name])) if given is None else given
        values[name] = value.to(images.dtype)
    readers = _last_readers(graph)
    # every computed tensor has the batch before its own dimensions
    values[graph.input] = _seen(hook, graph.input, images.unsqueeze(1))
    for position, op in enumerate(graph.ops):
        batched = [name not in graph.constants for name in op.inputs]
        inputs = [values[name] for name in op.inputs]
        result = _compute(op, inputs if before is None else before(op, inputs), batched, len(images))
        values[op.output] = _seen(hook, op.output, result)
        for name in {name for name in op.inputs if readers[name] == position}:
            del values[name]
    shape = graph.shapes[graph.output]
    return values[graph.output].reshape(
        len(images), *(shape[1:] if len(shape) == len(graph.shapes[graph.input]) else (-1,))
    )


def _seen(hook: Hook | None, name: str, value: torch.Tensor) -> torch.Tensor:
    return value if hook is None else hook(name, value)


def _last_readers(graph: Graph) -> dict[str, int]:
    return {name: position for position, op in enumerate(graph.ops) for name in op.inputs}


def _compute(op: Op, inputs: list[torch.Tensor], batched: list[bool], count: int) -> torch.Tensor:
    x, options = inputs[0], op.options
    match op.kind:
        case "fully_connected":
            result = F.linear(x, inputs[1], inputs[2] if len(inputs) > 2 else None)
            return result.relu() if options.get("act") == "relu" else result
        case "conv_2d":
            bias = inputs[2] if len(inputs) > 2 else None
            result = F.conv2d(x.flatten(0, 1).movedim(-1, 1), inputs[1].movedim(-1, 1), bias, options["stride"])
            return result.movedim(1, -1).unsqueeze(1)
        case "conv":
            result = F.conv2d(x.flatten(0, 1).movedim(-1, 1), inputs[1].movedim(-1, 1), inputs[2], options["stride"])
            return result.movedim(1, -1).unsqueeze(1)
        case "depthwise":
            kernel, maps = inputs[1].movedim(-1, 0), x.flatten(0, 1).movedim(-1, 1)
            result = F.conv2d(maps, kernel, inputs[2], options["stride"], groups=maps.shape[1])
            return result.movedim(1, -1).unsqueeze(1)
        case "max_pool":
            pooled = F.max_pool2d(x.flatten(0, 1).movedim(-1, 1), options["kernel"], options["stride"])
            return pooled.movedim(1, -1).unsqueeze(1)
        case "pad":
            top, bottom, left, right = options["padding"]
            return F.pad(x, (0, 0, left, right, top, bottom))
        case "batch_matmul":
            return x @ (inputs[1].transpose(-1, -2) if options.get("adj_y") else inputs[1])
        case "add":
            return x + inputs[1]
        case "sub":
            return x - inputs[1]
        case "mul":
            return x * inputs[1]
        case "squared_difference":
            return (x - inputs[1]).square()
        case "softmax":
            return x.softmax(-1)
        case "gelu":
            return F.gelu(x, approximate="tanh" if options.get("approximate") else "none")
        case "logistic":
            return x.sigmoid()
        case "tanh":
            return x.tanh()
        case "relu":
            return x.relu()
        case "rsqrt":
            # rounding can leave a variance of nothing, whose slope would be infinite
            return x.clamp_min(_LEAST_VARIANCE).rsqrt()
        case "mean":
            return x.mean(options["axis"], keepdim=True)
        case "reshape":
            return x.reshape(count, *options["shape"])
        case "transpose":
            return x.permute(0, *(i + 1 for i in options["perm"]))
        case "slice":
            spans = (slice(b, b + n) for b, n in zip(options["begin"], options["size"], strict=True))
            return x[(slice(None), *spans)]
        case "concatenation":
            parts = (x if own else x.expand(count, *x.shape) for x, own in zip(inputs, batched, strict=True))
            return torch.cat(tuple(parts), options["axis"])
        case "quantize" | "dequantize":
            return x
    raise AssertionError(op.kind)
