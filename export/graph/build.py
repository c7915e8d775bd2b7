"""Builds the graph of a sliced ViT, with exact rewrites that make it faster.

Every rewrite is exact in real numbers, so outputs differ only by rounding. Each can be switched off.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from runtime import BlockPlan

from .attention_pool import attention_pool
from .inner_parts import InnerParts
from .ir import Array, Graph
from .rewrites import DEFAULT_REWRITES, Rewrites, Scales
from .stem import stem
from .vit_parts import INPUT, Normed

if TYPE_CHECKING:
    from compress.model.vit import SlicedViT


def vit_graph(model: SlicedViT, rewrites: Rewrites = DEFAULT_REWRITES, scales: Scales | None = None) -> Graph:
    """Returns ``model`` as a graph of one image ``(1, H, W, C)``.

    Args:
        model: a sliced ViT.
        rewrites: the exact rewrites to make.
        scales: factors of channels; they need the folding rewrites, and centring for those of the residual stream.
    """
    weights = {name: value.detach().double().numpy() for name, value in model.state_dict().items()}
    return _Vit(model.plan, weights, rewrites, scales or Scales()).build()


class _Vit(InnerParts):
    """Builds the graph block by block; ``x`` is always the name of the residual stream."""

    def build(self) -> Graph:
        plan, g = self.plan, self.g
        parts: list[str] = []
        x = self.embed()
        if plan.norm_pre:
            x = self.early_norm(x, "norm_pre")
        for i, block in enumerate(plan.blocks):
            last = i == len(plan.blocks) - 1
            rows, before = self.pooled_rows() if last else None, x
            x = self.attention(x, i, block, rows)
            read = x
            if plan.block_kind == "parallel":
                read = before if rows is None else self.first(before, rows, f"blocks.{i}.mlp.rows")
            x = self.mlp(x, read, i, last and self.mean_early())
            if i + 1 in plan.grid_blocks:
                parts.append(self.patches(x, f"taps.{len(parts)}."))
        output = self.grid([*parts, self.patches(x)]) if plan.output == "grid" else self.head(x)
        if plan.output == "unit_vector":
            output = self.unit_length(output)
        elif plan.text_dim:
            output = self.compared(output)
        assert output == self.output
        return g.graph(output)

    def patches(self, stream: str, at: str = "") -> str:
        """Adds what a grid reads of the patches behind a block, ``(…, patches, values)``."""
        plan = self.plan
        normed = self.norm(stream, f"{at}norm") if plan.norm != "none" else Normed(stream)
        rows = self.first(normed.name, plan.num_patches, f"{at}head.patches", begin=plan.num_prefix_tokens)
        weight, bias = self.affine(replace(normed, name=rows), f"{at}head")
        return self.g.linear(rows, weight, bias, f"{at}head")

    def grid(self, parts: list[str]) -> str:
        """Adds the grid ``(1, rows, columns, values)`` of what is read behind the blocks, side by side."""
        x = parts[0] if len(parts) == 1 else self.g.op("concatenation", parts, "head.blocks", axis=-1)
        return self.g.op("reshape", [x], self.output, shape=(1, *self.plan.output_shape))

    def pooled_rows(self) -> int | None:
        """Returns how many of the first tokens the head reads, or None for all."""
        if not self.rewrites.pooled_only or self.plan.pooling != "token" or self.plan.attn_pool:
            return None
        rows = 2 if self.plan.dist_token else 1
        return rows if rows < self.plan.num_tokens else None

    def mean_early(self) -> bool:
        averaged = self.plan.pooling not in ("token", "map") and self.plan.output != "grid"
        linear = self.plan.block_kind != "post"
        return self.rewrites.pooled_only and averaged and linear and self.plan.norm != "before_pool"

    def embed(self) -> str:
        plan, g, w = self.plan, self.g, self.weights
        c, n = plan.token_dim, plan.num_patches
        kernel = self.embedded(w["patch_embed.weight"].transpose(0, 2, 3, 1))
        bias = self.embedded(w["patch_embed.bias"]) if plan.patch_bias else np.zeros(c)
        position = self.placed(w["pos_embed"][0]) if plan.pos_embed != "none" else None
        tokens = [w[name][0] for name in ("cls_token", "dist_token", "reg_token") if name in w]
        prefix = self.placed(np.concatenate(tokens)) if tokens else None
        fold = self.rewrites.fold_embed and position is not None
        pixels = stem(self) if plan.stem else INPUT
        if self.rewrites.patch_rows:
            x = g.linear(self.patch_rows(pixels), kernel.reshape(c, -1), bias, "patch_embed")
        else:
            inputs = [pixels, g.constant("patch_embed.weight", kernel), g.constant("patch_embed.bias", bias)]
            x = g.op("conv_2d", inputs, "patch_embed", stride=plan.patch_size)
            x = g.op("reshape", [x], "patches", shape=(*self.batch, n, c))
        if plan.patch_norm:
            x = self.early_norm(x, "patch_norm")
        skip = plan.num_prefix_tokens if plan.pos_embed == "all" else 0
        if fold:
            assert position is not None
            x = g.op("add", [x, self.tokens("pos_embed", position[skip:])], "patches.placed")
            if prefix is not None and skip:
                prefix = prefix + position[:skip]
        elif plan.pos_embed == "patches":
            assert position is not None
            x = g.op("add", [x, self.tokens("pos_embed", position)], "patches.placed")
        if prefix is not None:
            x = g.op("concatenation", [self.tokens("prefix", prefix), x], "tokens", axis=-2)
        if plan.pos_embed == "all" and not fold:
            assert position is not None
            x = g.op("add", [x, self.tokens("pos_embed", position)], "tokens.placed")
        return x

    def embedded(self, value: Array, axis: int = 0) -> Array:
        """Returns a weight of the embedding, centred and scaled where it writes into the residual stream."""
        return value if self.plan.pre_dim else self.written(value, axis)

    def placed(self, value: Array) -> Array:
        """Returns tokens or positions, centred and scaled where they are added to the residual stream."""
        return self.written(value, -1) if self.plan.patch_norm else self.embedded(value, -1)

    def patch_rows(self, x: str) -> str:
        """Maps the image, or the stem's last map, to ``(…, patches, pixels of a patch)``."""
        (height, width), (rows, columns), chans = self.plan.map_size, self.plan.patch_size, self.plan.map_chans
        down, across, g = height // rows, width // columns, self.g
        if across > 1 and rows > 1:
            x = g.op("reshape", [x], "image.rows", shape=(down, rows, across, columns * chans))
            x = g.op("transpose", [x], "image.patches", perm=(0, 2, 1, 3))
        return g.op("reshape", [x], "patches", shape=(*self.batch, down * across, rows * columns * chans))

    def early_norm(self, x: str, name: str) -> str:
        """Adds a norm whose output is the residual stream, or with RMSNorms the Linear that writes it."""
        g = self.g
        if self.plan.pre_dim:
            normed = self.norm(x, name)
            weight, bias = self.affine(normed, "pre")
            assert bias is not None
            return g.linear(normed.name, self.written(weight), self.written(bias), "pre")
        x = self.norm(x, name, fold=False).name
        if not self.rms:
            return x
        x = g.op("sub", [x, g.op("mean", [x], f"{name}.mean_out", axis=(-1,))], f"{name}.centred_out")
        if self.stream_scale is None:
            return x
        row = (1,) * (len(g.shapes[x]) - 1) + (-1,)
        return g.op("mul", [x, g.constant(f"{name}.rescale", 1 / self.stream_scale.reshape(row))], f"{name}.rescaled")

    def attention(self, stream: str, index: int, block: BlockPlan, rows: int | None) -> str:
        g, w, at = self.g, self.weights, f"blocks.{index}.attn"
        post = self.plan.block_kind == "post"
        normed = Normed(stream) if post else self.norm(stream, f"blocks.{index}.norm1")
        some = normed
        if rows is not None:
            some = replace(normed, name=self.first(normed.name, rows, f"{at}.rows"))
            stream = self.first(stream, rows, f"{at}.stream_rows")
        plan, order = self.plan, self.head_order(block)
        scale = plan.attn_scale if self.rewrites.fold_scale and plan.qk_norm == "none" else 1.0
        query, query_bias = self.affine(some, f"{at}.q", scale)
        key, key_bias = self.affine(normed, f"{at}.k")
        value, value_bias = self.affine(normed, f"{at}.v")
        query, query_bias, key, key_bias = self.balanced(index, query, query_bias, key, key_bias)
        query, key = query[order], key[order]
        query_bias, key_bias = (None if bias is None else bias[order] for bias in (query_bias, key_bias))
        out, out_bias = w[f"{at}.proj.weight"], w.get(f"{at}.proj.bias")
        if self.rewrites.fold_bias:
            key_bias = None if plan.mixes_qk else key_bias
            if value_bias is not None and not plan.attn_norm:
                out_bias = out @ value_bias + (0 if out_bias is None else out_bias)
                value_bias = None
        if self.scales.v and not plan.attn_norm:
            ratio = self.scales.v[index]
            value, out = value / ratio[:, None], out * ratio
            value_bias = None if value_bias is None else value_bias / ratio
        folded = key_bias is None and value_bias is None and self.rewrites.fold_scale and plan.mixes_qk
        if rows == 1 and folded and self.rewrites.one_query and not self.rewrites.half:
            one = g.linear(some.name, query, query_bias, f"{at}.q")
            joined = self.attention_of_one(one, normed.name, key, value, at)
            return self.project(stream, joined, out, out_bias, index)
        q = self.heads(g.linear(some.name, query, query_bias, f"{at}.q"), block.num_heads, f"{at}.q")
        k = self.heads(g.linear(normed.name, key, key_bias, f"{at}.k"), block.num_heads, f"{at}.k")
        v = self.heads(g.linear(normed.name, value, value_bias, f"{at}.v"), block.num_heads, f"{at}.v")
        q, k = self.looked(q, index, "q", rows), self.looked(k, index, "k")
        if not self.rewrites.fold_scale:
            factor = g.constant("attn_scale", np.full((1,) * len(g.shapes[q]), self.plan.attn_scale))
            q = g.op("mul", [q, factor], f"{at}.q.scaled")
        scores = self.biased(g.op("batch_matmul", [q, k], f"{at}.scores", adj_y=True), at)
        mixed = g.op("batch_matmul", [g.op("softmax", [scores], f"{at}.softmax"), v], f"{at}.mixed")
        return self.project(stream, self.joined(mixed, f"{at}.mixed"), out, out_bias, index)

    def project(self, stream: str, joined: str, weight: Array, bias: Array | None, index: int) -> str:
        """Adds attention's projection, behind a norm where there is one."""
        at = f"blocks.{index}.attn"
        if self.plan.attn_norm:
            normed = self.inner_norm(joined, f"{at}.norm", self.plan.attn_norm_dim)
            joined, (weight, bias) = normed.name, self.read_normed(normed, weight, bias)
        return self.write(stream, joined, weight, bias, index, "gamma1", f"{at}.proj")

    def biased(self, scores: str, at: str) -> str:
        """Adds the position bias to scores ``(…, heads, rows, N)`` of the first tokens, or ``(heads, N)`` of one.

        The scores of one token get a dimension in front for the sum, which LiteRT's GPU delegate computes wrongly of
        two constants' dimensions alone.
        """
        table, g = self.weights.get(f"{at}.position_bias"), self.g
        if table is None:
            return scores
        shape = g.shapes[scores]
        if len(shape) > 2:
            return g.op("add", [scores, g.constant(f"{at}.bias", table[:, : shape[-2]].reshape(shape))], f"{at}.biased")
        scores = g.op("reshape", [scores], f"{at}.scores.rows", shape=(1, *shape))
        scores = g.op("add", [scores, g.constant(f"{at}.bias", table[None, :, 0])], f"{at}.biased.rows")
        return g.op("reshape", [scores], f"{at}.biased", shape=shape)

    def balanced(
        self, index: int, query: Array, query_bias: Array | None, key: Array, key_bias: Array | None
    ) -> tuple[Array, Array | None, Array, Array | None]:
        if not self.scales.qk or not self.plan.mixes_qk:
            return query, query_bias, key, key_bias
        factor = self.scales.qk[index]
        query, key = query * factor[:, None], key / factor[:, None]
        return (
            query,
            None if query_bias is None else query_bias * factor,
            key,
            None if key_bias is None else key_bias / factor,
        )

    def attention_of_one(self, q: str, normed: str, key: Array, value: Array, at: str) -> str:
        """Adds attention of one query: the query goes through the key's weights, the mixture through the value's.

        No key or value of a token is computed. ``normed`` is ``(…, N, C)``, the result ``(…, 1, heads * v_dim)``.
        """
        g, c = self.g, self.plan.embed_dim
        block = self.plan.blocks[-1]
        heads, qk, v = block.num_heads, block.qk_dim, block.v_dim
        tokens = g.op("reshape", [normed], f"{at}.tokens", shape=g.shapes[normed][-2:])
        q = g.op("reshape", [q], f"{at}.q.heads", shape=(heads, 1, qk))
        keys = g.constant(f"{at}.k.weight", key.reshape(heads, qk, c))
        looked = g.op("batch_matmul", [q, keys], f"{at}.k")
        looked = g.op("reshape", [looked], f"{at}.k.rows", shape=(heads, c))
        scores = self.biased(g.op("batch_matmul", [looked, tokens], f"{at}.scores", adj_y=True), at)
        weights = g.op("softmax", [scores], f"{at}.softmax")
        mixed = g.op("batch_matmul", [weights, tokens], f"{at}.mixed")
        mixed = g.op("reshape", [mixed], f"{at}.mixed.heads", shape=(heads, 1, c))
        values = g.constant(f"{at}.v.weight", value.reshape(heads, v, c))
        mixed = g.op("batch_matmul", [mixed, values], f"{at}.v", adj_y=True)
        return g.op("reshape", [mixed], f"{at}.v.joined", shape=(*self.batch, 1, heads * v))

    def mlp(self, stream: str, read: str, index: int, mean_early: bool) -> str:
        w, at = self.weights, f"blocks.{index}.mlp"
        plain = self.plan.block_kind == "post" or self.plan.double_norm
        normed = Normed(read) if plain else self.norm(read, f"blocks.{index}.norm2")
        if self.plan.double_norm:
            second = f"blocks.{index}.norm3"
            once = self.norm(read, f"blocks.{index}.norm2", fold=False)
            normed = self.norm(once.name, second, own_eps=self.plan.eps_of(second))
        if self.plan.gated_mlp:
            hidden = self.gated(normed, at)
        else:
            first, first_bias = self.affine(normed, f"{at}.fc1")
            hidden = self.activated(normed.name, first, first_bias, f"{at}.fc1", f"{at}.act")
        last: tuple[Array, Array | None] = w[f"{at}.fc2.weight"], w[f"{at}.fc2.bias"]
        if self.plan.mlp_norm:
            own = self.inner_norm(hidden, f"{at}.norm", self.plan.mlp_norm_dim)
            hidden, last = own.name, self.read_normed(own, *last)
        if mean_early:
            hidden, stream = self.pooled(hidden, f"{at}.act.mean"), self.pooled(stream, f"{at}.stream.mean")
        return self.write(stream, hidden, *last, index, "gamma2", f"{at}.fc2")

    def head(self, x: str) -> str:
        plan = self.plan
        if plan.attn_pool:
            normed = self.norm(x, "norm") if plan.norm != "none" else Normed(x)
            return self.classifier(Normed(attention_pool(self, normed)), "head", 1.0, self.answer("head"))
        early = self.mean_early()
        if plan.pooling == "token_and_avg":
            normed = self.norm(x, "norm")
            firsts = replace(normed, name=self.first(normed.name, 1, "head.token"))
            seconds = replace(normed, name=self.pooled(normed.name, "pooled"))
            return self.two_classifiers(firsts, seconds)
        if plan.norm == "before_pool" and plan.pooling != "token":
            normed = self.norm(x, "norm")
            pooled = replace(normed, name=self.pooled(normed.name, "pooled"))
        else:
            rows = 2 if plan.dist_token else 1
            x = x if early else self.pooled(x, "pooled") if plan.pooling != "token" else self.first(x, rows, "pooled")
            pooled = self.norm(x, "norm") if plan.norm != "none" else Normed(x)
        if not plan.dist_token:
            return self.classifier(pooled, "head", 1.0, self.answer("head"))
        firsts = replace(pooled, name=self.first(pooled.name, 1, "head.token"))
        seconds = replace(pooled, name=self.first(pooled.name, 1, "head_dist.token", begin=1))
        return self.two_classifiers(firsts, seconds)

    def two_classifiers(self, firsts: Normed, seconds: Normed) -> str:
        one = self.classifier(firsts, "head", 0.5, "head")
        two = self.classifier(seconds, "head_dist", 0.5, "head_dist")
        return self.g.op("add", [one, two], self.answer("heads"))

    def answer(self, name: str) -> str:
        """Returns the name of what the heads compute: that of the output, or ``name`` where more follows."""
        return name if self.plan.output == "unit_vector" or self.plan.text_dim else self.output

    def classifier(self, x: Normed, name: str, share: float, output: str) -> str:
        weight, bias = self.affine(x, name, share)
        flat = (1, self.plan.head_dim)
        if self.g.shapes[x.name] != flat:
            x = replace(x, name=self.g.op("reshape", [x.name], f"{name}.in", shape=flat))
        return self.g.linear(x.name, weight, bias, output)
