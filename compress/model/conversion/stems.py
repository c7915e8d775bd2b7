"""Reads the convolutional backbone of a timm hybrid as a stem: a list of plain operators with their weights."""

from __future__ import annotations

import copy
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from runtime import StemOp

from .inner import unsupported_part

_LEAVES = (
    *("StdConv2dSame", "StdConv2d", "Conv2dSame", "MaxPool2dSame", "GELU"),
    *("GroupNormAct", "BatchNormAct2d", "LayerNorm2d", "LayerNormAct2d"),
)
_STD = ("StdConv2dSame", "StdConv2d")
_SAME = ("StdConv2dSame", "Conv2dSame", "MaxPool2dSame")


@dataclass(frozen=True, eq=False)
class FoundStem:
    """A stem and its patch embedding.

    Attributes:
        ops: the stem's operators.
        weights: those of the stem and of the patch embedding, under the names of a sliced model.
        patch: height and width of the patches of the last feature map.
    """

    ops: tuple[StemOp, ...]
    weights: dict[str, torch.Tensor]
    patch: tuple[int, int]


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m).__name__ in _LEAVES or super().is_leaf_module(m, module_qualified_name)


def stem_of(embed: Any) -> FoundStem:
    """Returns the stem of a timm hybrid patch embedding, with exact weights in float32.

    Statistics of BatchNorm and the standardisation of weights are folded into the convolutions, and so is a mean over
    windows before a convolution of 1 x 1.

    Raises:
        ModelError: the backbone holds an operator that a stem has not, by name.
    """
    backbone = copy.deepcopy(embed.backbone).eval()
    try:
        graph = _Tracer().trace(backbone)
        found = _Reader(backbone, embed.img_size, embed.in_chans).read(graph)
    except (fx.proxy.TraceError, TypeError) as error:
        raise unsupported_part(f"the backbone {type(backbone).__name__}") from error
    if isinstance(embed.proj, nn.Conv2d):
        weight, bias = embed.proj.weight.detach(), embed.proj.bias
        patch = (int(embed.proj.kernel_size[0]), int(embed.proj.kernel_size[1]))
        own = {"patch_embed.weight": weight} | ({} if bias is None else {"patch_embed.bias": bias.detach()})
        return FoundStem(found.ops, found.weights | own, patch)
    return _without_last(found) or _with_identity(found)


def _with_identity(found: FoundStem) -> FoundStem:
    """Adds a patch embedding that takes every pixel of the last map as it is."""
    size = found.ops[-1].out_chans
    like = next(iter(found.weights.values()))
    eye = torch.eye(size, dtype=like.dtype, device=like.device)[:, :, None, None]
    return FoundStem(found.ops, found.weights | {"patch_embed.weight": eye}, (1, 1))


def _without_last(found: FoundStem) -> FoundStem | None:
    """Takes the last convolution as the patch embedding; returns None where its windows are no patches."""
    last, number = found.ops[-1], len(found.ops) - 1
    patches = last.kernel == last.stride and not any(last.padding) and last.groups == 1
    if last.kind != "conv" or not patches or last.sources != (number - 1,):
        return None
    weights = {name.replace(f"stem.{number}.", "patch_embed."): value for name, value in found.weights.items()}
    return FoundStem(found.ops[:-1], weights, last.kernel)


