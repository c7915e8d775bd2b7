"""Which of timm's architectures can be pruned, each built and compared with timm.

    python benchmarks/census.py [PATTERN ...] --out FOLDER [--seconds 3600]
    python benchmarks/census.py --out FOLDER --table

Every name that is accepted is built with two blocks, narrower heads and a smaller image, and with all its kinds of
parts, which its plan must show. Its weights are disturbed by noise. The whole model must give what timm gives, and a
cut one what the masked model gives, within 1e-5 of the largest output. Each name is one line of ``census.jsonl``, so
that a run that was stopped goes on; ``--table`` prints the Markdown table of the documentation.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

from compress.model.catalogue import catalogued, names_like, without_weights
from compress.model.conversion.naflex import at_size
from compress.model.slicing import KeptBlock, KeptUnits, slice_vit
from compress.model.timm_vit import from_timm, plan_of_timm
from runtime import BlockPlan, ShapePlan, StemOp
from tests.compress.masked import masked_logits

MOST = 1e-5
"""Largest difference from timm and from the masked model, as a share of the largest output."""

_CLASSES, _IMAGES = 7, 2
_DEPTH, _HEADS = 2, 2


@dataclass(frozen=True)
class Counted:
    """What one architecture showed.

    Attributes:
        name: its name.
        kind: the class that timm builds.
        reason: the part it is refused for, or None.
        params: of the whole architecture.
        macs: of the whole architecture where it can be pruned.
        whole: largest difference from timm, as a share of the largest output; None for a model that is refused.
        cut: the same of a cut model and the masked one.
        built: the options that the smaller model was built with.
        error: what went wrong, or None.
    """

    name: str
    kind: str
    reason: str | None
    params: int | None
    macs: int | None
    whole: float | None = None
    cut: float | None = None
    built: str | None = None
    error: str | None = None

    @property
    def sound(self) -> bool:
        """Whether an accepted model computes what it must."""
        return self.error is None and all(off is not None and off <= MOST for off in (self.whole, self.cut))


def count(name: str) -> Counted:
    """Looks at one architecture, and compares it with timm where it can be pruned."""
    own = catalogued(name)
    found = Counted(name, own.kind, own.reason, own.params, own.macs)
    if own.use == "refused":
        return found
    try:
        model, built = smaller(name)
        return replace(found, **compared(model), built=built)
    except Exception as error:  # the census goes on, and the line says what went wrong
        return replace(found, error=f"{type(error).__name__}: {error}"[:400])


def smaller(name: str) -> tuple[Any, str]:
    """Builds an architecture with few blocks, heads and patches, and with the kinds of parts of the whole one.

    Raises:
        ValueError: no choice of options keeps its parts.
    """
    whole = without_weights(name)
    kinds = kinds_of(plan_of_timm(whole))
    for options in _choices(whole):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if kinds_of(plan_of_timm(without_weights(name, **options))) != kinds:
                    continue
                torch.manual_seed(0)
                model = timm.create_model(name, pretrained=False, num_classes=_CLASSES, **options)
        except Exception:  # timm has no such option for this architecture
            continue
        disturb(model)
        at_size(model, options.get("img_size"))
        return model.eval(), ", ".join(f"{key}={value}" for key, value in options.items())
    raise ValueError("no smaller model has the same kinds of parts")


def _choices(whole: Any) -> Iterator[dict[str, Any]]:
    """Yields options of a smaller model, the smallest first."""
    patch, plan = _pixels_of_patch(whole), plan_of_timm(whole)
    block = plan.blocks[0]
    width = _HEADS * block.qk_dim
    sizes: list[dict[str, Any]] = [{"img_size": (4 * patch[0], 3 * patch[1])}, {"img_size": 4 * patch[0]}, {}]
    narrow: dict[str, Any] = {"embed_dim": width, "num_heads": _HEADS}
    grouped = any(getattr(own, "num_kv_groups", 1) > 1 for own in whole.modules())
    shared = narrow | {"num_kv_heads": 1 if grouped else _HEADS}
    for size in sizes:
        for depth in ({"depth": _DEPTH}, {}):
            for fewer in (shared, {}) if grouped else (narrow, shared, {}):
                yield {**size, **depth, **fewer}


def _pixels_of_patch(whole: Any) -> tuple[int, int]:
    """Returns height and width of the pixels that one token is made of."""
    if hasattr(whole, "embeds"):
        rows, columns = whole.embeds.patch_size
    elif hasattr(whole.patch_embed, "backbone"):
        rows, columns = whole.patch_embed.feat_ratio(as_scalar=False)
    else:
        rows, columns = whole.patch_embed.patch_size
    return int(rows), int(columns)


def kinds_of(plan: ShapePlan) -> ShapePlan:
    """Returns a plan in which only the kinds of parts are left."""
    block = BlockPlan(1, 8, 8, 8)
    same = replace(plan, norm_eps=1e-6) if isinstance(plan.norm_eps, tuple) else plan
    small = {"img_size": plan.patch_size, "embed_dim": 8, "num_classes": 1, "pre_dim": 8 if plan.pre_dim else 0}
    pool = plan.attn_pool and replace(plan.attn_pool, num_heads=1, head_width=8, mlp_dim=8)
    stem = (StemOp("relu", (-1,), plan.in_chans),) if plan.stem else ()
    return replace(same, blocks=(block,), attn_scale=1.0, norm_dim=0, attn_pool=pool, stem=stem, **small)


def disturb(model: torch.nn.Module) -> None:
    """Adds noise to every parameter, so that none keeps a value under which a part does nothing."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            size = value[0].numel() ** -0.5 if value.ndim > 1 else 0.2
            value.add_(size * torch.randn(value.shape, generator=generator))
        for name, value in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):  # statistics that a BatchNorm stores
                value.add_(torch.rand(value.shape, generator=generator))


