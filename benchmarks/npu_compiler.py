"""Which operators of our files an NPU's compiler leaves to the CPU: Vela for Arm's Ethos-U55, U65 and U85.

    python benchmarks/npu_compiler.py [FILE.tflite…] [--fetch] [--rewrites]

Without files it writes the default model as ``static-int8``, ``int8-full`` and ``fp32``. Its weights are fresh, since
what a compiler takes depends on operators, types and shapes. ``--fetch`` installs Vela in an environment of its own.

``--rewrites`` compiles the graphs that a static-int8 file could have instead, of the default model and of a DINOv2
ViT-S at 98 px, with random weights and arbitrary ranges.

Cycles are Vela's estimate and no measurement; they say which of two graphs it would rather have.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.vela import CHIPS, VERSION, Compiled, compiled, fetch_vela, find_vela
from compress.model.load import load_model
from compress.model.vit import SlicedViT
from export.exporter import export_model
from export.formats.static_int8 import static_rewrites
from export.graph.build import vit_graph
from export.quantise.calibrate import TensorStats
from export.quantise.integer import quantise_graph
from export.quantise.recipes import modes_of, recipes_for
from export.settings import ExportSettings
from export.writers.tflite import tflite_bytes
from pocketvit.pipeline.job import prepare
from pocketvit.settings import RunSettings
from runtime import BlockPlan, PocketVitError, ShapePlan

_ENCODER = "blocks."
RECIPE = recipes_for("static-int8")[0]
MODELS = {
    "default": ShapePlan((32, 32), (8, 8), 1, 10, 96, (BlockPlan(3, 32, 32, 384),) * 6, 32**-0.5),
    "dinov2-s-98": ShapePlan((98, 98), (14, 14), 3, 10, 384, (BlockPlan(6, 64, 64, 1536),) * 12, 0.125),
}


def main() -> None:
    """Prints a table of the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help=".tflite files")
    parser.add_argument("--fetch", action="store_true", help="install Vela where it is missing")
    parser.add_argument("--rewrites", action="store_true", help="compare other graphs of two models")
    options = parser.parse_args()
    try:
        program = fetch_vela() if options.fetch else find_vela()
        if program is None:
            raise SystemExit("Error: Vela is not installed. What to do: give --fetch")
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            show(other_graphs(folder) if options.rewrites else options.files or default_files(folder), program)
    except PocketVitError as error:
        raise SystemExit(f"Error: {error}") from None


def default_files(folder: Path) -> list[Path]:
    """Writes the default model with fresh weights and returns its files."""
    job = prepare(RunSettings())
    model = load_model(job.spec, job.data.num_classes, seed=0)
    kinds = ("static-int8", "int8-full", "fp32")
    settings = ExportSettings(kinds=kinds, min_agreement=0.0, verify_images=32, calibration_images=32)
    export_model(model, job.task, job.data, folder, "default", settings)
    return [folder / f"default.{kind}.tflite" for kind in kinds]


def other_graphs(folder: Path) -> list[Path]:
    """Writes int8 files of two models by the rewrites of static-int8 and by others, and returns them."""
    made_up = TensorStats(-4.0, 4.0, np.ones(1), np.zeros(1), np.zeros(1, np.float32))
    ranges = replace(RECIPE.ranges, method="minmax")
    files = []
    for name, plan in MODELS.items():
        model = SlicedViT(plan).eval()
        ours = static_rewrites(model)
        others = {"ours": ours, "one_query": replace(ours, one_query=True), "conv_2d": ours.without("patch_rows")}
        for way, rewrites in others.items():
            graph = vit_graph(model, rewrites)
            quantised = quantise_graph(graph, modes_of(graph, RECIPE), dict.fromkeys(graph.shapes, made_up), ranges)
            files.append(folder / f"{name}.{way}.tflite")
            files[-1].write_bytes(tflite_bytes(quantised))
    return files


def show(files: list[Path], program: Path) -> None:
    """Prints how many operators are on the NPU, and why the others are not."""
    print(f"Vela {VERSION}; encoder: the operators of the blocks\n")
    print("| file | NPU | operators | on the CPU | of the encoder | on the CPU | cycles, Vela's estimate |")
    print("|---|---|---:|---:|---:|---:|---:|")
    found: list[tuple[Path, Compiled]] = []
    for file in files:
        for chip in CHIPS:
            own = compiled(file, chip, program)
            found.append((file, own))
            encoder = [name for name in own.operators if name.startswith(_ENCODER)]
            cycles = "" if own.cycles is None else f"{own.cycles / 1e6:.3g} M"
            print(
                f"| {file.name} | {chip} | {len(own.operators)} | {len(own.on_cpu())} | {len(encoder)} "
                f"| {len(own.on_cpu(_ENCODER))} | {cycles} |",
                flush=True,
            )
    for file in files:
        chips: dict[tuple[str, int], list[str]] = {}
        for own in (own for path, own in found if path == file):
            for reason in Counter(own.left[name] for name in own.on_cpu()).items():
                chips.setdefault(reason, []).append(own.chip)
        for (reason, count), names in chips.items():
            print(f"\n{file.name} on {', '.join(names)}, {count} operators: {reason}")


if __name__ == "__main__":
    main()
