"""Our files beside other tools' files of the same weights: time in turns, accuracy and agreement beside every time.

    pip install litert-torch ai-edge-quantizer onnxscript openvino nncf
    python benchmarks/export_vs_peers.py [--models small,tiny] [--threads 1,2] [--out FOLDER] [--report]
    python benchmarks/export_vs_peers.py --models given --model vit_small_patch14_dinov2 --img-size 98 \
        --checkpoint FILE [--data fashion-mnist] [--test-images 2000]

``small`` is ViT-S/16 at 224 px with fresh weights and a classifier fitted to its features of Fashion-MNIST, since no
published weights can be assumed: its times are those of any ViT-S, its accuracy is that of random features. ``tiny`` is
ViT-Tiny (192 wide, 12 blocks, 3 heads) at 32 px with patches of 8, trained on Fashion-MNIST from fresh weights.
``given`` is any architecture of timm with the weights of a file, whose classifier knows the classes of the data.

Every file is made once and kept in the folder. All files of a model are loaded in one fresh process that trains and
converts nothing, and run in turns; a ratio is of medians within that one run, with a 95 % bootstrap interval.
Agreement is with the torch model's top-1 on test images, one at a time.
"""

from __future__ import annotations

import argparse
import json
import math
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
from compress.data.class_order import reordered
from compress.data.dataset import Dataset
from compress.data.load import load_data
from compress.evaluate import evaluating, logits_of
from compress.model.folder import Task, read_model, read_task, save_model
from compress.model.load import ModelSpec, load_model, weights_metadata
from compress.model.metadata import is_stretched
from compress.model.vit import SlicedViT, build
from compress.recipe import TrainRecipe
from compress.train.fit import fit
from device_bench import format
from device_bench.timing.isolated import time_isolated
from device_bench.timing.measure import settle
from device_bench.timing.stats import median_interval, ratio_of_medians
from export.compare import compare_logits
from export.exporter import REJECTED, export_each
from export.formats.tflite import write_int8
from export.quantise.recipes import DYNAMIC_ATTENTION
from export.settings import ExportSettings
from runtime import Preprocessing, open_engine

DATA, TRAIN_LIMIT = "fashion-mnist", 12_000
TRAIN = TrainRecipe(epochs=24, batch_size=64, lr=1e-3, head_lr=1e-3, warmup=0.1, patience=24, clip_norm=1.0)
PROBE_IMAGES, PROBE_COMPONENTS = 600, 24


@dataclass(frozen=True)
class Contest:
    """One model whose files are compared.

    Attributes:
        spec: the architecture, its input and its weights.
        title: its name in the table.
        agreement: least share of images on which our integer files must agree; None takes the usual gate. Random
            features answer less surely than trained ones: no tool's int8 reaches 99 % of them.
        verify_images: test images that our files are verified on; 0 takes as many as it needs.
        test_images: test images that every file answers, at most.
        rounds: timed runs of every file.
        data: the dataset, as ``pocketvit run`` takes it.
    """

    spec: ModelSpec
    title: str
    agreement: float | None
    verify_images: int
    test_images: int
    rounds: int
    data: str = DATA


