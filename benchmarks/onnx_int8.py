"""What this project's ONNX files gain over torch's export and ONNX Runtime's own quantiser.

    python benchmarks/compress_quality.py --seeds 0 --methods ""     # trains the model whose answers are compared
    python benchmarks/onnx_int8.py [--model vit_small_patch16_224] [--seconds 10] [--threads 1]

Times the files of a model with fresh weights, in turns, in a fresh process: time does not depend on weights. How often
int8 answers as float32 does is counted on the test images of a trained model, one image at a time, and 32 at a time
since a range that is taken as the values come is taken of a whole batch. Both static quantisers see the same held-out
images. Prints a Markdown table; ratios are of medians within one interleaved run, with 95 % bootstrap intervals.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static

from compress import ModelSpec, SlicedViT, load_data, load_model, plain_batches, read_model, read_task
from device_bench import Sampling, bench_apart, format, median_interval, ratio_of_medians
from export import vit_graph, write_onnx
from export.calibrate import observe
from export.graph import Graph
from export.integer import Mode, Ranges, quantise
from export.onnx_writer import onnx_bytes
from runtime import open_engine

Images = npt.NDArray[np.float32]
TORCH = "torch's export, fp32"


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Hands images, ``(N, C, H, W)``, to ONNX Runtime's quantiser."""

    def __init__(self, images: Images) -> None:
        self.left = iter([{"image": image[None]} for image in images])

    def get_next(self) -> dict[str, Images] | None:
        """Returns the next image, or None."""
        return next(self.left, None)


def main() -> None:
    """Writes, checks, times and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_small_patch16_224", help="whose files are timed")
    parser.add_argument("--trained", type=Path, default=Path("runs/benchmarks/compress-quality/seed-0/baseline"))
    parser.add_argument("--images", type=int, default=2000, help="test images on which answers are compared")
    parser.add_argument("--seconds", type=float, default=10.0, help="measuring time per file")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        timed, trained = Path(scratch) / "timed", Path(scratch) / "trained"
        model = load_model(ModelSpec(options.model), num_classes=100)
        shape = (4, model.plan.in_chans, *model.plan.img_size)
        files = write(model, np.random.default_rng(0).standard_normal(shape, np.float32), timed)
        sampling = Sampling(seconds=options.seconds, min_samples=20)
        result = bench_apart(list(files.values()), threads=options.threads, sampling=sampling)
        agreements = agreement(options.trained, trained, options.images)
    print(f"{options.model}, ONNX Runtime, {options.threads} thread(s), {result.before.cpu_model}; ", end="")
    print(f"answers compared on {read_task(options.trained).data}\n")
    print("| file | size | median [95 % CI] | torch's export / this | top-1 | agrees | agrees, batches of 32 |")
    print("|---|---|---|---|---|---|---|")
    values = {name: measured.values for name, path in files.items() if (measured := result.of(path.name).latency)}
    for name, path in files.items():
        time, ratio = median_interval(values[name]), ratio_of_medians(values[TORCH], values[name])
        cells = [name, format.size(result.of(path.name).size_bytes), format.seconds_interval(time)]
        cells.append(format.times_interval(ratio) if name != TORCH else "1")
        print(f"| {' | '.join([*cells, *(format.percent(share) for share in agreements[name])])} |")


def write(model: SlicedViT, calibration: Images, folder: Path) -> dict[str, Path]:
    """Writes every file of ``model``; ``calibration`` is ``(N, C, H, W)``."""
    folder.mkdir()
    plain = folder / "torch.onnx"
    write_onnx(model, plain)
    proto = onnx.load(plain)
    # the quantisers' shape inference stumbles over what torch noted of the shapes
    del proto.graph.value_info[:]
    bare = folder / "bare.onnx"
    onnx.save(proto, bare)
    graph = vit_graph(model)
    files = {TORCH: plain}
    ways: Mapping[str, Callable[[Path], Any]] = {
        "fp32": lambda path: path.write_bytes(onnx_bytes(graph)),
        "fp16 weights": lambda path: path.write_bytes(onnx_bytes(graph, half=True)),
        "quantize_dynamic": lambda path: quantize_dynamic(bare, path),
        "quantize_dynamic, per channel": lambda path: quantize_dynamic(
            bare, path, per_channel=True, weight_type=QuantType.QInt8
        ),
        "quantize_static, per channel": lambda path: static(bare, path, calibration, None),
        "quantize_static, Linears": lambda path: static(bare, path, calibration, ["MatMul", "Gemm"]),
        "int8, dynamic": lambda path: path.write_bytes(onnx_bytes(integers(graph, "dynamic", calibration))),
        "int8, static": lambda path: path.write_bytes(onnx_bytes(integers(graph, "integer", calibration))),
    }
    for number, (name, way) in enumerate(ways.items()):
        files[name] = folder / f"{number}.onnx"
        way(files[name])
    return files


def static(source: Path, path: Path, images: Images, kinds: list[str] | None) -> None:
    """Quantises with ONNX Runtime's QDQ quantiser in the types that are fast on x86: uint8 by int8."""
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(source, path, Reader(images), per_channel=True, op_types_to_quantize=kinds, **types)


def integers(graph: Graph, mode: Mode, images: Images) -> Graph:
    """Makes every Linear of a graph one of integers."""
    seen = observe(graph, np.ascontiguousarray(images.transpose(0, 2, 3, 1))) if mode == "integer" else {}
    return quantise(graph, {op.output: mode for op in graph.ops if op.kind == "fully_connected"}, seen, Ranges())


def agreement(trained: Path, folder: Path, count: int) -> dict[str, tuple[float, float, float]]:
    """Returns, for each file of a trained model, its top-1, and the shares of images it answers as torch's file does.

    The second share is of images that go through the file 32 at a time.
    """
    model, task = read_model(trained), read_task(trained)
    data = load_data(task.data)
    chosen = np.random.default_rng(0).permutation(data.held_out)[:64]
    files = write(model, gathered(plain_batches(data, np.sort(chosen), task.preprocessing)), folder)
    indices = data.test[:count]
    images = gathered(plain_batches(data, indices, task.preprocessing))
    wanted = answers(files[TORCH], images, 1)
    shares = {}
    for name, path in files.items():
        got = answers(path, images, 1)
        together = answers(path, images, 32)
        right = float((got == data.labels[indices]).mean())
        shares[name] = (right, float((got == wanted).mean()), float((together == wanted).mean()))
    return shares


def gathered(batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Images:
    """Returns all images of some batches, ``(N, C, H, W)``."""
    return np.concatenate([images.numpy() for images, _ in batches])


def answers(path: Path, images: Images, batch: int) -> npt.NDArray[np.int64]:
    """Returns the top class of every image."""
    engine = open_engine(path)
    parts = [engine.run(images[start : start + batch]).argmax(1) for start in range(0, len(images), batch)]
    return np.concatenate(parts)


if __name__ == "__main__":
    main()
