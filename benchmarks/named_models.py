"""Popular Vision Transformers at their full depth and width, against timm and transformers.

    python benchmarks/named_models.py [NAME ...] [--out FOLDER] [--report]

Weights are random, and every parameter is disturbed by noise, so that no part does nothing. A model of timm is
converted as ``--model NAME`` does it; one of ``transformers`` is saved as a folder and loaded as ``--model FOLDER``
does it. Two images go through both. The difference is the largest one, as a share of the largest output; it must be
within 1e-5 in float64, and that in float32 is in the table, too. Each model is one line of ``models.jsonl``, so that a
run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from census import MOST, apart, disturb

from compress.model.load import ModelSpec, load_model
from compress.model.timm_vit import from_timm
from compress.model.vit import SlicedViT

TIMM: Mapping[str, dict[str, Any]] = {
    "vit_small_patch16_dinov3": {},
    "vit_base_patch16_dinov3": {},
    "vit_small_plus_patch16_dinov3": {},
    "vit_giant_patch14_dinov2": {"depth": 2, "img_size": 224},  # its block; the whole has 1.1 G parameters
    "vit_base_patch14_reg4_dinov2": {"img_size": 224},
    "eva02_small_patch14_224": {},
    "vit_pe_core_tiny_patch16_384": {},
    "vit_pe_spatial_base_patch16_512": {"img_size": 224},
    "vit_base_patch16_siglip_224": {},
    "vit_so150m2_patch16_reg1_gap_256": {},
    "aimv2_large_patch14_224": {},
    "beit_base_patch16_224": {},
    "beitv2_base_patch16_224": {},
    "vit_base_mci_224": {},
    "vit_small_r26_s32_224": {},
    "vit_relpos_medium_patch16_cls_224": {},
    "vit_base_patch16_xp_224": {},
    "vit_base_patch16_rope_mixed_224": {},
    "deit3_small_patch16_224": {},
    "vit_base_patch16_clip_quickgelu_224": {},
    "naflexvit_base_patch16_gap": {},
}
"""timm's names, with options of the architecture."""

CLASSES = 16


def _transformers() -> dict[str, Callable[[], Any]]:
    """Returns the models of ``transformers`` at the sizes that their published checkpoints have."""
    hf: Any = importlib.import_module("transformers")
    labels = {"num_labels": CLASSES}
    return {
        "CLIP ViT-B/32 (transformers)": lambda: hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig()),
        "Dinov2-S (transformers)": lambda: hf.Dinov2ForImageClassification(
            hf.Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14, **labels)
        ),
        "DINOv3 ViT-S/16 (transformers)": lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(num_register_tokens=4)),
        "SigLIP-B/16 (transformers)": lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig()),
        "BEiT-B/16 (transformers)": lambda: hf.BeitForImageClassification(
            hf.BeitConfig(use_relative_position_bias=True, use_absolute_position_embeddings=False, **labels)
        ),
        "ViT-B/16 (transformers)": lambda: hf.ViTForImageClassification(hf.ViTConfig(**labels)),
    }


def of_timm(name: str) -> dict[str, float]:
    """Returns the differences of a model of timm."""
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=CLASSES, **TIMM[name]).eval()
    disturb(model)
    return _compared(from_timm(model), model)


def of_transformers(make: Callable[[], Any], folder: Path) -> dict[str, float]:
    """Returns the differences of a model of ``transformers``; one without a head is compared in its pooled features."""
    torch.manual_seed(0)
    model = make().eval()
    disturb(model)
    model.save_pretrained(folder)
    head = hasattr(model, "classifier") or hasattr(model, "visual_projection")
    outputs = getattr(model, "visual_projection", None)
    own = load_model(ModelSpec(str(folder)), outputs.out_features if outputs is not None else CLASSES)

    def theirs(images: torch.Tensor) -> torch.Tensor:
        found = model(pixel_values=images)
        for name in ("logits", "image_embeds", "pooler_output"):
            if getattr(found, name, None) is not None:
                value: torch.Tensor = getattr(found, name)
                return value
        raise ValueError("the model has no pooled output")

    return _compared(own, theirs, model, features=not head)


def _compared(own: SlicedViT, theirs: Any, module: Any = None, features: bool = False) -> dict[str, float]:
    """Returns the largest differences in float32 and in float64, as shares of the largest output, and the size."""
    plan, found = own.plan, {}
    images = torch.randn(2, plan.in_chans, *plan.img_size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for kind, dtype in (("float32", torch.float32), ("float64", torch.float64)):
            own.to(dtype)
            (module if module is not None else theirs).to(dtype)
            pixels = images.to(dtype)
            got = own.features(pixels)[1] if features else own(pixels)
            found[kind] = apart(got, theirs(pixels))
    return {**found, "params": float(sum(value.numel() for value in own.parameters())), "blocks": len(plan.blocks)}


def main() -> int:
    """Compares what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="some of the models; all without")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/named-models"))
    parser.add_argument("--report", action="store_true", help="print what was compared and do nothing else")
    options = parser.parse_args()
    kept: Path = options.out / "models.jsonl"
    known = {line["name"]: line for line in map(json.loads, kept.read_text().splitlines())} if kept.is_file() else {}
    others = _transformers()
    names = options.names or [*TIMM, *others]
    options.out.mkdir(parents=True, exist_ok=True)
    for name in names:
        if name in known or options.report:
            continue
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")
            found = of_timm(name) if name in TIMM else of_transformers(others[name], Path(folder))
        known[name] = {"name": name, **found}
        with kept.open("a") as file:
            file.write(json.dumps(known[name]) + "\n")
        print(f"{name}: {found['float64']:.1e}", flush=True)
    print("\n| model | parameters | blocks | largest difference, float64 | float32 |\n|---|---:|---:|---:|---:|")
    for name in [name for name in names if name in known]:
        own = known[name]
        cells = f"{own['params'] / 1e6:.0f} M | {own['blocks']} | {own['float64']:.1e} | {own['float32']:.1e}"
        print(f"| {name} | {cells} |")
    return max((own["float64"] > MOST for own in known.values()), default=0)


if __name__ == "__main__":
    raise SystemExit(main())
