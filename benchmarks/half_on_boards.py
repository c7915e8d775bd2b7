"""What float16 arithmetic saves and costs on the emulated Cortex-A76 of a Raspberry Pi 5.

    python benchmarks/half_on_boards.py [--images 1000] [--out FOLDER] [--report]

The model is ViT-Tiny (192 wide, 12 blocks, 3 heads) at 32 px with patches of 16, trained on Fashion-MNIST. Its ``fp32``
and ``fp16`` files run on the emulated board, which counts the instructions of one image, and answers test images from
the ``fp16`` file. The float32 file answers them on this machine. Counts are exact and no times. Answers are kept in
parts as they come, so that the benchmark goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.data.augment import augmentation_for
from compress.data.load import load_data
from compress.model.folder import Task, read_model, read_task, save_model
from compress.model.load import ModelSpec, load_model, weights_metadata
from compress.model.vit import SlicedViT
from compress.recipe import TrainRecipe
from compress.train.fit import fit
from device_bench import format
from device_bench.targets.emulated import count_instructions, emulated_board
from device_bench.targets.emulated.board import Board
from device_bench.targets.remote.bundle import bundle
from export.compare import compare_logits
from export.exporter import export_model
from export.job import images_of
from export.settings import ExportSettings
from runtime import Preprocessing, Progress, load, read_artifact, silent

DATA, TRAIN_LIMIT = "fashion-mnist", 12_000
SPEC = ModelSpec("vit_tiny_patch16_224", img_size=32, in_chans=1)
TRAIN = TrainRecipe(epochs=8, batch_size=64, lr=1e-3, head_lr=1e-3, warmup=0.1, patience=8, clip_norm=1.0)
KINDS = ("fp32", "fp16")
CORES = ("pi4", "pi5")
VERIFY_IMAGES, PART = 200, 100
_FOLDER = "home/pi/half"
_ANSWER = """
import sys
from pathlib import Path
import numpy as np
from runtime import open_engine
engine = open_engine(Path(sys.argv[1]))
np.save(sys.argv[3], np.concatenate([engine.run(image[None]) for image in np.load(sys.argv[2])]))
"""


def main() -> None:
    """Measures what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help="test images that the board answers")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/half-on-boards"))
    parser.add_argument("--report", action="store_true", help="print what was measured and do nothing else")
    options = parser.parse_args()
    if not options.report:
        model, task = trained(options.out / "model", told)
        files = exported(model, task, options.out)
        count(files, options.out)
        answer(files, task, options.images, options.out)
    print(table(options.out))


def told(stage: str, done: int, total: int, note: str = "") -> None:
    """Prints progress."""
    if done == total or stage == "board":
        print(stage, done, total, note, file=sys.stderr, flush=True)


def trained(folder: Path, progress: Progress = silent) -> tuple[SlicedViT, Task]:
    """Returns the model, and trains it where it is not there."""
    if (folder / "model.safetensors").is_file():
        return read_model(folder), read_task(folder)
    data = load_data(DATA, seed=0, train_limit=TRAIN_LIMIT)
    fresh, stats = load_model(SPEC, data.num_classes, 0), weights_metadata(SPEC)
    preprocessing = Preprocessing(*fresh.plan.img_size, SPEC.in_chans, stats.mean, stats.std, "bilinear", "stretch")
    task = Task(DATA, 0, TRAIN_LIMIT, preprocessing, data.class_names, f"timm {SPEC.name}, fresh weights", trained=True)
    model = fit(
        fresh, data, preprocessing, TRAIN, augmentation=augmentation_for(data), bf16=True, progress=progress
    ).model
    save_model(folder, model, task)
    return model, task


def exported(model: SlicedViT, task: Task, folder: Path) -> dict[str, Path]:
    """Returns the files, and exports those that are not there."""
    data = load_data(DATA, seed=0, train_limit=TRAIN_LIMIT)
    export_model(model, task, data, folder / "files", "tiny", ExportSettings(KINDS, verify_images=VERIFY_IMAGES), told)
    return {kind: folder / "files" / f"tiny.{kind}.tflite" for kind in KINDS}


