"""What ViTs cost on the cores of a Raspberry Pi 4 and 5: instructions of every recipe, and x86 milliseconds beside.

    python benchmarks/board_instructions.py [--models tiny,small] [--cores pi4,pi5] [--no-time] [--report]

Weights are random: counts depend on shapes alone. The boards are emulated, so there are counts and no times of them;
the milliseconds are of this machine, one thread, all files of a model in turns. What was counted is kept, so that the
benchmark goes on where it was stopped.

The ratios to float32 at its end are what ``--for pi4`` and ``--for pi5`` order recipes by
(``export/instruction_costs.json``, which ``--write`` renews).
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from compress.model.load import ModelSpec, load_model
from compress.model.vit import SlicedViT
from device_bench import format
from device_bench.documents.measurement import Sampling
from device_bench.targets.bench import bench
from device_bench.targets.emulated import CoreName, count_instructions
from device_bench.timing.stats import median_interval, ratio_of_medians
from export.formats.tflite import write_int8, write_tflite
from export.quantise.recipes import Recipe, recipes_for
from runtime import ShapePlan, macs, write_bytes

MODELS = {"tiny": "vit_tiny_patch16_224", "small": "vit_small_patch16_224"}


def _recipes() -> dict[str, Recipe]:
    """Returns the recipes whose operators differ, by name; int8 throughout differs in its ranges alone."""
    full = [recipes_for(kind)[0] for kind in ("int8-full", "int8-full-mixed")]
    return {one.name: one for one in (*reversed(recipes_for("int8")), *recipes_for("int4"), *full)}


RECIPES = _recipes()
COSTS = Path(__file__).parents[1] / "export" / "quantise" / "instruction_costs.json"
RUNS = 2


def main() -> None:
    """Makes what is missing and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="tiny,small", help="comma-separated")
    parser.add_argument("--cores", default="pi4,pi5", help="comma-separated")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/board-instructions"))
    parser.add_argument("--no-time", dest="time", action="store_false", help="count only")
    parser.add_argument("--report", action="store_true", help="print what was measured and do nothing else")
    parser.add_argument("--write", action="store_true", help="renew the costs that export orders recipes by")
    options = parser.parse_args()
    names, cores = options.models.split(","), options.cores.split(",")
    for name in names:
        folder = options.out / name
        if not options.report:
            files = prepare(name, folder)
            for core in cores:
                count(core, files, folder)
            if options.time:
                time(files, folder)
        print(table(name, folder))
    print(ratios(names, options.out))
    if options.write:
        costs = {core: costs_on(core, names, options.out) for core in cores}
        write_bytes(COSTS, (json.dumps(costs, indent=1) + "\n").encode())


