"""Which model for my device: ViTs whole and pruned beside other families, as TFLite files timed in turns.

    python benchmarks/which_model.py [--models deit_tiny,…] [--seconds 10] [--cores pi5] [--page FILE] [--report FOLDER]

Weights are random, since neither time nor size depends on them; so there is no accuracy. Models with a plan are written
by PocketViT, the others by litert-torch and ai-edge-quantizer (the extra ``convert``). All files are timed in one
interleaved run with one thread; times are medians with 95 % bootstrap intervals. ``--cores`` adds the instructions of
an image on emulated boards, which needs qemu. Finished files, times and counts are kept in ``--out``, so that a
run that was stopped goes on; ``--page`` writes the documentation's page, and ``--report`` a folder with all files and
their times, which ``pocketvit report`` reads, and its report.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import speedup
import torch

from compress.data.dataset import Dataset
from compress.data.load import load_data
from compress.model.folder import Task
from compress.model.load import ModelSpec, load_model
from compress.model.other import OtherModel, load_other
from compress.model.vit import SlicedViT
from device_bench import format
from device_bench.documents.measurement import Sampling
from device_bench.documents.results import BENCH_DOCUMENT, BenchResult
from device_bench.report.page import write_report
from device_bench.targets.bench import bench
from device_bench.targets.emulated import CoreName, count_instructions
from device_bench.timing.isolated import time_isolated
from device_bench.timing.stats import median_interval, ratio_of_medians
from export.exporter import export_each
from export.settings import ExportSettings
from runtime import Artifact, Preprocessing, manifest_path, read_artifact, sha256_of, write_bytes

KINDS = ("fp32", "int8")


@dataclass(frozen=True)
class Chosen:
    """One model of the page.

    Attributes:
        title: how the page calls it.
        architecture: its name in timm.
        img_size: side of its image, pixels.
        planned: whether PocketViT has a plan of it, and can prune it.
        share: what is left of its MACs; 1 for the whole model.
    """

    title: str
    architecture: str
    img_size: int
    planned: bool = True
    share: float = 1.0


MODELS = {
    "deit_tiny": Chosen("DeiT-T", "deit_tiny_patch16_224", 224),
    "deit_tiny_half": Chosen("DeiT-T, half its MACs", "deit_tiny_patch16_224", 224, share=0.5),
    "vit_tiny_160": Chosen("ViT-Tiny", "vit_tiny_patch16_224", 160),
    "vit_tiny_160_half": Chosen("ViT-Tiny, half its MACs", "vit_tiny_patch16_224", 160, share=0.5),
    "vit_tiny_384": Chosen("ViT-Tiny", "vit_tiny_patch16_384", 384),
    "vit_tiny_384_half": Chosen("ViT-Tiny, half its MACs", "vit_tiny_patch16_384", 384, share=0.5),
    "mobilenetv3": Chosen("MobileNetV3-Large", "mobilenetv3_large_100", 224, planned=False),
    "mobilevit": Chosen("MobileViT-S", "mobilevit_s", 256, planned=False),
    "tiny_vit": Chosen("TinyViT-5M", "tiny_vit_5m_224.dist_in22k_ft_in1k", 224, planned=False),
    "swin": Chosen("Swin-T", "swin_tiny_patch4_window7_224", 224, planned=False),
}


_TEXT = """# Which model for my device

```console
$ python benchmarks/which_model.py{options}
```

