"""Parts inside attention and MLP: norms of queries, keys and hidden units, rotary positions, and gates."""

from __future__ import annotations

import numpy as np

from runtime import BlockPlan

from .ir import Array
from .vit_parts import Normed, VitParts, half_gain


class InnerParts(VitParts):
    """Writes the parts of a block that not every Vision Transformer has."""

    def inner_norm(self, x: str, name: str, dim: int, centred: bool = True) -> Normed:
        """Adds a norm over the last dimension that counts what it lacks of ``dim`` as zeros; 0 is its own width.

        Its weight and bias are left to what follows.
        """
        g, rank, width = self.g, len(self.g.shapes[x]), self.g.shapes[x][-1]
        share = (dim or width) / width
        missing = ""
        if centred:
            mean = g.op("mean", [x], f"{name}.mean", axis=(-1,))
            if share != 1:
                mean = g.op("mul", [mean, self.number(f"{name}.share", 1 / share, rank)], f"{name}.mean_of_all")
                missing = g.op("mul", [mean, mean], f"{name}.mean_square")
                missing = g.op("mul", [missing, self.number(f"{name}.lack", share - 1, rank)], f"{name}.missing")
            x = g.op("sub", [x, mean], f"{name}.centred")
        variance = g.op("mean", [self.square(x, f"{name}.square")], f"{name}.variance", axis=(-1,))
        if missing:
            variance = g.op("add", [variance, missing], f"{name}.variance_of_all")
        eps = self.plan.inner_eps * share
        gain = half_gain(eps, width, self.rewrites.half)
        if gain > 1:
            variance = g.op("mul", [variance, self.number(f"{name}.gain", gain, rank)], f"{name}.variance_gain")
        variance = g.op("add", [variance, self.number(f"{name}.eps", gain * eps, rank)], f"{name}.variance_eps")
        x = g.op("mul", [x, g.op("rsqrt", [variance], f"{name}.rsqrt")], f"{name}.normed")
        weight = self.weights[f"{name}.weight"]
        return Normed(x, weight * np.sqrt(gain * share), self.weights.get(f"{name}.bias"))

    def number(self, name: str, value: float, rank: int) -> str:
        """Adds a constant of one number with ``rank`` dimensions."""
        return self.g.constant(name, np.full((1,) * rank, value))

    def read_normed(self, x: Normed, weight: Array, bias: Array | None) -> tuple[Array, Array | None]:
        """Returns weight and bias of a Linear that reads a norm, with the norm's own in them."""
        if x.bias is not None:
            bias = weight @ x.bias + (0 if bias is None else bias)
        return (weight if x.weight is None else weight * x.weight), bias

    def head_order(self, block: BlockPlan) -> Array:
        """Returns the order of all heads' queries and keys in the graph: of each pair the first ones come first."""
        order = np.arange(block.num_heads * block.qk_dim)
        if self.plan.rope == "none":
            return order
        return order.reshape(block.num_heads, -1, 2).transpose(0, 2, 1).ravel()

    def looked(self, x: str, index: int, part: str, rows: int | None = None) -> str:
        """Adds the norm and the rotation of queries or keys ``(…, heads, N, d)``.

        Args:
            x: queries or keys, in the order of ``head_order``.
            index: number of the block.
            part: ``q`` or ``k``.
            rows: how many of the first tokens ``x`` has; None for all.
        """
        g, plan, block, name = self.g, self.plan, self.plan.blocks[index], f"blocks.{index}.attn.{part}"
        if plan.qk_norm != "none":
            normed = self.inner_norm(x, f"{name}_norm", plan.qk_norm_dim, plan.qk_norm == "layer")
            scale = plan.attn_scale if part == "q" and self.rewrites.fold_scale else 1.0
            shape = (*self.batch, block.num_heads, 1, block.qk_dim)
            order, x = self.head_order(block), normed.name
            for kind, values, suffix in (("mul", normed.weight, "weight"), ("add", normed.bias, "bias")):
                if values is not None:
                    constant = g.constant(f"{name}_norm.{suffix}", (values[order] * scale).reshape(shape))
                    x = g.op(kind, [x, constant], f"{name}_norm.{'scaled' if kind == 'mul' else 'out'}")
        if plan.rope == "none" or (rows is not None and rows <= plan.num_prefix_tokens):
            return x
        return self.rotated(x, index, name, rows)

    def rotated(self, x: str, index: int, name: str, rows: int | None) -> str:
        """Adds the rotation of pairs: ``x * cos + (second half, first half) * (-sin, sin)``."""
        g, half = self.g, self.g.shapes[x][-1] // 2
        begin = (0,) * (len(g.shapes[x]) - 1)
        size = (*g.shapes[x][:-1], half)
        first = g.op("slice", [x], f"{name}.first", begin=(*begin, 0), size=size)
        second = g.op("slice", [x], f"{name}.second", begin=(*begin, half), size=size)
        swapped = g.op("concatenation", [second, first], f"{name}.swapped", axis=-1)
        cos, sin = (self.table(index, part, rows) for part in ("cos", "sin"))
        turned = [g.op("mul", [x, cos], f"{name}.cos"), g.op("mul", [swapped, sin], f"{name}.sin")]
        return g.op("add", turned, f"{name}.turned")

    def table(self, index: int, part: str, rows: int | None) -> str:
        """Adds the table of a block ``(…, heads or 1, N, d)``; equal ones are one constant."""
        block, plan = self.plan.blocks[index], self.plan
        value = self.weights[f"blocks.{index}.attn.rope.{part}"]
        heads = block.num_heads if plan.rope == "per_head" else 1
        value = value.reshape(len(value), heads, -1).transpose(1, 0, 2)
        own = np.full((heads, plan.num_prefix_tokens, value.shape[-1]), float(part == "cos"))
        value = np.concatenate([own, value], 1)[:, :rows]
        value = np.concatenate([value if part == "cos" else -value, value], -1).reshape(
            (*self.batch, heads, -1, 2 * value.shape[-1])
        )
        name = f"rope.{part}" if rows is None else f"rope.{part}.rows"
        known = self.g.constants.get(name)
        if known is not None and not np.array_equal(known, value):
            name = f"blocks.{index}.attn.{name}"
        return self.g.constant(name, value)

    def gated(self, normed: Normed, at: str) -> str:
        """Adds the hidden units of a gated MLP, ``act(gate(x)) * fc1(x)``."""
        g = self.g
        gate, gate_bias = self.affine(normed, f"{at}.gate")
        value, value_bias = self.affine(normed, f"{at}.fc1")
        relu = self.plan.act == "relu"
        opened = g.linear(normed.name, gate, gate_bias, f"{at}.gate", act="relu" if relu else "none")
        opened = opened if relu else self.activation(opened, f"{at}.act")
        return g.op("mul", [opened, g.linear(normed.name, value, value_bias, f"{at}.fc1")], f"{at}.gated")
