"""Our files beside other tools' files of the same weights: time in turns, accuracy and agreement beside every time.

    pip install litert-torch ai-edge-quantizer onnxscript openvino nncf
    python benchmarks/export_vs_peers.py [--models small,tiny] [--threads 1,2] [--out FOLDER] [--report]

``small`` is ViT-S/16 at 224 px with fresh weights and a classifier fitted to its features of Fashion-MNIST, since no
published weights can be assumed: its times are those of any ViT-S, its accuracy is that of random features. ``tiny`` is
ViT-Tiny (192 wide, 12 blocks, 3 heads) at 32 px with patches of 8, trained on Fashion-MNIST from fresh weights.

Every file is made once and kept in the folder. All files of a model are loaded in one fresh process that trains and
converts nothing, and run in turns; a ratio is of medians within that one run, with a 95 % bootstrap interval.
Agreement is with the torch model's top-1 on test images, one at a time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from peers import Images, write_peers

from compress.data.augment import augmentation_for
from compress.data.batches import plain_batches
from compress.data.load import load_data
from compress.evaluate import evaluating, logits_of
from compress.model.folder import Task, read_model, read_task, save_model
from compress.model.load import ModelSpec, load_model, weights_metadata
from compress.model.vit import SlicedViT, build
from compress.recipe import TrainRecipe
from compress.train.fit import fit
from device_bench import format
from device_bench.timing.isolated import time_isolated
from device_bench.timing.measure import settle
from device_bench.timing.stats import median_interval, ratio_of_medians
from export.exporter import export_model
from export.formats.tflite import write_int8
from export.quantise.recipes import DYNAMIC_ATTENTION
from export.settings import ExportSettings
from runtime import Preprocessing, open_engine

DATA, TRAIN_LIMIT = "fashion-mnist", 12_000
SPECS = {
    "small": ModelSpec("vit_small_patch16_224"),
    "tiny": ModelSpec("vit_tiny_patch16_224", img_size=32, patch_size=8, in_chans=1),
}
TITLES = {"small": "ViT-S/16 at 224 px, random features", "tiny": "ViT-Tiny at 32 px, trained"}
TRAIN = TrainRecipe(epochs=24, batch_size=64, lr=1e-3, head_lr=1e-3, warmup=0.1, patience=24, clip_norm=1.0)
PROBE_IMAGES, PROBE_COMPONENTS = 600, 24
AGREEMENT = {"small": 0.9, "tiny": 0.99}
"""Random features answer less surely than trained ones: no tool's int8 reaches 99 % of them."""

VERIFY_IMAGES = {"small": 400, "tiny": 1_000}
TEST_IMAGES = {"small": 2_000, "tiny": 10_000}
ROUNDS = {"small": 200, "tiny": 400}
OURS = {
    "fp32.tflite": "**PocketViT, fp32**",
    "fp16.tflite": "**PocketViT, fp16 weights**",
    "int8.tflite": "**PocketViT, int8**",
    "int8-full.tflite": "**PocketViT, int8-full**",
    "onnx": "**PocketViT, ONNX fp32**",
    "int8.onnx": "**PocketViT, ONNX int8**",
}
MIXED = "**PocketViT, dynamic int8 with integer attention**"
ENGINES = {".tflite": "LiteRT", ".onnx": "ONNX Runtime", ".xml": "OpenVINO"}


@dataclass(frozen=True)
class Answers:
    """How one file answers the test images.

    Attributes:
        top1: share it has right, 0..1.
        agreement: share on which it has the torch model's top-1, 0..1.
        max_abs: largest difference of a logit from torch's, relative to the largest logit.
    """

    top1: float
    agreement: float
    max_abs: float


