"""What integers cost in accuracy, on a trained model and on ones made hard on purpose.

    pip install litert-torch ai-edge-quantizer
    python benchmarks/int8_accuracy.py [--model FOLDER] [--qat 1] [--out FOLDER] [--report]

The model is ViT-Tiny (192 wide, 12 blocks, 3 heads) at 32 px with patches of 8, trained on Fashion-MNIST: by default
the one of ``export_vs_peers.py --models tiny``. Two harder ones are made of it:

- ``outliers``: a few channels of every norm, query and value are 50 times larger, and what reads them 50 times smaller.
  In float32 it computes the same.
- ``stream outliers``: six channels of the residual stream are 50 times larger. No LayerNorm can undo that exactly, so
  the model is trained on until it is as good as before; its activations then look like those of published models.

Each is exported as ``int8`` and ``int8-full``, without and with quantisation-aware training, beside the stock recipes
of ai-edge-quantizer, and run on all 10,000 test images.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from export_vs_peers import DATA, TRAIN_LIMIT, compare, pixels, run_all
from peers import ai_edge_quantised, litert_torch_fp32

from compress.data.augment import augmentation_for
from compress.data.load import load_data
from compress.evaluate import logits_of
from compress.model.folder import Task, read_model, read_task, save_model
from compress.model.vit import SlicedViT, build
from compress.recipe import TrainRecipe
from compress.train.fit import fit
from device_bench import format
from device_bench.timing.isolated import time_isolated
from export.exporter import export_model
from export.settings import ExportSettings
from runtime import ParityError, write_bytes

FACTOR, CHANNELS = 50.0, 6
RECOVER = TrainRecipe(epochs=4, batch_size=64, lr=3e-4, head_lr=3e-4, warmup=0.1, patience=4, clip_norm=1.0)
KINDS = ("fp32", "int8", "int8-full")


def main() -> None:
    """Makes what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("runs/benchmarks/export-vs-peers/tiny/model"))
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/int8-accuracy"))
    parser.add_argument("--qat", type=int, default=1, help="epochs of quantisation-aware training")
    parser.add_argument("--images", type=int, default=10_000, help="test images")
    parser.add_argument("--report", action="store_true", help="print what was measured and do nothing else")
    options = parser.parse_args()
    if not options.report:
        for name in ("plain", "outliers", "stream outliers"):
            cell(options, name, subject(options, name))
    print("| model | file | recipe | top-1 | lost, points | agrees |")
    print("|---|---|---|---|---|---|")
    for path in sorted(options.out.glob("*/rows.json")):
        for row in json.loads(path.read_text()):
            print(f"| {' | '.join(row)} |")


def subject(options: argparse.Namespace, name: str) -> tuple[SlicedViT, Task]:
    """Returns the model of that name, making it where it is not there."""
    model, task = read_model(options.model), read_task(options.model)
    if name == "plain":
        return model, task
    if name == "outliers":
        return with_outliers(model), task
    folder = options.out / "stream-outliers" / "model"
    if not (folder / "model.safetensors").is_file():
        data = load_data(DATA, seed=0, train_limit=TRAIN_LIMIT)
        made = fit(
            with_stream_outliers(model),
            data,
            task.preprocessing,
            RECOVER,
            augmentation=augmentation_for(data),
            bf16=True,
            teacher=model,
        ).model
        save_model(folder, made, task)
    return read_model(folder), task


def with_outliers(model: SlicedViT) -> SlicedViT:
    """Returns the same function with some channels ``FACTOR`` times larger, and their readers as much smaller."""
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    chooser = torch.Generator().manual_seed(5)

    def some(width: int) -> torch.Tensor:
        return torch.randperm(width, generator=chooser)[:CHANNELS]

    for index, block in enumerate(model.plan.blocks):
        at, c = f"blocks.{index}", model.plan.embed_dim
        for norm, readers in (("norm1", ("attn.q", "attn.k", "attn.v")), ("norm2", ("mlp.fc1",))):
            chosen = some(c)
            for part in ("weight", "bias"):
                weights[f"{at}.{norm}.{part}"][chosen] *= FACTOR
            for reader in readers:
                weights[f"{at}.{reader}.weight"][:, chosen] /= FACTOR
        values, queries = some(block.num_heads * block.v_dim), some(block.num_heads * block.qk_dim)
        weights[f"{at}.attn.proj.weight"][:, values] /= FACTOR
        for part in ("weight", "bias"):
            weights[f"{at}.attn.v.{part}"][values] *= FACTOR
            weights[f"{at}.attn.q.{part}"][queries] *= FACTOR
            weights[f"{at}.attn.k.{part}"][queries] /= FACTOR
    return build(model.plan, weights)