class _Reader:
    """Turns the traced operators of a backbone into those of a stem, one by one."""

    def __init__(self, backbone: nn.Module, img_size: tuple[int, int], in_chans: int) -> None:
        self.backbone, self.size, self.in_chans = backbone, img_size, in_chans
        self.ops: list[StemOp] = []
        self.weights: dict[str, torch.Tensor] = {}
        self.sizes: list[tuple[int, int]] = []
        self.number: dict[fx.Node, int] = {}
        self.mean_of: dict[fx.Node, tuple[int, int]] = {}

    def read(self, graph: fx.Graph) -> FoundStem:
        for node in graph.nodes:
            if node.op == "placeholder":
                self.number[node] = -1
            elif node.op == "output":
                result = node.args[0]
                last = result[-1] if isinstance(result, (tuple, list)) else result
                if self.number[last] != len(self.ops) - 1:
                    raise unsupported_part("a stem whose last operator is not its output")
            elif node.op == "call_module":
                self.module(node, self.backbone.get_submodule(str(node.target)))
            elif node.op == "call_function" and node.target in (operator.add, operator.iadd, torch.add):
                one, two = (self.number[own] for own in node.args)
                self.add(node, StemOp("add", (one, two), self.ops[one].out_chans))
            else:
                raise unsupported_part(f"the operator '{node.target}' in its stem")
        weights = {name: value.float().contiguous() for name, value in self.weights.items()}
        return FoundStem(tuple(self.ops), weights, (1, 1))

    def add(self, node: fx.Node, op: StemOp, weight: Any = None, bias: Any = None) -> None:
        source = op.sources[0]
        size = self.sizes[source] if source >= 0 else self.size
        self.number[node] = len(self.ops)
        self.ops.append(op)
        self.sizes.append(op.out_size(size))
        if weight is not None:
            at = f"stem.{self.number[node]}"
            self.weights[f"{at}.weight"], self.weights[f"{at}.bias"] = weight, bias

    def module(self, node: fx.Node, module: Any) -> None:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        kind, at = type(module).__name__, self.number[source]
        if source in self.mean_of and not isinstance(module, (nn.Conv2d, nn.Identity)):
            raise unsupported_part("a mean over windows that no convolution reads")
        if isinstance(module, nn.Conv2d):
            self.conv(node, source, module, kind)
        elif isinstance(module, (nn.Identity, nn.Dropout)):
            self.number[node] = at
            if source in self.mean_of:
                self.mean_of[node] = self.mean_of[source]
        elif kind in ("BatchNorm2d", "BatchNormAct2d"):
            self.batch_norm(node, source, module)
        elif kind in ("GroupNorm", "GroupNormAct"):
            op = StemOp("group_norm", (at,), self.ops[at].out_chans, groups=module.num_groups, eps=float(module.eps))
            self.add(node, op, module.weight.detach(), module.bias.detach())
        elif kind in ("LayerNorm2d", "LayerNormAct2d"):
            op = StemOp("layer_norm", (at,), self.ops[at].out_chans, eps=float(module.eps))
            self.add(node, op, module.weight.detach(), module.bias.detach())
        elif kind in ("MaxPool2d", "MaxPool2dSame"):
            self.max_pool(node, at, module, kind)
        elif kind == "AvgPool2d":
            self.mean(node, at, module)
        else:
            self.activation(node, at, module)
            return
        if hasattr(module, "act") and isinstance(module.act, nn.Module):
            self.activation(node, self.number[node], module.act)

    def activation(self, node: fx.Node, at: int, module: nn.Module) -> None:
        if isinstance(module, (nn.Identity, nn.Dropout)):
            self.number[node] = at
            return
        names = {"ReLU": "relu", "GELU": "gelu", "SiLU": "silu"}
        name = names.get(type(module).__name__)
        if name is None or getattr(module, "approximate", "none") != "none":
            raise unsupported_part(f"the part {type(module).__name__} in its stem")
        self.add(node, StemOp(name, (at,), self.ops[at].out_chans))  # type: ignore[arg-type]

    def conv(self, node: fx.Node, source: fx.Node, module: Any, kind: str) -> None:
        alone = module.groups == module.in_channels == module.out_channels
        if not (module.groups == 1 or alone) or module.dilation != (1, 1) or module.padding_mode != "zeros":
            raise unsupported_part("a grouped or dilated convolution in its stem")
        weight = module.weight.detach().double()
        if kind in _STD:
            flat = weight.flatten(1)
            mean, variance = flat.mean(1), flat.var(1, unbiased=False)
            weight = (weight - mean[:, None, None, None]) / (variance + module.eps).sqrt()[:, None, None, None]
        bias = weight.new_zeros(len(weight)) if module.bias is None else module.bias.detach().double()
        kernel, stride = _pair(module.kernel_size), _pair(module.stride)
        padding = self.padding(self.number[source], kernel, stride, module.padding, kind)
        if source in self.mean_of:
            window = self.mean_of[source]
            if kernel != (1, 1) or stride != (1, 1) or module.groups != 1:
                raise unsupported_part("a mean over windows before a large convolution")
            weight = weight.expand(-1, -1, *window) / (window[0] * window[1])
            kernel = stride = window
        op = StemOp("conv", (self.number[source],), len(weight), kernel, stride, padding, module.groups)
        self.add(node, op, weight, bias)

    def padding(
        self, at: int, kernel: tuple[int, int], stride: tuple[int, int], own: Any, kind: str
    ) -> tuple[int, int, int, int]:
        if kind in _SAME:
            size, sides = self.sizes[at] if at >= 0 else self.size, []
            for length, window, step in zip(size, kernel, stride, strict=True):
                missing = max((-(-length // step) - 1) * step + window - length, 0)
                sides += [missing // 2, missing - missing // 2]
            return sides[0], sides[1], sides[2], sides[3]
        if isinstance(own, str):
            raise unsupported_part(f"padding '{own}' in its stem")
        down, across = _pair(own)
        return down, down, across, across

    def batch_norm(self, node: fx.Node, source: fx.Node, module: Any) -> None:
        """Folds stored statistics into the convolution before, which nothing else may read."""
        at = self.number[source]
        alone = at == len(self.ops) - 1 and len(source.users) == 1
        if not alone or self.ops[at].kind != "conv" or module.running_var is None:
            raise unsupported_part("a BatchNorm that follows no convolution")
        scale = module.weight.detach().double() * (module.running_var.double() + module.eps).rsqrt()
        weight, bias = (self.weights[f"stem.{at}.{name}"] for name in ("weight", "bias"))
        shift = module.bias.detach().double() - module.running_mean.double() * scale
        self.weights[f"stem.{at}.weight"] = weight * scale[:, None, None, None]
        self.weights[f"stem.{at}.bias"] = bias * scale + shift
        self.number[node] = at

    def max_pool(self, node: fx.Node, at: int, module: Any, kind: str) -> None:
        kernel, stride = _pair(module.kernel_size), _pair(module.stride)
        if self.ops[at].kind != "relu" or _pair(module.dilation) != (1, 1) or module.ceil_mode:
            raise unsupported_part("a maximum over windows of values that may be negative")
        padding = self.padding(at, kernel, stride, module.padding, kind)
        self.add(node, StemOp("max_pool", (at,), self.ops[at].out_chans, kernel, stride, padding))

    def mean(self, node: fx.Node, at: int, module: Any) -> None:
        """Notes a mean over windows, which the convolution behind it takes, or adds one whose windows overlap."""
        window, stride = _pair(module.kernel_size), _pair(module.stride)
        size, (down, across) = self.sizes[at], _pair(module.padding)
        apart = window == stride and (down, across) == (0, 0)
        if not apart or any(n % w for n, w in zip(size, window, strict=True)):
            if module.ceil_mode or (module.count_include_pad and (down or across)) or module.divisor_override:
                raise unsupported_part("a mean over windows that counts padding or rounds up")
            sides = (down, down, across, across)
            self.add(node, StemOp("mean_pool", (at,), self.ops[at].out_chans, window, stride, sides))
            return
        self.number[node] = at
        self.mean_of[node] = window


def _pair(value: Any) -> tuple[int, int]:
    one, two = value if isinstance(value, (tuple, list)) else (value, value)
    return int(one), int(two)