def main() -> None:
    """Makes what is missing, times it, prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="small,tiny", help="comma-separated")
    parser.add_argument("--threads", default="1,2", help="comma-separated")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/export-vs-peers"))
    parser.add_argument("--report", action="store_true", help="print what was measured and do nothing else")
    parser.add_argument("--time", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.time is not None:
        time_here(json.loads(options.time.read_text()))
        return
    for name in options.models.split(","):
        folder = options.out / name
        if not options.report:
            files = prepare(name, folder)
            for threads in map(int, options.threads.split(",")):
                measure(name, files, folder, threads)
        for path in sorted(folder.glob("times-*.json")):
            print(table(name, folder, json.loads(path.read_text())))


def prepare(name: str, folder: Path) -> dict[str, Path]:
    """Makes the model, our files and the peers', and lets every file answer."""
    model, task = subject(name, folder / "model")
    data = load_data(DATA, seed=0, train_limit=TRAIN_LIMIT)
    settings = ExportSettings(
        kinds=("fp32", "fp16", "int8", "int8-full", "onnx", "onnx-int8"),
        verify_images=VERIFY_IMAGES[name],
        min_agreement=AGREEMENT[name],
    )
    export_model(model, task, data, folder / "ours", name, settings, timer=time_isolated)
    chosen = np.sort(np.random.default_rng(0).permutation(data.held_out)[:64])
    files = {title: folder / "ours" / f"{name}.{suffix}" for suffix, title in OURS.items()}
    mixed = folder / "ours" / "dynamic-attention.tflite"
    write_int8(model, mixed, pixels(data, chosen, task), DYNAMIC_ATTENTION)
    files[MIXED] = mixed
    files |= write_peers(model, pixels(data, chosen, task), folder / "peers")
    test = data.test[: TEST_IMAGES[name]]
    known = folder / "answers.json"
    answers: dict[str, Any] = json.loads(known.read_text()) if known.is_file() else {}
    if answers.keys() != files.keys():
        images, labels = pixels(data, test, task), data.labels[test]
        wanted = logits_of(model, data, test, task.preprocessing)
        answers = {title: asdict(compare(run_all(path, images), wanted, labels)) for title, path in files.items()}
        known.write_text(json.dumps(answers, indent=1))
    return files


def subject(name: str, folder: Path) -> tuple[SlicedViT, Task]:
    """Returns the model, training or fitting it where it is not there."""
    if (folder / "model.safetensors").is_file():
        return read_model(folder), read_task(folder)
    spec, data = SPECS[name], load_data(DATA, seed=0, train_limit=TRAIN_LIMIT)
    fresh, stats = load_model(spec, data.num_classes, 0), weights_metadata(spec)
    size = fresh.plan.img_size
    preprocessing = Preprocessing(*size, spec.in_chans, stats.mean, stats.std, "bilinear", "stretch")
    task = Task(DATA, 0, TRAIN_LIMIT, preprocessing, data.class_names, f"timm {spec.name}, fresh weights", trained=True)
    if name == "small":
        model = probed(fresh, data, task)
    else:
        model = fit(fresh, data, preprocessing, TRAIN, augmentation=augmentation_for(data), bf16=True).model
    save_model(folder, model, task)
    return model, task


def probed(model: SlicedViT, data: Any, task: Task) -> SlicedViT:
    """Returns the model with a classifier fitted by least squares to the main components of its features.

    The others hardly vary between images: a classifier that hung on them would answer by the last bits of float32.
    """
    chosen = np.sort(np.random.default_rng(1).permutation(data.train)[:PROBE_IMAGES])
    features: list[torch.Tensor] = []
    hook = model.head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    with evaluating(model):
        for images, _ in plain_batches(data, chosen, task.preprocessing):
            model(images)
    hook.remove()
    x, y = torch.cat(features).double(), torch.nn.functional.one_hot(torch.from_numpy(data.labels[chosen])).double()
    centre = x.mean(0)
    _, _, components = torch.linalg.svd(x - centre, full_matrices=False)
    main = components[:PROBE_COMPONENTS]
    weight = torch.linalg.lstsq((x - centre) @ main.T, y - y.mean(0)).solution.T @ main
    weights = {**model.state_dict(), "head.weight": 10 * weight.float()}
    weights["head.bias"] = 10 * (y.mean(0) - weight @ centre).float()
    return build(model.plan, weights)


def pixels(data: Any, indices: npt.NDArray[np.int64], task: Task) -> Images:
    """Returns preprocessed images, ``(N, H, W, C)``."""
    batches = [images.numpy() for images, _ in plain_batches(data, indices, task.preprocessing)]
    return np.ascontiguousarray(np.concatenate(batches).transpose(0, 2, 3, 1))


def compare(logits: Images, wanted: Images, labels: npt.NDArray[np.int64]) -> Answers:
    """Returns how logits compare with torch's."""
    top1 = logits.argmax(1)
    difference = float(np.abs(logits - wanted).max() / np.abs(wanted).max())
    return Answers(float((top1 == labels).mean()), float((top1 == wanted.argmax(1)).mean()), difference)