CONTESTS = {
    "small": Contest(
        ModelSpec("vit_small_patch16_224"), "ViT-S/16 at 224 px, random features", 0.9, 400, 2_000, rounds=200
    ),
    "tiny": Contest(
        ModelSpec("vit_tiny_patch16_224", img_size=32, patch_size=8, in_chans=1),
        "ViT-Tiny at 32 px, trained",
        0.99,
        1_000,
        10_000,
        rounds=400,
    ),
}

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
        sqnr_db: squared logits of torch over the squared difference from them, dB.
        max_abs: largest difference of a logit from torch's, relative to the largest logit.
    """

    top1: float
    agreement: float
    sqnr_db: float
    max_abs: float


def main() -> None:
    """Makes what is missing, times it, prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="small,tiny", help="comma-separated")
    parser.add_argument("--threads", default="1,2", help="comma-separated")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/export-vs-peers"))
    parser.add_argument("--report", action="store_true", help="print what was measured and do nothing else")
    parser.add_argument("--time", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--model", default="", help="of given: timm's name of the architecture")
    parser.add_argument("--img-size", type=int, help="of given: input side, pixels")
    parser.add_argument("--checkpoint", type=Path, help="of given: weights with a classifier of the data")
    parser.add_argument("--data", default=DATA, help="of given: labelled dataset, as pocketvit run takes it")
    parser.add_argument("--test-images", type=int, default=2_000, help="of given: at most")
    options = parser.parse_args()
    if options.time is not None:
        time_here(json.loads(options.time.read_text()))
        return
    contests = CONTESTS | {"given": given(options)} if options.model else CONTESTS
    for name in options.models.split(","):
        if name not in contests:
            parser.error(f"--models knows {', '.join(CONTESTS)}, and given with --model and --checkpoint. Got {name}")
        folder, contest = options.out / name, contests[name]
        if not options.report:
            files = prepare(name, contest, folder)
            for threads in map(int, options.threads.split(",")):
                measure(contest, files, folder, threads)
        for path in sorted(folder.glob("times-*.json")):
            print(table(contest, folder, json.loads(path.read_text())))


def given(options: argparse.Namespace) -> Contest:
    """Returns the contest of the model that was given."""
    spec = ModelSpec(options.model, img_size=options.img_size, checkpoint=options.checkpoint)
    size = f" at {options.img_size} px" if options.img_size else ""
    return Contest(spec, f"{options.model}{size}, given weights", None, 0, options.test_images, 200, options.data)


def prepare(name: str, contest: Contest, folder: Path) -> dict[str, Path]:
    """Makes the model, our files and the peers', and lets every file answer."""
    model, task = subject(name, contest, folder / "model")
    data = data_of(contest, task.class_names)
    ours = folder / "ours"
    settings = ExportSettings(
        kinds=("fp32", "fp16", "int8", "int8-full", "onnx", "onnx-int8"),
        verify_images=contest.verify_images,
        min_agreement=contest.agreement,
    )
    outcome = export_each(model, task, data, ours, name, settings, timer=time_isolated)
    refused = {own.file: own.refused for own in outcome.refused}
    for reason in refused.values():
        print(f"timed although its gate refuses it: {reason}", file=sys.stderr)
    chosen = np.sort(np.random.default_rng(0).permutation(data.held_out)[:64])
    files = {}
    for suffix, title in OURS.items():
        file = f"{name}.{suffix}"
        files[title] = (ours / REJECTED if file in refused else ours) / file
    mixed = ours / "dynamic-attention.tflite"
    write_int8(model, mixed, pixels(data, chosen, task), DYNAMIC_ATTENTION)
    files[MIXED] = mixed
    files |= write_peers(model, pixels(data, chosen, task), folder / "peers")
    test = data.test[: contest.test_images]
    known = folder / "answers.json"
    answers: dict[str, Any] = json.loads(known.read_text()) if known.is_file() else {}
    if answers.keys() != files.keys():
        images, labels = pixels(data, test, task), data.labels[test]
        wanted = logits_of(model, data, test, task.preprocessing)
        answers = {title: asdict(compare(run_all(path, images), wanted, labels)) for title, path in files.items()}
        known.write_text(json.dumps(answers, indent=1))
    return files


def data_of(contest: Contest, class_names: tuple[str, ...] | None = None) -> Dataset:
    """Returns the dataset of a contest, with the classes in the order of the model's outputs."""
    data = load_data(contest.data, seed=0, train_limit=TRAIN_LIMIT)
    return data if class_names in (None, data.class_names) else reordered(data, class_names)


def subject(name: str, contest: Contest, folder: Path) -> tuple[SlicedViT, Task]:
    """Returns the model, training or fitting it where it is not there and has no weights."""
    if (folder / "model.safetensors").is_file():
        return read_model(folder), read_task(folder)
    spec, stats = contest.spec, weights_metadata(contest.spec)
    data = data_of(contest, stats.class_names)
    model, source = load_model(spec, data.num_classes, 0), f"timm {spec.name}, fresh weights"
    size = model.plan.img_size
    if spec.checkpoint is not None:
        source, preprocessing = "given weights", stats.preprocessing(*size, stretch=is_stretched(data.size, *size))
    else:
        preprocessing = Preprocessing(*size, spec.in_chans, stats.mean, stats.std, "bilinear", "stretch")
    task = Task(contest.data, 0, TRAIN_LIMIT, preprocessing, data.class_names, source, trained=True)
    if name == "small":
        model = probed(model, data, task)
    elif name == "tiny":
        model = fit(model, data, preprocessing, TRAIN, augmentation=augmentation_for(data), bf16=True).model
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
    parity = compare_logits(logits, wanted, labels)
    assert parity.top1 is not None
    assert parity.top1_agreement is not None
    sqnr_db = math.inf if parity.sqnr_db is None else parity.sqnr_db
    return Answers(parity.top1, parity.top1_agreement, sqnr_db, parity.max_rel)


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


def measure(contest: Contest, files: dict[str, Path], folder: Path, threads: int) -> None:
    """Times all files in turns, in a fresh process, and keeps every value."""
    plan = read_model(folder / "model").plan
    request = folder / "request.json"
    request.write_text(
        json.dumps(
            {
                "files": {title: str(path) for title, path in files.items()},
                "threads": threads,
                "rounds": contest.rounds,
                "shape": [1, *plan.img_size, plan.in_chans],
            }
        )
    )
    command = [sys.executable, __file__, "--time", str(request)]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]
    (folder / f"times-{threads}.json").write_text(answer)


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


def table(contest: Contest, folder: Path, timed: dict[str, Any]) -> str:
    """Returns the table of one model at one number of threads."""
    answers = json.loads((folder / "answers.json").read_text())
    seconds: dict[str, Sequence[float]] = timed["seconds"]
    base = seconds["litert-torch, fp32"]
    lines = [
        "",
        f"{contest.title}, {timed['threads']} thread(s), {contest.test_images} test images:",
        "",
        "| file | engine | median [95 % CI] | of litert-torch's fp32 | top-1 | agrees | SQNR | max abs of logits |",
        "|---|---|---|---|---|---|---|---|",
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
            f"{answer['sqnr_db']:.1f} dB",
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