def prepare(name: str, folder: Path) -> dict[str, Path]:
    """Writes the whole and the sliced model by every recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = load_model(ModelSpec(MODELS[name]), 1000, 0).plan
    images = np.random.default_rng(0).standard_normal((2, 224, 224, 3)).astype(np.float32)
    files = {}
    for shape, plan in (("whole", whole), ("sliced", sliced(whole))):
        model = SlicedViT(plan).eval()
        for kind in ("fp32", *RECIPES):
            path = folder / f"{shape}-{kind}.tflite"
            files[path.stem] = path
            if path.is_file():
                continue
            if kind == "fp32":
                write_tflite(model, path)
            else:
                write_int8(model, path, images, RECIPES[kind])
    (folder / "macs.json").write_text(json.dumps({"whole": macs(whole), "sliced": macs(sliced(whole))}))
    return files


def sliced(plan: ShapePlan) -> ShapePlan:
    """Returns ``plan`` with three quarters of its attention and MLP widths, as a uniform pruning leaves them."""
    blocks = tuple(
        replace(one, qk_dim=one.qk_dim * 3 // 4, v_dim=one.v_dim * 3 // 4, mlp_dim=one.mlp_dim * 3 // 4)
        for one in plan.blocks
    )
    return replace(plan, blocks=blocks)


def count(core: CoreName, files: dict[str, Path], folder: Path) -> None:
    """Counts the files that were not counted on ``core`` yet."""
    for name, path in files.items():
        kept = folder / f"{name}.{core}.json"
        if not kept.is_file():
            found = count_instructions(core, [path], RUNS)[path.name]
            counts = {kind: found.of(kind) for kind in ("all", "simd", "dot")}
            kept.write_text(json.dumps({"core": found.core, **counts}))
            print(f"{core} {folder.name} {name}: {counts['all'] / 1e9:.3f} G", file=sys.stderr)


def time(files: dict[str, Path], folder: Path) -> None:
    """Times all files in turns on this machine."""
    kept = folder / "x86.json"
    if not kept.is_file():
        result = bench(list(files.values()), sampling=Sampling(seconds=5.0), startup=False, peaks=False)
        latencies = {Path(one.file).stem: one.latency.values for one in result.files if one.latency}
        kept.write_text(json.dumps({"cpu": result.before.cpu_model, "seconds": latencies}))


def read(path: Path) -> Any:
    """Returns what a JSON file holds, or an empty object where there is none."""
    return json.loads(path.read_text()) if path.is_file() else {}


def table(name: str, folder: Path) -> str:
    """Returns what one model costs, as a Markdown table."""
    x86, work = read(folder / "x86.json"), read(folder / "macs.json")
    lines = [
        f"{MODELS[name]}, 224 px, one image, one thread; milliseconds of {x86.get('cpu', 'no machine')}:",
        "",
        "| model | GMACs | file | A72 G instr. | of fp32 | A76 G instr. | of fp32 | A76 dot products | x86 | of fp32 |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for shape in ("whole", "sliced"):
        for kind in ("fp32", *RECIPES):
            cells = [shape, f"{work.get(shape, 0) / 1e9:.2f}", kind]
            for core in ("pi4", "pi5"):
                own = read(folder / f"{shape}-{kind}.{core}.json").get("all")
                base = read(folder / f"{shape}-fp32.{core}.json").get("all")
                cells += [f"{own / 1e9:.2f}", f"{own / base:.2f}"] if own and base else [format.MISSING] * 2
            dots = read(folder / f"{shape}-{kind}.pi5.json").get("dot")
            cells.append(format.MISSING if dots is None else f"{dots / 1e6:.0f} M")
            cells += timed(x86.get("seconds", {}), f"{shape}-{kind}", f"{shape}-fp32")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def timed(seconds: dict[str, list[float]], name: str, base: str) -> list[str]:
    """Returns a file's median latency, and as a share of another's, each with its 95 % interval."""
    if name not in seconds or base not in seconds:
        return [format.MISSING] * 2
    own, others = seconds[name], seconds[base]
    share = ratio_of_medians(own, others)
    interval = "" if name == base else f" [{share.low:.2f}, {share.high:.2f}]"
    return [format.seconds_interval(median_interval(own)), f"{share.value:.2f}{interval}"]


def costs_on(core: str, names: list[str], out: Path) -> dict[str, float]:
    """Returns each recipe's instructions over float32's, the mean over all models and shapes."""
    found = {}
    for kind in RECIPES:
        pairs = [
            (read(out / name / f"{shape}-{kind}.{core}.json"), read(out / name / f"{shape}-fp32.{core}.json"))
            for name in names
            for shape in ("whole", "sliced")
        ]
        if all(own and base for own, base in pairs):
            found[kind] = round(fmean(own["all"] / base["all"] for own, base in pairs), 3)
    return found


def ratios(names: list[str], out: Path) -> str:
    """Returns the mean costs of the recipes, as a Markdown table."""
    costs = {core: costs_on(core, names, out) for core in ("pi4", "pi5")}
    lines = ["| recipe | A72 instructions, of fp32 | A76 |", "|---|---:|---:|"]
    for kind in RECIPES:
        lines.append(
            f"| {kind} | {costs['pi4'].get(kind, format.MISSING)} | {costs['pi5'].get(kind, format.MISSING)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
