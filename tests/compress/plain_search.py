"""DL-DFBnB as it is written down: masks, full evaluations, every order of actions, nothing left out. The oracle.

Shares no code with compress/dfbnb.py, oneshot.py or importance.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from compress.model.slicing import KeptBlock, KeptUnits, keep_all, plan_of
from compress.model.vit import SlicedViT
from runtime import params

from .masked import _Masked

GROUP = 8


@dataclass
class Plain:
    """The search, its settings and what it has found."""

    model: SlicedViT
    images: torch.Tensor
    labels: torch.Tensor
    depth: int
    epsilon: float
    batch: int
    best: float = -math.inf
    best_kept: KeptUnits | None = None
    best_path: tuple[tuple[str, int], ...] = ()
    nodes: int = 0
    forward_equivalents: int = 0

    def run(self) -> None:
        everything = keep_all(self.model.plan)
        self.visit(everything, (), self.objective(everything))

    def objective(self, kept: KeptUnits) -> float:
        with torch.no_grad():
            right = int((_Masked(self.model, kept).logits(self.images).argmax(1) == self.labels).sum())
        self.nodes += 1
        self.forward_equivalents += len(self.labels)
        if not right:
            return -math.inf
        share = params(plan_of(self.model.plan, kept)) / params(self.model.plan)
        return math.log2(right / len(self.labels)) - math.log2(share)

    def visit(self, kept: KeptUnits, path: tuple[tuple[str, int], ...], value: float) -> None:
        if value > self.best:
            self.best, self.best_kept, self.best_path = value, kept, path
        if len(path) == self.depth or not value > self.best - self.epsilon:
            return
        for step, child in self.children(kept):
            self.visit(child, (*path, step), self.objective(child))

    def scores(self, kept: KeptUnits) -> dict[str, torch.Tensor]:
        weights = {name: value.detach().clone().requires_grad_() for name, value in self.model.named_parameters()}
        squares = {name: torch.zeros_like(value) for name, value in weights.items()}
        starts = range(0, len(self.labels), self.batch)
        for start in starts:
            masked = _Masked(self.model, kept)
            masked.w = weights
            logits = masked.logits(self.images[start : start + self.batch])
            loss = torch.nn.functional.cross_entropy(logits, self.labels[start : start + self.batch])
            gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            for name, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    squares[name] += gradient**2
        self.forward_equivalents += 3 * len(self.labels)
        return {name: (weights[name] ** 2 * squares[name] / len(starts)).detach().double() for name in weights}

    def children(self, kept: KeptUnits) -> list[tuple[tuple[str, int], KeptUnits]]:
        s, plan = self.scores(kept), self.model.plan
        candidates: dict[str, list[tuple[float, int, KeptUnits]]] = {a: [] for a in ("mlp", "qk", "v", "head", "embed")}
        for i, keep in enumerate(kept.blocks):
            at = f"blocks.{i}."
            mlp = s[at + "mlp.fc1.weight"].sum(1) + s[at + "mlp.fc1.bias"] + s[at + "mlp.fc2.weight"].sum(0)
            qk = sum(s[f"{at}attn.{n}.weight"].sum(1) + s[f"{at}attn.{n}.bias"] for n in "qk")
            v = s[at + "attn.v.weight"].sum(1) + s[at + "attn.v.bias"] + s[at + "attn.proj.weight"].sum(0)
            widths = plan.blocks[i]
            qk, v = qk.view(widths.num_heads, widths.qk_dim), v.view(widths.num_heads, widths.v_dim)
            if len(keep.mlp) > GROUP:
                rest, lost = cheapest(keep.mlp, mlp)
                candidates["mlp"].append((lost, i, put(kept, i, replace(keep, mlp=rest))))
            if len(keep.qk[0]) > GROUP:
                both = [cheapest(dims, qk[h]) for h, dims in zip(keep.heads, keep.qk, strict=True)]
                child = put(kept, i, replace(keep, qk=tuple(rest for rest, _ in both)))
                candidates["qk"].append((sum(lost for _, lost in both), i, child))
            if len(keep.v[0]) > GROUP:
                both = [cheapest(dims, v[h]) for h, dims in zip(keep.heads, keep.v, strict=True)]
                child = put(kept, i, replace(keep, v=tuple(rest for rest, _ in both)))
                candidates["v"].append((sum(lost for _, lost in both), i, child))
            if len(keep.heads) > 1:
                whole = [float((qk[h].sum() + v[h].sum()).item()) for h in keep.heads]
                gone = whole.index(min(whole))
                stay = [j for j in range(len(keep.heads)) if j != gone]
                child = KeptBlock(
                    tuple(keep.heads[j] for j in stay),
                    tuple(keep.qk[j] for j in stay),
                    tuple(keep.v[j] for j in stay),
                    keep.mlp,
                )
                candidates["head"].append((whole[gone], i, put(kept, i, child)))
        if len(kept.embed) > GROUP:
            rest, lost = cheapest(kept.embed, self.embed_scores(s))
            candidates["embed"].append((lost, -1, replace(kept, embed=rest)))
        chosen = []
        for action, options in candidates.items():
            if options:
                _, block, child = min(options, key=lambda option: option[0])
                chosen.append(((action, block), child))
        return chosen

    def embed_scores(self, s: dict[str, torch.Tensor]) -> torch.Tensor:
        """Sums what runs along the residual stream, told apart by name and not by shape."""
        total = torch.zeros(self.model.plan.embed_dim, dtype=torch.float64)
        for name, score in s.items():
            if name in ("cls_token", "pos_embed", "head.weight") or name.endswith(
                ("fc1.weight", "q.weight", "k.weight", "v.weight")
            ):
                total += score.reshape(-1, score.shape[-1]).sum(0)
            elif name.startswith("patch_embed") or "norm" in name or "proj" in name or "fc2" in name:
                total += score.reshape(score.shape[0], -1).sum(1)
        return total


def cheapest(indices: tuple[int, ...], scores: torch.Tensor) -> tuple[tuple[int, ...], float]:
    order = sorted(indices, key=lambda i: float(scores[i]))
    gone = set(order[:GROUP])
    return tuple(i for i in indices if i not in gone), sum(float(scores[i]) for i in gone)


def put(kept: KeptUnits, index: int, block: KeptBlock) -> KeptUnits:
    return replace(kept, blocks=(*kept.blocks[:index], block, *kept.blocks[index + 1 :]))
