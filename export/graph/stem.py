"""A convolutional stem in a graph, as operators on maps of pixels ``(1, H, W, C)``."""

from __future__ import annotations

import numpy as np

from runtime import StemOp

from .vit_parts import INPUT, VitParts


def stem(parts: VitParts) -> str:
    """Adds the stem of the plan, and returns the name of its last map ``(1, H, W, C)``."""
    maps: list[str] = []
    for number, op in enumerate(parts.plan.stem):
        inputs = [maps[source] if source >= 0 else INPUT for source in op.sources]
        maps.append(_computed(parts, op, inputs, f"stem.{number}"))
    return maps[-1]


def _computed(parts: VitParts, op: StemOp, inputs: list[str], name: str) -> str:
    g, w, x = parts.g, parts.weights, inputs[0]
    if op.kind == "layer_norm":
        return parts.norm(x, name, fold=False, own_eps=op.eps).name
    if any(op.padding):
        x = g.op("pad", [x], f"{name}.padded", padding=op.padding)
    match op.kind:
        case "conv" if op.groups > 1:
            kernel = g.constant(f"{name}.weight", w[f"{name}.weight"].transpose(1, 2, 3, 0))
            bias = g.constant(f"{name}.bias", w[f"{name}.bias"])
            return g.op("depthwise", [x, kernel, bias], name, stride=op.stride)
        case "mean_pool":
            return _mean_pool(parts, op, x, inputs[0], name)
        case "conv":
            kernel = g.constant(f"{name}.weight", w[f"{name}.weight"].transpose(0, 2, 3, 1))
            return g.op("conv", [x, kernel, g.constant(f"{name}.bias", w[f"{name}.bias"])], name, stride=op.stride)
        case "group_norm":
            return _group_norm(parts, op, x, name)
        case "max_pool":
            return g.op("max_pool", [x], name, kernel=op.kernel, stride=op.stride)
        case "add":
            return g.op("add", [x, inputs[1]], name)
        case "silu":
            return g.op("mul", [x, g.op("logistic", [x], f"{name}.logistic")], name)
    return g.op(op.kind, [x], name)


def _mean_pool(parts: VitParts, op: StemOp, x: str, source: str, name: str) -> str:
    """Adds a mean over windows as a sum, divided by the number of pixels that each window has inside the map."""
    g, c = parts.g, op.out_chans
    _, height, width, _ = g.shapes[source]
    top, bottom, left, right = op.padding
    inside = np.pad(np.ones((height, width)), ((top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(inside, op.kernel)[:: op.stride[0], :: op.stride[1]]
    kernel = g.constant(f"{name}.weight", np.ones((1, *op.kernel, c)))
    total = g.op("depthwise", [x, kernel, g.constant(f"{name}.bias", np.zeros(c))], f"{name}.sum", stride=op.stride)
    share = g.constant(f"{name}.share", 1 / windows.sum((-2, -1))[None, :, :, None])
    return g.op("mul", [total, share], name)


def _group_norm(parts: VitParts, op: StemOp, x: str, name: str) -> str:
    """Adds a GroupNorm; a Linear takes the mean of each group from the means of its channels.

    So no tensor has more than four dimensions, and every mean is over all pixels.
    """
    g, c = parts.g, op.out_chans
    within = np.kron(np.eye(op.groups), np.full((c // op.groups,) * 2, op.groups / c))

    def of_groups(values: str, label: str) -> str:
        return g.linear(
            g.op("mean", [values], f"{name}.{label}.pixels", axis=(-3, -2)), within, None, f"{name}.{label}"
        )

    centred = g.op("sub", [x, of_groups(x, "mean")], f"{name}.centred")
    variance = of_groups(parts.square(centred, f"{name}.square"), "variance")
    variance = g.op("add", [variance, g.constant(f"{name}.eps", np.full((1,) * 4, op.eps))], f"{name}.variance_eps")
    scale = g.op("rsqrt", [variance], f"{name}.rsqrt")
    weight = g.constant(f"{name}.weight", parts.weights[f"{name}.weight"].reshape(1, 1, 1, c))
    scaled = g.op("mul", [centred, g.op("mul", [scale, weight], f"{name}.scale")], f"{name}.scaled")
    return g.op("add", [scaled, g.constant(f"{name}.bias", parts.weights[f"{name}.bias"].reshape(1, 1, 1, c))], name)