def with_stream_outliers(model: SlicedViT) -> SlicedViT:
    """Returns the model with some channels of the stream ``FACTOR`` times larger, and norms that roughly allow for it.

    How much the outliers add to the variance differs from token to token, which no norm's weight can know.
    """
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    c, depth = model.plan.embed_dim, len(model.plan.blocks)
    scale = torch.ones(c)
    scale[torch.randperm(c, generator=torch.Generator().manual_seed(6))[:CHANNELS]] = FACTOR
    weights["patch_embed.weight"] *= scale.view(-1, 1, 1, 1)
    for name in ("patch_embed.bias", "cls_token", "pos_embed"):
        weights[name] *= scale
    for name in (f"blocks.{i}.{part}" for i in range(depth) for part in ("attn.proj", "mlp.fc2")):
        weights[f"{name}.weight"] *= scale[:, None]
        weights[f"{name}.bias"] *= scale
    growth = float((scale**2).mean().sqrt())
    for name in (*(f"blocks.{i}.norm{n}" for i in range(depth) for n in (1, 2)), "norm"):
        weights[f"{name}.weight"] *= growth / scale
    return build(model.plan, weights)


def cell(options: argparse.Namespace, name: str, made: tuple[SlicedViT, Task]) -> None:
    """Exports one model in every way and keeps the rows of the table."""
    model, task = made
    folder = options.out / name.replace(" ", "-")
    if (folder / "rows.json").is_file():
        return
    data = load_data(DATA, seed=0, train_limit=TRAIN_LIMIT)
    files: dict[str, tuple[str, Path]] = {}
    for qat in (0, options.qat):
        settings = ExportSettings(kinds=KINDS if not qat else ("int8-full",), qat_epochs=qat, verify_images=2000)
        try:
            exported = export_model(model, task, data, folder / f"qat-{qat}", "m", settings, timer=time_isolated)
        except ParityError as error:
            print(f"{name}: {error}", flush=True)
            continue
        for artifact in exported:
            title = f"{artifact.precision}, {qat} epochs of training under rounding" if qat else artifact.precision
            files[f"**{title}**"] = (artifact.recipe, folder / f"qat-{qat}" / artifact.file)
    files |= stock(model, pixels(data, np.sort(data.held_out[:64]), task), folder / "stock")
    test = data.test[: options.images]
    images, labels, wanted = (
        pixels(data, test, task),
        data.labels[test],
        logits_of(model, data, test, task.preprocessing),
    )
    right = float((wanted.argmax(1) == labels).mean())
    rows = [[name, "torch, float32", "", f"{100 * right:.2f} %", "", ""]]
    for title, (recipe, path) in files.items():
        answers = compare(run_all(path, images), wanted, labels)
        lost = f"{100 * (right - answers.top1):+.2f}"
        rows.append([name, title, recipe, f"{100 * answers.top1:.2f} %", lost, f"{100 * answers.agreement:.2f} %"])
    rows += speeds(name, [path for title, (_, path) in files.items() if "stock" not in title])
    write_bytes(folder / "rows.json", json.dumps(rows, indent=1).encode())


def stock(model: SlicedViT, images: Any, folder: Path) -> dict[str, tuple[str, Path]]:
    """Writes the files of ai-edge-quantizer's own recipes."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = folder / "fp32.tflite"
    litert_torch_fp32(model, plain)
    files = {}
    for recipe in ("dynamic_wi8_afp32", "static_wi8_ai8"):
        path = folder / f"{recipe}.tflite"
        ai_edge_quantised(plain, path, recipe, images)
        files[f"ai-edge-quantizer, stock {recipe.partition('_')[0]}"] = (recipe, path)
    return files


def speeds(name: str, files: Sequence[Path]) -> list[list[str]]:
    """Returns a row with how many times faster than our float file each is, timed in turns in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        named = [Path(shutil.copy(path, Path(folder) / f"{path.parent.name}.{path.name}")) for path in files]
        seconds = time_isolated(named, rounds=100, percent=50)
    ratios = ", ".join(
        f"{path.parent.name}/{path.name.removeprefix('m.')} {format.times(seconds[0] / own)}"
        for path, own in zip(files[1:], seconds[1:], strict=True)
    )
    return [[name, f"faster than fp32 ({format.seconds(seconds[0])}), one thread: {ratios}", "", "", "", ""]]


if __name__ == "__main__":
    main()