def opened(path: Path, threads: int) -> Callable[[Images], Images]:
    """Returns a function from one image ``(1, H, W, C)`` to its logits, by the engine of the file's format."""
    if path.suffix == ".xml":
        import openvino

        core = openvino.Core()
        options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        compiled = core.compile_model(path, "CPU", options)
        return lambda image: np.asarray(compiled(image.transpose(0, 3, 1, 2))[0])
    engine = open_engine(path, threads=threads)
    onnx = path.suffix == ".onnx"

    def run(image: Images) -> Images:
        raw: npt.NDArray[Any] = np.ascontiguousarray(image.transpose(0, 3, 1, 2)) if onnx else image
        if engine.input_qparams is not None:
            scale, zero = engine.input_qparams
            raw = np.clip(np.rint(raw / np.float32(scale)) + zero, -128, 127).astype(np.int8)
        logits = engine.run(raw)
        if engine.output_qparams is None:
            return np.asarray(logits)
        scale, zero = engine.output_qparams
        return (logits.astype(np.float32) - zero) * np.float32(scale)

    return run


def run_all(path: Path, images: Images) -> Images:
    """Returns the logits of all images, one at a time."""
    run = opened(path, 2)
    return np.concatenate([run(image[None]) for image in images])


def measure(name: str, files: dict[str, Path], folder: Path, threads: int) -> None:
    """Times all files in turns, in a fresh process, and keeps every value."""
    request = folder / "request.json"
    request.write_text(
        json.dumps(
            {
                "files": {title: str(path) for title, path in files.items()},
                "threads": threads,
                "rounds": ROUNDS[name],
                "shape": [1, *SPECS_SHAPE[name]],
            }
        )
    )
    command = [sys.executable, __file__, "--time", str(request)]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]
    (folder / f"times-{threads}.json").write_text(answer)


SPECS_SHAPE = {"small": (224, 224, 3), "tiny": (32, 32, 1)}


def time_here(request: dict[str, Any]) -> None:
    """Runs every file in turns, each timed run after some that are not, and prints the times as JSON."""
    image = np.random.default_rng(0).standard_normal(request["shape"], np.float32)
    runs = {title: opened(Path(path), request["threads"]) for title, path in request["files"].items()}
    seconds: dict[str, list[float]] = {title: [] for title in runs}
    order, rng = list(runs), np.random.default_rng(1)
    for _ in range(request["rounds"]):
        for title in rng.permutation(order):
            settle(partial(runs[title], image))
            started = time.perf_counter()
            runs[title](image)
            seconds[title].append(time.perf_counter() - started)
    print(json.dumps({"threads": request["threads"], "seconds": seconds}))


def table(name: str, folder: Path, timed: dict[str, Any]) -> str:
    """Returns the table of one model at one number of threads."""
    answers = json.loads((folder / "answers.json").read_text())
    seconds: dict[str, Sequence[float]] = timed["seconds"]
    base = seconds["litert-torch, fp32"]
    lines = [
        "",
        f"{TITLES[name]}, {timed['threads']} thread(s), {TEST_IMAGES[name]} test images:",
        "",
        "| file | engine | median [95 % CI] | of litert-torch's fp32 time | top-1 | agrees | max abs of logits |",
        "|---|---|---|---|---|---|---|",
    ]
    paths = {title: f"x.{suffix}" for suffix, title in OURS.items()}
    for title in sorted(seconds, key=lambda one: float(np.median(seconds[one]))):
        ratio, answer = ratio_of_medians(seconds[title], base), answers[title]
        engine = ENGINES[Path(paths[title]).suffix] if title in paths else engine_of(title)
        cells = [
            title,
            engine,
            format.seconds_interval(median_interval(seconds[title])),
            "1" if title == "litert-torch, fp32" else f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]",
            format.percent(answer["top1"]),
            f"{100 * answer['agreement']:.2f} %",
            f"{answer['max_abs']:.1e}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def engine_of(title: str) -> str:
    """Returns the engine that runs a peer's file."""
    if title.startswith("OpenVINO"):
        return "OpenVINO"
    return "ONNX Runtime" if title.startswith(("torch", "ONNX")) else "LiteRT"


if __name__ == "__main__":
    main()