Neither time nor size depends on the weights, which are random here, so the table has no accuracy: compare your own
fine-tuned models with `pocketvit bench --images`. Models with a plan are written by PocketViT, and the pruned ones have
half their MACs left. The others are converted whole, see [Other models](../guides/other-models.md). Times are LiteRT's
with one thread on {cpu}, medians of one interleaved run of all files with 95 % intervals; read them as ratios. The
recipe of each int8 file was chosen for speed there. GFLOPs are twice the multiply-accumulates of one image.
"""


def main() -> None:
    """Makes what is missing, and prints or writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/which-model"))
    parser.add_argument("--seconds", type=float, default=10.0, help="measuring time for each file")
    parser.add_argument("--cores", default="", help="emulated boards to count instructions on, such as pi4,pi5")
    parser.add_argument("--page", type=Path, help="write the page to this file")
    parser.add_argument("--report", type=Path, help="write the files, their times and a report to this folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names, cores = options.models.split(","), [core for core in options.cores.split(",") if core]
    data = load_data("digits")
    for name in names:
        prepare(name, data, options.out)
    measured = time(names, options.out, options.seconds)
    for core in cores:
        count(core, names, options.out)
    if options.report:
        report(names, measured, options.out, options.report)
    text = page(names, measured, cores, options.out)
    if options.page:
        write_bytes(options.page, text.encode())
    else:
        print(text)


def file_of(name: str, kind: str, out: Path) -> Path:
    """Returns the path of a model's file."""
    return out / name / f"{name}.{kind}.tflite"


def prepare(name: str, data: Dataset, out: Path) -> None:
    """Exports a model unless its files are there.

    Raises:
        PocketVitError: a file differs from the torch model, or a converter cannot write it.
    """
    if all(file_of(name, kind, out).with_suffix(".tflite.json").is_file() for kind in KINDS):
        return
    model = build(MODELS[name])
    height, width = model.plan.img_size
    preprocessing = Preprocessing(height, width, model.plan.in_chans, (0.5,) * 3, (0.5,) * 3)
    classes = tuple(f"class {number}" for number in range(model.plan.num_classes))
    task = Task("digits", 0, None, preprocessing, classes, f"timm {MODELS[name].architecture}, fresh weights", False)
    settings = ExportSettings(kinds=KINDS, calibration_images=32, verify_images=16, gpu_check=False)
    outcome = export_each(model, task, data, out / name, name, settings, timer=time_isolated)
    if outcome.refused:
        raise SystemExit(f"{name}: {outcome.refused[0].refused}")
    print(f"{name}: written", flush=True)


def build(chosen: Chosen) -> SlicedViT | OtherModel:
    """Returns a model with random weights, pruned to its share."""
    if not chosen.planned:
        return load_other(ModelSpec(chosen.architecture))
    whole = load_model(ModelSpec(chosen.architecture, img_size=chosen.img_size), 1000)
    if chosen.share == 1:
        return whole
    # what to prune is chosen on ten classes, since random weights have no better reason
    return speedup.cut(whole, str(chosen.share))


def time(names: Sequence[str], out: Path, seconds: float) -> BenchResult:
    """Returns the times of all files, from an earlier run of the same files or in turns."""
    files = [file_of(name, kind, out) for name in names for kind in KINDS]
    kept = out / "bench.json"
    if kept.is_file():
        known = BENCH_DOCUMENT.read(kept)
        if [one.sha256 for one in known.files] == [sha256_of(file) for file in files]:
            return known
    result = bench(files, "cpu", threads=1, sampling=Sampling(seconds=seconds, min_samples=20))
    BENCH_DOCUMENT.write(kept, result)
    return result


def count(core: CoreName, names: Sequence[str], out: Path) -> None:
    """Counts the instructions of the files that were not counted yet."""
    for name in names:
        for kind in KINDS:
            kept = out / name / f"{kind}.{core}.json"
            if not kept.is_file():
                path = file_of(name, kind, out)
                kept.write_text(json.dumps(count_instructions(core, [path], 2)[path.name].of("all")))


def report(names: Sequence[str], measured: BenchResult, out: Path, folder: Path) -> None:
    """Writes a run folder of all files and their times, and its report."""
    for file in (file_of(name, kind, out) for name in names for kind in KINDS):
        for one in (file, manifest_path(file)):
            write_bytes(folder / "artifacts" / one.name, one.read_bytes())
    BENCH_DOCUMENT.write(folder / "bench" / f"{measured.target}.json", measured)
    print(*write_report(folder))


def page(names: Sequence[str], measured: BenchResult, cores: Sequence[str], out: Path) -> str:
    """Returns the page in Markdown."""
    asked = f" --cores {','.join(cores)}" if cores else ""
    heads = [
        "model",
        "image",
        "parameters",
        "GFLOPs",
        "fp32 file",
        "int8 file",
        "fp32 time",
        "int8 time",
        "fp32 / int8",
    ]
    heads += [f"{core} {kind}" for core in cores for kind in KINDS]
    lines = [_TEXT.format(options=asked, cpu=measured.before.cpu_model)]
    if cores:
        lines += ["Instructions are those of one image on [emulated boards](../guides/emulated-boards.md), in G.", ""]
    lines += [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    lines += [row(name, measured, cores, out) for name in names]
    recipes = sorted({read_artifact(file_of(name, "int8", out)).recipe for name in names})
    wrote = sorted({own.counted.converter for own in _artifacts(names, out) if own.counted is not None})
    lines += ["", f"Recipes of the int8 files: {', '.join(f'`{recipe}`' for recipe in recipes)}."]
    if wrote:
        lines += [f"Converted files were written by {'; '.join(wrote)}."]
    return "\n".join([*lines, ""])


def _artifacts(names: Sequence[str], out: Path) -> list[Artifact]:
    return [read_artifact(file_of(name, kind, out)) for name in names for kind in KINDS]


def row(name: str, measured: BenchResult, cores: Sequence[str], out: Path) -> str:
    """Returns a model's row of the table."""
    plain, small = _artifacts([name], out)
    latencies = [measured.of(artifact.file).latency for artifact in (plain, small)]
    assert latencies[0] is not None
    assert latencies[1] is not None
    times = [format.seconds_interval(median_interval(one.values)) for one in latencies if one is not None]
    ratio = format.times_interval(ratio_of_medians(latencies[0].values, latencies[1].values))
    cells = [MODELS[name].title, str(plain.preprocessing.height), format.count(plain.params)]
    cells += [f"{2 * (plain.macs or 0) / 1e9:.2f}", format.size(plain.size_bytes), format.size(small.size_bytes)]
    cells += [*times, ratio]
    for core in cores:
        for kind in KINDS:
            found = out / name / f"{kind}.{core}.json"
            cells.append(f"{json.loads(found.read_text()) / 1e9:.2f}" if found.is_file() else format.MISSING)
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