def compared(model: Any) -> dict[str, float]:
    """Returns the largest differences of the whole and of a cut model, as shares of the largest output."""
    ours = from_timm(model)
    plan = ours.plan
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(_IMAGES, plan.in_chans, *plan.img_size, generator=generator)
    kept = drawn(plan)
    with torch.no_grad():
        whole = apart(ours(images), model(images))
        cut = apart(slice_vit(ours, kept)(images), masked_logits(ours, kept, images))
    return {"whole": whole, "cut": cut}


def apart(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """Returns the largest difference of two outputs as a share of the largest wanted one."""
    return float((got - wanted).abs().max() / wanted.abs().max())


def drawn(plan: ShapePlan) -> KeptUnits:
    """Draws about two thirds of all units of a plan to keep; rotated pairs stay whole."""
    generator = np.random.default_rng(3)

    def some(size: int) -> tuple[int, ...]:
        return tuple(sorted(generator.choice(size, max(8, size * 2 // 3 // 8 * 8), replace=False).tolist()))

    def looked(size: int) -> tuple[int, ...]:
        if plan.rope == "none":
            return some(size)
        pairs = sorted(generator.choice(size // 2, max(8, size * 2 // 3 // 8 * 8) // 2, replace=False).tolist())
        return tuple(2 * pair + place for pair in pairs for place in (0, 1))

    blocks = []
    for block in plan.blocks:
        heads = tuple(range(max(1, block.num_heads - 1)))
        qk = tuple(looked(block.qk_dim) for _ in heads)
        qk = qk[:1] * len(heads) if plan.rope == "shared" else qk
        blocks.append(KeptBlock(heads, qk, tuple(some(block.v_dim) for _ in heads), some(block.mlp_dim)))
    return KeptUnits(some(plan.embed_dim), tuple(blocks))


def read(path: Path) -> dict[str, Counted]:
    """Returns the lines of a census by name; a line that was cut off counts as not there."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            one = Counted(**json.loads(line))
        except (ValueError, TypeError):
            continue
        found[one.name] = one
    return found


def take(names: Sequence[str], path: Path, seconds: float) -> dict[str, Counted]:
    """Counts the names that have no line yet, until the time is up, and returns all lines."""
    known, end = read(path), time.monotonic() + seconds
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for name in names:
            if name in known:
                continue
            if time.monotonic() > end:
                print(f"The time is up; {sum(n not in known for n in names)} names are left. Run it again.")
                break
            known[name] = one = count(name)
            file.write(json.dumps(asdict(one)) + "\n")
            file.flush()
            if one.reason is None and not one.sound:
                print(f"WRONG {name}: whole {one.whole}, cut {one.cut}, {one.error}", flush=True)
    return known


def table(found: Sequence[Counted]) -> str:
    """Returns the census as a Markdown table: a line for each class, with the reasons of its refusals."""
    lines = ["| class of timm | names | pruned | largest difference | refused because of |", "|---|---|---|---|---|"]
    kinds = Counter(one.kind or "(cannot be built)" for one in found)
    order = sorted(kinds, key=lambda kind: (-sum(_is(one, kind) and one.sound for one in found), -kinds[kind], kind))
    for kind in order:
        own = [one for one in found if _is(one, kind)]
        good = [one for one in own if one.reason is None and one.sound]
        worst = max((max(one.whole or 0.0, one.cut or 0.0) for one in good), default=None)
        reasons = Counter(one.reason or f"WRONG: {one.error or one.name}" for one in own if one not in good)
        why = "; ".join(f"{reason} ({number})" for reason, number in reasons.most_common())
        lines.append(f"| {kind} | {len(own)} | {len(good)} | {'' if worst is None else f'{worst:.1e}'} | {why} |")
    total = sum(one.reason is None and one.sound for one in found)
    return "\n".join([*lines, f"| **all** | **{len(found)}** | **{total}** | | |"])


def _is(one: Counted, kind: str) -> bool:
    return (one.kind or "(cannot be built)") == kind


def main() -> int:
    """Counts, and prints the table or what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", help="parts of names, or patterns; all of timm's names without")
    parser.add_argument("--out", type=Path, required=True, help="folder of census.jsonl")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after so long")
    parser.add_argument("--table", action="store_true", help="print the table of the lines that are there")
    options = parser.parse_args()
    path = options.out / "census.jsonl"
    if options.table:
        print(table(list(read(path).values())))
        return 0
    torch.set_num_threads(1)
    names = list(dict.fromkeys(name for pattern in options.patterns or [None] for name in names_like(pattern)))
    known = take(names, path, options.seconds)
    done = [known[name] for name in names if name in known]
    wrong = [one.name for one in done if one.reason is None and not one.sound]
    print(f"{len(done)} names, {sum(one.reason is None and one.sound for one in done)} pruned, {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