def count(files: dict[str, Path], folder: Path) -> None:
    """Counts the instructions of the files that were not counted yet, on both cores."""
    for core in CORES:
        for kind, path in files.items():
            kept = folder / f"{kind}.{core}.json"
            if not kept.is_file():
                found = count_instructions(core, [path], 1)[path.name]  # type: ignore[arg-type]
                kept.write_text(json.dumps({"core": found.core, "all": found.of("all")}))


def answer(files: dict[str, Path], task: Task, images: int, folder: Path) -> None:
    """Answers test images here in float32 and on the board in float16, a part after another."""
    data = load_data(DATA, seed=0, train_limit=TRAIN_LIMIT)
    chosen = np.asarray(data.test[:images])
    done = sum(len(part["labels"]) for part in parts_in(folder))
    if done >= len(chosen):
        return
    here = load(files["fp32"])
    with emulated_board("pi5") as board:
        prepare(board, files["fp16"])
        for start in range(done, len(chosen), PART):
            indices = chosen[start : start + PART]
            inputs = images_of(data, indices, task)
            there = on_board(board, inputs)
            np.savez(
                folder / f"part-{start:05}.npz", single=here.logits(inputs), half=there, labels=data.labels[indices]
            )
            told("board", start + len(indices), len(chosen), "images")


def prepare(board: Board, file: Path) -> None:
    """Copies a file and our packages to the board."""
    there = board.root / _FOLDER
    there.mkdir(exist_ok=True)
    (there / "packages.zip").write_bytes(bundle())
    (there / "answer.py").write_text(_ANSWER)
    shutil.copyfile(file, there / "model.tflite")


def on_board(board: Board, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Returns the board's answers."""
    np.save(board.root / _FOLDER / "inputs.npy", inputs)
    line = "PYTHONPATH=packages.zip python3.11 answer.py model.tflite inputs.npy outputs.npy"
    done = board.run(f"cd /{_FOLDER} && {line}", timeout_s=3600)
    if done.returncode:
        raise SystemExit(done.stderr.decode(errors="replace"))
    found: npt.NDArray[np.float32] = np.load(board.root / _FOLDER / "outputs.npy")
    return found


def parts_in(folder: Path) -> list[Any]:
    """Returns the answers that are there, part after part."""
    return [np.load(path) for path in sorted(folder.glob("part-*.npz"))]


def read(path: Path) -> Any:
    """Returns what a JSON file holds, or an empty object where there is none."""
    return json.loads(path.read_text()) if path.is_file() else {}


def table(folder: Path) -> str:
    """Returns the figures as a Markdown table."""
    lines = [
        "| core, emulated | float32 file | float16 file | ratio |",
        "|---|---:|---:|---:|",
    ]
    for core in CORES:
        single, half = (read(folder / f"{kind}.{core}.json").get("all") for kind in KINDS)
        if single and half:
            name = read(folder / f"fp16.{core}.json")["core"]
            lines.append(f"| {name} | {single / 1e6:.2f} M | {half / 1e6:.2f} M | {half / single:.3f} |")
    parts = parts_in(folder)
    if parts:
        single, half, labels = (np.concatenate([part[key] for part in parts]) for key in ("single", "half", "labels"))
        found = compare_logits(half, single, labels)
        lines += [
            "",
            f"The emulated Cortex-A76 answers {found.images} test images in float16 as float32 does on "
            f"{format.percent(found.top1_agreement)} of them, with an SQNR of {format.decibels(found.sqnr_db)}: top-1 "
            f"{format.percent(found.top1)}, in float32 {format.percent(found.reference_top1)}.",
        ]
    file = folder / "files" / "tiny.fp16.tflite"
    half_arithmetic = read_artifact(file).half if file.is_file() else None
    if half_arithmetic is not None and half_arithmetic.sqnr_db is not None:
        lines.append(f"The simulation of the export gave an SQNR of {format.decibels(half_arithmetic.sqnr_db)}.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
