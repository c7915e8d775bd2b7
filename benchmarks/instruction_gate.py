"""How often the gate on instructions is right: an unchanged file many times, and files that were made a little worse.

python benchmarks/instruction_gate.py [--runs 20] [--core pi4]
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from compress.model.load import ModelSpec, load_model
from compress.model.vit import SlicedViT
from device_bench.documents.facts import Facts
from device_bench.gate.judge import Limits, judge
from device_bench.targets.emulated import CORES, count_instructions
from export.graph.build import vit_graph
from export.graph.ir import Graph, Op
from export.graph.rewrites import DEFAULT_REWRITES
from export.writers.tflite import tflite_bytes
from runtime import sha256_of

SPEC = ModelSpec("vit_tiny_patch16_224", img_size=32, patch_size=8, in_chans=1)


def main() -> None:
    """Counts and judges, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="of the unchanged file")
    parser.add_argument("--core", default="pi4", choices=list(CORES))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        files = write_files(Path(scratch))
        base = facts_of(files["unchanged"], options.core)
        print("| new file | gates | closed | instructions | SIMD instructions |")
        print("|---|---:|---:|---:|---:|")
        for name, file in files.items():
            found = [facts_of(file, options.core) for _ in range(options.runs if name == "unchanged" else 1)]
            closed = sum(bool(judge(base, new, Limits(), against="file").exceeded) for new in found)
            changes = (spread(base, found, kind) for kind in ("all_instructions", "simd_instructions"))
            print(f"| {name} | {len(found)} | {closed} | {' | '.join(changes)} |")


def write_files(folder: Path) -> dict[str, Path]:
    """Writes a float32 file of a ViT-Tiny, and the same with what a mistake would add to it."""
    model = load_model(SPEC, 10, 0).eval()
    first, *rest = model.plan.blocks
    wider = SlicedViT(replace(model.plan, blocks=(replace(first, mlp_dim=first.mlp_dim + 8), *rest))).eval()
    graphs = {
        "unchanged": vit_graph(model),
        "one operator more": with_one_more(vit_graph(model)),
        "one MLP wider by 8": vit_graph(wider),
        "norms not folded": vit_graph(model, DEFAULT_REWRITES.without("fold_norm")),
        "norms not centred": vit_graph(model, DEFAULT_REWRITES.without("centre")),
        "factors not folded": vit_graph(model, DEFAULT_REWRITES.without("fold_scale")),
    }
    files = {name: folder / f"{name}.tflite" for name in graphs}
    for name, graph in graphs.items():
        files[name].write_bytes(tflite_bytes(graph))
    return files


def with_one_more(graph: Graph) -> Graph:
    """Returns ``graph`` with nothing added to its logits, by an operator."""
    shape = graph.shapes[graph.output]
    return replace(
        graph,
        output="more",
        ops=(*graph.ops, Op("add", (graph.output, "nothing"), "more")),
        constants={**graph.constants, "nothing": np.zeros(shape[-1:])},
        shapes={**graph.shapes, "more": shape},
    )


def facts_of(file: Path, core: str) -> Facts:
    """Returns what the gate looks at here: the instructions alone."""
    counted = count_instructions(CORES[core].name, [file])[file.name]
    return Facts(file.name, sha256_of(file), file.stat().st_size, instructions=counted)


def spread(base: Facts, found: list[Facts], kind: str) -> str:
    """Returns by how much counts differ from the base's, in parts of it."""
    first = getattr(base, kind)
    changes = [getattr(new, kind) / first - 1 for new in found]
    low, high = min(changes), max(changes)
    return f"{100 * low:+.4f} %" if low == high else f"{100 * low:+.4f} to {100 * high:+.4f} %"


if __name__ == "__main__":
    main()
