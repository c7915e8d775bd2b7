"""The masked model, plain and slow: full widths, and what is removed is absent from every reduction.

Written from the definition alone. Nothing is selected or made smaller here: units go by multiplying with zero,
LayerNorm counts the dimensions that stay, and RMSNorm all of the whole model's. Rotated pairs are complex numbers here.
"""

from __future__ import annotations

import torch

from compress.model.slicing import KeptUnits
from compress.model.vit import SlicedViT


def masked_logits(model: SlicedViT, kept: KeptUnits, images: torch.Tensor) -> torch.Tensor:
    """Returns the logits ``(B, num_classes)`` of ``model`` on ``images`` with only the units in ``kept`` present."""
    with torch.no_grad():
        return _Masked(model, kept).logits(images)


class _Masked:
    def __init__(self, model: SlicedViT, kept: KeptUnits) -> None:
        self.model, self.plan, self.kept = model, model.plan, kept
        self.w = dict(model.state_dict())
        self.dtype = self.w["head.weight"].dtype
        self.stream = self.mask(model.plan.embed_dim, kept.embed)

    def mask(self, size: int, stay: tuple[int, ...]) -> torch.Tensor:
        return torch.tensor([1.0 if i in set(stay) else 0.0 for i in range(size)], dtype=self.dtype)

    def affine(self, x: torch.Tensor, name: str, rows: slice = slice(None)) -> torch.Tensor:
        """Applies the linear layer ``name``, or some rows of it; a layer without a bias adds none."""
        y = torch.einsum("...i,oi->...o", x, self.w[f"{name}.weight"][rows])
        bias = self.w.get(f"{name}.bias")
        return y if bias is None else y + bias[rows]

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        if self.plan.norm_type == "layer":
            return self.layer_norm(x, name)
        early = name in ("norm_pre", "patch_norm")
        m = self.stream if not early else torch.ones(self.plan.pre_dim, dtype=self.dtype)
        dim = self.plan.pre_dim if early else self.plan.norm_dim or self.plan.embed_dim
        return m * x / ((m * x**2).sum(-1, keepdim=True) / dim + self.plan.eps_of(name)) ** 0.5

    def layer_norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        return self.normal(x, self.stream, self.plan.eps_of(name), weight, bias)

    def normal(
        self, x: torch.Tensor, m: torch.Tensor, eps: float, weight: torch.Tensor, bias: torch.Tensor, dim: int = 0
    ) -> torch.Tensor:
        """LayerNorm over the channels that the mask ``m`` leaves, or with zeros for the others, ``dim`` in all."""
        n = dim or m.sum()
        mean = (x * m).sum(-1, keepdim=True) / n
        variance = ((m * (x - mean) ** 2).sum(-1, keepdim=True) + (n - m.sum()) * mean**2) / n
        return m * ((x - mean) / (variance + eps) ** 0.5 * weight + bias)

    def head_norm(self, x: torch.Tensor, m: torch.Tensor, name: str, rows: slice) -> torch.Tensor:
        """The norm of one head's queries or keys."""
        if self.plan.qk_norm == "none":
            return x * m
        weight = self.w[f"{name}.weight"][rows]
        if self.plan.qk_norm == "layer":
            bias = self.w[f"{name}.bias"][rows]
            return self.normal(x, m, self.plan.inner_eps, weight, bias, self.plan.qk_norm_dim)
        dim = self.plan.qk_norm_dim or m.sum()
        return m * weight * x / ((m * x**2).sum(-1, keepdim=True) / dim + self.plan.inner_eps) ** 0.5

    def turned(self, x: torch.Tensor, i: int, head: int) -> torch.Tensor:
        """Rotates the pairs of one head's queries or keys ``(B, N, d)`` at patches."""
        if self.plan.rope == "none":
            return x
        cos, sin = (self.w[f"blocks.{i}.attn.rope.{part}"] for part in ("cos", "sin"))
        pairs = slice(head * x.shape[-1] // 2, (head + 1) * x.shape[-1] // 2)
        if self.plan.rope == "per_head":
            cos, sin = cos[:, pairs], sin[:, pairs]
        numbers = torch.view_as_complex(x[:, self.plan.num_prefix_tokens :].unflatten(-1, (-1, 2)).contiguous())
        rotated = torch.view_as_real(numbers * torch.complex(cos, sin)).flatten(-2)
        return torch.cat([x[:, : self.plan.num_prefix_tokens], rotated], 1)

    def attention(self, x: torch.Tensor, i: int) -> torch.Tensor:
        block, keep = self.plan.blocks[i], self.kept.blocks[i]
        at = f"blocks.{i}.attn"
        joined = x.new_zeros(*x.shape[:2], block.num_heads * block.v_dim)
        every = x.new_zeros(block.num_heads * block.v_dim)
        for head, qk_stay, v_stay in zip(keep.heads, keep.qk, keep.v, strict=True):
            qk_rows = slice(head * block.qk_dim, (head + 1) * block.qk_dim)
            v_rows = slice(head * block.v_dim, (head + 1) * block.v_dim)
            qk_mask, v_mask = self.mask(block.qk_dim, qk_stay), self.mask(block.v_dim, v_stay)
            q = self.head_norm(self.affine(x, f"{at}.q", qk_rows), qk_mask, f"{at}.q_norm", qk_rows)
            k = self.head_norm(self.affine(x, f"{at}.k", qk_rows), qk_mask, f"{at}.k_norm", qk_rows)
            q, k = self.turned(q, i, head), self.turned(k, i, head)
            v = self.affine(x, f"{at}.v", v_rows) * v_mask
            table = self.w.get(f"{at}.position_bias")
            bias = 0 if table is None else table[head]
            powers = torch.exp(self.plan.attn_scale * torch.einsum("bnd,bmd->bnm", q, k) + bias)
            joined[..., v_rows] = torch.einsum("bnm,bmd->bnd", powers / powers.sum(-1, keepdim=True), v)
            every[v_rows] = v_mask
        if self.plan.attn_norm:
            weight, bias = self.w[f"{at}.norm.weight"], self.w[f"{at}.norm.bias"]
            joined = self.normal(joined, every, self.plan.inner_eps, weight, bias, self.plan.attn_norm_dim)
        return self.affine(joined, f"{at}.proj")

    def mlp(self, x: torch.Tensor, i: int) -> torch.Tensor:
        units, at = self.mask(self.plan.blocks[i].mlp_dim, self.kept.blocks[i].mlp), f"blocks.{i}.mlp"
        hidden = self.affine(x, f"{at}.fc1")
        hidden = self.activate(self.affine(x, f"{at}.gate")) * hidden if self.plan.gated_mlp else self.activate(hidden)
        hidden = units * hidden
        if self.plan.mlp_norm:
            weight, bias = self.w[f"{at}.norm.weight"], self.w[f"{at}.norm.bias"]
            hidden = self.normal(hidden, units, self.plan.inner_eps, weight, bias, self.plan.mlp_norm_dim)
        return self.affine(hidden, f"{at}.fc2")

    def activate(self, x: torch.Tensor) -> torch.Tensor:
        if self.plan.act == "gelu":
            return x * (1 + torch.erf(x / 2**0.5)) / 2
        if self.plan.act == "gelu_tanh":
            return x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2
        if self.plan.act == "relu":
            return x * (x > 0)
        return x / (1 + torch.exp(-{"silu": 1.0, "quick_gelu": 1.702}[self.plan.act] * x))

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        (height, width), count = self.plan.patch_size, images.shape[0]
        kernel = self.w["patch_embed.weight"]
        patches = []
        images = images if self.model.stem is None else self.model.stem(images)  # no unit of a stem is removed
        for top in range(0, images.shape[-2], height):
            for left in range(0, images.shape[-1], width):
                window = images[:, :, top : top + height, left : left + width]
                patches.append(torch.einsum("bihw,cihw->bc", window, kernel))
        x = torch.stack(patches, dim=1)
        if self.plan.patch_bias:
            x = x + self.w["patch_embed.bias"]
        if self.plan.patch_norm:
            x = self.norm(x if self.plan.pre_dim else self.stream * x, "patch_norm")
            x = self.affine(x, "pre") if self.plan.pre_dim else x
        prefix = [self.w[t].repeat(count, 1, 1) for t in ("cls_token", "dist_token", "reg_token") if t in self.w]
        positions = self.w.get("pos_embed")
        if positions is not None and self.plan.pos_embed == "patches":
            x = x + positions
        x = torch.cat([*prefix, x], dim=1)
        return x + positions if positions is not None and self.plan.pos_embed == "all" else x

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        plan = self.plan
        x = self.embed(images)
        if plan.pre_dim and plan.norm_pre:
            x = self.affine(self.norm(x, "norm_pre"), "pre")
        elif plan.norm_pre:
            x = self.norm(self.stream * x, "norm_pre")
        x = self.stream * x
        for i in range(len(plan.blocks)):
            before, norms = x, (f"blocks.{i}.norm1", f"blocks.{i}.norm2")
            if plan.block_kind == "post":
                x = x + self.norm(self.stream * self.attention(x, i), norms[0])
                x = x + self.norm(self.stream * self.mlp(x, i), norms[1])
                continue
            x = self.stream * (x + self.scale(self.attention(self.norm(x, norms[0]), i), i, 1))
            read = before if plan.block_kind == "parallel" else x
            read = self.norm(read, norms[1])
            read = self.norm(read, f"blocks.{i}.norm3") if plan.double_norm else read
            x = self.stream * (x + self.scale(self.mlp(read, i), i, 2))
        if plan.norm == "before_pool":
            x = self.norm(x, "norm")
        if plan.attn_pool is not None:
            return self.affine(self.attention_pool(x), "head")
        start = {"avg": plan.num_prefix_tokens}.get(plan.pooling, 0)
        stop = 1 if plan.pooling.startswith("token") else x.shape[1]
        pooled = x[:, start:stop].sum(1) / (stop - start)
        if plan.norm == "after_pool":
            pooled = self.norm(pooled, "norm")
        out = self.affine(pooled, "head")
        if plan.pooling == "token_and_avg":
            patches = x[:, plan.num_prefix_tokens :].sum(1) / plan.num_patches
            out = (out + self.affine(patches, "head_dist")) / 2
        if plan.dist_token:
            second = x[:, 1] if plan.norm == "before_pool" else self.norm(x[:, 1], "norm")
            out = (out + self.affine(second, "head_dist")) / 2
        return out

    def attention_pool(self, x: torch.Tensor) -> torch.Tensor:
        own = self.plan.attn_pool
        assert own is not None
        x = x if own.prefix else x[:, self.plan.num_prefix_tokens :]
        found = []
        for rows in (slice(h * own.head_width, (h + 1) * own.head_width) for h in range(own.num_heads)):
            scores = self.affine(x, "attn_pool.k", rows) @ self.w["attn_pool.q"][rows] / own.head_width**0.5
            shares = torch.exp(scores) / torch.exp(scores).sum(-1, keepdim=True)
            found.append(torch.einsum("bn,bnd->bd", shares, self.affine(x, "attn_pool.v", rows)))
        p = self.affine(torch.cat(found, -1), "attn_pool.proj")
        away = p - p.mean(-1, keepdim=True)
        normal = away / ((away**2).mean(-1, keepdim=True) + own.norm_eps) ** 0.5
        normal = normal * self.w["attn_pool.norm.weight"] + self.w["attn_pool.norm.bias"]
        return p + self.affine(self.activate(self.affine(normal, "attn_pool.fc1")), "attn_pool.fc2")

    def scale(self, x: torch.Tensor, i: int, branch: int) -> torch.Tensor:
        gamma = self.w.get(f"blocks.{i}.gamma{branch}")
        return x if gamma is None else x * gamma
