"""How a file answers on LiteRT's GPU path, over a software GPU, beside the CPU.

    python benchmarks/gpu_parity.py FILE.tflite… [--images RUN/bench/test-images.npz] [--count 64]

The GPU path (ML Drift over WebGPU) computes on SwiftShader, the Vulkan driver Chromium carries for machines without a
GPU; it is fetched from Debian's package once. It says whether the delegate computes a file rightly, and nothing of
time. It computes in float32: what fp16 on a phone's GPU does to a file is another question.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from device_bench.metrics.accuracy import read_test_images
from device_bench.targets.software_gpu.driver import software_vulkan
from device_bench.targets.software_gpu.run import gpu_parity
from runtime import PocketVitError, load, open_engine, preprocess


def main() -> None:
    """Prints a table of the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help=".tflite files")
    parser.add_argument("--images", type=Path, help="labelled pictures of a run; the files then need their manifests")
    parser.add_argument("--count", type=int, default=64, help="images at most")
    options = parser.parse_args()
    try:
        vulkan = software_vulkan()
        print(f"Driver: SwiftShader of {vulkan.package.file}\n")
        print("| file | wholly on the GPU | driver | images | cosine, min | cosine, mean | max abs | of max | top-1 |")
        print("|---|---|---|---:|---:|---:|---:|---:|---:|")
        for path in options.files:
            images = images_for(path, options.images, options.count)
            found = gpu_parity(path, images, vulkan)
            cosines = found.cosines
            print(
                f"| {path.name} | {'yes' if found.whole else 'no'} | {', '.join(found.drivers)} | {len(images)} "
                f"| {cosines.min():.6f} | {cosines.mean():.6f} | {found.max_abs:.2g} | {found.max_rel:.2g} "
                f"| {found.top1_agreement:.1%} |",
                flush=True,
            )
    except PocketVitError as error:
        raise SystemExit(f"Error: {error}") from None


def images_for(path: Path, pictures: Path | None, count: int) -> npt.NDArray[np.float32]:
    """Returns the first pictures of a run's test images, as the file wants them, or as many random ones."""
    if pictures is not None:
        preprocessing = load(path).artifact.preprocessing
        return np.stack([preprocess(one, preprocessing) for one in read_test_images(pictures).pictures[:count]])
    shape = open_engine(path).input_shape[1:]
    return np.random.default_rng(0).standard_normal((count, *shape), dtype=np.float32)


if __name__ == "__main__":
    main()
